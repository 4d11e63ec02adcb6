"""From a configuration to everything a job works with: rows, policy, sampler, optimizer, starting parameters."""

import dataclasses
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Key

from agent_tunix import (
    buckets,
    checkpoints,
    data,
    devices,
    evaluation,
    hosts,
    hugging_face,
    layouts,
    meshes,
    models,
    optimizers,
    recipes,
    rewards,
    sampling,
    sources,
    supervised,
    tokenizers,
    training,
)
from agent_tunix.collecting import Batches, Feedback
from agent_tunix.config import Config
from agent_tunix.errors import ConfigError, ModelError, RunError
from agent_tunix.models import Parameters, Policy
from agent_tunix.sampling import Distribution, Sample
from agent_tunix.tokenizers import CharacterTokenizer, Tokenizer
from agent_tunix.types import Params, Reward, Row

if TYPE_CHECKING:
    from agent_tunix.engines import Rollout

logger = logging.getLogger(__name__)

CACHED_TOKENS = 2200
"""Tokens of a microbatch on a CPU, unless set."""

MOST_IN_STREAMS = 2**24
"""Parameters of the largest policy that is decoded in two streams on a CPU, unless set."""

START = "start"
"""Folder of a run that holds the parameters GRPO started from, or a note where they are."""

ORIGIN = "origin.json"
"""That note."""


class Workshop(NamedTuple):
    """What a configuration stands for, before any training."""

    config: Config
    tokenizer: Tokenizer
    dataset: data.Dataset
    architecture: models.Architecture
    policy: Policy
    origin: Path | None = None
    """Folder of the pretrained weights, None where they are drawn."""
    layout: layouts.Layout = layouts.plain
    """What the model is shown of a row."""


def workshop(config: Config, folder_of: Callable[[str], Path] = hugging_face.folder_of) -> Workshop:
    """Loads rows and builds the policy's functions.

    Args:
      config: The whole run.
      folder_of: The folder that `model.weights` means.
    """
    origin = folder_of(config.model.weights) if config.model.weights else None
    tokenizer, architecture = _drawn(config) if origin is None else _pretrained(origin)
    policy = models.policy(architecture, dtype=config.model.dtype, remat=config.model.remat)
    dataset = sources.dataset(config)
    shown, trained = dataset.train[: config.data.few_shot], dataset.train[config.data.few_shot :]
    layout = _layout(config, tokenizer, shown)
    return Workshop(config, tokenizer, dataset._replace(train=trained), architecture, policy, origin, layout)


def _layout(config: Config, tokenizer: Tokenizer, examples: Sequence[Row]) -> layouts.Layout:
    settings, automatic = config.data, config.data.system_prompt == "auto"
    chosen = layouts.ANSWER_FORMAT if config.model.weights else None
    system = chosen if automatic else settings.system_prompt
    return layouts.layout(tokenizer, system_prompt=system, examples=examples, chat=settings.chat)


def _drawn(config: Config) -> tuple[Tokenizer, models.Architecture]:
    sizes, tokenizer = dataclasses.asdict(config.model), CharacterTokenizer()
    names = ("layers", "width", "heads", "kv_heads", "head_dim", "mlp")
    return tokenizer, models.tiny(tokenizer.vocab_size, **{name: sizes[name] for name in names})


def _pretrained(folder: Path) -> tuple[Tokenizer, models.Architecture]:
    """Tokenizer and architecture of a model folder.

    Raises:
      ModelError: If they cannot be read, or do not belong together.
    """
    architecture, tokenizer = hugging_face.read_architecture(folder), tokenizers.of_folder(folder)
    most = max(tokenizer.pad_id(), *tokenizer.stop_ids(), tokenizer.vocab_size - 1)
    if most >= architecture.vocab_size:
        raise ModelError(
            f"the tokenizer of {folder} has ids up to {most}, but the model embeds {architecture.vocab_size} tokens; "
            "tokenizer and weights are of different models"
        )
    return tokenizer, architecture


def sampler(shop: Workshop, *, greedy: bool = False, mesh: Mesh | None = None) -> Sample:
    """The configured sampler, or its greedy twin; over a mesh where one is given."""
    data_config, config = shop.config.data, shop.config.sampling
    distribution = Distribution(config.temperature, config.top_k, config.top_p, config.min_p)
    return sampling.sampler(
        shop.policy,
        shop.tokenizer,
        max_prompt_tokens=data_config.max_prompt_tokens,
        max_completion_tokens=config.max_completion_tokens,
        overlong_prompts=data_config.overlong_prompts,
        stop=config.stop,
        distribution=Distribution(temperature=0.0) if greedy else distribution,
        streams=_threads("sampling.streams", config.streams, shop.architecture, mesh),
        layout=shop.layout,
        mesh=mesh,
    )


def rollout(config: Config) -> "Rollout":
    """How Tunix samples, and where it does that and trains.

    Raises:
      ConfigError: If its settings cannot mean anything.
    """
    from agent_tunix import engines  # Tunix's learners take seconds to import

    chosen, sampled, prompts = config.tunix, config.sampling, config.data
    settings, version = dict(chosen.settings), f"rollout_{chosen.rollout}_model_version"
    if chosen.rollout != "vanilla" and config.model.weights:
        settings = {version: config.model.weights.removeprefix("hf:")} | settings
    found = engines.Rollout(
        max_prompt_tokens=prompts.max_prompt_tokens,
        max_completion_tokens=sampled.max_completion_tokens,
        engine=chosen.rollout,
        settings=settings,
        train_mesh=chosen.train_mesh,
        rollout_mesh=chosen.rollout_mesh,
        overlong_prompts=prompts.overlong_prompts,
        distribution=Distribution(sampled.temperature, sampled.top_k, sampled.top_p, sampled.min_p),
        stop=tuple(sampled.stop),
    )
    engines.check(found)
    return found


def streams(architecture: models.Architecture) -> int:
    """How many parts to decode, and how many buckets to compute, at the same time where nothing is set.

    Tried by hand on 2 cores, 2026-11-30: two streams make rollouts of 0.13, 0.8, 5.0 and 16 million parameters take
    0.60, 0.56, 0.89 and 0.96 of the time, those of 36 million 1.02. The update of 0.8 million takes 0.90.
    """
    attention = 2 * (architecture.heads + architecture.kv_heads) * architecture.head_dim
    experts = architecture.experts
    inner = architecture.mlp if experts is None else architecture.mlp + experts.number * experts.mlp
    layers = architecture.layers * architecture.width * (attention + 3 * inner)
    small = layers + architecture.vocab_size * architecture.width <= MOST_IN_STREAMS
    return 2 if small and jax.default_backend() == "cpu" else 1


def _threads(key: str, chosen: int, architecture: models.Architecture, mesh: Mesh | None) -> int:
    """Streams as set or chosen; where devices talk within programs, two that overtake each other would wait for ever.

    Raises:
      ConfigError: If several are set there.
    """
    if not devices.talk(mesh):
        return chosen or streams(architecture)
    if chosen > 1:
        raise ConfigError(f"{key} is {chosen}, but streams are for one process whose mesh is over `data` alone; take 1")
    return 1


def cache_dir(config: Config) -> Path:
    """Where compiled programs and warm starts are kept between runs."""
    return Path(config.cache_dir or os.environ.get("AGENT_TUNIX_CACHE") or ".cache/agent_tunix").absolute()


def keep_compiled_programs(folder: Path) -> None:
    """Turns on JAX's persistent compilation cache."""
    jax.config.update("jax_compilation_cache_dir", str(folder / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def check_prompts(shop: Workshop) -> None:
    """Refuses prompts above their budget before anything is trained, or says how many will be truncated."""
    settings = shop.config.data
    prompts = [shop.layout(row) for row in (*shop.dataset.train, *shop.dataset.heldout)]
    encoded = data.encode_prompts(
        shop.tokenizer, prompts, max_tokens=settings.max_prompt_tokens, overlong=settings.overlong_prompts
    )
    if encoded.truncated:
        logger.warning(
            "%d of %d prompts are longer than data.max_prompt_tokens=%d and lose tokens on their left",
            encoded.truncated, len(prompts), settings.max_prompt_tokens,
        )  # fmt: skip


def mesh(config: Config) -> Mesh | None:
    """The devices of `mesh`, or None for one.

    Raises:
      ConfigError: If there are fewer.
    """
    axes, there = meshes.mesh(config.mesh), jax.devices()
    number = axes.devices
    if hosts.count() > 1:
        _check_hosts(config, axes, there)
    if number == 1:
        return None
    if number > len(there):
        raise ConfigError(
            f"mesh is {config.mesh}, but JAX sees {len(there)} devices ({there[0].platform}); ask for as many, or "
            f"simulate them on a CPU with XLA_FLAGS=--xla_force_host_platform_device_count={number}"
        )
    if number == axes.data:
        return Mesh(np.array(there[:number]), (devices.DATA,))
    # Devices of a process lie together, and those along `tp`, which talk most, next to each other.
    return Mesh(np.array(there[:number]).reshape(axes), axes._fields)


def _check_hosts(config: Config, axes: meshes.Mesh, there: Sequence[jax.Device]) -> None:
    """Refuses what several processes cannot deal out: each has a whole number of shares of the prompts."""
    own = jax.local_device_count()
    if axes.devices != len(there) or len(there) != own * hosts.count():
        raise ConfigError(
            f"mesh is {config.mesh}, but {hosts.count()} processes have {len(there)} devices, {own} of them here; take "
            "a mesh over all of them, and as many in every process"
        )
    if own % axes.tp:
        raise ConfigError(f"mesh has tp = {axes.tp}, which does not divide the {own} devices of a process")


def placed(shop: Workshop, parameters: Parameters, mesh: Mesh | None) -> Parameters:
    """Parameters cut over a mesh by the rules of their family.

    Raises:
      ModelError: If `tp` does not divide the query heads.
    """
    if mesh is None:
        return parameters
    return devices.placed(mesh, parameters, models.placements(shop.architecture, parameters, dict(mesh.shape)))


def plan(config: Config, architecture: models.Architecture, mesh: Mesh | None = None) -> training.Plan:
    """The length and the portions of training."""
    settings = config.training
    if settings.rollouts_ahead and devices.talk(mesh):
        raise ConfigError(
            f"training.rollouts_ahead is 1, but programs that run side by side need one process and a mesh over `data` "
            f"alone; mesh is {config.mesh}, processes are {hosts.count()}"
        )
    threads = _threads("training.streams", settings.streams, architecture, mesh)
    return training.Plan(
        steps=settings.steps,
        group_size=settings.group_size,
        num_iterations=settings.num_iterations,
        minibatches=settings.minibatches,
        microbatches=settings.microbatches or (1 if config.engine == "tunix" else _microbatches(config, threads)),
        rollout_microbatches=config.sampling.rollout_microbatches,
        max_refills=settings.max_refills,
        temperature=config.sampling.temperature,
        evaluate_every=config.evaluation.every_steps,
        patience=config.evaluation.patience,
        checkpoint_every=config.checkpoint.every_steps,
        seed=config.seed,
        rollouts_ahead=settings.rollouts_ahead,
        streams=threads,
    )


def _microbatches(config: Config, threads: int) -> int:
    """How many parts keep the activations of a CPU's update in its cache; one on accelerators, which like size.

    Measured on 2 cores with 16 prompts of 32 tokens and groups of 8 times 64 tokens (8,704 tokens): a step takes 2.52
    CPU-seconds with the update whole, 1.96 in parts of 2,176 tokens (version of 2026-11-21, morning). Streams share the
    cache.
    """
    if jax.default_backend() != "cpu":
        return 1
    settings, shares = config.training, config.training.minibatches * meshes.mesh(config.mesh).rows
    prompts = settings.prompts_per_batch // shares
    lengths = config.data.max_prompt_tokens, config.sampling.max_completion_tokens
    wanted = prompts * (lengths[0] + settings.group_size * lengths[1]) / CACHED_TOKENS * threads
    most = prompts * settings.group_size

    def possible(parts: int) -> bool:
        try:
            return bool(buckets.cut_of(parts, prompts, settings.group_size, *lengths))
        except ValueError:
            return False

    return next(parts for parts in range(1, most + 1) if parts >= min(wanted, most) and possible(parts))


def optimizer(config: Config) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The optimizer and the schedule of its learning rate."""
    settings = dataclasses.asdict(config.optimizer)
    names = ("learning_rate", "warmup_steps", "schedule", "final_fraction")
    schedule = optimizers.learning_rate_schedule(
        steps=config.training.steps, **{name: settings.pop(name) for name in names}
    )
    return optimizers.adamw(schedule, **settings), schedule


def batches(shop: Workshop, reward: Reward) -> tuple[Batches, Feedback]:
    """The order in which training rows are drawn, and what it is told of every graded batch."""
    return sources.batches(shop.config, shop.dataset.train, recipes.solved(shop.config, reward))


def answers(shop: Workshop, rows: Sequence[Row], mesh: Mesh | None = None) -> Callable[..., list[evaluation.Answered]]:
    """The function `(sample, parameters, group_size, key)` that completes and grades given rows."""
    shares, most = devices.count(mesh), min(shop.config.evaluation.prompts_per_batch, len(rows))

    def complete(sample: Sample, parameters: Parameters, group_size: int, key: Key[Array, ""]) -> list:
        return evaluation.answer(
            sample,
            parameters,
            rows,
            group_size=group_size,
            prompts_per_batch=-(-most // shares) * shares,
            key=key,
            correct=recipes.is_correct,
            formatted=rewards.tag_format,
        )

    return complete


def evaluator(shop: Workshop, mesh: Mesh | None = None) -> Callable[[Parameters, Key[Array, ""]], dict[str, float]]:
    """Held-out metrics for the loop: greedy, and one sampled completion per prompt where asked for."""
    settings = shop.config.evaluation
    complete = answers(shop, shop.dataset.heldout[: settings.rows], mesh)
    modes = {"": sampler(shop, greedy=True, mesh=mesh)}
    modes |= {"sampled_": sampler(shop, mesh=mesh)} if settings.sampled else {}

    def evaluate(parameters: Parameters, key: Key[Array, ""]) -> dict[str, float]:
        out = {}
        for prefix, sample in modes.items():
            items = complete(sample, parameters, 1, key)
            out |= {
                f"eval/{prefix}accuracy": float(np.mean([item.correct[0] for item in items])),
                f"eval/{prefix}format": float(np.mean([item.formatted[0] == 1.0 for item in items])),
                f"eval/{prefix}length": float(np.mean([item.lengths[0] for item in items])),
                f"eval/{prefix}truncated_fraction": float(np.mean([item.truncated[0] for item in items])),
            }
            by_source = evaluation.accuracy_by_source(items)
            out |= {f"eval/{name}/{prefix}accuracy": accuracy for name, accuracy in by_source.items()}
        return out

    return evaluate


def parameters(shop: Workshop, params: Params) -> Parameters:
    """A full tree as what trains and what does not, as `model.lora_rank` says."""
    config = shop.config.model
    if not config.lora_rank:
        return models.full(params)
    return models.lora(shop.architecture, params, rank=config.lora_rank, alpha=config.lora_alpha, seed=shop.config.seed)


def start_params(
    shop: Workshop, folder: Path, on_step: Callable[[int, float], None], *, on_host: bool = False
) -> Params:
    """Parameters GRPO starts from: pretrained, or kept in the run: read from it, else from the cache, else trained.

    Of pretrained weights the run keeps a note, not a copy. Of several processes the first one sees to that.

    Args:
      shop: The workshop.
      folder: Run folder.
      on_step: Called with each step of a warm start and its loss; may raise to stop.
      on_host: Whether pretrained weights stay on the host, because no single device could hold them.
    """

    def keep() -> None:
        if hosts.index() == 0 and not (folder / START).exists():
            _keep_start(shop, folder / START, on_step)

    hosts.together("start", keep)
    return kept_params(shop, folder, on_host=on_host)


def _keep_start(shop: Workshop, kept: Path, on_step: Callable[[int, float], None]) -> None:
    if shop.origin is not None:
        _note_origin(shop.origin, kept)
        return
    params = models.initial_params(shop.architecture, shop.config.seed)
    if not shop.config.warm_start.steps:
        checkpoints.save_tree(kept, params)
        return
    cached = cache_dir(shop.config) / "warm_starts" / warm_start_fingerprint(shop)
    if not cached.exists():
        _save_shared(cached, _warm_start(shop, params, on_step))
    _copy_folder(cached, kept)


def kept_params(shop: Workshop, folder: Path, *, on_host: bool = False) -> Params:
    """Parameters that the GRPO of a run started from; pretrained ones stay on the host where asked for.

    Raises:
      RunError: If the pretrained weights have changed since.
    """
    if shop.origin is None:
        params = models.initial_params(shop.architecture, shop.config.seed)
        return _in_fewer_bits(shop, checkpoints.load_tree(folder / START, params))
    noted = json.loads((folder / START / ORIGIN).read_text(encoding="utf-8"))
    found = hugging_face.fingerprint(shop.origin)
    if noted["fingerprint"] != found:
        raise RunError(
            f"the weights in {shop.origin} are not those that {folder} started from; put those back, or start a new run"
        )
    # What trains keeps all digits, whatever is computed in; a frozen backbone need not.
    dtype = shop.config.model.dtype if shop.config.model.lora_rank else "float32"
    return hugging_face.load(shop.origin, dtype=dtype, keep=_keeper(shop, on_host=on_host))[1]


def _keeper(shop: Workshop, *, on_host: bool = False) -> Callable[[tuple[Any, ...], Any], Any]:
    """What is kept of a weight: all of it, unless `model.quantize` says less."""
    kind = shop.config.model.quantize
    if kind:
        return models.quantizer(shop.architecture, kind)
    return lambda path, weight: np.asarray(weight) if on_host else jnp.asarray(weight)


def _in_fewer_bits(shop: Workshop, params: Params) -> Params:
    keep = _keeper(shop)
    return jax.tree_util.tree_map_with_path(lambda path, leaf: keep(tuple(key.key for key in path), leaf), params)


def _note_origin(origin: Path, kept: Path) -> None:
    partial = kept.with_name(f"{kept.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    note = {"folder": str(origin), "fingerprint": hugging_face.fingerprint(origin)}
    (partial / ORIGIN).write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")
    partial.rename(kept)


def _save_shared(path: Path, params: Params) -> None:
    """Saves parameters where another process may save the same at the same time; the first one stays."""
    own = path.with_name(f"{path.name}.{os.getpid()}")
    checkpoints.save_tree(own, params)
    try:
        own.rename(path)
    except OSError:  # the other was first: a folder can only replace an empty one
        shutil.rmtree(own)


def _copy_folder(source: Path, target: Path) -> None:
    """Copies a folder so that the target is complete or absent."""
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial)
    partial.rename(target)


def _warm_start(shop: Workshop, params: Params, on_step: Callable[[int, float], None]) -> Params:
    config = shop.config
    return supervised.warm_start(
        shop.policy,
        params,
        shop.dataset.train,
        shop.tokenizer,
        **dataclasses.asdict(config.warm_start),
        layout=shop.layout,
        max_prompt_tokens=config.data.max_prompt_tokens,
        max_completion_tokens=config.sampling.max_completion_tokens,
        overlong_prompts=config.data.overlong_prompts,
        seed=config.seed,
        on_step=on_step,
    )


def warm_start_fingerprint(shop: Workshop) -> str:
    """Name of a warm start: a hash of all it depends on."""
    config = shop.config
    parts = {
        "architecture": shop.architecture._asdict(),
        "dtype": config.model.dtype,
        "tokenizer": shop.tokenizer.fingerprint(),
        "rows": [[shop.layout(row), row.get("demonstration")] for row in shop.dataset.train],
        "warm_start": dataclasses.asdict(config.warm_start),
        "max_prompt_tokens": config.data.max_prompt_tokens,
        "max_completion_tokens": config.sampling.max_completion_tokens,
        "seed": config.seed,
        "jax": jax.__version__,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
