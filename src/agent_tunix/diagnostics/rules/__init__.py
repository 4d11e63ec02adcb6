"""The health rules, one pure function each, and the order in which they are told.

A rule takes the signals of a run and its thresholds, as named parameters with defaults, and returns a finding, several,
or nothing. It knows nothing of the other rules: what explains what stands in `diagnosis`.
"""

from collections.abc import Callable, Iterable

from agent_tunix.diagnostics._signals import Signals
from agent_tunix.diagnostics.findings import Finding
from agent_tunix.diagnostics.rules.components import dead_component, format_only, tradeoff
from agent_tunix.diagnostics.rules.gold import answer_spam, length_drift, proxy_gold_divergence
from agent_tunix.diagnostics.rules.graders import failed_grader, non_finite
from agent_tunix.diagnostics.rules.groups import variance_collapse
from agent_tunix.diagnostics.rules.growth import exceeds_bound, explosive_growth
from agent_tunix.diagnostics.rules.policy import (
    entropy_collapse,
    entropy_explosion,
    grad_spike,
    kl_blowup,
    sampler_mismatch,
    truncation,
)
from agent_tunix.diagnostics.rules.reward import (
    collapse,
    saturated_high,
    saturated_low,
    stagnation,
    too_noisy,
)

Rule = Callable[[Signals], Finding | Iterable[Finding] | None]
"""What `diagnose` calls."""

RULES: tuple[Rule, ...] = (
    non_finite,
    failed_grader,
    sampler_mismatch,
    answer_spam,
    exceeds_bound,
    format_only,
    saturated_low,
    saturated_high,
    too_noisy,
    kl_blowup,
    entropy_explosion,
    length_drift,
    truncation,
    entropy_collapse,
    grad_spike,
    collapse,
    tradeoff,
    dead_component,
    proxy_gold_divergence,
    variance_collapse,
    explosive_growth,
    stagnation,
)
"""All rules, causes before symptoms."""

__all__ = [
    "RULES",
    "Rule",
    "answer_spam",
    "collapse",
    "dead_component",
    "entropy_collapse",
    "entropy_explosion",
    "exceeds_bound",
    "explosive_growth",
    "failed_grader",
    "format_only",
    "grad_spike",
    "kl_blowup",
    "length_drift",
    "non_finite",
    "proxy_gold_divergence",
    "sampler_mismatch",
    "saturated_high",
    "saturated_low",
    "stagnation",
    "too_noisy",
    "tradeoff",
    "truncation",
    "variance_collapse",
]
