"""What is written of papers: results and pictures, the pages of the documentation, and its bibliography.

`python -m agent_tunix.papers._pages` writes the pages again from the results that are kept in `docs/papers`.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agent_tunix.papers import _catalogue
from agent_tunix.papers._catalogue import PLANNED, Entry
from agent_tunix.papers._frame import SECTIONS, Method, find, names
from agent_tunix.papers._running import Result, Spread, one, places, thinned, to_json
from agent_tunix.reports import comparison_figures

MARK = "% Papers below are written by agent_tunix.papers._pages from their files."


def save(method: Method, result: Result, folder: Path) -> None:
    """Writes the results of a paper and their picture.

    Args:
      method: The paper.
      result: Of `run`.
      folder: Gets `SLUG.json` and `SLUG.svg`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    document = json.dumps(to_json(result), indent=1, ensure_ascii=False)
    # A line for each list of numbers; a line for each number would make files of thousands of lines.
    document = re.sub(r"\[\s+([^\[\]{}]*?)\s+\]", lambda found: "[" + " ".join(found[1].split()) + "]", document)
    (folder / f"{result.slug}.json").write_text(document + "\n", encoding="utf-8")
    curves = {words: _curve([seed[name] for seed in result.measured]) for name, words in method.paper.curves.items()}
    pairs = [
        comparison_figures.Pair(
            comparison.what,
            row.names,
            np.array([[float(seed[name]) for seed in result.measured] for name in comparison[1:]]),
        )
        for comparison, row in zip(method.paper.comparisons, result.rows, strict=True)
    ]
    comparison_figures.draw(folder / f"{result.slug}.svg", method.slug, pairs, curves, method.paper.axis)


def _curve(seeds: Sequence[Any]) -> comparison_figures.Curve:
    return comparison_figures.Curve(places(len(seeds[0])), np.stack([thinned(seed) for seed in seeds]))


def text(method: Method) -> str:
    """A paper for the terminal."""
    paper, entry = method.paper, _catalogue.status(method.slug)
    numbers = ", ".join(f"{name}={value}" for name, value in method.numbers.items())
    lines = [
        method.headline,
        "",
        f"{paper.title}. {cited(paper.authors, paper.year, paper.arxiv)}",
        f"status: {entry}; formulas held against {paper.checked}",
    ]
    lines += [f"numbers: {numbers}"] if numbers else []
    return "\n".join(lines + [f"\n{name}: {method.sections[name]}" for name in SECTIONS if name in method.sections])


def cited(authors: str, year: int, arxiv: str) -> str:
    """Authors, year and number in one line."""
    return ", ".join(part for part in (authors, str(year), f"arXiv:{arxiv}" if arxiv else "") if part)


def keys(own: str, entries: Sequence[Entry]) -> dict[str, str]:
    """The key of each paper in the bibliography; what is in there by hand already keeps its own."""
    by_number = {
        number: found for found, number in re.findall(r"@\w+\{([^,]+),(?:(?!\n@).)*?arxiv.org/abs/([\d.]+)", own, re.S)
    }
    return {entry.slug: by_number.get(entry.arxiv, f"paper_{entry.slug}") for entry in entries}


def page(method: Method, key: str) -> str:
    """The page of one paper, in Markdown; `key` is its entry in the bibliography."""
    paper, kept = method.paper, _catalogue.kept(method.slug)
    lines = [
        f"# {method.slug}",
        "",
        method.headline,
        "",
        f"*{paper.title}*, {cited(paper.authors, paper.year, paper.arxiv)} ({{cite}}`{key}`). "
        f"Formulas were held against {paper.checked}; status: **{_catalogue.status(method.slug)}**.",
        "",
    ]
    for name in SECTIONS:
        lines += [f"## {name}", "", _markdown(method.sections.get(name, "")), ""]
    if kept is not None:
        lines += _results(method, kept)
    lines += _remedies(
        {rule: methods[method.slug] for rule, methods in _catalogue.TREATS.items() if method.slug in methods}
    )
    lines += [
        "## Code",
        "",
        f"```{{literalinclude}} ../../src/agent_tunix/papers/{method.slug}.py\n:language: python\n```",
        "",
    ]
    return "\n".join(lines)


def _results(method: Method, kept: Mapping[str, Any]) -> list[str]:
    lines = [
        "## Results",
        "",
        f"`agent-tunix papers run {method.slug} --first-seed {kept['seeds'][0]} --seeds {len(kept['seeds'])}` took "
        f"{kept['seconds']:.0f} s on 2 cores ({kept['date']}). No size of the toy was chosen with these seeds.",
        "",
    ]
    lines += ["| | baseline | method | difference |", "|---|---|---|---|"]
    for row in kept["comparisons"]:
        baseline, ours, difference = (one(_spread(row[name])) for name in ("baseline", "method", "difference"))
        lines.append(f"| {row['what']} | {row['names'][0]} {baseline} | {row['names'][1]} {ours} | {difference} |")
    lines += ["", "Means over seeds with 95 % confidence intervals; differences are of pairs with the same seed.", ""]
    lines += ["| check | measured | |", "|---|---|---|"]
    lines += [
        f"| {check['words']} | {one(_spread(check))} | {'passed' if check['passed'] else '**failed**'} |"
        for check in kept["checks"]
    ]
    return [
        *lines,
        "",
        f"```{{image}} {method.slug}.svg\n:alt: {method.slug}: the method beside its baseline, by seeds\n```",
        "",
    ]


def _spread(values: Mapping[str, Any]) -> Spread:
    return Spread(*(float("nan") if values[name] is None else values[name] for name in Spread._fields))


def _remedies(treats: Mapping[str, str]) -> list[str]:
    if not treats:
        return []
    return [
        "## Treats",
        "",
        *(f"- [{rule}](../guides/health_rules.md#{rule}): {why}" for rule, why in treats.items()),
        "",
    ]


def _markdown(section: str) -> str:
    """A section of a docstring: its roles of Sphinx as MyST has them."""
    return re.sub(r":(math|cite):`", r"{\1}`", section)


def index(entries: Sequence[Entry]) -> str:
    """The page that lists all papers."""
    built = [entry for entry in entries if entry.status != PLANNED]
    later = [entry for entry in entries if entry.status == PLANNED]
    counts = {
        status: sum(entry.status == status for entry in built)
        for status in sorted({entry.status for entry in built}, reverse=True)
    }
    lines = [
        "# Papers",
        "",
        "Published reward-design methods, each a file that can be read in a few minutes, run and trained with. "
        "`agent-tunix papers list`, `show SLUG` and `run SLUG` are the commands; `python run_training.py paper=SLUG` "
        "trains a policy. A toy shows a mechanism and nothing about language models of any size; what the papers say "
        "of those is theirs to show.",
        "",
        "; ".join(f"{count} {status}" for status, count in counts.items()) + f"; {len(later)} planned.",
        "",
        "| paper | published as | formulas held against | status |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| [{entry.slug}](papers/{entry.slug}.md) | {entry.title}, {cited(entry.authors, entry.year, entry.arxiv)} | "
        f"{find(entry.slug).paper.checked} | {entry.status} |"
        for entry in built
    ]
    lines += [
        "",
        "## Planned",
        "",
        "Methods of small environments, reward search, offline data and theory; their place is kept.",
        "",
    ]
    lines += ["| paper | published as |", "|---|---|"]
    lines += [f"| {entry.slug} | {entry.title}, {cited(entry.authors, entry.year, entry.arxiv)} |" for entry in later]
    slugs = "\n".join(f"papers/{entry.slug}" for entry in built)
    return "\n".join([*lines, "", f"```{{toctree}}\n:hidden:\n\n{slugs}\n```", ""])


def bibliography(own: str, entries: Sequence[Entry]) -> str:
    """The bibliography's own entries, and those of the index that it does not have."""
    found = keys(own, entries)
    new = [_bibtex(found[entry.slug], entry) for entry in entries if f"{{{found[entry.slug]}," not in own]
    return "\n".join([own.rstrip(), "", MARK, *new, ""])


def _bibtex(key: str, entry: Entry) -> str:
    people = " and ".join(re.split(r", and |, | and ", entry.authors))
    where = (
        f",\n  journal = {{arXiv:{entry.arxiv}}}, url = {{https://arxiv.org/abs/{entry.arxiv}}}" if entry.arxiv else ""
    )
    first = f"@misc{{{key},\n  author = {{{people}}},\n"
    return f"{first}  title = {{{{{entry.title}}}}}, year = {{{entry.year}}}{where}\n}}"


def pages(docs: Path) -> dict[Path, str]:
    """All files that are written from papers and their results, by path below the folder of the documentation."""
    entries = _catalogue.entries()
    own = (docs / "references.bib").read_text(encoding="utf-8").partition(MARK)[0]
    found = keys(own, entries)
    single = {Path("papers") / f"{slug}.md": page(find(slug), found[slug]) for slug in names()}
    return single | {Path("papers.md"): index(entries), Path("references.bib"): bibliography(own, entries)}


def main() -> None:
    """Writes them."""
    docs = _catalogue.folder().parent
    for path, words in pages(docs).items():
        (docs / path).write_text(words, encoding="utf-8")


if __name__ == "__main__":
    main()
