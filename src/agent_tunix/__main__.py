"""`python -m agent_tunix` is the console script."""

import sys

from agent_tunix.cli import main

if __name__ == "__main__":
    sys.exit(main())
