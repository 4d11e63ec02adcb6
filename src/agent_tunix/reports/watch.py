"""A live view of a run that another process is training, in the terminal."""

import bisect
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from agent_tunix.diagnostics.findings import Finding, severity, worst
from agent_tunix.reports._following import Column, Following, News
from agent_tunix.reports._words import number
from agent_tunix.sketch import sparkline
from agent_tunix.text import one_line

REWARD, ACCURACY, PART = "reward/mean", "eval/accuracy", "reward/part/"
LINE_EVERY = 10
SHOWN_FINDINGS = 3
SILENT_S = 60.0
"""A run that writes nothing for so long, and for longer than twenty of its steps, may be dead."""

CELLS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("KL", "policy/kl", ("kl_blowup",)),
    ("entropy", "policy/entropy", ("entropy_collapse", "entropy_explosion")),
    ("length", "completion/length", ("length_drift",)),
    ("truncated", "completion/truncated_fraction", ("truncation",)),
    ("flat groups", "group/flat_fraction", ("variance_collapse", "saturated_high", "saturated_low")),
    ("gradient", "policy/gradient_norm", ("grad_spike", "non_finite")),
)
"""Label, metric, and the rules whose level colours it."""

# The sign says the same as the colour, for eyes and terminals that see none.
MARKS = {"info": ("●", "green"), "warn": ("▲", "yellow"), "error": ("✖", "bold red")}
ARROWS = {1: "↑", 0: "→", -1: "↓"}


def watch(
    path: Path | str,
    *,
    console: Console,
    refresh_s: float = 2.0,
    once: bool = False,
    sleep: Callable[[float], None] = time.sleep,
) -> list[Finding]:
    """Shows a run until it has ended, then its findings as a table.

    In a terminal it is one panel that is drawn again and again; elsewhere a line every ten steps, without escape codes.
    It reads what is new since the last look, waits for a run that has no rows yet, and starts over when the run is
    resumed from an earlier step. Ctrl-C ends it, with the table.

    Args:
      path: The run folder.
      console: Where to write.
      refresh_s: Seconds between two looks.
      once: Look once and return.
      sleep: How to wait.

    Returns:
      The findings of the last look.

    Raises:
      RunError: If the folder is no run, or its metrics are damaged.
    """
    following = Following(Path(path))
    follow = _draw if console.is_terminal else _write
    with contextlib.suppress(KeyboardInterrupt):  # the way to leave; the run goes on
        follow(following, console, once, lambda: sleep(refresh_s))
    following.settle()
    console.print(findings_table(following.findings), highlight=False)
    return following.findings


def _draw(following: Following, console: Console, once: bool, wait: Callable[[], None]) -> None:
    following.poll()
    if once:
        console.print(panel(following, width=console.width))
        return
    with Live(console=console, auto_refresh=False, vertical_overflow="ellipsis") as live:
        while True:
            live.update(panel(following, width=console.width), refresh=True)
            if following.finished:
                return
            wait()
            following.poll()


def _write(following: Following, console: Console, once: bool, wait: Callable[[], None]) -> None:
    said: set[str] = set()

    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    while True:
        news = following.poll()
        if news.restarted:
            say("the run was resumed from an earlier step")
        lines = _lines(following, news, once)
        # After a resume every row comes again, and only those that differ are said again.
        for line in (line for key, line in lines.items() if key not in said):
            say(line)
        said.update(lines)
        if once or following.finished:
            return
        wait()


def _lines(following: Following, news: News, once: bool) -> dict[str, str]:
    """What there is to say: every tenth step (with `once`, the last one), and the findings, by what makes them new."""
    if not following.columns:
        return {"": _waiting(following)}
    trained = [row for row in news.rows if row.get("kind") != "eval"]
    due = trained[-1:] if once else [row for row in trained if row["step"] % LINE_EVERY == 0]
    steps = [step_line(row, following) for row in due]
    return dict(zip(steps, steps, strict=True)) | {f"{f.level} {f.rule}": f.line() for f in following.findings}


def _waiting(following: Following) -> str:
    return f"waiting for the first rows of {one_line(following.path)}"


def step_line(row: Mapping[str, Any], following: Following) -> str:
    """A step as one line of text."""
    step = row["step"]
    shown = {"reward": row.get(REWARD), "accuracy": _at(following, ACCURACY, step)}
    shown |= {label: row.get(name) for label, name, _ in CELLS}
    shown["tokens/s"] = _at(following, "throughput/tokens_per_s", step)
    numbers = " ".join(f"{label} {number(value)}" for label, value in shown.items() if value is not None)
    planned = f"/{following.steps}" if following.steps else ""
    return f"step {step}{planned} {numbers}"


def _at(following: Following, name: str, step: int) -> float | None:
    """The last value logged up to a step."""
    steps, values = following.columns.get(name, ([], []))
    index = bisect.bisect_right(steps, step)
    return values[index - 1] if index else None


def panel(following: Following, width: int = 100) -> Panel:
    """The view of a run at this moment."""
    if not following.columns:
        return Panel(Text(_waiting(following)), title=Text(one_line(following.path.name)), title_align="left")
    wide = max(12, min(60, width - 62))
    parts: list[RenderableType] = [_curves(following, wide), Text(), _cells(following), Text(), _last(following)]
    border = MARKS[_level(following.findings)][1] if following.findings else "dim"
    return Panel(
        Group(*parts), title=_title(following), subtitle=_pace(following), title_align="left", border_style=border
    )


def _title(following: Following) -> Text:
    step, steps = following.step, following.steps
    share = f" ({step / steps:.0%})" if steps else ""
    planned = f"/{steps}" if steps else ""
    return Text(f"{one_line(following.path.name)}  step {step}{planned}{share}", style="bold")


def _pace(following: Following) -> Text:
    if following.finished:
        return Text("finished")
    _, paces = following.columns.get("time/step_s", ([], []))
    silent = following.silent_s()
    if silent > max(SILENT_S, 20 * paces[-1] if paces else SILENT_S):
        return Text(f"no new row for {duration(silent)}", style="yellow")
    speed, left = _at(following, "throughput/tokens_per_s", following.step), following.seconds_left()
    known = [f"{number(speed)} tokens/s"] if speed is not None else []
    return Text("  ".join([*known, f"{duration(left)} left"] if left is not None else known))


def _curves(following: Following, width: int) -> Table:
    """Reward, held-out accuracy and components: curve, last value, where it is going and where it came from."""
    table = Table.grid(padding=(0, 1))
    width = min(width, len(following.columns.get("reward/mean", ([], []))[0]) or 1)
    for label, name in _shown(following.columns).items():
        steps, values = following.columns[name]
        way = trend(values)
        curve = Text(sparkline(_over_steps(steps, values, following.step, width), width), no_wrap=True)
        curve.stylize("cyan" if name in (REWARD, ACCURACY) else "blue")
        arrow = Text(ARROWS[way], style="yellow" if way < 0 else "")
        last = Text(number(values[-1]), style="bold")
        table.add_row(Text(one_line(label)), curve, last, arrow, _note(following, name))
    return table


def _shown(columns: Mapping[str, Column]) -> dict[str, str]:
    """Label and name of the curves: reward, held-out accuracy, components."""
    # The mean of a component is logged under its path, which may have several words; its deviation one word below.
    stems = (name.removesuffix("/std") for name in columns if name.startswith(PART) and name.endswith("/std"))
    rows = {"reward": REWARD, "held-out": ACCURACY} | {f"  {name.removeprefix(PART)}": name for name in stems}
    return {label: name for label, name in rows.items() if name in columns}


def _over_steps(steps: Sequence[int], values: Sequence[float], last: int, width: int) -> np.ndarray:
    """A series as the width of the view: every step counts the same, also where values are far apart."""
    if len(values) >= width:
        return np.asarray(values)
    places = np.linspace(min(steps[0], last), last, width)
    return np.asarray(values)[np.maximum(np.searchsorted(steps, places, side="right") - 1, 0)]


def _note(following: Following, name: str) -> Text:
    steps, values = following.columns[name]
    text = f"from {number(values[0])}"
    if name == ACCURACY:
        text += f", at step {steps[-1]}"
    bounds = following.bounds.get(name) if isinstance(following.bounds, Mapping) else following.bounds
    if name == REWARD and bounds is not None:
        text += f", bounds {number(bounds[0])} to {number(bounds[1])}"
    return Text(text, style="dim", no_wrap=True, overflow="ellipsis")


def _cells(following: Following) -> Columns:
    """Last values, in the colours of the rules that are about them."""
    cells = []
    for label, name, rules in CELLS:
        _, values = following.columns.get(name, ([], []))
        if values:
            mark, style = MARKS[_level([finding for finding in following.findings if finding.rule in rules])]
            cells.append(Text(f"{mark} {label} {number(values[-1])}", style=style))
    return Columns(cells, padding=(0, 3))


def _level(findings: Sequence[Finding]) -> str:
    found = worst(findings)
    return "info" if found == "healthy" else found


def _last(following: Following) -> Text:
    """The findings that began last."""
    if not following.findings:
        return Text("no findings", style="dim")
    recent = sorted(following.findings, key=lambda finding: (finding.steps[0], severity(finding)))[-SHOWN_FINDINGS:]
    text = Text()
    for index, finding in enumerate(recent):
        mark, style = MARKS[finding.level]
        text.append("\n" if index else "").append(f"{mark} {one_line(finding.rule)} ", style=style)
        text.append(f"since step {finding.steps[0]}: {one_line(finding.message)}")
    return text


def findings_table(findings: Sequence[Finding]) -> Table | Text:
    """Findings as a table, the most serious first: rule, level, since when, evidence, remedy."""
    if not findings:
        return Text("no findings: the run looks healthy")
    table = Table(show_lines=True)
    for name, wrap in (("rule", False), ("level", False), ("since", False), ("evidence", True), ("remedy", True)):
        table.add_column(name, no_wrap=not wrap, overflow="fold")  # a link cut short leads nowhere
    for finding in sorted(findings, key=lambda finding: -severity(finding)):
        mark, style = MARKS[finding.level]
        cells = (finding.rule, f"{mark} {finding.level}", str(finding.steps[0]), finding.message, finding.remedy)
        table.add_row(*(Text(one_line(cell), style=style if place < 2 else "") for place, cell in enumerate(cells)))
    return table


def trend(values: Sequence[float]) -> int:
    """Where a series is going over its last fifth: 1 up, -1 down, 0 neither.

    The halves of the last fifth are compared. The noise of a step comes from the differences of neighbours, which a
    slope hardly touches; a difference of less than three standard errors counts as none.

    Examples:
      >>> trend([0.1] * 50 + [0.1 + 0.01 * step for step in range(20)]), trend([0.5] * 40)
      (1, 0)
    """
    finite = np.asarray(values, dtype=float)
    finite = finite[np.isfinite(finite)]
    last = finite[-max(4, len(finite) // 5) :]
    if len(last) < 4:
        return 0
    early, late = last[: len(last) // 2], last[len(last) // 2 :]
    noise = np.std(np.diff(last)) / np.sqrt(2)
    change = late.mean() - early.mean()
    least = max(3 * noise * np.sqrt(1 / len(early) + 1 / len(late)), 1e-9 * np.abs(last).max())
    return int(np.sign(change)) if abs(change) > least else 0


def duration(seconds: float) -> str:
    """Seconds as a person says them.

    Examples:
      >>> duration(8.2), duration(75), duration(7500)
      ('8 s', '1:15 min', '2:05 h')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    small, unit = (whole, "min") if whole < 3600 else (whole // 60, "h")
    return f"{small // 60}:{small % 60:02d} {unit}"
