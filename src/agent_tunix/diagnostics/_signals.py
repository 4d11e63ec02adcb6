"""The series of a run as health rules see them: canonical quantities, sorted, each with what is known about it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float

from agent_tunix.diagnostics._statistics import (
    Change,
    Noise,
    line_change,
    noise_of,
    smoothed,
)

PENALTY_WORDS = frozenset({"penalty", "overlong", "length", "toolong", "cost"})


@dataclass(frozen=True)
class Track:
    """One series: finite values in the order of their steps, one per step.

    Attributes:
      name: As the caller called it.
      steps: Steps of the values, rising.
      values: At most 2000; longer series are block means.
      bounds: Least and greatest possible value, None if unknown.
      presumed: Whether the bounds are a guess: nobody declared them, the values look like shares.
      sigma: Deviation of one logged value around its neighbours.
      extremes: Greatest value of every block, the values themselves where nothing was reduced.
      unit: Least span that a series without bounds can have: for a reward twice the deviation within its batches.
    """

    name: str
    steps: Float[np.ndarray, " n"]
    values: Float[np.ndarray, " n"]
    bounds: tuple[float, float] | None = None
    presumed: bool = False
    sigma: float = 0.0
    extremes: Float[np.ndarray, " n"] = field(default_factory=lambda: np.zeros(0))
    unit: float = 0.0

    def __len__(self) -> int:
        return self.values.size

    @cached_property
    def noise(self) -> Noise:
        """Size and correlation of the noise."""
        return noise_of(self.values)

    @cached_property
    def low(self) -> float:
        """Least possible value, or the least seen."""
        return self.bounds[0] if self.bounds else float(self.values.min())

    @cached_property
    def span(self) -> float:
        """Distance of the bounds; without bounds 1.6 times what the run went through, as runs rarely use all of it."""
        if self.bounds:
            return self.bounds[1] - self.bounds[0]
        level = smoothed(self.values, self.width(0.1))
        dust = 1e-9 * max(1.0, float(np.abs(self.values).max()))
        return max(1.6 * float(np.ptp(level)), 6 * self.noise.error(self.width(0.1)), self.unit, dust)

    def width(self, share: float, least: int = 3) -> int:
        """Number of points in a share of the series."""
        return max(1, min(len(self), max(least, round(share * len(self)))))

    def head(self, share: float = 0.1, least: int = 3) -> float:
        """Mean of the first values."""
        return float(self.values[: self.width(share, least)].mean())

    def tail(self, share: float = 0.1, least: int = 3) -> float:
        """Mean of the last values."""
        return float(self.values[-self.width(share, least) :].mean())

    def change(self, head: float = 0.1, tail: float = 0.2) -> Change:
        """Last values minus first values."""
        first, last = self.width(head), self.width(tail)
        error = np.hypot(self.noise.error(first), self.noise.error(last))
        return Change(float(self.values[-last:].mean() - self.values[:first].mean()), float(error))

    def level(self, share: float = 0.1) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"]]:
        """Moving average over a share of the series, with the step at the end of every window."""
        width = self.width(share)
        return self.steps[width - 1 :], smoothed(self.values, width)

    def since(self, step: float) -> "Track":
        """The part from a step on."""
        return self.between(step, float("inf"))

    def between(self, first: float, last: float) -> "Track":
        """The part between two steps, both included."""
        inside = slice(np.searchsorted(self.steps, first), np.searchsorted(self.steps, last, side="right"))
        part = Track(
            self.name, self.steps[inside], self.values[inside], self.bounds, self.presumed, self.sigma, unit=self.unit
        )
        # A part is judged with the noise of the whole: it has too few points to tell its own.
        part.__dict__["noise"] = self.noise
        return part

    def mean_near(self, step: float, width: int) -> float:
        """Mean of the `width` values around a step."""
        start = int(np.clip(np.searchsorted(self.steps, step) - width // 2, 0, max(len(self) - width, 0)))
        return float(self.values[start : start + width].mean())


@dataclass(frozen=True)
class Component:
    """One part of the reward; `role` is `format`, `task` or empty."""

    name: str
    role: str
    track: Track


@dataclass(frozen=True)
class Gold:
    """Held-out accuracy in [0, 1], with the standard error of one evaluation."""

    track: Track
    error: float
    samples: int | None

    def change(self, first: float = -np.inf, last: float = np.inf) -> Change:
        """Rise of the fitted line between two steps; of an infinite error with fewer than three evaluations."""
        part = self.track.between(first, last)
        if len(part) < 3:
            return Change(0.0, float("inf"))
        return line_change(part.steps, part.values, self.error)

    @property
    def tail(self) -> float:
        """Mean of the last fifth."""
        return self.track.tail(0.2, 2)


@dataclass(frozen=True)
class Raw:
    """A series with its gaps: `missing` is True at steps without a value, `infinite` at those with an infinite one."""

    name: str
    card: str
    steps: Float[np.ndarray, " n"]
    missing: Bool[np.ndarray, " n"]
    infinite: Bool[np.ndarray, " n"]


@dataclass(frozen=True)
class Signals:
    """Everything that rules look at.

    Attributes:
      tracks: Card id to the series of that quantity, the best one first.
      components: Parts of the reward.
      raws: Every series that the catalogue knows, with its gaps.
      gold: Held-out accuracy, None if there is none.
      highest: Greatest reward of each step, None if it was not logged.
      first: First step of the run.
      last: Last step.
      done: Share of the planned run that is over, 1 for a run that is judged as a whole.
      online: Whether the run may go on.
      group_size: Completions per prompt, None if nobody said.
    """

    tracks: Mapping[str, tuple[Track, ...]]
    components: tuple[Component, ...]
    raws: tuple[Raw, ...]
    gold: Gold | None
    highest: Track | None
    first: float
    last: float
    done: float
    online: bool
    group_size: int | None = None

    def one(self, card: str, least: int = 10) -> Track | None:
        """The best series of a quantity that has at least so many values, and more while a run goes on."""
        found = self.tracks.get(card)
        return found[0] if found and len(found[0]) >= max(least, self.enough) else None

    @property
    def enough(self) -> int:
        """Values to judge by: 10, while a run goes on 30, or a seventh of a short one."""
        return int(np.clip(0.15 * self.planned, 15, 30)) if self.online else 10

    @property
    def planned(self) -> float:
        """Steps from the first to the last one that is planned."""
        return self.length / max(self.done, 1e-9)

    @cached_property
    def reward(self) -> Track | None:
        """Mean total reward."""
        return self.one("rewards")

    @cached_property
    def rows(self) -> int:
        """Steps of the densest series."""
        return max((raw.steps.size for raw in self.raws), default=0)

    @property
    def length(self) -> float:
        """Steps from the first to the last."""
        return max(self.last - self.first, 1.0)

    @cached_property
    def parts(self) -> tuple[Component, ...]:
        """Components with enough values to judge."""
        return tuple(part for part in self.components if len(part.track) >= self.enough)

    def role(self, role: str) -> Component | None:
        """The component with a role; a single other one beside a format counts as the task."""
        for part in self.parts:
            if part.role == role:
                return part
        others = [part for part in self.parts if not part.role]
        return others[0] if role == "task" and len(others) == 1 and len(self.parts) == 2 else None

    @cached_property
    def solved_share(self) -> float | None:
        """How much of the task is solved at the end, in [0, 1], from the reward or else from what else is bounded."""
        if self.reward is not None and self.reward.bounds:
            return (self.reward.tail(0.15) - self.reward.low) / self.reward.span
        if self.gold is not None and len(self.gold.track) >= 2:
            return self.gold.tail
        task = self.role("task")
        return (task.track.tail(0.15) - task.track.low) / task.track.span if task and task.track.bounds else None

    def gold_rises(self, z: float = 3.0, gain: float = 0.08) -> bool:
        """Whether held-out accuracy surely rises."""
        change = self.gold.change() if self.gold else None
        return change is not None and change.z > z and change.delta > gain

    def step(self, share: float) -> float:
        """The step at a share of the run."""
        return self.first + share * self.length


def component_words(name: str) -> set[str]:
    """The words of a component's name.

    Examples:
      >>> sorted(component_words("tag_formatReward2"))
      ['format', 'reward', 'tag']
    """
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}
