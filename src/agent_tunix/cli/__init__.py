"""The console script `agent-tunix`, and what `run_training.py` calls.

Thin: commands parse, call and print. Heavy modules are imported inside the commands, so that a wrong word costs no
waiting. A setting, name or command that cannot be used ends in one line on stderr and exit code 2, a run that cannot go
on in one line and exit code 1; `--debug` shows the traceback of either.
"""

import argparse
import dataclasses
import importlib.metadata
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from agent_tunix.errors import AgentTunixError, ConfigError, RewardError, unknown

RUN_ERROR, USAGE_ERROR = 1, 2
EVALUATION_SPLITS = ("heldout", "test", "train")


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
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
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


def _train_arguments(parser: Parser) -> None:
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="such as data=gsm8k training.steps=50")
    parser.add_argument("-m", "--multirun", action="store_true", help="one run for every combination of key=a,b")
    parser.add_argument("-c", "--cfg", choices=["job"], help="print the composed config and stop")
    parser.add_argument("--config-dir", type=Path, metavar="DIR", help="a folder of your own options, laid out as conf")


def _train_more() -> str:
    from omegaconf import OmegaConf

    from agent_tunix import overrides

    lines = [f"  {group}={' | '.join(options)}" for group, options in overrides.groups().items()]
    defaults = OmegaConf.to_yaml(overrides.composed())
    return "\n".join(["", "groups of settings:", *lines, "", "keys and their defaults:", "", defaults])


def _train(arguments: argparse.Namespace) -> None:
    from omegaconf import OmegaConf

    from agent_tunix import overrides, recipes

    jobs = overrides.sweep(arguments.overrides) if arguments.multirun else [arguments.overrides]
    # Every job is checked before the first one starts.
    configs = [overrides.load(job, config_dir=arguments.config_dir) for job in jobs]
    if arguments.cfg:
        for job in jobs:
            print(OmegaConf.to_yaml(overrides.composed(job, config_dir=arguments.config_dir)), end="")
        return
    for config in configs:
        recipes.recipe(config)
    from agent_tunix.jobs import train

    for number, config in enumerate(configs):
        if arguments.multirun:
            print(f"job {number + 1} of {len(configs)}: {' '.join(jobs[number])}")
        if arguments.multirun and config.run_dir is not None:
            config = dataclasses.replace(config, run_dir=f"{config.run_dir}-{number}")
        _report(train(config).path)


def _report(path: Path) -> None:
    """Where the run is and how to look at it."""
    from agent_tunix import runs
    from agent_tunix.jobs import command

    print(f"run: {path}")
    evaluations = runs.read_metrics(path, "eval")
    for row in dict.fromkeys(map(json.dumps, evaluations[:1] + evaluations[-1:])):
        numbers = {key: value for key, value in json.loads(row).items() if key.startswith("eval/")}
        shown = "  ".join(
            f"{key.removeprefix('eval/')} {value:.3f}" for key, value in numbers.items() if value is not None
        )
        print(f"held out, step {json.loads(row)['step']}: {shown}")
    print(f"metrics: {path / runs.METRICS}   curves: tensorboard --logdir {path}")
    if runs.read_summary(path):
        print(f"look closer: {command('evaluate', path)}   {command('sample', path)}")


def _run_argument(parser: Parser) -> None:
    parser.add_argument("run_dir", metavar="RUN", type=Path, help="a run folder, such as runs/NAME")


def _checkpoint_argument(parser: Parser) -> None:
    parser.add_argument("--checkpoint", metavar="STEP", help="a step, or `best`; without it, the newest")


def _checkpoint(arguments: argparse.Namespace) -> Any:
    word = arguments.checkpoint
    if word in (None, "best"):
        return word
    if not word.isdigit():
        raise ConfigError(f"--checkpoint is {word}; give a step, such as 100, or best")
    return int(word)


def _resume(arguments: argparse.Namespace) -> None:
    from agent_tunix import jobs

    _report(jobs.resume(arguments.run_dir).path)


def _evaluate_arguments(parser: Parser) -> None:
    _run_argument(parser)
    _checkpoint_argument(parser)
    parser.add_argument("--split", default="heldout", help=f"rows: {', '.join(EVALUATION_SPLITS)}")
    parser.add_argument("--samples", type=int, default=0, metavar="K", help="also K samples per prompt, for pass@k")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _evaluate(arguments: argparse.Namespace) -> None:
    if arguments.split not in EVALUATION_SPLITS:
        raise ConfigError(unknown("--split", arguments.split, EVALUATION_SPLITS))
    if arguments.samples < 0:
        raise ConfigError(f"--samples is {arguments.samples}; it must be at least 0")
    _check_run(arguments.run_dir)
    from agent_tunix import jobs

    chosen = {"split": arguments.split, "samples": arguments.samples, "checkpoint": _checkpoint(arguments)}
    result = jobs.evaluate_run(arguments.run_dir, **chosen)
    print(json.dumps(result.to_json(), indent=2) if arguments.json else result.table())


def _sample_arguments(parser: Parser) -> None:
    _run_argument(parser)
    _checkpoint_argument(parser)
    parser.add_argument("prompts", nargs="*", metavar="PROMPT", help="texts; without them, held-out prompts")
    parser.add_argument("--prompts", dest="number", type=int, default=4, metavar="N", help="how many held-out prompts")


def _sample(arguments: argparse.Namespace) -> None:
    if arguments.number < 1:
        raise ConfigError(f"--prompts is {arguments.number}; it must be at least 1")
    _check_run(arguments.run_dir)
    from agent_tunix import jobs

    prompts, checkpoint = arguments.prompts or arguments.number, _checkpoint(arguments)
    for number, item in enumerate(jobs.sample_run(arguments.run_dir, prompts, checkpoint=checkpoint)):
        print("\n" * bool(number) + "\n".join(f"{key}: {value}" for key, value in item.items()))


def _check_run(path: Path) -> None:
    """Says that a folder is no run before anything heavy is imported."""
    from agent_tunix import runs

    runs.read_config(path)


def _tasks_arguments(parser: Parser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="a task; without it, all are listed")
    parser.add_argument("--show", type=int, default=3, metavar="N", help="how many rows")
    parser.add_argument("--level", type=int, default=1, metavar="L", help="difficulty, from 1")
    parser.add_argument("--split", default="train", metavar="S", help="train or heldout")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--path", metavar="PATH", help="of gsm8k or of rows of your own (file)")


def _tasks(arguments: argparse.Namespace) -> None:
    from agent_tunix import data, tasks

    if arguments.name is None:
        print("\n".join(f"{name:<16} {task.description}" for name, task in tasks.TASKS.items()))
        print("gsm8k            grade-school word problems\nfile             rows of your own")
        return
    if arguments.name not in data.names():
        raise ConfigError(unknown("task", arguments.name, data.names()))
    if arguments.split not in tasks.SPLITS:
        raise ConfigError(unknown("--split", arguments.split, tasks.SPLITS))
    if arguments.name in tasks.TASKS:
        chosen = {"level": arguments.level, "size": arguments.show, "split": arguments.split, "seed": arguments.seed}
        rows = tasks.generate(arguments.name, **chosen)
    else:
        rows = getattr(_loaded(arguments.name, arguments.path), arguments.split)[: arguments.show]
    for row in rows:
        print(json.dumps(row, ensure_ascii=False))


def _loaded(task: str, path: str | None, rows: int = 1) -> Any:
    """The dataset of a task by its name, with the columns that configs expect by default."""
    from agent_tunix import data
    from agent_tunix.config import DataConfig

    columns = {key: getattr(DataConfig, key) for key in ("prompt_column", "answer_column", "demonstration_column")}
    sizes = {"level": 1, "train_size": rows, "heldout_size": rows, "malformed": "raise", "seed": 0}
    return data.load(task, path=path, **columns, **sizes)


def _preflight_arguments(parser: Parser) -> None:
    parser.add_argument("reward", metavar="REWARD", help="as training.reward_function, such as my_rewards.py:reward")
    parser.add_argument("--data", required=True, metavar="DATA", help="a task, such as sorting, or a file of rows")
    parser.add_argument("--path", metavar="PATH", help="of the data of gsm8k")
    parser.add_argument("--rows", type=int, default=16, metavar="N", help="how many rows to try")
    parser.add_argument("--group-size", type=int, default=8, metavar="G", help="completions per prompt in training")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _preflight(arguments: argparse.Namespace) -> int:
    for option, value, least in (("--rows", arguments.rows, 2), ("--group-size", arguments.group_size, 2)):
        if value < least:
            raise ConfigError(f"{option} is {value}; it must be at least {least}")
    from agent_tunix import data, preflight, recipes

    reward = recipes.named_reward("REWARD", arguments.reward)
    known = arguments.data in data.names()
    task, path = (arguments.data, arguments.path) if known else ("file", arguments.data)
    if not known and not Path(arguments.data).exists():
        raise ConfigError(f"{unknown('--data', arguments.data, data.names())} Or a file of rows.")
    rows = _loaded(task, path, arguments.rows).train[: arguments.rows]
    result = preflight.preflight(reward, rows, group_size=arguments.group_size)
    print(_json(preflight.to_json(result)) if arguments.json else preflight.table(result))
    return 0 if result.ok else RUN_ERROR


def _json(document: Any) -> str:
    """Strict JSON: numbers that are not finite become null."""
    from agent_tunix.plain import plain

    return json.dumps(plain(document), indent=2, ensure_ascii=False)


def _rescore_arguments(parser: Parser) -> None:
    _run_argument(parser)
    parser.add_argument("--reward", metavar="REWARD", help="another reward, as training.reward_function")
    parser.add_argument(
        "--weights", metavar="PART=W,...", help="other weights of the stored parts; no grader is called"
    )
    parser.add_argument("--steps", metavar="FROM:TO", help="only rollouts sampled after these steps, such as 100:200")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _rescore(arguments: argparse.Namespace) -> None:
    if (arguments.reward is None) == (arguments.weights is None):
        raise ConfigError("rescore compares with one other reward; give either --reward or --weights")
    _check_run(arguments.run_dir)
    from agent_tunix import recipes, rescoring, runs

    first, last = _steps(arguments.steps)
    samples = (sample for sample in runs.read_samples(arguments.run_dir) if first <= sample["step"] < last)
    try:
        if arguments.weights is None:
            result = rescoring.rescore(samples, recipes.named_reward("--reward", arguments.reward))
        else:
            result = rescoring.reweigh(samples, _weights(arguments.weights))
    except (TypeError, ValueError) as error:  # the reward's own contract, or nothing to compare with
        if isinstance(error, AgentTunixError):
            raise
        raise RewardError(str(error)) from error
    print(_json(rescoring.to_json(result)) if arguments.json else rescoring.table(result))


def _steps(word: str | None) -> tuple[float, float]:
    """`100:200`, `100:` or `:200` as numbers."""
    first, colon, last = (word or ":").partition(":")
    if not colon or not all(part == "" or part.isdigit() for part in (first, last)):
        raise ConfigError(f"--steps is {word}; give FROM:TO, such as 100:200, or leave one side out")
    return float(first or 0), float(last or "inf")


def _weights(word: str) -> dict[str, float]:
    pairs = [pair.rpartition("=") for pair in word.split(",")]
    try:
        return {name.strip(): float(weight) for name, _, weight in pairs}
    except ValueError as error:
        raise ConfigError(f"--weights is {word}; give PART=NUMBER,..., such as format=0.2,correctness=0.8") from error


def _version(arguments: argparse.Namespace) -> None:
    names = ("agent-tunix", "google-tunix", "jax", "flax", "optax", "orbax-checkpoint")
    for name in names:
        print(f"{name} {importlib.metadata.version(name)}")


COMMANDS = {
    "train": Command(
        "train a policy; a new run folder, or run_dir=PATH to go on", _train_arguments, _train, _train_more
    ),
    "resume": Command("go on with a run as its own folder describes it", _run_argument, _resume),
    "evaluate": Command("accuracy of a run's policy on rows it was not trained on", _evaluate_arguments, _evaluate),
    "sample": Command("completions of a run's policy", _sample_arguments, _sample),
    "preflight": Command("try a reward on right and wrong answers and on exploits", _preflight_arguments, _preflight),
    "rescore": Command("score a run's rollouts with another reward or other weights", _rescore_arguments, _rescore),
    "tasks": Command("list the tasks, or show rows of one", _tasks_arguments, _tasks),
    "version": Command("versions of this package and of what it stands on", lambda parser: None, _version),
}
