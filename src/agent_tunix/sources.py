"""Where rows come from and in which order they are drawn, as a config says."""

import dataclasses
import math
import re
import types
import typing
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from agent_tunix import curricula, data, mixing
from agent_tunix.collecting import Batches, Feedback, no_feedback
from agent_tunix.config import Config, CurriculumConfig, DataConfig
from agent_tunix.curricula import Curriculum, Preference, Solved
from agent_tunix.errors import ConfigError, unknown
from agent_tunix.measures import mixture_measures

MIXTURE = "mixture"
"""The `data.task` of several sources."""

OWN_SETTINGS = (
    "task", "path", "level", "train_size", "heldout_size", "prompt_column", "answer_column", "demonstration_column",
    "malformed", "symbolic", "gym", "gym_arguments",
)  # fmt: skip
"""Fields of `DataConfig` that every source of a mixture may set for itself."""


class Source(NamedTuple):
    """One source of rows.

    Attributes:
      settings: Those of `data` with the source's own in their place.
      weight: Share of the batches, next to the weights of the others; 0 for rows that are only evaluated.
      reward_function: Of its own, as `training.reward_function`; None for that of the run.
    """

    settings: DataConfig
    weight: float = 1.0
    reward_function: str | None = None


def sources(config: Config) -> dict[str, Source]:
    """The sources of a mixture by name; nothing for a single task.

    Raises:
      ConfigError: A source that cannot mean anything.
    """
    chosen = config.data
    if chosen.task != MIXTURE:
        if chosen.sources:
            raise ConfigError(f"data.sources is set, but data.task is {chosen.task}; choose data=mixture")
        return {}
    found = {name: _source(config, name, given) for name, given in chosen.sources.items()}
    if not any(source.weight > 0 for source in found.values()):
        raise ConfigError(
            "data.sources has no source to train on; name some, as in data.sources.sorting.weight=2 "
            "data.sources.arithmetic.weight=1"
        )
    return found


def _source(config: Config, name: str, given: Any) -> Source:
    if not re.fullmatch(r"[\w-]+", str(name)):
        raise ConfigError(f"data.sources has the name `{name}`; use letters, digits, `_` and `-`")
    hints = typing.get_type_hints(DataConfig)
    allowed = {key: hints[key] for key in OWN_SETTINGS} | {"weight": float, "reward_function": str | None}
    if not isinstance(given, Mapping):
        raise ConfigError(f"data.sources.{name} is {given!r}; give its settings, such as {{weight: 2}}")
    for key, value in given.items():
        if key not in allowed:
            raise ConfigError(unknown(f"key in data.sources.{name}", key, allowed))
        if not _fits(allowed[key], value):
            raise ConfigError(f"data.sources.{name}.{key} is {value!r}, which does not fit")
    own = {"task": name} | {key: value for key, value in given.items() if key in OWN_SETTINGS}
    if own["task"] not in data.names():
        raise ConfigError(unknown(f"data.sources.{name}.task", own["task"], data.names()))
    weight = float(given.get("weight", 1.0))
    if not 0 <= weight < math.inf:
        raise ConfigError(f"data.sources.{name}.weight is {weight}; it must be at least 0 and finite")
    return Source(dataclasses.replace(config.data, sources={}, **own), weight, given.get("reward_function"))


def _fits(hint: Any, value: Any) -> bool:
    """Whether a value is of a type, whole numbers being numbers and truth values neither."""
    if isinstance(hint, types.UnionType):
        return any(_fits(part, value) for part in typing.get_args(hint))
    kind = typing.get_origin(hint) or hint
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else Mapping if kind is dict else kind)


def dataset(config: Config) -> data.Dataset:
    """The rows to train on and those held out.

    Raises:
      DataError: If they cannot be read.
    """
    found = sources(config)
    if not found:
        return _loaded(config.data, config.seed)
    parts = {name: _loaded(source.settings, config.seed) for name, source in found.items()}
    trained = {name: part if found[name].weight else part._replace(train=[]) for name, part in parts.items()}
    return mixing.joined(trained)


def _loaded(chosen: DataConfig, seed: int) -> data.Dataset:
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
        seed=seed,
        symbolic=chosen.symbolic,
        gym_task=chosen.gym,
        gym_arguments=chosen.gym_arguments,
    )


def batches(config: Config, rows: list[dict[str, Any]], solved: Solved) -> tuple[Batches, Feedback]:
    """The order in which training rows are drawn, and what it is told of every graded batch.

    Args:
      config: The whole run.
      rows: To train on.
      solved: How far completions solve their prompts.

    Raises:
      ConfigError: If a batch cannot be drawn from the rows.
    """
    how = {"size": config.training.prompts_per_batch, "seed": config.seed}
    weights = {name: source.weight for name, source in sources(config).items()}
    if config.data.curriculum.by != "none":
        drawn = _curriculum(config, rows, solved, _base(rows, weights))
        return drawn, _told(solved, drawn.learn) if weights else drawn.learn
    if weights:
        return mixing.batches(rows, weights, **how), _told(solved, no_feedback)
    return data.batches(rows, **how), no_feedback


def _told(solved: Solved, further: Feedback) -> Feedback:
    """Feedback that measures the sources of a mixture first."""
    return lambda rollouts, score: {
        **mixture_measures(rollouts, score, solved(rollouts, score)),
        **further(rollouts, score),
    }


def _base(rows: list[dict[str, Any]], weights: Mapping[str, float]) -> Float[np.ndarray, " rows"] | None:
    """Weights of rows by which every source has its share."""
    if not weights:
        return None
    counts = Counter(row[mixing.SOURCE] for row in rows)
    return np.array([weights[row[mixing.SOURCE]] / counts[row[mixing.SOURCE]] for row in rows])


def _curriculum(
    config: Config, rows: list[dict[str, Any]], solved: Solved, base: Float[np.ndarray, " rows"] | None
) -> Curriculum:
    chosen = config.data.curriculum
    return Curriculum(
        rows,
        PREFERENCES[chosen.by](chosen, [row["level"] for row in rows], _run_batches(config)),
        solved,
        size=config.training.prompts_per_batch,
        seed=config.seed,
        memory=chosen.memory,
        prior_rate=chosen.target,
        weights=base,
    )


def _run_batches(config: Config) -> int:
    """Batches of a whole run."""
    training = config.training
    return math.ceil(training.steps / (training.num_iterations * training.minibatches))


def _near_rate(chosen: CurriculumConfig, levels: list[int], batches: int) -> Preference:
    return curricula.near_rate(chosen.target, chosen.floor)


def _easy_first(chosen: CurriculumConfig, levels: list[int], batches: int) -> Preference:
    return curricula.easy_first(levels, start=chosen.start, draws=max(1, round(chosen.pace * batches)))


PREFERENCES = {"solve_rate": _near_rate, "difficulty": _easy_first}
"""What is wanted, by the value of `data.curriculum.by`."""
