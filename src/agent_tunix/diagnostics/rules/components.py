"""Rules about the parts of a reward: one without the other, one against the other, one that never moves."""

from collections.abc import Iterator

import numpy as np

from agent_tunix.diagnostics._signals import PENALTY_WORDS, Component, Signals, Track, component_words
from agent_tunix.diagnostics._statistics import Fall, block_means, deepest_fall, smoothed, step_noise
from agent_tunix.diagnostics.findings import Finding
from agent_tunix.diagnostics.rules._wording import REWARD_PAGE, finding


def format_only(
    signals: Signals,
    *,
    format_gain: float = 0.15,
    format_level: float = 0.6,
    task_gain: float = 0.06,
    task_level: float = 0.4,
    wait: float = 0.4,
) -> Finding | None:
    """The format is learned, the task is not.

    Format always comes first, so this waits for a third of a planned run, and any sure rise of the task component or of
    held-out accuracy silences it.

    Args:
      signals: The run.
      format_gain: Gain of the format component as a share of its bounds.
      format_level: Share it has reached.
      task_gain: Gain of the task component that counts as learning.
      task_level: Share above which the task is not left behind.
      wait: Share of a planned run that must be over.
    """
    form, task = signals.role("format"), signals.role("task")
    if form is None or task is None or signals.done < wait:
        return None
    up, side = form.track.change(0.01, 0.2), task.track.change(0.15, 0.2)
    gained, moved = up.delta / form.track.span, side.delta / _span(task.track)
    level, task_at = (_share(part.track) for part in (form, task))
    learned = level > format_level or _rests_high(form.track, 0.5 * format_level)
    end = task.track.change(0.3, 0.1)
    learning = moved > task_gain or (end.z > 5 and end.delta > task_gain / 2 * _span(task.track))
    gold = signals.gold.change() if signals.gold else None
    better = gold is not None and gold.z > 4 and gold.delta > 0.08
    falls = moved < -0.12 and task_at - moved > 0.3  # something was there and is lost: a trade-off
    best = smoothed(task.track.values, task.track.width(0.15)).max() - task.track.head(0.15)
    learning |= bool(best > task_gain * _span(task.track) + 4 * task.track.noise.error(task.track.width(0.15)))
    held_out = ""
    if gold is not None and np.isfinite(gold.error):
        held_out = f", held-out accuracy {gold.delta:+.3f} ± {gold.error:.3f}"
    if _no_gradient(signals, task_at):
        return None
    if gained < format_gain or up.z < 5 or not learned or task_at > task_level or learning or better or falls:
        return None
    return finding(
        "format_only",
        "error" if signals.done == 1 and gold is not None else "warn",
        (signals.first, signals.last),
        f"`{form.name}` rose by {gained:.2f} to {level:.2f}, `{task.name}` by {moved:+.3f} to {task_at:.3f} "
        f"(z {side.z:.1f}){held_out}",
        {"format": form.name, "task": task.name, "format_gain": gained, "task_gain": moved, "task_level": task_at},
        "Pay for format only together with a right answer (a gate), lower its weight, or start from easier prompts so "
        "that right answers appear at all.",
        f"{REWARD_PAGE}#reward-hacking",
        ("github.com/huggingface/open-r1 issue 255",),
    )


def _no_gradient(signals: Signals, task_at: float, share: float = 0.69, level: float = 0.12) -> bool:
    """Whether groups are flat although the task is often solved: then nothing can be learned, whatever is paid."""
    flat = signals.one("frac_reward_zero_std")
    return flat is not None and flat.tail(0.15) > share and task_at > level


def _rests_high(track: Track, least: float) -> bool:
    """Whether a component that may have a lower upper bound than one has settled at its highest level."""
    level = block_means(track.values, 10)
    return track.presumed and float(level[-1]) > least and float(level[-3:].min()) > 0.93 * float(level.max())


def _span(track: Track) -> float:
    """Span of a component; one that never moved has no scale of its own."""
    return track.span if track.bounds else max(track.span, float(np.abs(track.values).max()))


def _share(track: Track) -> float:
    """Level at the end as a share of the bounds; without bounds zero stands for the lower one."""
    low = track.low if track.bounds else min(0.0, track.low)
    high = track.bounds[1] if track.bounds else max(float(track.values.max()), low + 1e-9)
    return (track.tail(0.2) - low) / (high - low)


def tradeoff(
    signals: Signals, *, least_fall: float = 0.08, least_gain: float = 0.08, least_z: float = 5.5
) -> Iterator[Finding]:
    """One component falls while another rises.

    The deepest fall of the smoothed component counts, and what the other gained over the same steps, so that a
    saturated component that jitters, or a dip that all share, is none. A fall that stays may be sudden: there the gain
    counts from 40 % of the run before it to 40 % after.

    Args:
      signals: The run.
      least_fall: Fall as a share of the bounds.
      least_gain: Gain of the other one over the steep part of the fall.
      least_z: Standard errors of either; the deepest of many falls is four by chance, a little less in long windows.
    """
    for down in signals.parts:
        found = [
            pair
            for up in signals.parts
            if up is not down and (pair := _pair(up, down, least_fall, least_gain, least_z)) is not None
        ]
        if found:
            yield _traded(signals, down, max(found, key=lambda pair: pair[1]))


def _pair(
    up: Component, down: Component, least_fall: float, least_gain: float, least_z: float
) -> tuple[Component, float, float, float, float, float] | None:
    """The fall of one component with the gain of another: (up, gain, fall, first step, last step, end level)."""
    for share, needed in ((0.1, least_z), (0.25, 0.85 * least_z)):
        width = down.track.width(share, 5)
        level = smoothed(down.track.values, width)
        fall = deepest_fall(level)
        depth = fall.depth / _zero_span(down.track)
        # A smaller fall must be surer.
        needed *= max(1.0, 1.5 * least_fall / max(depth, 1e-12))
        if depth > least_fall and fall.depth > needed * np.sqrt(2) * down.track.noise.error(width):
            break
    else:
        return None
    middle = down.track.steps[(width - 1) // 2 :]
    first, last = (float(middle[index]) for index in _core(level, fall))
    recovered = float(level[-1] - level[fall.stop]) / fall.depth
    stays = recovered < 0.3 and down.track.steps[-1] - last > 0.15 * np.ptp(down.track.steps)
    if recovered > 0.7 and depth < 2 * least_fall:
        return None
    gain = _gain_around(up.track, first, last, 0.4 if stays else 0.0, least_gain)
    if gain is None:
        return None
    return up, gain / _zero_span(up.track), depth, first, last, recovered


def _gain_around(up: Track, first: float, last: float, share: float, least_gain: float) -> float | None:
    """What a component gained over the steps of a fall, or around them if that is more; None if little."""
    near = up.width(0.1, 5)
    margin = share * float(up.steps[-1] - up.steps[0])
    gains = [up.mean_near(last + more, near) - up.mean_near(first - more, near) for more in {0.0, margin}]
    sure = max(least_gain * _zero_span(up), 4 * float(np.sqrt(2)) * up.noise.error(near))
    return max(gains) if max(gains) >= sure else None


def _core(level: np.ndarray, fall: Fall, edge: float = 0.12) -> tuple[int, int]:
    """The steep part of a fall, without the wandering before and after it."""
    part = level[fall.start : fall.stop + 1]
    start = int(np.flatnonzero(part >= part[0] - edge * fall.depth)[-1])
    stop = int(np.flatnonzero(part <= part[-1] + edge * fall.depth)[0])
    return fall.start + start, fall.start + max(stop, start + 1)


def _zero_span(track: Track) -> float:
    """Bounds of a component, or its distance from zero to its highest level."""
    if track.bounds:
        return track.span
    level = block_means(track.values, 20)
    return max(float(max(level.max(), 0.0) - min(level.min(), 0.0)), 1e-9)


def _traded(signals: Signals, down: Component, pair: tuple[Component, float, float, float, float, float]) -> Finding:
    up, gain, depth, first, last, recovered = pair
    note = f", {recovered:.0%} of it came back" if recovered > 0.3 else ""
    return finding(
        "tradeoff",
        "warn",
        (first, last),
        f"`{down.name}` fell by {depth:.2f} of its bounds between steps {first:.0f} and {last:.0f} while `{up.name}` "
        f"rose by {gain:.2f}{note}",
        {"up": up.name, "down": down.name, "fall": depth, "gain": gain, "recovered": recovered},
        "Compare the weight with its limit -Var/Cov in the trade-off part of the report; lower it below the limit, or "
        "multiply the two parts instead of adding them.",
        f"{REWARD_PAGE}#reward-hacking",
        ("Schaul et al. 2019, arXiv 1904.11455",),
    )


def dead_component(
    signals: Signals, *, share: float = 0.45, spread: float = 0.004, solved: float = 0.9, wait: float = 0.12
) -> Iterator[Finding]:
    """A component has the same value for every completion: it pays, or costs, nobody anything.

    One at its upper bound, or at rest on a level that it rose to, has done its work, and a penalty that is never due is
    fine. The means of real components move by at least a hundredth of their bounds from batch to batch. One that pays
    for fewer than one completion in 700 is as good as dead.

    Args:
      signals: The run.
      share: Last share of the run that is looked at.
      spread: Deviation of the means as a share of the bounds.
      solved: Share of the bounds from which on a constant component is a solved one.
      wait: Share of a planned run that must be over; three times as much for the task, which may start late.
    """
    if signals.done < wait:
        return
    for part in signals.parts:
        since = _dead_since(part, share, spread, solved)
        if since is not None and (part.role != "task" or signals.done >= 3 * wait):
            yield _dead(signals, part, since)


def _dead_since(part: Component, share: float, spread: float, solved: float) -> float | None:
    """Step since which a component has not moved."""
    track = part.track
    if _rose(track):
        return None
    late = track.values[-track.width(share, 8) :]
    value, scale = float(np.median(late)), _zero_span(track)
    # In a constant unbounded series the value is its own scale.
    scale = max(scale, abs(value))
    still = float(np.std(late)) <= spread * scale and np.ptp(late) <= 10 * spread * scale
    if not still and not _almost_never(track, late):
        return None
    low, high = track.bounds or (min(0.0, track.low), None)
    if high is not None and value > low + solved * (high - low):
        return None
    if component_words(part.name) & PENALTY_WORDS and abs(value) <= spread * scale:
        return None
    moving = np.flatnonzero(np.abs(track.values - value) > 6 * spread * scale)
    since = min(int(moving[-1]) + 1, len(track) - 1) if moving.size else 0
    # What comes to rest above its low end was pushed there, unless it had moved from step to step and froze.
    froze = step_noise(track.values[:since]) > 5 * spread * scale
    if since > 0.1 * len(track) and value - low > 0.03 * scale and not froze:
        return None
    return float(track.steps[since])


def _rose(track: Track, gain: float = 0.05) -> bool:
    """Whether a component has learned something: one that rests on a level it reached is saturated, not dead."""
    late = float(np.median(track.values[-track.width(0.2) :]))
    return late - track.head(0.05) > gain * _zero_span(track)


def _almost_never(track: Track, late: np.ndarray, rare: float = 0.0015) -> bool:
    """Whether a component of shares is zero but for single completions."""
    return bool(track.bounds) and float(np.mean(late) - track.low) < rare * track.span


def _dead(signals: Signals, part: Component, since: float) -> Finding:
    value = part.track.tail(0.3)
    return finding(
        "dead_component",
        "warn",
        (since, signals.last),
        f"`{part.name}` has been {value:.3g} since step {since:.0f}",
        {"component": part.name, "value": value, "since": since},
        "Score a few right and wrong completions with it by hand: it may abstain on every prompt, look for a "
        "pattern that never comes, or have its column missing.",
        f"{REWARD_PAGE}#dead-component",
    )
