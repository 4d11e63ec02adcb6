"""Rewards that are learned: small encoders, losses of preferences and labels, one trainer, and the way to a `Reward`.

An encoder is a function `(params, inputs) -> outputs` of arrays or pytrees whose leading axis is that of examples;
`mlp` and `sequence` are two, any other will do. An objective is a function `(params, batch) -> loss`, made from an
encoder by `ranking`, `cross_entropy`, `regression` or `triplet`. `fit` minimizes it::

    params = mlp_params(jax.random.key(0), (3, 16, 1))
    score = scalar(mlp)
    fitted = fit(jax.random.key(1), Pairs(preferred, other), params, ranking(score), steps=200)
    reward = learned_reward(score, fitted.params, features, name="preference")

Make an objective once and keep it: `fit` is compiled for each one. Ensembles are `jax.vmap` over keys and parameters.
"""

from agent_tunix.reward_models._augmentation import hull_vertices
from agent_tunix.reward_models._encoders import (
    Encoder,
    Sequences,
    averaged,
    compared,
    counted,
    counted_params,
    encoded,
    hidden,
    last_token,
    mean_pool,
    mlp,
    mlp_params,
    ngrams,
    scalar,
    sequence,
    sequence_params,
)
from agent_tunix.reward_models._fitting import Fitted, fit
from agent_tunix.reward_models._lifting import CoTrained, co_trained, discriminator, learned_reward, texts
from agent_tunix.reward_models._objectives import (
    Labeled,
    Objective,
    Pairs,
    Triplets,
    against,
    by_importance,
    cross_entropy,
    group_pairs,
    importance_pairs,
    labeled,
    ranking,
    reference_pairs,
    regression,
    triplet,
    weighted_mean,
)
from agent_tunix.reward_models._quality import auc, calibration_error, pair_accuracy

__all__ = [
    "CoTrained",
    "Encoder",
    "Fitted",
    "Labeled",
    "Objective",
    "Pairs",
    "Sequences",
    "Triplets",
    "against",
    "auc",
    "averaged",
    "by_importance",
    "calibration_error",
    "co_trained",
    "compared",
    "counted",
    "counted_params",
    "cross_entropy",
    "discriminator",
    "encoded",
    "fit",
    "group_pairs",
    "hidden",
    "hull_vertices",
    "importance_pairs",
    "labeled",
    "last_token",
    "learned_reward",
    "mean_pool",
    "mlp",
    "mlp_params",
    "ngrams",
    "pair_accuracy",
    "ranking",
    "reference_pairs",
    "regression",
    "scalar",
    "sequence",
    "sequence_params",
    "texts",
    "triplet",
    "weighted_mean",
]
