"""Whole rewards under a name, for comparison with what others have trained with."""

from agent_tunix.rewards.presets import reasoning_tags

__all__ = ["reasoning_tags"]
