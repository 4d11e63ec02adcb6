"""A step over meshes of eight simulated devices is the step of one, parameters are really cut, and rules know them."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from agent_tunix import models
from agent_tunix.errors import ModelError
from agent_tunix.models import _sharding

SCRIPT = Path(__file__).parent / "mesh_steps.py"
CACHE = Path(__file__).parents[1] / ".cache" / "tests" / "jax"
EXACT = ("completion_ids",)
CLOSE = ("logprobs", "reference", "losses", "norms", "state")


@functools.cache
def compared(*words):
    """What the child says of meshes, compared with one device."""
    kept = {"JAX_COMPILATION_CACHE_DIR": str(CACHE), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2"}
    quick = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *words], capture_output=True, text=True, timeout=900, check=False,
        env=os.environ | kept | quick,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def same(report, tolerance=1e-5):
    for name in EXACT:
        assert report["differences"][name] == 0, name
    for name in CLOSE:
        assert report["differences"][name] < tolerance, name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mesh", "held"), [("data2xfsdp2xtp2", 0.25), ("fsdp8", 0.125), ("tp4", 0.25)], ids=lambda value: str(value)
)
def test_eight_devices_compute_what_one_does_and_hold_a_share_each(mesh, held):
    report = compared("qwen3", "0", "float32", "no", "data2xfsdp2xtp2", "fsdp8", "tp4")
    assert all(abs(loss) > 1e-3 for loss in report["losses"])
    same(report[mesh])
    # Norms are whole everywhere, and two key-value heads are not cut by four.
    assert held <= report[mesh]["held"]["trainable"] < 1.45 * held
    assert held <= report[mesh]["held"]["optimizer"] < 1.45 * held


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "remat", "held"),
    [("qwen3_moe", "remat", 0.25), ("gemma4", "no", 0.25), ("gemma4 of experts", "no", 0.25)],
)
def test_experts_and_what_gemma_4_has_besides_are_cut_and_computed_as_on_one_device(family, remat, held):
    mesh = "data2xfsdp2xtp2"
    report = compared(family, "0", "float32", remat, mesh)
    assert all(abs(loss) > 1e-2 for loss in report["losses"])
    same(report[mesh])
    # What is whole along `tp` (inputs of layers, a single key-value head) is a larger part of a small tree.
    assert held <= report[mesh]["held"]["trainable"] < 1.45 * held
    assert held <= report[mesh]["held"]["optimizer"] < 1.45 * held


@pytest.mark.slow
def test_factors_beside_frozen_experts_in_bfloat16():
    report = compared("qwen3_moe", "4", "bfloat16", "remat", "fsdp2xtp2")["fsdp2xtp2"]
    assert report["differences"]["losses"] < 2e-3
    assert report["held"]["trainable"] == pytest.approx(0.5)
    assert report["held"]["frozen"] < 0.3


@pytest.mark.slow
def test_factors_of_low_rank_are_cut_as_their_weights():
    report = compared("qwen2", "4", "float32", "no", "fsdp2xtp2")["fsdp2xtp2"]
    same(report)
    assert report["held"]["trainable"] == pytest.approx(0.5)  # each factor has one of the two axes
    assert report["held"]["frozen"] < 0.3


@pytest.mark.slow
def test_weights_in_bfloat16_that_are_gathered_again_for_the_gradient():
    report = compared("gemma2", "4", "bfloat16", "remat", "fsdp2")["fsdp2"]
    assert report["differences"]["losses"] < 2e-3  # bfloat16 has three digits, and draws other tokens now and then
    assert report["held"]["frozen"] < 0.6


LOCAL = {"window": 8, "local": (True,)}
GEMMA4 = {"window": 8, "layers": 2, "local": (True, False), "global_head_dim": 12}
EXTRA = {
    "qwen3_moe": {"experts": models.Experts(4, 2, 16)},
    "gemma2": LOCAL,
    "gemma3": LOCAL,
    "gemma4": GEMMA4 | {"shared_mlp": 48, "layer_inputs": 4},
    "gemma4 of experts": GEMMA4 | {"keys_are_values": True, "experts": models.Experts(4, 2, 16)},
}


def tree_of(family, tied=True):
    sizes = {"layers": 1, "width": 16, "heads": 4, "kv_heads": 2, "head_dim": 8, "mlp": 32} | EXTRA.get(family, {})
    architecture = models.tiny(64, **sizes, family=family.split()[0], tied=tied)
    shapes = jax.eval_shape(lambda: nnx.to_pure_dict(nnx.state(models.tunix_module(architecture))))
    return architecture, shapes, jax.eval_shape(lambda: models._factors(architecture, 4, 8.0))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", [*models.FAMILIES, "gemma4 of experts"])
def test_the_rules_of_a_family_know_every_parameter(family, tied):
    if family.startswith("gemma") and not tied:
        pytest.skip("Gemma's embeddings are tied")
    architecture, shapes, factors = tree_of(family, tied)
    parameters = models.Parameters(factors, shapes, 2.0)
    found = models.placements(architecture, parameters, {"fsdp": 2, "tp": 2})
    for tree, specs in ((shapes, found.frozen), (factors, found.trainable)):
        for (path, leaf), spec in zip(
            jax.tree_util.tree_flatten_with_path(tree)[0], jax.tree.leaves(specs, is_leaf=lambda x: isinstance(x, P)),
            strict=True,
        ):  # fmt: skip
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            matrix = (leaf.ndim > 1 or "bias" in name) and "router" not in name
            assert any(spec) == matrix, f"{name} {leaf.shape} {spec}"
            assert len(set(filter(None, spec))) == len([*filter(None, spec)])


OURS = {
    "per_layer_model_projection/w": P("fsdp", None, None),
    "per_layer_input_gate/w": P("fsdp", None),
    "per_layer_projection/w": P(None, "fsdp"),
    "gating_einsum": P("fsdp", None, "tp", None),
}
"""Ends of paths whose rules are not those of Tunix; `agent_tunix.models._sharding` says why."""


@pytest.mark.parametrize(
    "family", ["qwen2", "qwen3", "qwen3_moe", "llama3", "gemma", "gemma3", "gemma4", "gemma4 of experts"]
)
def test_weights_are_cut_as_tunix_says(family):
    """Tunix annotates its own parameters; norms and a few of Gemma 4 aside, ours are cut the same."""
    architecture, shapes, _ = tree_of(family)
    state = nnx.state(nnx.eval_shape(lambda: models.tunix_module(architecture)), nnx.Param)
    known = 0
    for path, variable in nnx.to_flat_state(state):
        theirs = variable.get_metadata().get("out_sharding")
        name = "/".join(map(str, path))
        if theirs is None or "norm" in name:
            continue
        known += 1
        own = next((spec for end, spec in OURS.items() if name.endswith(end)), None)
        assert own is None or tuple(own) != tuple(theirs), f"{name} is cut as Tunix says"
        assert tuple(_sharding.rule(models.FAMILIES[architecture.family].rules, name)) == tuple(own or theirs), name
    assert known > 5 and shapes


def test_axes_that_the_devices_do_not_divide_stay_whole():
    tree = {"embedder": {"input_embedding": jax.ShapeDtypeStruct((99, 16), "float32")}}
    specs = _sharding.specs(_sharding.PROJECTIONS, tree, {"data": 2, "fsdp": 4, "tp": 2})
    assert specs["embedder"]["input_embedding"] == P(None, "fsdp")


def test_what_no_rule_knows_is_told():
    with pytest.raises(ModelError, match="no rule says how `layers/0/router/w` is cut"):
        _sharding.rule(_sharding.PROJECTIONS, "layers/0/router/w")


def test_query_heads_have_to_be_divided():
    architecture, shapes, _ = tree_of("qwen3")
    with pytest.raises(ModelError, match="mesh has tp = 3, which does not divide 4 query heads"):
        models.placements(architecture, models.full(shapes), {"tp": 3})
