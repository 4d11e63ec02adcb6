"""Words for devices along axes, such as `data2xfsdp4xtp2`."""

import re
from typing import NamedTuple

from agent_tunix.errors import ConfigError


class Mesh(NamedTuple):
    """Devices along three axes.

    Attributes:
      data: Copies of everything; each takes a share of the prompts.
      fsdp: Shares of the state and of the prompts; weights are gathered to be used.
      tp: Shares of heads, MLP and vocabulary.
    """

    data: int = 1
    fsdp: int = 1
    tp: int = 1

    @property
    def devices(self) -> int:
        """All of them."""
        return self.data * self.fsdp * self.tp

    @property
    def rows(self) -> int:
        """Shares that a batch of prompts is cut into."""
        return self.data * self.fsdp


def mesh(word: str) -> Mesh:
    """The mesh that a word means.

    Args:
      word: Axes with their sizes, joined by `x`; axes left out have size 1.

    Raises:
      ConfigError: If it means none.

    Examples:
      >>> mesh("fsdp4xtp2")
      Mesh(data=1, fsdp=4, tp=2)
    """
    found = re.findall(r"(data|fsdp|tp)([1-9][0-9]*)", word)
    axes = {axis: int(size) for axis, size in found}
    if "x".join(axis + size for axis, size in found) != word or len(axes) != len(found):
        raise ConfigError(f"mesh is `{word}`; join axes and sizes by x, such as fsdp4, tp8 or data2xfsdp4xtp2")
    return Mesh(**axes)
