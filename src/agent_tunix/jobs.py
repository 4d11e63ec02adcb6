"""Whole jobs from a configuration: train, go on, evaluate, sample. Everything below takes plain arguments."""

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import resource
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Key

from agent_tunix import (
    checkpoints,
    data,
    evaluation,
    models,
    optimizers,
    recipes,
    reward_analysis,
    runs,
    sampling,
    supervised,
    training,
)
from agent_tunix.config import Config
from agent_tunix.display import Display
from agent_tunix.errors import RunError
from agent_tunix.models import Parameters, Policy
from agent_tunix.runs import Run, RunWriter
from agent_tunix.sampling import Distribution, Sample
from agent_tunix.tokenizers import CharacterTokenizer, Tokenizer
from agent_tunix.types import Params, Row

logger = logging.getLogger(__name__)

CACHED_TOKENS = 2200
"""Tokens of a microbatch on a CPU, unless set."""

START = "start"
"""Folder of a run that holds the parameters GRPO started from."""


class Interrupted(Exception):
    """A signal asked to stop before the first step."""


class Workshop(NamedTuple):
    """What a configuration stands for, before any training."""

    config: Config
    tokenizer: Tokenizer
    dataset: data.Dataset
    architecture: models.Architecture
    policy: Policy


def train(config: Config) -> Run:
    """Trains a policy, or goes on with the run in `config.run_dir`.

    Args:
      config: The whole run.

    Returns:
      The run. Its summary is None if a signal interrupted it; calling `train` with the same config goes on.

    Raises:
      ConfigError: If a setting cannot mean anything; nothing has been started.
      RunError: If the run folder or the run cannot go on; what was computed is saved.
    """
    recipes.validate(config)
    plain = dataclasses.asdict(config)
    path = Path(config.run_dir) if config.run_dir else runs.new_run_dir(runs.default_name(plain))
    keep_compiled_programs(cache_dir(config))
    with (
        runs.open_run(path, config=plain, resume=config.resume) as run,
        Display(config.training.steps, log_rewards=config.training.log_rewards) as display,
        stop_signals() as should_stop,
    ):
        done = runs.read_summary(path)
        if done and not run.changes:
            display.say(f"{path} is finished at step {done['step']}; nothing to do")
            return runs.read_run(path)
        try:
            shop = workshop(config)
            _check_prompts(shop)
            start = _start_params(shop, run, display, should_stop)
            _fit(shop, start, run, display, should_stop)
        except Interrupted:
            display.say(_resume_line(path, 0))
    return runs.read_run(path)


def resume(path: Path | str) -> Run:
    """Goes on with a run as its own folder describes it."""
    config = recipes.from_mapping(runs.read_config(path))
    return train(dataclasses.replace(config, run_dir=str(path), resume="auto"))


def workshop(config: Config) -> Workshop:
    """Loads rows and builds the policy's functions."""
    tokenizer = CharacterTokenizer()
    sizes = dataclasses.asdict(config.model)
    names = ("layers", "width", "heads", "kv_heads", "head_dim", "mlp")
    architecture = models.tiny(tokenizer.vocab_size, **{name: sizes[name] for name in names})
    return Workshop(config, tokenizer, recipes.dataset(config), architecture, models.policy(architecture))


def sampler(shop: Workshop, *, greedy: bool = False) -> Sample:
    """The configured sampler, or its greedy twin."""
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
        microbatches=1 if greedy else config.rollout_microbatches,
    )


def evaluate_run(
    path: Path | str, *, split: str = "heldout", samples: int = 0, checkpoint: int | None = None
) -> evaluation.Evaluation:
    """Evaluates the trained policy of a run.

    Args:
      path: Run folder.
      split: `heldout` (also called `test`) or `train`.
      samples: Completions per prompt at the training temperature, for pass@k and majority@k; 0 for greedy only.
      checkpoint: Step of the checkpoint; None is the newest.
    """
    shop, parameters = load(path, checkpoint)
    rows = {"heldout": shop.dataset.heldout, "test": shop.dataset.heldout, "train": shop.dataset.train}.get(split)
    if rows is None:
        raise RunError(f"unknown split `{split}`; allowed: heldout, test, train")
    answers = _answers(shop, rows[: shop.config.evaluation.rows])
    key = jax.random.key(shop.config.seed)
    greedy = answers(sampler(shop, greedy=True), parameters, 1, key)
    sampled = answers(sampler(shop), parameters, samples, key) if samples else ()
    return evaluation.evaluation(greedy, sampled, split=split, samples=samples)


def sample_run(
    path: Path | str, prompts: int | Sequence[str] = 4, *, checkpoint: int | None = None
) -> list[dict[str, Any]]:
    """Completions of a run's policy, one sampled per prompt.

    Args:
      path: Run folder.
      prompts: Texts, or how many of the held-out prompts to take.
      checkpoint: Step of the checkpoint; None is the newest.

    Returns:
      One dictionary per prompt: `prompt`, `completion`, `truncated` and, for held-out rows, `answer` and `correct`.
    """
    shop, parameters = load(path, checkpoint)
    rows: Sequence[Row]
    rows = shop.dataset.heldout[:prompts] if isinstance(prompts, int) else [{"prompt": text} for text in prompts]
    rollouts = sampler(shop)(parameters, rows, 1, jax.random.key(shop.config.seed))
    out = []
    for row, texts, truncated in zip(rows, rollouts.completions, rollouts.truncated, strict=True):
        item = {"prompt": row["prompt"], "completion": texts[0], "truncated": bool(truncated[0])}
        if "answer" in row:
            item |= {"answer": row["answer"], "correct": recipes.is_correct(texts[0], row) == 1.0}
        out.append(item)
    return out


def load(path: Path | str, checkpoint: int | None = None) -> tuple[Workshop, Parameters]:
    """The workshop and the trained parameters of a run.

    Raises:
      RunError: If the run has no such checkpoint.
    """
    path = Path(path)
    config = recipes.from_mapping(runs.read_config(path))
    keep_compiled_programs(cache_dir(config))
    shop = workshop(config)
    if not (path / START).exists():
        raise RunError(f"{path} holds no parameters yet; train it first")
    start = _parameters(
        shop, checkpoints.load_tree(path / START, models.initial_params(shop.architecture, config.seed))
    )
    optimizer = _optimizer(config)[0]
    like = training.TrainState(start.trainable, optimizer.init(start.trainable), recipes.recipe(config).shaping.init())
    manager = checkpoints.Checkpoints(path / runs.CHECKPOINTS, keep=config.checkpoint.keep)
    try:
        found = manager.restore(like, checkpoint)
    finally:
        manager.close()
    if found is None:
        raise RunError(f"{path} has no complete checkpoint yet; go on with {resume_command(path)}")
    return shop, dataclasses.replace(start, trainable=training.TrainState(*found[0]).trainable)


def cache_dir(config: Config) -> Path:
    """Where compiled programs and warm starts are kept between runs."""
    return Path(config.cache_dir or os.environ.get("AGENT_TUNIX_CACHE") or ".cache/agent_tunix").absolute()


def keep_compiled_programs(folder: Path) -> None:
    """Turns on JAX's persistent compilation cache."""
    jax.config.update("jax_compilation_cache_dir", str(folder / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


@contextlib.contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Turns SIGTERM and the first Ctrl-C into a request to stop; a second Ctrl-C interrupts at once.

    Yields:
      A function that says whether a stop was asked for. Outside the main thread no signal is caught.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def ask(number: int, frame: Any) -> None:
        if asked.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.set()
        logger.warning("%s: finishing this batch, then saving", signal.Signals(number).name)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def resume_command(path: Path) -> str:
    """The command that goes on with a run."""
    return f"{Path(sys.executable).name} -m agent_tunix resume {path}"


def _check_prompts(shop: Workshop) -> None:
    """Refuses prompts above their budget before anything is trained, or says how many will be truncated."""
    settings = shop.config.data
    prompts = [row["prompt"] for row in (*shop.dataset.train, *shop.dataset.heldout)]
    encoded = data.encode_prompts(
        shop.tokenizer, prompts, max_tokens=settings.max_prompt_tokens, overlong=settings.overlong_prompts
    )
    if encoded.truncated:
        logger.warning(
            "%d of %d prompts are longer than data.max_prompt_tokens=%d and lose tokens on their left",
            encoded.truncated, len(prompts), settings.max_prompt_tokens,
        )  # fmt: skip


def _resume_line(path: Path, step: int) -> str:
    return f"stopped after step {step}, everything is saved; go on with: {resume_command(path)}"


def _fit(shop: Workshop, start: Params, run: RunWriter, display: Display, should_stop: Callable[[], bool]) -> None:
    config = shop.config
    recipe, (optimizer, schedule) = recipes.recipe(config), _optimizer(config)
    manager = checkpoints.Checkpoints(run.path / runs.CHECKPOINTS, keep=config.checkpoint.keep)
    try:
        parameters, progress = training.fit(
            shop.policy,
            _parameters(shop, start),
            recipe,
            optimizer,
            schedule,
            sample=sampler(shop),
            batches=data.batches(shop.dataset.train, size=config.training.prompts_per_batch, seed=config.seed),
            evaluate=_evaluate(shop),
            plan=_plan(config),
            run=run,
            checkpoints=manager,
            should_stop=should_stop,
            show=display.show,
        )
        manager.wait()
    finally:
        manager.close()
    if progress.reason == "interrupted":
        display.say(_resume_line(run.path, progress.step))
        return
    run.write_summary(_summary(run.path, parameters, progress))
    if config.training.save_reward_analysis:
        analysis = reward_analysis.analyse(runs.read_samples(run.path))
        run.write_reward_analysis(analysis)
        display.say(reward_analysis.table(analysis))


def _plan(config: Config) -> training.Plan:
    plan = config.training
    return training.Plan(
        steps=plan.steps,
        group_size=plan.group_size,
        num_iterations=plan.num_iterations,
        minibatches=plan.minibatches,
        microbatches=plan.microbatches or _microbatches(config),
        max_refills=plan.max_refills,
        temperature=config.sampling.temperature,
        evaluate_every=config.evaluation.every_steps,
        patience=config.evaluation.patience,
        checkpoint_every=config.checkpoint.every_steps,
        seed=config.seed,
    )


def _microbatches(config: Config) -> int:
    """How many parts keep the activations of a CPU's update in its cache; one on accelerators, which like size.

    Measured on 2 cores with 16 prompts of 32 tokens and groups of 8 times 64 tokens (8,704 tokens): an update takes
    2.1 CPU-seconds whole, 1.3 in parts of 2,176 tokens and no less in smaller ones.
    """
    if jax.default_backend() != "cpu":
        return 1
    prompts = config.training.prompts_per_batch // config.training.minibatches
    per_prompt = config.data.max_prompt_tokens + config.training.group_size * config.sampling.max_completion_tokens
    wanted = prompts * per_prompt / CACHED_TOKENS
    return next(parts for parts in range(1, prompts + 1) if prompts % parts == 0 and parts >= min(wanted, prompts))


def _optimizer(config: Config) -> tuple[Any, Any]:
    settings = config.optimizer
    schedule = optimizers.learning_rate_schedule(
        learning_rate=settings.learning_rate,
        warmup_steps=settings.warmup_steps,
        steps=config.training.steps,
        schedule=settings.schedule,
        final_fraction=settings.final_fraction,
    )
    optimizer = optimizers.adamw(
        schedule,
        b1=settings.b1,
        b2=settings.b2,
        eps=settings.eps,
        weight_decay=settings.weight_decay,
        clip_norm=settings.clip_norm,
    )
    return optimizer, schedule


def _answers(shop: Workshop, rows: Sequence[Row]) -> Callable[..., list[evaluation.Answered]]:
    def answers(sample: Sample, parameters: Parameters, group_size: int, key: Key[Array, ""]) -> list:
        return evaluation.answer(
            sample,
            parameters,
            rows,
            group_size=group_size,
            prompts_per_batch=min(shop.config.evaluation.prompts_per_batch, len(rows)),
            key=key,
            correct=recipes.is_correct,
            formatted=recipes.is_formatted,
        )

    return answers


def _evaluate(shop: Workshop) -> Callable[[Parameters, Key[Array, ""]], dict[str, float]]:
    """Held-out metrics for the loop: greedy, and one sampled completion per prompt where asked for."""
    settings = shop.config.evaluation
    answers = _answers(shop, shop.dataset.heldout[: settings.rows])
    modes = {"": sampler(shop, greedy=True)} | ({"sampled_": sampler(shop)} if settings.sampled else {})

    def evaluate(parameters: Parameters, key: Key[Array, ""]) -> dict[str, float]:
        out = {}
        for prefix, sample in modes.items():
            items = answers(sample, parameters, 1, key)
            out |= {
                f"eval/{prefix}accuracy": float(np.mean([item.correct[0] for item in items])),
                f"eval/{prefix}format": float(np.mean([item.formatted[0] == 1.0 for item in items])),
                f"eval/{prefix}length": float(np.mean([item.lengths[0] for item in items])),
                f"eval/{prefix}truncated_fraction": float(np.mean([item.truncated[0] for item in items])),
            }
        return out

    return evaluate


def _parameters(shop: Workshop, params: Params) -> Parameters:
    config = shop.config.model
    if not config.lora_rank:
        return models.full(params)
    return models.lora(shop.architecture, params, rank=config.lora_rank, alpha=config.lora_alpha, seed=shop.config.seed)


def _start_params(shop: Workshop, run: RunWriter, display: Display, should_stop: Callable[[], bool]) -> Params:
    """Parameters GRPO starts from, kept in the run: read from it, else from the cache, else trained."""
    params = models.initial_params(shop.architecture, shop.config.seed)
    kept = run.path / START
    if not kept.exists():
        cached = cache_dir(shop.config) / "warm_starts" / warm_start_fingerprint(shop)
        if shop.config.warm_start.steps and not cached.exists():
            _save_shared(cached, _warm_start(shop, params, display, should_stop))
        if shop.config.warm_start.steps:
            _copy_folder(cached, kept)
        else:
            checkpoints.save_tree(kept, params)
    return checkpoints.load_tree(kept, params)


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


def _warm_start(shop: Workshop, params: Params, display: Display, should_stop: Callable[[], bool]) -> Params:
    config = shop.config

    def on_step(step: int, loss: float) -> None:
        display.warm_start(step, config.warm_start.steps, loss)
        if should_stop():
            raise Interrupted

    return supervised.warm_start(
        shop.policy,
        params,
        shop.dataset.train,
        shop.tokenizer,
        **dataclasses.asdict(config.warm_start),
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
        "tokenizer": shop.tokenizer.fingerprint(),
        "rows": [[row["prompt"], row.get("demonstration")] for row in shop.dataset.train],
        "warm_start": dataclasses.asdict(config.warm_start),
        "max_prompt_tokens": config.data.max_prompt_tokens,
        "max_completion_tokens": config.sampling.max_completion_tokens,
        "seed": config.seed,
        "jax": jax.__version__,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _summary(path: Path, parameters: Parameters, progress: training.Progress) -> dict[str, Any]:
    evaluations = [_numbers(row) for row in runs.read_metrics(path, "eval")]
    steps = [_numbers(row) for row in runs.read_metrics(path, "train")]
    return {
        "reason": progress.reason,
        "step": progress.step,
        "batch": progress.batch,
        "tokens": progress.tokens,
        "seconds": progress.seconds,
        "start": evaluations[0] if evaluations else None,
        "final": (steps[-1] if steps else {}) | (evaluations[-1] if evaluations else {}),
        "best": max(evaluations, key=lambda row: row["eval/accuracy"], default=None),
        "params_sha256": models.params_sha256(parameters.trainable),
        "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
    }


def _numbers(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "kind"}
