import dataclasses
import functools
import importlib
import json
import logging
import math
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from agent_tunix import buckets, cli, hugging_face, losses, models, planning, sampling, updates
from agent_tunix.errors import ConfigError
from agent_tunix.models import Parameters
from agent_tunix.models._head import parts_of
from agent_tunix.planning import DEVICES, Mesh, Setting, Sizes

SMALLEST = Sizes(vocab_size=10, layers=2, width=4, heads=2, kv_heads=1, head_dim=2, mlp=3)
"""Small enough to be worked out by hand."""
STEP = Setting("hand", SMALLEST, prompts=2, group_size=3, prompt_tokens=5, completion_tokens=6, dtype="float32")
QWEN = planning.model_sizes("qwen3_8b")
BIG = Setting("qwen3_8b", QWEN, prompts=64, group_size=8, prompt_tokens=512, completion_tokens=512, reference=True)


# --- sizes


def distinct_models():
    """One name for every config that Tunix has; several models share theirs."""
    found = {}
    for name, (family, config) in planning.tunix_models().items():
        if family != "gemma4":  # Tunix keeps weights there that nothing reads
            found.setdefault((family, planning.from_tunix(family, config())), name)
    return sorted(found.values())


def module_parameters(family, config):
    """Parameters of Tunix's own module, built without memory."""
    module = importlib.import_module(f"tunix.models.{family}.model")
    kind = getattr(module, family.capitalize())
    state = nnx.state(nnx.eval_shape(lambda: kind(config, rngs=nnx.Rngs(0))))
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.to_pure_dict(state)))


@pytest.mark.parametrize("name", distinct_models())
def test_parameters_are_those_of_tunix_module(name):
    family, config = planning.tunix_models()[name]
    cut: dict[str, Any] = {"num_layers": 2}
    if hasattr(config(), "attention_types"):
        cut["attention_types"] = tuple(config().attention_types[:2])
    shallow = dataclasses.replace(config(), **cut)
    assert planning.from_tunix(family, shallow).parameters == module_parameters(family, shallow)


@pytest.mark.parametrize(
    ("name", "billions"),
    [("qwen3_0p6b", 0.596), ("qwen3_8b", 8.19), ("qwen3_30b_a3b", 30.5), ("qwen2p5_7b", 7.62), ("llama3p1_8b", 8.03)],
)
def test_parameters_are_those_that_the_makers_publish(name, billions):
    assert planning.model_sizes(name).parameters == pytest.approx(billions * 1e9, rel=2e-3)


def test_adapters_are_those_that_training_makes(architecture, params):
    factors = models.lora(architecture, params, rank=3, alpha=1.0, seed=0).trainable
    sizes = sizes_of(architecture)
    assert sizes.adapters(3) == sum(leaf.size for leaf in jax.tree.leaves(factors))
    assert sizes.parameters == sum(leaf.size for leaf in jax.tree.leaves(params))


def test_adapters_of_a_mixture_are_those_that_training_makes():
    sizes = {"layers": 2, "width": 16, "heads": 2, "kv_heads": 1, "head_dim": 8, "mlp": 1}
    mixture = models.Architecture(20, **sizes, family="qwen3_moe", tied=False, experts=models.Experts(4, 2, 8))
    params = jax.eval_shape(lambda: models.initial_params(mixture, 0))
    factors = models.lora(mixture, params, rank=3, alpha=1.0, seed=0).trainable
    found = Sizes(20, **sizes | {"mlp": 8}, tied=False, experts=4, active_experts=2, vectors=2 * 16 + 2 * 8)
    assert found.adapters(3) == sum(leaf.size for leaf in jax.tree.leaves(factors))
    assert found.parameters == sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("name", ["gemma4_e2b", "gemma4_e4b", "gemma4_26b_a4b", "gemma4_31b"])
def test_parameters_of_gemma_4_are_those_of_a_folder(name):
    config = planning.tunix_models()[name][1]()
    kinds = [kind.name == "LOCAL_SLIDING" for kind in config.attention_pattern]
    experts = models.Experts(config.num_experts, config.num_experts_per_tok, config.expert_dim)
    architecture = models.Architecture(
        config.num_embed, config.num_layers, config.embed_dim, config.num_heads, config.num_kv_heads, config.head_dim,
        config.hidden_dim, "gemma4",
        local=tuple(kinds[layer % len(kinds)] for layer in range(config.num_layers)),
        experts=experts if config.enable_moe else None,
        global_head_dim=config.global_key_size,
        global_kv_heads=config.num_global_kv_heads or 0,
        keys_are_values=config.k_eq_v_global,
        shared=round(config.frac_shared_layers * config.num_layers),
        shared_mlp=config.override_kv_shared_ffw_hidden or 0,
        layer_inputs=config.per_layer_input_dim,
    )  # fmt: skip
    found = sum(math.prod(weight.shape) * len(weight.names) for weight in hugging_face.weights(architecture))
    sizes = planning.model_sizes(name)
    assert sizes.parameters == found
    cached = sum(
        architecture.at(layer).kv_heads * architecture.at(layer).head_dim for layer in range(architecture.owning)
    )
    assert sizes.layers * sizes.kv_width == pytest.approx(cached)


def test_active_parameters_are_those_that_the_makers_publish():
    assert planning.model_sizes("qwen3_30b_a3b").active_parameters == pytest.approx(3.3e9, rel=0.02)
    assert QWEN.active_parameters == QWEN.parameters


def test_a_token_passes_only_the_experts_it_is_sent_to():
    sizes = SMALLEST._replace(experts=8, active_experts=2)
    # queries, keys, values 4 x 8, output 4 x 4, a router 4 x 8, an expert three matrices of 4 x 3
    assert sizes.matrices == 32 + 16 + 32 + 8 * 36
    assert sizes.active_matrices == 32 + 16 + 32 + 2 * 36


# --- work, by hand


def test_flops_of_a_batch_are_those_worked_out_by_hand():
    # A layer: 32 + 16 + 36 = 84 weights, 168 FLOPs a token; attention over c tokens: 4 x 4c.
    prefix = 2 * 4 * ((168 + 16 * 4) + 2 * 32)  # the second layer gives only keys and values
    completions = 6 * 6 * 2 * (168 + 16 * (4 + 6))
    logits = 6 * 6 * 2 * 10 * 4
    forward = prefix + completions + logits
    assert planning.reference(STEP).flops == 0
    assert planning.reference(STEP._replace(reference=True)).flops == forward
    assert planning.rollout(STEP).flops == forward
    assert planning.update(STEP).flops == 3 * forward
    assert planning.update(STEP._replace(remat=True)).flops == 4 * (prefix + completions) + 3 * logits
    assert planning.update(STEP._replace(passes=2)).flops == 6 * forward


def test_state_is_sixteen_bytes_a_parameter_and_six_under_low_rank():
    full = planning.memory(BIG._replace(reference=False))
    assert sum(full.state.values()) == 12 * QWEN.parameters
    assert full.phases["update"]["gradient"] == 4 * QWEN.parameters
    low = planning.memory(BIG._replace(lora_rank=16))  # its reference is the backbone
    assert sum(low.state.values()) == 2 * QWEN.parameters + 12 * QWEN.adapters(16)
    assert planning.memory(BIG).state["reference"] == 4 * QWEN.parameters


def test_a_quantised_backbone_holds_half_a_byte_a_weight_and_its_scales():
    setting = BIG._replace(lora_rank=8, dtype="bfloat16")
    few = setting._replace(quantize="nf4", mu_dtype="bfloat16")
    projections = QWEN.layers * QWEN.matrices
    saved = planning.memory(setting).state["parameters"] - planning.memory(few).state["parameters"]
    assert saved == pytest.approx(projections * (2 - 0.5 - 2 / 64))
    assert planning.memory(few).state["optimizer"] == pytest.approx(6 * QWEN.adapters(8))
    kept = [planning.memory(one).phases["update"]["weights kept for prompts"] for one in (setting, few)]
    assert kept == [2 * projections, 0]


def test_cache_is_two_vectors_per_layer_and_token():
    phase = planning.memory(STEP).phases["rollout"]
    assert phase["cache of prompts"] == 2 * 2 * 2 * 4 * (2 * 4)  # two vectors of 2 in 2 layers, 4 bytes, 8 tokens
    assert phase["cache of completions"] == 2 * 2 * 2 * 4 * (6 * 6)


# --- laws

meshes = st.builds(Mesh, *(st.sampled_from([1, 2, 4]) for _ in range(3)))
settings = st.builds(
    BIG._replace,
    group_size=st.sampled_from([2, 8]),
    completion_tokens=st.sampled_from([64, 512]),
    microbatches=st.sampled_from([1, 2]),
    reference=st.booleans(),
    lora_rank=st.sampled_from([0, 16]),
    dtype=st.sampled_from(["float32", "bfloat16"]),
    remat=st.booleans(),
    mesh=meshes,
)


@given(settings)
def test_all_devices_together_do_the_work_of_one(setting):
    alone = setting._replace(mesh=Mesh())
    for phase in (planning.rollout, planning.reference):
        assert phase(setting).flops * setting.mesh.devices == pytest.approx(phase(alone).flops)
    # Logits that are few enough on each device are not computed a second time.
    assert planning.update(setting).flops * setting.mesh.devices <= planning.update(alone).flops * (1 + 1e-9)


@given(settings, st.sampled_from(["data", "fsdp", "tp"]))
def test_more_devices_never_need_more_memory_each(setting, axis):
    more = setting._replace(mesh=setting.mesh._replace(**{axis: 2 * getattr(setting.mesh, axis)}))
    if setting.mesh.fsdp > 1 or axis != "fsdp":  # the first cut of the state needs a copy to compute with
        assert planning.memory(more).peak <= planning.memory(setting).peak


@given(settings)
def test_one_device_exchanges_nothing_and_every_axis_something(setting):
    used = {axis for axis in ("data", "fsdp", "tp") if getattr(setting.mesh, axis) > 1}
    assert {one.axis for one in planning.collectives(setting)} == used


@given(settings)
def test_remat_trades_memory_for_work(setting):
    on, off = setting._replace(remat=True), setting._replace(remat=False)
    assert planning.memory(on).peak <= planning.memory(off).peak
    assert planning.update(on).flops > planning.update(off).flops


@given(settings, st.sampled_from(sorted(DEVICES)))
def test_the_largest_batch_fits_and_the_next_does_not(setting, name):
    device = DEVICES[name]
    unit = setting.mesh.rows * setting.minibatches * setting.microbatches
    most = planning.largest_prompts(setting, device)
    assert most % unit == 0
    for prompts, expected in ((most, True), (most + unit, False)):
        if prompts:
            forecast = planning.plan(setting._replace(prompts=prompts), [device]).forecasts[0]
            assert forecast.fits is expected


@given(settings, st.sampled_from(sorted(DEVICES)))
def test_the_fewest_microbatches_make_it_fit(setting, name):
    fewest = planning.plan(setting, [DEVICES[name]]).forecasts[0].fewest_microbatches
    if fewest:
        assert planning.plan(setting._replace(microbatches=fewest), [DEVICES[name]]).forecasts[0].fits
    if fewest > 1:
        assert not planning.plan(setting._replace(microbatches=fewest // 2), [DEVICES[name]]).forecasts[0].fits


# --- collectives and time


def test_bytes_of_collectives_are_those_of_rings():
    found = {(one.phase, one.kind, one.axis): one for one in planning.collectives(BIG._replace(mesh=Mesh(2, 4)))}
    weights, gradient = 2 * QWEN.parameters, 4 * QWEN.parameters
    assert found["rollout", "all-gather", "fsdp"].bytes == weights * 3 / 4
    assert found["update", "all-gather", "fsdp"].bytes == 2 * weights * 3 / 4  # forward and backward
    assert found["update", "reduce-scatter", "fsdp"].bytes == gradient * 3 / 4
    assert found["update", "all-reduce", "data"].bytes == gradient / 4 * 2 * 1 / 2
    assert found["update", "all-gather", "fsdp"].count == 2 * QWEN.layers


def test_the_slowest_of_compute_memory_and_network_sets_the_pace():
    device = DEVICES["h100"]._replace(flops={"bfloat16": 1e12}, bandwidth=1e30, link=1e30)
    compute = planning.plan(BIG, [device]).forecasts[0]
    assert compute.seconds["update"] == pytest.approx(planning.update(BIG).flops / 1e12 / 0.5)
    assert set(compute.limits.values()) == {"compute"}
    starved = planning.plan(BIG, [device._replace(bandwidth=1e6)]).forecasts[0]
    assert starved.seconds["rollout"] == pytest.approx(planning.rollout(BIG).bytes / 1e6 / 0.75)
    assert set(starved.limits.values()) == {"memory"}
    split = planning.plan(BIG._replace(mesh=Mesh(fsdp=4)), [device._replace(link=1.0)]).forecasts[0]
    assert split.seconds["rollout"] == pytest.approx(2 * QWEN.parameters * 3 / 4 / 0.75)
    assert split.limits["rollout"] == "network"
    assert compute.batch_s == sum(compute.seconds.values())
    assert compute.tokens_per_second == pytest.approx(64 * 8 * 512 / compute.batch_s)


# --- against XLA


def sizes_of(architecture):
    return Sizes(*architecture[:7], vectors=2 * architecture.width + 2 * architecture.head_dim)


TINY = models.Architecture(512, layers=4, width=128, heads=4, kv_heads=2, head_dim=32, mlp=512), 16, 8, 32, 64
SMALL = models.Architecture(32_768, layers=8, width=512, heads=8, kv_heads=4, head_dim=64, mlp=2048), 4, 8, 128, 128
TOLERANCE = 0.15
CUT_CASES = [pytest.param(TINY, 4, id="tiny"), pytest.param(SMALL, 2, id="small", marks=pytest.mark.slow)]
"""Groups are cut into four and into two, as training on a CPU would."""
CASES = [pytest.param(TINY, id="tiny"), pytest.param(SMALL, id="small", marks=pytest.mark.slow)]


def case_setting(case, **others):
    architecture, prompts, group, prompt_tokens, tokens = case
    sizes = sizes_of(architecture)
    return Setting("case", sizes, prompts, group, prompt_tokens, tokens, dtype="float32", reference=True, **others)


def shapes(case):
    """Shapes of parameters, prompts, their mask and completions."""
    architecture, prompts, group, prompt_tokens, tokens = case
    params = jax.eval_shape(lambda: models.initial_params(architecture, 0))
    ids = jax.ShapeDtypeStruct((prompts, prompt_tokens), jnp.int32)
    mask = jax.ShapeDtypeStruct((prompts, prompt_tokens), bool)
    return params, ids, mask, jax.ShapeDtypeStruct((prompts, group, tokens), jnp.int32)


def compiled(function, *arguments, **options):
    """A program as XLA would run it. Compiled anew: what comes from a cache has lost its analysis."""
    return jax.jit(function, **options).lower(*arguments).compile()


def flops(program):
    return program.cost_analysis()["flops"]


def held(program):
    """Arguments, temporaries and outputs; an output in the place of a donated argument counts once."""
    sizes = program.memory_analysis()
    whole = sizes.argument_size_in_bytes + sizes.temp_size_in_bytes + sizes.output_size_in_bytes
    return whole - sizes.alias_size_in_bytes


def spec(shape, dtype=jnp.float32) -> Any:
    return jax.ShapeDtypeStruct(shape, dtype)


def rollout_programs(case):
    """The programs that a rollout runs, each with how often its one loop turns; XLA counts the body of a loop once."""
    architecture, prompts, group, _, tokens = case
    policy, (params, ids, mask, _) = models.policy(architecture), shapes(case)
    ends = sampling.segments(tokens)

    def begin(params, ids, mask):
        prefix = policy.prefix(params, ids, mask)
        return prefix, policy.cache(params, prefix, group, ends[0])

    yield compiled(begin, params, ids, mask), 1
    prefix, whole, key = jax.eval_shape(policy.prefix, params, ids, mask), Parameters(params, {}), jax.random.key(0)
    for start, end in pairwise([0, *ends]):
        cache = jax.eval_shape(lambda end=end: policy.cache(params, prefix, group, end))
        grid = spec((prompts, group), jnp.int32)
        state = sampling.Decoding(prefix, cache, grid, spec(grid.shape, bool), grid)
        fixed = {"stop_ids": (1,), "pad_id": 0, "distribution": sampling.SOFTMAX, "total_rows": prompts * group}
        segment = functools.partial(sampling.decode, policy, start=start, end=end, **fixed)
        yield compiled(segment, whole, state, jax.eval_shape(lambda: key), donate_argnums=1), end - start


@pytest.mark.parametrize("case", CASES)
def test_a_rollout_is_planned_as_xla_counts_it(case):
    setting, programs = case_setting(case), list(rollout_programs(case))
    counted = sum(flops(program) * turns for program, turns in programs)
    agree("rollout FLOP", planning.rollout(setting).flops, counted)
    agree("rollout bytes", planned(setting, "rollout"), max(held(program) for program, _ in programs))


def agree(what, planned, counted):
    """Logs both, from where the page has its numbers."""
    logging.getLogger("planning").info("%s: %.4g planned, %.4g counted", what, planned, counted)
    assert planned == pytest.approx(counted, rel=TOLERANCE)


def planned(setting, phase):
    """Parameters and what a phase adds: what its largest program holds."""
    memory = planning.memory(setting)
    return memory.state["parameters"] + sum(memory.phases[phase].values())


def head_chunks(tokens, architecture):
    """Turns of the loop over the logits of so many tokens; XLA counts one, as it counts one of all buckets."""
    return parts_of(tokens, architecture.vocab_size)


def looped(whole, without_head, chunks):
    """FLOPs of a program of which XLA has counted one chunk of logits."""
    return flops(without_head) + chunks * (flops(whole) - flops(without_head))


@pytest.mark.parametrize("case", CASES)
def test_a_reference_is_planned_as_xla_counts_it(case):
    setting, policy = case_setting(case), models.policy(case[0])
    params, ids, mask, completions = shapes(case)
    prompts = compiled(policy.prefix, params, ids, mask)
    bucket = params, jax.eval_shape(policy.prefix, params, ids, mask), completions
    whole = compiled(lambda *bucket: policy.continued_logprobs(*bucket)[0], *bucket)
    chunks = head_chunks(completions.size, case[0])
    counted = flops(prompts) + looped(whole, compiled(policy.continued, *bucket), chunks)
    agree("reference FLOP", planning.reference(setting).flops, counted)
    agree("reference bytes", planned(setting, "reference"), held(whole))


class UpdatePrograms(NamedTuple):
    prompts: jax.stages.Compiled
    kept: int
    """Bytes that wait for the backward pass of the prompts."""
    bucket: jax.stages.Compiled
    headless: jax.stages.Compiled
    settled: jax.stages.Compiled


def update_programs(case, members):
    """The programs that an update runs, groups cut into so many parts."""
    policy, (params, ids, mask, completions) = models.policy(case[0]), shapes(case)
    prompts, group, tokens = completions.shape
    shape, rest = (members, prompts, group // members, tokens), Parameters({}, {})
    prefixed = functools.partial(updates._prefixed, policy)
    prefix, pull = jax.eval_shape(prefixed, params, rest, ids, mask)
    part = updates._Completions(spec(shape, jnp.int32), spec(shape, bool), *(spec(shape) for _ in range(5)))
    stack = buckets.Stack(part, spec(shape[:2], jnp.int32), None, members)
    loss = losses.policy_loss(kl_coefficient=0.04)
    bucket = functools.partial(updates._accumulated, policy, loss, 1.0)

    def headless(params, prefix, completions):
        return jax.grad(lambda *both: policy.continued(*both, completions).sum(), argnums=0)(params, prefix)

    return UpdatePrograms(
        compiled(prefixed, params, rest, ids, mask),
        sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(pull)),
        compiled(bucket, (params, prefix[0]), params, rest, prefix, stack, donate_argnums=0),
        compiled(headless, params, jax.eval_shape(policy.prefix, params, ids, mask), spec(shape[1:], jnp.int32)),
        compiled(updates._settled, params, pull, [prefix[0]], donate_argnums=0),
    )


@pytest.mark.parametrize(("case", "members"), CUT_CASES)
def test_an_update_is_planned_as_xla_counts_it(case, members):
    setting = case_setting(case, microbatches=members)
    programs = update_programs(case, members)
    chunks = head_chunks(math.prod(case[1:3]) * case[4] // members, case[0])
    bucket = looped(programs.bucket, programs.headless, chunks)
    counted = flops(programs.prompts) + members * bucket + flops(programs.settled)
    agree("update FLOP", planning.update(setting).flops, counted)
    agree("update bytes", planned(setting, "update"), held(programs.bucket) + programs.kept)


# --- words


def test_words_are_those_of_train_and_a_few_more():
    words = [
        "model=qwen3_8b",
        "mesh=data2xfsdp4",
        "device=v5e",
        "model.dtype=float32",
        "model.remat=true",
        "training=grpo_kl",
    ]
    setting, devices = planning.read([*words, "training.group_size=16", "training.minibatches=2", "model.lora_rank=8"])
    assert setting.sizes == QWEN
    assert setting.mesh == Mesh(data=2, fsdp=4)
    assert (setting.group_size, setting.minibatches, setting.lora_rank) == (16, 2, 8)
    assert (setting.dtype, setting.remat, setting.reference) == ("float32", True, True)
    assert [device.name for device in devices] == ["v5e"]


def test_the_built_in_policy_is_planned_with_the_sizes_of_its_config(tokenizer):
    setting, devices = planning.read(["model=small"])
    architecture = models.Architecture(tokenizer.vocab_size, 4, 128, 4, 2, 32, 512)
    params = jax.eval_shape(lambda: models.initial_params(architecture, 0))
    assert setting.sizes.parameters == sum(leaf.size for leaf in jax.tree.leaves(params))
    assert [device.name for device in devices] == list(DEVICES)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["model=qwen3_8"], "did you mean `qwen3_8b`"),
        (["model=qwen3_8b", "model.layers=3"], "`model.layers=3` changes a size of qwen3_8b"),
        (["mesh=fsdp"], "join axes and sizes by x, such as fsdp4"),
        (["mesh=fsdp2xfsdp2"], "mesh is `fsdp2xfsdp2`"),
        (["mesh=fsdp4,tp2"], "mesh is `fsdp4,tp2`"),
        (["mesh=fsdp3"], "mesh has data x fsdp = 3, which does not divide 64 prompts of a rollout part"),
        (["mesh=fsdp64", "training.microbatches=16"], "does not divide 32 prompts of a microbatch"),
        (["model=qwen3_8b", "mesh=tp3"], "mesh has tp = 3, which does not divide 32 query heads of qwen3_8b"),
        (["device=v4"], "unknown device `v4`"),
        (["model.dtype=float16"], "did you mean `bfloat16`"),
        (["training.group_sise=8"], "did you mean `training.group_size`"),
    ],
)
def test_wrong_words_are_told_in_one_sentence(words, sentence):
    with pytest.raises(ConfigError, match=sentence.replace("(", r"\(")):
        planning.read(words)


@pytest.fixture
def printed(capsys):
    def run(*words):
        assert cli.main(["plan", *words]) == 0
        return capsys.readouterr().out

    return run


def test_the_command_prints_every_part(printed):
    out = printed(
        "model=qwen3_8b",
        "model.lora_rank=0",
        "model.remat=false",
        "mesh=fsdp4xtp2",
        "training.group_size=16",
        "training=grpo_kl",
    )
    lines = out.splitlines()
    assert lines[0] == (
        "qwen3_8b: 8.19 billion parameters, all parameters train, computed in bfloat16, remat off, reference on"
    )
    assert "64 prompts x 16 completions" in lines[1]
    assert lines[2] == "mesh data 1 x fsdp 4 x tp 2: 8 devices"
    for part in ("memory per device", "work per device and batch", "collectives per batch", "TPU v6e", "NVIDIA H200"):
        assert part in out
    assert max(map(len, lines)) <= 140


def test_json_holds_the_numbers_of_the_table(printed):
    words = ["model=qwen3_0p6b", "mesh=fsdp8", "device=v5e"]
    found = json.loads(printed(*words, "--json"))
    setting, devices = planning.read(words)
    forecast = planning.plan(setting, devices).forecasts[0]
    assert found["setting"]["mesh"] == {"data": 1, "fsdp": 8, "tp": 1}
    assert found["setting"]["parameters"] == setting.sizes.parameters
    assert found["memory_bytes"]["peak"] == planning.memory(setting).peak
    assert found["work"]["update"]["flops"] == planning.update(setting).flops
    assert found["devices"]["v5e"]["batch_s"] == forecast.batch_s
    assert found["devices"]["v5e"]["largest_prompts"] == forecast.largest_prompts
