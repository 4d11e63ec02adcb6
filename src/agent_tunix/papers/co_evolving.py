"""SPARK: one model is the policy and its judge, and answers that were graded once are used again to train the judge.

Claim: Rollouts with verified rewards, turned into tasks of judging, comparing and correcting, teach the policy to judge
  at no further labels; it then corrects itself, and rewards itself where no answer is known.
Method: Each group of a step on questions gives a task of judging (whether an answer is right; or, of a mixed group with
  chance 0.7, which of two is) and one of correcting a wrong answer, labelled by the reference. They go to a queue. Then
  follows a step of the same algorithm on tasks of the queue. The baseline makes all steps on questions.
Here: Kept: 64 prompts of 8 rollouts a step, 1 to 1 in steps, the chance 0.7, no task from an answer that is none.
  Simplified, and ours: x + y modulo 7 in one symbol by a perceptron of 256 units over one-hot prompts, 800 steps of
  each kind, on-policy, Adam at 0.001, no divergence penalty; the queue holds 512 tasks; yes, no, pairs and corrections
  are drawn alike (else nearly all become yes). The model to start from imitates flawed examples (`imitator`): it calls
  nearly everything right, and answers a fifth of the sums always by the same wrong number. Another fifth has no labels:
  the arms `self` draw these sums, too, and reward answers with the policy's own probability of yes. What is more likely
  judged wrong than right is corrected once. Left out: reasoning. No recipe: a recipe does not choose prompts.
Run: `agent-tunix papers run co_evolving`
Seen: Not reproduced in one of six checks. 2 cores, shared (AMD EPYC), 2026-12-01, five seeds: 0.914 of verdicts are
  right against 0.555, 0.998 of answers against 0.869; a correction adds 0.138 after 40 to 200 steps and 0.002 at the
  end, where nothing is left to correct. Sums without labels: 0.54 at first, 0.82 with own verdicts, 0.01 without; but
  0.93 by a judge that is not trained. Policies that started from nothing (four toys) never learned to judge.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key

from agent_tunix.papers import _lab as lab
from agent_tunix.papers._frame import Check, Comparison, Measured, Paper
from agent_tunix.papers._lab import _sums as task

M, ADAM, PROMPTS, GROUP, QUEUE, STEPS, CHUNK = task.M, optax.adam(1e-3), 64, 8, 512, 800, 40
ARMS = {"rlvr": (0, 0), "spark": (1, 0), "rlvr_self": (0, 1), "spark_self": (1, 1)}


def recycled(key: Key[Array, ""], prompts: Array, labels: Array, answers: Int[Array, "n group"]) -> lab.Replay:
    """A task of judging or comparing and one of correcting from every graded group; a label below 0 is none."""
    keys, (x, y), known = jax.random.split(key, 5), prompts.T[1:3], labels[:, None] >= 0
    right = known & (answers == labels[:, None])
    wrong = known & (answers < M) & ~right
    drawn = [jax.random.categorical(own, jnp.where(of, 0.0, -1e9)) for own, of in ((keys[0], right), (keys[1], wrong))]
    good, bad = (jnp.take_along_axis(answers, own[:, None], 1)[:, 0] for own in drawn)
    yes, pair, coin = (jax.random.bernoulli(keys[2 + i], p, x.shape) for i, p in enumerate((0.5, 0.7, 0.5)))
    some, fixable = right.any(-1), wrong.any(-1)
    yes, pair = jnp.where(fixable, yes & some, some), pair & some & fixable
    one = jnp.where(jnp.where(pair, coin, yes), good, bad)
    two = jnp.where(pair, jnp.where(coin, bad, good), task.NONE)
    tasks = task.prompt(jnp.where(pair, task.PAIR, task.JUDGE), x, y, one, two)
    verdicts = jnp.where(pair, jnp.where(coin, task.FIRST, task.SECOND), jnp.where(yes, task.YES, task.NO))
    kinds = jnp.concatenate([jnp.where(pair, 2, jnp.where(yes, 0, 1)), jnp.full(x.shape, 3)])
    rows = (jnp.concatenate([tasks, task.prompt(task.FIX, x, y, bad)]), jnp.concatenate([verdicts, labels]))
    return lab.Replay(rows, kinds, jnp.concatenate([some | fixable, fixable]))


def step(carry: Any, key: Key[Array, ""], prompts: Int[Array, "n 5"], labels: Int[Array, " n"]) -> tuple[Any, Array]:
    """An update on prompts, and the answers; those without a label are rewarded by the policy's own verdict."""
    params, state = carry
    answers = jax.random.categorical(key, task.logits(params, prompts)[:, None], shape=(len(prompts), GROUP))
    own = jnp.where(answers < M, task.approval(params, prompts[:, 1, None], prompts[:, 2, None], answers), 0.0)
    reward = jnp.where(labels[:, None] >= 0, answers == labels[:, None], own)
    credit = lab.GROUPED["group_normalized"](lab.score(reward))

    def objective(params: Any) -> Array:
        return -jnp.mean(credit * jnp.take_along_axis(jax.nn.log_softmax(task.logits(params, prompts)), answers, -1))

    changes, state = ADAM.update(jax.grad(objective)(params), state, params)
    return (optax.apply_updates(params, changes), state), answers


@jax.jit
def trained(key: Key[Array, ""], start: Any, known: Float[Array, " sums"], recycles: Array, selfs: Array) -> Any:
    """An arm's accuracies before every `CHUNK` steps of each kind and at the end."""

    def asked(key: Key[Array, ""]) -> tuple[Array, Array]:
        sums = jax.random.categorical(key, jnp.log(jnp.maximum(known, selfs)), shape=(PROMPTS,))
        x, y = sums // M, sums % M
        return task.prompt(task.ASK, x, y), jnp.where(known[sums] > 0, (x + y) % M, -1)

    def turn(carry: Any, key: Key[Array, ""]) -> tuple[Any, None]:
        (model, queue), keys = carry, jax.random.split(key, 6)
        questions = asked(keys[0])
        model, answers = step(model, keys[1], *questions)
        queue = lab.remembered(queue, recycled(keys[2], *questions, answers))
        both = lab.balanced(queue, keys[3], PROMPTS, 4), asked(keys[4])
        model, _ = step(model, keys[5], *(jnp.where(recycles > 0, *pair) for pair in zip(*both, strict=True)))
        return (model, queue), None

    def chunk(carry: Any, key: Key[Array, ""]) -> tuple[Any, dict[str, Array]]:
        return jax.lax.scan(turn, carry, jax.random.split(key, CHUNK))[0], task.accuracies(carry[0][0], known)

    carry = (start, ADAM.init(start)), lab.replay((jnp.zeros(5, jnp.int32), jnp.zeros((), jnp.int32)), QUEUE)
    (model, _), history = jax.lax.scan(chunk, carry, jax.random.split(key, STEPS // CHUNK))
    return jax.tree.map(jnp.append, history, task.accuracies(model[0], known))


def reproduce(seed: int) -> Measured:
    """Accuracies of all arms: over training, at its end, what was gained since its start, and early."""
    keys, order = jax.random.split(jax.random.key(seed)), np.random.default_rng(seed).permutation(M * M)
    firm, known = jnp.asarray(order < M * M // 5), jnp.asarray(order < M * M - M * M // 5, jnp.float32)
    start, found = task.imitator(keys[0], firm), {}
    for arm, flags in ARMS.items():
        for name, curve in trained(keys[1], start, known, *map(jnp.asarray, flags)).items():
            ends = {"": curve[-1], "_gain": curve[-1] - curve[0], "_early": curve[1:6].mean()}
            found[f"{arm}/{name}_curve"] = curve
            found |= {f"{arm}/{name}{end}": float(value) for end, value in ends.items()}
    return found


def tasks_are_true(rng: np.random.Generator) -> bool:
    """No task shows what is no answer or comes from a sum without label; every label is true, also of swapped pairs."""
    sums, answers = jnp.asarray(rng.integers(0, M * M, 512)), jnp.asarray(rng.integers(0, M + 2, (512, 4)))
    labels = jnp.where(sums % 3 > 0, (sums // M + sums % M) % M, -1)
    found = recycled(jax.random.key(rng.integers(99)), task.prompt(task.ASK, sums // M, sums % M), labels, answers)
    (kind, x, y, one, two), label = (np.asarray(leaf)[np.asarray(found.kept)].T for leaf in found.rows)
    fits = (x + y) % M == one
    kinds = [kind == task.FIX, kind == task.PAIR, kind == task.JUDGE]
    truth = np.select(kinds, [(x + y) % M, np.where(fits, task.FIRST, task.SECOND), np.where(fits, task.YES, task.NO)])
    numbers = (one < M) & ((two < M) == (kind == task.PAIR)) & ((x * M + y) % 3 > 0)
    return bool((label == truth).all() and numbers.all() and set(label) >= set(range(task.YES, task.SECOND + 1)))


PAPER = Paper(
    title="SPARK: Synergistic Policy And Reward Co-Evolving Framework",
    authors="Liu, Zang, Ding, and others",
    year=2025,
    arxiv="2509.22624",
    checked="the authors' code",
    comparisons=(
        Comparison("verdicts that are right", "rlvr/judge", "spark/judge"),
        Comparison("answers that are right", "rlvr/solve", "spark/solve"),
        Comparison("answers early, and corrected once", "spark/solve_early", "spark/corrected_early"),
        Comparison("answers at the end, and corrected once", "spark/solve", "spark/corrected"),
        Comparison("sums without labels, rewarded by own verdicts", "spark/unlabelled", "spark_self/unlabelled"),
        Comparison("the same, by a judge that is not trained", "rlvr/unlabelled", "rlvr_self/unlabelled"),
    ),
    checks=(
        Check("85 % of verdicts are right", lambda m: m["spark/judge"], at_least=0.85),
        Check("60 % at most without tasks of judging", lambda m: m["rlvr/judge"], at_most=0.6),
        Check("answers lose 1 point at most", lambda m: m["spark/solve"] - m["rlvr/solve"], at_least=-0.01),
        Check("corrected, 3 points more", lambda m: m["spark/corrected"] - m["rlvr/solve"], at_least=0.03),
        Check("correcting itself gains 3 points", lambda m: m["spark/corrected"] - m["spark/solve"], at_least=0.03),
        Check("own verdicts gain 5 points without labels", lambda m: m["spark_self/unlabelled_gain"], at_least=0.05),
    ),
    laws=(tasks_are_true,),
    curves={"rlvr/judge_curve": "verdicts, baseline", "spark/judge_curve": "verdicts, SPARK"},
    axis="40 steps of each kind",
)
