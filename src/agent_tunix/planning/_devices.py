"""What accelerators can do, as their makers publish it.

Sources, read in November 2026: the Cloud TPU documentation for the TPUs (https://cloud.google.com/tpu/docs/v5e,
https://docs.cloud.google.com/tpu/docs/v5p-training, https://docs.cloud.google.com/tpu/docs/v6e), NVIDIA's data sheets
for the GPUs (https://www.nvidia.com/en-us/data-center/h100/ and /h200/, SXM). Data sheets of GPUs state rates with
2:4 sparsity; here is the dense half. A float32 product of JAX is by default multiplied in bfloat16 on TPUs and in TF32
on these GPUs (https://docs.jax.dev/en/latest/201/precision.html), so its rate is that of the narrower format.
"""

from collections.abc import Mapping
from typing import NamedTuple


class Device(NamedTuple):
    """One chip.

    Attributes:
      name: As on the command line.
      words: For people.
      flops: Peak FLOP/s of matrix products, by data type.
      memory: Bytes of its memory.
      bandwidth: Bytes per second between memory and chip.
      link: Bytes per second that a device can receive from its ring of one mesh axis. A TPU's published number counts
        both directions of the links of every dimension of its torus, so it is halved and divided by the dimensions;
        a GPU's counts both directions of NVLink, which any axis can use in full.
    """

    name: str
    words: str
    flops: Mapping[str, float]
    memory: float
    bandwidth: float
    link: float


def _tpu(name: str, teraflops: float, memory: float, bandwidth: float, interconnect: float, torus: int) -> Device:
    rates: dict[str, float] = {"bfloat16": teraflops * 1e12, "float32": teraflops * 1e12}
    return Device(name, f"TPU {name}", rates, memory * 1e9, bandwidth * 1e9, interconnect * 1e9 / 2 / torus)


def _hopper(name: str, memory: float, bandwidth: float) -> Device:
    rates = {"bfloat16": 989.4e12, "float32": 494.7e12}
    return Device(name, f"NVIDIA {name.upper()} SXM", rates, memory * 1e9, bandwidth * 1e9, 900e9 / 2)


DEVICES: Mapping[str, Device] = {
    device.name: device
    for device in (
        _tpu("v5e", 197, 16, 819, 400, 2),
        _tpu("v5p", 459, 95, 2765, 1200, 3),
        _tpu("v6e", 918, 32, 1638, 800, 2),
        _hopper("h100", 80, 3350),
        _hopper("h200", 141, 4800),
    )
}
"""By name. A gigabyte is 10^9 bytes here, which understates what some of these chips really hold by a few percent."""
