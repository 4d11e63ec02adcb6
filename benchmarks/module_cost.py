"""What it costs to go through Tunix's module instead of the own forward, as XLA counts it in compiled programs.

    python benchmarks/module_cost.py

The same Qwen3 as its own forward, through Tunix's module behind cached prompts, and through the module with every copy
of a prompt in full: operations and working memory of the gradient of log-probabilities, size of prompts and cache, and
bytes that a step of decoding reads and writes. Nothing is run.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from agent_tunix import models
from agent_tunix.models import _module

ARCHITECTURE = models.tiny(512, layers=4, width=128, heads=4, kv_heads=2, head_dim=32, mlp=512)
SHAPES = ((4, 8, 32, 64), (2, 16, 512, 64))
"""Prompts, group, tokens of a prompt and of a completion."""


def policies(architecture: models.Architecture, params: Any) -> dict[str, models.Policy]:
    """The three ways."""
    module = models.tunix_module(architecture, params)
    through, _ = models.module_policy(module)
    decoder = _module.split(module)[0]._replace(window=0)
    full = through._replace(continued=lambda params, *args: _module.features(params, decoder, *args))
    return {"own forward": models.policy(architecture), "through the module": through, "every copy in full": full}


def megabytes(tree: Any) -> float:
    """Of the arrays of a tree, 10^6 bytes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)) / 1e6


def counted(policy: models.Policy, params: Any, shape: tuple[int, int, int, int]) -> dict[str, float]:
    """What XLA says of the gradient and of a step of decoding."""
    prompts, group, prompt_tokens, tokens = shape
    ids = jax.ShapeDtypeStruct((prompts, prompt_tokens), jnp.int32)
    mask = jax.ShapeDtypeStruct(ids.shape, bool)
    completions = jax.ShapeDtypeStruct((prompts, group, tokens), jnp.int32)

    def total(params: Any, *batch: Any) -> Any:
        return policy.logprobs(params, *batch)[0].sum()

    gradient = _compiled(jax.grad(total), params, ids, mask, completions)
    prefix = jax.eval_shape(policy.prefix, params, ids, mask)
    cache = jax.eval_shape(lambda params, prefix: policy.cache(params, prefix, group, tokens), params, prefix)

    def step(params: Any, prefix: Any, cache: Any, fed: Any) -> Any:
        return policy.decoder(params, prefix)(cache, fed, jnp.int32(3))

    decoding = _compiled(step, params, prefix, cache, jax.ShapeDtypeStruct((prompts, group), jnp.int32))
    return {
        "gradient, GFLOP": gradient.cost_analysis()["flops"] / 1e9,
        "its working memory, MB": gradient.memory_analysis().temp_size_in_bytes / 1e6,
        "prompts and cache, MB": megabytes(prefix) + megabytes(cache),
        "read and written by a step, MB": decoding.cost_analysis()["bytes accessed"] / 1e6,
    }


def _compiled(function: Callable[..., Any], *arguments: Any) -> Any:
    return jax.jit(function).lower(*arguments).compile()


def rows() -> Iterator[str]:
    """Lines of the table in docs/guides/training.md."""
    params = models.initial_params(ARCHITECTURE, 0)
    for shape in SHAPES:
        for name, policy in policies(ARCHITECTURE, params).items():
            numbers = counted(policy, params, shape)
            yield f"{shape} {name}: " + ", ".join(f"{key} {value:.3g}" for key, value in numbers.items())


def main() -> None:
    """Prints the rows."""
    for row in rows():
        print(row, flush=True)


if __name__ == "__main__":
    main()
