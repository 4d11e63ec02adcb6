"""Commands that say how a run, or anybody's log, is doing."""

import argparse
import sys
from pathlib import Path

from agent_tunix.cli._command import (
    Command,
    Parser,
    as_json,
    check_run,
    checkpoint_argument,
    checkpoint_of,
    run_argument,
)
from agent_tunix.errors import ConfigError, unknown

FOUND_ERROR = 2
"""Exit code of `diagnose --strict` where an error was found."""
FORMATS = ("png", "pdf", "svg")


def _metrics_arguments(parser: Parser) -> None:
    parser.add_argument(
        "name",
        nargs="?",
        metavar="NAME",
        help="of a card, any library's name of the metric, or a card file of your own",
    )


def _metrics(arguments: argparse.Namespace) -> None:
    from agent_tunix.diagnostics import cards

    name = arguments.name
    if name is None:
        print(cards.listing())
        return
    print(cards.render(cards.load(Path(name)) if name.endswith(".md") else cards.find(name)))


def _diagnose_arguments(parser: Parser) -> None:
    parser.add_argument("path", metavar="PATH", type=Path, help="a run folder, or a log of another framework")
    parser.add_argument("--bounds", metavar="LOW,HIGH", help="attainable range of the reward")
    parser.add_argument("--eval-samples", type=int, metavar="N", help="held-out questions per evaluation")
    parser.add_argument("--group-size", type=int, metavar="G", help="completions per prompt")
    parser.add_argument("--role", action="append", default=[], metavar="COLUMN=ROLE", help="such as my_f1=gold")
    parser.add_argument("--strict", action="store_true", help="exit code 2 where an error is found")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def _diagnose(arguments: argparse.Namespace) -> int:
    least = {"eval_samples": 1, "group_size": 2}
    for name, lowest in least.items():
        value = getattr(arguments, name)
        if value is not None and value < lowest:
            raise ConfigError(f"--{name.replace('_', '-')} is {value}; it must be at least {lowest}")
    from agent_tunix.diagnostics import reading
    from agent_tunix.diagnostics.findings import worst
    from agent_tunix.diagnostics.logs import diagnose_log, planned_steps

    log, given = reading.read(arguments.path, roles=_roles(arguments.role)), vars(arguments)
    known = {"bounds": _bounds(arguments.bounds)} | {name: given[name] for name in least}
    findings = diagnose_log(log, planned_steps=planned_steps(arguments.path), **known)
    print(as_json(reading.to_json(log, findings)) if arguments.json else reading.report_text(log, findings))
    return FOUND_ERROR if arguments.strict and worst(findings) == "error" else 0


def _bounds(word: str | None) -> tuple[float, float] | None:
    if word is None:
        return None
    try:
        low, high = map(float, word.split(","))
    except ValueError as error:
        raise ConfigError(f"--bounds is {word}; give LOW,HIGH, such as 0,1") from error
    if not low < high:
        raise ConfigError(f"--bounds is {word}; give the lower one first")
    return low, high


def _roles(words: list[str]) -> dict[str, str]:
    roles = {}
    for word in words:
        column, sign, role = word.rpartition("=")
        if not sign or not column or not role:
            raise ConfigError(f"--role is {word}; give COLUMN=ROLE, such as my_f1=gold")
        roles[column] = role
    return roles


def _report_arguments(parser: Parser) -> None:
    parser.add_argument("paths", nargs="+", metavar="RUN", type=Path, help="run folders, or logs of other frameworks")
    parser.add_argument("--to", metavar="FILE", type=Path, help="the page; by default report.html in the run, or here")
    parser.add_argument("--figures", metavar="DIR", type=Path, help="also write figures into this folder")
    parser.add_argument("--format", default="png", help=f"of the figures: {', '.join(FORMATS)}")


def _report(arguments: argparse.Namespace) -> None:
    if arguments.format not in FORMATS:
        raise ConfigError(unknown("--format", arguments.format, FORMATS))
    from agent_tunix import reports

    print(f"report: {reports.write(arguments.paths, arguments.to)}")
    if arguments.figures is not None:
        from agent_tunix.reports import figures

        for path in figures.write_figures(arguments.paths, arguments.figures, format=arguments.format):
            print(f"figure: {path}")


def _watch_arguments(parser: Parser) -> None:
    run_argument(parser)
    parser.add_argument("--refresh", type=float, default=2.0, metavar="S", help="seconds between looks")
    parser.add_argument("--once", action="store_true", help="show the state and stop")
    parser.add_argument("--strict", action="store_true", help="exit code 2 where an error is found")


def _watch(arguments: argparse.Namespace) -> int:
    if not arguments.refresh > 0:
        raise ConfigError(f"--refresh is {arguments.refresh}; give seconds above 0")
    from rich.console import Console

    from agent_tunix.diagnostics.findings import worst
    from agent_tunix.reports.watch import watch

    findings = watch(arguments.run_dir, console=Console(), refresh_s=arguments.refresh, once=arguments.once)
    return FOUND_ERROR if arguments.strict and worst(findings) == "error" else 0


def _tradeoff_arguments(parser: Parser) -> None:
    run_argument(parser)
    checkpoint_argument(parser)
    parser.add_argument("--prompts", type=int, default=64, metavar="N", help="prompts of the batch for the gradients")
    parser.add_argument("--samples", type=int, default=512, metavar="N", help="completions per point of the search")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _tradeoff(arguments: argparse.Namespace) -> None:
    for option, value, least in (("--prompts", arguments.prompts, 4), ("--samples", arguments.samples, 8)):
        if value < least:
            raise ConfigError(f"{option} is {value}; it must be at least {least}")
    check_run(arguments.run_dir)
    from agent_tunix import tradeoffs

    result = tradeoffs.tradeoff(
        arguments.run_dir,
        checkpoint=checkpoint_of(arguments),
        prompts=arguments.prompts,
        samples=arguments.samples,
    )
    print(as_json(result.to_json()) if arguments.json else result.table())


EXPLANATIONS = ("klasym",)


def _explain_arguments(parser: Parser) -> None:
    parser.add_argument("name", metavar="NAME", help=f"what to explain: {', '.join(EXPLANATIONS)}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--figures", metavar="DIR", type=Path, help="also write figures into this folder")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _explain(arguments: argparse.Namespace) -> None:
    if arguments.name not in EXPLANATIONS:
        raise ConfigError(unknown("explanation", arguments.name, EXPLANATIONS))
    from agent_tunix.diagnostics import klasym

    result = klasym.explain(arguments.seed)
    print(as_json(result.to_json()) if arguments.json else result.table())
    if arguments.figures is not None:
        from agent_tunix.reports import klasym_figures

        for path in klasym_figures.write_figures(result, arguments.figures):
            print(f"figure: {path}", file=sys.stderr if arguments.json else None)


COMMANDS = {
    "diagnose": Command("say what is wrong with a run, or with anybody's log", _diagnose_arguments, _diagnose),
    "report": Command("write one page about a run, or several", _report_arguments, _report),
    "watch": Command("follow a run that another process trains", _watch_arguments, _watch),
    "metrics": Command("what a metric means and how it looks when ill", _metrics_arguments, _metrics),
    "tradeoff": Command("why one component of the reward falls while another climbs", _tradeoff_arguments, _tradeoff),
    "explain": Command("controlled experiments: klasym, divergence up and down", _explain_arguments, _explain),
}
"""By word."""
