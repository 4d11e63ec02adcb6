"""The rule about groups whose completions are all paid the same."""

from agent_tunix.diagnostics._signals import Signals, Track
from agent_tunix.diagnostics._statistics import departure
from agent_tunix.diagnostics.findings import Finding
from agent_tunix.diagnostics.rules._wording import REWARD_PAGE, bounds_note, finding


def variance_collapse(
    signals: Signals,
    *,
    share: float = 0.69,
    low: float = 0.1,
    high: float = 0.84,
    least_std: float = 0.12,
    hopeless: float = 0.04,
    wait: float = 0.15,
) -> Finding | None:
    """Most groups have equal rewards although the task is half solved: hardly anything is left to learn from.

    Where right answers were independent of the prompt, groups of 8 at a level between 0.1 and 0.9 would be flat in at
    most 43 % of cases (p^8 + (1 - p)^8). More shows prompts that are either solved or hopeless, or completions that are
    copies of each other. At a high level flat groups are the normal end of a run. Below a tenth even groups of 8 are
    mostly flat; there it takes fewer than half as many groups with a difference as those would have, over the whole
    run and without progress, which is what groups of two or three completions look like. Small groups whose reward
    rises are left alone.

    Args:
      signals: The run.
      share: Share of flat groups in the last part of the run.
      low: Share of the bounds below which groups of 8 are mostly flat, too.
      high: Share of the bounds above which it is solved.
      least_std: Without that share: deviation within groups over that at the start.
      hopeless: Share of the bounds below which the task is too hard instead.
      wait: Share of a planned run that must be over where the level is low and groups are known to be small; half of
        the run where they are not.
    """
    level = signals.solved_share
    bounded = signals.reward is not None and signals.reward.bounds
    if level is None or (not bounded and level > 0.7):  # held-out accuracy lags behind a solved reward
        level = (0.5 if level is None else level) if not _still_rising(signals) else 1.0
    flat = signals.one("frac_reward_zero_std")
    # Without small groups to blame, a late learner looks the same for long.
    wait = wait if (signals.group_size or 8) < 8 else 0.5
    if hopeless < level <= low and flat is not None and signals.done >= wait:
        return _flat_at_low(signals, flat, level)
    if not low < level < high:
        return None
    if flat is not None:
        return None if _small_but_learning(signals, flat, level) else _flat_groups(signals, flat, share, level)
    std = signals.one("reward_std")
    if std is None or std.head() <= 0 or std.tail(0.15) > least_std * std.head():
        return None
    onset = departure(std.values, std.head(), std.tail(0.15), 0.5)
    text = (
        f"deviation of the reward fell from {std.head():.3g} to {std.tail(0.15):.3g} at a reward level of {level:.2f}"
    )
    return _no_variance(signals, std.steps[onset], text, {"std": std.tail(0.15), "start": std.head(), "level": level})


def _still_rising(signals: Signals) -> bool:
    """Whether a reward of unknown scale ends at its best after a sure rise, as a solved task does."""
    reward = signals.reward
    if reward is None:
        return False
    change = reward.change()
    return change.z > 5 and change.delta > 2 * reward.noise.sigma


def _floor(level: float, size: int = 8) -> float:
    """Share of flat groups of so many independent answers that are right with a probability."""
    solved = min(max(level, 0.0), 1.0)
    return solved**size + (1 - solved) ** size


def _flat_at_low(signals: Signals, flat: Track, level: float, share: float = 0.75) -> Finding | None:
    """Groups that are flat from the beginning to the end, twice as often as groups of 8 need be, and no progress."""
    change = signals.reward.change() if signals.reward is not None else None
    progress = change is not None and signals.reward is not None and change.delta > 0.04 * signals.reward.span
    needed = max(share, 1 - 0.5 * (1 - _floor(level)))
    if progress or flat.tail(0.15) < needed or flat.head(0.3) < needed - 0.05:
        return None
    return _flat_groups(signals, flat, share, level)


def _small_but_learning(signals: Signals, flat: Track, level: float, margin: float = 0.1) -> bool:
    """Whether groups are small, no flatter than their size explains, and the reward rises all the same."""
    size, reward = signals.group_size, signals.reward
    if size is None or size >= 8 or reward is None:
        return False
    change = reward.change()
    return flat.tail(0.15) < _floor(level, size) + margin and change.z > 4 and change.delta > 0.1 * reward.span


def _flat_groups(signals: Signals, flat: Track, share: float, level: float) -> Finding | None:
    tail = flat.tail(0.15)
    if tail < share:
        return None
    onset = departure(flat.values, flat.head(), tail, 0.5) if tail - flat.head() > 0.1 else 0
    size = signals.group_size or 8
    note = bounds_note(bool(signals.reward and signals.reward.presumed))
    text = (
        f"{tail:.0%} of groups have equal rewards at a reward level of {level:.2f}{note}; independent answers "
        f"in groups of {size} would give {_floor(level, size):.0%}"
    )
    evidence = {"flat": tail, "level": level, "floor": _floor(level, size), "floor_of_8": _floor(level)}
    if size < 8:
        text += f", in groups of 8 {_floor(level):.0%}"
        evidence["group_size"] = float(size)
    return _no_variance(signals, flat.steps[onset], text, evidence)


def _no_variance(signals: Signals, onset: float, text: str, evidence: dict[str, float]) -> Finding:
    size = signals.group_size or 8
    first = f"Groups of {size} are too small for this reward, take 8 or more. " if size < 8 else ""
    return finding(
        "variance_collapse",
        "warn",
        (onset, signals.last),
        text,
        evidence,
        f"{first}Sample other prompts in place of flat groups, enlarge groups, raise the temperature, and take prompts "
        "of middling difficulty.",
        f"{REWARD_PAGE}#flat-groups",
        ("Yu et al. 2025, arXiv 2503.14476",),
    )
