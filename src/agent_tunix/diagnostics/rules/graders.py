"""Rules about numbers that are not there: graders that fail, values that are no numbers."""

from collections.abc import Iterator

import numpy as np

from agent_tunix.diagnostics._signals import Raw, Signals, Track
from agent_tunix.diagnostics._statistics import departure, smoothed
from agent_tunix.diagnostics.findings import Finding
from agent_tunix.diagnostics.rules._wording import REWARD_PAGE, finding

HEALTH = ("rewards", "loss", "grad_norm", "kl", "entropy")
"""Quantities that every step has, and that turn to nan when training breaks."""


def failed_grader(
    signals: Signals, *, share: float = 0.08, serious: float = 0.3, least: int = 5, invalid: float = 0.3
) -> Finding | None:
    """Grader calls raise, run out of time, or give no value.

    A few timeouts are normal. Every completion without a value takes part in no group.

    Args:
      signals: The run.
      share: Share of failed calls over the last or the worst tenth of the run.
      serious: Share from which on it is an error.
      least: Rows of such a tenth at least.
      invalid: Share of completions without any value that counts the same.
    """
    tracks = [(track, share) for track in signals.tracks.get("failed_grader", ())]
    tracks += [(track, invalid) for track in signals.tracks.get("invalid_reward", ())]
    worst: tuple[float, Track] | None = None
    for track, limit in tracks:
        failed = _worst_stretch(track, least)
        if failed > limit and (worst is None or failed > worst[0]):
            worst = (failed, track)
    if worst is None:
        return None
    failed, track = worst
    onset = departure(track.values, min(track.head(), 0.5 * failed), failed, 0.4)
    ongoing = track.tail(0.1) > 0.5 * failed
    onset = onset if ongoing else int(np.argmax(track.values > 0.5 * failed))
    return finding(
        "failed_grader",
        "error" if failed > serious and ongoing else "warn",
        (track.steps[onset], signals.last),
        f"{track.name}: {failed:.0%} of calls over a tenth of the run, {track.tail(0.1):.0%} at the end",
        {"share": failed, "end": track.tail(0.1), "series": track.name},
        "Read the failed calls in the samples; let a grader return None where it has nothing to say, give it a "
        "time limit, and repair it before the next run.",
        f"{REWARD_PAGE}#no-value",
    )


def _worst_stretch(track: Track, least: int) -> float:
    """Highest mean of a tenth of the run; 0 while there are too few rows."""
    width = track.width(0.1, least)
    return float(smoothed(track.values, width).max()) if len(track) >= least else 0.0


def non_finite(signals: Signals, *, lasting: float = 0.05, excess: float = 0.03) -> Finding | None:
    """A number became infinite or nan and training went on.

    Missing values that hit all series alike are gaps of the log. An infinite value, a series that stops while the
    others go on, and loss or gradient norm missing more often than everything else of the same rows, are not.

    Args:
      signals: The run.
      lasting: Share of the rows at the end without a value, beyond the largest gap before.
      excess: Share of rows without loss or gradient norm, beyond twice the most of any other series.
    """
    found = sorted(_broken(signals, lasting, excess), key=lambda item: item[1])
    if not found:
        return None
    raw, step, what = found[0]
    names = ", ".join(dict.fromkeys(item[0].name for item in found))
    return finding(
        "non_finite",
        "error",
        (step, signals.last),
        f"{raw.name} {what} from step {step:.0f} on; concerned: {names}",
        {"series": raw.name, "first_step": step, "count": float(len({item[0].name for item in found}))},
        "Go back to a checkpoint before that step, lower the learning rate, clip gradients, and check for empty "
        "completions, logarithms of zero and a precision that overflows.",
    )


def _broken(signals: Signals, lasting: float, excess: float) -> Iterator[tuple[Raw, float, str]]:
    for raw in signals.raws:
        if raw.infinite.any():
            yield raw, float(raw.steps[int(raw.infinite.argmax())]), "is infinite"
        elif raw.missing.all():
            if raw.card in ("rewards", "loss") and raw.steps.size >= 3:
                yield raw, float(raw.steps[0]), "has no value at all"
        else:
            yield from _stopped(signals, raw, lasting)
            if raw.card in ("loss", "grad_norm"):
                yield from _holes(signals, raw, excess)


def _stopped(signals: Signals, raw: Raw, lasting: float) -> Iterator[tuple[Raw, float, str]]:
    """A series without values at the end, for longer than ever before."""
    there = np.flatnonzero(~raw.missing)
    tail = raw.missing.size - 1 - int(there[-1])
    if tail < 3 or raw.card not in HEALTH:
        return
    gaps = np.diff(there)
    longest = int(gaps.max()) if gaps.size else 1
    dense = there.size > 0.5 * (there[-1] - there[0] + 1)
    others = _others_after(signals, raw, float(raw.steps[there[-1]]))
    if not others and any(other.card not in HEALTH and other.missing.mean() < 0.5 for other in signals.raws):
        return  # the log ends here, or has a gap
    few = 3 if others else max(3, round(2 * lasting * raw.missing.size))
    if dense and tail >= few and tail > 2 * longest:
        yield raw, float(raw.steps[there[-1] + 1]), "has no value"


def _others_after(signals: Signals, raw: Raw, step: float) -> bool:
    """Whether another dense series has values in most rows after a step."""
    for other in signals.raws:
        late = other.steps > step
        if (
            other is not raw
            and late.sum() >= 3
            and (~other.missing[late]).mean() > 0.6
            and late.sum() > 0.5 * (raw.steps > step).sum()
        ):
            return True
    return False


def _holes(signals: Signals, raw: Raw, excess: float) -> Iterator[tuple[Raw, float, str]]:
    """Loss or gradient norm that is missing far more often than the other series."""
    rates = [
        float(other.missing.mean())
        for other in signals.raws
        if other is not raw and other.card not in ("loss", "grad_norm") and other.missing.mean() < 0.5
    ]
    rate = float(raw.missing.mean())
    if not rates or 2 * max(rates) > 0.7 or raw.missing.sum() < 3 or (rate > 0.5 and _regular(raw)):
        return
    block = _longest_gap(raw)
    together = any(_gone_together(raw, other, block) for other in signals.raws) and _logged(signals, raw, block)
    if together and block[1] >= 5 and raw.missing.size * max(2 * max(rates), 0.05) ** block[1] < 1e-6:
        yield raw, float(raw.steps[block[0]]), f"has no value in {block[1]} rows in a row"
        return
    early = float(raw.missing[: max(raw.missing.size // 5, 1)].mean())
    # What a row lacks from the first steps on as often as later was not logged; only a loss is computed at every step.
    if rate > excess + 2 * max(rates) and not _regular(raw) and (early < 0.5 * rate or raw.card == "loss"):
        yield raw, float(raw.steps[int(raw.missing.argmax())]), f"has no value in {raw.missing.sum()} rows"


def _gone_together(raw: Raw, other: Raw, block: tuple[int, int]) -> bool:
    """Whether loss and gradient norm, which break together, are both missing in a stretch of rows."""
    if {raw.card, other.card} != {"loss", "grad_norm"}:
        return False
    first, last = raw.steps[block[0]], raw.steps[block[0] + block[1] - 1]
    inside = (other.steps >= first) & (other.steps <= last)
    return bool(inside.any() and other.missing[inside].all())


def _logged(signals: Signals, raw: Raw, block: tuple[int, int]) -> bool:
    """Whether anything else has values in a stretch of rows."""
    first, last = raw.steps[block[0]], raw.steps[block[0] + block[1] - 1]
    others = [other for other in signals.raws if other.card not in ("loss", "grad_norm")]
    insides = [other.missing[(other.steps >= first) & (other.steps <= last)] for other in others]
    return any(inside.size and inside.mean() < 0.5 for inside in insides)


def _longest_gap(raw: Raw) -> tuple[int, int]:
    """First row and length of the longest stretch without a value."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], raw.missing.astype(int), [0]])))
    starts, lengths = edges[::2], edges[1::2] - edges[::2]
    return int(starts[lengths.argmax()]), int(lengths.max())


def _regular(raw: Raw) -> bool:
    """Whether values come at regular intervals, as of a series that is logged every few steps."""
    gaps = np.diff(np.flatnonzero(~raw.missing))
    return gaps.size > 2 and float((gaps == np.median(gaps)).mean()) > 0.9 and float(np.median(gaps)) > 1
