"""Work dealt over the devices of a mesh: every device computes its own prompts, and gradients meet once per update.

A mesh has one axis, `data`; without one everything is as on a single device. Arrays that differ between devices get a
leading axis for them, and a program sees its own part without that axis. Left to itself, a partitioner that finds
prompts sharded and parameters not would add up the gradient over all devices after every bucket.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "data"

SAME, OWN = PartitionSpec(), PartitionSpec(AXIS)
"""Placements: the same array on every device; a part for each along the leading axis."""


def count(mesh: Mesh | None) -> int:
    """Number of devices."""
    return 1 if mesh is None else mesh.shape[AXIS]


def dealt(mesh: Mesh | None, tree: Any) -> list[Any]:
    """Host arrays `[prompts ...]` cut into equal parts, one for each device.

    Raises:
      ValueError: If the prompts cannot be dealt equally.
    """
    if mesh is None:
        return [tree]
    parts, (prompts, *_) = count(mesh), [len(leaf) for leaf in jax.tree.leaves(tree)]
    if prompts % parts:
        raise ValueError(f"{prompts} prompts cannot be dealt to {parts} devices; give a multiple of {parts}")
    size = prompts // parts
    cuts = [slice(start, start + size) for start in range(0, prompts, size)]
    return [jax.tree.map(lambda leaf, cut=cut: np.asarray(leaf)[cut], tree) for cut in cuts]


def everywhere(mesh: Mesh | None, tree: Any) -> Any:
    """The same arrays on every device."""
    return tree if mesh is None else jax.device_put(tree, NamedSharding(mesh, SAME))


def together(mesh: Mesh | None, parts: Sequence[Any]) -> Any:
    """Host arrays of every device as one tree for a program of `each`."""
    return parts[0] if mesh is None else jax.tree.map(lambda *leaves: np.stack(leaves), *parts)


def apart(mesh: Mesh | None, array: Any) -> list[np.ndarray]:
    """What a program of `each` gave, by device, on the host."""
    return [np.asarray(array)] if mesh is None else list(np.asarray(array))


def each(
    mesh: Mesh | None,
    function: Callable[..., Any],
    *,
    same: Sequence[int] = (),
    donate: Sequence[int] = (),
    static: Sequence[str] = (),
) -> Callable[..., Any]:
    """Compiles a function that every device runs on its own part, without a word to the others.

    Args:
      mesh: Devices; None for a plain `jax.jit`.
      function: Of one part.
      same: Positions of arguments that are the same for all devices; the others have a leading axis for them.
      donate: Positions of arguments whose memory may be used for the results.
      static: Names of keyword arguments that are compiled into the program.
    """
    if mesh is None:
        return jax.jit(function, donate_argnums=donate, static_argnames=static)

    def local(*args: Any, **settings: Any) -> Any:
        own = [arg if place in same else _first(arg) for place, arg in enumerate(args)]
        return jax.tree.map(lambda leaf: leaf[None], function(*own, **settings))

    return _mapped(mesh, function, local, lambda place: place in same, OWN, donate, static)


def summed(
    mesh: Mesh | None, function: Callable[..., Any], *, sums: Sequence[int], donate: Sequence[int] = ()
) -> Callable[..., Any]:
    """Compiles a function that every device runs alike, after some arguments have been added up over the devices.

    Args:
      mesh: Devices; None for a plain `jax.jit`.
      function: Of arguments that are the same for all devices then.
      sums: Positions of arguments that come from `each`.
      donate: Positions of arguments whose memory may be used for the results.
    """
    if mesh is None:
        return jax.jit(function, donate_argnums=donate)

    def local(*args: Any) -> Any:
        own = jax.lax.psum({place: _first(args[place]) for place in sums}, AXIS)
        return function(*(own.get(place, arg) for place, arg in enumerate(args)))

    return _mapped(mesh, function, local, lambda place: place not in sums, SAME, donate, ())


def _first(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[0], tree)


def _mapped(
    mesh: Mesh,
    function: Callable[..., Any],
    local: Callable[..., Any],
    is_same: Callable[[int], bool],
    out: PartitionSpec,
    donate: Sequence[int],
    static: Sequence[str],
) -> Callable[..., Any]:
    def specs(args: Sequence[Any]) -> tuple[PartitionSpec, ...]:
        return tuple(SAME if is_same(place) else OWN for place in range(len(args)))

    def program(*args: Any, **settings: Any) -> Any:
        # Unchecked: with `check_vma` the gradient by what all devices share would be added up where it is taken.
        run = functools.partial(local, **settings)
        return jax.shard_map(run, mesh=mesh, in_specs=specs(args), out_specs=out, check_vma=False)(*args)

    program.__name__ = getattr(getattr(function, "func", function), "__name__", "program")  # in profiles
    compiled = jax.jit(program, donate_argnums=donate, static_argnames=static)

    def placed(*args: Any, **settings: Any) -> Any:
        # Nothing moves that lies in its place already.
        shardings = [NamedSharding(mesh, spec) for spec in specs(args)]
        return compiled(*map(jax.device_put, args, shardings), **settings)

    return placed
