"""Rollouts by Tunix's engines: their settings, and what they give as our `Rollouts`."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field
from typing import Any, SupportsIndex

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Key
from tunix.rl.rollout import base_rollout, vanilla_rollout

from agent_tunix import data, sampling
from agent_tunix.drawing import SOFTMAX, Distribution
from agent_tunix.engines import _modules
from agent_tunix.errors import ConfigError, unknown
from agent_tunix.layouts import Layout, plain
from agent_tunix.models import Parameters
from agent_tunix.sampling import Sample
from agent_tunix.tokenizers import Tokenizer
from agent_tunix.types import Rollouts, Row

ENGINES = ("vanilla", "vllm", "sglang_jax")
"""Names that Tunix has for them."""

OWN = (
    "max_tokens_to_generate", "temperature", "top_p", "top_k", "seed", "max_prompt_length", "eos_tokens",
    "kv_cache_size", "return_logprobs",
)  # fmt: skip
"""Fields of Tunix's `RolloutConfig` that other settings of this package decide."""

PAD = -1
"""Padding for Tunix, which takes every token of that id for padding: here none that a policy draws can be one. The
embedding of what is padding is looked up, so the id has to be one that arrays can be indexed with."""


@dataclasses.dataclass(frozen=True)
class Rollout:
    """How Tunix samples and where.

    Attributes:
      engine: `vanilla`, Tunix's own sampler, or `vllm` or `sglang_jax`, which have to be installed beside it.
      settings: Further fields of Tunix's `RolloutConfig`, by their names there.
      train_mesh: Devices of policy and reference, such as `fsdp4xtp2`.
      rollout_mesh: Devices that sample, behind those of training; None samples on the same ones, without a copy of
        the parameters.
      max_prompt_tokens: Width of prompts.
      overlong_prompts: `raise` or `truncate`.
      max_completion_tokens: Token budget of a completion.
      distribution: Temperature and filters.
      stop: Single-token strings that end a completion besides the end-of-sequence token.
    """

    max_prompt_tokens: int
    max_completion_tokens: int
    engine: str = "vanilla"
    settings: Mapping[str, Any] = field(default_factory=dict)
    train_mesh: str = "fsdp1"
    rollout_mesh: str | None = None
    overlong_prompts: str = "raise"
    distribution: Distribution = SOFTMAX
    stop: tuple[str, ...] = ()


def check(rollout: Rollout) -> None:
    """Refuses settings that Tunix would take and get wrong, or not know.

    Raises:
      ConfigError: The first of them.
    """
    drawn, known = rollout.distribution, [entry.name for entry in dataclasses.fields(base_rollout.RolloutConfig)]
    if rollout.engine not in ENGINES:
        raise ConfigError(unknown("tunix.rollout", rollout.engine, ENGINES))
    for name in rollout.settings:
        if name not in known:
            raise ConfigError(unknown("key of tunix.settings", name, set(known) - set(OWN)))
        if name in OWN:
            raise ConfigError(f"tunix.settings.{name} is decided by data and sampling; leave it out")
    if drawn.temperature == 0:
        raise ConfigError("sampling.temperature is 0, by which Tunix divides the logits; take more, such as 1.0")
    if drawn.min_p:
        raise ConfigError(f"sampling.min_p is {drawn.min_p}, which Tunix's samplers do not have; set it to 0")
    version = f"rollout_{rollout.engine}_model_version"
    if rollout.engine != "vanilla" and not rollout.settings.get(version):
        raise ConfigError(f"tunix.settings.{version} is not set; name the model that {rollout.engine} is to build")


def config(rollout: Rollout, tokenizer: Tokenizer) -> base_rollout.RolloutConfig:
    """Tunix's settings for rollouts.

    Raises:
      ConfigError: As `check`.
    """
    check(rollout)
    drawn, stops = rollout.distribution, stop_ids(rollout, tokenizer)
    settings = dict(rollout.settings)
    if rollout.engine == "vllm":
        # Tunix gives vLLM the end of sequence alone.
        name = "rollout_vllm_sampling_kwargs"
        settings[name] = {"stop_token_ids": list(stops)} | dict(settings.get(name, {}))
    return base_rollout.RolloutConfig(
        max_tokens_to_generate=rollout.max_completion_tokens,
        max_prompt_length=rollout.max_prompt_tokens,
        kv_cache_size=rollout.max_prompt_tokens + rollout.max_completion_tokens,
        temperature=drawn.temperature,
        top_p=drawn.top_p,
        top_k=drawn.top_k or None,
        eos_tokens=list(stops),
        return_logprobs=rollout.engine != "sglang_jax",
        **settings,
    )


def stop_ids(rollout: Rollout, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Tokens that end a completion.

    Raises:
      ConfigError: If one of them is also padding, which Tunix leaves out of loss and attention.
    """
    found = (*tokenizer.stop_ids(), *(tokenizer.token_id(text) for text in rollout.stop))
    if tokenizer.pad_id() in found:
        raise ConfigError(
            f"token {tokenizer.pad_id()} is padding and ends completions; give the tokenizer a padding token of its own"
        )
    return found


class PromptTokenizer:
    """A tokenizer that gives Tunix the tokens of a prompt as our engine lays them out: begun, and no longer than fits.

    Args:
      tokenizer: The tokenizer.
      rollout: Width of prompts, and what to do with longer ones.
    """

    def __init__(self, tokenizer: Tokenizer, rollout: Rollout) -> None:
        self._tokenizer, self._rollout = tokenizer, rollout

    def encode(self, text: str) -> list[int]:
        """Tokens of a prompt, the beginning-of-sequence token included."""
        width, overlong = self._rollout.max_prompt_tokens, self._rollout.overlong_prompts
        found = data.encode_prompts(self._tokenizer, [text], max_tokens=width, overlong=overlong)
        return found.ids[found.mask].tolist()

    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        """Text of tokens."""
        return self._tokenizer.decode(ids)

    def bos_id(self) -> None:
        """None, so that Tunix's samplers put none before those that are there."""

    def eos_id(self) -> int:
        """Id that ends a sequence."""
        return self._tokenizer.eos_id()

    def pad_id(self) -> int:
        """Id that fills up a row: `PAD`."""
        return PAD


class VanillaRollout(vanilla_rollout.VanillaRollout):
    """Tunix's own sampler, with completions whole.

    Tunix takes the stop token off, so that a policy would never be trained to stop, and with several of them nobody
    could say which it was. Here completions are read from the buffer that the sampler filled.

    Args:
      rollout_actor: The policy's module.
      tokenizer: As Tunix wraps it.
      mesh: Devices to sample on.
      rollout_config: Settings.
    """

    def __init__(
        self, rollout_actor: Any, tokenizer: Any, mesh: Mesh, rollout_config: base_rollout.RolloutConfig
    ) -> None:
        module = rollout_actor if _lies_on(rollout_actor, mesh) else _modules.placed(rollout_actor, mesh)
        sizes = rollout_actor.config
        cache = base_rollout.CacheConfig(
            rollout_config.kv_cache_size, sizes.num_layers, sizes.num_kv_heads, sizes.head_dim
        )
        super().__init__(module, tokenizer, cache)
        self._filled: Any = None
        sampler: Any = self._sampler
        sampler.init_sample_state = comparable(sampler.init_sample_state)
        decode = sampler._compiled_decode_fn

        def kept(*arguments: Any) -> Any:
            self._filled = decode(*arguments)
            return self._filled

        sampler._compiled_decode_fn = kept

    def generate(
        self, prompts: list[str], rollout_config: base_rollout.RolloutConfig, **_: Any
    ) -> base_rollout.RolloutOutput:
        """Draws a completion of every prompt; `tokens` and `logprobs` hold the stop token."""
        sampler: Any = self._sampler
        drawn = sampler(
            input_strings=prompts,
            max_generation_steps=rollout_config.max_tokens_to_generate,
            max_prompt_length=rollout_config.max_prompt_length,
            temperature=rollout_config.temperature,
            top_p=rollout_config.top_p,
            top_k=rollout_config.top_k,
            seed=rollout_config.seed,
            eos_tokens=rollout_config.eos_tokens,
            return_logprobs=True,
        )
        width = rollout_config.max_prompt_length
        ids, logprobs = jax.device_get((self._filled.token_buffer, self._filled.logprobs_buffer))
        self._filled = None
        ids, logprobs = ids[:, width:], logprobs[:, width:]
        lengths = [_length(row, rollout_config.eos_tokens or [self.eos_id()]) for row in ids]
        return base_rollout.RolloutOutput(
            text=drawn.text,
            logits=[],
            tokens=[row[:length] for row, length in zip(ids, lengths, strict=True)],
            left_padded_prompt_tokens=drawn.padded_prompt_tokens,
            logprobs=[row[:length] for row, length in zip(logprobs, lengths, strict=True)],
        )


def comparable(init_sample_state: Callable[..., Any]) -> Callable[..., Any]:
    """The function that begins a sampler's state, with the width of prompts as a number.

    Tunix makes an array of it and then part of what programs are compiled for. Two of these cannot be compared while
    something is compiled: from then on JAX fails in places that have nothing to do with it.
    """

    def begun(*args: Any, **kwargs: Any) -> Any:
        state = init_sample_state(*args, **kwargs)
        return dataclasses.replace(state, num_input_tokens=int(state.num_input_tokens))

    return begun


def _lies_on(module: nnx.Module, mesh: Mesh) -> bool:
    return all(leaf.sharding.mesh == mesh for leaf in jax.tree.leaves(nnx.state(module)))


def _length(ids: np.ndarray, stops: Sequence[int]) -> int:
    """Tokens up to the first stop token, with it."""
    found = np.flatnonzero(np.isin(ids, stops))
    return int(found[0]) + 1 if found.size else len(ids)


Draw = Callable[[list[str], Key[Array, ""]], base_rollout.RolloutOutput]
"""From prompts and a random key to completions."""


def sampler(
    draw: Draw,
    tokenizer: Tokenizer,
    rollout: Rollout,
    *,
    layout: Layout = plain,
    old_logprobs: Callable[[Rollouts], np.ndarray] | None = None,
) -> Sample:
    """The function that turns rows of a task into rollouts, as `sampling.sampler` has it; parameters are the engine's.

    Args:
      draw: The engine.
      tokenizer: Between text and tokens.
      rollout: Widths and stop tokens.
      layout: What is encoded of a row.
      old_logprobs: Log-probabilities under the policy itself; None takes those of the engine.
    """
    stops = stop_ids(rollout, tokenizer)

    def sample(parameters: Parameters, rows: Sequence[Row], group_size: int, key: Key[Array, ""]) -> Rollouts:
        del parameters
        texts = [layout(row) for row in rows]
        encoded = data.encode_prompts(
            tokenizer, texts, max_tokens=rollout.max_prompt_tokens, overlong=rollout.overlong_prompts
        )
        output = draw([text for text in texts for _ in range(group_size)], key)
        shape = (len(rows), group_size, rollout.max_completion_tokens)
        completions = completions_of(output, shape, stops, tokenizer)
        ids, mask = completions["completion_ids"], completions["completion_mask"]
        rollouts = Rollouts(
            prompts=[row["prompt"] for row in rows],
            completions=[
                [tokenizer.decode(ids[p, g][mask[p, g]]) for g in range(group_size)] for p in range(len(rows))
            ],
            columns=sampling.columns(rows),
            prompt_ids=encoded.ids,
            prompt_mask=encoded.mask,
            **completions,
        )
        return rollouts if old_logprobs is None else _with_old(rollouts, old_logprobs(rollouts))

    return sample


def _with_old(rollouts: Rollouts, old: np.ndarray) -> Rollouts:
    """With log-probabilities under the policy; an engine that gives none of its own is taken to draw from it."""
    drawn = np.where(np.isnan(rollouts.logprobs), old, rollouts.logprobs)
    return dataclasses.replace(rollouts, old_logprobs=old, logprobs=drawn)


def completions_of(
    output: base_rollout.RolloutOutput, shape: tuple[int, int, int], stops: Sequence[int], tokenizer: Tokenizer
) -> dict[str, np.ndarray]:
    """Completions of any engine on one grid, by the names of `sampling.Completions`.

    What follows a stop token is cut off. A completion that ends below its budget without one was given without it, so
    the end of sequence is put there. Where an engine gives no log-probability, it is NaN.
    """
    ids = np.full((shape[0] * shape[1], shape[2]), tokenizer.pad_id(), np.int32)
    mask, logprobs = np.zeros(ids.shape, bool), np.zeros(ids.shape, np.float32)
    for row, tokens in enumerate(output.tokens):
        own = _whole(np.asarray(tokens, np.int32)[: shape[2]], shape[2], stops, tokenizer)
        given = [] if output.logprobs is None else np.asarray(output.logprobs[row], np.float32)[: len(own)]
        ids[row, : len(own)], mask[row, : len(own)] = own, True
        logprobs[row, : len(own)] = np.append(given, np.full(len(own) - len(given), np.nan))
    ended = np.any(np.isin(ids, stops) & mask, axis=-1)
    grids = (values.reshape(shape) for values in (ids, mask, logprobs, logprobs.copy()))
    return sampling.Completions(*grids, truncated=np.logical_not(ended).reshape(shape[:2]))._asdict()


def _whole(ids: np.ndarray, budget: int, stops: Sequence[int], tokenizer: Tokenizer) -> np.ndarray:
    """The tokens of one completion, its stop token included, without padding."""
    if np.isin(ids, stops).any():
        return ids[: _length(ids, stops)]
    real = np.flatnonzero(ids != PAD)
    ids = ids[: real[-1] + 1] if real.size else ids[:0]
    return ids if len(ids) == budget else np.append(ids, np.int32(tokenizer.eos_id()))
