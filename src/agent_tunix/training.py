"""The GRPO loop: sample, score, shape, credit, update; `fit` is the page to read.

Everything the loop does to the policy is a function of (seed, batch index, state), so a run that is killed and resumed
is the run that was never killed, to the last bit.
"""

import dataclasses
import functools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Key

from agent_tunix import advantages, batching, measures
from agent_tunix.checkpoints import Checkpoints
from agent_tunix.errors import RewardError, RunError
from agent_tunix.models import Parameters, Policy, merged
from agent_tunix.runs import RunWriter
from agent_tunix.sampling import Sample
from agent_tunix.types import KeepGroup, Loss, Outcome, Params, Recipe, Reward, Rollouts, Row, Score, TokenBatch

logger = logging.getLogger(__name__)

MOST_FAILED = 0.5
"""A batch in which graders fail on more completions than this fraction stops the run."""


class Batches(Protocol):
    """An endless iterator over batches of rows with a state that can be saved."""

    def __next__(self) -> Sequence[Row]: ...

    def get_state(self) -> dict[str, Any]:
        """JSON-serialisable position."""
        ...

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from a saved position."""
        ...


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long and in which portions to train; the fields are those of the configuration."""

    steps: int
    group_size: int
    num_iterations: int
    minibatches: int
    microbatches: int
    max_refills: int
    temperature: float
    evaluate_every: int
    patience: int
    checkpoint_every: int
    seed: int


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a run has come.

    Attributes:
      step: Optimizer updates done.
      batch: Rounds of rollouts done.
      tokens: Completion tokens sampled for training.
      accuracy: Held-out accuracy of the last evaluation, nan before the first.
      best_accuracy: The best so far.
      best_step: Its step.
      stale: Evaluations since the best.
      seconds: Wall time, over all sessions.
      reason: Why `fit` returned: `finished`, `patience` or `interrupted`; empty while running.
    """

    step: int = 0
    batch: int = 0
    tokens: int = 0
    accuracy: float = float("nan")
    best_accuracy: float = float("-inf")
    best_step: int = 0
    stale: int = 0
    seconds: float = 0.0
    reason: str = ""


class TrainState(NamedTuple):
    """The arrays of a checkpoint."""

    trainable: Params
    optimizer: optax.OptState
    shaping: Any


class Minibatch(NamedTuple):
    """What one update sees: whole groups, so that a prompt is computed once."""

    prompt_ids: Int[Any, "prompts prompt_tokens"]
    prompt_mask: Bool[Any, "prompts prompt_tokens"]
    completion_ids: Int[Any, "prompts group tokens"]
    completion_mask: Bool[Any, "prompts group tokens"]
    truncated: Bool[Any, "prompts group"]
    logprobs: Float[Any, "prompts group tokens"]
    old_logprobs: Float[Any, "prompts group tokens"]
    ref_logprobs: Float[Any, "prompts group tokens"] | None
    advantages: Float[Any, "prompts group tokens"]


Update = Callable[[Parameters, optax.OptState, Minibatch], tuple[Params, optax.OptState, dict[str, Array]]]


def fit(
    policy: Policy,
    parameters: Parameters,
    recipe: Recipe,
    optimizer: optax.GradientTransformation,
    learning_rate: optax.Schedule,
    *,
    sample: Sample,
    batches: Batches,
    evaluate: Callable[[Parameters, Key[Array, ""]], dict[str, float]],
    plan: Plan,
    run: RunWriter,
    checkpoints: Checkpoints,
    should_stop: Callable[[], bool] = lambda: False,
    show: Callable[[dict[str, Any], dict[str, float]], None] = lambda row, timing: None,
) -> tuple[Parameters, Progress]:
    """Trains a policy with GRPO, going on from the newest checkpoint if there is one.

    Args:
      policy: Model functions.
      parameters: Where training starts; under a divergence penalty also the reference.
      recipe: Reward, shaping, advantage, loss and, optionally, which groups to keep.
      optimizer: Optax transformation.
      learning_rate: Its schedule, for the metrics.
      sample: Draws completions from the policy that is trained.
      batches: Rows to train on.
      evaluate: Held-out metrics, at least `eval/accuracy`.
      plan: Length and portions.
      run: Where metrics and samples go.
      checkpoints: Where state goes.
      should_stop: Asked after every batch; True saves and returns.
      show: Called with every row of metrics and its timings.

    Returns:
      Trained parameters and the progress made.

    Raises:
      RunError: If the loss stops being finite. The last good state has been saved.
    """
    keys = jax.random.split(jax.random.key(plan.seed))
    update = updater(policy, recipe.loss, optimizer, temperature=plan.temperature, microbatches=plan.microbatches)
    parts = plan.minibatches * plan.microbatches
    reference = _reference(policy, parameters, plan.temperature, parts) if recipe.needs_reference else None
    advantage = jax.jit(recipe.advantage)
    trainable = jax.tree.map(jnp.copy, parameters.trainable)  # updates donate theirs; the caller's stay, as reference
    state = TrainState(trainable, optimizer.init(trainable), recipe.shaping.init())
    state, progress = _restore(state, batches, run, checkpoints)
    started = time.perf_counter() - progress.seconds
    record = _record(progress, batches, run)

    def save(wait: bool = False) -> None:
        run.sync()
        checkpoints.save(progress.step, state, record, accuracy=progress.accuracy, wait=wait)

    def current() -> Parameters:
        return dataclasses.replace(parameters, trainable=state.trainable)

    def measure() -> Progress:
        row = {"kind": "eval", "step": progress.step, **evaluate(current(), jax.random.fold_in(keys[1], progress.step))}
        run.log(row)
        show(row, {})
        return _judged(progress, row["eval/accuracy"])

    if np.isnan(progress.accuracy):
        progress = measure()
    try:
        while not (reason := _reason(progress, plan, should_stop)):
            clock = Clock()
            key = jax.random.fold_in(keys[0], progress.batch)
            rollouts, raw, notes = collect(
                sample, recipe.reward, recipe.keep_group, current(), batches, key,
                group_size=plan.group_size, max_refills=plan.max_refills, run=run, clock=clock, progress=progress,
            )  # fmt: skip
            if reference is not None:
                rollouts = dataclasses.replace(rollouts, ref_logprobs=reference(rollouts))
                clock.lap("reference")
            score, shaping = recipe.shaping.update(raw, state.shaping, rollouts)
            advantages.refuse_nan(score)
            credit = _per_token(np.asarray(advantage(score)), rollouts)
            run.log_samples(
                measures.rollout_records(rollouts, raw, score, credit, step=progress.step, batch=progress.batch)
            )
            notes |= _batch_measures(rollouts, raw, score, credit)
            state = state._replace(shaping=shaping)
            clock.lap("credit")
            for iteration, part in _portions(rollouts, score.valid, credit, plan.num_iterations, plan.minibatches):
                if progress.step == plan.steps:
                    break
                trainable, optimizer_state, stats = update(current(), state.optimizer, part)
                state = state._replace(trainable=trainable, optimizer=optimizer_state)
                stats = {name: float(value) for name, value in stats.items()}
                _refuse_non_finite(stats, progress)
                progress = dataclasses.replace(progress, step=progress.step + 1)
                row = {"kind": "train", "step": progress.step, "batch": progress.batch, "iteration": iteration}
                row |= notes | stats | {"policy/learning_rate": float(np.asarray(learning_rate(progress.step)))}
                timing = clock.timing(progress.step, rollouts)
                run.log(row)
                run.log_timing(timing)
                show(row, timing)
            progress = dataclasses.replace(
                progress,
                batch=progress.batch + 1,
                tokens=progress.tokens + int(rollouts.lengths.sum()),
                seconds=time.perf_counter() - started,
            )
            before = record["progress"]["step"]
            if _due(before, progress.step, plan.evaluate_every) or progress.step >= plan.steps:
                progress = measure()
            record = _record(progress, batches, run)
            if _due(before, progress.step, plan.checkpoint_every):
                save()
        progress = dataclasses.replace(progress, reason=reason)
        save(wait=True)
    except BaseException:
        # The batch is not finished, the updates it made are kept: a forced resume tries the same batch again.
        record = _unfinished(record, progress, run)
        with suppress(Exception):
            save(wait=True)
        raise
    return current(), progress


def updater(
    policy: Policy, loss: Loss, optimizer: optax.GradientTransformation, *, temperature: float, microbatches: int
) -> Update:
    """The compiled update: gradients accumulated over microbatches, clipped and applied.

    Weights of the loss come from the whole minibatch, so one microbatch of eight groups and eight of one give the same
    sum. A loss or gradient that is not finite changes nothing and is reported in `policy/finite`.

    Args:
      policy: Model functions.
      loss: Per-token losses and their weights.
      optimizer: Optax transformation.
      temperature: Of the policy that is trained, the one it was sampled with.
      microbatches: Parts in which the gradient is accumulated; it must divide the prompts of a minibatch.

    Returns:
      `(parameters, optimizer_state, minibatch) -> (trainable, optimizer_state, statistics)`; the trainable parameters
      and the optimizer state are donated.
    """

    def objective(trainable: Params, rest: Parameters, part: Minibatch, weights: Array) -> tuple[Array, dict]:
        params = merged(dataclasses.replace(rest, trainable=trainable))
        logprobs, entropy = policy.logprobs(params, part.prompt_ids, part.prompt_mask, part.completion_ids, temperature)
        entropy = entropy if loss.needs_entropy else jax.lax.stop_gradient(entropy)
        tokens = TokenBatch(
            logprobs,
            entropy,
            part.old_logprobs,
            part.logprobs,
            part.ref_logprobs,
            part.advantages,
            part.completion_mask,
        )
        per_token, stats = loss.per_token(tokens)
        stats = {"entropy": entropy} | stats
        masked = {name: jnp.sum(jnp.where(tokens.mask, value, 0.0)) for name, value in stats.items()}
        return jnp.sum(jnp.where(tokens.mask, weights * per_token, 0.0)), masked

    def accumulated(trainable: Params, rest: Parameters, batch: Minibatch, weights: Array) -> tuple[Any, Params]:
        gradient = jax.value_and_grad(objective, has_aux=True)
        if microbatches == 1:
            return gradient(trainable, rest, batch, weights)
        parts = jax.tree.map(lambda x: x.reshape(microbatches, -1, *x.shape[1:]), (batch, weights))
        first, others = jax.tree.map(lambda x: x[0], parts), jax.tree.map(lambda x: x[1:], parts)

        def add(total: Any, part: Any) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, gradient(trainable, rest, *part)), None

        return jax.lax.scan(add, gradient(trainable, rest, *first), others)[0]

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def update(
        trainable: Params, state: optax.OptState, rest: Parameters, batch: Minibatch
    ) -> tuple[Params, optax.OptState, dict[str, Array]]:
        weights = loss.weights(batch.completion_mask, batch.truncated)
        (value, sums), gradient = accumulated(trainable, rest, batch, weights)
        norm = optax.tree.norm(gradient)
        updates, new_state = optimizer.update(gradient, state, trainable)
        finite = jnp.isfinite(value) & jnp.isfinite(norm)
        new = optax.apply_updates(trainable, updates), new_state
        kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, (trainable, state))
        count = jnp.maximum(batch.completion_mask.sum(), 1)
        stats: dict[str, Array] = {f"policy/{name}": total / count for name, total in sums.items()}
        stats |= {"policy/loss": value, "policy/gradient_norm": jnp.asarray(norm), "policy/finite": finite}
        return *kept, stats

    def step(
        parameters: Parameters, state: optax.OptState, batch: Minibatch
    ) -> tuple[Params, optax.OptState, dict[str, Array]]:
        return update(parameters.trainable, state, dataclasses.replace(parameters, trainable={}), batch)

    return step


def collect(
    sample: Sample,
    reward: Reward,
    keep_group: KeepGroup | None,
    parameters: Parameters,
    batches: Batches,
    key: Key[Array, ""],
    *,
    group_size: int,
    max_refills: int,
    run: RunWriter,
    clock: "Clock",
    progress: Progress,
) -> tuple[Rollouts, Score, dict[str, float]]:
    """One batch of scored rollouts; with `keep_group`, refilled until every group is worth training on.

    Groups are judged on the unshaped score. After `max_refills` further rounds the batch is filled up with groups that
    were not kept, so that a policy that solves everything ends its run instead of sampling for ever.

    Returns:
      Rollouts, their score and, when refilling, `group/kept_fraction` and `group/refills`.
    """
    kept, spare, wanted, refill, seen = [], [], 0, 0, 0
    for refill in range(max_refills + 1 if keep_group else 1):
        rows = next(batches)
        rollouts = sample(parameters, rows, group_size, jax.random.fold_in(key, refill))
        clock.lap("rollout")
        score = _scored(reward, rollouts, run, progress)
        clock.lap("reward")
        if keep_group is None:
            return rollouts, score, {}
        keep = np.asarray(keep_group(score))
        wanted, seen = len(rows), seen + len(rows)
        for chosen, groups in ((keep, kept), (~keep, spare)):
            index = np.flatnonzero(chosen).tolist()
            groups.append((batching.take(rollouts, index), batching.take(score, index)))
        if sum(len(part.prompts) for part, _ in kept) >= wanted:
            break
    rollouts, score = (batching.join(parts) for parts in zip(*kept, *spare, strict=True))
    good = sum(len(part.prompts) for part, _ in kept)
    unused = list(range(wanted, len(rollouts.prompts)))
    _log_unused(batching.take(rollouts, unused), batching.take(score, unused), run, progress)
    index = list(range(wanted))
    notes = {"group/kept_fraction": good / seen, "group/refills": float(refill)}
    return batching.take(rollouts, index), batching.take(score, index), notes


class Clock:
    """Seconds spent in each stage of a batch."""

    def __init__(self) -> None:
        self._last = self._start = time.perf_counter()
        self._laps: dict[str, float] = {}

    def lap(self, stage: str) -> None:
        """Adds the time since the last call to a stage."""
        now = time.perf_counter()
        self._laps[stage] = self._laps.get(stage, 0.0) + now - self._last
        self._last = now

    def timing(self, step: int, rollouts: Rollouts) -> dict[str, float]:
        """The row of timings after an update; the first update of a batch carries its rollouts."""
        self.lap("update")
        total = self._last - self._start
        row = {"step": step, "time/step_s": total} | {f"time/{name}_s": value for name, value in self._laps.items()}
        if "rollout" in self._laps:
            row["throughput/tokens_per_s"] = float(rollouts.lengths.sum()) / total
        self._start, self._laps = self._last, {}
        return row


def _scored(reward: Reward, rollouts: Rollouts, run: RunWriter, progress: Progress) -> Score:
    """The score; if the reward raises or returns nan, the completions it was given are saved first."""
    try:
        score = reward(rollouts)
        advantages.refuse_nan(score)
    except BaseException as error:
        run.log_samples(measures.rollout_records(rollouts, None, None, None, step=progress.step, batch=progress.batch))
        if isinstance(error, TypeError | ValueError):
            raise RewardError(f"{error} (batch {progress.batch}; its completions are in the run's samples)") from error
        raise
    if score.failures:
        first = score.failures[0]
        logger.warning(
            "batch %d: %d grader calls gave no value, the first is `%s` on prompt %d, completion %d: %s",
            progress.batch, len(score.failures), first.part, first.prompt_index, first.completion_index, first.reason,
        )  # fmt: skip
        _refuse_mostly_failed(score, progress)
    return score


def _refuse_mostly_failed(score: Score, progress: Progress) -> None:
    """Stops a run whose graders are down: training on the few that answered would go on unnoticed."""
    broken = (Outcome.FAILED, Outcome.TIMED_OUT)
    failed = np.any([np.isin(outcomes, broken) for outcomes in score.outcomes.values()], axis=0)
    if failed.mean() > MOST_FAILED:
        first = score.failures[0]
        raise RewardError(
            f"graders failed on {failed.mean():.0%} of batch {progress.batch}, first `{first.part}` on prompt "
            f"{first.prompt_index}, completion {first.completion_index}: {first.reason}; the state is saved, mend the "
            "grader and run the same command again"
        )


def _log_unused(rollouts: Rollouts, score: Score, run: RunWriter, progress: Progress) -> None:
    if rollouts.prompts:
        run.log_samples(measures.rollout_records(rollouts, score, None, None, step=progress.step, batch=progress.batch))


def _reference(
    policy: Policy, parameters: Parameters, temperature: float, parts: int
) -> Callable[[Rollouts], np.ndarray]:
    """Log-probabilities under the policy training started from; under LoRA its frozen backbone.

    Computed in as many parts as the update, whose activations are sized for the cache or the memory.
    """
    params = parameters.frozen if parameters.lora_scale else parameters.trainable

    @jax.jit
    def logprobs(params: Params, *batch: Array) -> Array:
        cut = tuple(x.reshape(parts, -1, *x.shape[1:]) for x in batch)
        out = jax.lax.map(lambda part: policy.logprobs(params, *part, temperature)[0], cut)
        return out.reshape(-1, *out.shape[2:])

    def reference(rollouts: Rollouts) -> np.ndarray:
        out = logprobs(params, rollouts.prompt_ids, rollouts.prompt_mask, rollouts.completion_ids)
        return np.where(rollouts.completion_mask, np.asarray(out), 0.0)

    return reference


def _per_token(credit: np.ndarray, rollouts: Rollouts) -> Float[np.ndarray, "prompts group tokens"]:
    """Advantages spread over the tokens of their completion."""
    credit = credit[..., None] if credit.ndim == 2 else credit
    return np.where(rollouts.completion_mask, credit, 0.0).astype(np.float32)


def _portions(
    rollouts: Rollouts, valid: np.ndarray, credit: np.ndarray, num_iterations: int, minibatches: int
) -> Iterator[tuple[int, Minibatch]]:
    """The minibatches of every pass over a batch, in order; prompts were shuffled by the data pipeline.

    Completions without a valid score carry no loss: they enter neither its sum nor its denominator.
    """
    whole = Minibatch(
        rollouts.prompt_ids,
        rollouts.prompt_mask,
        rollouts.completion_ids,
        rollouts.completion_mask & np.asarray(valid)[..., None],
        rollouts.truncated,
        rollouts.logprobs,
        rollouts.old_logprobs,
        rollouts.ref_logprobs,
        credit,
    )
    size = len(rollouts.prompts) // minibatches
    for iteration in range(num_iterations):
        for start in range(0, size * minibatches, size):
            yield iteration, jax.tree.map(lambda x, start=start: x[start : start + size], whole)


def _batch_measures(rollouts: Rollouts, raw: Score, score: Score, credit: np.ndarray) -> dict[str, float]:
    out = measures.reward_measures(raw) | measures.group_measures(raw) | measures.completion_measures(rollouts)
    out |= measures.source_measures(rollouts, raw)
    if score is not raw:
        out["reward/shaped_mean"] = measures.reward_measures(score)["reward/mean"]
    out["advantage/abs_mean"] = float(np.abs(credit[rollouts.completion_mask]).mean())
    return out


def _refuse_non_finite(stats: dict[str, float], progress: Progress) -> None:
    if not stats.pop("policy/finite"):
        raise RunError(
            f"loss {stats['policy/loss']}, gradient norm {stats['policy/gradient_norm']} at step {progress.step + 1}, "
            f"batch {progress.batch}: the state before that update is saved and the batch is in samples.jsonl.zst; "
            "lower optimizer.learning_rate or look at the rewards of that batch"
        )


def _judged(progress: Progress, accuracy: float) -> Progress:
    better = accuracy > progress.best_accuracy
    return dataclasses.replace(
        progress,
        accuracy=accuracy,
        best_accuracy=accuracy if better else progress.best_accuracy,
        best_step=progress.step if better else progress.best_step,
        stale=0 if better else progress.stale + 1,
    )


def _reason(progress: Progress, plan: Plan, should_stop: Callable[[], bool]) -> str:
    """Why to stop now, or nothing."""
    if progress.step >= plan.steps:
        return "finished"
    if plan.patience and progress.stale >= plan.patience:
        return "patience"
    return "interrupted" if should_stop() else ""


def _due(before: int, now: int, every: int) -> bool:
    """Whether a multiple of `every` lies in (before, now]."""
    return every > 0 and now // every > before // every


def _record(progress: Progress, batches: Batches, run: RunWriter) -> dict[str, Any]:
    return {"progress": dataclasses.asdict(progress), "data": batches.get_state(), "position": run.position()}


def _unfinished(record: dict[str, Any], progress: Progress, run: RunWriter) -> dict[str, Any]:
    """The record of the batch's start with the updates that were made since."""
    position = run.position() | {name: record["position"][name] for name in record["position"] if "samples" in name}
    return record | {"progress": record["progress"] | {"step": progress.step}, "position": position}


def _restore(
    state: TrainState, batches: Batches, run: RunWriter, checkpoints: Checkpoints
) -> tuple[TrainState, Progress]:
    """The newest checkpoint, with the data and the run's files set back to it; or the given start."""
    found = checkpoints.restore(state)
    if found is None:
        run.rewind(None)
        return state, Progress()
    restored, record = found
    batches.set_state(record["data"])
    progress = Progress(**record["progress"] | {"reason": ""})
    run.rewind(record["position"], progress.step)
    return TrainState(*restored), progress
