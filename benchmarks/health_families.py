"""Families of labelled runs: healthy ones, and at least one for every health rule, each in several functional forms.

An ill family changes a cause at a random onset (the grader is tricked, the budget binds, the policy breaks) and lets
the symptoms follow. Every builder says in its docstring how strong the illness is at least; the tests check that on the
truth, not on what is logged.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from health_courses import EASY, SMOOTH
from health_simulation import COURSES, Generator, World
from healthy_families import (
    bumps,
    confident,
    drifting_away,
    format_first,
    from_nothing,
    in_steps,
    late,
    learns,
    lone_spikes,
    noisy_start,
    several_parts,
    slow,
    small_batches,
    solved,
    starts_high,
    thinking,
    two_rises,
    wandering,
)
from ill_families import (
    answer_spam,
    collapse,
    dead_component,
    entropy_collapse,
    entropy_explosion,
    exceeds_bound,
    explosive_growth,
    failed_grader,
    format_only,
    grad_spike,
    kl_blowup,
    length_drift,
    non_finite,
    proxy_gold_divergence,
    sampler_mismatch,
    saturated_high,
    saturated_low,
    stagnation,
    too_noisy,
    tradeoff,
    truncation,
    variance_collapse,
)

HEALTHY = "healthy"

Builder = Callable[[Generator, int, str], World]


@dataclass(frozen=True)
class Family:
    """How to draw runs of one kind.

    Attributes:
      build: Draws the truth for a random generator, a number of steps and a form.
      label: Id of the rule that should be found, or `healthy`.
      forms: Functional forms.
      needs: Quantities without which the illness cannot be seen; always logged.
      never: Quantities that are not logged, as with them it would be another illness.
      bounds: `always`, `never` or `maybe`: whether the range of the reward is known.
    """

    build: Builder
    label: str
    forms: Sequence[str] = COURSES
    needs: tuple[str, ...] = ()
    never: tuple[str, ...] = ()
    bounds: str = "maybe"


SATURATED = ("constant", "wander", "oscillation", "drift")
GOLD = "eval_accuracy"

FAMILIES: Mapping[str, Family] = {
    "learns": Family(learns, HEALTHY, SMOOTH),
    "slow": Family(slow, HEALTHY, ("power", "linear", "logarithm")),
    "wandering": Family(wandering, HEALTHY, ("drift", "slowing drift")),
    "in_steps": Family(in_steps, HEALTHY, ("two", "three", "four")),
    "bumps": Family(bumps, HEALTHY, ("cosine", "curriculum"), needs=(GOLD,)),
    "two_rises": Family(two_rises, HEALTHY, EASY),
    "starts_high": Family(starts_high, HEALTHY, EASY, bounds="always"),
    "noisy_start": Family(noisy_start, HEALTHY, EASY, bounds="always"),
    "thinking": Family(thinking, HEALTHY, EASY, needs=(GOLD,)),
    "format_first": Family(format_first, HEALTHY, EASY),
    "late": Family(late, HEALTHY, ("logistic", "gompertz"), bounds="always"),
    "solved": Family(solved, HEALTHY, EASY, bounds="always"),
    "confident": Family(confident, HEALTHY, EASY, needs=(GOLD,)),
    "small_batches": Family(small_batches, HEALTHY, EASY),
    "drifting_away": Family(drifting_away, HEALTHY, EASY, needs=(GOLD,)),
    "several_parts": Family(several_parts, HEALTHY, EASY),
    "from_nothing": Family(from_nothing, HEALTHY, EASY, bounds="always"),
    "lone_spikes": Family(lone_spikes, HEALTHY, EASY),
    "stagnation": Family(
        stagnation, "stagnation", ("constant", "wander", "oscillation", "two levels", "little rise", "little fall")
    ),
    "exceeds_bound": Family(exceeds_bound, "exceeds_bound", bounds="always"),
    "explosive_growth": Family(
        explosive_growth,
        "explosive_growth",
        ("exponential", "power law", "logistic", "gompertz", "regime switch", "doublings"),
        never=(GOLD,),
        bounds="never",
    ),
    "proxy_gold_divergence": Family(
        proxy_gold_divergence, "proxy_gold_divergence", needs=(GOLD,), never=("answer_spam",)
    ),
    "length_drift": Family(length_drift, "length_drift", needs=("completion_length", GOLD)),
    "format_only": Family(format_only, "format_only", needs=("part task", "part format")),
    "answer_spam": Family(answer_spam, "answer_spam", needs=("answer_spam",)),
    "collapse": Family(collapse, "collapse"),
    "variance_collapse": Family(
        variance_collapse, "variance_collapse", (*COURSES, "pairs", "pairs"), needs=("frac_reward_zero_std",)
    ),
    "saturated_high": Family(saturated_high, "saturated_high", SATURATED, bounds="always"),
    "saturated_low": Family(saturated_low, "saturated_low", SATURATED, bounds="always"),
    "too_noisy": Family(
        too_noisy, "too_noisy", ("gaussian", "heavy tails", "two kinds of prompts", "tiny batches"), bounds="always"
    ),
    "tradeoff": Family(tradeoff, "tradeoff", (*COURSES, "dip"), needs=("part *",), never=(GOLD,)),
    "kl_blowup": Family(kl_blowup, "kl_blowup", needs=("kl",)),
    "entropy_collapse": Family(entropy_collapse, "entropy_collapse", needs=("entropy",)),
    "entropy_explosion": Family(entropy_explosion, "entropy_explosion", needs=("entropy",)),
    "grad_spike": Family(
        grad_spike,
        "grad_spike",
        ("periodic", "random", "clusters", "last stretch", "pareto", "growing"),
        needs=("grad_norm",),
    ),
    "truncation": Family(
        truncation, "truncation", (*COURSES, "small budget", "small budget"), needs=("clipped_ratio",)
    ),
    "sampler_mismatch": Family(
        sampler_mismatch, "sampler_mismatch", (*COURSES, "from the start"), needs=("sampler_mismatch",)
    ),
    "dead_component": Family(
        dead_component, "dead_component", ("zero", "neutral", "almost never", "two zeros"), needs=("part *",)
    ),
    "failed_grader": Family(
        failed_grader, "failed_grader", (*COURSES, "outages", "outages", "from the start"), needs=("failed *",)
    ),
    "non_finite": Family(
        non_finite,
        "non_finite",
        ("infinite loss", "infinite gradient", "infinite both", "infinite reward", "gone", "gone to infinity"),
        needs=("loss", "grad_norm"),
    ),
}
"""All families by name."""
HEALTHY_FAMILIES = tuple(name for name, family in FAMILIES.items() if family.label == HEALTHY)
ILL_FAMILIES = tuple(name for name, family in FAMILIES.items() if family.label != HEALTHY)
