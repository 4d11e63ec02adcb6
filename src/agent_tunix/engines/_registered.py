"""Rewards and advantages in Tunix's registries, for its own `GRPOLearner` as it stands."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from tunix.rl import function_registry, reward_manager

from agent_tunix import advantages, batching, measures, rewards
from agent_tunix.engines._loss import NAME
from agent_tunix.errors import RewardError
from agent_tunix.types import Advantage, Reward, Score

OWN_ARGUMENTS = ("mode", "trajectory_ids")
"""What Tunix passes to a reward manager besides columns of the data."""


@function_registry.register_reward_manager(NAME)
class RewardManager(reward_manager.AbstractRewardManager):
    """Scores completions by our rewards: weights, abstention, checks of every value, parts and their statistics.

    Tunix's own manager adds functions up without weights, counts a NaN as 0 and broadcasts a single number to the whole
    batch. Here a completion without a value gets NaN, which our advantage estimators take for no value.

    Args:
      reward_fns: A `Reward`, what `rewards.as_reward` takes, or a list of these, which are added up.
      algo_config: Settings of Tunix, for the size of groups.

    Attributes:
      reward: The reward.
      score: What it gave last.
    """

    def __init__(self, reward_fns: Any, algo_config: Any, **_: Any) -> None:
        given = list(reward_fns) if isinstance(reward_fns, Sequence) else [reward_fns]
        super().__init__(given, algo_config)
        made = [rewards.as_reward(function) for function in given]
        self.reward: Reward = made[0] if len(made) == 1 else rewards.weighted_sum(*((1.0, one) for one in made))
        self.score: Score | None = None
        self._group_size: int = algo_config.num_generations

    def __call__(self, prompts: Sequence[str], completions: Sequence[str], **columns: Any) -> dict[str, Any]:
        """Rewards of completions, those of a prompt following each other, and numbers to log.

        Args:
          prompts: One per completion.
          completions: Texts.
          **columns: Of the data, one entry per completion.

        Raises:
          RewardError: If the reward breaks its contract.
        """
        size = self._group_size
        own = {name: values for name, values in columns.items() if name not in OWN_ARGUMENTS}
        rollouts = batching.text_rollouts(
            [str(prompt) for prompt in prompts[::size]],
            [list(completions[start : start + size]) for start in range(0, len(completions), size)],
            {name: [_plain(value) for value in values[::size]] for name, values in own.items()},
        )
        try:
            self.score = self.reward(rollouts)
            advantages.refuse_nan(self.score)
        except (TypeError, ValueError) as error:
            raise RewardError(f"{error} (in Tunix's reward manager)") from error
        value = np.where(self.score.valid, np.asarray(self.score.value, np.float64), np.nan)
        return {"rewards": value.reshape(-1), "log_metrics": _log_metrics(self.score)}


def _plain(value: Any) -> Any:
    """Tunix keeps columns as arrays of NumPy, whose entries are no Python strings or numbers."""
    return value.item() if isinstance(value, np.generic) else value


def _log_metrics(score: Score) -> dict[str, tuple[Any, Callable[..., Any]]]:
    found = measures.reward_measures(score) | measures.group_measures(score)
    return {name: (value, np.mean) for name, value in found.items()}


def register_advantages(estimators: Mapping[str, Advantage]) -> None:
    """Registers advantages as `agent_tunix/NAME`, for `GRPOConfig(advantage_estimator=...)`.

    Args:
      estimators: Functions of whole scores by name, such as `advantages.per_group(advantages.leave_one_out)`.
    """
    for name, advantage in estimators.items():
        function_registry.register_advantage_estimator(f"{NAME}/{name}")(estimator(advantage))


def estimator(advantage: Advantage) -> Callable[..., np.ndarray]:
    """An advantage in the form that Tunix calls.

    Args:
      advantage: A function of a whole score. Tunix hands on rewards alone, so one that reads parts or rewards per
        token does not work with Tunix's own learner.

    Returns:
      `(rewards, num_generations) -> advantages`, one for each completion; NaN in, for no value, is 0 out.
    """

    def estimate(rewards: np.ndarray, num_generations: int, **_: Any) -> np.ndarray:
        value = np.asarray(rewards, np.float32).reshape(-1, num_generations)
        valid = ~np.isnan(value)
        credit = advantage(Score(np.where(valid, value, np.float32(0)), valid))
        return np.asarray(credit).reshape(-1)

    return estimate


function_registry.register_advantage_estimator(NAME)(estimator(advantages.per_group(advantages.group_normalized)))
