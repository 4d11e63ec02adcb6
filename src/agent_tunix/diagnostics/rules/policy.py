"""Rules about the policy and what it samples: entropy, divergence, gradients, truncation, the sampler."""

import numpy as np

from agent_tunix.diagnostics._signals import Signals, Track
from agent_tunix.diagnostics._statistics import departure, smoothed, without_outliers
from agent_tunix.diagnostics.findings import Finding
from agent_tunix.diagnostics.rules._wording import REWARD_PAGE, finding


def kl_blowup(
    signals: Signals,
    *,
    least: float = 0.48,
    surge: float = 3.0,
    certain: float = 0.55,
    summed: float = 5.0,
    growth: float = 3.0,
    steep: float = 50.0,
    last: float = 0.15,
) -> Finding | None:
    """The divergence from the reference runs away.

    A line is laid through everything before a step, for many steps; a run that keeps its pace stays near it. What
    counts is a high level that stays to the end and that no line explains, or that is above anything a healthy run
    reaches. A smooth course to far above that is taken for a divergence summed over tokens, where only a bend counts.

    Args:
      signals: The run.
      least: Nats per token; healthy runs end at 0.001 to 0.4, runaways above 0.6.
      surge: Level, a while later or at the end, over what the line or the level so far would give.
      certain: Nats per token that count with half such a bend. A straight or flattening course never does: it may be a
        sum over tokens, and is what a fixed step size gives.
      summed: Level above which the divergence is taken for a sum over tokens.
      growth: Level over that of the first tenth.
      steep: The same, that stands for a bend: a straight course has 20, a flattening one less.
      last: Last share of the run that must be that high.
    """
    kl = signals.one("kl")
    if kl is None:
        return None
    values = without_outliers(kl.values)
    level = smoothed(values, kl.width(0.05))
    high = max(float(np.median(values[-kl.width(last, 5) :])), float(level[-kl.width(0.05) :].mean()))
    begin, factor = _surge(level, high)
    calm = float(np.median(level[: max(level.size // 10, 1)]))
    bends = factor >= (surge if high < 1.2 * least else 0.75 * surge)
    bends |= certain <= high <= summed and (factor >= 0.5 * surge or high > steep * abs(calm))
    if high < least or high < growth * abs(calm) or not bends:
        return None
    onset = departure(level, float(np.median(level[: max(begin, level.size // 10, 1)])), high, 0.1)
    return finding(
        "kl_blowup",
        "error",
        (kl.steps[onset], signals.last),
        f"KL to the reference went from {calm:.3g} to {high:.3g}, {min(factor, 999):.1f} times what its course "
        f"up to step {kl.steps[min(begin + kl.width(0.05) - 1, len(kl) - 1)]:.0f} promised",
        {"kl": high, "before": calm, "factor": min(factor, 999.0)},
        "Lower the learning rate or raise the KL weight, clip gradients, and go on from a checkpoint before the bend.",
        sources=("Schulman 2020, joschu.net/blog/kl-approx.html",),
    )


def _surge(level: np.ndarray, high: float) -> tuple[int, float]:
    """The step behind which the end is furthest above a line through what was before, and how many times."""
    best = (0, 0.0)
    n = level.size
    for share in (0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.92):
        stop = round(share * n)
        if stop < 4:
            continue
        x = np.arange(stop)
        slope, base = np.polyfit(x, level[:stop], 1)
        recent = float(level[max(0, stop - max(2, n // 20)) : stop].mean())
        for later in {min(n, stop + round(0.15 * n)), min(n, stop + round(0.3 * n)), n}:
            reached = high if later == n else min(high, float(level[later - max(1, n // 40) : later].mean()))
            promised = max(base + slope * later, recent + max(slope, 0.0) * (later - stop), recent, 1e-6)
            # A bend that matters comes at a level that matters.
            if reached > 0.3 * high and reached / promised > best[1]:
                best = (stop, reached / promised)
    return best


def entropy_collapse(
    signals: Signals,
    *,
    early: float = 0.26,
    by: float = 0.4,
    end: float = 0.18,
    headroom: float = 0.4,
) -> Finding | None:
    """The policy stops exploring long before the task is solved.

    Entropy falls in every healthy run, often by three quarters in a tenth of it; what is ill is that it is gone while
    there was much left to learn. A run that solves its task loses entropy in step with what is left to gain, and is
    excused as long as its entropy keeps up with 0.4 of that.

    Args:
      signals: The run.
      early: Share of the first entropy left at `by` of the run.
      by: Share of the planned run.
      end: Share left at the end.
      headroom: Entropy left per reward left, both as shares of their start.
    """
    entropy = signals.one("entropy")
    if entropy is None or entropy.head(0.03) <= 0:
        return None
    steps, level = entropy.level(0.05)
    ratio = level / entropy.head(0.03)
    planned = by / max(signals.done, 1e-9)
    index = min(int(planned * ratio.size), ratio.size - 1)
    low = float(ratio[max(0, index - 1) :].min()) if planned >= 1 else float(ratio[index])
    last = float(ratio[-max(1, ratio.size // 20) :].mean())
    if (low > early and last > end) or last > 1.6 * early:
        return None
    left = _left(signals, steps)
    gone = ratio < (early if low <= early else end)
    if left is not None and not (gone & (ratio < headroom * left)).mean() > 0.1:
        return None
    flat = signals.one("frac_reward_zero_std")
    stuck = signals.gold is not None and signals.gold.change().z < 2 and flat is not None and flat.tail() > 0.5
    onset = int(np.argmax(gone))
    return finding(
        "entropy_collapse",
        "error" if stuck else "warn",
        (steps[onset], signals.last),
        f"entropy fell to {ratio[index]:.0%} of its start ({entropy.head(0.03):.3g} nats) by step "
        f"{steps[index]:.0f} and {last:.1%} at the end"
        + (f", with {left[index]:.0%} of the reward still to gain" if left is not None else ""),
        {"ratio_early": ratio[index], "ratio_end": last, "start": entropy.head(0.03)},
        "Lower the learning rate, raise the upper clip bound (clip-higher), add a small entropy bonus or raise the "
        "sampling temperature, and stop training on prompts that are solved.",
        sources=("Cui et al. 2025, arXiv 2505.22617", "Yu et al. 2025, arXiv 2503.14476"),
    )


def _left(signals: Signals, steps: np.ndarray) -> np.ndarray | None:
    """What is left to gain at given steps as a share of what was at first, from the bounded reward."""
    reward = signals.reward
    if reward is None or not reward.bounds:
        reward = signals.gold.track if signals.gold is not None and len(signals.gold.track) >= 5 else None
    if reward is None or not reward.bounds:
        return None
    at, level = reward.level(0.05)
    room = (reward.bounds[1] - np.interp(steps, at, level)) / reward.span
    start = max((reward.bounds[1] - reward.head(0.05)) / reward.span, 0.05)
    return np.clip(room / start, 0.0, 1.0)


def entropy_explosion(
    signals: Signals, *, ratio: float = 1.75, least_z: float = 5.0, least: float = 0.1
) -> Finding | None:
    """The policy turns to noise: entropy rises instead of falling.

    A third more in the first steps is common, above all after a format was learned; a doubling that stays is not.

    Args:
      signals: The run.
      ratio: Last entropy over the first.
      least_z: Standard errors of the rise.
      least: Rise in nats.
    """
    entropy = signals.one("entropy")
    if entropy is None or entropy.head(0.05) <= 0:
        return None
    head, tail, change = entropy.head(0.05), entropy.tail(0.1), entropy.change(0.05, 0.1)
    if tail < ratio * head or tail - head < least or change.z < least_z:
        return None
    onset = departure(entropy.values, head, tail, 0.25)
    return finding(
        "entropy_explosion",
        "warn",
        (entropy.steps[onset], signals.last),
        f"entropy rose from {head:.3g} to {tail:.3g} nats ({tail / head:.1f} times, z {change.z:.1f})",
        {"start": head, "end": tail, "ratio": tail / head, "z": change.z},
        "Lower the learning rate and any entropy bonus, check that the sampler and the trainer agree, and read the "
        "latest completions for gibberish.",
    )


def grad_spike(
    signals: Signals, *, factor: float = 5.0, deviations: float = 5.0, events: int = 3, level: float = 8.0
) -> Finding | None:
    """The gradient norm jumps again and again, or for good.

    One jump happens and is clipped, and may ring for two steps more. The usual level and spread are taken on a
    logarithmic scale, where gradient norms are near normal.

    Args:
      signals: The run.
      factor: A jump is so many times the running median at least.
      deviations: And so many deviations of the logarithm above it, at most 30 times.
      events: Jumps, apart from each other, that make an illness; or more than so many steps in all.
      level: A lasting rise to so many times the earlier level is one by itself.
    """
    norm = signals.one("grad_norm")
    if norm is None or not (norm.values > 0).any():
        return None
    floor = 1e-3 * float(np.median(norm.values[norm.values > 0]))
    usual = np.log(np.maximum(norm.values, floor))
    extremes = np.log(np.maximum(norm.extremes, floor))
    middle = _running_median(usual, max(31, len(norm) // 8))
    spread = 1.4826 * float(np.median(np.abs(usual - middle)))
    jump = extremes - middle > max(np.log(factor), min(deviations * spread, np.log(30.0)))
    jump[: int(np.argmin(jump[2:])) + 2 if jump[:3].any() else 0] = False  # gradients begin high, and come down
    starts = np.flatnonzero(jump & ~np.concatenate([[False], jump[:-1]]))
    begun = starts[np.concatenate([[True], np.diff(starts) > 2])] if starts.size else starts
    half = len(norm) // 4
    rise = float(np.exp(np.median(usual[-max(5, len(norm) // 10) :]) - np.median(usual[: max(half, 5)])))
    several = begun.size >= events or jump.sum() > events
    if not several and rise < level:
        return None
    first = int(begun[0]) if several else departure(middle, float(middle[:5].mean()), float(middle[-1]))
    top = float(norm.extremes.max())
    return finding(
        "grad_spike",
        "warn",
        (norm.steps[first], signals.last),
        f"gradient norm jumped {begun.size} times to more than {factor:g} times its usual "
        f"{np.exp(np.median(middle)):.3g} (highest {top:.3g}); its level is {rise:.1f} times that of the first quarter",
        {"jumps": float(begun.size), "highest": top, "usual": float(np.exp(np.median(middle))), "rise": rise},
        "Warm the learning rate up and lower it, clip the gradient norm, and look at the batches of these steps.",
    )


def _running_median(values: np.ndarray, width: int) -> np.ndarray:
    """Median around every point, of points that are evenly spaced where the width is large."""
    width = min(width | 1, values.size - 1 + values.size % 2)
    stride = max(1, width // 25)
    view = np.lib.stride_tricks.sliding_window_view(values, width)[::stride, ::stride]
    places = np.arange(view.shape[0]) * stride + width // 2
    return np.interp(np.arange(values.size), places, np.median(view, axis=1))


def truncation(
    signals: Signals, *, share: float = 0.2, rise: float = 0.1, constant: float = 0.35, least_z: float = 4.0
) -> Finding | None:
    """Many completions are cut off by the token budget; their rewards say little about the answer.

    Args:
      signals: The run.
      share: Share of cut completions at the end that counts if it rose.
      rise: By how much it must have risen.
      constant: Share that counts without a rise.
      least_z: Standard errors of the rise.
    """
    cut = signals.one("clipped_ratio")
    if cut is None:
        return None
    tail, change = cut.tail(0.12), cut.change(0.1, 0.12)
    rising = tail > share and change.delta > rise and change.z > least_z
    if not rising and not (tail > constant and cut.tail(0.5) > constant):
        return None
    onset = departure(cut.values, cut.head(), tail, 0.15) if rising else 0
    return finding(
        "truncation",
        "warn",
        (cut.steps[onset], signals.last),
        f"{tail:.0%} of completions are cut off, {cut.head():.0%} at first (z {change.z:.1f})",
        {"share": tail, "start": cut.head(), "z": change.z},
        "Raise the token budget, mask cut completions out of the loss, or penalise overlong ones softly.",
        f"{REWARD_PAGE}#length",
        ("Yu et al. 2025, arXiv 2503.14476",),
    )


def sampler_mismatch(
    signals: Signals, *, level: float = 0.012, ratio: float = 4.0, constant: float = 0.08, least_z: float = 4.0
) -> Finding | None:
    """The sampler and the trainer disagree about the probabilities of the same tokens.

    Divergences of a thousandth are the rounding of two engines. Ratios and correlations are read as their distance from
    one.

    Args:
      signals: The run.
      level: Mismatch at the end that counts if it grew.
      ratio: How many times it must have grown.
      constant: Mismatch that counts without growth.
      least_z: Standard errors of the growth.
    """
    for track in signals.tracks.get("sampler_mismatch", ()):
        if len(track) < signals.enough:
            continue
        found = _mismatch(signals, track, level, ratio, constant, least_z)
        if found:
            return found
    return None


def _mismatch(
    signals: Signals, track: Track, level: float, ratio: float, constant: float, least_z: float
) -> Finding | None:
    near_one = 0.5 < track.head() < 1.5
    off = Track(track.name, track.steps, np.abs(track.values - 1) if near_one else np.abs(track.values))
    head, tail, change = off.head(0.12), off.tail(0.12), off.change(0.12, 0.12)
    grown = tail > level and tail > ratio * head and change.z > least_z
    if not grown and tail < constant:
        return None
    onset = departure(off.values, head, tail, 0.25) if grown else 0
    return finding(
        "sampler_mismatch",
        "error",
        (off.steps[onset], signals.last),
        f"{track.name}: mismatch between sampler and trainer {tail:.3g}, {head:.3g} at first (z {change.z:.1f})",
        {"mismatch": tail, "start": head, "z": change.z},
        "Check that the sampler gets every new set of weights and computes in the same precision, and correct "
        "with capped importance weights.",
        sources=("NeMo-RL, docs/guides/grpo.md", "Yao et al. 2025, fengyao.notion.site/off-policy-rl"),
    )
