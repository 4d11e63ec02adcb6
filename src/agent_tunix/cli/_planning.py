"""The command that plans a run on paper."""

import argparse
from collections.abc import Iterable
from pathlib import Path

from agent_tunix.cli._command import Command, Parser, as_json


def _plan_arguments(parser: Parser) -> None:
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE", help="such as model=qwen3_8b mesh=fsdp8 device=v5p")
    parser.add_argument("--config-dir", type=Path, metavar="DIR", help="a folder of your own options, laid out as conf")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def _plan_more() -> str:
    import textwrap

    from agent_tunix import planning

    def listed(names: Iterable[str]) -> str:
        return textwrap.fill(", ".join(names), 110, initial_indent="    ", subsequent_indent="    ")

    return "\n".join(
        [
            "",
            "keys besides those of train:",
            "  mesh=AXES      such as fsdp8, tp4 or data2xfsdp4xtp2; by default one device",
            f"  device=NAME    {', '.join(planning.DEVICES)} or all",
            "models besides those of conf/model:",
            listed(planning.tunix_models()),
        ]
    )


def _plan(arguments: argparse.Namespace) -> None:
    from agent_tunix import planning

    setting, devices = planning.read(arguments.words, config_dir=arguments.config_dir)
    result = planning.plan(setting, devices)
    print(as_json(planning.to_json(result)) if arguments.json else planning.table(result))


COMMANDS = {
    "plan": Command("memory, work and time of a step on accelerators, on paper", _plan_arguments, _plan, _plan_more)
}
"""By word."""
