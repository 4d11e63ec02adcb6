"""The command `papers`: list, show and run the published methods."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from agent_tunix.cli._command import Command, Parser, as_json
from agent_tunix.errors import ConfigError

if TYPE_CHECKING:
    from agent_tunix import papers

FAILED = 1
"""Exit code of `run` where a check fails."""


def _arguments(parser: Parser) -> None:
    parser.add_argument("action", choices=("list", "show", "run"), help="what to do")
    parser.add_argument("slugs", nargs="*", metavar="SLUG", help="of papers")
    parser.add_argument("--all", action="store_true", help="run every paper that is built")
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="how many (5)")
    parser.add_argument("--first-seed", type=int, default=0, metavar="S", help="run with seeds S to S+N-1 (0)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.add_argument("--to", metavar="DIR", type=Path, help="write SLUG.json and SLUG.svg into this folder")


def _papers(arguments: argparse.Namespace) -> int | None:
    return {"list": _list, "show": _show, "run": _run}[arguments.action](arguments)


def _list(arguments: argparse.Namespace) -> None:
    from agent_tunix.papers import _catalogue as catalogue

    entries = catalogue.entries()
    if arguments.json:
        print(as_json([entry._asdict() for entry in entries]))
        return
    width = max(len(entry.slug) for entry in entries)
    print("\n".join(f"{entry.slug:<{width}}  {entry.status:<14}  {entry.title}" for entry in entries))


def _show(arguments: argparse.Namespace) -> None:
    from agent_tunix.papers import _pages as pages

    print("\n\n".join(pages.text(method) for method in _chosen(arguments)))


def _run(arguments: argparse.Namespace) -> int:
    from agent_tunix import papers
    from agent_tunix.papers import _pages as pages

    if arguments.seeds < 1:
        raise ConfigError(f"--seeds is {arguments.seeds}; it must be at least 1")
    if arguments.first_seed < 0:
        raise ConfigError(f"--first-seed is {arguments.first_seed}; seeds start at 0")
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    results, documents = [], []
    for method in _chosen(arguments):
        result = papers.run(method, seeds, _show_progress(method.slug, arguments.json))
        results.append(result)
        documents.append(papers.to_json(result))
        if arguments.to is not None:
            pages.save(method, result, arguments.to)
        if not arguments.json:
            print(papers.table(result), end="\n\n", flush=True)
    if arguments.json:
        print(as_json(documents if len(documents) > 1 else documents[0]))
    elif arguments.to is not None:
        print(f"written to {arguments.to}")
    return 0 if all(result.passed for result in results) else FAILED


def _show_progress(slug: str, quiet: bool):
    """Says which seed is done, on a terminal only."""

    def show(done: int, of: int) -> None:
        if sys.stderr.isatty() and not quiet:
            print(
                f"\r{slug}: seed {done} of {of}" + ("\r\x1b[K" if done == of else ""),
                end="",
                file=sys.stderr,
                flush=True,
            )

    return show


def _chosen(arguments: argparse.Namespace) -> list["papers.Method"]:
    from agent_tunix import papers

    slugs = papers.names() if arguments.all else arguments.slugs
    if not slugs:
        raise ConfigError(f"papers {arguments.action} needs the slug of a paper; {', '.join(papers.names())}")
    return [papers.find(slug) for slug in slugs]


COMMANDS = {"papers": Command("list, show and run published reward-design methods", _arguments, _papers)}
