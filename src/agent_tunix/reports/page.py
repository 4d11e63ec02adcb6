"""One HTML file that tells of a run: it works from disk, asks the network for nothing, and prints."""

import base64
import hashlib
import importlib.resources
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from agent_tunix.diagnostics.reading import Log
from agent_tunix.errors import RunError
from agent_tunix.plain import replace_file
from agent_tunix.reports._gather import Told, gather, of_log
from agent_tunix.reports._payload import payload
from agent_tunix.reports._sections import page_of
from agent_tunix.reports._words import clean, escaped
from agent_tunix.runs import REPORT, is_run

_LINK = re.compile(r"`(?P<code>[^`]+)`|(?P<address>https?://[^\s<>\"'()]+[^\s<>\"'().,;:])")


def write(runs: Sequence[Path], to: Path | None = None) -> Path:
    """Writes the report of a run, or of several side by side.

    Args:
      runs: Run folders, or logs of any kind that `agent_tunix.diagnostics.reading.read` understands.
      to: The file; by default `report.html` in the folder of a single run of ours, `NAME.report.html` beside a single
        log of somebody else, and `report.html` in the working directory for several.

    Returns:
      The file.

    Raises:
      RunError: If a run cannot be read, or the page cannot be written.
    """
    paths = [Path(run) for run in runs]
    if not paths:
        raise RunError("a report needs at least one run; give the path of a run folder or of a log")
    return _save(render(_distinct([gather(path) for path in paths])), to or _default(paths))


def write_log(log: Log, to: Path, name: str = "log") -> Path:
    """Writes the report of a log that has been read already.

    Args:
      log: Its series.
      to: The file.
      name: What the page calls it.

    Raises:
      RunError: If the page cannot be written.
    """
    return _save(render([of_log(log, name)]), to)


def _distinct(told: Sequence[Told]) -> list[Told]:
    """Runs of the same name get a number behind it."""
    seen: Counter[str] = Counter()
    out = []
    for one in told:
        seen[one.name] += 1
        out.append(replace(one, name=f"{one.name} ({seen[one.name]})") if seen[one.name] > 1 else one)
    return out


def _default(paths: Sequence[Path]) -> Path:
    if len(paths) > 1:
        return Path(REPORT)
    (path,) = paths
    return path / REPORT if is_run(path) else path.resolve().with_name(f"{path.resolve().name}.{REPORT}")


def _save(text: str, to: Path) -> Path:
    """Whole or not at all: a run rewrites its page while somebody may be reading it."""
    try:
        replace_file(to, text)
    except OSError as error:
        raise RunError(f"cannot write the report {to}: {error.strerror}; choose another place") from error
    return to


def render(told: Sequence[Told]) -> str:
    """The page of one run or several."""
    from jinja2 import Environment
    from markupsafe import Markup

    assets = importlib.resources.files("agent_tunix.reports") / "assets"
    html, css, js = ((assets / name).read_text(encoding="utf-8") for name in ("page.html", "page.css", "page.js"))
    # Every text is cleaned and escaped, wherever the template puts it; only what this package drew is marked as safe.
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=_safe)
    environment.filters["markup"] = Markup
    environment.filters["linked"] = linked
    content = page_of(told)
    return environment.from_string(html).render(
        content, css=css, js=js, policy=_policy(css, js), data=payload(told, content["sections"])
    )


def _safe(value: Any) -> Any:
    return clean(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def linked(text: str) -> Any:
    """Text for markup whose web addresses are links, and whose words between backticks are code."""
    from markupsafe import Markup

    out, end = [], 0
    for match in _LINK.finditer(text):
        address, code = escaped(match["address"] or ""), escaped(match["code"] or "")
        link = f'<a href="{address}" rel="noreferrer">{address}</a>' if address else f"<code>{code}</code>"
        out += [escaped(text[end : match.start()]), link]
        end = match.end()
    return Markup("".join([*out, escaped(text[end:])]))


def _policy(*inline: str) -> str:
    """A content security policy: only this very style sheet and script have effect, and nothing is loaded."""
    css, js = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in inline)
    return (
        f"default-src 'none'; style-src 'sha256-{css}'; script-src 'sha256-{js}'; base-uri 'none'; form-action 'none'"
    )
