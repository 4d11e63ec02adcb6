"""POLAR: a reward model that was taught to tell policies apart scores an answer by how alike it is to a reference.

Claim: Taught without labels whether two answers come from the same policy, a reward model tells policies apart it never
  saw, better with more compute; fine-tuned on preferences it beats reward models without it (81.0 to 54.8 % on STEM).
Method: With answers :math:`y, y'` of one policy and :math:`z` of another to a prompt the loss is
  :math:`-\\log \\sigma(r(x, y, y') - r(x, y, z))`; then the same loss for a reference, a preferred and another answer.
  The reward is :math:`r(x, \\text{reference}, \\text{answer})`; scores compare under one reference only.
Here: Kept: both stages and their loss, negatives to the same prompt, unseen policies. Simplified: one transformer reads
  reference and answer apart, and `agent_tunix.reward_models.compared` joins them, in place of one text. Ours: policies
  are seven habits of four choices (words, order, base, length), each followed in 8 of 10 answers to a sum; 30 to learn
  from, 10 unseen. People weigh the habits shared with the reference, and 50 times name best and worst of four answers.
  A policy that imitates all 30 is rewarded for references of an unseen one. Left out: language models, people.
Run: `agent-tunix papers run policy_discriminator`.
Seen: 2 cores (AMD EPYC), 2026-12-01, five seeds: 0.91 of pairs of unseen policies are told apart; 50 preferences
  lead to an accuracy of 0.80, without pre-training 0.62; policies say 61 and 30 % of the target's symbols. Tuning
  itself gains little: before it is 0.79. Of two random answers, not best and worst, 13 points (seeds 0 to 4).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key

from agent_tunix import reward_models as models
from agent_tunix.papers import _lab as lab
from agent_tunix.papers._frame import Check, Comparison, Measured, Paper
from agent_tunix.papers._lab import _habits as task
from agent_tunix.types import Score

WIDTH, POLICIES, KNOWN, PARTS = 32, 40, 30, 16
MODEL = lab.transformer(task.BLANK + 1, task.ASKED + task.SAID, width=WIDTH)
SCORE = models.scalar(models.compared(lambda params, symbols: MODEL.hidden(params, symbols).mean(-2)))
RANKING = models.ranking(SCORE)


@jax.jit
def _accuracy(params: Any, pairs: models.Pairs) -> Float[Array, ""]:
    return models.weighted_mean(1.0 * (SCORE(params, pairs.first) > SCORE(params, pairs.second)), pairs.weight)


def _taught(key: Key[Array, ""], params: Any, draw: Any, held: models.Pairs, **settings: Any) -> tuple[Any, Array]:
    """Parameters after parts of a training, each on pairs drawn for it from a key, and the accuracies after each."""

    def part(carry: Any, key: Key[Array, ""]) -> tuple[Any, Array]:
        found = models.fit(key, draw(key), carry[0], RANKING, optimizer_state=carry[1], **settings)
        return (found.params, found.optimizer_state), _accuracy(found.params, held)

    start = models.fit(key, held, params, RANKING, steps=0).optimizer_state
    (params, _), curve = jax.lax.scan(part, (params, start), jax.random.split(key, PARTS))
    return params, curve


@jax.jit
def _pretrained(key: Key[Array, ""], policies: Array, unseen: Array) -> tuple[Any, Any, dict[str, Array]]:
    """Parameters before and after, and what is told apart of unseen policies after each amount of compute."""
    start = {"features": MODEL.init(key), "head": models.mlp_params(key, (4 * WIDTH, WIDTH, 1))}
    pairs, draw = task.same_or_not(key, unseen, 1024), lambda key: task.same_or_not(key, policies, 40 * 64)
    params, curve = _taught(key, start, draw, pairs, steps=40, batch_size=64, learning_rate=3e-3)
    found = {f"updates_{40 * part}/same": curve[part - 1] for part in (1, 4, PARTS)}
    found["even/same"] = _accuracy(params, task.even(pairs))
    asked, (reference, _, *others) = task.drawn(jax.random.fold_in(key, 1), unseen, 512, 1 + 8)
    itself, *rest = (task.answers(asked, own) for own in (reference, *others))
    best = jnp.stack([SCORE(params, (itself, own)) for own in rest]).max(0)
    return start, params, found | {"reference/best": (SCORE(params, (itself, itself)) > best).mean()}


@jax.jit
def _tuned(key: Key[Array, ""], params: Any, few: models.Pairs, held: models.Pairs) -> tuple[Any, Array]:
    return _taught(key, params, lambda _: few, held, steps=6)


@jax.jit
def _imitator(key: Key[Array, ""], policies: Array) -> Any:
    return lab.imitate(MODEL, MODEL.init(key), functools.partial(task.lessons, policies), key=key, steps=300)


@functools.partial(jax.jit, static_argnums=4)
def _policy(key: Key[Array, ""], start: Any, params: Any, target: Int[Array, " habits"], estimator: str) -> Array:
    """Share of symbols that are the target's own, over updates of a policy that is rewarded for its references."""
    sums, references, canon = task.references(key, target)

    def reward(key: Key[Array, ""], sampled: lab.Sampled) -> Score:
        place = jnp.repeat(sampled.trail @ jnp.array([10, 1]), sampled.shape[1])
        said = sampled.actions.reshape(-1, task.SAID)
        value = SCORE(params, (references[place], jnp.concatenate([sums[place], said], -1)))
        own = (said == canon[place, task.ASKED :]).mean(-1)
        return lab.score(value.reshape(sampled.shape), own=own.reshape(sampled.shape))

    toy = lab.sequences(MODEL, lambda key: sums[jax.random.randint(key, (16,), 0, 100)], length=task.SAID)
    given = {"start": start, "steps": 60, "optimizer": optax.adam(1e-3), "advantage": lab.GROUPED[estimator]}
    shown = lab.learn(toy, reward, key=key, measure=lambda _, __, raw: {"own": raw.parts["own"].mean()}, **given)
    return shown.history["own"]


def reproduce(seed: int) -> Measured:
    """What is told apart, accuracies of preferences with and without pre-training, and policies trained by both."""
    pool, taste, *keys = jax.random.split(jax.random.key(seed), 7)
    known, unseen = jnp.split(jax.random.randint(pool, (POLICIES, task.HABITS), 0, task.CHOICES), [KNOWN])
    start, taught, found = _pretrained(keys[0], known, unseen)
    weights, speaker = jax.random.uniform(taste, (task.HABITS,)), _imitator(keys[3], known)
    preferences = jax.jit(task.preferences, static_argnums=3)
    few, held = preferences(keys[1], known, weights, 50), preferences(keys[2], unseen, weights, 1024)
    for arm, params in (("untaught", start), ("taught", taught)):
        tuned, curve = _tuned(keys[4], params, few, held)
        found |= {f"{arm}/before": _accuracy(params, held), f"{arm}/right": curve[-1]}
        for estimator in lab.GROUPED:
            name, own = f"{arm}_{estimator}", _policy(keys[4], speaker, tuned, unseen[0], estimator)
            found |= {f"{name}/curve": own, f"{name}/own": own[-10:].mean()}
    return found


def scores_compare_under_one_reference(rng: np.random.Generator) -> bool:
    """Whatever is added to both scores under a reference, the loss stays what it was."""
    scores, more = (jnp.asarray(rng.normal(size=(8, columns))) for columns in (2, 1))
    loss, pairs = models.ranking(lambda params, inputs: params[:, inputs[1]]), models.reference_pairs(0, 0, 1)
    return bool(np.isclose(loss(scores, pairs), loss(scores + more, pairs), atol=1e-6))


PAPER = Paper(
    title="Pre-Trained Policy Discriminators are General Reward Models",
    authors="Dou, Liu, Zou, and others",
    year=2025,
    arxiv="2507.05197",
    checked="the authors' code",
    comparisons=(
        Comparison("held-out preferences after 50 of them", "untaught/right", "taught/right"),
        Comparison("pairs of unseen policies told apart", "updates_40/same", "updates_640/same"),
        Comparison("the same, of one length", "updates_640/same", "even/same"),
        Comparison("symbols of the target policy", "untaught_group_normalized/own", "taught_group_normalized/own"),
        Comparison("the same, without deviation", "untaught_leave_one_out/own", "taught_leave_one_out/own"),
    ),
    checks=(
        Check("unseen policies are told apart in 3 of 4 pairs", lambda m: m["updates_640/same"], at_least=0.75),
        Check("50 preferences: 15 points", lambda m: m["taught/right"] - m["untaught/right"], at_least=0.15),
        Check(
            "160 updates tell more apart than 40", lambda m: m["updates_160/same"] - m["updates_40/same"], at_least=0
        ),
        Check("and 640 more than 160", lambda m: m["updates_640/same"] - m["updates_160/same"], at_least=0),
        Check("a reference is best under itself in 9 of 10 groups", lambda m: m["reference/best"], at_least=0.9),
    ),
    laws=(scores_compare_under_one_reference,),
    curves={"untaught_group_normalized/curve": "no pre-training", "taught_group_normalized/curve": "pre-trained"},
)
