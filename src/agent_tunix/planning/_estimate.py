"""From work to seconds and to the largest batch: a roofline with stated efficiencies."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import NamedTuple

from agent_tunix.errors import ConfigError
from agent_tunix.planning import _network, _work
from agent_tunix.planning._devices import Device
from agent_tunix.planning._memory import Memory, memory
from agent_tunix.planning._network import Collective
from agent_tunix.planning._setting import Setting, check
from agent_tunix.planning._work import Work

MATMUL, BANDWIDTH, LINK = 0.5, 0.75, 0.75
"""Shares of the published peaks that programs reach: assumptions, not measurements of ours. Half of the peak is what
good training programs report; see the page for how far a step moves when they are wrong."""
COLLECTIVE_S = 5e-6
"""Seconds that a collective which is waited for takes besides its bytes; it decides small decoding steps."""
USABLE = 0.92
"""Share of a device's memory that a program gets; the rest is the runtime's and lost to fragments."""


class Forecast(NamedTuple):
    """What is expected of one device type.

    Attributes:
      device: The type.
      fits: Whether the peak is within what is usable.
      seconds: By phase of a batch.
      limits: By phase, what sets its pace: `compute`, `memory` or `network`.
      tokens_per_second: Completion tokens that are sampled and trained on, of all devices together.
      largest_prompts: Most prompts of a batch that fit, group size and portions as given; 0 if none do.
      fewest_microbatches: Least microbatches with which the batch fits; 0 if it never does.
    """

    device: Device
    fits: bool
    seconds: Mapping[str, float]
    limits: Mapping[str, str]
    tokens_per_second: float
    largest_prompts: int
    fewest_microbatches: int

    @property
    def batch_s(self) -> float:
        """Seconds of a whole batch, without rewards and without anything on the host."""
        return sum(self.seconds.values())


class Plan(NamedTuple):
    """A step on paper.

    Attributes:
      setting: What was planned.
      memory: Bytes per device.
      work: FLOPs and bytes per device and batch, by phase.
      collectives: Of one batch.
      forecasts: One per device type.
    """

    setting: Setting
    memory: Memory
    work: Mapping[str, Work]
    collectives: list[Collective]
    forecasts: list[Forecast]


def plan(setting: Setting, devices: Iterable[Device]) -> Plan:
    """Memory, work, collectives and expected times of one batch.

    Args:
      setting: What is to be trained, and on which mesh.
      devices: Types of device to forecast for.
    """
    work = {"rollout": _work.rollout(setting), "update": _work.update(setting)}
    if setting.reference:
        work["reference"] = _work.reference(setting)
    found = _network.collectives(setting)
    held = memory(setting)
    return Plan(setting, held, work, found, [_forecast(setting, device, held, work, found) for device in devices])


def _forecast(
    setting: Setting, device: Device, held: Memory, work: Mapping[str, Work], found: list[Collective]
) -> Forecast:
    timed = {phase: _phase(setting, device, one, [c for c in found if c.phase == phase]) for phase, one in work.items()}
    seconds = {phase: time for phase, (time, _) in timed.items()}
    tokens = setting.prompts * setting.group_size * setting.completion_tokens
    return Forecast(
        device,
        held.peak <= USABLE * device.memory,
        seconds,
        {phase: limit for phase, (_, limit) in timed.items()},
        tokens / sum(seconds.values()),
        largest_prompts(setting, device),
        fewest_microbatches(setting, device),
    )


def _phase(setting: Setting, device: Device, work: Work, found: list[Collective]) -> tuple[float, str]:
    """Seconds of a phase and what limits it. Hidden collectives run beside the work, the others after it."""
    times = {
        "compute": work.flops / device.flops[setting.dtype] / MATMUL,
        "memory": work.bytes / device.bandwidth / BANDWIDTH,
        "network": sum(one.bytes for one in found if one.hidden) / device.link / LINK,
    }
    limit = max(times, key=times.__getitem__)
    waited = sum(one.bytes / device.link / LINK + one.count * COLLECTIVE_S for one in found if not one.hidden)
    return times[limit] + waited, "network" if waited > times[limit] else limit


def fits(setting: Setting, device: Device) -> bool:
    """Whether the peak of a device's memory is within what is usable."""
    return memory(setting).peak <= USABLE * device.memory


def largest_prompts(setting: Setting, device: Device) -> int:
    """The most prompts of a batch that fit, in steps that the mesh and the portions divide.

    Args:
      setting: Everything but the prompts.
      device: Type of device.
    """
    unit = setting.mesh.rows * setting.minibatches * setting.microbatches * setting.rollout_parts

    def holds(number: int) -> bool:
        return fits(setting._replace(prompts=number * unit), device)

    if not holds(1):
        return 0
    most = 1
    while holds(2 * most):
        most *= 2
    step = most // 2
    while step:
        most += step if holds(most + step) else 0
        step //= 2
    return most * unit


def fewest_microbatches(setting: Setting, device: Device) -> int:
    """The least number of microbatches with which a batch fits, or 0.

    Args:
      setting: Everything but the microbatches.
      device: Type of device.
    """
    for number in range(1, setting.prompts // setting.minibatches * setting.group_size + 1):
        candidate = setting._replace(microbatches=number)
        with suppress(ConfigError):  # no equal parts
            if fits(check(candidate), device):
                return number
    return 0
