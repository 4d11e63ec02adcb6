"""STARC: a distance between rewards that ignores what no optimal policy can tell apart.

Claim: Rewards that differ by potential shaping, by scale, or by how a reward is spread over next states have the same
  best policies, so a distance should be 0 between them. One that is says more about the regret of optimising the wrong
  reward than EPIC, which does not know the dynamics.
Method: :math:`d(R_1, R_2) = \\tfrac12 \\lVert s(R_1) - s(R_2) \\rVert_2`, :math:`s(R) = c(R) / \\lVert c(R) \\rVert_2`
  and :math:`c` one of `value`: :math:`c(R)(s,a) = E_{s'}[R(s,a,s') - V^\\pi(s) + \\gamma V^\\pi(s')]` with the uniform
  policy, or `minimal`: the reward of least norm among the equivalent ones, a projection.
Here: Kept: both canonical forms, norm and metric; EPIC with uniform distributions. The formulas are from memory and
  held to the invariances that the paper states. Ours: 40 random processes of 20 states and 4 actions, discount 0.9;
  rewards mixed with up to 100 % noise in 8 steps, then scaled, shaped by a potential and spread over next states at
  random; all of it exact. Left out: distances from samples, DARD, the bounds on the regret. For rollouts of a language
  model the core has `agent_tunix.rewards.distance`; a law below says that it is this one where episodes are one step.
Run: `agent-tunix papers run reward_distance`.
Seen: 2 cores (AMD EPYC), 2026-12-01, five seeds, 3 s: correlation with the regret 0.86 in both forms, against 0.50 for
  EPIC; equivalent rewards are at 1e-14 at most, under EPIC at up to 0.70, which counts their spread over next states.
"""

from typing import Any

import numpy as np
from jaxtyping import Float

from agent_tunix import rewards
from agent_tunix.papers._frame import Check, Comparison, Measured, Paper
from agent_tunix.papers._lab._processes import Process, action_values, expected, random_process, regret, values
from agent_tunix.types import Score

PROCESSES, MIXTURES = 40, 8


def value_form(process: Process, reward: Float[np.ndarray, "*many s a next"]) -> Float[np.ndarray, "*many s a"]:
    """The reward plus the gain in value under the uniform policy."""
    mean = expected(process, reward)
    value = values(process, mean, np.full(mean.shape, 1 / mean.shape[-1]))
    return action_values(process, mean, value) - value[..., None]


def minimal_form(process: Process, reward: Float[np.ndarray, "*many s a next"]) -> Float[np.ndarray, "*many s a"]:
    """The least reward that some potential turns this one into."""
    mean = expected(process, reward)
    states = mean.shape[-2]
    gains = process.discount * process.transition - np.eye(states)[:, None]
    gains = gains.reshape(*gains.shape[:-3], -1, states)
    flat = mean.reshape(*mean.shape[:-2], -1, 1)
    return (flat - gains @ (np.linalg.pinv(gains) @ flat))[..., 0].reshape(mean.shape)


def starc(process: Process, first: Any, second: Any, form: Any = value_form) -> Float[np.ndarray, "*many"]:
    """Half the Euclidean distance of the canonical forms at length 1; zeros stay zeros."""
    one, other = (_direction(form(process, reward)) for reward in (first, second))
    return np.sqrt(np.square(one - other).sum((-2, -1))) / 2


def epic_form(process: Process, reward: Float[np.ndarray, "*many s a next"]) -> Float[np.ndarray, "*many s entries"]:
    """EPIC: shaped by the mean reward of a state, whatever the dynamics; centred, so that the distance is Pearson's."""
    mean = reward.mean((-2, -1))
    shaped = reward + process.discount * mean[..., None, None, :] - mean[..., None, None]
    return (shaped - shaped.mean((-3, -2, -1), keepdims=True)).reshape(*mean.shape, -1)


def _direction(form: Float[np.ndarray, "*many s a"]) -> Float[np.ndarray, "*many s a"]:
    length = np.sqrt(np.square(form).sum((-2, -1), keepdims=True))
    return np.divide(form, length, out=np.zeros(form.shape), where=length > 1e-12)


def disguised(rng: np.random.Generator, process: Process, reward: Any) -> Float[np.ndarray, "*many s a next"]:
    """An equivalent reward: scaled, shaped by a potential, spread otherwise over the next states."""
    potential = 3 * rng.normal(size=(*reward.shape[:-3], reward.shape[-3]))
    spread = 2 * rng.normal(size=reward.shape)
    scale = np.exp(rng.normal(size=(*reward.shape[:-3], 1, 1, 1)))
    shaped = scale * reward + process.discount * potential[..., None, None, :] - potential[..., None, None]
    return shaped + spread - expected(process, spread)[..., None]


def reproduce(seed: int) -> Measured:
    """Correlation of each distance with the regret, and their means by how much noise is mixed in."""
    rng = np.random.default_rng(seed)
    drawn = random_process(rng, PROCESSES, 1)
    process = drawn._replace(transition=np.broadcast_to(drawn.transition, (PROCESSES, MIXTURES, 20, 4, 20)))
    meant = np.broadcast_to(rng.normal(size=(PROCESSES, 1, 20, 4, 20)), process.transition.shape)
    share = np.linspace(0, 1, MIXTURES)[:, None, None, None]
    given = disguised(rng, process, (1 - share) * meant + share * rng.normal(size=meant.shape))
    lost = regret(process, expected(process, meant), expected(process, given))
    distances = {
        "epic": starc(process, meant, given, epic_form),
        "starc": starc(process, meant, given),
        "minimal": starc(process, meant, given, minimal_form),
    }
    found: dict[str, Any] = {"regret/curve": lost.mean(0)}
    for name, apart in distances.items():
        found[f"{name}/correlation"] = float(np.corrcoef(apart.ravel(), lost.ravel())[0, 1])
        found[f"{name}/equal"] = float(apart[:, 0].max())
        found[f"{name}/curve"] = apart.mean(0)
    return found


def equivalent_rewards_are_at_no_distance(rng: np.random.Generator) -> bool:
    """A reward in disguise is at less than 1e-9 in both forms, its opposite at 1."""
    process, forms = random_process(rng), (value_form, minimal_form)
    reward = rng.normal(size=process.transition.shape)
    same = [starc(process, reward, disguised(rng, process, reward), form) for form in forms]
    opposite = [starc(process, reward, disguised(rng, process, -reward), form) for form in forms]
    return bool(np.max(same) < 1e-9 and np.allclose(opposite, 1, atol=1e-9))


def it_is_a_distance(rng: np.random.Generator) -> bool:
    """Symmetric, and no way round is shorter, on 200 triples."""
    process = random_process(rng, states=5, actions=3)
    a, b, c = rng.normal(size=(3, 200, 5, 3, 5))
    direct, back = starc(process, a, c), starc(process, c, a)
    return bool(np.array_equal(direct, back) and (direct <= starc(process, a, b) + starc(process, b, c) + 1e-12).all())


def on_single_steps_it_is_the_distance_of_advantages(rng: np.random.Generator) -> bool:
    """Where prompts are states and completions actions that end the episode, `rewards.distance` is the same number."""
    first, second = rng.normal(size=(2, 6, 4)).astype(np.float32)
    process = Process(np.full((6, 4, 6), 1 / 6), np.full(6, 1 / 6), 0.0)
    one, other = (np.broadcast_to(reward[..., None], (6, 4, 6)) for reward in (first, second))
    scores = [Score(reward, np.ones(reward.shape, bool)) for reward in (first, second)]
    return bool(abs(rewards.distance(*scores) - starc(process, one, other)) < 1e-6)


PAPER = Paper(
    title="STARC: A General Framework For Quantifying Differences Between Reward Functions",
    authors="Skalse and others",
    year=2023,
    arxiv="2309.15257",
    checked="a page about the paper, and memory",
    comparisons=(
        Comparison("correlation with the regret", "epic/correlation", "starc/correlation"),
        Comparison("the same, minimal form", "epic/correlation", "minimal/correlation"),
        Comparison("distance of equivalent rewards", "epic/equal", "starc/equal"),
    ),
    checks=(
        Check("correlates with the regret, 0.75 at least", lambda m: m["starc/correlation"], at_least=0.75),
        Check("by 0.15 more than EPIC", lambda m: m["starc/correlation"] - m["epic/correlation"], at_least=0.15),
        Check("equivalent rewards at 1e-9 at most", lambda m: m["starc/equal"], at_most=1e-9),
    ),
    laws=(
        equivalent_rewards_are_at_no_distance,
        it_is_a_distance,
        on_single_steps_it_is_the_distance_of_advantages,
    ),
    curves={"starc/curve": "STARC", "epic/curve": "EPIC", "regret/curve": "regret"},
    axis="sevenths of noise",
)
