"""A process for programs that nobody trusts, and the tests that judge them from outside."""
