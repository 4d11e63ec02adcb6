"""Bytes that one device holds: what always lies there, and what each phase of a batch adds at its fullest.

What trains is float32: parameters, gradient and the two moments of AdamW, of which the first may be bfloat16. What is
frozen, and every copy to compute with, has the data type that is computed in, or is quantised. A full reference is a
second set of parameters; under low-rank factors it is the frozen backbone, which is there anyway.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from agent_tunix import sampling
from agent_tunix.models._head import MAX_LOGITS, PART
from agent_tunix.planning._setting import DTYPES, Setting, cut
from agent_tunix.planning._work import LOGIT_COPIES, stored, weight_bytes, working

FEATURE_COPIES = 5
"""Arrays of the size of a portion's features that live at once beside its logits where a gradient follows."""


class Memory(NamedTuple):
    """Bytes of one device by their use.

    Attributes:
      state: What lies there all the time.
      phases: What each phase adds while it runs.
    """

    state: Mapping[str, float]
    phases: Mapping[str, Mapping[str, float]]

    @property
    def peak(self) -> float:
        """The state and the largest phase."""
        return sum(self.state.values()) + max(sum(parts.values()) for parts in self.phases.values())

    @property
    def fullest(self) -> str:
        """The phase that sets the peak."""
        return max(self.phases, key=lambda name: sum(self.phases[name].values()))


def memory(setting: Setting) -> Memory:
    """The bytes of one device."""
    phases = {"rollout": _rollout(setting), "update": _update(setting)}
    if setting.reference:
        phases["reference"] = _reference(setting)
    return Memory(_state(setting), phases)


def _state(setting: Setting) -> dict[str, float]:
    shares = setting.mesh.fsdp * setting.mesh.tp
    full_reference = setting.reference and not setting.lora_rank
    return {
        "parameters": (4 * setting.trainable + setting.frozen_bytes) / shares,
        "optimizer": (4 + DTYPES[setting.mu_dtype]) * setting.trainable / shares,
        "reference": 4 * setting.sizes.parameters / shares if full_reference else 0.0,
    }


def _copy(setting: Setting) -> float:
    """Weights made ready to compute with: gathered, cast, factors added, projections of attention joined."""
    sizes = setting.sizes
    if setting.quantize:  # one projection of attention or MLP in full at a time, beside the joined ones in few bits
        largest = max(sizes.qkv, sizes.width * sizes.mlp) * setting.width_bytes
        return (sizes.layers * sizes.qkv * setting.projection_bytes + largest) / setting.mesh.tp
    # Float32 masters are cast, float32 backbones get their updates added; a backbone of 16 bits is used as it is.
    as_kept = bool(setting.lora_rank) == (setting.dtype != "float32")
    if setting.mesh.fsdp > 1 or not as_kept:
        return weight_bytes(setting)
    return sizes.layers * sizes.qkv * setting.width_bytes / setting.mesh.tp


def _layer_copy(setting: Setting) -> float:
    """The same where a layer is made ready when its turn comes: one at work, one on its way; gathered tables whole."""
    tables = setting.sizes.tables * setting.width_bytes / setting.mesh.tp if setting.mesh.fsdp > 1 else 0.0
    return min(1.0, 2 / setting.sizes.layers) * _copy(setting) + tables


def _cache(setting: Setting, rows: float, slots: float) -> float:
    """Keys and values of `slots` tokens in each of some rows."""
    sizes, tp = setting.sizes, setting.mesh.tp
    kv = max(sizes.kv_width / tp, sizes.head_dim) if tp > 1 else sizes.kv_width  # a head is not cut
    return 2 * setting.sizes.layers * kv * rows * slots * setting.width_bytes


def _rollout(setting: Setting) -> dict[str, float]:
    """The fullest of three stages: prompts are computed, tokens are drawn, the cache is copied into a longer one."""
    rows = setting.local_prompts / setting.rollout_parts * setting.group_size
    ends = [0, *sampling.segments(setting.completion_tokens)]
    prompts, copy, layer = rows / setting.group_size, _copy(setting), _layer_copy(setting)
    prefix = setting.prompt_tokens - 1
    prompt_cache = _cache(setting, prompts, prefix)
    first, before, last = (_cache(setting, rows, slots) for slots in (ends[1], ends[-2], ends[-1]))
    activations = prompts * prefix * working(setting, prefix) * setting.width_bytes
    # The keys of prompts are laid out a second time to draw tokens.
    logits = LOGIT_COPIES * 4 * rows * setting.sizes.vocab_size / setting.mesh.tp
    stages = (
        {"cache of completions": first, "weights to compute with": layer, "activations of prompts": activations},
        {"cache of completions": last, "weights to compute with": copy, "logits, keys": logits + prompt_cache / 2},
        {"cache of completions": last, "cache that is outgrown": before},
    )
    return {"cache of prompts": prompt_cache} | max(stages, key=lambda stage: sum(stage.values()))


class _Portion(NamedTuple):
    """The fullest bucket on one device."""

    prompts: float
    tokens: float

    def completions(self, setting: Setting, per_token: Callable[[Setting, float], float]) -> float:
        """Bytes of what one layer has of the completions."""
        numbers = per_token(setting, setting.prompt_tokens - 1 + setting.completion_tokens)
        return self.tokens * numbers * setting.width_bytes

    def prefixes(self, setting: Setting, per_token: Callable[[Setting, float], float]) -> float:
        """Bytes of what one layer has of the prompts."""
        tokens = setting.prompt_tokens - 1
        return self.prompts * tokens * per_token(setting, tokens) * setting.width_bytes

    def cache(self, setting: Setting) -> float:
        """Bytes of the keys and values of the prompts."""
        return _cache(setting, self.prompts, setting.prompt_tokens - 1)

    def logits(self, setting: Setting, features: int) -> float:
        """Bytes of the logits that are held at once, and of so many arrays of the size of their features."""
        held = self.tokens * setting.sizes.vocab_size / setting.mesh.tp
        held = held if held <= MAX_LOGITS else PART
        return 4 * held + features * self.tokens * setting.sizes.width * setting.width_bytes


def _portion(setting: Setting) -> _Portion:
    parts = cut(setting)
    prompts = setting.local_prompts / setting.minibatches / parts.prompts
    return _Portion(prompts, prompts * setting.group_size / parts.members * setting.completion_tokens)


def _reference(setting: Setting) -> dict[str, float]:
    portion = _portion(setting)
    return {
        "weights to compute with": _layer_copy(setting),
        "cache of prompts": portion.cache(setting),
        # Layers are over when the logits come.
        "activations and logits": max(portion.completions(setting, working), portion.logits(setting, 1)),
    }


def _update(setting: Setting) -> dict[str, float]:
    """The fullest of its stages: a bucket's gradient is added up, or the sum is applied."""
    gradient = 4 * setting.trainable / setting.mesh.fsdp / setting.mesh.tp
    stages = _bucket(setting, gradient), {"what the optimizer makes of it": 1.4 * gradient}
    return {"gradient": gradient} | max(stages, key=lambda stage: sum(stage.values()))


def _bucket(setting: Setting, gradient: float) -> dict[str, float]:
    layers, portion, shares = setting.sizes.layers, _portion(setting), setting.mesh.fsdp * setting.mesh.tp
    layer, stream = portion.completions(setting, stored), portion.tokens * setting.sizes.width * setting.width_bytes
    before = portion.prefixes(setting, stored)
    inputs = portion.prompts * (setting.prompt_tokens - 1) * setting.sizes.width * setting.width_bytes
    # Quantised ones are made ready again.
    kept = 0 if setting.quantize else layers * setting.sizes.matrices * setting.width_bytes
    return {
        "gradient of a bucket": gradient,
        # A device that has all weights keeps the copy for the backward pass; shares are gathered again.
        "weights to compute with": _layer_copy(setting) if setting.mesh.fsdp > 1 else _copy(setting),
        # With their gradient; and, until it is complete, what their own backward pass needs.
        "cache of prompts": 2 * portion.cache(setting),
        "activations of prompts": layers * inputs if setting.remat else (layers - 0.5) * before,
        "weights kept for prompts": kept / shares,
        "activations of completions": layers * stream + layer if setting.remat else layers * layer,
        "logits": portion.logits(setting, FEATURE_COPIES),
    }
