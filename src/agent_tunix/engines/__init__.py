"""The same recipe on Tunix's own cluster and learner: sharded training, separate meshes, and other sampling engines.

`fit` trains as `training.fit` does. Importing this package also registers our reward manager and advantages with Tunix,
so that its own `GRPOLearner` finds them: `GRPOConfig(reward_manager="agent_tunix", advantage_estimator="agent_tunix")`.
"""

from agent_tunix.engines._fit import fit
from agent_tunix.engines._registered import RewardManager, estimator, register_advantages
from agent_tunix.engines._rollouts import ENGINES, Rollout, check

__all__ = ["ENGINES", "RewardManager", "Rollout", "check", "estimator", "fit", "register_advantages"]
