"""The supervised start: masked cross-entropy on demonstrations, before any reward is seen."""

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from agent_tunix import data
from agent_tunix.errors import RunError
from agent_tunix.layouts import Layout, plain
from agent_tunix.models import Policy
from agent_tunix.optimizers import adamw, learning_rate_schedule
from agent_tunix.tokenizers import Tokenizer
from agent_tunix.types import Params, Row

logger = logging.getLogger(__name__)


class Demonstrations(NamedTuple):
    """Encoded prompts and their demonstrated completions, one per prompt."""

    prompt_ids: Int[Any, "rows prompt_tokens"]
    prompt_mask: Bool[Any, "rows prompt_tokens"]
    completion_ids: Int[Any, "rows tokens"]
    completion_mask: Bool[Any, "rows tokens"]


def cross_entropy(policy: Policy, params: Params, batch: Demonstrations) -> Float[Array, ""]:
    """Mean negative log-probability of demonstration tokens, nats per token; padding carries none."""
    logprobs, _ = policy.logprobs(params, batch.prompt_ids, batch.prompt_mask, batch.completion_ids[:, None])
    mask = batch.completion_mask
    return -jnp.sum(jnp.where(mask, logprobs[:, 0], 0.0)) / jnp.maximum(mask.sum(), 1)


def warm_start(
    policy: Policy,
    params: Params,
    rows: Sequence[Row],
    tokenizer: Tokenizer,
    *,
    steps: int,
    rows_per_batch: int,
    learning_rate: float,
    warmup_steps: int,
    final_fraction: float,
    max_prompt_tokens: int,
    max_completion_tokens: int,
    overlong_prompts: str,
    seed: int,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
    layout: Layout = plain,
) -> Params:
    """Trains every parameter on demonstrations for a few steps.

    Args:
      policy: Model functions.
      params: Where to start; not modified.
      rows: Rows with a `demonstration`; those without, or with one above the token budget, are left out and counted.
      tokenizer: Between text and tokens.
      steps: Optimizer updates.
      rows_per_batch: Demonstrations per update.
      learning_rate: Peak learning rate of AdamW.
      warmup_steps: Updates until the peak.
      final_fraction: Rate at the end as a fraction of the peak.
      max_prompt_tokens: Width of prompts.
      max_completion_tokens: Width of completions, end-of-sequence token included.
      overlong_prompts: `raise` or `truncate`.
      seed: Order of the rows.
      on_step: Called with the step and its loss; may raise to stop.
      layout: What is encoded of a row before its demonstration.

    Returns:
      Trained parameters.

    Raises:
      RunError: If no demonstration fits, or the loss stops being finite.
    """
    usable = fitting(rows, tokenizer, max_completion_tokens)
    if not usable:
        raise RunError(
            f"none of {len(rows)} demonstrations fits sampling.max_completion_tokens={max_completion_tokens}; "
            "raise it, or set warm_start.steps=0"
        )
    schedule = learning_rate_schedule(
        learning_rate=learning_rate, warmup_steps=warmup_steps, steps=steps, final_fraction=final_fraction
    )
    optimizer = adamw(schedule)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def update(params: Params, state: optax.OptState, batch: Demonstrations) -> tuple[Params, optax.OptState, Array]:
        loss, gradient = jax.value_and_grad(lambda tree: cross_entropy(policy, tree, batch))(params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, loss

    params = jax.tree.map(jnp.copy, params)  # the update donates its input
    state = optimizer.init(params)
    batches = data.batches(usable, size=min(rows_per_batch, len(usable)), seed=seed)
    for step in range(1, steps + 1):
        batch = next(batches)
        prompts = data.encode_prompts(
            tokenizer, [layout(row) for row in batch], max_tokens=max_prompt_tokens, overlong=overlong_prompts
        )
        texts = [row["demonstration"] for row in batch]
        completions = data.encode_completions(tokenizer, texts, max_tokens=max_completion_tokens)
        encoded = Demonstrations(prompts.ids, prompts.mask, completions.ids, completions.mask)
        params, state, loss = update(params, state, encoded)
        if not np.isfinite(loss):
            raise RunError(f"the warm start's loss is {loss} at step {step}; lower warm_start.learning_rate")
        on_step(step, float(loss))
    return params


def fitting(rows: Sequence[Row], tokenizer: Tokenizer, max_tokens: int) -> list[Row]:
    """Rows whose demonstration, with its end-of-sequence token, is at most `max_tokens` long."""
    shown = [row for row in rows if row.get("demonstration")]
    usable = [row for row in shown if len(tokenizer.encode(row["demonstration"])) < max_tokens]
    if len(usable) < len(rows):
        logger.warning(
            "warm start: %d of %d rows used; %d have no demonstration, %d are longer than %d tokens",
            len(usable), len(rows), len(rows) - len(shown), len(shown) - len(usable), max_tokens,
        )  # fmt: skip
    return usable
