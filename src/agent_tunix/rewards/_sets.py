"""Rewards for sets of completions, and what of them a single completion has earned.

A distribution is right or wrong as a whole: varied or not, like the examples or not. A measure is a function of the
embeddings of a set, `(embeddings[members dimensions], present[members]) -> value`, the higher the better, in which
members that are not present do not count. `set_contributions` turns it into one number per member, `greedy_swap` into
a better and a worse half, and `of_sets` makes a reward of it.
"""

import zlib
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from agent_tunix.types import Outcome, Reward, Rollouts, Score

SetMeasure = Callable[[Float[Array, "members dimensions"], Bool[Array, " members"]], Float[Array, ""]]
"""Worth of the present members of a set, from their embeddings."""

Kernel = Callable[[Float[Array, "first dimensions"], Float[Array, "second dimensions"]], Float[Array, "first second"]]
"""Similarity of every member of one set to every member of another, 1 of a member to itself."""


# --- Measures ---------------------------------------------------------------------------------------------------------


def cosine_kernel(first: Float[Array, "first d"], second: Float[Array, "second d"]) -> Float[Array, "first second"]:
    """Cosine of the angle between embeddings; an embedding of zeros is like none."""
    first, second = (x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12) for x in (first, second))
    return first @ second.T


def gaussian_kernel(bandwidth: float) -> Kernel:
    r"""Similarity :math:`\exp(-\lVert x - y \rVert^2 / 2 h^2)`.

    Args:
      bandwidth: :math:`h`, in units of the embeddings; beyond a few of it two members are unlike.

    Raises:
      ValueError: It is not positive.
    """
    if not bandwidth > 0:
        raise ValueError(f"gaussian_kernel got bandwidth={bandwidth}; give a positive distance")

    def kernel(first: Array, second: Array) -> Array:
        apart = jnp.square(first[:, None] - second).sum(-1)
        return jnp.exp(-apart / (2 * bandwidth**2))

    return kernel


def frechet(reference: Float[np.ndarray, "examples dimensions"], *, shrinkage: float = 0.1) -> SetMeasure:
    r"""Minus the Fréchet distance between the normal distributions of a set and of examples.

    .. math:: d = \lVert m_1 - m_2 \rVert^2 + \operatorname{tr}\big(C_1 + C_2 - 2 (C_1^{1/2} C_2 C_1^{1/2})^{1/2}\big)

    Only means and covariances are seen: a set may have the right ones and lie where no example is.

    Args:
      reference: Embeddings of the examples, at least two.
      shrinkage: In [0, 1], how far covariances are moved towards a multiple of the identity with the same trace. A
        set smaller than the dimension has too small a covariance in most directions, and its distance is too large.

    Returns:
      A measure that is 0 at best, in squared units of the embeddings.

    References:
      Heusel et al., 2017, GANs Trained by a Two Time-Scale Update Rule. As a reward: Bai et al., 2025, DRAGON,
      arXiv:2504.15217.
    """
    examples = jnp.asarray(reference, jnp.float32)
    mean, covariance = _moments(examples, _everyone(examples))
    covariance = _shrunk(covariance, shrinkage)
    spectrum, basis = jnp.linalg.eigh(covariance)
    root = (basis * jnp.sqrt(jnp.maximum(spectrum, 0.0))) @ basis.T

    def measure(embeddings: Array, present: Array) -> Array:
        own, spread = _moments(embeddings, present)
        spread = _shrunk(spread, shrinkage)
        overlap = jnp.sqrt(jnp.maximum(jnp.linalg.eigvalsh(root @ spread @ root), 0.0)).sum()
        return 2 * overlap - jnp.square(own - mean).sum() - jnp.trace(covariance) - jnp.trace(spread)

    return measure


def discrepancy(reference: Float[np.ndarray, "examples dimensions"], kernel: Kernel = cosine_kernel) -> SetMeasure:
    """Minus the squared maximum mean discrepancy between a set and examples.

    Args:
      reference: Embeddings of the examples.
      kernel: What counts as alike. With a Gaussian one every difference between distributions shows.

    Returns:
      A measure that is 0 at best, unitless; the biased estimate, in which members are compared with themselves too.

    References:
      Gretton et al., 2012, A Kernel Two-Sample Test.
    """
    examples = jnp.asarray(reference, jnp.float32)
    among_examples = kernel(examples, examples).mean()

    def measure(embeddings: Array, present: Array) -> Array:
        weights = present / jnp.maximum(present.sum(), 1)
        among = weights @ kernel(embeddings, embeddings) @ weights
        return 2 * weights @ kernel(embeddings, examples).mean(-1) - among - among_examples

    return measure


def vendi(kernel: Kernel = cosine_kernel) -> SetMeasure:
    r"""How many different members a set has in effect: the exponential of the entropy of its similarity matrix.

    .. math:: \exp\Big(-\sum_i \lambda_i \log \lambda_i\Big)

    with the eigenvalues of the similarities divided by their number. Copies of one member are 1, members that are
    nothing alike as many as they are.

    Args:
      kernel: What counts as alike.

    Returns:
      A measure between 1 and the number of members.

    References:
      Friedman and Dieng, 2022, The Vendi Score, arXiv:2210.02410.
    """

    def measure(embeddings: Array, present: Array) -> Array:
        pairs = present[:, None] & present
        similar = jnp.where(pairs, kernel(embeddings, embeddings), 0.0) / jnp.maximum(present.sum(), 1)
        spectrum = jnp.linalg.eigvalsh(similar)
        logs = jnp.log(jnp.maximum(spectrum, 1e-12))
        return jnp.exp(-jnp.sum(jnp.where(spectrum > 1e-12, spectrum * logs, 0.0)))

    return measure


def _moments(embeddings: Array, present: Array) -> tuple[Array, Array]:
    weights = present / jnp.maximum(present.sum(), 1)
    mean = weights @ embeddings
    away = embeddings - mean
    return mean, (away * weights[:, None]).T @ away


def _shrunk(covariance: Array, shrinkage: float) -> Array:
    size = covariance.shape[-1]
    return (1 - shrinkage) * covariance + shrinkage * jnp.trace(covariance) / size * jnp.eye(size)


# --- From sets to members ---------------------------------------------------------------------------------------------


def set_contributions(
    measure: SetMeasure, embeddings: Float[Array, "members d"], present: Bool[Array, " members"]
) -> Float[Array, " members"]:
    r"""What every member adds to the worth of its set: :math:`r_i = F(S) - F(S \setminus \{i\})`.

    Of a sum over members this is the own term. Of a mean, or a distance between distributions, it shrinks as one over
    the size of the set: normalise it, or give it a weight.

    Args:
      measure: Of the set.
      embeddings: Of its members.
      present: False where a member does not count; it gets 0.

    Returns:
      Contributions in units of the measure; 0 for a member that is alone. It compiles, and costs one measure per
      member.

    Examples:
      >>> everyone, total = jnp.ones(3, bool), lambda x, present: jnp.sum(jnp.where(present, x[:, 0], 0.0))
      >>> set_contributions(total, jnp.array([[1.0], [2.0], [4.0]]), everyone)
      Array([1., 2., 4.], dtype=float32)
    """
    embeddings = jnp.asarray(embeddings, jnp.float32)
    present = jnp.asarray(present)
    without = present & ~jnp.eye(len(present), dtype=bool)
    missing = jax.vmap(measure, (None, 0))(embeddings, without)
    return jnp.where(present & (present.sum() > 1), measure(embeddings, present) - missing, 0.0)


def greedy_swap(
    measure: SetMeasure,
    first: Float[Array, "pairs d"],
    second: Float[Array, "pairs d"],
    order: Int[Array, " pairs"] | None = None,
) -> Bool[Array, " pairs"]:
    """Sorts pairs into a better and a worse set, one pair after the other.

    From the first members of all pairs, a pair is swapped where the measure of the set rises by it.

    Args:
      measure: Of a set.
      first: Embeddings of one member of every pair.
      second: Of the other.
      order: In which pairs are tried; as given by default. The outcome depends on it, so shuffle where pairs have an
        order of their own.

    Returns:
      True where the second member is in the better set. That set is at least as good as the other one, and as the
      first members were.

    References:
      Bai et al., 2025, DRAGON, arXiv:2504.15217, whose positive and negative sets these are.
    """
    everyone = jnp.ones(len(first), bool)

    def worth(swapped: Array) -> Array:
        return measure(jnp.where(swapped[:, None], second, first), everyone)

    def attempt(carry: tuple[Array, Array], pair: Array) -> tuple[tuple[Array, Array], None]:
        swapped, best = carry
        other = swapped.at[pair].set(~swapped[pair])
        value = worth(other)
        return (jnp.where(value > best, other, swapped), jnp.maximum(value, best)), None

    places = jnp.arange(len(first)) if order is None else order
    (swapped, best), _ = jax.lax.scan(attempt, (~everyone, worth(~everyone)), places)
    # One pair at a time may stop short of turning all of them round.
    return jnp.where(worth(~swapped) > best, ~swapped, swapped)


# --- Rewards ----------------------------------------------------------------------------------------------------------


def hashed_ngrams(dimensions: int = 64, n: int = 3) -> Callable[[Sequence[str]], Float[np.ndarray, "texts dimensions"]]:
    """An embedding without a model: counts of character n-grams, hashed into a few dimensions with signs.

    Args:
      dimensions: Of the embedding.
      n: Characters of a gram; a shorter text is one gram.

    Returns:
      `texts -> embeddings`, the same on every machine.

    Examples:
      >>> hashed_ngrams(4)(["abc", "abc", ""]).round(1).tolist()[0] == hashed_ngrams(4)(["abc"]).round(1).tolist()[0]
      True
    """

    def embed(texts: Sequence[str]) -> Float[np.ndarray, "texts dimensions"]:
        table = np.zeros((len(texts), dimensions), np.float32)
        for row, text in zip(table, texts, strict=True):
            for start in range(max(len(text) - n, 0) + 1):
                code = zlib.crc32(text[start : start + n].encode())
                row[code // 2 % dimensions] += 1 if code % 2 else -1
        return table

    return embed


def of_sets(
    measure: SetMeasure,
    embed: Callable[[Sequence[str]], Float[np.ndarray, "texts dimensions"]],
    *,
    over: str = "group",
    name: str = "set",
) -> Reward:
    """Pays every completion what it adds to a set: that of its group, or of the whole batch.

    Args:
      measure: Such as `vendi()` for variety, or `frechet(examples)` for likeness to examples.
      embed: Texts to vectors: `hashed_ngrams()`, or a sentence encoder.
      over: `group` or `batch`. Over the batch, an advantage that compares within groups sees only part of it; take one
        that compares within the batch.
      name: Name of the part in metrics.

    Returns:
      A reward with one part, whose values are those of `set_contributions`.

    Raises:
      ValueError: `over` is neither.

    Examples:
      >>> from agent_tunix.batching import text_rollouts
      >>> varied = of_sets(vendi(), hashed_ngrams())
      >>> score = varied(text_rollouts(["?"], [["seven", "seven", "eight"]], {}))
      >>> [round(float(value), 2) for value in score.value[0]]
      [-0.1, -0.1, 0.79]
    """
    if over not in ("group", "batch"):
        raise ValueError(f"of_sets got over={over!r}; give group or batch")
    compiled = jax.jit(jax.vmap(lambda embeddings: set_contributions(measure, embeddings, _everyone(embeddings))))

    def score(rollouts: Rollouts) -> Score:
        vectors = np.asarray(embed([text for group in rollouts.completions for text in group]), np.float32)
        sets = vectors.reshape(*(rollouts.shape if over == "group" else (1, len(vectors))), -1)
        value = np.asarray(compiled(sets)).reshape(rollouts.shape)
        graded = np.full(rollouts.shape, Outcome.GRADED, np.int8)
        return Score(value, np.ones(rollouts.shape, bool), {name: value}, {name: graded})

    return Reward(name, score)


def _everyone(embeddings: Array) -> Array:
    return jnp.ones(len(embeddings), bool)
