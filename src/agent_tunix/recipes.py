"""Settings become callables here, and only here; `validate` first says what cannot mean anything.

The names a setting may take are the keys of the tables below, so that a function is added in one line.
"""

import importlib
import importlib.util
import inspect
import math
import os
import sys
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from agent_tunix import advantages, data, losses, rewards, tasks, text
from agent_tunix.config import Config, LossConfig
from agent_tunix.errors import ConfigError, unknown
from agent_tunix.plain import flatten
from agent_tunix.types import Advantage, KeepGroup, Loss, Recipe, Reward, Shaping

ESTIMATORS: Mapping[str, tuple[Callable[..., Any], Callable[..., Advantage]]] = {
    "group_normalized": (advantages.group_normalized, advantages.per_group),
    "centered": (advantages.centered, advantages.per_group),
    "leave_one_out": (advantages.leave_one_out, advantages.per_group),
    "leave_one_out_normalized": (advantages.leave_one_out_normalized, advantages.per_group),
    "mean_normalized": (advantages.mean_normalized, advantages.per_group),
    "pass_at_k": (advantages.pass_at_k, advantages.per_group),
    "rank": (advantages.rank, advantages.per_group),
    "batch_normalized": (advantages.batch_normalized, advantages.per_batch),
    "reinforce_plus_plus_baseline": (advantages.reinforce_plus_plus_baseline, advantages.per_batch),
}
RATIOS = {"token": losses.token_ratio, "sequence": losses.sequence_ratio}
DIVERGENCES = {"k1": losses.k1, "k2": losses.k2, "k3": losses.k3}
AGGREGATIONS: Mapping[str, Callable[[int], losses.Aggregation]] = {
    "token_mean": lambda length: losses.token_mean,
    "sequence_mean_token_mean": lambda length: losses.sequence_mean_token_mean,
    "sequence_mean_token_sum": lambda length: losses.sequence_mean_token_sum,
    "constant": losses.constant,
}
SURROGATES: Mapping[str, Callable[[LossConfig], losses.Surrogate]] = {
    "clipped": lambda loss: losses.clipped(loss.epsilon, loss.epsilon_high, loss.dual_clip, RATIOS[loss.ratio]),
    "truncated": lambda loss: losses.truncated(loss.epsilon, loss.epsilon_high, RATIOS[loss.ratio]),
}

CHOICES: Mapping[str, Callable[[], list[str]]] = {
    "model.name": lambda: ["tiny"],
    "data.task": data.names,
    "data.malformed": lambda: ["raise", "skip"],
    "data.overlong_prompts": lambda: ["raise", "truncate"],
    "advantage.estimator": lambda: [*ESTIMATORS, "decoupled"],
    "loss.surrogate": lambda: list(SURROGATES),
    "loss.ratio": lambda: list(RATIOS),
    "loss.kl_estimator": lambda: list(DIVERGENCES),
    "loss.aggregation": lambda: list(AGGREGATIONS),
    "optimizer.schedule": lambda: ["cosine", "constant"],
    "resume": lambda: ["auto", "force", "never"],
}

AT_LEAST: Mapping[str, float] = {
    **dict.fromkeys(("model.layers", "model.width", "model.heads", "model.kv_heads", "model.mlp"), 1),
    "model.head_dim": 2,
    **dict.fromkeys(("data.level", "data.train_size", "data.heldout_size"), 1),
    "data.max_prompt_tokens": 2,
    **dict.fromkeys(("sampling.max_completion_tokens", "sampling.rollout_microbatches"), 1),
    **dict.fromkeys(("training.prompts_per_batch", "training.num_iterations", "training.minibatches"), 1),
    "training.microbatches": 0,
    **dict.fromkeys(("evaluation.rows", "evaluation.prompts_per_batch", "warm_start.rows_per_batch"), 1),
    **dict.fromkeys(("checkpoint.every_steps", "checkpoint.keep"), 1),
    **dict.fromkeys(("seed", "model.lora_rank", "sampling.temperature", "sampling.top_k", "sampling.min_p"), 0),
    **dict.fromkeys(("reward.kl_penalty", "loss.kl_coefficient", "optimizer.weight_decay"), 0),
    **dict.fromkeys(("optimizer.warmup_steps", "optimizer.final_fraction", "optimizer.b1", "optimizer.b2"), 0),
    **dict.fromkeys(("warm_start.steps", "warm_start.warmup_steps", "warm_start.final_fraction"), 0),
    **dict.fromkeys(("training.steps", "training.max_refills", "evaluation.every_steps", "evaluation.patience"), 0),
}
ABOVE: Mapping[str, float] = {
    **dict.fromkeys(("sampling.top_p", "optimizer.learning_rate", "warm_start.learning_rate", "model.lora_alpha"), 0),
    **dict.fromkeys(("loss.epsilon", "loss.epsilon_high", "loss.mismatch_cap", "optimizer.eps"), 0),
    "optimizer.clip_norm": 0,
    "loss.dual_clip": 1,
}
AT_MOST: Mapping[str, float] = dict.fromkeys(
    ("sampling.top_p", "optimizer.final_fraction", "warm_start.final_fraction"), 1
)
BELOW: Mapping[str, float] = dict.fromkeys(("sampling.min_p", "optimizer.b1", "optimizer.b2"), 1)

BOUNDS: tuple[tuple[str, Mapping[str, float], Callable[[float, float], bool]], ...] = (
    ("at least", AT_LEAST, lambda value, bound: value >= bound),
    ("above", ABOVE, lambda value, bound: value > bound),
    ("at most", AT_MOST, lambda value, bound: value <= bound),
    ("below", BELOW, lambda value, bound: value < bound),
)


def validate(config: Config) -> None:
    """Refuses a config that cannot mean anything, before anything is started.

    Raises:
      ConfigError: One sentence about the first setting found: what was got, where, and what to do.
    """
    values = flatten(asdict(config))
    _check_choices(values)
    _check_bounds(values)
    _check_portions(config)
    _check_combinations(config)
    _typed_arguments(config)


def _check_choices(values: Mapping[str, Any]) -> None:
    for key, known in CHOICES.items():
        if values[key] not in known():
            raise ConfigError(unknown(f"{key}", values[key], known()))


def _check_bounds(values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{key} is {value}; give a finite number")
    for words, bounds, holds in BOUNDS:
        for key, bound in bounds.items():
            if values[key] is not None and not holds(values[key], bound):
                raise ConfigError(f"{key} is {values[key]}; it must be {words} {bound}")


def _check_portions(config: Config) -> None:
    """Whole groups are dealt out evenly, so every division has to come out even."""
    training = config.training
    prompts = training.prompts_per_batch
    for key, number, whole in (
        ("sampling.rollout_microbatches", config.sampling.rollout_microbatches, prompts),
        ("training.minibatches", training.minibatches, prompts),
        ("training.microbatches", training.microbatches or 1, prompts // training.minibatches),
    ):
        if whole % number:
            what = "prompts of a minibatch" if whole != prompts else "prompts (training.prompts_per_batch)"
            raise ConfigError(f"{key} is {number}, which does not divide {whole} {what}; choose a divisor of {whole}")


def _check_combinations(config: Config) -> None:
    model, loss, group = config.model, config.loss, config.training.group_size
    for wrong, sentence in (
        (group < 2, f"training.group_size is {group}; credit compares the completions of a group, so take at least 2"),
        (
            model.heads % model.kv_heads,
            f"model.kv_heads is {model.kv_heads}, which does not divide model.heads = {model.heads}; choose a divisor",
        ),
        (model.head_dim % 2, f"model.head_dim is {model.head_dim}; rotary positions need an even number"),
        (
            config.data.task == "file" and config.data.path is None,
            "data.path is not set; data.task=file needs a JSONL, CSV or Parquet file there",
        ),
        (
            config.sampling.temperature == 0 and config.training.steps > 0,
            "sampling.temperature is 0, which makes all completions of a group equal; train with more, such as 1.0",
        ),
        (
            config.advantage.estimator == "decoupled" and config.training.reward_function not in (None, "default"),
            "advantage.estimator=decoupled weighs format and correctness, which only the default reward has; "
            "choose another estimator, or leave training.reward_function out",
        ),
        (
            loss.surrogate != "clipped" and loss.dual_clip is not None,
            f"loss.dual_clip is {loss.dual_clip}, which only loss.surrogate=clipped has; set loss.dual_clip=null",
        ),
    ):
        if wrong:
            raise ConfigError(sentence)


def _typed_arguments(config: Config) -> dict[str, Any]:
    """`advantage.arguments`, checked against the estimator's keyword arguments and in their types."""
    name = config.advantage.estimator
    estimator = advantages.decoupled if name == "decoupled" else ESTIMATORS[name][0]
    parameters = {
        parameter.name: parameter.annotation
        for parameter in inspect.signature(estimator).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.annotation in (int, float, bool)
    }
    typed = {}
    for argument, value in config.advantage.arguments.items():
        if argument not in parameters:
            raise ConfigError(unknown(f"argument of advantage.estimator={name}", argument, parameters))
        kind = parameters[argument]
        if kind(value) != value:
            raise ConfigError(f"advantage.arguments.{argument} is {value}; {name} takes a {kind.__name__} there")
        typed[argument] = kind(value)
    return typed


def recipe(config: Config) -> Recipe:
    """The reward-design method that a config describes.

    Raises:
      ConfigError: If the config cannot mean anything, or its reward function cannot be found.
    """
    validate(config)
    return Recipe(reward(config), shaping(config), advantage(config), loss(config), keep_group(config))


def reward(config: Config) -> Reward:
    """`training.reward_function`, or the default reward with the weights of `reward`."""
    name = config.training.reward_function
    if name in (None, "default"):
        return rewards.default(config.reward.alpha, config.reward.beta, is_correct=is_correct)
    function = _find(name)
    try:
        return rewards.as_reward(function)
    except TypeError as error:
        raise ConfigError(f"training.reward_function={name}: {error}") from error


def is_correct(response: str, row: Mapping[str, Any]) -> float:
    """1 where the answer a response states is right by the rules of the row's task, else 0; the strict grader."""
    if row.get("task") in tasks.TASKS and tasks.TASKS[row["task"]].is_correct is not None:
        stated = text.stated_answer(response)
        return float(stated is not None and tasks.is_correct(stated, row))
    return rewards.exact_answer(response, row["answer"])


def is_formatted(response: str) -> float:
    """1 where a response is exactly the tagged format, 0.5 where it holds an answer block, else 0."""
    return rewards.tag_format(response)


def shaping(config: Config) -> Shaping:
    """What is done to the score before credit is given."""
    coefficient = config.reward.kl_penalty
    return losses.kl_penalty(coefficient) if coefficient else rewards.identity()


def advantage(config: Config) -> Advantage:
    """The estimator with its arguments, over whole scores."""
    arguments = _typed_arguments(config)
    if config.advantage.estimator == "decoupled":
        return advantages.decoupled_parts(
            {"format": config.reward.alpha, "correctness": config.reward.beta}, **arguments
        )
    estimator, lift = ESTIMATORS[config.advantage.estimator]
    return lift(estimator, **arguments)


def loss(config: Config) -> Loss:
    """The policy loss."""
    chosen = config.loss
    return losses.policy_loss(
        SURROGATES[chosen.surrogate](chosen),
        kl_coefficient=chosen.kl_coefficient,
        kl_estimator=DIVERGENCES[chosen.kl_estimator],
        entropy_coefficient=chosen.entropy_coefficient,
        aggregation=AGGREGATIONS[chosen.aggregation](config.sampling.max_completion_tokens),
        mask_truncated=chosen.mask_truncated,
        mismatch_cap=chosen.mismatch_cap,
    )


def keep_group(config: Config) -> KeepGroup | None:
    """Which groups are worth training on; None keeps all."""
    return rewards.mixed_groups if config.training.dynamic_sampling else None


def dataset(config: Config) -> data.Dataset:
    """The rows to train on and those held out.

    Raises:
      DataError: If they cannot be read.
    """
    chosen = config.data
    return data.load(
        chosen.task,
        path=chosen.path,
        level=chosen.level,
        train_size=chosen.train_size,
        heldout_size=chosen.heldout_size,
        prompt_column=chosen.prompt_column,
        answer_column=chosen.answer_column,
        demonstration_column=chosen.demonstration_column,
        malformed=chosen.malformed,
        seed=config.seed,
    )


def from_mapping(values: Mapping[str, Any]) -> Config:
    """Nested mappings of plain values, as a run folder keeps them, as a config.

    Raises:
      ConfigError: If a key is unknown.
    """
    return _build(Config, values, "")


def _build(kind: type, values: Mapping[str, Any], prefix: str) -> Any:
    hints = typing.get_type_hints(kind)
    for key in values:
        if key not in hints:
            raise ConfigError(unknown("key", f"{prefix}{key}", [prefix + name for name in hints]))
    return kind(**{key: _field(hints[key], value, f"{prefix}{key}.") for key, value in values.items()})


def _field(hint: Any, value: Any, prefix: str) -> Any:
    if is_dataclass(hint):
        return _build(typing.cast(type, hint), value, prefix)
    return tuple(value) if isinstance(value, list) else value


def _find(name: str) -> Callable[..., Any]:
    """What `training.reward_function` names."""
    source, colon, attribute = name.rpartition(":")
    if not colon:
        if name not in graders():
            known = ["default", *graders()]
            raise ConfigError(
                f"{unknown('training.reward_function', name, known)} Or package.module:function, file.py:function."
            )
        return getattr(rewards, name)
    if not source or not attribute:
        raise ConfigError(f"training.reward_function is `{name}`; write package.module:function or file.py:function")
    module = _from_file(Path(source)) if source.endswith(".py") else _from_package(source)
    found = getattr(module, attribute, None)
    if not callable(found):
        public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ConfigError(unknown(f"function in {source}", attribute, public))
    return found


def graders() -> list[str]:
    """The functions of `agent_tunix.rewards` that grade responses by themselves."""
    return [
        name
        for name in rewards.__all__
        if next(iter(inspect.signature(getattr(rewards, name)).parameters), None) in ("response", "completion")
    ]


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigError(f"training.reward_function names the file {path}, which does not exist in {Path.cwd()}")
    # A name of its own: a file called math.py must not take the place of a module that others import.
    spec = importlib.util.spec_from_file_location(f"agent_tunix_reward_file_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"training.reward_function names the file {path}, which is not Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    with _named_failure(str(path)):
        spec.loader.exec_module(module)
    return module


def _from_package(name: str) -> ModuleType:
    # A console script, unlike `python script.py`, does not look into the current folder.
    sys.path.append(os.getcwd())
    try:
        with _named_failure(name):
            return importlib.import_module(name)
    finally:
        sys.path.remove(os.getcwd())


@contextmanager
def _named_failure(source: str) -> Iterator[None]:
    """The user's own code may raise anything while it is imported."""
    try:
        yield
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(f"training.reward_function could not import {source} ({reason})") from error
