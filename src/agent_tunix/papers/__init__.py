"""Published reward-design methods, one small file each: what is claimed, the method in code, and what we measured.

A paper is a module of this folder whose name is its slug::

    from agent_tunix import papers

    method = papers.find("preference_as_reward")
    recipe = method.recipe(k=1.0)  # the four functions, to train with
    result = papers.run(method, seeds=range(5))  # its claim on a toy, with checks that can fail
    print(papers.table(result))

`agent-tunix papers` lists, shows and runs them; `python run_training.py paper=SLUG` trains with one. No paper imports
another, and nothing below this folder imports a paper.
"""

from agent_tunix.papers._frame import (
    Check,
    Comparison,
    Measured,
    Method,
    Paper,
    based_on,
    components,
    find,
    names,
    paper,
)
from agent_tunix.papers._running import Result, run, table, to_json

__all__ = [
    "Check",
    "Comparison",
    "Measured",
    "Method",
    "Paper",
    "Result",
    "based_on",
    "components",
    "find",
    "names",
    "paper",
    "run",
    "table",
    "to_json",
]
