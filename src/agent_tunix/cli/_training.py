"""Commands that train, and that use what was trained."""

import argparse
import dataclasses
import json
from pathlib import Path

from agent_tunix.cli._command import Command, Parser, check_run, checkpoint_argument, checkpoint_of, run_argument
from agent_tunix.errors import ConfigError, unknown

EVALUATION_SPLITS = ("heldout", "test", "train")


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
    from agent_tunix import hosts
    from agent_tunix.jobs import train

    for number, config in enumerate(configs):
        if arguments.multirun:
            print(f"job {number + 1} of {len(configs)}: {' '.join(jobs[number])}")
        if arguments.multirun and config.run_dir is not None:
            config = dataclasses.replace(config, run_dir=f"{config.run_dir}-{number}")
        run = train(config)
        if hosts.index() == 0:
            _report(run.path)


def _report(path: Path) -> None:
    """Where the run is and how to look at it."""
    from agent_tunix import runs
    from agent_tunix.errors import command

    print(f"run: {path}")
    evaluations = runs.read_metrics(path, "eval")
    for row in dict.fromkeys(map(json.dumps, evaluations[:1] + evaluations[-1:])):
        numbers = {key: value for key, value in json.loads(row).items() if key.startswith("eval/")}
        shown = "  ".join(
            f"{key.removeprefix('eval/')} {value:.3f}" for key, value in numbers.items() if value is not None
        )
        print(f"held out, step {json.loads(row)['step']}: {shown}")
    print(f"metrics: {path / runs.METRICS}   curves: tensorboard --logdir {path}")
    if (path / runs.REPORT).exists():
        print(f"report: {path / runs.REPORT}")
    if runs.read_summary(path):
        print(f"look closer: {command('evaluate', path)}   {command('sample', path)}")


def _resume(arguments: argparse.Namespace) -> None:
    from agent_tunix import jobs

    _report(jobs.resume(arguments.run_dir).path)


def _evaluate_arguments(parser: Parser) -> None:
    run_argument(parser)
    checkpoint_argument(parser)
    parser.add_argument("--split", default="heldout", help=f"rows: {', '.join(EVALUATION_SPLITS)}")
    parser.add_argument("--samples", type=int, default=0, metavar="K", help="also K samples per prompt, for pass@k")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _evaluate(arguments: argparse.Namespace) -> None:
    if arguments.split not in EVALUATION_SPLITS:
        raise ConfigError(unknown("--split", arguments.split, EVALUATION_SPLITS))
    if arguments.samples < 0:
        raise ConfigError(f"--samples is {arguments.samples}; it must be at least 0")
    check_run(arguments.run_dir)
    from agent_tunix import jobs

    chosen = {"split": arguments.split, "samples": arguments.samples, "checkpoint": checkpoint_of(arguments)}
    result = jobs.evaluate_run(arguments.run_dir, **chosen)
    print(json.dumps(result.to_json(), indent=2) if arguments.json else result.table())


def _sample_arguments(parser: Parser) -> None:
    run_argument(parser)
    checkpoint_argument(parser)
    parser.add_argument("prompts", nargs="*", metavar="PROMPT", help="texts; without them, held-out prompts")
    parser.add_argument("--prompts", dest="number", type=int, default=4, metavar="N", help="how many held-out prompts")


def _sample(arguments: argparse.Namespace) -> None:
    if arguments.number < 1:
        raise ConfigError(f"--prompts is {arguments.number}; it must be at least 1")
    check_run(arguments.run_dir)
    from agent_tunix import jobs
    from agent_tunix.text import printable

    prompts, checkpoint = arguments.prompts or arguments.number, checkpoint_of(arguments)
    for number, item in enumerate(jobs.sample_run(arguments.run_dir, prompts, checkpoint=checkpoint)):
        print("\n" * bool(number) + "\n".join(printable(f"{key}: {value}") for key, value in item.items()))


def _export_arguments(parser: Parser) -> None:
    run_argument(parser)
    checkpoint_argument(parser)
    parser.add_argument("--to", metavar="DIR", type=Path, required=True, help="a new folder")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="of the weights; by default the origin's")


def _export(arguments: argparse.Namespace) -> None:
    check_run(arguments.run_dir)
    from agent_tunix import policies

    chosen = {"checkpoint": checkpoint_of(arguments), "dtype": arguments.dtype}
    folder = policies.export(arguments.run_dir, arguments.to, **chosen)
    print(f"model: {folder}")


COMMANDS = {
    "train": Command(
        "train a policy; a new run folder, or run_dir=PATH to go on", _train_arguments, _train, _train_more
    ),
    "resume": Command("go on with a run as its own folder describes it", run_argument, _resume),
    "evaluate": Command("accuracy of a run's policy on rows it was not trained on", _evaluate_arguments, _evaluate),
    "sample": Command("completions of a run's policy", _sample_arguments, _sample),
    "export": Command("write a run's policy as a Hugging Face folder", _export_arguments, _export),
}
"""By word."""
