"""Mixtures of experts: every row gets what its own experts make of it, whatever the others do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agent_tunix.models import _experts
from agent_tunix.models._experts import Mixture, mixed, routed

pytestmark = pytest.mark.usefixtures("quickly_compiled")

ROWS, WIDTH, MLP, EXPERTS, ACTIVE = 37, 6, 5, 7, 2


def drawn(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


X = drawn(0, ROWS, WIDTH)
MIXTURE = Mixture(
    router=drawn(1, WIDTH, EXPERTS).at[:, 3].set(0.0),  # an expert that hardly anyone is sent to
    gate=drawn(2, EXPERTS, WIDTH, MLP) / 3,
    up=drawn(3, EXPERTS, WIDTH, MLP) / 3,
    down=drawn(4, EXPERTS, MLP, WIDTH) / 3,
)


def through(x, mixture, normalized=True):
    return mixed(x, mixture, *routed(x, mixture.router, ACTIVE, normalized), jax.nn.silu)


def twin(x, mixture, normalized):
    """Row by row, in float64."""
    x, router, gate, up, down = (np.asarray(leaf, np.float64) for leaf in (x, *mixture[:4]))
    out = np.zeros_like(x)
    for index, row in enumerate(x):
        scores = np.exp(row @ router)
        scores /= scores.sum()
        chosen = np.argsort(-scores)[:ACTIVE]
        total = scores[chosen].sum() if normalized else 1.0
        for expert in chosen:
            inner = row @ gate[expert]
            inner = inner / (1 + np.exp(-inner)) * (row @ up[expert])
            out[index] += scores[expert] / total * (inner @ down[expert])
    return out


@pytest.mark.parametrize("normalized", [True, False])
def test_rows_get_the_weighted_outputs_of_their_experts(normalized):
    got = jax.jit(lambda x: through(x, MIXTURE, normalized))(X)
    np.testing.assert_allclose(got, twin(X, MIXTURE, normalized), atol=1e-5)


@pytest.mark.parametrize("rows", [1, 5, ROWS])
def test_a_row_does_not_depend_on_the_others(rows):
    everyone = jax.jit(lambda x: through(x, MIXTURE))(X)
    few = jax.jit(lambda x: through(x, MIXTURE))(X[:rows])
    np.testing.assert_allclose(few, everyone[:rows], atol=1e-6)
    crowded = jnp.concatenate([X[:rows], jnp.repeat(X[:1], 60, axis=0)])  # all of the others to the same experts
    np.testing.assert_allclose(jax.jit(lambda x: through(x, MIXTURE))(crowded)[:rows], everyone[:rows], atol=1e-6)


@pytest.mark.parametrize("owners", [[0] * 30, [6, 0, 6, 2] * 8, list(range(7)) * 5], ids=["one", "some", "all"])
@pytest.mark.parametrize("block", [4, 8])
def test_blocks_and_their_gradients_are_those_of_ragged_products(owners, block):
    owners = jnp.asarray(owners)
    rows, cotangent = drawn(5, owners.size, WIDTH), drawn(6, owners.size, MLP)

    def total(rows, matrices, product_of, block):
        places = _experts.placed(owners, EXPERTS, block)
        lying = _experts.moved(rows, places.pairs, places.place)
        out = _experts.moved(product_of(places)(lying, matrices), places.place, places.pairs)
        return (out * cotangent).sum(), out

    def found(product_of, block):
        way = jax.value_and_grad(lambda *args: total(*args, product_of, block), (0, 1), has_aux=True)
        (_, out), gradients = jax.jit(way)(rows, MIXTURE.gate)
        return out, *gradients

    got, expected = found(_experts.blocked_product, block), found(_experts.ragged_product, 1)
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    plain = np.einsum("rd,rdf->rf", rows, np.asarray(MIXTURE.gate)[np.asarray(owners)])
    np.testing.assert_allclose(got[0], plain, atol=1e-5)


def test_the_way_of_tpus_gives_the_same(monkeypatch):
    ours = jax.jit(lambda x: through(x, MIXTURE))(X)
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    np.testing.assert_allclose(jax.jit(lambda x: through(x, MIXTURE))(X), ours, atol=1e-6)


def test_gradients_hold_under_vmap_and_rematerialisation():
    def total(x, mixture):
        return (through(x, mixture) ** 2).sum()

    plain = jax.jit(jax.grad(total, (0, 1)))(X, MIXTURE)
    kept = jax.jit(jax.grad(jax.checkpoint(total), (0, 1)))(X, MIXTURE)
    rows = jnp.stack([X[:30], X[7:]])
    several = jax.jit(jax.vmap(jax.grad(total), (0, None)))(rows, MIXTURE)
    for one, other in zip(jax.tree.leaves(kept), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(several[0], plain[0][:30], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(several[1], plain[0][7:], rtol=1e-4, atol=1e-4)


def test_blocks_grow_with_what_experts_get():
    assert [_experts.block_of(pairs, 8) for pairs in (16, 256, 512, 4096)] == [8, 16, 32, 256]
