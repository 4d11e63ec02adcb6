"""Several checks of one completion, such as the tests of a program, weighed by how few of the group pass each."""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Bool, Float

from agent_tunix.rewards._combining import check_rewards, combination, finite, hull
from agent_tunix.rewards._sheet import written
from agent_tunix.types import Reward


def difficulty_weights(
    passed: Float[Any, "checks prompts group"],
    valid: Bool[Any, "checks prompts group"] | None = None,
    *,
    power: float = 1.0,
    strata: int | None = None,
) -> Float[Any, "checks prompts"]:
    r"""Weighs checks by how rarely the completions of a group pass them.

    .. math:: w_j \propto \frac{(1 - \rho_j)^p}{n_j}, \qquad \sum_j w_j = 1

    with :math:`\rho_j` the mean of check j over the group. A check that all pass weighs nothing, and one that none
    passes most. Where all pass all of them the checks weigh the same.

    Args:
      passed: What each check gave, in [0, 1], on the host or traced. Entries that are not valid may be anything.
      valid: False where a check gave nothing; those enter no rate. By default all are valid.
      power: Exponent p, at least 0; with 0 and no strata checks weigh the same.
      strata: Bands of equal width into which pass rates are sorted; :math:`n_j` is the number of checks in the band of
        check j, so that many alike count as one. Without, :math:`n_j = 1`.

    Returns:
      Weights that sum to 1 for every prompt.

    References:
      VeRPO, 2026, arXiv:2601.03525. The linear weights are as others report them; the exponent and the bands, for what
      the paper calls the bias of cardinality, are ours.
    """
    xp = passed.__array_namespace__()
    known = xp.ones(passed.shape, dtype=bool) if valid is None else valid
    rate = xp.where(known, passed, 0).sum(-1) / xp.maximum(known.sum(-1), 1)
    weight = xp.clip(1 - rate, 0, 1) ** power
    if strata is not None:
        band = xp.minimum(xp.floor(rate * strata), strata - 1)
        weight = weight / (band[:, None] == band[None]).sum(1)
    total = weight.sum(0)
    return xp.where(total > 0, weight / xp.where(total > 0, total, 1), 1 / len(passed))


def difficulty_weighted(
    *checks: Reward, power: float = 1.0, strata: int | None = None, name: str = "difficulty_weighted"
) -> Reward:
    """Averages checks with weights that are the greater the fewer completions of the group pass (`difficulty_weights`).

    The reward is 1 for a completion that passes all checks, and a completion gets ahead in its group by passing what
    others fail. Each group weighs its checks anew: values of different prompts, or of one prompt at different times,
    are on scales of their own, so compare them within groups only. An entry is valid only where every check has a
    value.

    Args:
      *checks: At least one; names have to differ. Each declares bounds within [0, 1].
      power: As in `difficulty_weights`.
      strata: As there.
      name: Name of the average, the prefix of its parts in a further combination.

    Returns:
      The average, in [0, 1].

    Raises:
      ValueError: No checks, a name twice, one that may be outside of [0, 1], a negative power, or no strata.
      TypeError: An argument is not a `Reward`; when called: a reward is given per token.

    Examples:
      >>> from agent_tunix.rewards import exact_answer, per_completion, tag_format
      >>> layout = per_completion(tag_format, bounds=(0, 1))
      >>> difficulty_weighted(layout, per_completion(exact_answer, "answer", bounds=(0, 1))).bounds
      Bounds(low=0.0, high=1.0)
    """
    check_rewards("difficulty_weighted", checks)
    for check in checks:
        if not 0 <= check.bounds.low <= check.bounds.high <= 1:
            raise ValueError(
                f"difficulty_weighted takes checks in [0, 1], `{check.name}` has bounds {written(check.bounds)}; "
                "declare others with bounds=, or scale it"
            )
    if finite("the power of difficulty_weighted", power) < 0 or (strata is not None and strata < 1):
        raise ValueError(f"difficulty_weighted got power={power} and strata={strata}; give at least 0 and at least 1")

    def merge(xp: Any, values: Sequence[Any], valid: Sequence[Any]) -> tuple[Any, Any]:
        passed, given = xp.stack(list(values)), xp.stack(list(valid))
        weights = difficulty_weights(passed, given, power=power, strata=strata)
        return (weights[..., None] * xp.where(given, passed, 0)).sum(0), given.all(0)

    bounds = hull(*(check.bounds for check in checks))
    return combination("difficulty_weighted", checks, bounds, merge, name=name)
