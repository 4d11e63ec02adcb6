"""Rules about the total reward: its level, its course, its noise."""

import numpy as np

from agent_tunix.diagnostics._signals import Signals, Track
from agent_tunix.diagnostics._statistics import Change, block_means, departure, smoothed
from agent_tunix.diagnostics.findings import Finding
from agent_tunix.diagnostics.rules._wording import REWARD_PAGE, SEED_CARD, bounds_note, finding


def stagnation(
    signals: Signals,
    *,
    least_gain: float = 0.09,
    highest_level: float = 0.6,
    late_z: float = 4.0,
    late_gain: float = 0.03,
    least_sigmas: float = 1.5,
    wait: float = 0.5,
) -> Finding | None:
    """The reward stays low and does not rise.

    Healthy runs gain at least a tenth of what was left to gain, runs without an idea a few hundredths.

    Args:
      signals: The run.
      least_gain: Gain as a share of the distance between the first level and the upper bound.
      highest_level: Above this share of the bounds little gain is no illness.
      late_z: Standard errors of a rise in the last part of the run that count as learning late.
      late_gain: Such a rise is also this share of the bounds.
      least_sigmas: Without bounds: gain in deviations of one step. The flat curve of the metric card has 1.1.
      wait: Share of a planned run that must be over; before, a late learner looks the same.
    """
    reward = signals.reward
    if reward is None or signals.done < wait:
        return None
    change, late = reward.change(0.1, 0.2), _late_change(reward)
    share = signals.solved_share
    if (share is not None and share >= highest_level) or signals.gold_rises():
        return None
    if reward.bounds:
        gain = change.delta / max(reward.bounds[1] - reward.head(), 0.05 * reward.span)
        learning = late.z > late_z and late.delta > late_gain * reward.span
        flat = gain < least_gain and _peak_gain(reward) < least_gain + 0.06 + 3 * change.error / reward.span
    else:
        dust = 1e-9 * max(float(np.abs(reward.values).max()), 1e-3)
        sigma = max(reward.noise.sigma, 1e-9 * reward.span, 0.1 * reward.unit, dust)
        gain, grown = change.delta / sigma, change.delta / max(abs(reward.head()), dust)
        learning = late.z > late_z and late.delta > sigma
        little = gain < least_sigmas or (gain < 1.7 * least_sigmas and grown < 0.1 and late.z < 2)
        flat = little and late.delta < 2 * sigma
    if not flat or learning:
        return None
    unit = "of the room above" if reward.bounds else "deviations of one step"
    return finding(
        "stagnation",
        "warn",
        (signals.first, signals.last),
        f"reward stays at {reward.tail(0.2):.3g} (began at {reward.head():.3g}): gain {gain:+.2f} {unit}, "
        f"z {change.z:.1f}{bounds_note(reward.presumed)}",
        {"level": reward.tail(0.2), "start": reward.head(), "gain": gain, "z": change.z, "late_z": late.z},
        "Look at what the best completions of a group do better, if anything: make the reward graded, start "
        "from easier prompts or a longer warm start, and check that groups are not flat.",
        f"{REWARD_PAGE}#always-near-0-or-1",
        (SEED_CARD,),
    )


def _late_change(reward: Track) -> Change:
    """Last 8 % against the middle of the run."""
    middle = reward.values[round(0.4 * len(reward)) :]
    part = Track(reward.name, reward.steps[-middle.size :], middle, reward.bounds)
    part.__dict__["noise"] = reward.noise
    return part.change(0.4, 0.14)


def _peak_gain(reward: Track) -> float:
    """How far the best stretch of the run was above its start, as a share of the bounds."""
    _, level = reward.level(0.1)
    return float(level.max() - reward.head()) / reward.span


def collapse(
    signals: Signals,
    *,
    least_fall: float = 0.15,
    share_of_level: float = 0.42,
    least_z: float = 6.0,
) -> Finding | None:
    """The reward was there and is lost.

    The last tenth of the run is compared with the best tenth before it. Dips that recover, and the wobble of a plateau,
    end above. A learning rate that is far too high loses everything within ten steps, before there is a tenth of
    anything: there the best three rows count, if all that follows stays below a quarter of them, and held-out accuracy
    that is lost from its first value on while the reward falls by a tenth of its bounds.

    Args:
      signals: The run.
      least_fall: Fall as a share of the bounds.
      share_of_level: Fall as a share of the best level above the lower bound, or of what had been gained if it is also
        a fifth of the bounds; smaller falls hurt less than restarting.
      least_z: Standard errors; the best of many windows is up to four above its mean by chance.
    """
    reward = signals.reward
    if reward is None or len(reward) < 15:
        return None
    return _fallen_from_best(signals, reward, least_fall, share_of_level, least_z) or _lost_at_once(
        signals, reward, least_fall, least_z
    )


def _fallen_from_best(
    signals: Signals, reward: Track, least_fall: float, share_of_level: float, least_z: float
) -> Finding | None:
    """The end compared with the best stretch before it."""
    steps, level = reward.level(0.08)
    peak, now = int(level.argmax()), float(level[-1])
    fall = float(level[peak]) - now
    # Without bounds the foot of the run stands for the lower bound.
    base = reward.low if reward.bounds else min(float(level.min()), reward.head())
    share = fall / max(float(level[peak]) - base, 1e-12)
    error = np.sqrt(2) * reward.noise.error(reward.width(0.08))
    deep = fall > least_fall * reward.span or (share > 0.6 and fall > 0.4 * least_fall * reward.span)
    lasting = level.size - peak > max(3, 0.1 * len(reward))
    gained = float(level[peak]) - reward.head(0.08)
    much = share > share_of_level or (fall > 0.2 * reward.span and fall > 0.45 * gained > 0.1 * reward.span)
    if not (deep and much and lasting and fall > least_z * error):
        return None
    start = peak + departure(level[peak:], float(level[peak]), float(level[peak:].min()), 0.15)
    z = fall / max(error, 1e-12)
    at_once = steps[start] < signals.first + 0.15 * signals.planned
    if at_once and peak <= 0.05 * level.size:  # the first stretch was the best: the fall began somewhere in it
        few = float(reward.steps[int(smoothed(reward.values[: peak + reward.width(0.08)], 3).argmax())])
        return _lost(signals, reward, few, (float(level[peak]), few), now, share, z)
    return _lost(signals, reward, float(steps[start]), (float(level[peak]), float(steps[peak])), now, share, z)


def _lost_at_once(
    signals: Signals, reward: Track, least_fall: float, least_z: float, rows: int = 3, left: float = 0.25
) -> Finding | None:
    """The best few rows compared with all that follows, where that is long; or held-out accuracy with its start."""
    level = smoothed(reward.values, rows)
    lasting = max(15, round(0.08 * len(reward)))
    early = max(rows, len(reward) // 4)
    peak = int(level[:early].argmax())
    best, after = float(level[peak]), level[-lasting:]
    base = reward.low if reward.bounds else min(float(level.min()), 0.0)
    now, most = float(after.mean()), float(np.quantile(after, 0.9))
    gone = level.size - peak > lasting and most - base < left * (best - base)
    far = best - now > max(least_fall * reward.span, least_z * reward.sigma / np.sqrt(rows))
    if not (gone and far) and not _gold_is_lost(signals, reward):
        return None
    below = np.flatnonzero(reward.values[peak:] < (best + now) / 2)
    start = peak + int(below[0]) if below.size else peak
    z = (best - now) / max(reward.sigma / float(np.sqrt(rows)), 1e-12)
    share = (best - now) / max(best - base, 1e-12)
    return _lost(signals, reward, float(reward.steps[start]), (best, float(reward.steps[peak])), now, share, z)


def _gold_is_lost(signals: Signals, reward: Track, share: float = 0.6, least: float = 0.2, z: float = 6.0) -> bool:
    """Whether the last two evaluations are far below the first one and the reward is below its first rows."""
    gold = signals.gold
    if gold is None or len(gold.track) < 3:
        return False
    first, last = float(gold.track.values[0]), float(gold.track.values[-2:].max())
    rows = reward.width(0.05)
    rising = reward.values[-rows:].mean() > reward.values[:rows].mean() - 0.1 * reward.span
    error = 0.5 / float(np.sqrt(gold.samples)) if gold.samples else 0.03  # the curve's own noise holds the fall
    sure = first - last > max(least, share * first, z * error)
    return sure and not rising


def _lost(
    signals: Signals, reward: Track, start: float, peak: tuple[float, float], now: float, share: float, z: float
) -> Finding:
    """The finding of a lost reward; `peak` is its best level and the step of that."""
    best, step = peak
    held_out = ""
    if signals.gold is not None and len(signals.gold.track) > 1:
        seen = signals.gold.track.values
        held_out = f", held-out accuracy from {seen.max():.2f} to {seen[-1]:.2f}"
    evidence = {"peak": best, "peak_step": step, "now": now, "share": share, "z": z}
    if step < signals.first + 0.12 * signals.planned:
        evidence["from_start"] = 1.0
    return finding(
        "collapse",
        "error",
        (start, signals.last),
        f"reward fell from {best:.3g} at step {step:.0f} to {now:.3g}, {share:.0%} of what it had, z "
        f"{z:.1f}{bounds_note(reward.presumed)}{held_out}",
        evidence,
        "Go back to a checkpoint before the fall, lower the learning rate or raise the KL weight, and look at what "
        "changed first: entropy, KL, gradient norm, data.",
    )


def saturated_high(
    signals: Signals, *, level: float = 0.95, gold_level: float = 0.6, wait: float = 0.12
) -> Finding | None:
    """The reward is near its upper bound from the first step: nothing is left to learn.

    For information, unless held-out accuracy says that the task is not solved.

    Args:
      signals: The run.
      level: Share of the bounds that the run is above on average, and its tenths nearly.
      gold_level: Held-out accuracy below which the reward is too easy.
      wait: Share of a planned run that must be over.
    """
    shares = _tenths(signals)
    if shares is None or signals.done < wait:
        return None
    if shares.mean() < level or shares.min() < level - 0.03 or shares[:2].mean() < level - 0.01:
        return None
    gold = signals.gold.tail if signals.gold else None
    easy = gold is not None and gold < gold_level
    note = "" if gold is None else f"; held-out accuracy {gold:.2f}"
    return finding(
        "saturated_high",
        "warn" if easy else "info",
        (signals.first, signals.last),
        f"all tenths of the run have at least {shares.min():.2f} of the possible reward{note}",
        {"least": shares.min(), "mean": shares.mean()} | ({} if gold is None else {"held_out": gold}),
        "Read a few completions: the reward pays for less than the task."
        if easy
        else "Take harder prompts, or stop: groups whose completions are all right teach nothing.",
        f"{REWARD_PAGE}#always-near-0-or-1",
    )


def saturated_low(signals: Signals, *, level: float = 0.04, rise: float = 0.03, wait: float = 0.12) -> Finding | None:
    """The reward is near its lower bound all the time: no completion ever shows what pays.

    Args:
      signals: The run.
      level: Share of the bounds that the tenths of the run stay below; half of it in the first 30 % of a planned run,
        as late learners start low.
      rise: Share of the bounds by which the end may be above the start.
      wait: Share of a planned run that must be over.
    """
    shares = _tenths(signals)
    level = level if signals.done >= 2.5 * wait else 0.5 * level
    if shares is None or signals.done < wait or np.quantile(shares, 0.9) > level or shares[-1] - shares[0] > rise:
        return None
    late = _late_change(signals.reward) if signals.reward else None
    if late is not None and signals.reward and late.z > 6 and late.delta > 0.015 * signals.reward.span:
        return None
    return finding(
        "saturated_low",
        "warn",
        (signals.first, signals.last),
        f"no tenth of the run has more than {shares.max():.3f} of the possible reward",
        {"most": shares.max(), "mean": shares.mean()},
        "Make the reward graded so that steps on the way pay, take easier prompts, or warm up on examples: with "
        "one right answer in a hundred, 92 % of groups of eight are flat.",
        f"{REWARD_PAGE}#always-near-0-or-1",
    )


def _tenths(signals: Signals) -> np.ndarray | None:
    """Reward of ten parts of the planned run as shares of its bounds; unbounded and flat, as held-out accuracy."""
    reward = signals.reward
    if reward is None:
        return None
    if reward.bounds:
        return (block_means(reward.values, max(4, round(10 * signals.done))) - reward.low) / reward.span
    change, gold = reward.change(), signals.gold
    if gold is None or len(gold.track) < 4 or abs(change.delta) > 1.5 * max(reward.noise.sigma, 1e-12):
        return None
    flat = signals.one("frac_reward_zero_std")
    return block_means(gold.track.values, 10) if flat is not None and flat.head(0.3) > 0.6 else None


def too_noisy(
    signals: Signals, *, least_sigma: float = 0.115, sigmas: float = 0.9, least_z: float = 3.0, wait: float = 0.3
) -> Finding | None:
    """One step differs from the next by more than the whole run gains.

    A batch of 64 binary rewards has a deviation of at most 0.0625 of the bounds, so 0.115 is no sampling noise of a
    batch of ordinary size.

    Args:
      signals: The run.
      least_sigma: Deviation of one step as a share of the bounds.
      sigmas: Gain of the run in these deviations that hides in them.
      least_z: A gain less sure than this hides as well.
      wait: Share of a planned run that must be over.
    """
    reward = signals.reward
    if reward is None or len(reward) < 30 or signals.done < wait or reward.sigma <= 0:
        return None
    sigma, change = reward.sigma, reward.change(0.2, 0.2)
    relative = sigma / reward.span if reward.bounds else _unbounded_noise(signals, sigma)
    gained = abs(change.delta) / sigma
    if relative < least_sigma or (gained > sigmas and (abs(change.z) > least_z or gained > 1.6 * sigmas)):
        return None
    return finding(
        "too_noisy",
        "warn",
        (signals.first, signals.last),
        f"one step deviates by {sigma:.3g} ({relative:.2f} of the bounds), the whole run gained {change.delta:+.3g} "
        f"(z {change.z:.1f}){bounds_note(reward.presumed)}",
        {"sigma": sigma, "relative_sigma": relative, "gain": change.delta, "z": change.z},
        "Sample more completions per prompt and more prompts per batch, limit the scale of the reward, and ask a judge "
        "that varies several times. A floor under the reward does not help: the group mean takes it out again.",
        f"{REWARD_PAGE}#too-noisy",
    )


def _unbounded_noise(signals: Signals, sigma: float) -> float:
    """Noise as a share of the bounds where those of the total are unknown: that of a bounded component, or of the
    level.

    The level of a reward that was never negative is at most its upper bound; one that was may have been shifted, but
    rewards are rarely on a scale below one.
    """
    task = signals.role("task")
    if task is not None and task.track.bounds:
        return task.track.sigma / task.track.span
    reward = signals.reward
    assert reward is not None
    if reward.unit:
        return sigma / reward.span
    if reward.values.min() < 0:
        return 0.5 * sigma / max(float(np.abs(reward.values.mean())), 1e-12) if sigma > 0.08 else 0.0
    return 0.36 * sigma / max(float(np.abs(reward.values).mean()), 1e-12)
