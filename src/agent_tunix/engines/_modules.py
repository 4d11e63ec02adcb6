"""Tunix's modules on their meshes, and the way between their states and the trees of this package."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import optax
import qwix
from flax import nnx
from flax.nnx import filterlib
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from agent_tunix import meshes, models
from agent_tunix.errors import ConfigError, ModelError
from agent_tunix.models import FAMILIES, Architecture, Parameters
from agent_tunix.types import Params

AXES = ("data", "fsdp", "tp")
"""Of every mesh: Tunix's modules name the last two in their shardings, rows are dealt over the first two."""

ROPE_BASES = {"qwen3": 1_000_000.0, "llama3": 1_000_000.0}
"""What Tunix 0.1.7 rotates with in these families, whatever the model says."""


def mesh(word: str, skip: int = 0) -> Mesh:
    """The mesh that a word such as `fsdp4xtp2` means, on the devices behind the first `skip`.

    Raises:
      ConfigError: If there are fewer devices.
    """
    axes, there = meshes.mesh(word), jax.devices()
    if skip + axes.devices > len(there):
        raise ConfigError(
            f"{word} needs {axes.devices} devices behind {skip} others, but JAX sees {len(there)} "
            f"({there[0].platform}); take smaller meshes, or simulate devices on a CPU with "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={skip + axes.devices}"
        )
    chosen = np.array(there[skip : skip + axes.devices]).reshape(axes)
    return Mesh(chosen, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def check(architecture: Architecture) -> None:
    """Refuses an architecture that Tunix's module would compute as another one.

    Raises:
      ModelError: What Tunix 0.1.7 leaves out.
    """
    rotary, family = architecture.rotary, architecture.family
    fixed = ROPE_BASES.get(family, rotary.theta)
    wrong = {
        f"it rotates with a base of {fixed:,.0f} where the model has {rotary.theta:,.0f}": rotary.theta != fixed,
        "it does not scale rotary frequencies as Llama 3.1 does": rotary.llama3 is not None,
        "it does not scale rotary positions": family != "gemma3" and rotary.factor != 1.0,
        "it takes its local layers from a pattern of five to one": family == "gemma3" and not _regular(architecture),
    }
    for what, holds in wrong.items():
        if holds:
            raise ModelError(f"Tunix 0.1.7 computes this {family} wrongly: {what}; train it with engine=jax")


def _regular(architecture: Architecture) -> bool:
    return all(architecture.is_local(layer) == bool((layer + 1) % 6) for layer in range(architecture.layers))


def actor(architecture: Architecture, parameters: Parameters, on: Mesh) -> nnx.Module:
    """Tunix's module with our parameters, its low-rank factors included, on a mesh.

    Raises:
      ModelError: If it cannot be divided over the mesh.
    """
    if not parameters.lora_scale:
        return placed(models.tunix_module(architecture, parameters.trainable), on)
    module: Any = models.tunix_module(architecture, parameters.frozen)
    rank = next(leaf.shape[-1] for leaf in _first_factors(parameters.trainable))
    provider = qwix.LoraProvider(
        module_path=FAMILIES[architecture.family].adapted, rank=rank, alpha=parameters.lora_scale * rank
    )
    adapted: Any = qwix.apply_lora_to_model(module, provider, rngs=nnx.Rngs(0), **module.get_model_input())
    _put(adapted, nnx.LoRAParam, parameters.trainable)
    return placed(adapted, on)


def reference(architecture: Architecture, policy: nnx.Module) -> nnx.Module:
    """The policy before training, from the very arrays of a policy's module: updates replace arrays, none is changed.

    Under low-rank training that is its backbone, which both go on sharing.
    """
    backbone = nnx.to_pure_dict(nnx.state(policy, filterlib.Not(nnx.LoRAParam)))
    return models.tunix_module(architecture, backbone)


def _first_factors(tree: Params) -> Sequence[Any]:
    found = jax.tree_util.tree_flatten_with_path(tree)[0]
    return [leaf for path, leaf in found if jax.tree_util.keystr(path, simple=True).endswith("_lora_a")]


def placed(module: nnx.Module, on: Mesh) -> nnx.Module:
    """A module whose arrays lie on a mesh as its shardings say.

    Raises:
      ModelError: If they cannot be divided so.
    """
    graph, state = nnx.split(module)

    def sharding(spec: Any) -> NamedSharding:
        return NamedSharding(on, PartitionSpec() if spec is None else spec)

    try:
        moved = jax.device_put(state, jax.tree.map(sharding, nnx.get_partition_spec(state)))
    except ValueError as error:
        raise ModelError(f"the model cannot be divided over the mesh {dict(on.shape)}: {error}") from error
    return nnx.merge(graph, moved)


# --- States -----------------------------------------------------------------------------------------------------------


def kind(lora: bool) -> type:
    """The variables that train."""
    return nnx.LoRAParam if lora else nnx.Param


def trainable(module: nnx.Module, lora: bool) -> Params:
    """What trains, as the tree that our engine has for it; the arrays themselves."""
    return nnx.to_pure_dict(nnx.state(module, kind(lora)))


def put_trainable(module: nnx.Module, lora: bool, tree: Params) -> None:
    """The other way round."""
    _put(module, kind(lora), tree)


def optimizer_state(optimizer: nnx.Optimizer, transformation: optax.GradientTransformation, tree: Params) -> Any:
    """The state of a trainer's optimizer, in the structure that `transformation.init(tree)` has."""
    found = nnx.to_pure_dict(nnx.state(optimizer, nnx.optimizer.OptState))["opt_state"]
    like = jax.eval_shape(transformation.init, tree)
    return jax.tree_util.tree_map_with_path(lambda path, _: _at(found, path), like)


def settle(optimizer: nnx.Optimizer, on: Mesh) -> None:
    """Copies what an optimizer keeps on a single device, its counters, to all devices of a mesh."""
    state = nnx.state(optimizer, nnx.optimizer.OptState)

    def everywhere(leaf: jax.Array) -> jax.Array:
        there = isinstance(leaf.sharding, NamedSharding)
        return leaf if there else jax.device_put(leaf, NamedSharding(on, PartitionSpec()))

    nnx.update(optimizer, jax.tree.map(everywhere, state))


def put_optimizer_state(optimizer: nnx.Optimizer, tree: Any) -> None:
    """The other way round."""
    state = nnx.state(optimizer, nnx.optimizer.OptState)
    plain = nnx.to_pure_dict(state)
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        *folder, name = map(_key, path)
        place = plain["opt_state"]
        for key in folder:
            place = place[key]
        place[name] = jax.device_put(leaf, place[name].sharding)
    nnx.replace_by_pure_dict(state, plain)
    nnx.update(optimizer, state)


def _put(module: nnx.Module, variables: type, tree: Params) -> None:
    state = nnx.state(module, variables)
    like = nnx.to_pure_dict(state)
    nnx.replace_by_pure_dict(state, jax.tree.map(lambda new, old: jax.device_put(new, old.sharding), tree, like))
    nnx.update(module, state)


def _at(tree: Any, path: Sequence[Any]) -> Any:
    for step in path:
        tree = tree[_key(step)]
    return tree


def _key(step: Any) -> Any:
    """What flax calls a step of a path into an optax state: an index, the name of a field, or a key."""
    for attribute in ("key", "idx", "name"):
        if hasattr(step, attribute):
            return getattr(step, attribute)
    raise TypeError(f"no key in {step!r}")
