"""Where the calls of graders run: inline, threads, event loop, processes that can be killed."""
