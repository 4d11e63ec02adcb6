"""Rules about a reward that grows beyond what it can be, or beyond what anybody says it can be."""

import numpy as np

from agent_tunix.diagnostics._signals import Signals, Track
from agent_tunix.diagnostics._statistics import block_means, smoothed
from agent_tunix.diagnostics.findings import Finding
from agent_tunix.diagnostics.rules._wording import REWARD_PAGE, SEED_CARD, finding


def exceeds_bound(signals: Signals, *, least_z: float = 5.0, tolerance: float = 1e-6, rows: int = 3) -> Finding | None:
    """The reward is above, or below, what its function declares to be possible.

    That is arithmetic and no statistics: one cause is an exploit, the other a wrong declaration. Only where bounds were
    declared. The error counts all the same, as some logs add noise or round.

    Args:
      signals: The run.
      least_z: Standard errors of a mean of so many rows above the bound.
      tolerance: Rounding that is forgiven, as a share of the bounds.
      rows: Rows of the mean, and rows whose greatest reward must be above.
    """
    reward = signals.tracks["rewards"][0] if "rewards" in signals.tracks else None
    if reward is None or not reward.bounds or reward.presumed:
        return None
    low, high = reward.bounds
    slack = tolerance * reward.span
    for sign, bound in ((1.0, high), (-1.0, low)):
        step = _first_beyond(reward, sign, bound, slack, least_z, rows)
        if step is not None:
            return _beyond(signals, reward, sign, bound, step)
    best = signals.highest
    if best is not None and (best.values > high + 1e-3 * reward.span).sum() >= rows:
        return _beyond(signals, best, 1.0, high, float(best.steps[np.argmax(best.values > high + 1e-3 * reward.span)]))
    return None


def _first_beyond(reward: Track, sign: float, bound: float, slack: float, least_z: float, rows: int) -> float | None:
    """Step at which rows in a row are far beyond a bound, or means of few or many rows surely are."""
    far = np.flatnonzero(sign * (reward.values - bound) > 0.3 * reward.span)
    if far.size >= rows and (three := np.flatnonzero(far[rows - 1 :] - far[: 1 - rows] == rows - 1)).size:
        return float(reward.steps[far[three[0]]])
    few = {min(rows, len(reward))} if sign > 0 else set()  # bad batches fall below more easily than good ones rise
    found = []
    for width in few | {reward.width(0.05, rows if sign > 0 else 10), reward.width(0.15, rows)}:
        over = sign * (smoothed(reward.values, width) - bound)
        # A jump spoils the noise of straight pieces, not that of neighbours.
        error = min(reward.noise.error(width), 1.5 * reward.sigma / float(np.sqrt(width)))
        beyond = over > slack + least_z * error
        if beyond.any():
            found.append(float(reward.steps[width - 1 + int(beyond.argmax())]))
    return min(found, default=None)


def _beyond(signals: Signals, reward: Track, sign: float, bound: float, step: float) -> Finding:
    extreme = float(smoothed(sign * reward.values, min(3, len(reward))).max()) * sign
    side = "upper" if sign > 0 else "lower"
    return finding(
        "exceeds_bound",
        "error" if sign > 0 else "warn",
        (step, signals.last),
        f"{reward.name} reaches {extreme:.4g}, beyond the declared {side} bound {bound:g}, from step {step:.0f} on",
        {"extreme": extreme, "bound": bound, "first_step": step},
        "Either the declared bounds are wrong or a completion is paid more than the reward allows: read the best paid "
        "completions, clip the total, and check the held-out accuracy.",
        f"{REWARD_PAGE}#reward-hacking",
        (SEED_CARD,),
    )


def explosive_growth(
    signals: Signals, *, acceleration: float = 1.5, ratio: float = 8.0, sigmas: float = 8.0, wait: float = 0.5
) -> Finding | None:
    """Without known bounds: the reward grows ever faster, to many times its start.

    A late learner accelerates as well, so this is a warning, an error only where held-out accuracy is known not to
    follow, and nothing where accuracy or bounded components rise with the reward. The healthy curve of the metric card
    slows down (slopes of the second to the first third 0.8), its hacking curve has 2.6.

    Args:
      signals: The run.
      acceleration: Steepest later third over the first.
      ratio: Last level over the first, both above zero; twice as much where the curve flattens at the end, as one that
        was learned does, and three times if it also stays within 0 and 100, as a percentage.
      sigmas: Gain in deviations of one step.
      wait: Share of a planned run that must be over.
    """
    reward = signals.reward
    if reward is None or reward.bounds or signals.done < wait or signals.gold_rises() or _bounded_parts_rise(signals):
        return None
    head, tail = reward.head(), reward.tail()
    thirds = block_means(reward.values, 10)
    slopes = [thirds[3] - thirds[0], thirds[6] - thirds[3], thirds[9] - thirds[6]] if thirds.size == 10 else [1, 0, 0]
    faster = max(slopes[1:]) / max(slopes[0], 1e-9 * reward.span)
    grown = tail / head if head > 0 else np.inf
    gain = (tail - head) / max(reward.noise.sigma, 1e-9 * reward.span)
    magnitude = (head > 0 or tail > 3 * abs(head)) and not _within_deviations(signals, tail - head)
    percent = reward.values.min() >= 0 and reward.values.max() <= 100
    needed = ratio if slopes[2] > 0.4 * max(slopes) else 3 * ratio if percent else 2 * ratio
    if not (faster > acceleration and grown > needed and magnitude and gain > sigmas):
        return None
    gold = signals.gold.change() if signals.gold is not None and len(signals.gold.track) >= 5 else None
    return finding(
        "explosive_growth",
        "warn" if gold is None else "error",
        (reward.steps[len(reward) // 3], signals.last),
        f"reward grew from {head:.3g} to {tail:.3g} ({min(grown, 999):.0f} times) and {min(faster, 999):.1f} "
        f"times faster later than at first; nothing says what its upper bound is"
        + (f", held-out accuracy {gold.delta:+.3f} ± {gold.error:.3f}" if gold else ""),
        {"acceleration": min(faster, 999.0), "ratio": min(grown, 999.0), "gain_in_sigmas": gain},
        "Declare the bounds of the reward and evaluate on held-out questions: without either an exploit and a late "
        "success look alike.",
        f"{REWARD_PAGE}#reward-hacking",
        (SEED_CARD,),
    )


def _within_deviations(signals: Signals, gain: float, deviations: float = 3.5, growth: float = 2.0) -> bool:
    """Whether a gain is no more than rewards within a batch differ all the time, as that of a share from nothing to
    one; in a reward that explodes these differences grow with it.
    """
    spread = signals.one("reward_std")
    if spread is None or spread.tail() > growth * max(spread.head(), 1e-12):
        return False
    return gain < deviations * float(spread.values.max())


def _bounded_parts_rise(signals: Signals) -> bool:
    """Whether all components stay in known bounds, and one of them rises much."""
    parts = [part.track for part in signals.parts]
    return bool(parts) and all(p.bounds for p in parts) and any(p.change().delta > 0.2 * p.span for p in parts)
