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


def tree_of(family, tied=True):
    extra = {"window": 8, "local": (True,)} if family in ("gemma2", "gemma3") else {}
    sizes = {"layers": 1, "width": 16, "heads": 4, "kv_heads": 2, "head_dim": 8, "mlp": 32}
    architecture = models.tiny(64, family=family, tied=tied, **sizes, **extra)
    shapes = jax.eval_shape(lambda: nnx.to_pure_dict(nnx.state(models.tunix_module(architecture))))
    return architecture, shapes, jax.eval_shape(lambda: models._factors(architecture, 4, 8.0))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", [name for name, family in models.FAMILIES.items() if family.rules])
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
            matrix = leaf.ndim > 1 or "bias" in name
            assert any(spec) == matrix, f"{name} {leaf.shape} {spec}"
            assert len(set(filter(None, spec))) == len([*filter(None, spec)])


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama3", "gemma", "gemma3"])
def test_weights_are_cut_as_tunix_says(family):
    """Tunix annotates its own parameters; norms aside, ours are cut the same."""
    architecture, shapes, _ = tree_of(family)
    module = models.tunix_module(architecture)
    state = nnx.state(module, nnx.Param)
    known = 0
    for path, variable in nnx.to_flat_state(state):
        theirs = variable.get_metadata().get("out_sharding")
        name = "/".join(map(str, path))
        if theirs is None or "norm" in name:
            continue
        known += 1
        assert tuple(_sharding.rule(models.FAMILIES[family].rules, name)) == tuple(theirs), name
    assert known > 5 and shapes


def test_axes_that_the_devices_do_not_divide_stay_whole():
    tree = {"embedder": {"input_embedding": jax.ShapeDtypeStruct((99, 16), "float32")}}
    specs = _sharding.specs(_sharding.PROJECTIONS, tree, {"data": 2, "fsdp": 4, "tp": 2})
    assert specs["embedder"]["input_embedding"] == P(None, "fsdp")


def test_what_no_rule_knows_is_told():
    with pytest.raises(ModelError, match="no rule says how `layers/0/router/w` is cut"):
        _sharding.rule(_sharding.PROJECTIONS, "layers/0/router/w")


@pytest.mark.parametrize("family", ["qwen3_moe", "gemma4"])
def test_families_without_rules_are_whole_or_refused(family):
    with pytest.raises(ModelError, match=f"parameters of {family} are not cut over fsdp and tp yet; take mesh=dataN"):
        models.placements(models.Architecture(64, family=family), models.full({}), {"data": 2, "fsdp": 2})
    one = models.full({"w": jax.ShapeDtypeStruct((4, 4), "float32")})
    assert models.placements(models.Architecture(64, family=family), one, {"data": 4}).trainable == {"w": P()}


def test_query_heads_have_to_be_divided():
    architecture, shapes, _ = tree_of("qwen3")
    with pytest.raises(ModelError, match="mesh has tp = 3, which does not divide 4 query heads"):
        models.placements(architecture, models.full(shapes), {"tp": 3})
