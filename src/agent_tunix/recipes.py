"""Settings become callables here, and only here; `validate` first says what cannot mean anything.

The names a setting may take are the keys of the tables below, so that a function is added in one line.
"""

import inspect
import math
import typing
from collections.abc import Callable, Mapping
from dataclasses import asdict, is_dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from agent_tunix import (
    advantages,
    buckets,
    curricula,
    data,
    lookup,
    losses,
    meshes,
    papers,
    rewards,
    sources,
    tasks,
    text,
)
from agent_tunix.config import Config, LossConfig, RewardConfig, TunixConfig
from agent_tunix.errors import ConfigError, unknown
from agent_tunix.plain import flatten
from agent_tunix.rewards import custom
from agent_tunix.types import Advantage, KeepGroup, Loss, Recipe, Reward, Rollouts, Score, Shaping

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
    "reward_to_go": (advantages.reward_to_go, advantages.per_score),
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

RUNNERS: Mapping[str, Callable[[RewardConfig], rewards.Runner | None]] = {
    "inline": lambda reward: None,
    "threads": lambda reward: rewards.threads(reward.workers or 8, timeout_s=reward.timeout_s),
    "processes": lambda reward: rewards.processes(
        reward.workers, timeout_s=reward.timeout_s, memory_mb=reward.memory_mb
    ),
    "asynchronous": lambda reward: rewards.asynchronous(reward.workers or 64, timeout_s=reward.timeout_s),
}

CHOICES: Mapping[str, Callable[[], list[str]]] = {
    "data.task": lambda: [*data.names(), sources.MIXTURE],
    "data.curriculum.by": lambda: ["none", *sources.PREFERENCES],
    "data.curriculum.solved": lambda: ["answer", "reward"],
    "data.malformed": lambda: ["raise", "skip"],
    "data.overlong_prompts": lambda: ["raise", "truncate"],
    "reward.run": lambda: list(RUNNERS),
    "reward.on_failure": lambda: ["abstain", "raise"],
    "advantage.estimator": lambda: [*ESTIMATORS, "decoupled"],
    "loss.surrogate": lambda: list(SURROGATES),
    "loss.ratio": lambda: list(RATIOS),
    "loss.kl_estimator": lambda: list(DIVERGENCES),
    "loss.aggregation": lambda: list(AGGREGATIONS),
    "training.stop_on": lambda: ["never", "error", "warn"],
    **dict.fromkeys(("model.dtype", "optimizer.mu_dtype"), lambda: ["float32", "bfloat16"]),
    "model.quantize": lambda: ["int8", "int4", "nf4"],
    "optimizer.schedule": lambda: ["cosine", "constant"],
    "engine": lambda: ["jax", "tunix"],
    "tunix.rollout": lambda: ["vanilla", "vllm", "sglang_jax"],
    "resume": lambda: ["auto", "force", "never"],
    "distributed": lambda: ["auto", "never"],
}

AT_LEAST: Mapping[str, float] = {
    **dict.fromkeys(("model.layers", "model.width", "model.heads", "model.kv_heads", "model.mlp"), 1),
    "model.head_dim": 2,
    **dict.fromkeys(("data.level", "data.train_size", "data.heldout_size"), 1),
    "data.max_prompt_tokens": 2,
    **dict.fromkeys(("data.few_shot", "data.curriculum.floor", "data.curriculum.memory"), 0),
    **dict.fromkeys(("sampling.max_completion_tokens", "sampling.rollout_microbatches"), 1),
    **dict.fromkeys(("training.prompts_per_batch", "training.num_iterations", "training.minibatches"), 1),
    **dict.fromkeys(("training.microbatches", "training.rollouts_ahead"), 0),
    **dict.fromkeys(("sampling.streams", "training.streams"), 0),
    **dict.fromkeys(("evaluation.rows", "evaluation.prompts_per_batch", "warm_start.rows_per_batch"), 1),
    **dict.fromkeys(("checkpoint.every_steps", "checkpoint.keep"), 1),
    **dict.fromkeys(("seed", "model.lora_rank", "sampling.temperature", "sampling.top_k", "sampling.min_p"), 0),
    **dict.fromkeys(("reward.workers", "reward.retries"), 0),
    "reward.memory_mb": 64,
    **dict.fromkeys(("reward.kl_penalty", "loss.kl_coefficient", "optimizer.weight_decay"), 0),
    **dict.fromkeys(("optimizer.warmup_steps", "optimizer.final_fraction", "optimizer.b1", "optimizer.b2"), 0),
    **dict.fromkeys(("warm_start.steps", "warm_start.warmup_steps", "warm_start.final_fraction"), 0),
    **dict.fromkeys(("diagnostics.every_steps", "diagnostics.report_every_steps"), 0),
    **dict.fromkeys(("training.steps", "training.max_refills", "evaluation.every_steps", "evaluation.patience"), 0),
}
ABOVE: Mapping[str, float] = {
    **dict.fromkeys(("sampling.top_p", "optimizer.learning_rate", "warm_start.learning_rate", "model.lora_alpha"), 0),
    **dict.fromkeys(("data.curriculum.target", "data.curriculum.start", "data.curriculum.pace"), 0),
    "reward.timeout_s": 0,
    **dict.fromkeys(("loss.epsilon", "loss.epsilon_high", "loss.mismatch_cap", "optimizer.eps"), 0),
    "optimizer.clip_norm": 0,
    "loss.dual_clip": 1,
}
AT_MOST: Mapping[str, float] = {
    **dict.fromkeys(("sampling.top_p", "optimizer.final_fraction", "warm_start.final_fraction"), 1),
    **dict.fromkeys((f"data.curriculum.{name}" for name in ("floor", "memory", "start", "pace")), 1),
    "training.rollouts_ahead": 1,
}
BELOW: Mapping[str, float] = dict.fromkeys(
    ("data.curriculum.target", "sampling.min_p", "optimizer.b1", "optimizer.b2"), 1
)

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
    _check_values(config)
    _check_data(config)
    _check_portions(config)
    _check_combinations(config)
    _check_engine(config)
    _typed_arguments(config)


def _check_values(config: Config) -> None:
    values = flatten(asdict(config))
    _check_choices(values)
    _check_bounds(values)


def _check_data(config: Config) -> None:
    """Checks the settings of rows, those of every source of a mixture as if it were the only one."""
    found = sources.sources(config)
    for name, source in found.items():
        try:
            alone = replace(config, data=source.settings)
            _check_values(alone)
            _check_data(alone)
        except ConfigError as error:
            raise ConfigError(f"source {name}: {error}") from error
    for task, key in (("file", "path"), ("math", "path"), ("gym", "gym")):
        if config.data.task == task and getattr(config.data, key) is None:
            what = "the name of a data set there" if key == "gym" else "a JSONL, CSV or Parquet file there"
            raise ConfigError(f"data.{key} is not set; data.task={task} needs {what}")
    own = [name for name, source in found.items() if source.reward_function is not None]
    if own and config.advantage.estimator == "decoupled":
        raise ConfigError(
            f"advantage.estimator=decoupled weighs the parts of one reward, but source {own[0]} has its own; choose "
            "another estimator"
        )


def _check_choices(values: Mapping[str, Any]) -> None:
    for key, known in CHOICES.items():
        if values[key] is not None and values[key] not in known():
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
    training, devices = config.training, meshes.mesh(config.mesh).rows
    prompts = training.prompts_per_batch
    for key, number, whole in (
        ("sampling.rollout_microbatches", config.sampling.rollout_microbatches, prompts),
        ("training.minibatches", training.minibatches, prompts),
    ):
        if whole % number:
            what = "prompts of a minibatch" if whole != prompts else "prompts (training.prompts_per_batch)"
            raise ConfigError(f"{key} is {number}, which does not divide {whole} {what}; choose a divisor of {whole}")
    lengths = config.data.max_prompt_tokens, config.sampling.max_completion_tokens
    for what, number in (
        ("prompts of a minibatch", prompts // training.minibatches),
        ("prompts of a rollout part", prompts // config.sampling.rollout_microbatches),
    ):
        if number % devices:
            raise ConfigError(f"mesh is {config.mesh}, which does not divide {number} {what}; choose a divisor")
    if config.engine == "tunix":
        _check_tunix_portions(config)
        return
    own = prompts // training.minibatches // devices
    try:
        buckets.cut_of(training.microbatches or 1, own, training.group_size, *lengths)
    except ValueError as error:
        raise ConfigError(f"training.microbatches is {training.microbatches}: {error}") from error


def _check_tunix_portions(config: Config) -> None:
    """There microbatches are equal numbers of prompts, and rows are dealt over the training mesh."""
    training, prompts = config.training, config.training.prompts_per_batch // config.training.minibatches
    microbatches, rows = training.microbatches or 1, meshes.mesh(config.tunix.train_mesh).rows
    if prompts % microbatches:
        raise ConfigError(
            f"training.microbatches is {microbatches}, which does not divide {prompts} prompts of a minibatch; with "
            f"engine=tunix choose a divisor of {prompts}"
        )
    completions = prompts // microbatches * training.group_size
    if completions % rows:
        raise ConfigError(
            f"tunix.train_mesh is {config.tunix.train_mesh}, whose data and fsdp axes deal rows to {rows}, which does "
            f"not divide {completions} completions of a microbatch; choose a divisor"
        )


def _check_combinations(config: Config) -> None:
    model, loss, group = config.model, config.loss, config.training.group_size
    for wrong, sentence in (
        (group < 2, f"training.group_size is {group}; credit compares the completions of a group, so take at least 2"),
        (
            model.weights is None and model.name != "tiny",
            f"model.weights is not set, and model.name={model.name} has no sizes of its own; name a folder, "
            "hf:ORGANISATION/NAME or kaggle:HANDLE, or take model=tiny",
        ),
        (
            model.heads % model.kv_heads,
            f"model.kv_heads is {model.kv_heads}, which does not divide model.heads = {model.heads}; choose a divisor",
        ),
        (
            model.quantize and not model.lora_rank,
            f"model.quantize is {model.quantize}, which keeps a frozen backbone in fewer bits, but every parameter "
            "trains; set model.lora_rank",
        ),
        (
            model.quantize and meshes.mesh(config.mesh).devices != meshes.mesh(config.mesh).data,
            f"mesh is {config.mesh}, but weights in {model.quantize} cannot be cut; take mesh=dataN, or leave out "
            "model.quantize",
        ),
        (model.head_dim % 2, f"model.head_dim is {model.head_dim}; rotary positions need an even number"),
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
            config.reward.run == "inline" and config.reward.timeout_s is not None,
            f"reward.timeout_s is {config.reward.timeout_s}, but a call that runs inline cannot be cut off; add "
            "reward.run=processes",
        ),
        (
            config.reward.run != "processes" and config.reward.memory_mb is not None,
            f"reward.memory_mb is {config.reward.memory_mb}, which only reward.run=processes can enforce",
        ),
        (
            loss.surrogate != "clipped" and loss.dual_clip is not None,
            f"loss.dual_clip is {loss.dual_clip}, which only loss.surrogate=clipped has; set loss.dual_clip=null",
        ),
    ):
        if wrong:
            raise ConfigError(sentence)


def _check_engine(config: Config) -> None:
    """Refuses settings of one engine with the other."""
    model, sampling, mesh = config.model, config.sampling, config.tunix.rollout_mesh
    if config.engine == "jax":
        if config.tunix != TunixConfig():
            raise ConfigError("a setting of tunix is not its default, but engine is jax; add engine=tunix")
        return
    meshes.mesh(mesh or "data1")
    filtered = sampling.top_k > 0 or sampling.top_p < 1
    for wrong, sentence in (
        (
            config.mesh != "data1",
            f"mesh is {config.mesh}, but engine=tunix has meshes of its own; set tunix.train_mesh and "
            "tunix.rollout_mesh",
        ),
        (
            config.training.rollouts_ahead,
            "training.rollouts_ahead is 1, which Tunix's loop has no place for; set it to 0, or take engine=jax",
        ),
        (
            sampling.streams or config.training.streams,
            "sampling.streams and training.streams are threads of engine=jax; leave them at 0 with engine=tunix",
        ),
        (
            config.data.curriculum.by == "solve_rate",
            "data.curriculum.by is solve_rate, but Tunix's loop draws rows before the last ones are graded; take "
            "engine=jax",
        ),
        (
            model.quantize,
            f"model.quantize is {model.quantize}, but Tunix's modules hold weights in full; take engine=jax",
        ),
        (
            sampling.min_p,
            f"sampling.min_p is {sampling.min_p}, which Tunix's samplers do not have; set it to 0, or take engine=jax",
        ),
        (
            config.loss.mismatch_cap is not None and config.tunix.rollout == "vanilla" and filtered,
            "loss.mismatch_cap needs the distribution that tokens were drawn from, but Tunix's sampler tells the one "
            "before top_k and top_p; set those to 0 and 1, or take engine=jax",
        ),
        (
            model.dtype != "float32" or model.remat,
            f"model.dtype is {model.dtype} and model.remat {str(model.remat).lower()}; with engine=tunix modules are "
            "built in float32 without rematerialisation, so take engine=jax",
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
    plain = Recipe(reward(config), shaping(config), advantage(config), loss(config), keep_group(config))
    return plain if config.paper.name is None else papers.paper(config.paper.name, plain, config.paper.numbers)


def reward(config: Config) -> Reward:
    """`training.reward_function`, or the default reward with the weights of `reward`.

    Where sources of a mixture have a reward of their own, every prompt goes to that of its source.
    """
    names = {name: source.reward_function for name, source in sources.sources(config).items()}
    chosen = {name: found for name, found in names.items() if found is not None}
    main = _reward(config, "training.reward_function", config.training.reward_function)
    if not chosen:
        return main
    named = {found: _reward(config, f"data.sources.{name}.reward_function", found) for name, found in chosen.items()}
    others = {} if len(chosen) == len(names) else {"default": main}
    try:
        return rewards.route("source", {name: named[found] for name, found in chosen.items()}, **others)
    except ValueError as error:
        raise ConfigError(f"data.sources: {error}") from error


def _reward(config: Config, setting: str, name: str | None) -> Reward:
    chosen = config.reward
    how = {"run": runner(chosen), "on_failure": rewards.OnFailure(chosen.retries, chosen.on_failure)}
    if name in (None, "default"):
        return rewards.default(chosen.alpha, chosen.beta, is_correct=is_correct, **how)
    return named_reward(setting, name, **how)


def solved(config: Config, reward: Reward) -> curricula.Solved:
    """How far completions solve their prompts, as `data.curriculum.solved` says.

    Raises:
      ConfigError: The share of the attainable reward is asked for, but its bounds are not known.
    """
    low, high = reward.bounds
    if config.data.curriculum.solved == "reward":
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ConfigError(
                f"data.curriculum.solved=reward needs the range of `{reward.name}`, which is {low} to {high}; declare "
                "its bounds, or leave the setting at `answer`"
            )
        return lambda rollouts, score: np.where(score.valid, (np.asarray(score.value) - low) / (high - low), np.nan)
    if "correctness" in reward.parts and reward.name == "default":
        return lambda rollouts, score: np.asarray(score.parts["correctness"])
    return _graded


def _graded(rollouts: Rollouts, score: Score) -> Float[np.ndarray, "prompts group"]:
    """The verdicts of the strict grader."""
    columns = rollouts.columns
    rows = [{name: values[place] for name, values in columns.items()} for place in range(len(rollouts.prompts))]
    graded = [[is_correct(text, row) for text in texts] for row, texts in zip(rows, rollouts.completions, strict=True)]
    return np.array(graded, float)


def named_reward(setting: str, name: str, **how: Any) -> Reward:
    """The reward that a setting names, `file.py:function` for instance.

    Args:
      setting: Key of the setting, for messages.
      name: Of a grader in `agent_tunix.rewards`, or of a `Reward`, a function that `as_reward` takes or one without
        parameters that returns either, as `package.module:name` or `file.py:name`.
      **how: `run` and `on_failure` of `as_reward`; a `Reward` brings its own.

    Raises:
      ConfigError: If it cannot be found, or is no reward.
    """
    if name == "default":
        return rewards.default(is_correct=is_correct, **how)
    found = lookup.find(setting, name, {"default": None, **graders()})
    try:
        return rewards.as_reward(_made(found), **how)
    except TypeError as error:
        raise ConfigError(f"{setting}={name}: {error}") from error


def runner(chosen: RewardConfig) -> rewards.Runner | None:
    """Where the calls of graders run; None leaves it to each function."""
    return RUNNERS[chosen.run](chosen)


def _made(found: Any) -> Any:
    """What a function without parameters makes, or the object itself."""
    if isinstance(found, Reward | Shaping):
        return found
    try:
        parameters = inspect.signature(found).parameters.values()
    except (TypeError, ValueError):
        return found
    free = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [
        parameter for parameter in parameters if parameter.default is parameter.empty and parameter.kind not in free
    ]
    grades = {parameter.name for parameter in parameters} & {"response", "completion", "completions"}
    return found if needed or grades else found()


def is_correct(response: str, row: Mapping[str, Any]) -> float:
    """1 where the answer a response states is right by the rules of the row's task, else 0; the strict grader."""
    check = tasks.check_of(row)
    if check is None:
        return rewards.exact_answer(response, row["answer"], symbolic=row.get("symbolic") is True)
    stated = text.stated_answer(response)
    return float(stated is not None and check(stated, row))


def shaping(config: Config) -> Shaping:
    """What is done to the score before credit is given: `reward.shaping`, then the divergence penalty."""
    name, coefficient = config.reward.shaping, config.reward.kl_penalty
    chosen = []
    if name is not None:
        found = _made(lookup.find("reward.shaping", name, shapings()))
        if not isinstance(found, Shaping):
            raise ConfigError(f"reward.shaping={name} is no Shaping; name one, or a function without parameters of one")
        chosen.append(found)
    if coefficient:
        chosen.append(losses.kl_penalty(coefficient))
    return chosen[0] if len(chosen) == 1 else rewards.chain(*chosen) if chosen else rewards.identity()


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


def shapings() -> dict[str, Callable[..., Any]]:
    """The shapings of `agent_tunix.rewards` that need no arguments, by name."""
    public = {name: getattr(rewards, name) for name in rewards.__all__}
    return {
        name: function
        for name, function in public.items()
        if inspect.isfunction(function)
        and inspect.signature(function).return_annotation is Shaping
        and all(
            parameter.default is not parameter.empty for parameter in inspect.signature(function).parameters.values()
        )
    }


def graders() -> dict[str, Callable[..., Any]]:
    """The functions of `agent_tunix.rewards` and its file `custom` that grade responses by themselves, by name."""
    public = {name: getattr(rewards, name) for name in rewards.__all__} | vars(custom)
    return {
        name: function
        for name, function in public.items()
        if inspect.isfunction(function)
        and not name.startswith("_")
        and next(iter(inspect.signature(function).parameters), None) in ("response", "completion")
    }
