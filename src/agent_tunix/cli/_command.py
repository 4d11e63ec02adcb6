"""What a command of the console script is, and what several of them share."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from agent_tunix.errors import ConfigError

RUN_ERROR, USAGE_ERROR = 1, 2


class Command(NamedTuple):
    """One word of the console script.

    Attributes:
      words: What it does, for the help.
      arguments: Adds its arguments to a parser.
      run: Does it; what it returns is the exit code, None is 0.
      more: Further help, put together only when it is asked for.
    """

    words: str
    arguments: Callable[["Parser"], None]
    run: Callable[[argparse.Namespace], int | None]
    more: Callable[[], str] = lambda: ""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are raised in one sentence instead of printed."""

    def error(self, message: str) -> NoReturn:
        """Raises ConfigError."""
        raise ConfigError(f"{message}; {self.prog} --help lists what is allowed")


def run_argument(parser: Parser) -> None:
    """Adds RUN."""
    parser.add_argument("run_dir", metavar="RUN", type=Path, help="a run folder, such as runs/NAME")


def checkpoint_argument(parser: Parser) -> None:
    """Adds --checkpoint."""
    parser.add_argument("--checkpoint", metavar="STEP", help="a step, 0 for the start, or best; by default the newest")


def checkpoint_of(arguments: argparse.Namespace) -> Any:
    """The step, `best` or None that --checkpoint means."""
    word = arguments.checkpoint
    if word in (None, "best"):
        return word
    if not word.isdigit():
        raise ConfigError(f"--checkpoint is {word}; give a step, such as 100, or best")
    return int(word)


def check_run(path: Path) -> None:
    """Says that a folder is no run before anything heavy is imported."""
    from agent_tunix import runs

    runs.read_config(path)


def as_json(document: Any) -> str:
    """Strict JSON: numbers that are not finite become null."""
    from agent_tunix.plain import plain

    return json.dumps(plain(document), indent=2, ensure_ascii=False)
