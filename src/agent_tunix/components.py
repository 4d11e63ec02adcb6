r"""What the components of a reward do to each other, from one batch of scores: plain array functions.

A reward :math:`r = w_f f + w_g g` pushes its components together. Along the natural gradient, which is also the path
of least divergence :math:`\pi \propto \pi_0 e^{r/\beta}`, a component changes at the rate of its covariance with the
reward,

.. math:: \frac{d\,E[g]}{dt} = \mathrm{Cov}(g, r) = w_f \mathrm{Cov}(f, g) + w_g \mathrm{Var}(g),

all of it within prompts, since only completions of the same prompt compete. So raising f lowers g exactly if
:math:`\mathrm{Cov}(f, g) < 0` and :math:`w_f / w_g > w^* = -\mathrm{Var}(g) / \mathrm{Cov}(f, g)`. Everything here is
an estimate of a term of that line (Price's equation; for policies Kakade, 2001, A Natural Policy Gradient).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from statistics import NormalDist
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float

QUADRANTS = ("pp", "pm", "mp", "mm", "tie")
"""Signs of the deviations of two components from their group's mean: plus or minus of the first, then of the second; a
completion at the mean of either is a tie."""

SIDES = ("all", "positive", "negative")
"""Completions a quadrant's share is told among: all, those with positive and those with negative credit."""

TINY = 1e-6
"""Deviations below this share of a group's largest magnitude are rounding: scores are in single precision."""

LEAST_GROUPS = 3
"""With fewer groups no interval is told."""


@runtime_checkable
class Scored(Protocol):
    """A score, as far as it is read here: `agent_tunix.types.Score`, or `Stored`."""

    @property
    def value(self) -> Any:
        """The reward, `[prompts group]`."""
        ...

    @property
    def valid(self) -> Any:
        """Where there is one."""
        ...

    @property
    def parts(self) -> Mapping[str, Any]:
        """Raw components, NaN where there is none."""
        ...


class Stored(NamedTuple):
    """Scores read from records of rollouts; entries that do not exist are not valid.

    Attributes:
      value: The reward, 0 where there is none.
      valid: Where there is one.
      parts: Raw components, NaN where there is none.
      advantage: Credit that was given, NaN where none was.
      steps: Optimizer updates before each group was sampled.
    """

    value: Float[np.ndarray, "prompts group"]
    valid: Bool[np.ndarray, "prompts group"]
    parts: dict[str, Float[np.ndarray, "prompts group"]]
    advantage: Float[np.ndarray, "prompts group"]
    steps: np.ndarray


class Moments(NamedTuple):
    """Pooled within-group moments of two components, in their units; nan where no group has two completions.

    Attributes:
      variance_first: Of the first.
      variance_second: Of the second.
      covariance: Unbiased, as the variances are.
      correlation: nan where either does not vary.
      groups: How many groups entered.
    """

    variance_first: float
    variance_second: float
    covariance: float
    correlation: float
    groups: int


class Limit(NamedTuple):
    """How large the weight of one component over that of another may be before the other falls.

    Attributes:
      value: The estimate; infinite where the covariance is not negative, nan where either component does not vary.
      low: Ratios below are safe with the given confidence; 0 if none is known to be, infinite if every one is.
      high: Ratios above lower the other component with the given confidence; infinite if none is known to.
    """

    value: float
    low: float
    high: float


class Quadrant(NamedTuple):
    """How many completions lie in one quadrant, as shares.

    Attributes:
      all: Of all completions: the base rate.
      positive: Of those with positive credit.
      negative: Of those with negative credit.
      lift: `positive / all`: above 1 where positive credit prefers the quadrant. A share alone only repeats the base
        rate, which the baseline of the credit cancels.
    """

    all: float
    positive: float
    negative: float
    lift: float


def component_measures(score: Scored) -> dict[str, float]:
    """What is logged about the components of one batch.

    Args:
      score: Of the batch, before shaping; arrays of NumPy.

    Returns:
      For every part `reward/part/NAME/{min,max,group_std,skewness,weight,weighted_mean,advantage_share}` and, where two
      or more parts have a value, for every pair `tradeoff/A__B/` with `covariance`, `correlation`,
      `quadrant_{pp,pm,mp,mm,tie}_{all,positive,negative}`, and in both orders `weight_limit`, `weight_limit_low`,
      `weight_limit_high` and `forecast`. nan where nothing can be said, and where a limit is infinite.
    """
    present = present_parts(score)
    weights = part_weights(score)
    shares = advantage_shares(score, weights)
    out = {}
    for name in score.parts:
        numbers = _part_measures(present[name], weights[name], shares[name]) if name in present else {}
        out |= {f"reward/part/{name}/{label}": numbers.get(label, math.nan) for label in _PART_LABELS}
    for first, second in combinations(present, 2):
        out |= _pair_measures(score, first, second, weights)
    return out


_PART_LABELS = ("min", "max", "group_std", "skewness", "weight", "weighted_mean", "advantage_share")


def _part_measures(part: Float[np.ndarray, "prompts group"], weight: float, share: float) -> dict[str, float]:
    used = ~np.isnan(part)
    values = part[used]
    return {
        "min": float(values.min()),
        "max": float(values.max()),
        "group_std": group_std(part, used),
        "skewness": skewness(part, used),
        "weight": weight,
        "weighted_mean": float(weight * values.mean()),
        "advantage_share": share,
    }


def _pair_measures(score: Scored, first: str, second: str, weights: Mapping[str, float]) -> dict[str, float]:
    f, g, used = pair(score, first, second)
    found = moments(f, g, used)
    out = {"covariance": found.covariance, "correlation": found.correlation}
    for quadrant, share in quadrants(f, g, centred(np.asarray(score.value, np.float64), used), used).items():
        out |= {f"quadrant_{quadrant}_{side}": getattr(share, side) for side in SIDES}
    out = {f"tradeoff/{first}__{second}/{label}": number for label, number in out.items()}
    for name, other, a, b in ((first, second, f, g), (second, first, g, f)):
        limit = weight_limit(a, b, used)
        numbers = {f"weight_limit{end}": bound for end, bound in zip(("", "_low", "_high"), limit, strict=True)}
        numbers["forecast"] = forecast(moments(a, b, used), weights[name], weights[other])
        out |= {f"tradeoff/{name}__{other}/{label}": _finite(number) for label, number in numbers.items()}
    return out


def present_parts(score: Scored) -> dict[str, Float[np.ndarray, "prompts group"]]:
    """The components that have a value anywhere, in double precision."""
    parts = {name: np.asarray(part, np.float64) for name, part in score.parts.items()}
    return {name: part for name, part in parts.items() if not np.isnan(part).all()}


def pair(
    score: Scored, first: str, second: str
) -> tuple[Float[np.ndarray, "prompts group"], Float[np.ndarray, "prompts group"], Bool[np.ndarray, "prompts group"]]:
    """Two components and the valid completions for which both have a value."""
    f, g = (np.asarray(score.parts[name], np.float64) for name in (first, second))
    return f, g, np.asarray(score.valid, bool) & ~np.isnan(f) & ~np.isnan(g)


def part_weights(score: Scored) -> dict[str, float]:
    """Weight of every component in the reward, by least squares over the completions that have them all.

    Exact for a weighted sum, the best linear stand-in for anything else. nan for a component that does not vary, whose
    weight cannot be told.
    """
    present = present_parts(score)
    used = _complete(score, present)
    out = dict.fromkeys(score.parts, math.nan)
    if used.any():
        table = np.stack([part[used] for part in present.values()], -1)
        weights = fitted_weights(table, np.asarray(score.value, np.float64)[used])[0]
        varies = np.ptp(table, axis=0) > TINY * np.abs(table).max(0)
        out |= {name: float(w) for name, w, known in zip(present, weights, varies, strict=True) if known}
    return out


def advantage_shares(score: Scored, weights: Mapping[str, float]) -> dict[str, float]:
    r"""Signed share of every component in what credit is made of: :math:`\mathrm{Cov}(w_k r_k, r) / \mathrm{Var}(r)`.

    Args:
      score: Of a batch.
      weights: Of its components; one that is nan has no part in the reward's variation.

    Returns:
      Shares within groups, which add up to 1 for a weighted sum. A negative one works against the total. nan where all
      groups are flat.
    """
    present = present_parts(score)
    used = _complete(score, present)
    reward = centred(np.asarray(score.value, np.float64), used)
    spread = float((reward**2).sum())
    out = dict.fromkeys(score.parts, math.nan)
    if spread > 1e-20:
        for name, part in present.items():
            covariance = float((centred(part, used) * reward).sum())
            out[name] = 0.0 if math.isnan(weights[name]) else weights[name] * covariance / spread
    return out


def _complete(score: Scored, present: Mapping[str, np.ndarray]) -> np.ndarray:
    valid = np.asarray(score.valid, bool)
    return valid & ~np.isnan(np.stack(list(present.values()))).any(0) if present else np.zeros_like(valid)


def fitted_weights(
    table: Float[np.ndarray, "entries parts"], total: Float[np.ndarray, " entries"]
) -> tuple[Float[np.ndarray, " parts"], float]:
    """Least squares with an intercept; of several solutions the smallest, so a constant component gets no weight.

    Returns:
      Weights, and the share of the total's variance that they explain, nan if it has none.

    Examples:
      >>> weights, explained = fitted_weights(np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]), np.array([4.0, 1.0, 0.0]))
      >>> weights.round(6).tolist(), round(explained, 6)
      ([4.0, 1.0], 1.0)
    """
    deviations, target = table - table.mean(0), total - total.mean()
    weights = np.linalg.lstsq(deviations, target, rcond=1e-10)[0]
    spread = float((target**2).sum())
    residual = float(((target - deviations @ weights) ** 2).sum())
    return weights, 1.0 - residual / spread if spread > 1e-20 else math.nan


def centred(
    values: Float[np.ndarray, "prompts group"], used: Bool[np.ndarray, "prompts group"]
) -> Float[np.ndarray, "prompts group"]:
    """Deviations from the mean of the group over the entries used, 0 elsewhere and where they are only rounding."""
    count = np.maximum(used.sum(-1, keepdims=True), 1)
    filled = np.where(used, values, 0.0)
    deviations = np.where(used, filled - filled.sum(-1, keepdims=True) / count, 0.0)
    scale = np.abs(filled).max(-1, keepdims=True, initial=0.0)
    return np.where(np.abs(deviations) > TINY * scale, deviations, 0.0)


def group_std(values: Float[np.ndarray, "prompts group"], used: Bool[np.ndarray, "prompts group"]) -> float:
    """Mean over groups of the sample deviation; nan where no group has two values."""
    counts = used.sum(-1)
    sums = (centred(values, used) ** 2).sum(-1)
    deviations = np.sqrt(sums[counts > 1] / (counts[counts > 1] - 1))
    return float(deviations.mean()) if deviations.size else math.nan


def skewness(values: Float[np.ndarray, "prompts group"], used: Bool[np.ndarray, "prompts group"]) -> float:
    r"""Skewness within groups: the mean third cumulant over the mean variance to the power 3/2, both unbiased.

    Its sign says in which direction a component is dearer to move. The least divergence that moves its mean by D is

    .. math:: \frac{D^2}{2 k_2} - \frac{k_3 D^3}{6 k_2^3} + \dots,

    so that going up costs more than coming down exactly if the skewness is negative; for a component of zeros and ones,
    if it is met more often than not.

    Returns:
      0 where nothing varies; nan where no group has three values.

    References:
      Cumulants from k-statistics: Kendall and Stuart, 1969, The Advanced Theory of Statistics, section 12.7. The
      expansion follows from inverting the cumulant generating function of the tilted distribution.

    Examples:
      >>> skewness(np.array([[1.0, 0.0, 0.0, 0.0]]), np.ones((1, 4), bool))
      2.0
    """
    n = used.sum(-1)
    enough = n > 2
    if not enough.any():
        return math.nan
    deviations, n = centred(values, used)[enough], n[enough]
    second = float(((deviations**2).sum(-1) / (n - 1)).mean())
    third = float(((deviations**3).sum(-1) * n / ((n - 1) * (n - 2))).mean())
    return third / second**1.5 if second > 0 else 0.0


def moments(
    first: Float[np.ndarray, "prompts group"],
    second: Float[np.ndarray, "prompts group"],
    used: Bool[np.ndarray, "prompts group"],
) -> Moments:
    """Pooled within-group variances, covariance and correlation over all groups with two completions or more.

    Groups in which one component is constant stay in: their covariance is 0, and leaving them out would overstate both
    what is gained and what is lost.

    Examples:
      >>> moments(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]]), np.ones((1, 2), bool))
      Moments(variance_first=0.5, variance_second=0.5, covariance=-0.5, correlation=-1.0, groups=1)
    """
    products, freedom = _products(first, second, used)
    if not len(products):
        return Moments(math.nan, math.nan, math.nan, math.nan, 0)
    a, b, covariance = (products.sum(0) / freedom.sum()).tolist()
    scale = math.sqrt(a * b)
    return Moments(a, b, covariance, covariance / scale if scale > 0 else math.nan, len(products))


def _products(first: np.ndarray, second: np.ndarray, used: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per group the sums of squares of both and of their product, and the degrees of freedom."""
    counts = used.sum(-1)
    a, b = centred(first, used), centred(second, used)
    table = np.stack([(a * a).sum(-1), (b * b).sum(-1), (a * b).sum(-1)], -1)
    return table[counts > 1], counts[counts > 1] - 1


def forecast(found: Moments, weight_first: float, weight_second: float) -> float:
    """First-order change of the second component's mean per unit step of the natural gradient of the weighted sum.

    Args:
      found: Moments of both, as `moments` gives them.
      weight_first: Of the first component in the reward.
      weight_second: Of the second.

    Returns:
      Squared units of the second component times its weight; its sign is what matters. nan where a weight is.

    Examples:
      >>> forecast(Moments(0.25, 0.25, -0.1, -0.4, 64), 4.0, 1.0)  # above the limit of 2.5
      -0.15000000000000002
    """
    return weight_first * found.covariance + weight_second * found.variance_second


def weight_limit(
    first: Float[np.ndarray, "prompts group"],
    second: Float[np.ndarray, "prompts group"],
    used: Bool[np.ndarray, "prompts group"],
    *,
    confidence: float = 0.95,
) -> Limit:
    r"""The weight of the first component over that of the second from which on the second falls, with an interval.

    .. math:: w^* = -\frac{\mathrm{Var}(g)}{\mathrm{Cov}(f, g)}

    The interval is Fieller's, over groups: the ratios w for which the mean over groups of
    :math:`\mathrm{Var}_p(g) + w\,\mathrm{Cov}_p(f, g)` is not distinguishable from zero. Unlike an error propagated
    through the quotient it stays right when the covariance is near zero, where it has no upper end.

    Args:
      first: The component that is pushed.
      second: The component that may fall.
      used: Completions for which both have a value.
      confidence: Of the interval, in (0, 1).

    Returns:
      The limit; for two non-negative weights.

    References:
      Fieller, 1954, Some Problems in Interval Estimation, JRSS B 16(2).

    Examples:
      >>> f = np.array([[1.0, 1.0, 0.0, 0.0]] * 8)
      >>> g = np.array([[0.0, 0.0, 0.0, 1.0], [1.0, 0.0, 1.0, 1.0]] * 4)
      >>> weight_limit(f, g, np.ones((8, 4), bool))
      Limit(value=1.5, low=1.5, high=1.5)
    """
    products, freedom = _products(first, second, used)
    if not len(products) or not (products[:, :2].sum(0) > 0).all():
        return Limit(math.nan, 0.0, math.inf)
    total = products.sum(0)
    falls = bool(total[2] < -1e-12 * math.sqrt(total[0] * total[1]))  # anything nearer to zero is rounding
    limit = float(-total[1] / total[2]) if falls else math.inf
    if (products[:, 1:3] != 0).any(-1).sum() < LEAST_GROUPS:
        return Limit(limit, 0.0, math.inf)
    gain, loss = (products[:, column] / freedom.mean() for column in (1, 2))
    return Limit(limit, *_fieller(gain, loss, falls, student_quantile(0.5 + confidence / 2, len(products) - 1)))


def _fieller(gain: np.ndarray, loss: np.ndarray, falls: bool, quantile: float) -> tuple[float, float]:
    """Ends of the ratios w >= 0 for which the mean of `gain + w loss` may be zero: roots of a quadratic in w.

    `gain` has a positive mean, that of `loss` is negative if it `falls`. A gain that may be zero itself leaves no ratio
    that is known to be safe.
    """
    spread = np.cov(np.stack([gain, loss])) * quantile**2 / len(gain)
    c, b, a = gain.mean() ** 2 - spread[0, 0], gain.mean() * loss.mean() - spread[0, 1], loss.mean() ** 2 - spread[1, 1]
    if a >= 0 and not falls:
        roots = []
    elif abs(a) <= 1e-14 * spread[1, 1]:
        roots = [-c / (2 * b)] if b else []
    else:
        # The estimate itself lies between the roots, so a negative discriminant is rounding.
        half = math.sqrt(max(b * b - a * c, 0.0))
        roots = [(-b - half) / a, (-b + half) / a]
    positive = [float(root) for root in roots if root > 0]
    low = 0.0 if c <= 0 else min(positive, default=math.inf)
    return low, max(positive, default=math.inf) if a > 0 else math.inf


def student_quantile(probability: float, freedom: int) -> float:
    """Quantile of Student's t, by the expansion around the normal one; within 1 % from two degrees of freedom on.

    References:
      Abramowitz and Stegun, 1964, Handbook of Mathematical Functions, 26.7.5.

    Examples:
      >>> round(student_quantile(0.975, 10), 3)
      2.228
    """
    z = NormalDist().inv_cdf(probability)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return sum(term / freedom**power for power, term in enumerate(terms))


def quadrants(
    first: Float[np.ndarray, "prompts group"],
    second: Float[np.ndarray, "prompts group"],
    credit: Float[np.ndarray, "prompts group"],
    used: Bool[np.ndarray, "prompts group"],
) -> dict[str, Quadrant]:
    """How completions lie to the mean of their group in two components, and which of them get positive credit.

    Args:
      first: A component.
      second: Another.
      credit: Advantages, or the reward centred within groups; only the sign counts, NaN is neither.
      used: Completions for which both have a value; groups of one are left out.

    Returns:
      By the names of `QUADRANTS`; nan where there is no completion to take a share of.

    Examples:
      >>> f, g = np.array([[1.0, 1.0, 0.0, 0.0]]), np.array([[1.0, 0.0, 1.0, 0.0]])
      >>> credit = np.array([[2.5, 1.5, -1.5, -2.5]])  # 4 f + g, centred
      >>> quadrants(f, g, credit, np.ones((1, 4), bool))["pm"]
      Quadrant(all=0.25, positive=0.5, negative=0.0, lift=2.0)
    """
    used = used & (used.sum(-1, keepdims=True) > 1)
    a, b = np.sign(centred(first, used)), np.sign(centred(second, used))
    where = np.where((a == 0) | (b == 0), 4, 2 * (a < 0) + (b < 0)).astype(int)
    sides = {"all": used, "positive": used & (credit > 0), "negative": used & (credit < 0)}
    shares = {side: _shares(where[mask]) for side, mask in sides.items()}
    rows = zip(QUADRANTS, shares["all"], shares["positive"], shares["negative"], strict=True)
    return {name: Quadrant(base, good, bad, _ratio(good, base)) for name, base, good, bad in rows}


def _shares(codes: np.ndarray) -> list[float]:
    counts = np.bincount(codes, minlength=len(QUADRANTS))
    return (counts / codes.size).tolist() if codes.size else [math.nan] * len(QUADRANTS)


def stored(groups: Iterable[Sequence[Mapping[str, Any]]]) -> Stored:
    """Scores from records of rollouts, as `agent_tunix.runs.groups` lists them.

    Groups may differ in size; those whose reward failed as a whole are left out.
    """
    rows = [group for group in groups if all("parts" in record for record in group)]
    names = dict.fromkeys(name for group in rows for record in group for name in record["parts"])
    width = max(map(len, rows), default=0)

    def table(read: Any) -> np.ndarray:
        values = [[_number(read(record)) for record in group] + [math.nan] * (width - len(group)) for group in rows]
        return np.array(values, np.float64).reshape(len(rows), width)

    value = table(lambda record: record["reward"])
    valid = ~np.isnan(value)
    return Stored(
        np.where(valid, value, 0.0),
        valid,
        {name: table(lambda record, name=name: record["parts"].get(name)) for name in names},
        table(lambda record: record.get("advantage")),
        np.array([group[0]["step"] for group in rows], int),
    )


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def _finite(number: float) -> float:
    return number if math.isfinite(number) else math.nan
