"""What `agent_tunix.tradeoffs` finds in a run, and how it reads as plain text."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from agent_tunix.component_gradients import Geometry
from agent_tunix.component_walks import Asymmetry
from agent_tunix.components import Quadrant
from agent_tunix.diagnostics.advice import Advice
from agent_tunix.plain import plain
from agent_tunix.weight_limits import Limit, Moments


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


@dataclass(frozen=True)
class Component:
    """One component at the checkpoint.

    Attributes:
      mean: Of fresh completions.
      std: Mean deviation within groups.
      low: Least value seen.
      high: Greatest value seen.
      least: Least value it can have as declared; the least seen where nothing is.
      greatest: Greatest value it can have, likewise.
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
    least: float
    greatest: float
    weight: float
    share: float
    skewness: float
    asymmetry: Asymmetry | None = None
    random_falls: float = math.nan

    @property
    def span(self) -> float:
        """How far apart its least and its greatest value are."""
        return self.greatest - self.least

    @property
    def met(self) -> float:
        """Where its mean lies between its least value, 0, and its greatest, 1; nan if they are the same."""
        return (self.mean - self.least) / self.span if self.span else math.nan


@dataclass(frozen=True)
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


@dataclass(frozen=True)
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


def _as_dict(value: Any) -> Any:
    """Named tuples and dataclasses as dictionaries, all the way down."""
    fields = getattr(value, "_fields", None) or tuple(getattr(value, "__dataclass_fields__", ()))
    if fields:
        return {name: _as_dict(getattr(value, name)) for name in fields}
    if isinstance(value, Mapping):
        return {name: _as_dict(item) for name, item in value.items()}
    return [_as_dict(item) for item in value] if isinstance(value, list | tuple) else value


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
