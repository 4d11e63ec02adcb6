"""A plan as text and as JSON."""

from collections.abc import Iterable, Sequence
from typing import Any

from agent_tunix.planning._estimate import (
    BANDWIDTH,
    COLLECTIVE_S,
    LINK,
    MATMUL,
    USABLE,
    Forecast,
    Plan,
)
from agent_tunix.planning._setting import Setting

PHASES = ("rollout", "reference", "update")


def table(plan: Plan) -> str:
    """What a terminal shows."""
    blocks = [_heading(plan.setting), _memory(plan), _work(plan), _collectives(plan), _forecasts(plan), _assumptions()]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _heading(setting: Setting) -> list[str]:
    trains = f"factors of rank {setting.lora_rank} train" if setting.lora_rank else "all parameters train"
    trains += f" beside a backbone in {setting.quantize}" if setting.quantize else ""
    batch = f"{setting.prompts} prompts x {setting.group_size} completions per batch"
    sizes = setting.sizes
    active = f", {_count(sizes.active_parameters)} of them for a token" if sizes.experts > 1 else ""
    portions = f"sampled in {setting.rollout_parts}, updated {setting.minibatches * setting.passes} x "
    return [
        f"{setting.name}: {_count(sizes.parameters)} parameters{active}, {trains}, computed in {setting.dtype}, "
        f"remat {'on' if setting.remat else 'off'}, reference {'on' if setting.reference else 'off'}",
        f"{batch}, {setting.prompt_tokens} + {setting.completion_tokens} tokens; "
        f"{portions}{setting.microbatches} portions",
        f"mesh data {setting.mesh.data} x fsdp {setting.mesh.fsdp} x tp {setting.mesh.tp}: "
        f"{setting.mesh.devices} device{'s' * (setting.mesh.devices > 1)}",
    ]


def _memory(plan: Plan) -> list[str]:
    lines = [["memory per device", "GB"]]
    lines += [[f"  {name}", _giga(size)] for name, size in plan.memory.state.items() if size]
    for phase in _ordered(plan.memory.phases):
        parts = plan.memory.phases[phase]
        lines += [[f"  {phase}, besides", _giga(sum(parts.values()))]]
        lines += [[f"    {name}", _giga(size)] for name, size in parts.items() if size]
    return _columns([*lines, [f"  peak, in the {plan.memory.fullest}", _giga(plan.memory.peak)]])


def _work(plan: Plan) -> list[str]:
    lines = [["work per device and batch", "TFLOP", "GB moved", "GB received"]]
    for phase in _ordered(plan.work):
        work = plan.work[phase]
        received = sum(one.bytes for one in plan.collectives if one.phase == phase)
        lines.append([f"  {phase}", _short(work.flops / 1e12), _giga(work.bytes), _giga(received)])
    return _columns(lines)


def _collectives(plan: Plan) -> list[str]:
    if not plan.collectives:
        return []
    lines = [["collectives per batch", "axis", "times", "GB received"]]
    found = sorted(plan.collectives, key=lambda one: PHASES.index(one.phase))
    lines += [
        [f"  {one.phase}: {one.kind} of {one.what}", one.axis, f"{one.count:,.0f}", _giga(one.bytes)] for one in found
    ]
    return _columns(lines)


def _forecasts(plan: Plan) -> list[str]:
    phases = _ordered(plan.work)
    lines = [
        [
            "device",
            "memory",
            *(f"{phase} s" for phase in phases),
            "batch s",
            "tokens/s",
            "largest batch",
            "microbatches",
        ]
    ]
    for one in plan.forecasts:
        share = f"{plan.memory.peak / one.device.memory:.0%}" + ("" if one.fits else ", too much")
        seconds = [f"{_short(one.seconds[phase])} ({one.limits[phase]})" for phase in phases]
        rate = f"{one.tokens_per_second:,.0f}"
        last = [_largest(plan.setting, one), str(one.fewest_microbatches or "none")]
        lines.append([one.device.words, share, *seconds, _short(one.batch_s), rate, *last])
    return _columns(lines)


def _largest(setting: Setting, one: Forecast) -> str:
    return f"{one.largest_prompts} x {setting.group_size}" if one.largest_prompts else "none"


def _assumptions() -> list[str]:
    return [
        f"Times assume {MATMUL:.0%} of the peak of matrix products, {BANDWIDTH:.0%} of the bandwidth of memory and "
        f"{LINK:.0%} of that of the network,",
        f"{COLLECTIVE_S * 1e6:.0f} us per collective that is waited for, {USABLE:.0%} of the memory to use,",
        "completions that all run to their limit, and rewards that cost nothing.",
        "Largest batch: with portions as given. Microbatches: the fewest with which the batch fits.",
    ]


def to_json(plan: Plan) -> dict[str, Any]:
    """Every number of a plan, bytes and seconds unrounded."""
    return {
        "setting": _named(plan.setting) | {"parameters": plan.setting.sizes.parameters},
        "memory_bytes": {
            "state": dict(plan.memory.state),
            **{phase: dict(plan.memory.phases[phase]) for phase in _ordered(plan.memory.phases)},
            "peak": plan.memory.peak,
            "peak_phase": plan.memory.fullest,
        },
        "work": {phase: vars(plan.work[phase]) for phase in _ordered(plan.work)},
        "collectives": [one._asdict() for one in plan.collectives],
        "devices": {one.device.name: _forecast(one) for one in plan.forecasts},
        "assumed": {"matmul": MATMUL, "bandwidth": BANDWIDTH, "link": LINK, "collective_s": COLLECTIVE_S},
    }


def _forecast(one: Forecast) -> dict[str, Any]:
    return one._asdict() | {"device": one.device._asdict(), "batch_s": one.batch_s}


def _named(value: Any) -> Any:
    """Nested named tuples as mappings."""
    if hasattr(value, "_asdict"):
        return {name: _named(entry) for name, entry in value._asdict().items()}
    return value


def _ordered(phases: Iterable[str]) -> list[str]:
    return [phase for phase in PHASES if phase in phases]


def _columns(lines: Sequence[Sequence[str]]) -> list[str]:
    """Lines of cells under each other: the first column to the left, the others to the right."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return [
        "  ".join(
            [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        )
        for line in lines
    ]


def _giga(size: float) -> str:
    return _short(size / 1e9)


def _short(number: float) -> str:
    """Three digits that count.

    Examples:
      >>> _short(12345.6), _short(1.2345), _short(0.0012345)
      ('12,346', '1.23', '0.00123')
    """
    if number >= 100 or number == 0:
        return f"{number:,.0f}"
    return f"{number:.3g}"


def _count(number: int) -> str:
    """A number of parameters in words.

    Examples:
      >>> _count(8_190_735_360), _count(131_456)
      ('8.19 billion', '131 thousand')
    """
    for size, word in ((1e9, "billion"), (1e6, "million"), (1e3, "thousand")):
        if number >= size:
            return f"{number / size:.3g} {word}"
    return str(number)
