"""Walks from a policy along a direction: what a component gains on the way, and what it costs in divergence.

A walk goes until a component has changed by a given amount and measures the divergence of the policy there, up and
down, which tests whether the component is dearer to raise than to lower.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Key

from agent_tunix.models import Parameters, Policy, merged
from agent_tunix.sampling import Sample
from agent_tunix.types import Params, Rollouts, Row, Score
from agent_tunix.weight_limits import centred


class Reading(NamedTuple):
    """A policy compared with the start on the prompts of the experiment.

    Attributes:
      changes: Of the mean of every component.
      kl: Divergence from the start, nats per completion, exact over the vocabulary at every token of own samples.
      k3: The same by the k3 estimate at the sampled tokens.
    """

    changes: Float[np.ndarray, "components prompts"]
    kl: Float[np.ndarray, " prompts"]
    k3: Float[np.ndarray, " prompts"]


Read = Callable[[Parameters], Reading]
"""Samples a policy, always with the same prompts and random numbers, and compares it with the start."""


class Ray(NamedTuple):
    """What was read along one direction, by ascending distance; the start comes first.

    Attributes:
      distances: From the start, in the norm of the parameters.
      changes: Of the component, per prompt.
      kl: Divergence from the start, per prompt.
      k3: Its estimate, per prompt.
      amount: The change that was looked for; its sign is that of the direction.
    """

    distances: Float[np.ndarray, " points"]
    changes: Float[np.ndarray, "points prompts"]
    kl: Float[np.ndarray, "points prompts"]
    k3: Float[np.ndarray, "points prompts"]
    amount: float


class Asymmetry(NamedTuple):
    """What it costs to raise a component, over what it costs to lower it by as much.

    Attributes:
      up: Divergence at the first crossing of `+amount`, nats per completion; infinite where it was not reached.
      down: The same for `-amount`.
      ratio: `up / down`; nan where neither was reached.
      low: Lower end of its bootstrap interval over prompts.
      high: Upper end.
      up_k3: As `up`, by the k3 estimate.
      down_k3: As `down`.
      amount: The change looked for.
    """

    up: float
    down: float
    ratio: float
    low: float
    high: float
    up_k3: float
    down_k3: float
    amount: float


def reader(
    policy: Policy,
    start: Parameters,
    sample: Sample,
    score: Callable[[Rollouts], Score],
    names: Sequence[str],
    rows: Sequence[Row],
    key: Key[Array, ""],
    *,
    group_size: int,
    temperature: float = 1.0,
) -> Read:
    r"""A function that compares policies with the start, with the same prompts and random numbers each time.

    A change of a mean is estimated from fresh samples of the policy and those of the start together,

    .. math:: \Delta E[f] = E_m\Big[(f - b)\, 2 \tanh\frac{d}{2}\Big], \qquad d = \log\frac{\pi(y)}{\pi_0(y)},

    over the even mixture m of both, where the hyperbolic tangent is :math:`(\pi - \pi_0) / (\pi + \pi_0)`. Weights are
    bounded however far the policy goes, and vanish with the step, where the difference of two means would be noise.

    Args:
      policy: Model functions.
      start: Parameters to compare with.
      sample: Draws completions, from the policy's own distribution: without top-k, top-p or min-p.
      score: Gives the components.
      names: Which components, in this order.
      rows: Prompts.
      key: Random key.
      group_size: Completions per prompt.
      temperature: Of the sampler.

    References:
      Veach and Guibas, 1995, Optimally Combining Sampling Techniques for Monte Carlo Rendering, section 3 (the balance
      heuristic).
    """
    measure = comparison(policy, start, temperature=temperature)

    def values(rollouts: Rollouts) -> Float[np.ndarray, "components prompts group"]:
        parts = score(rollouts).parts
        return np.stack([np.asarray(parts[name], np.float64) for name in names])

    before = sample(start, rows, group_size, key)
    known = values(before)

    def read(parameters: Parameters) -> Reading:
        after = sample(parameters, rows, group_size, key)
        kl, k3, ratio = measure(parameters, after)
        ratios = np.concatenate([ratio, measure(parameters, before)[2]], -1)
        both = np.concatenate([values(after), known], -1)
        return Reading(np.stack([_change(value, ratios) for value in both]), kl.mean(-1), k3.mean(-1))

    return read


def _change(
    value: Float[np.ndarray, "prompts pooled"], log_ratio: Float[np.ndarray, "prompts pooled"]
) -> Float[np.ndarray, " prompts"]:
    """Per prompt; a completion is compared with the mean of the others."""
    used = ~np.isnan(value)
    return (2 * np.tanh(log_ratio / 2) * centred(value, used)).sum(-1) / np.maximum(used.sum(-1) - 1, 1)


def comparison(
    policy: Policy, start: Parameters, *, temperature: float = 1.0
) -> Callable[[Parameters, Rollouts], tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Measures how far a policy is from the start at given completions.

    Args:
      policy: Model functions.
      start: Parameters to compare with.
      temperature: Of both distributions.

    Returns:
      `(parameters, rollouts) -> (kl, k3, log_ratio)`, nats per completion, `[prompts group]`: the sum over tokens of
      the exact divergence of the next-token distributions from the start's, of its k3 estimate at the tokens
      (:cite:`schulman2020kl`), and of the log-ratio. Averaged over the policy's own samples the first two are its
      divergence.
    """

    @jax.jit
    def compiled(new: Params, old: Params, batch: tuple) -> tuple[Array, ...]:
        def of_prompt(part: tuple) -> tuple[Array, ...]:
            *tokens, mask = (x[None] for x in part)
            logits = [policy.logits(p, policy.features(p, *tokens)) / temperature for p in (new, old)]
            log_p, log_q = (jax.nn.log_softmax(x) for x in logits)
            exact = (jnp.exp(log_p) * (log_p - log_q)).sum(-1)
            ratio = jnp.take_along_axis(log_p - log_q, tokens[-1][..., None], -1)[..., 0]
            k3 = jnp.expm1(-ratio) + ratio
            return tuple(jnp.where(mask, x, 0.0).sum(-1)[0] for x in (exact, k3, ratio))

        return jax.lax.map(of_prompt, batch)

    def measure(parameters: Parameters, rollouts: Rollouts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        batch = rollouts.prompt_ids, rollouts.prompt_mask, rollouts.completion_ids, rollouts.completion_mask
        kl, k3, ratio = compiled(merged(parameters), merged(start), batch)
        return np.asarray(kl, np.float64), np.asarray(k3, np.float64), np.asarray(ratio, np.float64)

    return measure


def moved(parameters: Parameters, direction: Float[np.ndarray, " parameters"], distance: float) -> Parameters:
    """The parameters a distance along a direction, whose own length does not matter."""
    flat, restore = ravel_pytree(parameters.trainable)
    unit = np.asarray(direction, np.float32) / np.linalg.norm(direction)
    return dataclasses.replace(parameters, trainable=restore(flat + distance * jnp.asarray(unit)))


def follow(
    read: Read,
    parameters: Parameters,
    direction: Float[np.ndarray, " parameters"],
    component: int,
    amount: float,
    *,
    first_step: float,
    growth: float = 1.5,
    looks: int = 16,
    halvings: int = 3,
    most_kl: float = 5.0,
) -> Ray:
    """Walks along a direction until a component has first changed by an amount.

    Steps grow geometrically from a small one, so that the first crossing is found also where the component turns back;
    halving an interval alone would find any. One point behind the crossing is read for the bootstrap.

    Args:
      read: Measures a policy.
      parameters: The start.
      direction: Where to; walked backward if the amount is negative.
      component: Index of the component.
      amount: Change of its mean that is looked for, not 0.
      first_step: Distance of the first look.
      growth: Of the distance from look to look.
      looks: At most so many before giving up.
      halvings: Of the interval with the crossing.
      most_kl: Nats per completion beyond which it gives up.
    """
    points: dict[float, Reading] = {}

    def look(distance: float) -> bool:
        points[distance] = read(moved(parameters, direction, math.copysign(distance, amount)))
        return float(points[distance].changes[component].mean()) / amount >= 1.0

    near, far = 0.0, first_step
    for _ in range(looks):
        if look(far):
            look(far * growth)
            _halve(look, near, far, halvings)
            break
        if points[far].kl.mean() > most_kl:
            break
        near, far = far, far * growth
    readings = [points[distance] for distance in sorted(points)]
    zero = np.zeros_like(readings[0].kl)
    return Ray(
        np.array([0.0, *sorted(points)]),
        np.stack([zero, *(reading.changes[component] for reading in readings)]),
        np.stack([zero, *(reading.kl for reading in readings)]),
        np.stack([zero, *(reading.k3 for reading in readings)]),
        amount,
    )


def _halve(look: Callable[[float], bool], near: float, far: float, halvings: int) -> None:
    for _ in range(halvings):
        middle = (near + far) / 2
        near, far = (near, middle) if look(middle) else (middle, far)


def crossing(ray: Ray, weights: Float[np.ndarray, " prompts"] | None = None) -> tuple[float, float]:
    """Divergence where the component has first changed by the ray's amount, exact and by k3.

    Between two points the change is taken as linear in the distance, and so is the root of the divergence.

    Args:
      ray: What was read.
      weights: Of the prompts, for the bootstrap; equal by default.

    Returns:
      Nats per completion; infinite where the amount was not reached.
    """
    weights = np.ones(ray.kl.shape[1]) if weights is None else weights
    change, kl, k3 = ((table @ weights) / weights.sum() for table in (ray.changes, ray.kl, ray.k3))
    reached = np.flatnonzero(change / ray.amount >= 1.0)
    if not reached.size:
        return math.inf, math.inf
    at = int(reached[0])
    part = (ray.amount - change[at - 1]) / (change[at] - change[at - 1])
    roots = (np.sqrt(np.maximum(table[at - 1 : at + 1], 0.0)) for table in (kl, k3))
    exact, estimate = (float((low + part * (high - low)) ** 2) for low, high in roots)
    return exact, estimate


def asymmetry(up: Ray, down: Ray, *, resamples: int = 1000, confidence: float = 0.95, seed: int = 0) -> Asymmetry:
    """The divergence of going up over that of going down, with a bootstrap interval over the common prompts.

    Args:
      up: Along a direction by a positive amount.
      down: Backward by the same amount.
      resamples: Of the prompts, both rays together.
      confidence: Of the interval.
      seed: Of the resamples.
    """
    (up_kl, up_k3), (down_kl, down_k3) = crossing(up), crossing(down)
    prompts = up.kl.shape[1]
    counts = np.random.default_rng(seed).multinomial(prompts, np.full(prompts, 1 / prompts), size=resamples)
    ratios = np.array([_quotient(crossing(up, count)[0], crossing(down, count)[0]) for count in counts])
    known = ratios[~np.isnan(ratios)]
    tail = (1 - confidence) / 2
    # Infinite ratios cannot be interpolated between, so the ends are ratios that occurred.
    low, high = np.quantile(known, (tail, 1 - tail), method="nearest") if known.size else (math.nan, math.nan)
    return Asymmetry(up_kl, down_kl, _quotient(up_kl, down_kl), float(low), float(high), up_k3, down_k3, abs(up.amount))


def _quotient(up: float, down: float) -> float:
    return math.nan if (math.isinf(up) and math.isinf(down)) or not down else up / down


def random_changes(
    read: Read, parameters: Parameters, kl: float, *, directions: int = 20, first_step: float, seed: int = 0
) -> Float[np.ndarray, "directions components"]:
    """Changes of all components along random directions, each as far as a divergence goes.

    The distance is scaled twice by the root of the divergence still missing, which is exact where it grows with the
    square of the distance.

    Args:
      read: Measures a policy.
      parameters: The start.
      kl: Nats per completion.
      directions: How many, uniform over all parameters that train.
      first_step: Distance to begin with.
      seed: Of the directions.
    """
    size = ravel_pytree(parameters.trainable)[0].size
    generator = np.random.default_rng(seed)
    out, distance = [], first_step
    for _ in range(directions):
        direction = generator.normal(size=size)
        reading = read(moved(parameters, direction, distance))
        for _ in range(2):
            distance *= float(np.clip(math.sqrt(kl / max(reading.kl.mean(), 1e-12)), 0.1, 10.0))
            reading = read(moved(parameters, direction, distance))
        out.append(reading.changes.mean(-1))
    return np.stack(out)
