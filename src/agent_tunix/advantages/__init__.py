"""From rewards to credit: how much better each completion was than its group.

A group-level estimator is a function of one group, `(rewards[group], valid[group]) -> advantages[group]`, and
`per_group` lifts it over prompts; a batch-level one sees `[prompts group]` and is lifted by `per_batch`.

All of them keep the same laws. Where `valid` is False the advantage is 0 and the reward may hold anything, NaN as well:
it is removed, not counted as 0. A group with one valid completion, or none, has nothing to compare and gets 0 (verl's
GRPO and RLOO give a lone completion its raw reward instead). A group of equal rewards gets exactly 0: rewards are
measured from the least of their group before anything is averaged, so that equal rewards become zeros and a mean leaves
no rounding for a small deviation to blow up (in float32, `(r - mean) / (std + 1e-6)` of seven rewards of 0.3 is 0.03).
"""

from agent_tunix.advantages._batches import (
    batch_normalized,
    decoupled,
    reinforce_plus_plus_baseline,
)
from agent_tunix.advantages._groups import (
    centered,
    discriminative,
    group_normalized,
    leave_one_out,
    leave_one_out_normalized,
    log_mean_gain,
    mean_normalized,
    pass_at_k,
    rank,
)
from agent_tunix.advantages._lifting import (
    decoupled_parts,
    per_batch,
    per_group,
    per_group_with,
    per_part,
)
from agent_tunix.advantages._scores import (
    as_given,
    per_score,
    refuse_nan,
    reward_to_go,
)

__all__ = [
    "as_given",
    "batch_normalized",
    "centered",
    "decoupled",
    "decoupled_parts",
    "discriminative",
    "group_normalized",
    "leave_one_out",
    "leave_one_out_normalized",
    "log_mean_gain",
    "mean_normalized",
    "pass_at_k",
    "per_batch",
    "per_group",
    "per_group_with",
    "per_part",
    "per_score",
    "rank",
    "refuse_nan",
    "reinforce_plus_plus_baseline",
    "reward_to_go",
]
