"""From the series of a run to what is wrong with it: all rules, then one finding per illness."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from agent_tunix.diagnostics._intake import Bounds, read_signals
from agent_tunix.diagnostics._signals import Signals
from agent_tunix.diagnostics.findings import LEVELS, Finding, severity
from agent_tunix.diagnostics.rules import RULES, Rule

Condition = Callable[[Finding, Finding, float], bool]
"""Takes a cause, a symptom and the length of the run."""

ALWAYS: Mapping[str, tuple[str, ...]] = {
    "non_finite": ("*",),
    "failed_grader": (
        "collapse",
        "stagnation",
        "saturated_low",
        "too_noisy",
        "tradeoff",
        "dead_component",
        "variance_collapse",
        "proxy_gold_divergence",
        "format_only",
        "entropy_collapse",
        "length_drift",
    ),
    "sampler_mismatch": (
        "collapse",
        "stagnation",
        "proxy_gold_divergence",
        "grad_spike",
        "kl_blowup",
        "entropy_collapse",
        "entropy_explosion",
        "variance_collapse",
        "length_drift",
        "truncation",
        "tradeoff",
        "too_noisy",
    ),
    "answer_spam": (
        "proxy_gold_divergence",
        "length_drift",
        "stagnation",
        "format_only",
        "tradeoff",
        "explosive_growth",
        "kl_blowup",
        "truncation",
        "entropy_collapse",
        "variance_collapse",
    ),
    "exceeds_bound": (
        "proxy_gold_divergence",
        "explosive_growth",
        "kl_blowup",
        "stagnation",
        "tradeoff",
        "variance_collapse",
        "saturated_high",
    ),
    "format_only": (
        "length_drift",
        "tradeoff",
        "proxy_gold_divergence",
        "stagnation",
        "dead_component",
        "variance_collapse",
        "saturated_low",
        "collapse",
    ),
    "saturated_low": ("stagnation", "variance_collapse", "dead_component", "proxy_gold_divergence", "too_noisy"),
    "saturated_high": ("stagnation", "variance_collapse", "dead_component", "entropy_collapse"),
    "too_noisy": ("stagnation", "proxy_gold_divergence", "exceeds_bound"),
    "length_drift": (
        "truncation",
        "proxy_gold_divergence",
        "stagnation",
        "format_only",
        "explosive_growth",
        "variance_collapse",
    ),
    "truncation": ("length_drift", "proxy_gold_divergence", "stagnation", "variance_collapse"),
    "kl_blowup": ("stagnation", "variance_collapse"),
    "entropy_explosion": ("stagnation", "variance_collapse"),
    "entropy_collapse": ("stagnation", "variance_collapse"),
    "grad_spike": ("stagnation",),
    "collapse": ("stagnation", "variance_collapse", "too_noisy", "dead_component", "saturated_low"),
    "tradeoff": ("proxy_gold_divergence", "stagnation", "dead_component"),
    "dead_component": ("tradeoff", "stagnation", "proxy_gold_divergence", "variance_collapse"),
    "proxy_gold_divergence": ("kl_blowup", "stagnation", "variance_collapse"),
    "variance_collapse": ("stagnation",),
    "explosive_growth": ("stagnation", "proxy_gold_divergence"),
}
"""Which symptoms a cause explains whenever both were found; `*` is everything."""

EARLIER: Mapping[str, tuple[str, ...]] = {
    "answer_spam": ("entropy_explosion", "dead_component", "collapse"),
    "explosive_growth": ("kl_blowup",),
    "truncation": ("collapse", "entropy_explosion", "entropy_collapse", "tradeoff", "dead_component"),
    "length_drift": (
        "collapse",
        "kl_blowup",
        "entropy_explosion",
        "entropy_collapse",
        "tradeoff",
        "dead_component",
    ),
    "kl_blowup": (
        "collapse",
        "entropy_explosion",
        "entropy_collapse",
        "grad_spike",
        "length_drift",
        "truncation",
        "tradeoff",
        "proxy_gold_divergence",
    ),
    "entropy_explosion": ("collapse", "kl_blowup", "grad_spike", "length_drift", "truncation", "tradeoff"),
    "entropy_collapse": (
        "collapse",
        "kl_blowup",
        "grad_spike",
        "length_drift",
        "truncation",
        "proxy_gold_divergence",
        "tradeoff",
    ),
    "grad_spike": (
        "collapse",
        "kl_blowup",
        "entropy_explosion",
        "entropy_collapse",
        "length_drift",
        "truncation",
        "proxy_gold_divergence",
    ),
    "collapse": (
        "kl_blowup",
        "entropy_explosion",
        "entropy_collapse",
        "grad_spike",
        "length_drift",
        "truncation",
        "proxy_gold_divergence",
        "tradeoff",
        "answer_spam",
    ),
}
"""Which symptoms a cause explains if it did not begin after them. Of two that begin together the first listed wins."""

SUDDEN = 0.16
"""Share of the run within which a component that is dead afterwards fell by itself, not for the sake of another."""

CUT_SHORT = 2.25
"""Growth of the length up to which completions that are cut off are the illness, and their length a part of it; twice
as much where the reward falls, as nobody grows longer for that."""

TOGETHER: Mapping[str, float] = {"truncation": 0.1, "kl_blowup": 0.1, "tradeoff": 0.08}
"""Share of the run within which the onset of a cause and of its symptoms cannot be told apart, 0.04 for all others."""

RANK = {rule.__name__: place for place, rule in enumerate(RULES)}


def diagnose(
    series: Mapping[str, Any],
    *,
    steps: Any = None,
    bounds: Bounds = None,
    eval_samples: int | None = None,
    roles: Mapping[str, str] | None = None,
    planned_steps: int | None = None,
    group_size: int | None = None,
    rules: Sequence[Rule] = RULES,
) -> list[Finding]:
    """What is wrong with a run, most important first.

    Args:
      series: Metric name, as TRL, verl, OpenRLHF, NeMo-RL, Tunix or this package logs it, to its values. Series may
        have different lengths; nan and None are not logged. Unknown names are ignored.
      steps: Steps of the values: one array for all series of its length, or one per name. None: the longest series has
        a value at every step. Series without steps of their own are stretched over the run. Any order; of several
        values of one step the last one counts, as after a resume.
      bounds: Least and greatest total reward, or of several series by name. Without them some verdicts are weaker.
      eval_samples: Held-out questions per evaluation.
      roles: Series name to what it is: `format`, `task`, `gold`, `reward`, or the id of a metric card; the other way
        round is understood.
      planned_steps: For a run that goes on: how long it will be. Rules that could be wrong about the rest of the run
        then wait for enough of it.
      group_size: Completions per prompt, which says how many groups must be flat by chance.
      rules: The rules to ask.

    Returns:
      One finding per illness: symptoms of another finding are named in its evidence as `explains`. Empty for a healthy
      run.

    Raises:
      ConfigError: If a series holds something that is no number, bounds are no pair, or steps do not fit.

    Examples:
      >>> rising = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.82]
      >>> diagnose({"reward": rising}, bounds=(0, 1))
      []
      >>> [finding.rule for finding in diagnose({"reward": [0.2] * 50}, bounds=(0, 1))]
      ['stagnation']
    """
    signals = read_signals(
        series,
        steps=steps,
        bounds=bounds,
        eval_samples=eval_samples,
        roles=roles,
        planned_steps=planned_steps,
        group_size=group_size,
    )
    # Units may be tiny or huge; a comparison with what overflows is false, and no rule fires.
    with np.errstate(all="ignore"):
        found = [finding for rule in rules for finding in _asked(rule, signals)]
    return told(found, signals.planned)


def _asked(rule: Rule, signals: Signals) -> Iterator[Finding]:
    answer = rule(signals)
    if isinstance(answer, Finding):
        yield answer
    elif answer is not None:
        yield from answer


def told(findings: Sequence[Finding], length: float) -> list[Finding]:
    """Causes without their symptoms, most serious first, then causes first, then by onset.

    Args:
      findings: What the rules found.
      length: Steps of the run.
    """
    waiting = sorted(findings, key=lambda finding: (RANK.get(finding.rule, len(RANK)), finding.steps))
    causes: list[Finding] = []
    while waiting:
        cause = next(
            (f for f in waiting if not any(_explains(g, f, length) for g in waiting if g is not f)), waiting[0]
        )
        symptoms = [f for f in waiting if f is not cause and _explains(cause, f, length)]
        waiting = [f for f in waiting if f is not cause and f not in symptoms]
        causes.append(_with_symptoms(cause, symptoms))
    return sorted(causes, key=lambda f: (-severity(f), RANK.get(f.rule, len(RANK)), f.steps))


def _explains(cause: Finding, symptom: Finding, length: float) -> bool:
    """Whether one finding is the reason for another."""
    if cause.rule == symptom.rule or not _may_explain(cause, symptom, length):
        return False
    always = ALWAYS.get(cause.rule, ())
    return "*" in always or symptom.rule in always or _comes_first(cause, symptom, length)


def _may_explain(cause: Finding, symptom: Finding, length: float) -> bool:
    """Whether the condition for this pair holds, if there is one."""
    condition = CONDITIONS.get((cause.rule, symptom.rule))
    return condition is None or condition(cause, symptom, length)


def _comes_first(cause: Finding, symptom: Finding, length: float) -> bool:
    """Whether a cause that only explains what follows it began early enough."""
    if symptom.rule not in EARLIER.get(cause.rule, ()):
        return False
    lead = (symptom.steps[0] - cause.steps[0]) / length
    mutual = cause.rule in EARLIER.get(symptom.rule, ()) and _may_explain(symptom, cause, length)
    if mutual and RANK[cause.rule] > RANK[symptom.rule]:
        return lead > TOGETHER.get(symptom.rule, 0.04)
    return lead >= -TOGETHER.get(cause.rule, 0.04)


def _same(*pairs: tuple[str, str]) -> Condition:
    """Whether entries of the evidence of cause and symptom name the same components."""

    def same(cause: Finding, symptom: Finding, length: float) -> bool:
        return all(cause.evidence.get(left) == symptom.evidence.get(right) for left, right in pairs)

    return same


def _died(cause: Finding, symptom: Finding, length: float) -> bool:
    """A component that dies suddenly was not traded for another."""
    return cause.evidence.get("component") == symptom.evidence.get("down") and _falls_fast(symptom, length)


def _pushed(cause: Finding, symptom: Finding, length: float) -> bool:
    """A component that is pushed down slowly may die of it."""
    return symptom.evidence.get("component") == cause.evidence.get("down") and not _falls_fast(cause, length)


def _falls_fast(fall: Finding, length: float) -> bool:
    return fall.steps[1] - fall.steps[0] < SUDDEN * length


def _longer(finding: Finding) -> float:
    """How many times completions have grown."""
    ratio = finding.evidence.get("ratio", 1.0)
    return ratio if isinstance(ratio, float | int) else 1.0


CONDITIONS: Mapping[tuple[str, str], Condition] = {
    ("format_only", "tradeoff"): _same(("format", "up"), ("task", "down")),
    ("format_only", "dead_component"): _same(("task", "component")),
    ("tradeoff", "dead_component"): _pushed,
    ("dead_component", "tradeoff"): _died,
    # A format that asks for short answers shortens them; one that is learned does not double them.
    ("format_only", "length_drift"): lambda cause, symptom, length: _longer(symptom) < 1,
    ("length_drift", "format_only"): lambda cause, symptom, length: _longer(cause) > 1,
    ("truncation", "length_drift"): lambda cause, symptom, length: (
        1 < _longer(symptom) < (2 * CUT_SHORT if symptom.evidence.get("reward_falls") else CUT_SHORT)
    ),
    ("length_drift", "truncation"): lambda cause, symptom, length: (
        _longer(cause) >= (2 * CUT_SHORT if cause.evidence.get("reward_falls") else CUT_SHORT)
    ),
    # What falls from the first steps on has no calm before it in which a cause could have begun.
    ("grad_spike", "collapse"): lambda cause, symptom, length: not symptom.evidence.get("from_start"),
    ("kl_blowup", "collapse"): lambda cause, symptom, length: not symptom.evidence.get("from_start"),
    ("entropy_collapse", "collapse"): lambda cause, symptom, length: not symptom.evidence.get("from_start"),
    ("entropy_explosion", "collapse"): lambda cause, symptom, length: not symptom.evidence.get("from_start"),
}
"""What else must hold before one finding explains another."""


def _with_symptoms(cause: Finding, symptoms: Sequence[Finding]) -> Finding:
    """A cause with the names of what it explains; it is as serious as the worst of it, unless it is no illness."""
    if not symptoms:
        return cause
    level = LEVELS[max(map(severity, [cause, *symptoms]))] if severity(cause) else cause.level
    names = ", ".join(dict.fromkeys(finding.rule for finding in symptoms))
    return Finding(
        cause.rule,
        level,
        cause.steps,
        cause.message,
        {**cause.evidence, "explains": names},
        cause.remedy,
        cause.sources,
    )
