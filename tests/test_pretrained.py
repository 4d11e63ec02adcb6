"""Whole runs that start from a model folder: train, go on, sample, export, and what is said when it cannot be."""

import contextlib
import dataclasses
import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from agent_tunix import cli, hugging_face, jobs, models, overrides, policies, recipes, runs, workshop
from agent_tunix.errors import AgentTunixError, ConfigError, ModelError, RunError
from agent_tunix.tokenizers import CharacterTokenizer

pytestmark = pytest.mark.usefixtures("quickly_compiled")

SIZES = {"layers": 2, "width": 32, "heads": 2, "kv_heads": 1, "head_dim": 16, "mlp": 32}
LOCAL = {"window": 8, "local": (True, False)}
FAMILIES = {
    "qwen3": {},
    "qwen3_moe": {"tied": False, "experts": models.Experts(4, 2, 16)},
    "qwen2": {},
    "llama3": {"tied": False, "rotary": models.Rotary(5e5, 1.0, models.Llama3Scaling(8.0, 1.0, 4.0, 16))},
    "gemma": {"rotary": models.Rotary(1e4)},
    "gemma2": LOCAL | {"softcap": 30.0, "attention_softcap": 50.0, "rotary": models.Rotary(1e4)},
    "gemma3": LOCAL,
    "gemma4": LOCAL
    | {
        "layers": 4,
        "local": (True, False) * 2,
        "shared": 2,
        "shared_mlp": 64,
        "layer_inputs": 4,
        "softcap": 30.0,
        "query_scale": 1.0,
        "global_head_dim": 24,
        "rotary": models.Rotary(proportion=0.25),
    },
}
SHORT = [
    "training.prompts_per_batch=4", "training.group_size=4", "data.train_size=64", "data.heldout_size=8",
    "evaluation.every_steps=2", "evaluation.rows=8", "evaluation.prompts_per_batch=8", "evaluation.sampled=false",
    "checkpoint.every_steps=1", "sampling.max_completion_tokens=6", "diagnostics.report_every_steps=0",
    "sampling.streams=1", "optimizer.warmup_steps=0", "data.system_prompt=null", "training.streams=1",
    "training.microbatches=1",
]  # fmt: skip


GRADER = """
def low(completion):
    return sum(character < "M" for character in completion) / 8
"""


def folder_of(path, family="qwen3"):
    tokenizer = CharacterTokenizer()
    architecture = models.Architecture(tokenizer.vocab_size, family=family, **SIZES | FAMILIES[family])
    params = models.initial_params(architecture, 3)
    # Tied embeddings as small as at their start leave logits that no adapter could move far.
    params["embedder"]["input_embedding"] = 10 * params["embedder"]["input_embedding"]
    return hugging_face.save(path, architecture, params, beside=lambda to: hugging_face.write_tokenizer(to, tokenizer))


def trained(folder, run_dir, *words):
    grader = run_dir.with_name("grader.py")
    grader.write_text(GRADER)
    reward = f"training.reward_function={grader}:low"
    given = [f"model.weights={folder}", f"run_dir={run_dir}", reward, *SHORT, *words]
    return jobs.train(overrides.load(given))


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    return folder_of(tmp_path_factory.mktemp("models") / "qwen3")


@pytest.fixture(scope="module")
def whole(origin, tmp_path_factory):
    run = trained(origin, tmp_path_factory.mktemp("runs") / "run", "model.lora_rank=2", "training.steps=4")
    assert run.summary["step"] == 4
    return run.path


def test_a_run_keeps_a_note_and_no_copy_of_the_weights(origin, whole):
    assert [path.name for path in (whole / "start").iterdir()] == ["origin.json"]
    assert json.loads((whole / "start" / "origin.json").read_text())["folder"] == str(origin)


ADAPTED = ["model.lora_rank=2", "training.steps=2"]


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    """The function that gives a family's model and the run that trained factors of it, trained when first asked for."""

    @functools.cache
    def run_of(family):
        folder = folder_of(tmp_path_factory.mktemp("models") / "model", family)
        return folder, trained(folder, tmp_path_factory.mktemp("runs") / "run", *ADAPTED)

    return run_of


def measured(path):
    """Metrics of a run without those of time."""
    rows = runs.read_metrics(path, "train")
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in rows]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_that_was_stopped_goes_on_to_the_same_parameters(family, adapted, tmp_path, monkeypatch):
    folder, whole = adapted(family)
    asked = iter([False, True])

    class Stops:
        def __enter__(self):
            return lambda: next(asked, True)

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(jobs, "stop_signals", Stops)
    trained(folder, tmp_path / "run", *ADAPTED)
    assert runs.read_summary(tmp_path / "run") is None
    assert len(measured(tmp_path / "run")) == 1
    monkeypatch.undo()
    resumed = trained(folder, tmp_path / "run", *ADAPTED)
    assert resumed.summary["params_sha256"] == whole.summary["params_sha256"]
    assert measured(resumed.path) == measured(whole.path)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rank", [0, 2])
def test_every_family_trains_and_exports(family, rank, adapted, tmp_path):
    if rank:
        folder, run = adapted(family)
    else:
        folder = folder_of(tmp_path / "model", family)
        run = trained(folder, tmp_path / "run", "model.lora_rank=0", "training.steps=1")
    out = policies.export(run.path, tmp_path / "out")
    assert hugging_face.read_architecture(out) == hugging_face.read_architecture(folder)
    before, after = load_file(folder / "model.safetensors"), load_file(out / "model.safetensors")
    assert set(before) == set(after)
    changed = {name for name in before if before[name].tobytes() != after[name].tobytes()}
    projections = {name for name in before if name.endswith("_proj.weight")}
    chosen = {name for name in projections if "experts" not in name}  # an expert that no token visits stays
    assert changed and (changed <= projections if rank else changed >= chosen)
    assert (out / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    start = policies.export(run.path, tmp_path / "start", checkpoint=0)
    same = load_file(start / "model.safetensors")
    assert all(same[name].tobytes() == tensor.tobytes() for name, tensor in before.items())


def test_an_exported_run_is_the_policy_of_the_run(whole, tmp_path):
    out = policies.export(whole, tmp_path / "out")
    shop, parameters = policies.load(whole)
    _, params = hugging_face.load(out)
    assert models.params_sha256(params) == models.params_sha256(jax.device_get(models.merged(parameters)))
    again = overrides.load([f"model.weights={out}", *SHORT])
    other = workshop.workshop(again)
    rows, key = shop.dataset.heldout[:4], jax.random.key(0)
    ours = workshop.sampler(shop)(parameters, rows, 2, key)
    theirs = workshop.sampler(other)(models.full(params), rows, 2, key)
    np.testing.assert_array_equal(ours.completion_ids, theirs.completion_ids)


def test_the_built_in_policy_exports_with_its_tokenizer(tmp_path, capsys):
    words = ["model.layers=1", "model.width=16", "model.mlp=16", "model.head_dim=8", "warm_start.steps=0"]
    jobs.train(overrides.load([f"run_dir={tmp_path / 'run'}", "training.steps=1", *SHORT, *words]))
    assert cli.main(["export", str(tmp_path / "run"), "--to", str(tmp_path / "out"), "--dtype", "bfloat16"]) == 0
    assert str(tmp_path / "out") in capsys.readouterr().out
    shop, _ = policies.load(tmp_path / "run")
    architecture, params = hugging_face.load(tmp_path / "out")
    assert architecture == shop.architecture
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(params)} == {"bfloat16"}
    assert workshop.workshop(overrides.load([f"model.weights={tmp_path / 'out'}"])).tokenizer.vocab_size == 104
    assert cli.main(["export", str(tmp_path / "run"), "--to", str(tmp_path / "out")]) == 1
    assert "is not empty" in capsys.readouterr().err


def test_half_precision_keeps_the_frozen_backbone_in_it(origin, tmp_path):
    run = trained(origin, tmp_path / "run", "model.lora_rank=2", "model.dtype=bfloat16", "training.steps=1")
    _, parameters = policies.load(run.path)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(parameters.frozen)} == {"bfloat16"}
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(parameters.trainable)} == {"float32"}
    whole = models.folded(models.merged(parameters))
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(whole)} == {"bfloat16"}


def test_weights_that_changed_are_refused(origin, tmp_path):
    moved = tmp_path / "model"
    shutil.copytree(origin, moved)
    run = trained(moved, tmp_path / "run", "training.steps=1")
    architecture, params = hugging_face.load(moved)
    shutil.rmtree(moved)
    tokenizer = CharacterTokenizer()
    hugging_face.save(
        moved, architecture, jax.tree.map(lambda leaf: leaf + 1, params),
        beside=lambda to: hugging_face.write_tokenizer(to, tokenizer),
    )  # fmt: skip
    with pytest.raises(RunError, match="are not those that"):
        jobs.sample_run(run.path, 1)


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    architecture = models.Architecture(50, **SIZES)
    folder = hugging_face.save(
        tmp_path / "model", architecture, models.initial_params(architecture, 0),
        beside=lambda to: hugging_face.write_tokenizer(to, CharacterTokenizer()),
    )  # fmt: skip
    with pytest.raises(ModelError, match="ids up to 103, but the model embeds 50 tokens"):
        workshop.workshop(overrides.load([f"model.weights={folder}"]))


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gemma3", "llama3"])
def test_low_rank_grpo_learns_a_task_of_tokens(family, tmp_path):
    folder = folder_of(tmp_path / "model", family)
    words = ["model.lora_rank=4", "training.steps=60", "training.prompts_per_batch=8", "training.group_size=8"]
    further = ["optimizer.learning_rate=1e-2", "evaluation.every_steps=0", "checkpoint.every_steps=60"]
    run = trained(folder, tmp_path / "run", *words, *further)
    rewards = [row["reward/mean"] for row in runs.read_metrics(run.path, "train")]
    assert np.mean(rewards[-5:]) > np.mean(rewards[:5]) + 0.15


# --- Hubs -------------------------------------------------------------------------------------------------------------


def failing(monkeypatch, module, name, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(f"{module}.{name}", fail)


def hub_error(kind, text):
    import httpx

    request = httpx.Request("GET", "https://hub")
    return kind(text, response=httpx.Response(403, request=request))


def test_a_gated_unknown_or_unreachable_model_is_told_in_one_line(monkeypatch):
    from huggingface_hub import errors

    for error, words in (
        (hub_error(errors.GatedRepoError, "gated"), "licence to be accepted: open https://huggingface.co/org/name"),
        (hub_error(errors.RepositoryNotFoundError, "no"), "is not on the hub, or private"),
        (hub_error(errors.RevisionNotFoundError, "no"), "has no revision v2"),
        (
            errors.LocalEntryNotFoundError("no connection\nat all"),
            r"could not be loaded from the hub \(no connection\)",
        ),
    ):
        failing(monkeypatch, "huggingface_hub", "snapshot_download", error)
        with pytest.raises(ModelError, match=words) as caught:
            hugging_face.folder_of("hf:org/name@v2")
        assert "\n" not in str(caught.value)


def test_the_hub_is_asked_for_what_is_read(monkeypatch, origin):
    asked = {}

    def download(repository, **settings):
        asked.update(settings, repository=repository)
        return str(origin)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert hugging_face.folder_of("hf:org/name@v2") == origin
    assert (asked["repository"], asked["revision"]) == ("org/name", "v2")
    assert "*.safetensors" in asked["allow_patterns"]
    assert not any(pattern.endswith(".bin") for pattern in asked["allow_patterns"])


def test_kaggle_is_told_in_one_line(monkeypatch, origin):
    for error, words in (
        (ValueError("Invalid model handle: x"), "no handle of a model"),
        (RuntimeError("403 Client Error"), "asks for a login and its licence"),
        (ConnectionError("no route"), r"could not be loaded from Kaggle \(no route\)"),
    ):
        failing(monkeypatch, "kagglehub", "model_download", error)
        with pytest.raises(ModelError, match=words):
            hugging_face.folder_of("kaggle:google/gemma-3/transformers/x")
    monkeypatch.setattr("kagglehub.model_download", lambda handle: str(origin))
    assert hugging_face.folder_of("kaggle:google/gemma-3/transformers/x") == origin


def test_a_name_without_its_scheme_is_understood():
    with pytest.raises(ModelError, match="did you mean hf:google/gemma-3-270m-it"):
        hugging_face.folder_of("google/gemma-3-270m-it")


def test_the_default_of_accelerators_resolves(capsys):
    assert cli.main(["train", "model=gemma3_270m", "data=gsm8k", "--cfg", "job"]) == 0
    assert "weights: hf:google/gemma-3-270m-it" in capsys.readouterr().out
    config = overrides.load(["model=gemma3_270m"])
    assert dataclasses.asdict(config.model)["lora_rank"] > 0


# --- A backbone in fewer bits -----------------------------------------------------------------------------------------


def test_a_quantised_run_goes_on_to_the_same_parameters_and_exports_what_it_was(origin, tmp_path, monkeypatch):
    words = ["model.lora_rank=2", "model.quantize=nf4", "training.steps=2"]
    straight = trained(origin, tmp_path / "straight", *words)
    asked = iter([False, True])
    monkeypatch.setattr(jobs, "stop_signals", lambda: contextlib.nullcontext(lambda: next(asked, True)))
    trained(origin, tmp_path / "run", *words)
    assert runs.read_summary(tmp_path / "run") is None
    monkeypatch.undo()
    again = trained(origin, tmp_path / "run", *words)
    assert again.summary["params_sha256"] == straight.summary["params_sha256"]
    shop, parameters = policies.load(straight.path)
    out = policies.export(straight.path, tmp_path / "out")
    exported = hugging_face.load(out)[1]
    batch = jnp.ones((1, 3), jnp.int32), jnp.ones((1, 3), bool), jnp.arange(4).reshape(1, 1, 4)
    logprobs = jax.jit(shop.policy.logprobs)
    got, wanted = (logprobs(params, *batch)[0] for params in (exported, models.merged(parameters)))
    np.testing.assert_allclose(got, wanted, atol=1e-5)
    before, after = load_file(origin / "model.safetensors"), load_file(out / "model.safetensors")
    same = {name for name in before if before[name].tobytes() == after[name].tobytes()}
    assert same == {name for name in before if not name.endswith("_proj.weight")}


def test_fewer_bits_without_factors_are_refused():
    with pytest.raises(ConfigError, match=r"model.quantize is nf4, .* set model.lora_rank"):
        recipes.validate(overrides.load(["model.quantize=nf4"]))
    with pytest.raises(ConfigError, match=r"unknown model.quantize `fp3`"):
        recipes.validate(overrides.load(["model.quantize=fp3", "model.lora_rank=2"]))


# --- Runs that start from runs ----------------------------------------------------------------------------------------


def test_a_run_starts_from_a_checkpoint_of_another(whole, tmp_path):
    first = policies.load(whole, 3)[1]
    run = trained(f"run:{whole}@3", tmp_path / "run", "training.steps=1", f"cache_dir={tmp_path / 'cache'}")
    start = policies.load(run.path, 0)[1].trainable
    assert models.params_sha256(start) == models.params_sha256(jax.device_get(models.merged(first)))
    assert models.params_sha256(policies.load(run.path)[1].trainable) != models.params_sha256(start)


def test_the_newest_and_the_best_checkpoint_have_names(whole, tmp_path):
    cache = f"cache_dir={tmp_path / 'cache'}"
    newest, best, fourth = (
        policies.workshop_of(overrides.load([f"model.weights=run:{whole}{which}", cache, *SHORT])).origin
        for which in ("", "@best", "@4")
    )
    assert newest == fourth and best.parent == newest.parent


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ("run:{whole}@last", "ends in @last; write @STEP or @best"),
        ("run:{whole}@77", "no checkpoint of step 77"),
        ("run:{missing}", "is not a run"),
    ],
)
def test_weights_of_a_run_that_are_not_there_are_named(weights, sentence, whole, tmp_path):
    given = weights.format(whole=whole, missing=tmp_path / "missing")
    with pytest.raises(AgentTunixError, match=sentence):
        policies.workshop_of(overrides.load([f"model.weights={given}", f"cache_dir={tmp_path / 'cache'}"]))
