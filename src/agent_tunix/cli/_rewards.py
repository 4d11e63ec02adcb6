"""Commands about tasks and rewards."""

import argparse
import json
from pathlib import Path
from typing import Any

from agent_tunix.cli._command import RUN_ERROR, Command, Parser, as_json, check_run, run_argument
from agent_tunix.errors import AgentTunixError, ConfigError, RewardError, unknown

FURTHER = {
    "gsm8k": "grade-school word problems",
    "math": "competition problems in files, with answers in LaTeX",
    "gym": "a data set of reasoning-gym",
    "file": "rows of your own",
}
"""Tasks besides the procedural ones."""


def _preflight_arguments(parser: Parser) -> None:
    parser.add_argument("reward", metavar="REWARD", help="as training.reward_function, such as my_rewards.py:reward")
    parser.add_argument("--data", required=True, metavar="DATA", help="a task, such as sorting, or a file of rows")
    parser.add_argument("--path", metavar="PATH", help="of the data of gsm8k or math; of gym, its data set")
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
    print(as_json(preflight.to_json(result)) if arguments.json else preflight.table(result))
    return 0 if result.ok else RUN_ERROR


def _rescore_arguments(parser: Parser) -> None:
    run_argument(parser)
    parser.add_argument("--reward", metavar="REWARD", help="another reward, as training.reward_function")
    parser.add_argument(
        "--weights", metavar="PART=W,...", help="other weights of the stored parts; no grader is called"
    )
    parser.add_argument("--steps", metavar="FROM:TO", help="only rollouts sampled after these steps, such as 100:200")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _rescore(arguments: argparse.Namespace) -> None:
    if (arguments.reward is None) == (arguments.weights is None):
        raise ConfigError("rescore compares with one other reward; give either --reward or --weights")
    check_run(arguments.run_dir)
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
    print(as_json(rescoring.to_json(result)) if arguments.json else rescoring.table(result))


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


def _tasks_arguments(parser: Parser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="a task; without it, all are listed")
    parser.add_argument("--show", type=int, default=3, metavar="N", help="how many rows")
    parser.add_argument("--level", type=int, default=1, metavar="L", help="difficulty, from 1")
    parser.add_argument("--split", default="train", metavar="S", help="train or heldout")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--path", metavar="PATH", help="of rows (gsm8k, math, file), or a data set (gym)")


def _tasks(arguments: argparse.Namespace) -> None:
    from agent_tunix import data, tasks

    if arguments.name is None:
        print("\n".join(f"{name:<16} {task.description}" for name, task in tasks.TASKS.items()))
        for name, description in FURTHER.items():
            print(f"{name:<16} {description}")
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
    return data.load(task, path=path, gym_task=path if task == "gym" else None, **columns, **sizes)


COMMANDS = {
    "preflight": Command("try a reward on right and wrong answers and on exploits", _preflight_arguments, _preflight),
    "rescore": Command("score a run's rollouts with another reward or other weights", _rescore_arguments, _rescore),
    "tasks": Command("list the tasks, or show rows of one", _tasks_arguments, _tasks),
}
"""By word."""
