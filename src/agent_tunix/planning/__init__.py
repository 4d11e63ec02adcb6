"""A step on paper: memory, work, collectives and time of GRPO on accelerators that are not at hand.

`plan` is arithmetic only; nothing is compiled or allocated. `agent-tunix plan` prints it.
"""

from agent_tunix.meshes import Mesh, mesh
from agent_tunix.planning._devices import DEVICES, Device
from agent_tunix.planning._estimate import Forecast, Plan, largest_prompts, plan
from agent_tunix.planning._memory import Memory, memory
from agent_tunix.planning._network import Collective, collectives
from agent_tunix.planning._setting import Setting, read
from agent_tunix.planning._sizes import Sizes, from_tunix, model_sizes, tunix_models
from agent_tunix.planning._text import table, to_json
from agent_tunix.planning._work import Work, reference, rollout, update

__all__ = [
    "DEVICES",
    "Collective",
    "Device",
    "Forecast",
    "Memory",
    "Mesh",
    "Plan",
    "Setting",
    "Sizes",
    "Work",
    "collectives",
    "from_tunix",
    "largest_prompts",
    "memory",
    "mesh",
    "model_sizes",
    "plan",
    "read",
    "reference",
    "rollout",
    "table",
    "to_json",
    "tunix_models",
    "update",
]
