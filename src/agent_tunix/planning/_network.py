"""The collectives of a step and the bytes that each device receives in them.

The state is cut over `fsdp` and `tp`, prompts over `data` and `fsdp`, heads, MLP and vocabulary over `tp`, as Tunix's
rules have it. Counted as ring algorithms, which receive the least that is possible: of n devices, a gather or a
scatter of b bytes receives b(n-1)/n, an all-reduce twice that (Patarasuk and Yuan, 2009, Bandwidth optimal all-reduce
algorithms for clusters of workstations, doi:10.1016/j.jpdc.2008.09.002).

Weights are gathered once for all decoding of a batch, and layer by layer for every portion of the reference and of the
update; there again for the backward pass, which does not keep them.
"""

from typing import NamedTuple

from agent_tunix.planning._setting import Setting
from agent_tunix.planning._work import weight_bytes

GATHER, SCATTER, REDUCE = "all-gather", "reduce-scatter", "all-reduce"


class Collective(NamedTuple):
    """One kind of exchange within one phase of a batch.

    Attributes:
      phase: `rollout`, `reference` or `update`.
      kind: As XLA names it.
      axis: Of the mesh.
      what: That is exchanged.
      count: How often in a batch.
      bytes: Received by one device, all of them together.
      hidden: Whether computing can go on meanwhile: weights and gradients of one layer travel while another works.
    """

    phase: str
    kind: str
    axis: str
    what: str
    count: float
    bytes: float
    hidden: bool


def received(kind: str, devices: int, size: float) -> float:
    """Bytes that one of `devices` receives in a collective over `size` bytes.

    Examples:
      >>> received("all-gather", 4, 100), received("all-reduce", 4, 100)
      (75.0, 150.0)
    """
    return size * (devices - 1) / devices * (2 if kind == REDUCE else 1)


def collectives(setting: Setting) -> list[Collective]:
    """Every collective of one batch that a mesh needs; none on a single device."""
    found = [*_rollout(setting), *_update(setting)]
    if setting.reference:
        found += _forward(setting, "reference", setting.minibatches * setting.microbatches, passes=1)
    return [one for one in found if one.bytes > 0]


def _exchange(
    setting: Setting, phase: str, kind: str, axis: str, what: str, count: float, size: float, hidden: bool = False
) -> Collective:
    devices = getattr(setting.mesh, axis)
    return Collective(phase, kind, axis, what, count, count * received(kind, devices, size), hidden)


def _rollout(setting: Setting) -> list[Collective]:
    sizes, parts = setting.sizes, setting.rollout_parts
    prompts = setting.local_prompts / parts
    rows, steps = prompts * setting.group_size, setting.completion_tokens * parts
    stream = sizes.width * setting.width_bytes
    prefix, sums = prompts * (setting.prompt_tokens - 1) * stream, sizes.branches
    return [
        _exchange(setting, "rollout", GATHER, "fsdp", "weights", 1, weight_bytes(setting), hidden=True),
        _exchange(
            setting, "rollout", REDUCE, "tp", "activations of prompts", sums * (sizes.layers - 1) * parts, prefix
        ),
        _exchange(
            setting, "rollout", REDUCE, "tp", "activations of tokens", sums * sizes.layers * steps, rows * stream
        ),
        _exchange(setting, "rollout", GATHER, "tp", "logits", steps, rows * sizes.vocab_size * 4),
    ]


def _forward(setting: Setting, phase: str, portions: float, passes: float) -> list[Collective]:
    """Weights of every portion and activations of every layer, `passes` times."""
    sizes = setting.sizes
    prompts = setting.local_prompts / setting.minibatches / setting.microbatches
    tokens = prompts * (setting.prompt_tokens - 1 + setting.group_size * setting.completion_tokens)
    stream = tokens * sizes.width * setting.width_bytes
    layers, layer = portions * sizes.layers, weight_bytes(setting) / sizes.layers
    return [
        _exchange(setting, phase, GATHER, "fsdp", "weights of a layer", layers * min(passes, 2), layer, hidden=True),
        _exchange(setting, phase, REDUCE, "tp", "activations of a layer", sizes.branches * layers * passes, stream),
    ]


def _update(setting: Setting) -> list[Collective]:
    updates = setting.minibatches * setting.passes
    portions = updates * setting.microbatches
    gradient = 4 * setting.trainable / setting.mesh.tp
    passes = 3 if setting.remat else 2
    layers = setting.sizes.layers
    return [
        *_forward(setting, "update", portions, passes),
        _exchange(
            setting, "update", SCATTER, "fsdp", "gradient of a layer", portions * layers, gradient / layers, hidden=True
        ),
        _exchange(setting, "update", REDUCE, "data", "gradient", updates, gradient / setting.mesh.fsdp),
    ]
