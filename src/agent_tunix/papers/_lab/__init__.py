"""The toy laboratory that papers share: problems small enough for exact answers, and the four functions of a recipe.

A `Toy` is a policy and the world it acts in, as functions of its parameters: softmax tables over the states of a small
world, or a small transformer over symbols. `learn` trains it with the shaping, the advantage and the loss that also
train a language model; only the reward is a function of what the toy did. Everything is pure and traced, so a paper
jits one function per arm, vmaps it over repetitions, and passes the arrays of a seed's problem as arguments: five seeds
then compile once::

    @functools.cache
    def trained(arm):
        def run(key, problem):
            toy = lab.bandit(jnp.log(problem.reference))
            return lab.learn(toy, lambda key, sampled: lab.score(problem.proxy[sampled.last]), key=key, steps=400)
        return jax.jit(run)
"""

from agent_tunix.papers._lab import _quests as quests
from agent_tunix.papers._lab._attribution import attribution, contributions, ranked
from agent_tunix.papers._lab._choosing import chosen
from agent_tunix.papers._lab._distributions import (
    Planted,
    at_divergence,
    divergence,
    entropy,
    planted,
    tilted,
)
from agent_tunix.papers._lab._fitting import fit
from agent_tunix.papers._lab._greedy import likeliest
from agent_tunix.papers._lab._learning import GROUPED, REINFORCE, Learned, Sampled, Toy, learn, per_token, score
from agent_tunix.papers._lab._replay import Replay, balanced, remembered, replay
from agent_tunix.papers._lab._sequences import Transformer, imitate, next_logprobs, sequences, transformer
from agent_tunix.papers._lab._turn_credit import by_turn, critic
from agent_tunix.papers._lab._worlds import World, bandit, tabular

__all__ = [
    "GROUPED",
    "REINFORCE",
    "Learned",
    "Planted",
    "Replay",
    "Sampled",
    "Toy",
    "Transformer",
    "World",
    "at_divergence",
    "attribution",
    "balanced",
    "bandit",
    "by_turn",
    "chosen",
    "contributions",
    "critic",
    "divergence",
    "entropy",
    "fit",
    "imitate",
    "learn",
    "likeliest",
    "next_logprobs",
    "per_token",
    "planted",
    "quests",
    "ranked",
    "remembered",
    "replay",
    "score",
    "sequences",
    "tabular",
    "tilted",
    "transformer",
]
