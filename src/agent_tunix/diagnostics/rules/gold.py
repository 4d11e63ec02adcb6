"""Rules about a reward that goes its own way: held-out accuracy does not follow, or the trick itself is visible."""

import numpy as np

from agent_tunix.diagnostics._signals import Gold, Signals, Track
from agent_tunix.diagnostics._statistics import Change, departure
from agent_tunix.diagnostics.findings import Finding
from agent_tunix.diagnostics.rules._wording import REWARD_PAGE, finding

WINDOWS = (0.0, 0.15, 0.3, 0.45, 0.6, 0.7)
"""Where the windows begin that end with the run, as shares of it."""
OVEROPTIMISATION = "Gao, Schulman and Hilton 2022, arXiv 2210.10760"


def proxy_gold_divergence(
    signals: Signals,
    *,
    least_rise: float = 0.08,
    least_z: float = 4.0,
    share: float = 0.25,
    limit: float = 0.5,
    expected: float = 0.6,
    surprise: float = 2.7,
    gold_fall: float = 0.1,
) -> Finding | None:
    """What is paid for rises, held-out accuracy does not.

    Over windows that end with the run. Held-out accuracy is regressed on the level of the proxy, with one slope below
    the level at which the window begins and one above it; the second is the accuracy gained per reward. Part of every
    gain is lost on held-out questions: accuracy that rises half as fast as the reward is normal (regression to the
    mean), so the rule asks for less than a quarter, and that a half and more would be a surprise. The task component
    stands for the reward where it is known, as format may rise alone; the total does where no format component explains
    it.

    Args:
      signals: The run.
      least_rise: Rise of the proxy as a share of its bounds.
      least_z: Standard errors of that rise.
      share: Rise of held-out accuracy per rise of the proxy, below which it does not follow.
      limit: The same, ruled out with 1.3 standard errors (90 %, one-sided).
      expected: The same in an ordinary run.
      surprise: Standard errors that it must be away from what is seen; many windows are looked at.
      gold_fall: Fall of held-out accuracy from its best fifth, which counts beside a proxy at its best.
    """
    gold = signals.gold
    if gold is None or len(gold.track) < 5 or (signals.online and signals.rows < 30):
        return None
    worst: tuple[float, Track, float, Change, Change] | None = None
    for proxy in _proxies(signals):
        for begin in WINDOWS:
            start = signals.step(begin)
            rise = _rise(proxy.since(start), proxy)
            relative = rise.delta / proxy.span
            if not proxy.bounds and rise.delta < 0.25 * np.ptp(proxy.level()[1]):
                continue
            if relative < least_rise or rise.z < least_z or _gold_is_level(gold, proxy):
                continue
            change = _follows(gold, proxy, start, rise.delta)
            unsure = np.hypot(change.error, expected * rise.error / proxy.span)
            away = (expected * relative - change.delta) / max(unsure, 1e-9)
            apart = change.delta < share * relative and change.delta + 1.3 * change.error < limit * relative
            # Without bounds the size of the rise means little: held-out accuracy must not rise at all.
            apart &= bool(proxy.bounds) or (change.z < 2 and change.delta < 0.05)
            # A line through a handful of evaluations is unsure of its own error.
            few = 1 + 1.0 / max(len(gold.track.since(start)), 1)
            if apart and away > surprise * few and (worst is None or away > worst[0]):
                worst = (away, proxy, start, rise, change)
    if worst is None:
        return _fallen(signals, gold, gold_fall)
    return _diverging(signals, gold, *worst[1:])


def _gold_is_level(gold: Gold, proxy: Track, margin: float = 0.03) -> bool:
    """Whether held-out accuracy is as high as the proxy: then there is nothing that was only paid for."""
    if not proxy.bounds:
        return gold.tail > 0.93
    return gold.tail > (proxy.tail(0.2) - proxy.low) / proxy.span - margin


def _follows(gold: Gold, proxy: Track, start: float, rise: float) -> Change:
    """Gain of held-out accuracy that goes with a rise of the proxy after a step."""
    steps, level = proxy.level(0.06)
    middle = steps - (proxy.steps[proxy.width(0.06) - 1] - proxy.steps[0]) / 2
    paid = np.interp(gold.track.steps, middle, level)
    begin = float(np.interp(start, middle, level))
    columns = [np.ones_like(paid), np.maximum(paid - begin, 0.0)]
    before = gold.track.steps < start
    if before.sum() >= 3 and np.ptp(paid[before]) > 0.05 * proxy.span:
        columns.append(np.minimum(paid - begin, 0.0))
    design = np.stack(columns, axis=1)
    square = design.T @ design
    if np.linalg.matrix_rank(square) < len(columns):
        return Change(0.0, float("inf"))
    inverse = np.linalg.inv(square)
    slope = float((inverse @ (design.T @ gold.track.values))[1])
    return Change(slope * rise, gold.error * float(np.sqrt(inverse[1, 1])) * rise)


def _rise(part: Track, whole: Track) -> Change:
    if len(part) < 8:
        return Change(0.0, float("inf"))
    return part.change(0.25, 0.25) if len(part) < 0.6 * len(whole) else part.change(0.12, 0.2)


def _proxies(signals: Signals) -> list[Track]:
    """What stands for the reward: the task component, and the total unless its format explains the rise."""
    task, form = signals.role("task"), signals.role("format")
    proxies = [task.track] if task is not None else []
    total = signals.reward
    if total is None or (task is not None and not total.bounds):
        return proxies
    if form is None or abs(form.track.change(0.05, 0.2).delta) < 0.1 * form.track.span:
        proxies.append(total)
    return proxies


def _diverging(signals: Signals, gold: Gold, proxy: Track, start: float, rise: Change, change: Change) -> Finding:
    samples = f", {gold.samples} questions each" if gold.samples else ""
    return finding(
        "proxy_gold_divergence",
        "error",
        (start, signals.last),
        f"{proxy.name} {rise.delta:+.3g} (z {rise.z:.1f}), held-out accuracy {change.delta:+.3f} ± {change.error:.3f} "
        f"over {len(gold.track.since(start))} evaluations{samples}",
        {
            "proxy": proxy.name,
            "proxy_rise": rise.delta,
            "proxy_z": rise.z,
            "gold_change": change.delta,
            "gold_error": change.error,
        },
        "Read the best paid wrong answers of these steps; grade strictly, count one answer only, gate what is not the "
        "task by correctness, and keep the checkpoint of the best held-out accuracy.",
        f"{REWARD_PAGE}#reward-hacking",
        (OVEROPTIMISATION,),
    )


def _fallen(signals: Signals, gold: Gold, gold_fall: float) -> Finding | None:
    """Held-out accuracy that has fallen from its best fifth while the proxy is at its best."""
    steps, level = gold.track.level(0.2)
    peak = int(level.argmax())
    fall = float(level[peak] - level[-1])
    error = np.sqrt(2) * gold.error / np.sqrt(gold.track.width(0.2))
    proxies = _proxies(signals)
    if fall < gold_fall or fall < 5 * error or len(level) - peak < 3 or not proxies:
        return None
    proxy = proxies[0]
    _, paid = proxy.level(0.1)
    if paid[-1] < paid.max() - 0.08 * proxy.span:
        return None
    change = Change(-fall, error)
    rise = Change(float(paid[-1]) - proxy.mean_near(steps[peak], proxy.width(0.1)), proxy.noise.error(proxy.width(0.1)))
    return _diverging(signals, gold, proxy, float(steps[peak]), rise, change)


def length_drift(
    signals: Signals, *, longer: float = 1.58, shorter: float = 0.36, least_z: float = 5.0, least_gold: float = 0.05
) -> Finding | None:
    """Completions get much longer, or much shorter, and no better.

    Healthy runs stay within a factor of 1.5 without better answers; reasoning may treble the length when held-out
    accuracy rises with it: from the steps on where the length changed, not before. Without held-out accuracy the task
    component, else the reward decides.

    Args:
      signals: The run.
      longer: Last length over the first.
      shorter: The same, downwards.
      least_z: Standard errors of the difference.
      least_gold: Gain of held-out accuracy that excuses it, if it is also surely above zero.
    """
    length = signals.one("completion_length")
    if length is None or length.head() <= 0:
        return None
    head, change = length.head(), length.change(0.1, 0.12)
    ratio = 1 + change.delta / head if len(length) < 20 else length.tail(0.12) / head
    if not (ratio > longer or ratio < shorter) or abs(change.z) < least_z:
        return None
    onset = departure(length.values, head, length.tail(0.12), 0.2)
    better, how = _better(signals, float(length.steps[onset]) - 0.1 * signals.length)
    # Few evaluations make a large gain unsure; a reward that pays for length alone gives none.
    if better.delta > least_gold and (
        better.z > (2.3 if signals.done == 1 else 1.6) or (better.delta > 1.6 * least_gold and better.z > 1.6)
    ):
        return None
    evidence = {"ratio": ratio, "z": change.z, "gain": better.delta, "gain_error": better.error}
    if _reward_falls(signals, float(length.steps[onset])):
        evidence["reward_falls"] = 1.0
    return finding(
        "length_drift",
        "warn",
        (length.steps[onset], signals.last),
        f"completions went from {head:.4g} to {length.tail(0.12):.4g} tokens ({ratio:.2f} times, z {change.z:.1f}), "
        f"{how} {better.delta:+.3f} ± {better.error:.3f}",
        evidence,
        "Look for a part of the reward that pays for length, cap or penalise length among right answers only, "
        "and use a loss that does not divide by the length of each completion.",
        f"{REWARD_PAGE}#length",
        ("Liu et al. 2025, arXiv 2503.20783",),
    )


def _reward_falls(signals: Signals, onset: float, fall: float = 0.05) -> bool:
    """Whether the reward is surely lower at the end than shortly before a step."""
    reward = signals.reward
    if reward is None or len(before := reward.between(signals.first, onset)) < 5:
        return False
    width = before.width(0.3)
    lost = float(before.values[-width:].mean()) - reward.tail(0.2)
    error = np.hypot(reward.noise.error(width), reward.noise.error(reward.width(0.2)))
    return lost > fall * reward.span and lost > 4 * error


def _better(signals: Signals, start: float) -> tuple[Change, str]:
    """How much better the answers got from a step on, as a share, and by which measure."""
    if signals.gold is not None and len(signals.gold.track) >= 3:
        late = signals.gold.change(start)
        return late if np.isfinite(late.error) else signals.gold.change(), "held-out accuracy"
    task = signals.role("task")
    track = task.track if task is not None else signals.reward
    if track is None:
        return Change(0.0, 0.0), "nothing else logged, gain"
    late = track.since(start)
    change = late.change(0.2, 0.2) if len(late) >= 10 else track.change()
    return Change(change.delta / track.span, change.error / track.span), track.name


def answer_spam(
    signals: Signals,
    *,
    least_rise: float = 0.12,
    least_share: float = 0.17,
    least_z: float = 5.0,
    certain: float = 0.5,
) -> Finding | None:
    """More and more completions state several different final answers.

    A grader that takes any of them is being played. A strict one keeps the share near zero; tasks that ask for several
    answers have a constant one, which is no rise. It must pay: the reward gains, or held-out accuracy falls. What a
    broken policy babbles earns nothing.

    Args:
      signals: The run.
      least_rise: Rise of the share from the first tenth to the last eighth.
      least_share: The share at the end.
      least_z: Standard errors of the rise.
      certain: Share from which on it need not pay yet, if the reward is not lost.
    """
    spam = signals.one("answer_spam")
    if spam is None:
        return None
    change = spam.change(0.1, 0.12)
    if change.delta < least_rise or spam.tail(0.12) < least_share or change.z < least_z:
        return None
    onset = departure(spam.values, spam.head(), spam.tail(0.12), 0.3)
    if not _pays(signals, float(spam.steps[onset]), spam.tail(0.12) > certain):
        return None
    gold = signals.gold.change() if signals.gold else None
    note = f"; held-out accuracy {gold.delta:+.3f} ± {gold.error:.3f}" if gold and np.isfinite(gold.error) else ""
    return finding(
        "answer_spam",
        "error",
        (spam.steps[onset], signals.last),
        f"{spam.tail(0.12):.0%} of completions state several answers, {spam.head():.0%} at first (z "
        f"{change.z:.1f}){note}",
        {"share": spam.tail(0.12), "start": spam.head(), "z": change.z},
        "Give nothing to a completion that states more than one final answer.",
        f"{REWARD_PAGE}#reward-hacking",
        ("github.com/Liuziyu77/Visual-RFT issue 79",),
    )


def _pays(signals: Signals, onset: float, certain: bool, gain: float = 0.03) -> bool:
    """Whether the reward gained, or held-out accuracy fell, since shortly before an onset."""
    reward = signals.reward
    if reward is None:
        return True
    before = reward.between(signals.first, onset)
    first = before.tail(0.3) if len(before) >= 3 else reward.head(0.05)
    change, rise = reward.change(0.1, 0.12), reward.tail(0.12) - first
    if (rise > gain * reward.span or change.delta > gain * reward.span) and change.z > 2:
        return True
    lost = rise < -gain * reward.span
    gold = signals.gold.change(onset - 0.2 * signals.length) if signals.gold else Change(0.0, float("inf"))
    return not lost and (certain or (gold.delta < -gain and gold.z < -3))
