"""Themis: a reward model that writes calls of tools, reads what they answer, and only then scores.

Claim: A reward model that may call tools before it scores prefers the better answer more often than one that may not.
Method: The model goes on with question and answer by `Action` and `Action Input`, the tool's `Observation` is put
  there, and the score r is a linear map of the last hidden state. Calls and scores are trained at once on pairs,
  :math:`L = L_{trace} - w \\log\\sigma(r_+ - r_-)`, where the trace counts observations with weight :math:`\\beta`.
  The baseline is the same model on question and answer alone.
Here: Kept: one model for calls and scores, the joint loss with w = 0.5 (the authors' code), a tool that is called on
  what the model wrote (`rewards.tool_traces`, `rewards.calculator`). Simplified, and ours: sums of two numbers of two
  digits, the other answer has one wrong digit; a transformer of 2 layers and width 32 from nothing, over symbols that
  stand for the lines of a call, with positions that start five times larger; always one call; 4096 pairs, 32 per
  update, 400 updates of AdamW at 0.004; :math:`\\beta = 0`, and 1 for comparison; a broken tool answers a number that
  has nothing to do with the question. Left out: rationales, other tools, whether to call at all, language models. No
  recipe: `reward_models.learned_reward` makes rewards of models.
Run: `agent-tunix papers run tool_augmented_reward`
Seen: 2 cores, shared (AMD EPYC), 2026-12-01, five seeds: of 512 pairs about unseen sums 0.985 are right with the tool,
  0.760 without, 0.525 with a broken tool; with observations predicted 0.993. Sums of three digits, 1200 updates, one
  seed: 1.00 against 0.73.
"""

import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from agent_tunix import reward_models, rewards
from agent_tunix.papers import _lab as lab
from agent_tunix.papers._frame import Check, Comparison, Measured, Paper

CALL, OBSERVED = "\nAction: calculator\nAction Input: ", "\nObservation: "
SYMBOLS = (*"0123456789+=", CALL, OBSERVED, "\n")
WORDS = re.compile("|".join(map(re.escape, SYMBOLS)))  # the calls come before the new line that they begin with
PLAIN, ASKED, LENGTH, WIDTH, PARTS = 10, 7, 20, 32, 10
MODEL = lab.transformer(len(SYMBOLS), LENGTH, width=WIDTH, heads=4)
FIT = {"steps": 40, "batch_size": 32, "learning_rate": 4e-3}


def encoded(texts: Sequence[str], length: int) -> Int[np.ndarray, "texts length"]:
    """Symbols of texts, ended by new lines to one length."""
    words = (WORDS.findall(text + "\n" * length)[:length] for text in texts)
    return np.array([list(map(SYMBOLS.index, row)) for row in words], np.int32)


@jax.jit
def score(params: Any, symbols: Int[Array, "texts length"]) -> Float[Array, " texts"]:
    """The scalar head on the last hidden state."""
    return MODEL.hidden(params["model"], symbols)[:, -1] @ params["head"]


def trace_loss(logits: Float[Array, "texts n symbols"], trace: Int[Array, "texts n"], weight: float) -> Array:
    """Negative log-likelihood of call and observation, nats per symbol; the observation counts with a weight."""
    observed = (jnp.cumsum(trace == SYMBOLS.index(OBSERVED), -1) > 0) & (trace < 10)
    weights = jnp.where(observed, weight, 1.0)
    logs = jnp.take_along_axis(jax.nn.log_softmax(logits), trace[..., None], -1)[..., 0]
    return -jnp.sum(weights * logs) / jnp.sum(weights)


def joint(weight: float, params: Any, batch: reward_models.Pairs) -> Float[Array, ""]:
    """The loss of the traces and the ranking of the pairs, of one model."""
    both = jnp.concatenate([batch.first, batch.second])
    logits = MODEL.logits(params["model"], both[:, :-1])[:, PLAIN - 2 :]
    return trace_loss(logits, both[:, PLAIN - 1 :], weight) + 0.5 * OBJECTIVES["plain"](params, batch)


OBJECTIVES = {"plain": reward_models.ranking(score), "tool": partial(joint, 0.0), "observing": partial(joint, 1.0)}
TOOLS = {"calculator": lambda expression: rewards.calculator(expression).zfill(3)}
BROKEN = {"calculator": lambda expression: f"{zlib.crc32(expression.encode()) % 200:03d}"}
continued = jax.jit(lambda params, symbols: lab.likeliest(MODEL, params["model"], symbols, ASKED))


def shown(claims: Sequence[str]) -> list[str]:
    """Traces to imitate: the question is what is asked."""
    return [f"{claim}{CALL}{claim[:5]}{OBSERVED}{TOOLS['calculator'](claim[:5])}\n" for claim in claims]


def traced(params: Any, claims: Sequence[str], tools: Mapping[str, Callable[[str], str]]) -> list[str]:
    """Traces of the model's own calls, with what the tools answer; then only the score is left to say."""

    def write(texts: Sequence[str]) -> list[str]:
        rows = np.asarray(continued(params, encoded(texts, PLAIN - 1)))
        return ["" if OBSERVED in texts[0] else "".join(SYMBOLS[i] for i in row) for row in rows]

    return rewards.tool_traces(write, tools, claims, max_calls=1)


def answered(rng: np.random.Generator, questions: Int[np.ndarray, " questions"]) -> tuple[list[str], list[str]]:
    """Of the 8100 sums, some with their right answers, and the same with one wrong digit each."""
    right = [f"{a}+{b}={a + b:03d}" for a, b in np.array(divmod(questions, 90)).T + 10]
    draws = zip(right, rng.integers(6, 9, len(right)).tolist(), rng.integers(1, 10, len(right)).tolist(), strict=True)
    digits = ((text, p, (int(text[p]) + k) % 10 if p > 6 else 1 - int(text[p])) for text, p, k in draws)
    return right, [f"{text[:p]}{digit}{text[p + 1 :]}" for text, p, digit in digits]


def reproduce(seed: int) -> Measured:
    """Held-out accuracy of each arm: over the training with calls that are given, at the end with its own."""

    def accuracy(pairs: Sequence[Sequence[str]]) -> float:
        return float(reward_models.pair_accuracy(*(score(params, encoded(texts, length)) for texts in pairs)))

    rng, key, found = np.random.default_rng(seed), jax.random.key(seed), {}
    train, test = (answered(rng, some) for some in np.split(rng.permutation(8100)[:4608], [4096]))
    model = MODEL.init(key)
    model["places"] *= 5
    for arm, objective in OBJECTIVES.items():
        form, length = (list, PLAIN) if arm == "plain" else (shown, LENGTH)
        examples = reward_models.Pairs(*(encoded(form(texts), length) for texts in train))
        params, state, curve = {"model": model, "head": jax.random.normal(key, (WIDTH,)) * WIDTH**-0.5}, None, []
        for part in jax.random.split(key, PARTS):
            params, state, _ = reward_models.fit(part, examples, params, objective, optimizer_state=state, **FIT)
            curve.append(accuracy([form(texts) for texts in test]))
        found |= {f"{arm}/curve": np.array(curve), f"{arm}/accuracy": curve[-1]}
        for tool, tools in (("broken_", BROKEN), ("", TOOLS)) if arm != "plain" else ():
            found[f"{tool}{arm}/accuracy"] = accuracy([traced(params, texts, tools) for texts in test])
    return found | {"observing/change": abs(found["observing/accuracy"] - found["tool/accuracy"])}


def masked_observations_teach_nothing(rng: np.random.Generator) -> bool:
    """With weight 0 the loss does not depend on what is predicted for an observation."""
    trace = jnp.asarray(encoded(shown(answered(rng, np.arange(4))[0]), LENGTH)[:, PLAIN - 1 :])
    logits = jnp.asarray(rng.normal(size=(*trace.shape, len(SYMBOLS))), jnp.float32)
    masked, counted = (jax.grad(trace_loss)(logits, trace, weight) != 0 for weight in (0.0, 1.0))
    return bool(masked[:, :ASKED].all() and not masked[:, ASKED : ASKED + 3].any() and counted.all())


PAPER = Paper(
    title="Tool-Augmented Reward Modeling",
    authors="Li, Chai, Wang, and others",
    year=2023,
    arxiv="2310.01045",
    checked="the authors' code",
    comparisons=(
        Comparison("held-out preference accuracy", "plain/accuracy", "tool/accuracy"),
        Comparison("with a broken tool", "tool/accuracy", "broken_tool/accuracy"),
    ),
    checks=(
        Check("95 % of held-out pairs are right with the tool", lambda m: m["tool/accuracy"], at_least=0.95),
        Check("15 points more than without", lambda m: m["tool/accuracy"] - m["plain/accuracy"], at_least=0.15),
        Check("60 % at most with a broken tool", lambda m: m["broken_tool/accuracy"], at_most=0.6),
        Check("predicting observations changes 5 points at most", lambda m: m["observing/change"], at_most=0.05),
    ),
    laws=(masked_observations_teach_nothing,),
    curves={"plain/curve": "without a tool", "tool/curve": "with a tool"},
    axis="40 updates",
)
