"""Why one component of a run's reward falls while another rises: measured on a checkpoint, printed with advice."""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Key

from agent_tunix import checkpoints, component_gradients, components, jobs, recipes, runs, training, workshop
from agent_tunix.component_gradients import Asymmetry, Geometry
from agent_tunix.components import Limit, Moments, Quadrant, Scored, Stored
from agent_tunix.diagnostics.advice import Advice, Situation, advise
from agent_tunix.errors import RunError
from agent_tunix.models import Parameters
from agent_tunix.plain import plain
from agent_tunix.types import Rollouts
from agent_tunix.workshop import Workshop

STAGES = 8
"""Equal parts of a run's rollouts for which the forecast is compared with what happened."""


class Stage(NamedTuple):
    """A part of a run, and what its rollouts said about the component that may fall.

    Attributes:
      first_step: Where it begins.
      last_step: Where it ends.
      mean_first: Of the component that is pushed.
      mean_second: Of the one that may fall.
      covariance: Within groups.
      limit: With its interval.
      forecast: First-order change of the second; its sign is what matters.
      happened: Change of the second's mean to the next stage; nan for the last.
    """

    first_step: int
    last_step: int
    mean_first: float
    mean_second: float
    covariance: float
    limit: Limit
    forecast: float
    happened: float


@dataclasses.dataclass(frozen=True)
class Component:
    """One component at the checkpoint.

    Attributes:
      mean: Of fresh completions.
      std: Mean deviation within groups.
      low: Least value seen.
      high: Greatest value seen.
      weight: In the reward, by least squares.
      share: Signed share of the credit.
      skewness: Within groups; where it is negative, raising the component is dearer than lowering it.
      asymmetry: The divergence of raising it over that of lowering it, along its gradient; None if not asked for.
      random_falls: Share of random directions that lower it, all as far as the least divergence that any of the walks
        needed; nan if not measured.
    """

    mean: float
    std: float
    low: float
    high: float
    weight: float
    share: float
    skewness: float
    asymmetry: Asymmetry | None = None
    random_falls: float = math.nan


@dataclasses.dataclass(frozen=True)
class Pair:
    """What pushing one component does to another, at the checkpoint.

    Attributes:
      first: The component that is pushed.
      second: The component that may fall.
      moments: Within groups.
      limit: Of the ratio of their weights.
      ratio: The actual one.
      forecast: First-order change of the second along the natural gradient.
      quadrants: With lift.
      gradient: Geometry of the component gradients; None without them.
      preconditioned: The same as Adam's step sees it; None where the checkpoint has no state of Adam.
      stages: The run in parts.
      advice: What to do.
    """

    first: str
    second: str
    moments: Moments
    limit: Limit
    ratio: float
    forecast: float
    quadrants: Mapping[str, Quadrant]
    gradient: Geometry | None
    preconditioned: Geometry | None
    stages: Sequence[Stage]
    advice: Sequence[Advice]


@dataclasses.dataclass(frozen=True)
class Tradeoff:
    """What `tradeoff` found.

    Attributes:
      run: The folder.
      step: Of the checkpoint.
      completions: Fresh ones that were sampled.
      components: By name.
      pairs: In both orders.
    """

    run: str
    step: int
    completions: int
    components: Mapping[str, Component]
    pairs: Sequence[Pair]

    def table(self) -> str:
        """Everything as plain text."""
        parts = [
            f"{self.run}, checkpoint {self.step}, {self.completions} completions",
            _component_table(self.components),
            *(_pair_text(pair) for pair in self.pairs),
            _advice_text(self.pairs),
        ]
        return "\n\n".join(parts)

    def to_json(self) -> dict[str, Any]:
        """Plain values only; numbers that are not finite are None."""
        return plain(_as_dict(self))


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
      amount: Change that the walks look for, as a share of the range a component was seen in.
      directions: Random directions to compare with.
      walks: Whether to measure the divergence of raising and lowering each component, most of the time it takes.
      seed: Of all samples.

    Raises:
      RunError: If the run has no such checkpoint, or its reward has fewer than two components.
    """
    shop, parameters = jobs.load(path, checkpoint)
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
    gradients = component_gradients.block_gradients(
        shop.policy, parameters, rollouts, values, temperature=temperature, blocks=max(3, min(prompts, 32))
    )
    found = _components(score, names)
    if walks:
        found |= _walked(bench, found, names, gradients, amount, directions, seed)
    stored = _stored(path)
    pairs = [
        _pair(score, found, first, second, _gradients_of(names, gradients, first, second), scale, shop, stored)
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
        self.reward = recipes.reward(shop.config)
        self.keys = jax.random.split(key)

    def draw(self) -> tuple[Rollouts, Scored]:
        rollouts = self.sample(self.parameters, self.rows, self.group, self.keys[0])
        return rollouts, self.reward(rollouts)

    def reader(self, names: Sequence[str]) -> component_gradients.Read:
        return component_gradients.reader(
            self.shop.policy, self.parameters, self.sample, self.reward, names, self.rows, self.keys[1],
            group_size=self.group, temperature=self.shop.config.sampling.temperature,
        )  # fmt: skip


def _adam_scale(
    path: Path, shop: Workshop, parameters: Parameters, checkpoint: int | Literal["best"] | None
) -> tuple[int, Float[np.ndarray, " parameters"] | None]:
    """Step of the checkpoint, and the root of the factors by which Adam stretches a gradient."""
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
    deviations = np.sqrt(np.asarray(ravel_pytree(squares)[0], np.float64))
    scale = (deviations + shop.config.optimizer.eps) ** -0.5 if deviations.any() else None
    return int(found[1]["progress"]["step"]), scale


def _components(score: Scored, names: Sequence[str]) -> dict[str, Component]:
    measures = components.component_measures(score)
    present = components.present_parts(score)

    def component(name: str) -> Component:
        part = {label: measures[f"reward/part/{name}/{label}"] for label in ("min", "max", "weight", "skewness")}
        return Component(
            mean=float(np.nanmean(present[name])),
            std=measures[f"reward/part/{name}/group_std"],
            low=part["min"],
            high=part["max"],
            weight=part["weight"],
            share=measures[f"reward/part/{name}/advantage_share"],
            skewness=part["skewness"],
        )

    return {name: component(name) for name in names}


def _walked(
    bench: _Bench,
    found: Mapping[str, Component],
    names: Sequence[str],
    gradients: Float[np.ndarray, "components blocks parameters"],
    amount: float,
    directions: int,
    seed: int,
) -> dict[str, Component]:
    """The components that vary, with what it costs to raise and to lower each, and what random directions do."""
    read = bench.reader(names)
    out: dict[str, Component] = {}
    for index, name in enumerate(names):
        change, direction = amount * (found[name].high - found[name].low), gradients[index].mean(0)
        norm = float(np.linalg.norm(direction))
        if change and norm:
            up, down = (
                component_gradients.follow(
                    read, bench.parameters, direction, index, goal, first_step=change / (4 * norm)
                )
                for goal in (change, -change)
            )
            out[name] = dataclasses.replace(found[name], asymmetry=component_gradients.asymmetry(up, down, seed=seed))
    costs = [kl for one in out.values() if one.asymmetry for kl in (one.asymmetry.up, one.asymmetry.down)]
    budget = min((kl for kl in costs if 0 < kl < math.inf), default=0.0)
    if not directions or not budget:
        return out
    changes = component_gradients.random_changes(
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


def _gradients_of(names: Sequence[str], gradients: np.ndarray, first: str, second: str) -> tuple[Any, Any]:
    return gradients[names.index(first)], gradients[names.index(second)]


def _pair(
    score: Scored,
    found: Mapping[str, Component],
    first: str,
    second: str,
    gradients: tuple[Any, Any],
    scale: np.ndarray | None,
    shop: Workshop,
    stored: Stored | None,
) -> Pair:
    f, g, used = components.pair(score, first, second)
    moments, limit = components.moments(f, g, used), components.weight_limit(f, g, used)
    one, other = found[first], found[second]
    gradient = component_gradients.geometry(gradients[0], gradients[1], one.weight, other.weight)
    stretched = None
    if scale is not None:
        stretched = component_gradients.geometry(gradients[0] * scale, gradients[1] * scale, one.weight, other.weight)
    span = other.high - other.low
    seen = Situation(
        first, second, one.weight, other.weight, moments.correlation, limit.value, limit.low, limit.high,
        met_second=(other.mean - other.low) / span if span else math.nan, share_second=other.share,
        cosine=gradient.cosine, cosine_high=gradient.high, threshold=gradient.threshold,
        low_rank=shop.config.model.lora_rank > 0,
    )  # fmt: skip
    return Pair(
        first,
        second,
        moments,
        limit,
        seen.ratio,
        components.forecast(moments, one.weight, other.weight),
        components.quadrants(f, g, components.centred(np.asarray(score.value, np.float64), used), used),
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
        moments = components.moments(f, g, used)
        forecast = components.forecast(moments, weights[first], weights[second])
        steps = stored.steps[piece]
        out.append(
            Stage(
                int(steps[0]), int(steps[-1]), mean_first, mean_second, moments.covariance,
                components.weight_limit(f, g, used), forecast, later - mean_second,
            )
        )  # fmt: skip
    return out


def _as_dict(value: Any) -> Any:
    """Named tuples and dataclasses as dictionaries, all the way down."""
    fields = getattr(value, "_fields", None) or tuple(getattr(value, "__dataclass_fields__", ()))
    if fields:
        return {name: _as_dict(getattr(value, name)) for name in fields}
    if isinstance(value, Mapping):
        return {name: _as_dict(item) for name, item in value.items()}
    return [_as_dict(item) for item in value] if isinstance(value, list | tuple) else value


# --- As text ----------------------------------------------------------------------------------------------------------


def _component_table(found: Mapping[str, Component]) -> str:
    width = max(map(len, found))
    columns = f"{'mean':>7} {'std':>7} {'min':>7} {'max':>7} {'weight':>7} {'of credit':>9} {'skewness':>8}"
    lines = [f"{'component':<{width}} {columns}  KL up / KL down"]
    for name, one in found.items():
        numbers = f"{one.mean:7.3f} {one.std:7.3f} {one.low:7.3g} {one.high:7.3g} {one.weight:7.3f} {one.share:9.1%}"
        lines.append(f"{name:<{width}} {numbers} {one.skewness:8.2f}  {_asymmetry_text(one)}")
    return "\n".join(lines)


def _asymmetry_text(one: Component) -> str:
    cost = one.asymmetry
    if cost is None:
        return "not measured"
    up, down = ("not reachable" if math.isinf(kl) else f"{kl:.3g}" for kl in (cost.up, cost.down))
    falls = "" if math.isnan(one.random_falls) else f"; {one.random_falls:.0%} of random directions lower it"
    if math.isinf(cost.up) or math.isinf(cost.down):
        return f"{up} / {down} for a change of {cost.amount:.3g}{falls}"
    interval = f"{cost.ratio:.2f} ({_bound(cost.low)} to {_bound(cost.high)})"
    return f"{up} / {down} = {interval} for a change of {cost.amount:.3g}{falls}"


def _bound(number: float) -> str:
    return "none" if math.isinf(number) else f"{number:.3g}"


def _pair_text(pair: Pair) -> str:
    moments, limit = pair.moments, pair.limit
    lines = [
        f"{pair.first} pushed, {pair.second} watched",
        f"  covariance            {moments.covariance:.4f} (correlation {moments.correlation:.2f}), "
        f"variance of {pair.second} {moments.variance_second:.4f}",
        f"  weight ratio          {pair.ratio:.3g}; {_limit_text(limit)}",
        f"  forecast              {pair.second} {_direction(pair.forecast)} ({pair.forecast:+.4f} per unit step)",
    ]
    for label, found in (("gradients", pair.gradient), ("gradients, Adam", pair.preconditioned)):
        if found is not None:
            lines.append(f"  {label:<21} {_geometry_text(found)}")
    lines += [f"  {row}" for row in _quadrant_rows(pair)]
    return "\n".join(lines + [f"  {row}" for row in _stage_rows(pair.stages)])


def _limit_text(limit: Limit) -> str:
    safe = "every ratio is safe" if math.isinf(limit.low) else f"safe below {limit.low:.3g}"
    if math.isnan(limit.value):
        return "nothing varies, so there is no limit to tell"
    if math.isinf(limit.value):
        return f"no limit, {safe}"
    above = "" if math.isinf(limit.high) else f", surely falls above {limit.high:.3g}"
    return f"limit {limit.value:.3g}, {safe}{above}"


def _direction(change: float) -> str:
    return "unknown" if math.isnan(change) else "falls" if change < 0 else "rises"


def _geometry_text(found: Geometry) -> str:
    if math.isnan(found.cosine):
        return "cannot be told from noise; take more samples"
    return (
        f"cosine {found.cosine:.2f} ({found.low:.2f} to {found.high:.2f}), falls below {found.threshold:.2f}; norms "
        f"{found.norm_first:.3g} and {found.norm_second:.3g}"
    )


def _quadrant_rows(pair: Pair) -> list[str]:
    signs = {"p": "+", "m": "-"}
    rows = [f"{'quadrant':<21} {'all':>6} {'A > 0':>6} {'A < 0':>6} {'lift':>6}"]
    for name, share in pair.quadrants.items():
        label = name if name == "tie" else f"{signs[name[0]]}{pair.first} {signs[name[1]]}{pair.second}"
        rows.append(f"{label:<21} {share.all:6.1%} {share.positive:6.1%} {share.negative:6.1%} {share.lift:6.2f}")
    return rows


def _stage_rows(found: Sequence[Stage]) -> list[str]:
    if not found:
        return ["no stored rollouts, so nothing to compare the forecast with"]
    rows = [f"{'steps':<21} {'first':>7} {'second':>7} {'cov':>8} {'limit':>8} {'forecast':>9} {'happened':>9}"]
    for stage in found:
        steps = f"{stage.first_step} to {stage.last_step}"
        rows.append(
            f"{steps:<21} {stage.mean_first:7.3f} {stage.mean_second:7.3f} {stage.covariance:8.4f} "
            f"{_bound(stage.limit.value):>8} {stage.forecast:+9.4f}"
            + ("" if math.isnan(stage.happened) else f" {stage.happened:+9.4f}")
        )
    return rows


def _advice_text(pairs: Sequence[Pair]) -> str:
    lines = []
    for advice in dict.fromkeys(advice for pair in pairs for advice in pair.advice):
        lines += [f"{advice.rule}: {advice.message}", *(f"  - {setting}" for setting in advice.settings)]
    return "\n".join(lines) if lines else "no advice: nothing here makes one component pay for another"
