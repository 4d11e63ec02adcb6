"""A reward tried out before training: on right and wrong answers, and on what a policy might write instead.

Nothing here knows how a reward works. It is called on texts whose worth is known, and what it says is compared: a probe
that states no right answer and still earns more than a plainly wrong one is an exploit that training will find.
"""

import dataclasses
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import cloudpickle
import numpy as np

from agent_tunix.batching import text_rollouts
from agent_tunix.contributions import Contributions, contributions
from agent_tunix.probes import PROBES, STYLES, plain_texts, probe_texts
from agent_tunix.rewards import flat_groups
from agent_tunix.types import Bounds, Outcome, Reward, Rollouts, Row, Score

SLOW_S = 0.05
"""A call that takes longer than this, in the median, is worth running in processes."""
CHARACTERS_PER_TOKEN = 4
"""There is no tokenizer here; rewards that look at lengths get this estimate."""
SOLVE_RATES = (0.01, 0.1, 0.5, 0.9)
MARGIN = 0.1
"""An exploit closes more than this fraction of the way from a wrong answer's reward to a right one's."""


class Finding(NamedTuple):
    """Something to act on.

    Attributes:
      level: `error` or `warning`; errors would spoil a run.
      message: What was seen and what to do.
    """

    level: str
    message: str


@dataclasses.dataclass(frozen=True)
class Preflight:
    """What was seen of a reward.

    Attributes:
      name: Of the reward.
      rows: How many rows were tried.
      shape: Of the score: rows, and texts tried for each.
      without_value: Share of these texts that got no value.
      group_size: Completions per group that the flat shares are for.
      bounds: Declared bounds, infinite where none are.
      observed: Least and greatest value seen.
      latency_s: `p50`, `p95` and `max` of one completion, over all texts.
      deterministic: Whether scoring again gave the same.
      picklable: Whether its graders can be sent to worker processes.
      style: The way of stating an answer that the reward pays best for.
      right: Mean reward of right answers in that style; nan without reference answers.
      wrong: Mean reward of wrong answers in that style.
      probes: Mean reward of every probe.
      components: What each component contributes, over right, wrong and demonstrated answers.
      flat_share: Expected share of flat groups at each solve rate, if right and wrong were all that differs.
      findings: Errors first.
    """

    name: str
    rows: int
    shape: tuple[int, ...]
    without_value: float
    group_size: int
    bounds: Bounds
    observed: tuple[float, float]
    latency_s: dict[str, float]
    deterministic: bool
    picklable: bool
    style: str
    right: float
    wrong: float
    probes: dict[str, float]
    components: Contributions
    flat_share: dict[float, float]
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether no error was found."""
        return all(finding.level != "error" for finding in self.findings)


def preflight(reward: Reward, rows: Sequence[Row], *, group_size: int = 8) -> Preflight:
    """Tries a reward on rows of a dataset.

    Args:
      reward: The reward.
      rows: At least two, with a column `answer` for all but the plainest checks.
      group_size: Completions per prompt in training.

    Returns:
      What was seen; the reward's own exceptions become findings.

    Raises:
      ValueError: Fewer than two rows.
    """
    if len(rows) < 2:
        raise ValueError(
            f"preflight got {len(rows)} rows; give at least two, whose answers are each other's wrong ones"
        )
    plain = plain_texts(rows)
    try:
        known, seconds = _timed(reward, _rollouts(rows, plain))
        again = reward(_rollouts(rows, plain))
        means = dict(zip(plain, _means(known), strict=True))
        style = max(STYLES, key=lambda name: (_or_low(means[f"right, {name}"]), name == "tags"))
        probed, more_seconds = _timed(reward, _rollouts(rows, probe_texts(rows, STYLES[style])))
    except Exception as error:  # whatever a user's reward raises is the finding
        return _broken(reward, rows, group_size, error)
    right = max(means[f"right, {style}"], means.get("demonstration", math.nan), key=_or_low)
    score, names = _beside(known, probed), [*plain, *(probe.name for probe in PROBES)]
    result = Preflight(
        name=reward.name,
        rows=len(rows),
        shape=np.shape(score.value),
        without_value=float(1.0 - np.mean(score.valid)),
        group_size=group_size,
        bounds=reward.bounds,
        observed=_range(score),
        latency_s=_latency(score, seconds + more_seconds),
        deterministic=_equal(known, again),
        picklable=_is_picklable(reward),
        style=style,
        right=right,
        wrong=means[f"wrong, {style}"],
        probes=dict(zip((probe.name for probe in PROBES), _means(probed), strict=True)),
        components=_contributions(score, len(plain)),
        flat_share={rate: rate**group_size + (1 - rate) ** group_size for rate in SOLVE_RATES},
        findings=(),
    )
    findings = [*_findings(result), *_failed(score, names), *_all_flat(known)]
    return dataclasses.replace(result, findings=tuple(sorted(findings, key=lambda finding: finding.level)))


def table(result: Preflight) -> str:
    """The result as plain text."""
    found = [f"{finding.level}: {finding.message}" for finding in result.findings]
    if not result.shape:  # it gave no score at all
        return "\n".join([f"reward `{result.name}` on {result.rows} rows", *found])
    low, high = result.bounds
    scores = " x ".join(map(str, result.shape)) or "none"
    lines = [
        f"reward `{result.name}` on {result.rows} rows, group size {result.group_size}",
        f"  scores                {scores}, {result.without_value:.1%} without a value",
        f"  range seen            {result.observed[0]:g} to {result.observed[1]:g}, declared {low:g} to {high:g}",
        "  seconds a completion  "
        + ", ".join(f"{name} {_duration(value)}" for name, value in result.latency_s.items()),
        f"  deterministic         {_yes(result.deterministic)}",
        f"  runs in processes     {_yes(result.picklable)}",
        f"  right answer          {result.right:.3f}   (stated as: {result.style})",
        f"  wrong answer          {result.wrong:.3f}",
        "",
        f"{'component':<28} {'weight':>8} {'of the mean':>12} {'of the advantage':>17}",
        *(
            f"{name:<28} {part.weight:8.3f} {part.of_mean:12.1%} {part.of_advantage:17.1%}"
            for name, part in result.components.parts.items()
        ),
        "",
        f"{'probe':<36} {'reward':>8}",
        *(f"{name:<36} {value:8.3f}" for name, value in result.probes.items()),
        "",
        f"expected flat groups of {result.group_size}, if only right and wrong differ:",
        "  " + ", ".join(f"{share:.0%} at solve rate {rate:g}" for rate, share in result.flat_share.items()),
        "",
        *(found or ["nothing found"]),
    ]
    return "\n".join(lines)


def to_json(result: Preflight) -> dict[str, Any]:
    """The result as nested plain values."""
    components = {name: part._asdict() for name, part in result.components.parts.items()}
    return dataclasses.asdict(result) | {
        "bounds": list(result.bounds),
        "ok": result.ok,
        "components": {"parts": components, "explained": result.components.explained},
        "flat_share": {str(rate): share for rate, share in result.flat_share.items()},
        "findings": [finding._asdict() for finding in result.findings],
    }


def _rollouts(rows: Sequence[Row], texts: Mapping[str, Sequence[str]]) -> Rollouts:
    names = dict.fromkeys(name for row in rows for name in row if name not in ("prompt", "demonstration"))
    completions = [list(column) for column in zip(*texts.values(), strict=True)]
    return text_rollouts(
        [row["prompt"] for row in rows],
        completions,
        {name: [row.get(name) for row in rows] for name in names},
        lengths=np.array([[1 + len(text) // CHARACTERS_PER_TOKEN for text in group] for group in completions]),
    )


# --- Measurements -----------------------------------------------------------------------------------------------------


def _timed(reward: Reward, rollouts: Rollouts) -> tuple[Score, float]:
    started = time.perf_counter()
    score = reward(rollouts)
    return score, time.perf_counter() - started


def _latency(score: Score, seconds: float) -> dict[str, float]:
    """Per completion, all parts together; an average where parts were not timed one by one."""
    timed = [np.asarray(part, np.float64) for part in score.seconds.values()]
    each = np.nansum(timed, axis=0) if timed else np.full(score.value.shape, seconds / score.value.size)
    return {
        "p50": float(np.percentile(each, 50)),
        "p95": float(np.percentile(each, 95)),
        "max": float(each.max()),
    }


def _contributions(score: Score, plain: int) -> Contributions:
    """Weights from all texts, where every component varies if it ever does; shares over the first ones, the plain."""
    counted = np.zeros(score.value.shape, bool)
    counted[:, :plain] = True
    return contributions(score.value, score.valid, score.parts, counted=counted)


def _beside(first: Score, second: Score) -> Score:
    """Two scores of the same rows as one."""

    def joined(name: str) -> dict[str, np.ndarray]:
        parts = getattr(first, name), getattr(second, name)
        return {key: np.concatenate([part[key] for part in parts], axis=1) for key in parts[0] if key in parts[1]}

    shift = first.value.shape[1]
    return Score(
        value=np.concatenate([first.value, second.value], axis=1),
        valid=np.concatenate([first.valid, second.valid], axis=1),
        parts=joined("parts"),
        outcomes=joined("outcomes"),
        failures=(
            *first.failures,
            *(failure._replace(completion_index=failure.completion_index + shift) for failure in second.failures),
        ),
        seconds=joined("seconds"),
    )


def _means(score: Score) -> list[float]:
    """Mean reward of each text over the rows."""
    return [_mean(score.value[:, index], score.valid[:, index]) for index in range(score.value.shape[1])]


def _mean(values: np.ndarray, valid: np.ndarray) -> float:
    return float(values[valid].mean()) if valid.any() else math.nan


def _or_low(value: float) -> float:
    return -math.inf if math.isnan(value) else value


def _range(score: Score) -> tuple[float, float]:
    values = np.asarray(score.value)[np.asarray(score.valid)]
    return (float(values.min()), float(values.max())) if values.size else (math.nan, math.nan)


def _equal(score: Score, again: Score) -> bool:
    return np.array_equal(score.value, again.value) and np.array_equal(score.valid, again.valid)


def _is_picklable(reward: Reward) -> bool:
    try:
        cloudpickle.dumps(reward.score)
    except Exception:  # pickling runs the user's own code
        return False
    return True


# --- Findings ---------------------------------------------------------------------------------------------------------


def _findings(result: Preflight) -> Iterable[Finding]:
    """What follows from the numbers."""
    if math.isnan(result.right):
        yield Finding("error", "it gave no right answer a value, in any of the ways an answer can be stated")
    elif not result.right > result.wrong:
        yield Finding(
            "error",
            f"a right answer earns {result.right:.3f} and a wrong one {result.wrong:.3f}; check the column the reward "
            "reads and the format it expects",
        )
    else:
        yield from _exploits(result)
    if not result.deterministic:
        yield Finding("warning", "scoring the same texts again gave other values; a resumed run will differ")
    if not all(map(math.isfinite, result.bounds)):
        yield Finding(
            "warning", "its bounds are not declared; pass bounds=(low, high) so that values outside are refused"
        )
    if result.latency_s["p50"] > SLOW_S:
        yield Finding("warning", f"a call takes {_duration(result.latency_s['p50'])}; add reward.run=processes")
    for name, part in result.components.parts.items():
        if abs(part.of_advantage) < 0.01:
            yield Finding("warning", f"`{name}` makes up less than 1 % of the advantage on these texts")


def _exploits(result: Preflight) -> Iterable[Finding]:
    gap = result.right - result.wrong
    for name, value in result.probes.items():
        gained = (value - result.wrong) / gap
        if gained > MARGIN:
            yield Finding(
                "error" if gained >= 0.5 else "warning",
                f"exploit: `{name}` earns {value:.3f}, {gained:.0%} of the way from a wrong answer "
                f"({result.wrong:.3f}) to a right one ({result.right:.3f})",
            )


def _failed(score: Score, names: Sequence[str]) -> Iterable[Finding]:
    """One finding for each part and reason."""
    counts: dict[tuple[str, str], list[str]] = {}
    for failure in score.failures:
        counts.setdefault((failure.part, failure.reason), []).append(names[failure.completion_index])
    for (part, reason), where in counts.items():
        yield Finding("error", f"`{part}` failed on {len(where)} texts, first on `{where[0]}`: {reason}")
    for part, outcomes in score.outcomes.items():
        abstained = float((np.asarray(outcomes) == Outcome.ABSTAINED).mean())
        if abstained == 1.0:
            yield Finding("error", f"`{part}` abstained on every text")


def _all_flat(known: Score) -> Iterable[Finding]:
    if flat_groups(known).all():
        yield Finding("error", "it gives all answers to a prompt the same value, so there is nothing to learn from")


def _broken(reward: Reward, rows: Sequence[Row], group_size: int, error: Exception) -> Preflight:
    """The result for a reward that does not give a score at all."""
    nothing = (math.nan, math.nan)
    return Preflight(
        name=reward.name,
        rows=len(rows),
        shape=(),
        without_value=math.nan,
        group_size=group_size,
        bounds=reward.bounds,
        observed=nothing,
        latency_s={},
        deterministic=False,
        picklable=_is_picklable(reward),
        style="tags",
        right=math.nan,
        wrong=math.nan,
        probes={},
        components=Contributions({}, math.nan),
        flat_share={},
        findings=(Finding("error", f"it raised {type(error).__name__}: {error}"),),
    )


def _duration(seconds: float) -> str:
    return f"{seconds * 1e6:.0f} µs" if seconds < 1e-3 else f"{seconds * 1e3:.1f} ms"


def _yes(value: bool) -> str:
    return "yes" if value else "NO"
