r"""Which prompts are drawn: a tally of what was solved, and batches of the prompts that are worth drawing.

Every row keeps how many of its completions were solved, and so does its pool, the rows of one source and level. The
estimated solve rate of a row starts at that of its pool and moves to its own with every completion, so that prompts
never seen are told apart by what their pool has shown, also where the data are too many to be seen twice.

What is drawn is a function of the seed, the number of draws and all that was graded before, and so is a resumed run.

References:
  Weights near a solve rate of one half follow p (1 - p), the variance of a reward of 0 or 1, without which a group has
  no advantage: Foster et al., 2025 (:cite:`foster2025frontier`) sample prompts by it, Bae et al., 2025
  (:cite:`bae2025online`) keep those near one half. Kimi k1.5 (:cite:`kimi2025k15`) tracks the solve rate of every
  prompt and samples by 1 - p. Moving averages over categories, here the prior of a row, are those of Chen et al., 2025
  (:cite:`chen2025selfevolving`). The pace from easy to hard is the square-root competence of Platanios et al., 2019
  (:cite:`platanios2019competence`).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from agent_tunix.errors import ConfigError, RunError
from agent_tunix.types import Rollouts, Row, Score

ROW_ID = "row_id"
"""Column with the index of a row among the training rows, where a curriculum draws them."""

PRIOR = 4.0
"""Completions that the solve rate of the pool counts for in the estimate of a row."""

HARD, EASY = 0.2, 0.8
"""Solve rates below and above which a prompt is called hard and easy."""

Preference = Callable[[int, Float[np.ndarray, " rows"]], Float[np.ndarray, " rows"]]
"""`(draw, rates) -> weights`: how much every row is wanted, in [0, 1], by its estimated solve rate."""

Solved = Callable[[Rollouts, Score], Float[np.ndarray, "prompts group"]]
"""How far every completion solves its prompt, in [0, 1]; nan where that is not known."""


def near_rate(target: float, floor: float) -> Preference:
    r"""Wants rows whose solve rate is near a target.

    .. math:: w = f + (1 - f) \left(\frac{p}{t}\right)^{2t} \left(\frac{1 - p}{1 - t}\right)^{2(1 - t)}

    which is 1 at the target :math:`t`, :math:`4 p (1 - p)` but for the floor where that is one half, and the floor
    :math:`f` for what is never or always solved.

    Args:
      target: In (0, 1).
      floor: In [0, 1]; 1 draws all rows equally.

    Examples:
      >>> near_rate(0.5, 0.1)(0, np.array([0.0, 0.25, 0.5, 1.0]))
      array([0.1  , 0.775, 1.   , 0.1  ])
    """

    def weights(draw: int, rates: Float[np.ndarray, " rows"]) -> Float[np.ndarray, " rows"]:
        del draw
        shape = (rates / target) ** (2 * target) * ((1 - rates) / (1 - target)) ** (2 * (1 - target))
        return floor + (1 - floor) * shape

    return weights


def easy_first(levels: Sequence[int], *, start: float, draws: int) -> Preference:
    r"""Wants rows up to a level that rises, whole levels at a time; solve rates do not matter.

    .. math:: c = \min\left(1, \sqrt{c_0^2 + (1 - c_0^2) \, d / D}\right)

    is the share of the rows, the easiest first, whose greatest level is drawn from in draw :math:`d`.

    Args:
      levels: Of all rows.
      start: Share in the first draw, :math:`c_0`, in (0, 1].
      draws: Draws after which all rows are wanted, :math:`D`, at least 1.

    Examples:
      >>> easy_first([1, 2, 3], start=0.1, draws=4)(1, np.zeros(3))
      array([1., 1., 0.])
    """
    level, ascending = np.asarray(levels), np.sort(levels)

    def weights(draw: int, rates: Float[np.ndarray, " rows"]) -> Float[np.ndarray, " rows"]:
        del rates
        share = min(1.0, math.sqrt(start**2 + (1 - start**2) * min(draw / draws, 1.0)))
        return (level <= ascending[math.ceil(share * len(level)) - 1]).astype(float)

    return weights


class _Tally(NamedTuple):
    """Completions solved and graded, older ones counting less."""

    solved: Float[np.ndarray, " entries"]
    graded: Float[np.ndarray, " entries"]

    def add(self, index: Int[np.ndarray, " groups"], solved: Any, graded: Any, memory: float) -> None:
        """Adds groups of completions to the entries of an index, which may name one twice."""
        for tally, number in zip(self, (solved, graded), strict=True):
            tally[np.unique(index)] *= memory
            np.add.at(tally, index, number)


class Curriculum:
    """Batches without end, drawn by what is wanted; a `Batches` of the loop that learns from what was graded.

    Rows of a batch differ. They are drawn one after the other with probabilities proportional to
    `weights * preference` among those that are left (:cite:`efraimidis2006weighted`).

    Args:
      rows: With `level`, and `source` where several are mixed.
      preference: What is wanted.
      solved: How far completions solve their prompts.
      size: Rows per batch.
      seed: Whole number from 0.
      memory: Share of the earlier tally of a row or a pool that is kept when it is graded again.
      prior_rate: Solve rate of a pool before it was graded.
      weights: By which rows would be drawn if all were wanted equally; None for all alike. Rows of weight 0 are never
        drawn.

    Raises:
      ConfigError: Fewer rows to draw than a batch takes.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        preference: Preference,
        solved: Solved,
        *,
        size: int,
        seed: int,
        memory: float,
        prior_rate: float,
        weights: Float[np.ndarray, " rows"] | None = None,
    ) -> None:
        self._rows, self._preference, self._solved = rows, preference, solved
        self._size, self._seed, self._memory, self._prior_rate = size, seed, memory, prior_rate
        self._weights = np.ones(len(rows)) if weights is None else np.asarray(weights, float)
        if not 1 <= size <= (self._weights > 0).sum():
            raise ConfigError(
                f"a batch of {size} rows cannot be drawn from {(self._weights > 0).sum()}; set "
                "training.prompts_per_batch to fewer"
            )
        pools: dict[tuple[Any, Any], int] = {}
        self._pool = np.array([pools.setdefault((row.get("source"), row["level"]), len(pools)) for row in rows])
        self._levels = np.array([row["level"] for row in rows])
        self._draws = 0
        self._own = _Tally(np.zeros(len(rows)), np.zeros(len(rows)))
        self._pooled = _Tally(np.zeros(len(pools)), np.zeros(len(pools)))

    def __next__(self) -> list[Row]:
        random = np.random.default_rng([self._seed, self._draws])
        wanted = self._preference(self._draws, self.rates()) * self._weights
        drawn = _without_replacement(random.random(len(wanted)), wanted, self._weights, self._size)
        self._draws += 1
        return [{**self._rows[index], ROW_ID: index} for index in drawn.tolist()]

    def rates(self) -> Float[np.ndarray, " rows"]:
        """The estimated solve rate of every row, in [0, 1]."""
        solved, graded = self._pooled
        pool = np.where(graded > 0, solved / np.where(graded > 0, graded, 1.0), self._prior_rate)
        rates = (self._own.solved + PRIOR * pool[self._pool]) / (self._own.graded + PRIOR)
        return np.clip(rates, 0.0, 1.0)

    def learn(self, rollouts: Rollouts, score: Score) -> dict[str, float]:
        """Takes in what was sampled for a batch.

        Args:
          rollouts: Of prompts drawn here; they have the column `row_id`.
          score: Theirs.

        Returns:
          Numbers of the draw and of all rows, as listed in the documentation under `curriculum/`.
        """
        rows, expected = np.asarray(rollouts.columns[ROW_ID], int), self.rates()
        verdicts = np.asarray(self._solved(rollouts, score), float)
        solved, graded = np.nansum(verdicts, -1), (~np.isnan(verdicts)).sum(-1)
        known = graded > 0
        self._own.add(rows[known], solved[known], graded[known], self._memory)
        self._pooled.add(self._pool[rows[known]], solved[known], graded[known], self._memory)
        return {
            "curriculum/expected_rate": float(expected[rows].mean()),
            "curriculum/solve_rate": float(solved.sum() / graded.sum()) if known.any() else float("nan"),
            "curriculum/level": float(self._levels[rows].mean()),
            **self._pools(),
        }

    def _pools(self) -> dict[str, float]:
        """How many rows are where, as shares of those that can be drawn."""
        drawable = self._weights > 0
        rates, unseen = self.rates()[drawable], self._own.graded[drawable] == 0
        hard, easy = rates < HARD, rates > EASY
        return {
            "curriculum/unseen_fraction": float(unseen.mean()),
            "curriculum/hard_fraction": float(hard.mean()),
            "curriculum/medium_fraction": float((~hard & ~easy).mean()),
            "curriculum/easy_fraction": float(easy.mean()),
        }

    def get_state(self) -> dict[str, Any]:
        """The draws so far and the tallies; numbers survive JSON to the last bit."""
        seen = np.flatnonzero(self._own.graded)
        return {
            "rows": len(self._rows),
            "draws": self._draws,
            "seen": seen.tolist(),
            "own": [tally[seen].tolist() for tally in self._own],
            "pooled": [tally.tolist() for tally in self._pooled],
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from a saved state.

        Raises:
          RunError: It is that of other rows, or of batches without a curriculum.
        """
        found = state.get("rows"), len(state.get("pooled", ([],))[0])
        if found != (len(self._rows), len(self._pooled.graded)):
            raise RunError(
                f"the saved curriculum is of {found[0]} rows in {found[1]} pools, but the data have {len(self._rows)} "
                f"in {len(self._pooled.graded)}; put back the data and data.curriculum, or start a new run"
            )
        self._draws = state["draws"]
        for tally, numbers in zip(self._own, state["own"], strict=True):
            tally[:] = 0.0
            tally[state["seen"]] = numbers
        for tally, numbers in zip(self._pooled, state["pooled"], strict=True):
            tally[:] = numbers


def _without_replacement(
    uniform: Float[np.ndarray, " rows"], wanted: Float[np.ndarray, " rows"], base: Float[np.ndarray, " rows"], size: int
) -> Int[np.ndarray, " size"]:
    """Indices of rows drawn by weight; where fewer than `size` are wanted, others fill up by `base`."""
    tier = np.where(wanted > 0, 0, np.where(base > 0, 1, 2))
    weights = np.select([tier == 0, tier == 1], [wanted, base], 1.0)
    with np.errstate(divide="ignore"):
        # The greatest of log(u) / w are a draw without replacement.
        return np.lexsort((-np.log(uniform) / weights, tier))[:size]
