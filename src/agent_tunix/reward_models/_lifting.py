"""From a reward model to a reward: one that stays as it is, and one that goes on learning beside the policy."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from agent_tunix.errors import RewardError
from agent_tunix.reward_models._encoders import Encoder, Sequences, encoded
from agent_tunix.reward_models._fitting import fit, optimizer
from agent_tunix.reward_models._objectives import Labeled, Objective, against
from agent_tunix.tokenizers import Tokenizer
from agent_tunix.types import UNBOUNDED, Bounds, Outcome, Params, Reward, Rollouts, Score, Shaping


def texts(tokenizer: Tokenizer, *, prompt_tokens: int, tokens: int) -> Callable[[Rollouts], Sequences]:
    """How rollouts are read with `sequence`: `encoded` of their prompts and completions."""

    def inputs(rollouts: Rollouts) -> Sequences:
        prompts = [prompt for prompt in rollouts.prompts for _ in range(rollouts.shape[1])]
        completions = [completion for group in rollouts.completions for completion in group]
        return encoded(tokenizer, prompts, completions, prompt_tokens=prompt_tokens, tokens=tokens)

    return inputs


def learned_reward(
    score: Encoder,
    params: Params,
    inputs: Callable[[Rollouts], Any],
    *,
    name: str,
    bounds: tuple[int | float, int | float] | None = None,
) -> Reward:
    """Lifts a trained model to a reward, whose parameters stay as they are.

    Args:
      score: An encoder with one score per example.
      params: Its parameters.
      inputs: From rollouts to inputs, on the host, with one example per completion, prompt by prompt: `texts(...)`, or
        a function of `rollouts.completions` and `rollouts.columns`. Where shapes change, it is compiled again.
      name: Name of the part in metrics.
      bounds: Least and greatest score, infinite by default. They are enforced.

    Returns:
      A reward with one part.

    Raises:
      RewardError: When called: a score is not finite or out of bounds, or there is not one per completion.
    """
    compiled, limits = jax.jit(score), UNBOUNDED if bounds is None else Bounds(*map(float, bounds))

    def graded(rollouts: Rollouts) -> Score:
        value = np.asarray(compiled(params, inputs(rollouts)), np.float32)
        value = _checked(value, rollouts, name, limits)
        outcomes = {name: np.full(value.shape, Outcome.GRADED, np.int8)}
        return Score(value, np.ones(value.shape, bool), {name: value}, outcomes)

    return Reward(name, graded, limits)


def _checked(value: np.ndarray, rollouts: Rollouts, name: str, bounds: Bounds) -> Float[np.ndarray, "prompts group"]:
    if value.shape != (rollouts.truncated.size,):
        raise RewardError(
            f"reward `{name}` gave scores of shape {value.shape} for {rollouts.shape[0]} prompts with "
            f"{rollouts.shape[1]} completions each; give one score per completion, prompt by prompt"
        )
    wrong = ~(np.isfinite(value) & (bounds.low <= value) & (value <= bounds.high))
    if wrong.any():
        prompt, member = divmod(int(np.argmax(wrong)), rollouts.shape[1])
        raise RewardError(
            f"reward `{name}` gave {value[np.argmax(wrong)]:g} for prompt {prompt}, completion {member}, outside of "
            f"[{bounds.low:g}, {bounds.high:g}] or not finite; widen bounds=, or train the model at a lower rate"
        )
    return value.reshape(rollouts.shape)


class CoTrained(NamedTuple):
    """State of `co_trained`.

    Attributes:
      params: Of the model.
      optimizer_state: Of its optimizer.
      batches: Batches seen.
    """

    params: Params
    optimizer_state: optax.OptState
    batches: Int[Array, ""]


def co_trained(
    score: Encoder,
    objective: Objective,
    params: Params,
    inputs: Callable[[Score, Rollouts], Any],
    examples: Callable[[Score, Rollouts], Any],
    *,
    steps: int,
    combine: Callable[[Array, Array], Array] = lambda value, learned: learned,
    batch_size: int | None = None,
    learning_rate: float = 1e-3,
    seed: int = 0,
) -> Shaping:
    """A reward model that goes on learning beside the policy: on every batch it is trained, and then gives the reward.

    The model is part of the shaping's state, and so of checkpoints: a run that is resumed goes on with the same one.
    Scores of different batches come from different models and should not be compared; estimators within a group do not.

    Args:
      score: An encoder with one score per example.
      objective: What the model is trained on, made from the same encoder.
      params: Where the model starts.
      inputs: From the raw score and rollouts to inputs, one example per completion, prompt by prompt, with the same
        shapes for every batch. For texts it is `lambda score, rollouts: read(rollouts)` with `read` from `texts`.
      examples: `(score, rollouts) -> examples` of the objective, with the same shapes for every batch: demonstrations
        in `rollouts.columns` against completions for a discriminator, or completions with their raw reward.
      steps: Updates of the model per batch of rollouts.
      combine: `(value, learned) -> value`, both `[prompts group]`; by default the learned score replaces the reward,
        which is then only logged.
      batch_size: As in `fit`.
      learning_rate: As in `fit`.
      seed: Order of the examples.

    Returns:
      A shaping with a `CoTrained` as state. Entries that are not valid stay 0; parts stay those of the raw reward.
    """
    compiled = jax.jit(score)
    settings = {"steps": steps, "batch_size": batch_size, "learning_rate": learning_rate}

    def init() -> CoTrained:
        return CoTrained(params, optimizer().init(params), jnp.zeros((), jnp.int32))

    def update(raw: Score, state: CoTrained, rollouts: Rollouts) -> tuple[Score, CoTrained]:
        key = jax.random.fold_in(jax.random.key(seed), state.batches)
        found = fit(
            key, examples(raw, rollouts), state.params, objective, optimizer_state=state.optimizer_state, **settings
        )
        learned = compiled(found.params, inputs(raw, rollouts)).reshape(rollouts.shape)
        value = jnp.where(raw.valid, combine(jnp.asarray(raw.value), learned), 0.0)
        return dataclasses.replace(raw, value=value), CoTrained(
            found.params, found.optimizer_state, jnp.asarray(state.batches) + 1
        )

    return Shaping(init, update)


def discriminator(
    score: Encoder,
    objective: Objective,
    params: Params,
    *,
    real: Callable[[Rollouts], Any],
    fake: Callable[[Rollouts], Any],
    **settings: Any,
) -> Shaping:
    """A `co_trained` reward that tells completions from references, and pays for being taken for one.

    Args:
      score: An encoder with one score per example, higher for references.
      objective: Of `Labeled`, such as `cross_entropy(score)`.
      params: Where the model starts.
      real: From rollouts to the inputs of references, such as a column of theirs.
      fake: From rollouts to the inputs of their completions, prompt by prompt.
      **settings: Of `co_trained`.
    """

    def examples(raw: Score, rollouts: Rollouts) -> Labeled:
        return against(real(rollouts), fake(rollouts))

    return co_trained(score, objective, params, lambda raw, rollouts: fake(rollouts), examples, **settings)
