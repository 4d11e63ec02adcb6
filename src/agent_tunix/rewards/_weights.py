"""Shapings that weigh the named parts of a score over the course of a run, and one that spreads credit over tokens.

They count batches: `update` is called once per batch of rollouts. Where parts are weighed, an entry becomes invalid if
a part of non-zero weight has no value for it, as in `weighted_sum`: a total of the parts that happen to be there would
be another reward than that of its neighbours. No entry becomes valid that was not.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from agent_tunix import advantages
from agent_tunix.rewards._shaping import RunningMean, check_decay, entries, token_rewards, with_mean
from agent_tunix.types import Outcome, Rollouts, Score, Shaping

Schedule = Callable[[Any], Any]
"""A schedule of optax, `count -> factor`; here the count is that of the batch, from 0."""


# --- Weights that follow a schedule -----------------------------------------------------------------------------------


def anneal(schedule: Schedule | Mapping[str, Schedule]) -> Shaping:
    r"""Weighs the reward, or each of its parts, by the number of the batch.

    One schedule multiplies the reward, and rewards of tokens with it. Schedules of parts replace the reward by

    .. math:: r' = \sum_k w_k(\text{batch}) \, r_k

    of the raw parts: weights of the combination that made the score no longer count, and parts that are not named do
    not either.

    Args:
      schedule: A schedule of optax over batches (not optimizer steps), or part path to schedule.

    Returns:
      A shaping whose state is the number of batches seen. Its update raises ValueError for a part that the score does
      not have.

    Raises:
      ValueError: No part is named.
      TypeError: A schedule is no function.

    Examples:
      >>> import optax
      >>> shaping = anneal({"format": optax.linear_schedule(1.0, 0.0, 100), "correctness": lambda batch: 1.0})
    """
    if isinstance(schedule, Mapping):
        return _anneal_parts({name: _called(each) for name, each in schedule.items()})
    _called(schedule)

    def update(score: Score, state: Array, rollouts: Rollouts) -> tuple[Score, Array]:
        del rollouts
        value, _ = entries(score)
        factor = jnp.asarray(schedule(state), jnp.float32)
        per_token = None if score.per_token is None else factor * jnp.asarray(score.per_token)
        return dataclasses.replace(score, value=factor * value, per_token=per_token), state + 1

    return Shaping(init=lambda: jnp.zeros((), jnp.int32), update=update)


def _anneal_parts(schedules: Mapping[str, Schedule]) -> Shaping:
    if not schedules:
        raise ValueError("anneal got no schedules; name at least one part, such as {'format': schedule}")

    def update(score: Score, state: Array, rollouts: Rollouts) -> tuple[Score, Array]:
        del rollouts
        weights = jnp.stack([jnp.asarray(schedule(state), jnp.float32) for schedule in schedules.values()])
        return _weighed(score, "anneal", tuple(schedules), weights), state + 1

    return Shaping(init=lambda: jnp.zeros((), jnp.int32), update=update)


def _called(schedule: Any) -> Schedule:
    if not callable(schedule):
        raise TypeError(f"anneal got {schedule!r:.80} as schedule; give a function of the batch number, as optax has")
    return schedule


# --- Weights that follow success --------------------------------------------------------------------------------------


class Stage(NamedTuple):
    """One stage of a `curriculum`.

    Attributes:
      weights: Part path to weight; parts that are not named weigh 0.
      until: A part and a threshold: the stage ends with the first batch in which the mean of that part, over the valid
        entries that have it, reaches the threshold.
      batches: The stage ends after this many batches at the latest.
    """

    weights: Mapping[str, float]
    until: tuple[str, float] | None = None
    batches: int | None = None


class CurriculumState(NamedTuple):
    """State of `curriculum`, two integers.

    Attributes:
      stage: Index of the stage of the next batch.
      batches: Number of batches it has had.
    """

    stage: Array
    batches: Array


def curriculum(*stages: Stage) -> Shaping:
    r"""Weighs the parts of a reward by stages, each of which ends by success or by time.

    Within a stage the reward is :math:`r' = \sum_k w_k r_k` of the raw parts. A batch is weighed by the stage it began
    in: what it reaches moves the next one, so that weights do not depend on the rewards they weigh.

    Args:
      *stages: In order. All but the last one end, by `until`, by `batches`, or by whichever comes first.

    Returns:
      A shaping with a `CurriculumState`. Its update raises ValueError for a part that the score does not have.

    Raises:
      ValueError: No stages, a stage without weights or with one that is not finite, a length below 1, a threshold that
        is not finite, a stage before the last one that never ends, or a last one that would.

    Examples:
      >>> shaping = curriculum(
      ...     Stage({"format": 1.0}, until=("format", 0.9), batches=50),
      ...     Stage({"format": 0.3, "correctness": 0.7}),
      ... )
    """
    _check_stages(stages)
    names = tuple(dict.fromkeys(name for stage in stages for name in stage.weights))
    weights = np.array([[stage.weights.get(name, 0.0) for name in names] for stage in stages], np.float32)
    lengths = np.array([stage.batches or np.iinfo(np.int32).max for stage in stages], np.int32)

    def update(score: Score, state: CurriculumState, rollouts: Rollouts) -> tuple[Score, CurriculumState]:
        del rollouts
        reached = jnp.stack([_reached(score, stage.until) for stage in stages])[state.stage]
        batches = state.batches + 1
        ends = reached | (batches >= jnp.asarray(lengths)[state.stage])  # never in the last stage, which has no end
        after = CurriculumState(state.stage + ends.astype(jnp.int32), jnp.where(ends, 0, batches))
        return _weighed(score, "curriculum", names, jnp.asarray(weights)[state.stage]), after

    return Shaping(init=lambda: CurriculumState(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)), update=update)


def _check_stages(stages: tuple[Stage, ...]) -> None:
    if not stages:
        raise ValueError("curriculum got no stages; give at least one Stage(weights)")
    for index, stage in enumerate(stages):
        where = f"stage {index} of the curriculum"
        if not stage.weights or not all(map(math.isfinite, stage.weights.values())):
            raise ValueError(f"{where} has the weights {dict(stage.weights)}; give at least one part, finite weights")
        if stage.batches is not None and stage.batches < 1:
            raise ValueError(f"{where} has batches={stage.batches}; give at least 1")
        if stage.until is not None and not math.isfinite(stage.until[1]):
            raise ValueError(f"{where} ends at until={stage.until}; give a part and a finite threshold")
        last, ends = index == len(stages) - 1, stage.until is not None or stage.batches is not None
        if last and ends:
            raise ValueError(f"{where} is the last one and has an end; leave until= and batches= out")
        if not last and not ends:
            raise ValueError(f"{where} never ends; give it until= or batches=")


def _reached(score: Score, until: tuple[str, float] | None) -> Array:
    if until is None:
        return jnp.zeros((), bool)
    part, given = _part(score, "curriculum", until[0])
    return (given.sum() > 0) & (part.sum() / jnp.maximum(given.sum(), 1) >= until[1])


# --- Weights that follow scale ----------------------------------------------------------------------------------------


def ema_weights(weights: Mapping[str, float], decay: float = 0.99, eps: float = 1e-6) -> Shaping:
    r"""Divides each part by a running mean of its deviation within groups, so that weights mean influence.

    .. math:: r' = \sum_k \frac{w_k}{s_k + \epsilon} \, r_k, \qquad
       s_k = \frac{\sum_{j \le n} \gamma^{n-j} \sigma_{kj}}{\sum_{j \le n} \gamma^{n-j}}

    with :math:`\sigma_{kj}` the sample deviation (ddof = 1) of part k within a group, averaged over the groups of batch
    j that have at least two values of it. Only differences within a group become credit; divided so, those of part k
    measure :math:`w_k` on average, whatever its scale. Flat groups count as 0, so that a part weighs the more
    the rarer it varies. Unlike standardizing every part in every group (`advantages.decoupled`), this keeps proportions
    between groups: where a part hardly differs, it hardly counts.

    The present batch counts. A part that never varied has nothing to be measured by and is weighed by :math:`w_k`
    alone, which adds the same to all of a group.

    Args:
      weights: Part path to the deviation within groups that it shall have, of either sign for rewards and penalties.
      decay: Weight :math:`\gamma` of the past per batch, in [0, 1).
      eps: Added to the deviation, in units of the part.

    Returns:
      A shaping with a `RunningMean` as state, whose arrays have one entry per part, in the order of the weights. Its
      update raises ValueError for a part that the score does not have.

    Raises:
      ValueError: No parts, a weight that is not finite, a decay outside of [0, 1), or a negative eps.
    """
    if not weights or not all(map(math.isfinite, weights.values())):
        raise ValueError(f"ema_weights got the weights {dict(weights)}; give at least one part, finite weights")
    check_decay("ema_weights", decay)
    if not eps >= 0:
        raise ValueError(f"ema_weights got eps={eps}; give a number of at least 0")
    names, wanted = tuple(weights), np.array(list(weights.values()), np.float32)

    def update(score: Score, state: RunningMean, rollouts: Rollouts) -> tuple[Score, RunningMean]:
        del rollouts
        found, measured = (jnp.stack(each) for each in zip(*(_deviation(score, name) for name in names), strict=True))
        state, scale = with_mean(state, found, measured, decay)
        return _weighed(score, "ema_weights", names, jnp.asarray(wanted) / jnp.where(scale > 0, scale + eps, 1)), state

    def init() -> RunningMean:
        return RunningMean(*(jnp.zeros(len(names), dtype) for dtype in (jnp.float32, jnp.float32, jnp.int32)))

    return Shaping(init=init, update=update)


def _deviation(score: Score, name: str) -> tuple[Array, Array]:
    """Deviation of a part within groups, averaged over those with two values or more; whether there are any."""
    part, given = _part(score, "ema_weights", name)
    count = given.sum(-1)
    squares = jnp.square(jax.vmap(advantages.centered)(part, given)).sum(-1)
    comparable = count > 1
    deviations = jnp.where(comparable, jnp.sqrt(squares / jnp.maximum(count - 1, 1)), 0)
    return deviations.sum() / jnp.maximum(comparable.sum(), 1), comparable.any()


# --- Parts ------------------------------------------------------------------------------------------------------------


def _part(score: Score, where: str, name: str) -> tuple[Array, Array]:
    """A part, 0 where it has no value, and where it has one: valid, graded, and not NaN."""
    if name not in score.parts:
        raise ValueError(f"{where} names the part `{name}`, but the score has the parts {sorted(score.parts)}")
    part = jnp.asarray(score.parts[name], jnp.float32)
    given = jnp.asarray(score.valid) & ~jnp.isnan(part)
    if name in score.outcomes:
        given &= jnp.asarray(score.outcomes[name]) == int(Outcome.GRADED)
    return jnp.where(given, part, 0), given


def _weighed(score: Score, where: str, names: tuple[str, ...], weights: Array) -> Score:
    """The score with the sum of named parts times weights as value."""
    value, valid = jnp.zeros(jnp.shape(score.value), jnp.float32), jnp.asarray(score.valid)
    for name, weight in zip(names, weights, strict=True):
        part, given = _part(score, where, name)
        value, valid = value + weight * part, valid & (given | (weight == 0))
    return dataclasses.replace(score, value=jnp.where(valid, value, 0), valid=valid)


# --- Credit for tokens ------------------------------------------------------------------------------------------------


def potential_difference(
    potential: Callable[[Rollouts], Float[Any, "prompts group tokens"]], gamma: float = 1.0
) -> Shaping:
    r"""Adds differences of a potential to the rewards of tokens: denser credit, the same best policy.

    .. math:: r'_t = r_t + \gamma \Phi_t - \Phi_{t-1}, \qquad \Phi_0 = \Phi_T = 0

    The potential is 0 before the first token, which is where all completions of a prompt start, and after the last
    one, stop token or budget, whatever the function says there: an episode that may end at different potentials would
    be paid for where it ends, and the theorem would not hold. Whatever the function, the discounted sum over a
    completion then is 0 (the plain one for gamma = 1) and the reward from a token on changes by minus the potential
    before it, which is a baseline. So `value`, the reward of the completion, stays as it is. Advantages of whole
    completions see no difference; those of tokens find it in `per_token`. A score without rewards of tokens gets its
    value as reward of the last one, so that `per_token` adds up to `value`.

    Args:
      potential: How promising the completion looks after each token, in reward units; finite. It is called inside the
        update with the rollouts, and what it says outside of the completion mask is ignored.
      gamma: Discount per token of the advantage that reads `per_token`, in [0, 1]; the theorem asks for the same one.

    Returns:
      A stateless shaping that sets `per_token`; entries that are not valid get 0 there.

    Raises:
      ValueError: A gamma outside of [0, 1], or, in the update, a potential of another shape.

    References:
      Ng, Harada and Russell, 1999, Policy Invariance Under Reward Transformations. Grzes, 2017, Reward Shaping in
      Episodic Reinforcement Learning, shows that the potential has to be 0 where an episode ends.
    """
    if not 0 <= gamma <= 1:
        raise ValueError(f"potential_difference got gamma={gamma}; give a number in [0, 1]")

    def update(score: Score, state: Any, rollouts: Rollouts) -> tuple[Score, Any]:
        mask = jnp.asarray(rollouts.completion_mask)
        last = mask & (jnp.cumsum(mask[..., ::-1], axis=-1)[..., ::-1] == 1)
        after = jnp.where(mask & ~last, _potentials(potential, rollouts), 0)
        before = jnp.pad(after, ((0, 0), (0, 0), (1, 0)))[..., :-1]
        value, valid = entries(score)
        dense = jnp.where(valid[..., None] & mask, token_rewards(score, mask) + gamma * after - before, 0)
        return dataclasses.replace(score, value=value, per_token=dense), state

    return Shaping(init=lambda: (), update=update)


def _potentials(potential: Callable[[Rollouts], Any], rollouts: Rollouts) -> Array:
    found, wanted = jnp.asarray(potential(rollouts), jnp.float32), rollouts.completion_mask.shape
    if found.shape != wanted:
        raise ValueError(
            f"potential_difference got potentials of shape {found.shape} for completions of {wanted}; return one after "
            "each token"
        )
    return found
