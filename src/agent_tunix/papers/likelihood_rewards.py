"""Likelihood rewards: a chain of thought is paid by how probable it makes the reference answer.

Claim: The log-probability of the reference answer after a chain of thought is a reward without a verifier, works for
  long answers, where its probability and sampled right answers vanish, and leaves the answer far more probable.
Method: With thought z and reference answer a of n tokens, the reward is :math:`\\log \\pi(a \\mid z)`, that over n,
  :math:`\\pi(a \\mid z)`, or the mean probability of its tokens; JEPO credits a thought with what it adds to
  :math:`\\log` of the group's mean :math:`\\pi(a \\mid z_i)`. Such a reward depends on the parameters, so that its
  gradient has two terms: :math:`\\nabla J = E[(R - b) \\nabla \\log \\pi(z) + \\nabla R]`.
Here: Kept: the five rewards, sampled answers as baseline, leave-one-out advantages, both terms. Simplified, all ours:
  eight thoughts, one of which makes every token of the answer right with probability 0.6, the others with 0.3; groups
  of 8, 300 updates at rate 0.5. First answers cannot be learned, with 1, 5, 20 and 60 tokens; then they can, with 16,
  where the second term is summed over thoughts. No recipe: rewards for text do not see the parameters being trained.
Run: `agent-tunix papers run likelihood_rewards`.
Seen: 2 cores (AMD EPYC), 2026-12-01, five seeds, chance of the good thought (first 0.125) with 20 tokens: 1.000 under
  the log-probability, 0.125 under the probability and under sampled answers. Divided by the group's deviation the
  probability too gets 0.998, and fails with 60 tokens; its mean over tokens gets 0.970, JEPO 0.953. Perplexity of the
  answer 1.00 with both terms, 1.67 with the first alone, 3.04 under sampled answers, 3.06 at first.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from agent_tunix import advantages
from agent_tunix.papers import _lab as lab
from agent_tunix.papers._frame import Check, Comparison, Measured, Paper
from agent_tunix.types import Score

LENGTHS, LEARNED, UPDATES = (1, 5, 20, 60), 16, 300
TOKENS = jnp.full(8, 0.3).at[0].set(0.6)
KINDS = ("binary", "prob", "avgprob", "logprob", "avglogprob", "prob_normalized", "jepo")


def _credits(key: Key[Array, ""], token: Array, length: Array | int) -> Float[Array, "kinds prompts group"]:
    """Of thoughts, from the log-probability of a token of the answer after each."""
    whole = length * token
    right, prob = jax.random.bernoulli(key, jnp.exp(whole)).astype(jnp.float32), jnp.exp(whole)
    plain = [lab.GROUPED["leave_one_out"](lab.score(r)) for r in (right, prob, jnp.exp(token), whole, token)]
    gain = advantages.per_group(advantages.log_mean_gain)(lab.score(whole))
    return jnp.stack([*plain, lab.GROUPED["group_normalized"](lab.score(prob)), gain])


def direct_term(params: Any, length: int = LEARNED) -> Array:
    """What the gradient of the reward itself is that of: the expected reward, the chances of thoughts held fixed."""
    chance = jax.lax.stop_gradient(jax.nn.softmax(params["thought"][0]))
    return length * jnp.sum(chance * jax.nn.log_sigmoid(params["answer"]))


@functools.cache
def _fixed() -> Any:
    def run(key: Key[Array, ""], kind: Array, length: Array) -> Array:
        def reward(key: Key[Array, ""], sampled: lab.Sampled) -> Score:
            return lab.score(_credits(key, jnp.log(TOKENS[sampled.last]), length)[kind])

        given = {"steps": UPDATES, "rate": 0.5, "advantage": lambda score: score.value}
        given["measure"] = lambda params, *_: {"good": jax.nn.softmax(params[0])[0]}
        return lab.learn(lab.bandit(jnp.zeros(8)), reward, key=key, **given).history["good"]

    return jax.jit(jax.vmap(jax.vmap(run, (None, 0, None)), (None, None, 0)))


def _thinker() -> lab.Toy:
    """A table of thoughts, and the odds that a token of the answer is right after each; both are learned."""
    bandit, answer = lab.bandit(jnp.zeros(8)), jnp.log(TOKENS / (1 - TOKENS))

    def sample(params: Any, key: Key[Array, ""]) -> lab.Sampled:
        thought = bandit.sample(params["thought"], key)
        token = jax.nn.log_sigmoid(params["answer"])[thought.last]
        right = jax.random.bernoulli(jax.random.fold_in(key, 1), jnp.exp(token)[..., None], (*token.shape, LEARNED))
        actions = jnp.concatenate([thought.actions, right.astype(jnp.int32)], -1)
        return lab.Sampled(actions, actions, jnp.ones(actions.shape, bool), thought.truncated, token)

    def logprobs(params: Any, sampled: lab.Sampled) -> tuple[Array, Array]:
        thought, right = sampled.actions[..., :1], sampled.actions[..., 1:]
        tokens = jax.nn.log_sigmoid(jnp.where(right == 1, 1, -1) * params["answer"][thought])
        logs = jnp.concatenate([jax.nn.log_softmax(params["thought"][0])[thought], tokens], -1)
        return logs, jnp.zeros_like(logs)

    return lab.Toy(lambda key: {"thought": jnp.zeros((1, 8)), "answer": answer}, sample, logprobs)


@functools.cache
def _learned(kind: str, direct: float) -> Any:  # direct: how much the gradient of the reward itself counts
    def reward(key: Key[Array, ""], sampled: lab.Sampled) -> Score:
        right = lab.GROUPED["leave_one_out"](lab.score(sampled.actions[..., 1:].all(-1)))
        thought = _credits(key, sampled.trail, LEARNED)[KINDS.index(kind)]
        credit = right[..., None] if kind == "binary" else thought[..., None] * (jnp.arange(LEARNED + 1) == 0)
        return lab.per_token(credit, sampled.completion_mask)

    def run(key: Key[Array, ""]) -> Array:
        given = {"steps": UPDATES, "rate": 0.5, "advantage": lambda score: score.per_token}
        given["penalty"] = lambda params: -direct * direct_term(params)
        return jnp.exp(-direct_term(lab.learn(_thinker(), reward, key=key, **given).params, length=1))

    return jax.jit(run)


def reproduce(seed: int) -> Measured:
    """How likely the good thought is after training, for each reward and length; perplexity of the answer per token."""
    key, found = jax.random.key(seed), {}
    curves = np.asarray(_fixed()(key, jnp.arange(len(KINDS)), jnp.asarray(LENGTHS)))
    for length, rows in zip(LENGTHS, curves, strict=True):
        found |= {f"{kind}/good_{length}": float(row[-1]) for kind, row in zip(KINDS, rows, strict=True)}
    found |= {f"{kind}/curve": row for kind, row in zip(KINDS, curves[LENGTHS.index(20)], strict=True)}
    learned = {"binary": ("binary", 0.0), "logprob": ("logprob", 1.0), "first_term": ("logprob", 0.0)}
    return found | {f"{name}/perplexity": float(_learned(*arm)(key)) for name, arm in learned.items()}


def both_terms_are_the_gradient(rng: np.random.Generator) -> bool:
    """Over all thoughts, both terms make the slope of the expected log-probability; the first one alone does not."""
    theta, way, step = rng.normal(size=(2, 8)), rng.normal(size=(2, 8)), 1e-5

    def expected(theta: np.ndarray) -> float:
        return float(-LEARNED * np.exp(theta[0]) @ np.log1p(np.exp(-theta[1])) / np.exp(theta[0]).sum())

    def surrogate(theta: Array, direct: float) -> Array:
        thought, reward = jax.nn.log_softmax(theta[0]), LEARNED * jax.nn.log_sigmoid(theta[1])
        first = jnp.sum(jax.lax.stop_gradient(jnp.exp(thought) * (reward + 3)) * thought)
        return first + direct * direct_term({"thought": theta[:1], "answer": theta[1]})

    slope = (expected(theta + step * way) - expected(theta - step * way)) / (2 * step)
    both, alone = (float(jnp.sum(way * jax.grad(surrogate)(jnp.asarray(theta), direct))) for direct in (1.0, 0.0))
    return abs(both - slope) < 1e-3 < 1e-1 < abs(alone - slope)


PAPER = Paper(
    title="Likelihood-Based Reward Designs for General LLM Reasoning",
    authors="Kwiatkowski, Butt, Labiad, and others",
    year=2026,
    arxiv="2602.03979",
    checked="pages about the paper",
    comparisons=(
        Comparison("chance of the good thought, 20 tokens, against probability", "prob/good_20", "logprob/good_20"),
        Comparison("the same, against sampled answers", "binary/good_20", "logprob/good_20"),
        Comparison("the same, over the deviation", "prob_normalized/good_20", "logprob/good_20"),
        Comparison("chance of the good thought, 1 token", "binary/good_1", "logprob/good_1"),
        Comparison("perplexity of the answer, 16 tokens", "binary/perplexity", "logprob/perplexity"),
    ),
    checks=(
        Check("probability stays at chance with 20 tokens", lambda m: m["prob/good_20"], at_most=0.2),
        Check("log-probability finds the thought with 20 tokens", lambda m: m["logprob/good_20"], at_least=0.95),
        Check("half the perplexity", lambda m: m["logprob/perplexity"] / m["binary/perplexity"], at_most=0.5),
    ),
    laws=(both_terms_are_the_gradient,),
    curves={f"{kind}/curve": kind for kind in ("binary", "prob", "prob_normalized", "avgprob", "logprob", "jepo")},
)
