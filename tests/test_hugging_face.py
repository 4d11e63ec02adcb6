"""Model folders of every family, made by transformers with random weights, against transformers itself."""

import json
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from agent_tunix import hugging_face, models
from agent_tunix.errors import ModelError

pytestmark = pytest.mark.usefixtures("quickly_compiled")

SIZES = {
    "vocab_size": 48,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 16, "rope_theta": 500_000.0}
WINDOWED = {"sliding_window": 6, "query_pre_attn_scalar": 12}
CAPS = {"final_logit_softcapping": 4.0, "attn_logit_softcapping": 3.0}
LAYERS = ["sliding_attention", "full_attention", "sliding_attention"]
GEMMA3_ROPE = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1_000_000.0},
}
GEMMA4 = {
    "sliding_window": 6, "global_head_dim": 16, "vocab_size_per_layer_input": 48, "hidden_size_per_layer_input": 0,
}  # fmt: skip
EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
FAMILIES = {
    "qwen3": ("Qwen3", {"rope_parameters": {"rope_type": "default", "rope_theta": 5e6}, "tie_word_embeddings": True}),
    "qwen3 untied": ("Qwen3", {"tie_word_embeddings": False}),
    "qwen3_moe": ("Qwen3Moe", EXPERTS | {"norm_topk_prob": True, "tie_word_embeddings": False}),
    "qwen3_moe of weights as they are": ("Qwen3Moe", EXPERTS | {"norm_topk_prob": False, "tie_word_embeddings": True}),
    "qwen2": ("Qwen2", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}, "tie_word_embeddings": True}),
    "llama3": ("Llama", {"rope_parameters": LLAMA3, "rms_norm_eps": 1e-5, "tie_word_embeddings": False}),
    "gemma": ("Gemma", {"num_key_value_heads": 4}),
    "gemma2": ("Gemma2", WINDOWED | CAPS | {"layer_types": LAYERS}),
    "gemma3": ("Gemma3", WINDOWED | {"layer_types": LAYERS, "rope_parameters": GEMMA3_ROPE}),
    "gemma4": ("Gemma4", GEMMA4 | {
        "num_hidden_layers": 6, "layer_types": [*LAYERS[:2], *LAYERS[:2], *LAYERS[:2]], "num_kv_shared_layers": 2,
        "hidden_size_per_layer_input": 4, "use_double_wide_mlp": True, "final_logit_softcapping": 4.0,
    }),
    "gemma4 of experts": ("Gemma4", GEMMA4 | {
        "num_hidden_layers": 2, "layer_types": LAYERS[:2], "attention_k_eq_v": True, "num_global_key_value_heads": 1,
        "enable_moe_block": True, "num_experts": 6, "top_k_experts": 2, "moe_intermediate_size": 12,
    }),
}  # fmt: skip


def made(folder, name, dtype="float32", **settings):
    """A model of transformers with random weights, norms and biases included, saved into a folder."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    prefix, details = FAMILIES[name]
    config_name = f"{prefix}TextConfig" if prefix in ("Gemma3", "Gemma4") else f"{prefix}Config"
    config = getattr(transformers, config_name)(**(SIZES | details | settings))
    config._attn_implementation = "eager"  # the others leave out the bound of attention scores
    model = getattr(transformers, f"{prefix}ForCausalLM")(config)
    random = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn(weight.shape, generator=random))
    model = model.to(getattr(torch, dtype)).eval()
    model.save_pretrained(folder)
    return model


def logits_of(model, ids):
    import torch

    with torch.no_grad():
        return model(torch.tensor(np.asarray(ids))).logits.float().numpy()


@pytest.fixture(scope="module")
def tokens():
    return np.random.default_rng(0).integers(3, 48, (2, 13), np.int32)


@pytest.fixture(scope="module", params=FAMILIES)
def loaded(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model = made(folder, request.param)
    return model, folder, *hugging_face.load(folder)


def teacher_forced(architecture, params, ids, prompt=5):
    """Log-probabilities over the vocabulary at every completion token, with left padding before the prompt."""
    policy = models.policy(architecture)
    padded = np.pad(ids[:, :prompt], ((0, 0), (3, 0)))
    mask = np.arange(padded.shape[1]) >= 3
    mask = np.broadcast_to(mask, padded.shape)

    @jax.jit
    def found(params):
        features = policy.features(params, jnp.asarray(padded), jnp.asarray(mask), jnp.asarray(ids[:, None, prompt:]))
        return policy.logits(params, features)[:, 0]

    return np.asarray(found(params))


def test_logits_are_those_of_transformers(loaded, tokens):
    model, _, architecture, params = loaded
    expected = logits_of(model, tokens)[:, 4:-1]
    found = teacher_forced(architecture, params, tokens)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert expected.std() > 0.1, "a model that says the same everywhere shows nothing"


def test_logprobs_and_decoding_agree_with_the_logits(loaded, tokens):
    model, _, architecture, params = loaded
    policy = models.policy(architecture)
    ids = jnp.asarray(tokens)
    expected = np.asarray(jax.nn.log_softmax(logits_of(model, tokens)[:, 4:-1], axis=-1))
    expected = np.take_along_axis(expected, tokens[:, 5:, None], axis=-1)[..., 0]
    mask = jnp.ones((2, 5), bool)
    logprobs, entropy = jax.jit(policy.logprobs)(params, ids[:, :5], mask, ids[:, None, 5:])
    np.testing.assert_allclose(logprobs[:, 0], expected, atol=1e-4)
    assert bool((entropy > 0).all())
    prefix = jax.jit(policy.prefix)(params, ids[:, :5], mask)
    step = jax.jit(lambda *fed: policy.decoder(params, prefix)(*fed))
    cache = policy.grown(policy.cache(params, prefix, 1, 4), 8)
    feed = tokens[:, 4:-1]
    for index in range(feed.shape[1]):
        logits, cache = step(cache, jnp.asarray(feed[:, index, None]), jnp.asarray(index))
        found = jnp.take_along_axis(jax.nn.log_softmax(logits[:, 0]), ids[:, 5 + index, None], axis=-1)[:, 0]
        np.testing.assert_allclose(found, expected[:, index], atol=1e-4)


def test_an_exported_folder_is_equal_to_the_last_bit(loaded, tmp_path, tokens):
    model, folder, architecture, params = loaded
    out = hugging_face.save(tmp_path / "out", architecture, params, like=folder)
    before, after = load_file(folder / "model.safetensors"), load_file(out / "model.safetensors")
    assert set(after) == set(before) - {"lm_head.weight"} or set(after) == set(before)
    for name, tensor in after.items():
        assert tensor.tobytes() == before[name].tobytes(), name
    again = type(model).from_pretrained(out, attn_implementation="eager")
    np.testing.assert_array_equal(logits_of(again, tokens), logits_of(model, tokens))
    assert hugging_face.read_architecture(out) == architecture


def test_a_folder_without_an_origin_is_the_same_model(loaded, tmp_path, tokens):
    model, _, architecture, params = loaded
    out = hugging_face.save(tmp_path / "out", architecture, params)
    assert hugging_face.read_architecture(out) == architecture
    again = type(model).from_pretrained(out, attn_implementation="eager")
    np.testing.assert_allclose(logits_of(again, tokens), logits_of(model, tokens), atol=1e-6)


@pytest.mark.parametrize("name", ["qwen3", "gemma3"])
def test_sixteen_bits_stay_sixteen_bits(name, tmp_path):
    made(tmp_path / "in", name, dtype="bfloat16")
    architecture, params = hugging_face.load(tmp_path / "in")
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("bfloat16")}
    out = hugging_face.save(tmp_path / "out", architecture, params, like=tmp_path / "in")
    before, after = load_file(tmp_path / "in" / "model.safetensors"), load_file(out / "model.safetensors")
    assert all(tensor.tobytes() == before[key].tobytes() for key, tensor in after.items())
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
    _, wide = hugging_face.load(tmp_path / "in", dtype="float32")
    assert {leaf.dtype for leaf in jax.tree.leaves(wide)} == {jnp.dtype("float32")}


def test_shards_are_read_and_written(tmp_path):
    model = made(tmp_path / "in", "llama3")
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    architecture, params = hugging_face.load(tmp_path / "shards")
    _, whole = hugging_face.load(tmp_path / "in")
    assert models.params_sha256(params) == models.params_sha256(whole)
    out = hugging_face.save(tmp_path / "out", architecture, params, shard_bytes=20_000)
    index = json.loads((out / "model.safetensors.index.json").read_text())
    files = set(index["weight_map"].values())
    assert len(files) > 2
    assert files == {path.name for path in out.glob("*.safetensors")}
    assert models.params_sha256(hugging_face.load(out)[1]) == models.params_sha256(params)


def test_the_text_part_of_a_larger_model_is_taken(tmp_path, caplog):
    made(tmp_path / "in", "gemma3")
    tensors = load_file(tmp_path / "in" / "model.safetensors")
    larger = tmp_path / "larger"
    larger.mkdir()
    renamed = {"language_model." + name: tensor for name, tensor in tensors.items()}
    renamed["vision_tower.embedding.weight"] = np.zeros((2, 2), np.float32)
    save_file(renamed, larger / "model.safetensors")
    text = json.loads((tmp_path / "in" / "config.json").read_text())
    (larger / "config.json").write_text(json.dumps({"model_type": "gemma3", "text_config": text}))
    with caplog.at_level(logging.WARNING):
        architecture, params = hugging_face.load(larger)
    assert "vision_tower.embedding.weight" in caplog.text
    assert (architecture, models.params_sha256(params)) == (
        hugging_face.load(tmp_path / "in")[0],
        models.params_sha256(hugging_face.load(tmp_path / "in")[1]),
    )


def test_the_older_spelling_of_positions_reads_the_same(tmp_path):
    made(tmp_path, "gemma3")
    config = json.loads((tmp_path / "config.json").read_text())
    newer = hugging_face.architecture_of(config)
    older = {key: value for key, value in config.items() if key not in ("rope_parameters", "layer_types")}
    older |= {"rope_theta": 1e6, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}
    older |= {"rope_local_base_freq": 10_000.0, "sliding_window_pattern": 2}
    assert hugging_face.architecture_of(older) == newer
    llama = SIZES | {"model_type": "llama", "rms_norm_eps": 1e-5, "rope_theta": 5e5, "rope_scaling": LLAMA3}
    assert hugging_face.architecture_of(llama).rotary == models.Rotary(
        5e5, 1.0, models.Llama3Scaling(8.0, 1.0, 4.0, 16)
    )


# --- Errors -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """A small Qwen3, written by us alone."""
    architecture = models.tiny(20, layers=1, width=16, heads=2, head_dim=8, mlp=16)
    return hugging_face.save(tmp_path / "model", architecture, models.initial_params(architecture, 0))


def without(folder, name):
    tensors = load_file(folder / "model.safetensors")
    del tensors[name]
    save_file(tensors, folder / "model.safetensors")


def changed(folder, **entries):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def cut_off(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


BROKEN = {
    "no folder": (lambda folder: folder.rename(folder.with_name("away")), "is no folder"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "no config.json"),
    "config is no JSON": (lambda folder: (folder / "config.json").write_text("{"), "is not JSON"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "no *.safetensors"),
    "cut off": (cut_off, "cut off"),
    "a missing weight": (lambda folder: without(folder, "model.norm.weight"), "lacks the weights model.norm.weight"),
    "another shape": (lambda folder: changed(folder, hidden_size=8), "belong to another config"),
    "another family": (lambda folder: changed(folder, model_type="qwen33"), "did you mean `qwen3`"),
    "other positions": (lambda folder: changed(folder, rope_parameters={"rope_type": "yarn"}), "yarn"),
    "layers without experts": (lambda folder: changed(folder, mlp_only_layers=[0]), "mlp_only_layers"),
    "biases": (lambda folder: changed(folder, attention_bias=True), "attention_bias=true"),
    "no size": (lambda folder: changed(folder, vocab_size=None), "no vocab_size"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_folder_is_told_in_one_line(name, folder):
    how, words = BROKEN[name]
    how(folder)
    with pytest.raises(ModelError) as caught:
        hugging_face.load(folder)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_shard_is_named(folder, tmp_path):
    architecture, params = hugging_face.load(folder)
    out = hugging_face.save(tmp_path / "shards", architecture, params, shard_bytes=1000)
    gone = sorted(out.glob("*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(ModelError, match=gone.name):
        hugging_face.load(out)


def test_nothing_is_overwritten_and_a_full_disk_leaves_nothing(folder, tmp_path, monkeypatch):
    architecture, params = hugging_face.load(folder)
    with pytest.raises(ModelError, match="is not empty"):
        hugging_face.save(folder, architecture, params)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("agent_tunix.hugging_face._folder.save_file", full)
    with pytest.raises(ModelError, match="No space left"):
        hugging_face.save(tmp_path / "new", architecture, params)
    assert not (tmp_path / "new").exists()


EVERY = {
    "gemma2": {"local": (True, False), "window": 4},
    "gemma3": {"local": (True, False), "window": 4},
    "gemma4": {"local": (True, False) * 2, "window": 4, "layers": 4, "shared": 2, "shared_mlp": 32, "layer_inputs": 4},
}
"""What families need besides sizes."""


def test_every_weight_of_the_tree_has_a_name():
    experts = {"experts": models.Experts(4, 2, 8)}
    beside = {"local": (True, False), "keys_are_values": True, "global_kv_heads": 1, "global_head_dim": 16, **experts}
    further = [("gemma4", beside), ("qwen3_moe", experts)]
    for family, details in [*((name, EVERY.get(name, {})) for name in models.FAMILIES), *further]:
        for kv_heads in (2, 4):
            sizes = {"layers": 2, "width": 16, "heads": 4, "kv_heads": kv_heads, "head_dim": 8, "mlp": 16}
            architecture = models.Architecture(20, **sizes | details, family=family)
            params = jax.eval_shape(lambda architecture=architecture: models.initial_params(architecture, 0))
            paths = {
                tuple(getattr(part, "key", getattr(part, "idx", None)) for part in path)
                for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]
            }
            assert paths == {weight.path for weight in hugging_face.weights(architecture)}


def test_the_written_file_says_that_it_is_for_pytorch(folder):
    with safe_open(folder / "model.safetensors", framework="np") as tensors:
        assert tensors.metadata() == {"format": "pt"}
