"""Why one reward climbs while another falls: a proposed explanation, held against bandits where everything is exact.

Trained on ``r = 4 phi + varphi`` with two rewards that are not opposites, policies have been seen to raise phi while
varphi went down and came back later. One explanation: it takes more divergence to raise a reward than to lower it (here
called the asymmetry), so among completions with a good phi those with a bad varphi (+u-v) are commoner than those with
a good one (+u+v), and they are what is learned. `explain` measures each link of that chain.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from agent_tunix.diagnostics import bandits
from agent_tunix.diagnostics._klasym_rows import (
    DIP,
    WEIGHT,
    Cases,
    Check,
    Coin,
    Correlated,
    DipMap,
    Dips,
    Directions,
    Explanation,
    Falls,
    Frontier,
    Noise,
    Sampled,
    Skill,
)
from agent_tunix.diagnostics.bandits import PHI, VARPHI

__all__ = ["Explanation", "coin", "explain", "skill"]

WEIGHTS = (1, 2, 4, 8)
"""Of phi, where the question is how much it matters."""


def explain(seed: int = 0) -> Explanation:
    """Runs all experiments, in some seconds.

    Args:
      seed: Of the random problems and of the sampled runs; what is exact does not depend on it.
    """
    rng = np.random.default_rng(seed)
    starts = np.linspace(0.05, 0.95, 19)
    ways = {weight: _ways(starts, weight) for weight in WEIGHTS}
    return Explanation(
        seed=seed,
        checks=(*_coin_checks(), _skew_check(rng), _limit_check(rng), *_first_sign_checks(), _lift_check()),
        coins=tuple(coin(p) for p in (0.05, 0.1, 0.3, 0.5, 0.7, 0.9, 0.95)),
        sequences=tuple(skill(t, p) for t, p in ((1, 0.3), (1, 0.9), (20, 0.95), (20, 0.99), (100, 0.999))),
        directions=tuple(_directions(t, v, p, b, rng) for t, v, p in _SEQUENCES for b in (0.02, 0.1, 0.5)),
        falls=tuple(fall for weight in WEIGHTS for fall in _falls(weight, rng)),
        correlated=tuple(_correlated(rho) for rho in (0.0, -0.1, -0.2, -0.3, -0.5)),
        dips=tuple(_dips(starts, weight, path) for weight, path in ways.items()),
        cases=tuple(_cases(p) for p in (0.2, 0.4, 0.6, 0.8)),
        sampled=tuple(_sampled(credit, rng) for credit in _CREDITS),
        frontier=tuple(_frontier(budget, weight) for budget in (0.05, 0.3, 1.0) for weight in range(1, 9)),
        noise=tuple(_noise(weight, rate, rng) for rate in (0.3, 3.0) for weight in (0, 4, 8)),
        dip_map=DipMap(starts, _fall(ways[WEIGHT]).reshape(len(starts), -1)),
    )


_SEQUENCES = ((1, 2, 0.3), (1, 2, 0.9), (20, 50, 0.95), (20, 50, 0.99))
_CREDITS = (bandits.centred, bandits.standardised, bandits.only_positive)


def coin(p: float) -> Coin:
    """The asymmetry for a change of half the room that a coin has.

    Examples:
      >>> round(coin(0.9).ratio, 3), round(coin(0.1).ratio, 3)
      (1.365, 0.732)
    """
    change = 0.5 * min(p, 1 - p)
    up, down = (float(bandits.coin_divergence(p + side * change, p)) for side in (1, -1))
    return Coin(p, change, up, down, up / down)


def skill(tokens: int, p_right: float) -> Skill:
    """The asymmetry for a change of half the room that a sequence's success has.

    Examples:
      >>> round(skill(1, 0.9).ratio, 3) == round(coin(0.9).ratio, 3)
      True
    """
    success = p_right**tokens
    change = 0.5 * min(success, 1 - success)
    up, down = (bandits.uphill_divergence(p_right, tokens, success + side * change) for side in (1, -1))
    return Skill(tokens, success, up / down)


def _coin_checks() -> tuple[Check, Check]:
    """The rule p > 1/2, and the searched divergence against the closed form."""
    shares, room = np.linspace(0.02, 0.98, 97), np.linspace(0.05, 0.95, 19)
    p, part = (axis.ravel() for axis in np.meshgrid(shares[shares != 0.5], room))
    change = part * np.minimum(p, 1 - p)
    dearer = bandits.coin_divergence(p + change, p) > bandits.coin_divergence(p - change, p)
    searched = [
        bandits.least_divergence(np.array([at, 1 - at]), np.array([1.0, 0.0]), side * 0.5 * min(at, 1 - at))
        for at in shares
        for side in (1, -1)
    ]
    closed = [value for at in shares for value in (coin(at).up, coin(at).down)]
    return (
        _check("KL up > KL down for a coin where P > 1/2", dearer == (p > 0.5)),
        _check("searched divergence of a coin is p log p/q + ...", np.isclose(searched, closed, rtol=1e-6, atol=0)),
    )


def _skew_check(rng: np.random.Generator, problems: int = 500) -> Check:
    """Random rewards of 50 outcomes, moved by 0.3 of their deviation."""

    def agrees() -> bool:
        policy, values = rng.dirichlet(np.ones(50)), rng.beta(*rng.uniform(0.3, 3, 2), size=50)
        amount = 0.3 * float(np.sqrt(bandits.covariance(policy, values, values)))
        dearer = bandits.least_divergence(policy, values, amount) > bandits.least_divergence(policy, values, -amount)
        return dearer == (bandits.skewness(policy, values) < 0)

    return _check("KL up > KL down where the reward is skewed to the low side", [agrees() for _ in range(problems)])


def _limit_check(rng: np.random.Generator, problems: int = 20_000) -> Check:
    policies, weight = rng.dirichlet(np.ones(4), size=problems), rng.uniform(0.5, 8.0, size=(problems, 1))
    falls = bandits.change(policies, 1.0, bandits.natural, weight * PHI) < 0
    return _check(
        "natural gradient lowers varphi where w > w*", falls == (weight[:, 0] > bandits.weight_limit(policies))
    )


def _first_sign_checks() -> tuple[Check, Check]:
    """Independent rewards over a grid of starts."""
    p, q = np.meshgrid(np.linspace(0.02, 0.98, 49), np.linspace(0.02, 0.98, 49), indexing="ij")
    policies = bandits.joint(p, q)
    vanilla = bandits.change(policies, WEIGHT, bandits.vanilla)
    close = np.abs(vanilla - bandits.independent_change(p, q, WEIGHT)) < 1e-12
    natural = bandits.change(policies, WEIGHT, bandits.natural)
    return (
        _check("first change of the vanilla gradient is w a(p) a(q) + ...", close),
        _check("natural gradient never lowers an independent varphi", np.abs(natural - q * (1 - q)) < 1e-12),
    )


def _lift_check() -> Check:
    """Where phi decides the sign of the advantage, good and bad varphi are equally over-represented."""
    p, q = np.meshgrid(np.linspace(0.25, 0.75, 21), np.linspace(0.05, 0.95, 19), indexing="ij")
    lift = bandits.quadrants(bandits.joint(p, q), WEIGHT).lift
    return _check(
        "lift of +u+v and of +u-v are both 1 / P(phi)", np.abs(lift[..., :2] - 1 / p[..., None]).max(-1) < 1e-12
    )


def _check(rule: str, agreed: Any) -> Check:
    return Check(rule, int(np.sum(agreed)), int(np.size(agreed)))


def _directions(tokens: int, vocabulary: int, p: float, budget: float, rng: np.random.Generator) -> Directions:
    changes = bandits.random_changes(p, tokens, vocabulary, budget, directions=400, rng=rng)
    predicted = bandits.random_fall_share(p, vocabulary, budget) if tokens > 1 else np.nan
    return Directions(tokens, p**tokens, budget, float((changes < 0).mean()), predicted)


def _falls(weight: int, rng: np.random.Generator) -> list[Falls]:
    """Independent starts on a grid, any two binary rewards, and rewards of many outcomes drawn without a relation."""
    grid = np.linspace(0.02, 0.98, 49)
    starts = {
        "independent": (bandits.joint(*np.meshgrid(grid, grid, indexing="ij")), PHI, VARPHI),
        "any four cases": (rng.dirichlet(np.ones(4), size=20_000), PHI, VARPHI),
    }
    for outcomes in (16, 256):
        coins = (rng.random((2, 4000, outcomes)) < 0.5).astype(np.float64)
        starts[f"{outcomes} outcomes"] = (rng.dirichlet(np.ones(outcomes), size=4000), *coins)

    def share(direction: bandits.Direction, policy: np.ndarray, phi: np.ndarray, varphi: np.ndarray) -> float:
        return float((bandits.change(policy, weight, direction, phi, varphi) < -1e-12).mean())

    return [
        Falls(name, weight, share(bandits.natural, *start), share(bandits.vanilla, *start))
        for name, start in starts.items()
    ]


def _correlated(rho: float) -> Correlated:
    policy = bandits.joint(0.3, 0.8, rho)
    varphi = bandits.ascend(policy, WEIGHT, bandits.natural, steps=400, rate=0.05).varphi
    return Correlated(rho, float(bandits.weight_limit(policy)), varphi[0], float(varphi.min()), varphi[-1])


def _ways(starts: np.ndarray, weight: int) -> bandits.Path:
    """Vanilla training from every pair of `starts`, in a step size that keeps the reward's scale out of it."""
    policies = bandits.joint(*(axis.ravel() for axis in np.meshgrid(starts, starts, indexing="ij")))
    return bandits.ascend(policies, weight, bandits.vanilla, steps=6000, rate=0.8 / weight)


def _fall(path: bandits.Path) -> np.ndarray:
    return path.varphi[0] - path.varphi.min(0)


def _dips(starts: np.ndarray, weight: int, path: bandits.Path) -> Dips:
    fall, lowest = _fall(path), path.varphi.argmin(0)
    dip = fall > DIP
    first, last = path.varphi[0][dip], path.varphi[-1][dip]
    return Dips(
        weight,
        share=float(dip.mean()),
        deep=float((fall > 0.1).mean()),
        rare=float((first < 0.5 - 1e-9).mean()),
        phi_at_lowest=float(path.phi[lowest, np.arange(len(lowest))][dip].mean()),
        recovered=float((last > first).mean()),
        lost=float((last < 0.02).mean()),
    )


def _cases(p_varphi: float) -> Cases:
    policy = bandits.joint(0.3, p_varphi)
    table = bandits.quadrants(policy, WEIGHT)
    changes = (float(bandits.change(policy, WEIGHT, way)) for way in (bandits.natural, bandits.vanilla))
    return Cases(p_varphi, *map(float, table.positive[:2]), *map(float, table.lift[:2]), *changes)


def _sampled(credit: Callable[..., np.ndarray], rng: np.random.Generator) -> Sampled:
    start = bandits.joint(0.3, 0.3)
    path = bandits.sample_groups(start, WEIGHT, credit, group=8, steps=800, rate=0.2, runs=400, rng=rng)
    return Sampled(credit.__name__, *map(float, (path.varphi[0], path.varphi.min(), path.varphi[-1])))


def _frontier(budget: float, weight: int) -> Frontier:
    return Frontier(budget, weight, *bandits.within_budget(0.3, 0.7, budget, weight))


def _noise(weight: int, rate: float, rng: np.random.Generator) -> Noise:
    steps = 60 if rate > 1 else 200
    success = bandits.noisy_skill(0.99, 20, weight, rate=rate, steps=steps, runs=300, rng=rng)
    return Noise(weight, rate, float(success[0]), float(success[-1]))
