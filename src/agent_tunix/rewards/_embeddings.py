"""Similarity of texts by the embeddings of their tokens."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from agent_tunix.rewards._lift import per_completion
from agent_tunix.types import Reward


def bmas(
    tokens: Float[Any, "*texts tokens width"],
    others: Float[Any, "*texts other_tokens width"],
    mask: Bool[Any, "*texts tokens"] | None = None,
    others_mask: Bool[Any, "*texts other_tokens"] | None = None,
) -> Float[Any, "*texts"]:
    r"""Bidirectional max-average similarity of two sets of embeddings.

    .. math:: \tfrac12 \Big( \operatorname{mean}_i \max_j S_{ij} + \operatorname{mean}_j \max_i S_{ij} \Big)

    with S the cosines between tokens of the response (i) and of the reference (j). The first term asks that what is
    said belongs to the reference, the second that all of the reference is said: alone, the first is satisfied by a
    single token, the second by saying everything. Order does not count, nor how often a token is said: a negation
    hardly shows.

    Args:
      tokens: Of the response, a vector each, of any length but 0; vectors of 0 are similar to nothing. Arrays of NumPy
        or of JAX, leading axes alike.
      others: Those of the reference.
      mask: False on tokens that are not there, such as padding; all are there by default.
      others_mask: Likewise.

    Returns:
      Similarities in [-1, 1]; 0 where either text has no tokens.

    Examples:
      >>> import numpy as np
      >>> cat, sat, dog = np.eye(3)
      >>> float(bmas(np.stack([sat, cat]), np.stack([cat, sat])))
      1.0
      >>> float(bmas(np.stack([cat, cat]), np.stack([cat, sat])))
      0.75

    References:
      Xu et al., 2025, Mixed-R1 (arXiv 2505.24164), from memory: the paper takes the embeddings of the tokenizer's
      tokens from the language model. What is returned for empty texts is our choice.
    """
    said = max_average_similarity(tokens, others, mask, others_mask)
    return (said + max_average_similarity(others, tokens, others_mask, mask)) / 2


def max_average_similarity(
    tokens: Float[Any, "*texts tokens width"],
    others: Float[Any, "*texts other_tokens width"],
    mask: Bool[Any, "*texts tokens"] | None = None,
    others_mask: Bool[Any, "*texts other_tokens"] | None = None,
) -> Float[Any, "*texts"]:
    """Average over tokens of the cosine with the most similar one of another text: one direction of `bmas`.

    Args:
      tokens: A vector for each token, as in `bmas`.
      others: Those of the other text.
      mask: False on tokens that are not there.
      others_mask: Likewise.

    Returns:
      Similarities in [-1, 1]; 0 where either text has no tokens.
    """
    xp = tokens.__array_namespace__()
    here, there = (
        xp.ones(vectors.shape[:-1], dtype=bool) if given is None else given
        for vectors, given in ((tokens, mask), (others, others_mask))
    )
    if not others.shape[-2]:
        return xp.zeros(tokens.shape[:-2], dtype=tokens.dtype)
    cosines = _unit(xp, tokens) @ xp.swapaxes(_unit(xp, others), -1, -2)
    best = xp.where(there[..., None, :], cosines, -1).max(-1)
    average = xp.sum(xp.where(here, best, 0), -1) / xp.maximum(here.sum(-1), 1)
    return xp.where(here.any(-1) & there.any(-1), average, 0)


def embedding_similarity(
    embed: Callable[[str], Float[np.ndarray, "tokens width"]],
    column: str = "answer",
    *,
    name: str = "embedding_similarity",
) -> Reward:
    """Pays completions for the similarity of their tokens to those of a reference, for answers with no exact form.

    Args:
      embed: A text to a vector for each of its tokens, special tokens left out. Vectors of language models point into
        similar directions; subtract their mean over the vocabulary first, or every pair of texts is similar. It gets
        the completion as it is, and cuts out what should be compared.
      column: Dataset column with the reference.
      name: Name of the part in metrics.

    Returns:
      A reward in [-1, 1], the `bmas` of both texts.

    Examples:
      >>> letters = lambda text: np.eye(26)[[ord(letter) - 97 for letter in text]]
      >>> embedding_similarity(letters).bounds
      Bounds(low=-1.0, high=1.0)
    """

    def similarity(completion: str, reference: str) -> float:
        return float(np.clip(bmas(np.asarray(embed(completion)), np.asarray(embed(reference))), -1, 1))

    return per_completion(similarity, column, name=name, bounds=(-1, 1))


def _unit(xp: Any, vectors: Any) -> Any:
    size = xp.sqrt(xp.sum(vectors * vectors, -1, keepdims=True))
    return vectors / xp.where(size > 0, size, 1)
