"""Pages, figures and live views of runs."""

from agent_tunix.reports.page import write, write_log

__all__ = ["write", "write_log"]
