"""What reward models are trained on: examples, and objectives made from an encoder."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float

from agent_tunix.reward_models._encoders import Encoder
from agent_tunix.types import Params

Objective = Callable[[Params, Any], Float[Array, ""]]
"""`(params, batch) -> loss`, the mean over a batch of the examples that `fit` is given."""

# --- Examples ---------------------------------------------------------------------------------------------------------


class Pairs(NamedTuple):
    """Comparisons of two inputs. Every leaf has a leading axis of pairs.

    Attributes:
      first: Inputs of the encoder.
      second: The inputs they are compared with.
      preference: Probability that the first is the better one, in [0, 1]; None where it always is.
      weight: Of each pair in the loss, at least 0; None weighs them equally. A tie that says nothing has weight 0, one
        that says "equally good" has preference 0.5.
    """

    first: Any
    second: Any
    preference: Float[Any, " pairs"] | None = None
    weight: Float[Any, " pairs"] | None = None


class Labeled(NamedTuple):
    """Inputs with labels. Every leaf has a leading axis of examples.

    Attributes:
      inputs: Inputs of the encoder.
      label: What the loss compares outputs with: a class, a probability or a value.
      weight: Of each example, at least 0; None weighs them equally.
    """

    inputs: Any
    label: Any
    weight: Float[Any, " examples"] | None = None


class Triplets(NamedTuple):
    """An anchor with an input that belongs to it and one that does not. Every leaf has a leading axis of triplets.

    Attributes:
      anchor: Inputs of the encoder.
      positive: Inputs whose features are drawn to those of the anchor.
      negative: Inputs whose features are pushed away.
      weight: Of each triplet, at least 0; None weighs them equally.
    """

    anchor: Any
    positive: Any
    negative: Any
    weight: Float[Any, " triplets"] | None = None


def by_importance(
    factors: Float[Array, "levels prompts group"], valid: Bool[Any, "prompts group"] | None = None, margin: float = 1.0
) -> Float[Array, "prompts group group"]:
    r"""Compares the completions of each prompt factor by factor, the most important first.

    The first level decides at which two completions differ by more than a margin in units of that factor's deviation:
    preferences do not depend on the units of factors. They need not be transitive.

    Args:
      factors: What is compared, more being better, in order of importance.
      valid: False on completions that do not enter deviations; give it to `group_pairs` as well.
      margin: In standard deviations over all valid completions.

    Returns:
      For each ordered pair 1 where the first is preferred, -1 where the second is, 0 where no level decides.

    References:
      Bukharin et al., 2023, Deep Reinforcement Learning from Hierarchical Preference Design (HERON); margins as in the
      authors' code.
    """
    everywhere = jnp.ones(factors.shape[1:], bool) if valid is None else jnp.asarray(valid)
    margins = margin * factors.std((1, 2), where=everywhere)
    difference = factors[..., :, None] - factors[..., None, :]
    decisions = jnp.where(jnp.abs(difference) > margins[:, None, None, None], jnp.sign(difference), 0.0)
    return functools.reduce(lambda above, below: jnp.where(above == 0, below, above), decisions)


def group_pairs(
    inputs: Float[Array, "prompts group features"],
    preferences: Float[Array, "prompts group group"],
    valid: Bool[Any, "prompts group"] | None = None,
) -> Pairs:
    """All pairs of two completions of the same prompt, each once.

    Args:
      inputs: Of every completion.
      preferences: For each ordered pair 1 where the first is preferred, -1 where the second is, 0 where neither; such
        ties get no weight.
      valid: False on completions that enter no pair.

    Returns:
      `prompts * group * (group - 1) / 2` pairs.
    """
    first, second = np.triu_indices(inputs.shape[1], 1)
    signs = preferences[:, first, second].reshape(-1)
    both = jnp.ones(inputs.shape[:2], bool) if valid is None else jnp.asarray(valid)
    weight = jnp.abs(signs) * (both[:, first] & both[:, second]).reshape(-1)
    one, other = (inputs[:, side].reshape(-1, inputs.shape[-1]) for side in (first, second))
    return Pairs(one, other, (signs + 1) / 2, weight)


def importance_pairs(
    factors: Float[Array, "levels prompts group"],
    inputs: Float[Array, "completions features"],
    valid: Bool[Any, "prompts group"] | None = None,
    margin: float = 1.0,
) -> Pairs:
    """Pairs within groups as `by_importance` compares them; inputs are those of all completions, prompt by prompt."""
    shape = factors.shape[1:]
    return group_pairs(inputs.reshape(*shape, -1), by_importance(factors, valid, margin), valid)


def against(real: Any, fake: Any) -> Labeled:
    """References, labelled 1, against what they are to be told from, labelled 0; each side has half of the weight.

    Args:
      real: Inputs, with a leading axis of examples.
      fake: Inputs of the same form, in any number.
    """
    label = jnp.arange(len(real) + len(fake)) < len(real)
    weight = jnp.where(label, 1 / len(real), 1 / len(fake))
    return Labeled(jnp.concatenate([jnp.asarray(real), jnp.asarray(fake)]), label.astype(jnp.float32), weight)


def reference_pairs(reference: Any, same: Any, other: Any) -> Pairs:
    """Pairs that teach an encoder of `(reference, candidate)` to tell who wrote the reference.

    With `ranking` this is the objective of policy-discriminative reward models: of two candidates for the same prompt,
    that of the source of the reference scores above that of another. Scores are comparable under one reference only.

    Args:
      reference: Inputs, such as one sample of a policy for each prompt.
      same: Further samples of the same source for the same prompts.
      other: Samples of another source for the same prompts.

    Returns:
      Pairs of `(reference, candidate)`, the first of which is preferred.

    References:
      Policy-discriminative reward models: Dou et al., 2025, POLAR.
    """
    return Pairs((reference, same), (reference, other))


# --- Objectives -------------------------------------------------------------------------------------------------------


def weighted_mean(values: Float[Array, " examples"], weight: Float[Any, " examples"] | None) -> Float[Array, ""]:
    """Mean of the values, weighted; 0 where no example has weight, so that such a batch moves nothing."""
    if weight is None:
        return jnp.mean(values)
    total = jnp.sum(weight)
    return jnp.sum(jnp.where(weight > 0, values * weight, 0.0)) / jnp.where(total > 0, total, 1.0)


def ranking(score: Encoder) -> Objective:
    r"""The Bradley-Terry loss of comparisons.

    .. math:: L = -p \log\sigma(s_1 - s_2) - (1 - p) \log\sigma(s_2 - s_1)

    with p the preference for the first. Exchanging the two and p for 1 - p changes nothing.

    Args:
      score: An encoder with one score per example, `[examples]`.

    Returns:
      An objective of `Pairs`.

    References:
      Bradley and Terry, 1952; Christiano et al., 2017, arXiv:1706.03741, equation 1.
    """

    def objective(params: Params, batch: Pairs) -> Float[Array, ""]:
        margin = score(params, batch.first) - score(params, batch.second)
        preference = jnp.ones_like(margin) if batch.preference is None else jnp.asarray(batch.preference, margin.dtype)
        return weighted_mean(optax.sigmoid_binary_cross_entropy(margin, preference), batch.weight)

    return objective


def labeled(outputs: Encoder, per_example: Callable[[Array, Any], Float[Array, " examples"]]) -> Objective:
    """The mean of any loss of outputs and labels, such as those of optax.

    Args:
      outputs: An encoder.
      per_example: `(outputs, label) -> losses`, one per example.

    Returns:
      An objective of `Labeled`.

    Examples:
      >>> from agent_tunix.reward_models import mlp, scalar
      >>> hinge = labeled(scalar(mlp), lambda score, label: optax.hinge_loss(score, 2 * label - 1))
    """

    def objective(params: Params, batch: Labeled) -> Float[Array, ""]:
        return weighted_mean(per_example(outputs(params, batch.inputs), batch.label), batch.weight)

    return objective


def cross_entropy(outputs: Encoder) -> Objective:
    """The cross-entropy of labels, binary for scores and over classes for logits.

    Args:
      outputs: An encoder with scores `[examples]`, log-odds of labels in [0, 1]; or with logits `[examples classes]` of
        integer labels.

    Returns:
      An objective of `Labeled`.
    """

    def per_example(found: Array, label: Any) -> Array:
        if found.ndim == 1:
            return optax.sigmoid_binary_cross_entropy(found, jnp.asarray(label, found.dtype))
        return optax.softmax_cross_entropy_with_integer_labels(found, label)

    return labeled(outputs, per_example)


def regression(score: Encoder) -> Objective:
    """The squared error of scores `[examples]` against labels; an objective of `Labeled`."""
    return labeled(score, lambda found, label: jnp.square(found - label))


def triplet(features: Encoder, margin: float = 1.0) -> Objective:
    r"""Draws features of the positive to those of the anchor, and pushes those of the negative away.

    .. math:: L = \max(0,\ \lVert a - p \rVert^2 - \lVert a - n \rVert^2 + m)

    Distances are squared, so that the gradient exists where two features coincide. While the margin is not met it is
    :math:`2 (n - p)` by the anchor, :math:`2 (p - a)` by the positive and :math:`2 (a - n)` by the negative.

    Args:
      features: An encoder with features `[examples width]`.
      margin: Difference of squared distances beyond which a triplet has no gradient.

    Returns:
      An objective of `Triplets`.

    References:
      Schroff et al., 2015, FaceNet, arXiv:1503.03832, equation 2.
    """

    def objective(params: Params, batch: Triplets) -> Float[Array, ""]:
        anchor, positive, negative = (features(params, inputs) for inputs in batch[:3])
        nearer = jnp.sum(jnp.square(anchor - positive), -1) - jnp.sum(jnp.square(anchor - negative), -1)
        return weighted_mean(jax.nn.relu(nearer + margin), batch.weight)

    return objective
