"""What to do about two components of a reward that get in each other's way: a table of situations and remedies.

Each rule looks at numbers that `agent_tunix.components` and `agent_tunix.component_gradients` give, says nothing where
they are nan, and otherwise either nothing or one `Advice`, whose settings exist in this package.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

MET_OFTEN = 0.5
"""Below it the softmax policy gradient can starve a component: of the dips of an independent component under four times
its weight, 98.8 % began with it met less than half of the time (a grid of bandits, see the page on this)."""

LOST = 0.02
"""A component met more rarely is hardly ever in a group of eight, so nothing reinforces it."""

HEAVY = 2.0
"""Ratio of weights from which winner-take-all was seen in more than an eighth of the grid, instead of in 1 %."""

DONE = 0.95
"""A component met this far needs no credit."""

UNHEARD = 0.05
"""Share of the credit below which a component is not heard: its signal is within the noise of the others'."""

DECOUPLED = (
    "advantage.estimator=decoupled for the default reward, agent_tunix.advantages.decoupled_parts for any other (GDPO)"
)


@dataclass(frozen=True)
class Situation:
    """What is known of a component f that is pushed and a component g that may fall; nan where it is not.

    Attributes:
      first: Name of f.
      second: Name of g.
      weight_first: Of f in the reward.
      weight_second: Of g.
      correlation: Within groups.
      limit: Ratio of the weights from which on g falls, infinite where none is.
      limit_low: Ratios below are safe.
      limit_high: Ratios above are not.
      met_second: How far g is met, from 0 for its least to 1 for its greatest value, as declared where it is.
      share_second: Signed share of g in the credit.
      cosine: Between the gradients of E f and E g.
      cosine_high: Upper end of its interval.
      threshold: Cosine below which g falls.
      low_rank: Whether only low-rank factors train.
    """

    first: str
    second: str
    weight_first: float = math.nan
    weight_second: float = math.nan
    correlation: float = math.nan
    limit: float = math.nan
    limit_low: float = 0.0
    limit_high: float = math.inf
    met_second: float = math.nan
    share_second: float = math.nan
    cosine: float = math.nan
    cosine_high: float = math.nan
    threshold: float = math.nan
    low_rank: bool = False

    @property
    def ratio(self) -> float:
        """Weight of f over that of g; nan where g has none."""
        return self.weight_first / self.weight_second if self.weight_second else math.nan


@dataclass(frozen=True)
class Advice:
    """One remedy.

    Attributes:
      rule: Which line of the table.
      message: What was seen, with its numbers, and how sure it is.
      settings: What to change, likeliest first.
    """

    rule: str
    message: str
    settings: tuple[str, ...]


Rule = Callable[[Situation], Advice | None]


def weight_above_limit(seen: Situation) -> Advice | None:
    """Completions that score high on f score low on g, and f weighs so much that g pays for it.

    Examples:
      >>> weight_above_limit(Situation("f", "g", 4.0, 1.0, -0.5, limit=2.0, limit_low=1.5, limit_high=3.0)).message
      'g falls: f weighs 4 times as much, above the limit of 2 (1.5 to 3); their correlation is -0.50'
    """
    if not seen.ratio > seen.limit:
        return None
    surely = "falls" if seen.ratio > seen.limit_high else "probably falls"
    high = "no known end" if math.isinf(seen.limit_high) else f"{seen.limit_high:.3g}"
    return Advice(
        "weight_above_limit",
        f"{seen.second} {surely}: {seen.first} weighs {seen.ratio:.3g} times as much, above the limit of "
        f"{seen.limit:.3g} ({seen.limit_low:.3g} to {high}); their correlation is "
        f"{seen.correlation:.2f}",
        (
            _lower_weight(seen),
            f"or make them one goal: rewards.product, or rewards.gate({seen.second}, {seen.first}), which pays "
            f"{seen.first} only where {seen.second} is met",
        ),
    )


def _lower_weight(seen: Situation) -> str:
    """The weight that is known to be safe, or the estimate where none is; in the settings of the default reward."""
    safe = seen.limit_low if 0 < seen.limit_low < seen.limit else 0.9 * seen.limit
    keys = {"format": "reward.alpha", "correctness": "reward.beta"}
    if {seen.first, seen.second} <= keys.keys():
        return f"{keys[seen.first]}={safe * seen.weight_second:.2g} (it is {seen.weight_first:.2g})"
    return f"weight of {seen.first} in rewards.weighted_sum at most {safe * seen.weight_second:.2g}"


def interference(seen: Situation) -> Advice | None:
    """Both could rise, for their covariance is not negative enough, but they pull the same parameters apart."""
    if not seen.cosine < seen.threshold or seen.ratio > seen.limit:
        return None
    surely = "falls" if seen.cosine_high < seen.threshold else "may fall"
    rank = ("model.lora_rank higher, so that both find directions of their own",) if seen.low_rank else ()
    return Advice(
        "interference",
        f"{seen.second} {surely} with the gradient of {seen.first}: cosine {seen.cosine:.2f}, below the threshold of "
        f"{seen.threshold:.2f}, though the completions themselves do not trade one for the other",
        (
            "optimizer.learning_rate lower",
            "training.prompts_per_batch or training.group_size larger",
            *rank,
            "keep AdamW: plain gradient steps were the ones that lost g in the experiments",
        ),
    )


def winner_takes_all(seen: Situation) -> Advice | None:
    """g is met rarely and weighs little, so f is learnt from completions that happen not to meet g."""
    if not (LOST <= seen.met_second < MET_OFTEN and seen.ratio >= HEAVY):
        return None
    return Advice(
        "winner_takes_all",
        f"{seen.second} is met {seen.met_second:.0%} of the way and weighs {1 / seen.ratio:.2g} of {seen.first}: a "
        f"softmax policy may learn {seen.first} from completions without {seen.second} and take long to come back",
        (
            f"reward.shaping=FILE.py:FUNCTION that returns rewards.anneal, with the weight of {seen.second} high at "
            "first",
            DECOUPLED,
        ),
    )


def lost(seen: Situation) -> Advice | None:
    """g is met so rarely that no group holds an example to learn from."""
    if not seen.met_second < LOST:
        return None
    return Advice(
        "lost",
        f"{seen.second} is met {seen.met_second:.1%} of the way: hardly a group holds a completion to learn it from, "
        "whatever its weight",
        ("warm_start.steps more, on rows that show it", "data.level lower, or rewards.curriculum"),
    )


def unheard(seen: Situation) -> Advice | None:
    """g makes up next to nothing of the credit, though it is met now and then."""
    if not abs(seen.share_second) < UNHEARD or seen.met_second >= DONE or seen.met_second < LOST:
        return None
    return Advice(
        "unheard",
        f"{seen.second} makes up {seen.share_second:.1%} of the credit",
        (DECOUPLED, f"or a larger weight of {seen.second}"),
    )


RULES: Sequence[Rule] = (weight_above_limit, interference, lost, winner_takes_all, unheard)
"""In the order in which their advice is given: what surely lowers g first."""


def advise(seen: Situation, rules: Sequence[Rule] = RULES) -> list[Advice]:
    """All advice that a situation calls for.

    Examples:
      >>> advise(Situation("f", "g", 1.0, 1.0, 0.3, limit=math.inf, met_second=0.8, share_second=0.4))
      []
    """
    return [advice for rule in rules if (advice := rule(seen)) is not None]
