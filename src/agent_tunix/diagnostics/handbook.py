"""The page about the health rules, from the docstrings of their functions, so that it says what the code does."""

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

from agent_tunix.diagnostics.rules import RULES

INTRODUCTION = """# Health rules

Generated from the rules themselves (`agent_tunix.diagnostics.rules`); a test fails when it is stale.

A rule reads the series of a run and says nothing, or gives a finding: a level (info, warn or error), the steps, the
numbers with how sure they are, and a remedy. Where one illness shows in several places, its cause is told and its
symptoms are left out. While a run trains, the rules are asked every fortieth of it, at least five steps apart, and a
rule counts once two checks in a row agree; the level is logged as `health/RULE`, told in the terminal, and sent to
`diagnostics.callback` and `diagnostics.webhook` if they are set. `training.stop_on=error` saves and stops.

```python
from agent_tunix.diagnostics import diagnose

flat = [20, 22, 25, 23, 28, 24, 26, 25, 27, 24, 26]
assert [finding.rule for finding in diagnose({"reward": flat}, bounds=(0, 200))] == ["stagnation"]
```

Thresholds are arguments of the rules; `diagnose(..., rules=...)` takes other ones:

```python
from functools import partial

from agent_tunix.diagnostics.rules import RULES, truncation

strict = [partial(truncation, share=0.1) if rule is truncation else rule for rule in RULES]
diagnose({"reward": flat, "completions/clipped_ratio": [0.15] * 11}, rules=strict)
```

How well they do on simulated runs is in [the benchmark](../results/diagnostics.json), and what they say about real
ones in [sick runs](sick_runs.md).
"""


def page() -> str:
    """The whole page, as Markdown."""
    return "\n".join([INTRODUCTION, *(line for rule in RULES for line in _section(rule))])


def _section(rule: Callable[..., Any]) -> Iterator[str]:
    words, _, arguments = inspect.cleandoc(rule.__doc__ or "").partition("\n\nArgs:\n")
    yield f"## {rule.__name__}\n"  # type: ignore[attr-defined]
    yield words + "\n"
    defaults = {name: parameter.default for name, parameter in inspect.signature(rule).parameters.items()}
    rows = [(name, defaults[name], meaning) for name, meaning in _arguments(arguments) if name != "signals"]
    if rows:
        yield "| threshold | default | meaning |\n|---|---|---|"
        yield from (f"| `{name}` | {default} | {meaning} |" for name, default, meaning in rows)
        yield ""


def _arguments(text: str) -> Iterator[tuple[str, str]]:
    """Names and meanings of a docstring's arguments, each on one line."""
    for entry in re.split(r"\n(?=  \w+: )", "\n" + text.partition("\n\n")[0]):
        name, colon, meaning = entry.strip().partition(": ")
        if colon:
            yield name, " ".join(meaning.split()).replace("|", "\\|")
