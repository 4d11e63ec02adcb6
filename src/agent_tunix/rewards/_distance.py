"""How far two rewards are apart, as far as training can tell."""

import dataclasses

import numpy as np
from jaxtyping import Float

from agent_tunix import advantages
from agent_tunix.types import Advantage, Score

_CENTERED = advantages.per_group(advantages.centered)


def distance(first: Score, second: Score, *, advantage: Advantage = _CENTERED) -> float:
    r"""Distance of two scores of the same rollouts: 0 where training sees the same, 1 where it sees the opposite.

    .. math:: d = \tfrac{1}{2} \left\lVert \frac{A_1}{\lVert A_1 \rVert} - \frac{A_2}{\lVert A_2 \rVert} \right\rVert

    with the Euclidean norm over all completions. What does not reach the policy is gone before anything is compared:
    a constant added to all rewards of a prompt, and a scale common to all. With `centered`, the default, this is the
    STARC distance in the decision process whose episodes are one completion; with another advantage it is the same
    of what that one keeps. Unrelated rewards are at :math:`\sqrt{1/2}` on average.

    Args:
      first: Of any scale.
      second: Of the same completions.
      advantage: What becomes credit; `per_group(group_normalized)` asks what GRPO sees.

    Returns:
      The distance, in [0, 1]. Completions without a value in either score are left out. A score that is flat in all
      groups is at 0 from another such one and at 1/2 from any that is not.

    Raises:
      ValueError: The scores are of different rollouts.

    Examples:
      >>> both = np.ones((1, 3), bool)
      >>> first = Score(np.array([[0.0, 1.0, 2.0]]), both)
      >>> round(distance(first, Score(np.array([[7.0, 9.0, 11.0]]), both)), 3)
      0.0
      >>> round(distance(first, Score(np.array([[2.0, 1.0, 0.0]]), both)), 3)
      1.0

    References:
      Skalse et al., 2023, STARC: A General Framework For Quantifying Differences Between Reward Functions,
      arXiv:2309.15257.
    """
    shapes = [np.shape(score.value) for score in (first, second)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"distance got scores of shapes {shapes[0]} and {shapes[1]}; score the same rollouts")
    valid = np.asarray(first.valid) & np.asarray(second.valid)
    one, other = (_direction(dataclasses.replace(score, valid=valid), advantage) for score in (first, second))
    return float(np.linalg.norm(one - other) / 2)


def _direction(score: Score, advantage: Advantage) -> Float[np.ndarray, " entries"]:
    """Credit of all completions in one vector of length 1, or of zeros."""
    credit = np.asarray(advantage(score), np.float64).ravel()
    length = np.linalg.norm(credit)
    return credit / length if length > 0 else credit
