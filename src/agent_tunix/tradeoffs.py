"""Why one component of a run's reward falls while another rises: measured on a checkpoint, printed with advice."""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Key

from agent_tunix import (
    checkpoints,
    component_gradients,
    component_walks,
    components,
    policies,
    recipes,
    runs,
    training,
    weight_limits,
    workshop,
)
from agent_tunix.component_gradients import Gradients
from agent_tunix.components import Scored, Stored
from agent_tunix.diagnostics.advice import Situation, advise
from agent_tunix.errors import RunError
from agent_tunix.models import Parameters
from agent_tunix.tradeoff_text import Component, Pair, Stage, Tradeoff
from agent_tunix.types import UNBOUNDED, Bounds, Params, Rollouts
from agent_tunix.workshop import Workshop

STAGES = 8
"""Equal parts of a run's rollouts for which the forecast is compared with what happened."""


def tradeoff(
    path: Path | str,
    *,
    checkpoint: int | Literal["best"] | None = None,
    prompts: int = 64,
    samples: int = 512,
    amount: float = 0.05,
    directions: int = 20,
    walks: bool = True,
    seed: int = 0,
) -> Tradeoff:
    """Samples a checkpoint of a run and says what its components do to each other.

    Args:
      path: Run folder.
      checkpoint: Step, or `best` by held-out accuracy; None is the newest.
      prompts: Training prompts to sample.
      samples: Completions in all, and at every point of the walks along the gradients.
      amount: Change that the walks look for, as a share of the declared range of a component, or of that seen.
      directions: Random directions to compare with.
      walks: Whether to measure the divergence of raising and lowering each component, most of the time it takes.
      seed: Of all samples.

    Raises:
      RunError: If the run has no such checkpoint, or its reward has fewer than two components.
    """
    shop, parameters = policies.load(path, checkpoint)
    shop = _unfiltered(shop)
    group = max(2, samples // prompts)
    bench = _Bench(shop, parameters, prompts, group, jax.random.key(seed))
    rollouts, score = bench.draw()
    names = list(components.present_parts(score))
    if len(names) < 2:
        raise RunError(f"the reward of {path} has {len(names)} component; a trade-off needs two")
    step, scale = _adam_scale(Path(path), shop, parameters, checkpoint)
    values = np.stack([np.asarray(score.parts[name], np.float64) for name in names])
    temperature = shop.config.sampling.temperature
    gradients = component_gradients.gradients(
        shop.policy, parameters, rollouts, values, scale=scale, temperature=temperature
    )
    found = _components(score, names, bench.reward.parts)
    if walks:
        found |= _walked(bench, found, names, gradients, amount, directions, seed)
    stored = _stored(path)
    pairs = [
        _pair(score, found, first, second, gradients, shop, stored)
        for first, second in itertools.permutations(names, 2)
    ]
    return Tradeoff(str(path), step, rollouts.shape[0] * rollouts.shape[1], found, tuple(pairs))


def _unfiltered(shop: Workshop) -> Workshop:
    """Gradients and divergences are those of the policy itself, without top-k, top-p and min-p."""
    sampling = dataclasses.replace(shop.config.sampling, top_k=0, top_p=1.0, min_p=0.0)
    if not sampling.temperature:
        raise RunError("the run samples at temperature 0, where a policy has no gradient")
    return shop._replace(config=dataclasses.replace(shop.config, sampling=sampling))


class _Bench:
    """A checkpoint with its prompts, sampler and reward."""

    def __init__(self, shop: Workshop, parameters: Parameters, prompts: int, group: int, key: Key[Array, ""]) -> None:
        self.shop, self.parameters, self.group = shop, parameters, group
        self.rows = shop.dataset.train[:prompts]
        self.sample = workshop.sampler(shop)
        self.reward = recipes.recipe(shop.config).reward
        self.keys = jax.random.split(key)

    def draw(self) -> tuple[Rollouts, Scored]:
        rollouts = self.sample(self.parameters, self.rows, self.group, self.keys[0])
        return rollouts, self.reward(rollouts)

    def reader(self, names: Sequence[str]) -> component_walks.Read:
        return component_walks.reader(
            self.shop.policy, self.parameters, self.sample, self.reward, names, self.rows, self.keys[1],
            group_size=self.group, temperature=self.shop.config.sampling.temperature,
        )  # fmt: skip


def _adam_scale(
    path: Path, shop: Workshop, parameters: Parameters, checkpoint: int | Literal["best"] | None
) -> tuple[int, Params | None]:
    """Step of the checkpoint, and the factors by which Adam stretches a gradient."""
    if checkpoint == 0:
        return 0, None
    optimizer = workshop.optimizer(shop.config)[0]
    shaping = recipes.recipe(shop.config).shaping
    like = training.TrainState(parameters.trainable, optimizer.init(parameters.trainable), shaping.init())
    manager = checkpoints.Checkpoints(path / runs.CHECKPOINTS, keep=shop.config.checkpoint.keep)
    try:
        found = manager.restore(like, manager.best_step() if checkpoint == "best" else checkpoint)
    finally:
        manager.close()
    if found is None:
        raise RunError(f"{path} has no complete checkpoint yet; train it first")
    squares = optax.tree_utils.tree_get(training.TrainState(*found[0]).optimizer, "nu")
    moved = any(np.asarray(leaf).any() for leaf in jax.tree.leaves(squares))
    scale = jax.tree.map(lambda leaf: 1 / (jnp.sqrt(leaf) + shop.config.optimizer.eps), squares) if moved else None
    return int(found[1]["progress"]["step"]), scale


def _components(score: Scored, names: Sequence[str], declared: Mapping[str, Bounds]) -> dict[str, Component]:
    measures = components.component_measures(score)
    present = components.present_parts(score)

    def component(name: str) -> Component:
        part = {label: measures[f"reward/part/{name}/{label}"] for label in ("min", "max", "weight", "skewness")}
        bounds = declared.get(name, UNBOUNDED)
        return Component(
            mean=float(np.nanmean(present[name])),
            std=measures[f"reward/part/{name}/group_std"],
            low=part["min"],
            high=part["max"],
            least=bounds.low if math.isfinite(bounds.low) else part["min"],
            greatest=bounds.high if math.isfinite(bounds.high) else part["max"],
            weight=part["weight"],
            share=measures[f"reward/part/{name}/advantage_share"],
            skewness=part["skewness"],
        )

    return {name: component(name) for name in names}


def _walked(
    bench: _Bench,
    found: Mapping[str, Component],
    names: Sequence[str],
    gradients: Gradients,
    amount: float,
    directions: int,
    seed: int,
) -> dict[str, Component]:
    """The components that vary, with what it costs to raise and to lower each, and what random directions do."""
    read = bench.reader(names)
    out: dict[str, Component] = {}
    for index, name in enumerate(names):
        change, direction = amount * found[name].span, gradients.mean[index]
        norm = float(np.linalg.norm(direction))
        if change and norm:
            up, down = (
                component_walks.follow(read, bench.parameters, direction, index, goal, first_step=change / (4 * norm))
                for goal in (change, -change)
            )
            out[name] = dataclasses.replace(found[name], asymmetry=component_walks.asymmetry(up, down, seed=seed))
    costs = [kl for one in out.values() if one.asymmetry for kl in (one.asymmetry.up, one.asymmetry.down)]
    budget = min((kl for kl in costs if 0 < kl < math.inf), default=0.0)
    if not directions or not budget:
        return out
    changes = component_walks.random_changes(
        read, bench.parameters, budget, directions=directions, first_step=1.0, seed=seed
    )
    falls = dict(zip(names, (changes < 0).mean(0).tolist(), strict=True))
    return {name: dataclasses.replace(one, random_falls=falls[name]) for name, one in out.items()}


def _stored(path: Path | str) -> Stored | None:
    """Scores of the run's own rollouts; None if none were kept."""
    if not (Path(path) / runs.SAMPLES).is_file():
        return None
    stored = components.stored(runs.groups(runs.read_samples(path)))
    return stored if len(stored.steps) else None


def _pair(
    score: Scored,
    found: Mapping[str, Component],
    first: str,
    second: str,
    gradients: Gradients,
    shop: Workshop,
    stored: Stored | None,
) -> Pair:
    f, g, used = components.pair(score, first, second)
    moments, limit = weight_limits.moments(f, g, used), weight_limits.weight_limit(f, g, used)
    one, other = found[first], found[second]
    names = list(found)
    which = names.index(first), names.index(second), one.weight, other.weight
    gradient = component_gradients.geometry_of(gradients.plain, *which)
    stretched = gradients.scaled and component_gradients.geometry_of(gradients.scaled, *which)
    seen = Situation(
        first, second, one.weight, other.weight, moments.correlation, limit.value, limit.low, limit.high,
        met_second=other.met, share_second=other.share,
        cosine=gradient.cosine, cosine_high=gradient.high, threshold=gradient.threshold,
        low_rank=shop.config.model.lora_rank > 0,
    )  # fmt: skip
    return Pair(
        first,
        second,
        moments,
        limit,
        seen.ratio,
        weight_limits.forecast(moments, one.weight, other.weight),
        components.quadrants(f, g, weight_limits.centred(np.asarray(score.value, np.float64), used), used),
        gradient,
        stretched,
        stages(stored, first, second) if stored else (),
        advise(seen),
    )


def stages(stored: Stored, first: str, second: str, *, count: int = STAGES) -> list[Stage]:
    """A run in equal parts of its rollouts: what each said about the second component, and what became of it.

    Args:
      stored: Scores of a run's rollouts.
      first: The component that is pushed.
      second: The component that may fall.
      count: At most so many parts.
    """
    if first not in stored.parts or second not in stored.parts:
        return []
    weights = components.part_weights(stored)
    pieces = [piece for piece in np.array_split(np.arange(len(stored.steps)), count) if piece.size]
    means = [tuple(float(np.nanmean(stored.parts[name][piece])) for name in (first, second)) for piece in pieces]
    after = [*(mean[1] for mean in means[1:]), math.nan]
    out = []
    for piece, (mean_first, mean_second), later in zip(pieces, means, after, strict=True):
        f, g, used = (table[piece] for table in components.pair(stored, first, second))
        moments = weight_limits.moments(f, g, used)
        forecast = weight_limits.forecast(moments, weights[first], weights[second])
        steps = stored.steps[piece]
        out.append(
            Stage(
                int(steps[0]), int(steps[-1]), mean_first, mean_second, moments.covariance,
                weight_limits.weight_limit(f, g, used), forecast, later - mean_second,
            )
        )  # fmt: skip
    return out
