"""Work dealt over the devices of a mesh: every share of the prompts is computed by itself, and gradients meet.

A mesh has up to three axes. Prompts are dealt over `data` and `fsdp`; arrays that differ between these shares get a
leading axis for them, and a program sees its own part without that axis. Without a mesh everything is as on a single
device. Along `data` nothing is said until the gradients of an update are added up: left to itself, a partitioner that
finds prompts sharded and parameters not would add up the gradient over all devices after every bucket.

Parameters lie where `placed` put them. One that is cut along `fsdp` reaches a program as a `Cut`, which is gathered
where it is used and whose gradient is scattered again; along `tp` the partitioner of XLA does both by what it is told
in the model's code (`along_tp`).
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

DATA, FSDP, TP = "data", "fsdp", "tp"
AXIS = DATA
SAME = PartitionSpec()


def count(mesh: Mesh | None) -> int:
    """Number of shares that prompts are dealt to."""
    return int(np.prod([mesh.shape[axis] for axis in _rows(mesh)])) if mesh is not None else 1


def talk(mesh: Mesh | None) -> bool:
    """Whether devices talk to each other in other programs than the sum of the gradients."""
    return mesh is not None and (_many(mesh) or any(mesh.shape.get(axis, 1) > 1 for axis in (FSDP, TP)))


def _rows(mesh: Mesh) -> tuple[str, ...]:
    """The axes that prompts are dealt over."""
    return tuple(axis for axis in (DATA, FSDP) if axis in mesh.shape)


def _own(mesh: Mesh) -> PartitionSpec:
    """A part for each share along the leading axis."""
    return PartitionSpec(_rows(mesh))


def dealt(mesh: Mesh | None, tree: Any) -> list[Any]:
    """Host arrays `[prompts ...]` cut into equal parts, one for each share.

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


def local(mesh: Mesh | None, prompts: int) -> slice:
    """Which of a number of prompts, dealt over the mesh, the devices of this process compute; all where it is alone."""
    if mesh is None or not _many(mesh):
        return slice(0, prompts)
    grid = np.moveaxis(mesh.devices, [mesh.axis_names.index(axis) for axis in _rows(mesh)], range(len(_rows(mesh))))
    owners = [device.process_index for device in grid.reshape(count(mesh), -1)[:, 0]]
    mine = [share for share, owner in enumerate(owners) if owner == jax.process_index()]
    size = prompts // count(mesh)
    return slice(mine[0] * size, (mine[-1] + 1) * size)


def placed(mesh: Mesh | None, tree: Any, specs: Any) -> Any:
    """Arrays, the same in every process, cut over the mesh.

    Args:
      mesh: Devices; None leaves everything where it is.
      tree: Pytree of arrays.
      specs: A `PartitionSpec` for each of them.
    """
    if mesh is None:
        return tree
    return jax.tree.map(lambda leaf, spec: _put(leaf, NamedSharding(mesh, spec)), tree, specs)


def everywhere(mesh: Mesh | None, tree: Any) -> Any:
    """The same arrays on every device; those that lie on the mesh already stay as they are cut."""
    return tree if mesh is None else jax.tree.map(lambda leaf: _moved(mesh, leaf, SAME), tree)


def together(mesh: Mesh | None, parts: Sequence[Any]) -> Any:
    """Host arrays of every share as one tree for a program of `each`."""
    return parts[0] if mesh is None else jax.tree.map(lambda *leaves: np.stack(leaves), *parts)


def apart(mesh: Mesh | None, array: Any) -> list[np.ndarray]:
    """What a program of `each` gave, by share, on the host; all processes have to ask."""
    return [np.asarray(array)] if mesh is None else list(on_host(array))


def on_host(array: Any) -> np.ndarray:
    """A whole array on the host, also where other processes hold parts of it; then all of them have to ask."""
    if not isinstance(array, jax.Array) or array.is_fully_addressable:
        return np.asarray(array)
    if array.is_fully_replicated:
        return np.asarray(array.addressable_data(0))
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


# --- Arrays in parts --------------------------------------------------------------------------------------------------


@functools.partial(jax.tree_util.register_dataclass, data_fields=("part",), meta_fields=("fsdp", "tp"))
@dataclasses.dataclass(frozen=True)
class Cut:
    """A part of an array, as a program of `each` sees it. A pytree, so that gradients are cut as what they belong to.

    Attributes:
      part: What this share has of it.
      fsdp: The axis that is cut over shares, or None.
      tp: The axis that the partitioner cuts further, or None.
    """

    part: Any
    fsdp: int | None
    tp: int | None

    @property
    def dtype(self) -> Any:
        """Of the part."""
        return self.part.dtype


def _is_cut(node: Any) -> bool:
    return isinstance(node, Cut)


def has_cuts(tree: Any) -> bool:
    """Whether any array of a tree is in parts that have to be gathered."""
    return any(_is_cut(node) and node.fsdp is not None for node in jax.tree.leaves(tree, is_leaf=_is_cut))


def whole(tree: Any, dtype: Any = None) -> Any:
    """A tree with its arrays gathered, cast before they travel where a type is given; others stay as they are."""

    def gathered(node: Any) -> Any:
        if not _is_cut(node):
            return node
        kept = node.dtype if dtype is None else dtype
        return node.part if node.fsdp is None else _gathered(node.part, node.fsdp, np.dtype(kept))

    return jax.tree.map(gathered, tree, is_leaf=_is_cut)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gathered(part: Array, axis: int, dtype: np.dtype) -> Array:
    return jax.lax.all_gather(part.astype(dtype), FSDP, axis=axis, tiled=True)


def _scattered(axis: int, dtype: np.dtype, like: Array, cotangent: Array) -> tuple[Array]:
    # Added up in the type of the parameters, not in that of the computation.
    return (jax.lax.psum_scatter(cotangent.astype(like.dtype), FSDP, scatter_dimension=axis, tiled=True),)


_gathered.defvjp(lambda part, axis, dtype: (_gathered(part, axis, dtype), part[:0]), _scattered)


def tensor_parallel() -> int:
    """Devices along `tp` of the program that is being traced."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else dict(mesh.shape).get(TP, 1)


def along_tp(x: Array, axis: int | None) -> Array:
    """Tells the partitioner to cut an array along `tp`, or with None not to cut it; without `tp` nothing is told.

    An axis that the devices do not divide is not cut.
    """
    size = tensor_parallel()
    if size == 1:
        return x
    if axis is None or x.shape[axis] % size:
        return jax.lax.with_sharding_constraint(x, SAME)
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*[None] * (axis % x.ndim), TP))


def added_along_tp(function: Callable[..., Array], cuts: Sequence[Any], *args: Any) -> Array:
    """The sum over `tp` of what every device makes of its parts; without `tp` what the function makes of the whole.

    For functions that the partitioner would not cut well, such as loops: nothing is said before the sum.

    Args:
      function: Of parts; its results add up to that of the whole.
      cuts: Which axis of an argument is cut along `tp`, a pytree as deep as wanted for each of them; None for what is
        the same on all devices.
      *args: Whole arrays, of sizes that the devices divide.
    """
    if tensor_parallel() == 1:
        return function(*args)
    specs = jax.tree.map(
        lambda axis: SAME if axis is None else PartitionSpec(*[None] * axis, TP), cuts, is_leaf=_absent
    )
    local = jax.shard_map(
        lambda *parts: jax.lax.psum(function(*parts), TP), in_specs=tuple(specs), out_specs=SAME, axis_names={TP},
        check_vma=False,
    )  # fmt: skip
    return local(*args)


def _absent(node: Any) -> bool:
    return node is None


# --- Programs ---------------------------------------------------------------------------------------------------------


def each(
    mesh: Mesh | None,
    function: Callable[..., Any],
    *,
    same: Sequence[int] = (),
    donate: Sequence[int] = (),
    static: Sequence[str] = (),
) -> Callable[..., Any]:
    """Compiles a function that every share of the prompts runs on its own part.

    Args:
      mesh: Devices; None for a plain `jax.jit`.
      function: Of one part. Shares talk to each other only where it gathers a `Cut`.
      same: Positions of arguments that are the same for all shares; the others have a leading axis for them.
      donate: Positions of arguments whose memory may be used for the results.
      static: Names of keyword arguments that are compiled into the program.
    """
    if mesh is None:
        return jax.jit(function, donate_argnums=donate, static_argnames=static)

    def program(*args: Any, cuts: tuple[_Cuts, ...], **settings: Any) -> Any:
        def local(*args: Any) -> Any:
            own = [cuts[place].wrapped(arg) if place in same else _first(arg) for place, arg in enumerate(args)]
            return jax.tree.map(_leading, function(*own, **settings), is_leaf=_is_cut)

        specs = tuple(cuts[place].specs(arg) if place in same else _own(mesh) for place, arg in enumerate(args))
        return _mapped(mesh, local, specs, _own(mesh))(*args)

    program.__name__ = _name(function)
    compiled = jax.jit(program, donate_argnums=donate, static_argnames=("cuts", *static))

    def call(*args: Any, **settings: Any) -> Any:
        found = [_ready(mesh, arg, SAME if place in same else _own(mesh)) for place, arg in enumerate(args)]
        cuts = tuple(_Cuts.of(arg) if place in same else _NONE for place, arg in enumerate(found))
        return compiled(*found, cuts=cuts, **settings)

    return call


def summed(
    mesh: Mesh | None, function: Callable[..., Any], *, sums: Sequence[int], donate: Sequence[int] = ()
) -> Callable[..., Any]:
    """Compiles a function of arguments that have been added up over the shares, cut as the parameters are.

    Args:
      mesh: Devices; None for a plain `jax.jit`.
      function: Of whole arrays; the partitioner cuts its work as its arguments are cut. As many first results as there
        are donated arguments are placed as these are.
      sums: Positions of arguments that come from `each`.
      donate: Positions of arguments whose memory may be used for the results.
    """
    if mesh is None:
        return jax.jit(function, donate_argnums=donate)

    def program(*args: Any, cuts: tuple[_Cuts, ...]) -> Any:
        added = _added(mesh, {place: args[place] for place in sums})
        found = function(*(added.get(place, arg) for place, arg in enumerate(args)))
        kept = [cuts[place].constrained(mesh, one) for place, one in zip(donate, found, strict=False)]
        return (*kept, *found[len(donate) :])

    program.__name__ = _name(function)
    compiled = jax.jit(program, donate_argnums=donate, static_argnames="cuts")

    def call(*args: Any) -> Any:
        found = [_ready(mesh, arg, _own(mesh) if place in sums else SAME) for place, arg in enumerate(args)]
        return compiled(*found, cuts=tuple(_Cuts.of(arg) for arg in found))

    return call


def _added(mesh: Mesh, tree: Any) -> Any:
    """The sum over all shares; what is in parts was added up over `fsdp` when it was scattered."""
    nodes, structure = jax.tree.flatten(tree, is_leaf=_is_cut)

    def local(parts: list[Array]) -> list[Array]:
        first = _first(parts)
        scattered = [place for place, node in enumerate(nodes) if _is_cut(node) and node.fsdp is not None]
        rest = [place for place in range(len(nodes)) if place not in scattered]
        sums = [
            _sum([first[place] for place in places], mesh, axes) for places, axes in ((rest, FSDP), (scattered, None))
        ]
        out = dict(zip(rest + scattered, sums[0] + sums[1], strict=True))
        return [_tp_of(nodes[place], out[place]) for place in range(len(nodes))]

    out = [_axis_spec(node.fsdp if _is_cut(node) else None) for node in nodes]
    parts = [node.part if _is_cut(node) else node for node in nodes]
    return structure.unflatten(_mapped(mesh, local, (_own(mesh),), out)(parts))


def _sum(arrays: list[Array], mesh: Mesh, further: str | None) -> list[Array]:
    """Sums over `data`, and over a further axis; XLA's partitioner refuses sums over axes of a single device."""
    axes = [axis for axis in (DATA, further) if axis is not None and mesh.shape.get(axis, 1) > 1]
    return list(jax.lax.psum(arrays, axes)) if axes and arrays else arrays


def _mapped(mesh: Mesh, local: Callable[..., Any], specs: Any, out: Any) -> Callable[..., Any]:
    # Unchecked: with `check_vma` the gradient by what all devices share would be added up where it is taken.
    manual = frozenset(_rows(mesh))
    return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=out, axis_names=manual, check_vma=False)


class _Cuts(NamedTuple):
    """How the arrays of an argument are cut, by leaf: along `fsdp` and along `tp`."""

    axes: tuple[tuple[int | None, int | None], ...]

    @classmethod
    def of(cls, tree: Any) -> "_Cuts":
        return cls(tuple(map(_axes, jax.tree.leaves(tree))))

    def wrapped(self, tree: Any) -> Any:
        leaves, structure = jax.tree.flatten(tree)
        return structure.unflatten(
            [leaf if cut == (None, None) else Cut(leaf, *cut) for leaf, cut in zip(leaves, self.axes, strict=True)]
        )

    def specs(self, tree: Any) -> Any:
        return jax.tree.structure(tree).unflatten([_axis_spec(fsdp) for fsdp, _ in self.axes])

    def constrained(self, mesh: Mesh, tree: Any) -> Any:
        leaves, structure = jax.tree.flatten(tree)

        def keep(leaf: Array, cut: tuple[int | None, int | None]) -> Array:
            spec = [FSDP if axis == cut[0] else TP if axis == cut[1] else None for axis in range(leaf.ndim)]
            return jax.lax.with_sharding_constraint(leaf, NamedSharding(mesh, PartitionSpec(*spec)))

        return structure.unflatten([keep(leaf, cut) for leaf, cut in zip(leaves, self.axes, strict=True)])


_NONE = _Cuts(())


def _axes(leaf: Any) -> tuple[int | None, int | None]:
    sharding = getattr(leaf, "sharding", None)
    spec = tuple(sharding.spec) if isinstance(sharding, NamedSharding) else ()
    fsdp, tp = (next((axis for axis, names in enumerate(spec) if names == name), None) for name in (FSDP, TP))
    return fsdp, tp


def _axis_spec(axis: int | None) -> PartitionSpec:
    return SAME if axis is None else PartitionSpec(*[None] * axis, FSDP)


def _first(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[0], tree)


def _leading(node: Any) -> Any:
    """A result with a leading axis for its share, cut along `tp` as what it belongs to."""
    if not _is_cut(node):
        return node[None]
    return Cut(_tp_of(node, node.part)[None], node.fsdp, node.tp)


def _tp_of(node: Any, leaf: Array) -> Array:
    return along_tp(leaf, node.tp) if _is_cut(node) and node.tp is not None else leaf


def _ready(mesh: Mesh, tree: Any, spec: PartitionSpec) -> Any:
    return jax.tree.map(lambda leaf: _moved(mesh, leaf, spec), tree)


def _moved(mesh: Mesh, leaf: Any, spec: PartitionSpec) -> Any:
    """A leaf on the mesh; nothing moves that lies there already."""
    sharding = getattr(leaf, "sharding", None)
    if isinstance(sharding, NamedSharding) and sharding.mesh == mesh:
        return leaf
    return _put(leaf, NamedSharding(mesh, spec))


def _put(leaf: Any, sharding: NamedSharding) -> Any:
    """A leaf that every process has, where it belongs."""
    if not _many(sharding.mesh):
        return jax.device_put(leaf, sharding)
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_put(jax.random.key_data(leaf), sharding), impl=jax.random.key_impl(leaf))
    host = np.asarray(leaf)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def _many(mesh: Any) -> bool:
    """Whether other processes have devices of the mesh."""
    return mesh.is_multi_process


def _name(function: Callable[..., Any]) -> str:
    """In profiles."""
    return getattr(getattr(function, "func", function), "__name__", "program")
