"""The console script `agent-tunix`, and what `run_training.py` calls.

Thin: commands parse, call and print. Heavy modules are imported inside the commands, so that a wrong word costs no
waiting. A setting, name or command that cannot be used ends in one line on stderr and exit code 2, a run that cannot go
on in one line and exit code 1; `--debug` shows the traceback of either.
"""

import argparse
import importlib.metadata
import logging
import os
import sys
from collections.abc import Sequence

from agent_tunix.cli import _diagnostics, _papers, _planning, _rewards, _training
from agent_tunix.cli._command import RUN_ERROR, USAGE_ERROR, Command, Parser
from agent_tunix.errors import AgentTunixError, ConfigError, unknown
from agent_tunix.text import one_line


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
      argv: Words of the command line after the program's name; None takes those of the process.

    Returns:
      Exit code: 0, 1 for a run that cannot go on or a preflight that found errors, 2 for words that cannot be used.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    try:
        code = _run([word for word in words if word != "--debug"])
        sys.stdout.flush()
        return code or 0
    except AgentTunixError as error:
        if debug:
            raise
        print(f"error: {one_line(' '.join(str(error).split()))}", file=sys.stderr)
        return USAGE_ERROR if isinstance(error, ConfigError) else RUN_ERROR
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough; Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def train_main() -> int:
    """`main` for the command `train`: what `run_training.py` is."""
    return main(["train", *sys.argv[1:]])


def _run(words: list[str]) -> int | None:
    if not words or words[0] in ("-h", "--help"):
        print(_help())
        return None
    name = "version" if words[0] == "--version" else words[0]
    if name not in COMMANDS:
        raise ConfigError(unknown("command", name, COMMANDS))
    command = COMMANDS[name]
    parser = Parser(f"agent-tunix {name}", description=command.words, add_help=False)
    parser.add_argument("-h", "--help", action="store_true", help="show this")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    command.arguments(parser)
    if {"-h", "--help"} & set(words):
        print(parser.format_help() + command.more())
        return None
    _quiet_libraries()
    # Options may stand between overrides: `seed=7 --cfg job model=tiny`.
    return command.run(parser.parse_intermixed_args(words[1:]))


def _quiet_libraries() -> None:
    """People see what this package says; Orbax reports every file it touches, and errors that we say in one line."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("agent_tunix").setLevel(logging.INFO)
    logging.getLogger("absl").setLevel(logging.CRITICAL)


def _help() -> str:
    lines = [f"  {name:<9} {command.words}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: agent-tunix COMMAND ...",
            "",
            "GRPO post-training of language models in JAX.",
            "",
            *lines,
            "",
            "agent-tunix COMMAND --help tells more; --debug shows the traceback of an error.",
        ]
    )


def _version(arguments: argparse.Namespace) -> None:
    names = ("agent-tunix", "google-tunix", "jax", "flax", "optax", "orbax-checkpoint")
    for name in names:
        print(f"{name} {importlib.metadata.version(name)}")


COMMANDS = {
    **_training.COMMANDS,
    **_rewards.COMMANDS,
    **_diagnostics.COMMANDS,
    **_planning.COMMANDS,
    **_papers.COMMANDS,
    "version": Command("versions of this package and of what it stands on", lambda parser: None, _version),
}
"""By word."""
