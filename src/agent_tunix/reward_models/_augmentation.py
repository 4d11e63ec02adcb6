"""Which variants of an example are worth training on."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy.spatial import ConvexHull


def hull_vertices(points: Float[Any, "points width"], *, dimensions: int = 2) -> Bool[np.ndarray, " points"]:
    """The outermost points: vertices of the convex hull of their first principal components.

    Of many variants of a text, those whose embeddings lie within the others add little to what is learned from these.

    Args:
      points: Such as the embeddings of an example and of its variants.
      dimensions: Principal components that are looked at, at least 2. Their hull has more vertices the more there are.

    Returns:
      True for the vertices. All are kept where there is no hull: where the points are too few, or lie in fewer
      dimensions. Of coincident points one at most is kept.

    Raises:
      ValueError: If `dimensions` is below 2.

    Examples:
      >>> hull_vertices(np.array([[0.0, 0], [4, 0], [0, 4], [4, 4], [1, 2]])).tolist()
      [True, True, True, True, False]

    References:
      ConvexDA, Shen et al., 2023, The Trickle-down Impact of Reward (In-)consistency on RLHF (arXiv:2309.16155), of
      sentence embeddings of synonym variants, in two dimensions.
    """
    if dimensions < 2:
        raise ValueError(f"a hull has at least 2 dimensions, got dimensions={dimensions}")
    array = np.asarray(points, np.float64)
    if len(array) <= dimensions:
        return np.ones(len(array), bool)
    left, scales, _ = np.linalg.svd(array - array.mean(0), full_matrices=False)
    if np.sum(scales > 1e-9 * scales[0]) < dimensions:
        return np.ones(len(array), bool)
    kept = np.zeros(len(array), bool)
    kept[ConvexHull(left[:, :dimensions] * scales[:dimensions]).vertices] = True
    return kept
