"""What the experiments of `agent_tunix.diagnostics.klasym` return: a row per measurement, and their text."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from agent_tunix.plain import plain

WEIGHT = 4
"""Of phi, where one weight is shown."""
DIP = 0.02
"""A fall of varphi that counts."""


@dataclasses.dataclass(frozen=True)
class Check:
    """How often a formula and the measurement agreed."""

    rule: str
    agreed: int
    cases: int


@dataclasses.dataclass(frozen=True)
class Coin:
    """Least divergence for equal changes of a reward that is given with probability `p`."""

    p: float
    change: float
    up: float
    down: float
    ratio: float


@dataclasses.dataclass(frozen=True)
class Skill:
    """The same along the gradient of a sequence that succeeds if every token is right."""

    tokens: int
    success: float
    ratio: float


@dataclasses.dataclass(frozen=True)
class Directions:
    """Share of random directions that lower the success of a sequence, measured and predicted (NaN: too short)."""

    tokens: int
    success: float
    budget: float
    fell: float
    predicted: float


@dataclasses.dataclass(frozen=True)
class Falls:
    """Share of starts from which varphi falls in the first step."""

    starts: str
    weight: int
    natural: float
    vanilla: float


@dataclasses.dataclass(frozen=True)
class Correlated:
    """The natural gradient from P(phi) = 0.3 and P(varphi) = 0.8."""

    correlation: float
    limit: float
    start: float
    lowest: float
    end: float


@dataclasses.dataclass(frozen=True)
class Dips:
    """Vanilla gradient to the end, from a grid of independent starts.

    Attributes:
      share: Starts from which varphi falls by more than `DIP` at some time.
      deep: By more than 0.1.
      rare: Those among the dips that started with P(varphi) < 1/2, where +u-v is the commoner case.
      phi_at_lowest: Mean P(phi) where varphi is lowest.
      recovered: Dips that end above their start.
      lost: Dips that end below 0.02.
    """

    weight: int
    share: float
    deep: float
    rare: float
    phi_at_lowest: float
    recovered: float
    lost: float


@dataclasses.dataclass(frozen=True)
class Cases:
    """Shares among completions of positive advantage, and what varphi does; P(phi) = 0.3, weight 4."""

    p_varphi: float
    good_good: float
    good_bad: float
    lift_good_good: float
    lift_good_bad: float
    natural: float
    vanilla: float


@dataclasses.dataclass(frozen=True)
class Sampled:
    """Groups of eight from P = 0.3 and 0.3, mean of many runs."""

    credit: str
    start: float
    lowest: float
    end: float


@dataclasses.dataclass(frozen=True)
class Frontier:
    """Best policy for a weight within a divergence, from P(phi) = 0.3 and P(varphi) = 0.7."""

    budget: float
    weight: int
    phi: float
    varphi: float


@dataclasses.dataclass(frozen=True)
class Noise:
    """Success of a 20-token sequence while an unrelated reward of some weight shakes the gradient."""

    weight: int
    rate: float
    start: float
    end: float


@dataclasses.dataclass(frozen=True)
class DipMap:
    """The greatest fall of varphi at weight 4 by start: rows of `fall` are P(phi), columns P(varphi)."""

    p: np.ndarray
    fall: np.ndarray


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What was measured; see the classes of the rows for what the columns are."""

    seed: int
    checks: tuple[Check, ...]
    coins: tuple[Coin, ...]
    sequences: tuple[Skill, ...]
    directions: tuple[Directions, ...]
    falls: tuple[Falls, ...]
    correlated: tuple[Correlated, ...]
    dips: tuple[Dips, ...]
    cases: tuple[Cases, ...]
    sampled: tuple[Sampled, ...]
    frontier: tuple[Frontier, ...]
    noise: tuple[Noise, ...]
    dip_map: DipMap

    @property
    def verdict(self) -> str:
        """What the numbers say of the proposed explanation."""
        coins = {coin.p: coin.ratio for coin in self.coins}
        dips = next(row for row in self.dips if row.weight == WEIGHT)
        return (
            f"The observation reproduces: with r = 4 phi + varphi and independent rewards, the softmax policy gradient "
            f"lowers varphi by more than {DIP} from {dips.share:.0%} of the starts, is lowest when phi is at "
            f"{dips.phi_at_lowest:.2f}, and in {dips.recovered:.0%} of these cases ends above where it began.\n"
            f"The asymmetry is real where a reward is mostly given (KL up / KL down = {coins[0.9]:.2f} at P = 0.9) and "
            f"the other way round where it is rare ({coins[0.1]:.2f} at P = 0.1).\n"
            f"It alone does not carry the fall. The natural gradient, which pays for nothing but divergence, never "
            f"lowers an independent varphi; it lowers varphi exactly where the two rewards are negatively correlated "
            f"and the weight is above w* = -Var(varphi) / Cov(phi, varphi). And {dips.rare:.0%} of the dips began with "
            f"P(varphi) < 1/2, where raising varphi is the cheaper way.\n"
            f"That +u-v is commoner than +u+v matters to the vanilla gradient, which moves likely outcomes more, and "
            f"not through the baseline: among good completions both are as over-represented, their lift is the same.\n"
            f"Look in this order: covariance and w*, the cosine of the two gradients, a varphi that starts below 1/2, "
            f"noise from a large weight times a large learning rate."
        )

    def table(self) -> str:
        """All measurements as text, the verdict last.

        Examples:
          >>> print(_aligned("Coins", (Coin(p=0.9, change=0.05, up=0.016, down=0.012, ratio=1.37),)))
          Coins
              p  change     up   down  ratio
            0.9    0.05  0.016  0.012   1.37
        """
        parts = [_aligned(title, getattr(self, name)) for name, title in TITLES.items()]
        return "\n\n".join([*parts, self.verdict])

    def to_json(self) -> dict[str, Any]:
        """Plain values only; a limit that no weight reaches is None."""
        return plain(dataclasses.asdict(self) | {"verdict": self.verdict})


TITLES = {
    "checks": "Formula against measurement",
    "coins": "Divergence for an equal change, up and down",
    "sequences": "The same along the gradient of a sequence: ratio of up to down",
    "directions": "Random directions of a sequence's logits: share that lowers its success",
    "falls": "Share of starts from which varphi falls at first",
    "correlated": "Correlated rewards, natural gradient, weight 4: falls where 4 is above the limit",
    "dips": "Independent rewards, vanilla gradient, whole way",
    "cases": "Good completions by case, and the first change of varphi",
    "sampled": "Sampled groups of eight, weight 4",
    "frontier": "Best of each weight within a divergence",
    "noise": "An unrelated reward as noise",
}


def _aligned(title: str, rows: Sequence[Any]) -> str:
    """Rows of one class as a text table."""
    names = [field.name for field in dataclasses.fields(rows[0])]
    cells = [[_cell(getattr(row, name)) for name in names] for row in rows]
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    sides = [str.ljust if isinstance(getattr(rows[0], name), str) else str.rjust for name in names]
    lines = [
        "  ".join(side(cell.replace("_", " "), width) for side, cell, width in zip(sides, line, widths, strict=True))
        for line in [names, *cells]
    ]
    return "\n".join([title, *(f"  {line}".rstrip() for line in lines)])


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "-" if np.isnan(value) else "none" if np.isinf(value) else f"{value:.4g}"
    return str(value)
