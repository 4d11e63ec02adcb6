"""Three ways to compute a mixture of experts, timed with their gradients in float32.

`ragged` is `jax.lax.ragged_dot` over sorted rows, `all` multiplies every row with every expert, `blocks` is what
`agent_tunix.models` does off TPUs. Prints seconds of the forward pass and of the gradient by rows and weights, and what
XLA holds besides arguments and results.

    python benchmarks/experts.py
"""

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

from agent_tunix.models import _experts
from agent_tunix.models._experts import Mixture, routed

CASES = ((2048, 2, 8, 128, 256), (2048, 8, 64, 128, 64), (64, 8, 64, 512, 256))
"""Rows, experts of a row, experts, width, hidden units."""
REPEATS = 3


def every_expert(x: jax.Array, mixture: Mixture, weights: jax.Array, chosen: jax.Array) -> jax.Array:
    """One expert after the other over all rows, those that are not chosen with weight zero."""
    share = (jax.nn.one_hot(chosen, mixture.router.shape[1]) * weights[..., None]).sum(1)

    @jax.checkpoint
    def add(total: jax.Array, expert: tuple) -> tuple[jax.Array, None]:
        gate, up, down, own = expert
        return total + own[:, None] * ((jax.nn.silu(x @ gate) * (x @ up)) @ down), None

    matrices = mixture.gate, mixture.up, mixture.down
    return jax.lax.scan(add, jnp.zeros_like(x), (*matrices, share.T))[0]


def grouped(
    product_of: Callable[[_experts.Places], _experts.Product], block: Callable[[int, int], int]
) -> Callable[..., jax.Array]:
    """Rows sorted by expert, multiplied by one of the two grouped products."""

    def compute(x: jax.Array, mixture: Mixture, weights: jax.Array, chosen: jax.Array) -> jax.Array:
        experts = mixture.router.shape[1]
        places = _experts.placed(chosen.reshape(-1), experts, block(chosen.size, experts))
        return _experts.computed(x, mixture, weights, chosen, jax.nn.silu, places, product_of(places))

    return compute


WAYS = {
    "ragged": grouped(_experts.ragged_product, lambda pairs, experts: 1),
    "all": every_expert,
    "blocks": grouped(_experts.blocked_product, _experts.block_of),
}


def fastest(function: Callable[..., object], *arguments: object) -> float:
    """Seconds of the fastest of a few calls behind one that compiles."""
    jax.block_until_ready(function(*arguments))
    found = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        found.append(time.perf_counter() - start)
    return min(found)


def main() -> None:
    """Prints one line per case and way."""
    print(f"{'rows':>6} {'of':>3} {'experts':>8} {'width':>6} {'mlp':>5}  way     forward s  gradient s  held MB")
    for rows, active, experts, width, mlp in CASES:
        shapes = ((rows, width), (width, experts), (experts, width, mlp), (experts, width, mlp), (experts, mlp, width))
        keys = jax.random.split(jax.random.key(0), len(shapes))
        x, *weights = [jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)]
        mixture = Mixture(*(weight * weight.shape[-2] ** -0.5 for weight in weights))
        for name, way in WAYS.items():

            def forward(x: jax.Array, mixture: Mixture, way=way, active=active) -> jax.Array:
                return way(x, mixture, *routed(x, mixture.router, active, True))

            gradient = jax.jit(jax.grad(lambda *both, forward=forward: (forward(*both) ** 2).sum(), (0, 1)))
            held = gradient.lower(x, mixture).compile().memory_analysis().temp_size_in_bytes / 1e6
            seconds = fastest(jax.jit(forward), x, mixture), fastest(gradient, x, mixture)
            sizes = f"{rows:>6} {active:>3} {experts:>8} {width:>6} {mlp:>5}"
            print(f"{sizes}  {name:<6} {seconds[0]:>10.4f} {seconds[1]:>11.4f} {held:>8.1f}")


if __name__ == "__main__":
    main()
