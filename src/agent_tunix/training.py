"""The GRPO loop: sample, score, shape, credit, update; `fit` is the page to read.

Everything the loop does to the policy is a function of (seed, batch index, state), so a run that is killed and resumed
is the run that was never killed, to the last bit. `rounds` says when a batch is sampled: when it is asked for, or while
the one before is trained on.
"""

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Key

from agent_tunix import advantages, components, devices, hosts, measures, runs
from agent_tunix.ahead import Ahead, InLine
from agent_tunix.checkpoints import Checkpoints
from agent_tunix.collecting import Batches, Clock, Feedback, Record, Scored, collect, no_feedback
from agent_tunix.errors import NotFinite
from agent_tunix.models import Parameters, Policy
from agent_tunix.runs import RunWriter
from agent_tunix.sampling import Sample
from agent_tunix.types import Params, Recipe, Rollouts, Score
from agent_tunix.updates import initial_state, per_token, portions, reference_logprobs, updater


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long and in which portions to train; the fields are those of the configuration.

    Attributes:
      rollouts_ahead: 1 samples and grades the next batch while one is trained on; 0 samples each when it is needed.
      streams: Threads that compute buckets of an update at the same time.
    """

    steps: int
    group_size: int
    num_iterations: int
    minibatches: int
    microbatches: int
    rollout_microbatches: int
    max_refills: int
    temperature: float
    evaluate_every: int
    patience: int
    checkpoint_every: int
    seed: int
    rollouts_ahead: int = 0
    streams: int = 1


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
      reason: Why `fit` returned: `finished`, `patience` or what `should_stop` said; empty while running.
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


class Observer(Protocol):
    """Reads the rows of a run, and adds numbers of its own to them."""

    def replay(self, rows: Iterable[Mapping[str, Any]], /) -> None:
        """Takes in the rows that an earlier session logged."""

    def see(self, row: Mapping[str, Any], /) -> Mapping[str, float]:
        """Takes in a row that is about to be logged; what it returns is logged with it."""
        ...


class Unobserved:
    """Adds nothing."""

    def replay(self, rows: Iterable[Mapping[str, Any]], /) -> None:
        """Does nothing."""

    def see(self, row: Mapping[str, Any], /) -> Mapping[str, float]:
        """Nothing."""
        return {}


UNOBSERVED = Unobserved()


def fit(
    policy: Policy,
    parameters: Parameters,
    recipe: Recipe,
    optimizer: optax.GradientTransformation,
    learning_rate: optax.Schedule,
    *,
    sample: Sample,
    batches: Batches,
    feedback: Feedback = no_feedback,
    evaluate: Callable[[Parameters, Key[Array, ""]], dict[str, float]],
    plan: Plan,
    run: RunWriter,
    checkpoints: Checkpoints,
    should_stop: Callable[[], str] = lambda: "",
    observer: Observer = UNOBSERVED,
    show: Callable[[dict[str, Any], dict[str, float]], None] = lambda row, timing: None,
    mesh: Mesh | None = None,
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
      feedback: Told of each batch once it is graded, before the rows of the next one are drawn.
      evaluate: Held-out metrics, at least `eval/accuracy`.
      plan: Length and portions.
      run: Where metrics and samples go.
      checkpoints: Where state goes.
      should_stop: Asked after every batch; a word saves and returns, and is the reason.
      observer: Sees every row before it is logged, those of an earlier session included.
      show: Called with every row of metrics and its timings.
      mesh: Devices that prompts are dealt to (`devices`), those of `sample`.

    Returns:
      Trained parameters and the progress made.

    Raises:
      NotFinite: If the loss stops being finite. The state of the batch's start has been saved, unless the batch had
        already been trained on in part; then the last checkpoint is the newest.
      RewardError: If the reward breaks its contract or its graders are down; the state has been saved.
    """
    keys = jax.random.split(jax.random.key(plan.seed))
    shares = {"temperature": plan.temperature, "streams": plan.streams, "mesh": mesh}
    parameters = devices.everywhere(mesh, parameters)
    update = updater(policy, recipe.loss, optimizer, microbatches=plan.microbatches, **shares)
    parts = plan.minibatches * plan.microbatches
    reference = reference_logprobs(policy, parameters, parts=parts, **shares) if recipe.needs_reference else None
    advantage = jax.jit(recipe.advantage)
    trainable = jax.tree.map(jnp.copy, parameters.trainable)  # updates donate theirs; the caller's stay, as reference
    state = TrainState(trainable, initial_state(optimizer, trainable, mesh), recipe.shaping.init())
    state, progress = restored(state, batches, run, checkpoints)
    behind = checkpoints.restore_behind(state.trainable) if plan.rollouts_ahead else None
    observer.replay(runs.read_metrics(run.path))
    state, behind = _bound((state, behind))
    started = time.perf_counter() - progress.seconds

    def gather(sample: Sample, parameters: Parameters, batch: int, record: Record, clock: Clock) -> Scored:
        return collect(
            sample, recipe.reward, recipe.keep_group, parameters, batches, jax.random.fold_in(keys[0], batch),
            group_size=plan.group_size, parts=plan.rollout_microbatches, max_refills=plan.max_refills, batch=batch,
            record=record, clock=clock, feedback=feedback,
        )  # fmt: skip

    rounds = Ahead(sample, gather, batches, behind) if plan.rollouts_ahead else InLine(sample, gather, batches)
    record = to_resume(progress, rounds.position(), run)

    def save(wait: bool = False) -> None:
        run.sync()
        checkpoints.save(progress.step, state, record, accuracy=progress.accuracy, behind=behind, wait=wait)

    def keep(rollouts: Rollouts, raw: Score | None, *shaped_and_credit: Any) -> None:
        shaped, credit = shaped_and_credit or (None, None)
        where = {"step": progress.step, "batch": progress.batch}
        run.log_samples(measures.rollout_records(rollouts, raw, shaped, credit, **where))

    def current() -> Parameters:
        return dataclasses.replace(parameters, trainable=state.trainable)

    def measure() -> Progress:
        row = {"kind": "eval", "step": progress.step, **evaluate(current(), jax.random.fold_in(keys[1], progress.step))}
        row |= observer.see(row)
        run.log(row)
        show(row, {})
        return judged(progress, row["eval/accuracy"])

    progress = measure() if np.isnan(progress.accuracy) else progress
    try:
        while not (reason := reason_to_stop(progress, plan, should_stop)):
            clock, last = Clock(), progress.step + plan.num_iterations * plan.minibatches >= plan.steps
            rollouts, raw, notes = rounds.take(current(), progress.batch, keep, clock, last=last)
            if reference is not None:
                rollouts = dataclasses.replace(rollouts, ref_logprobs=reference(rollouts))
                clock.lap("reference")
            score, shaping = recipe.shaping.update(raw, state.shaping, rollouts)
            advantages.refuse_nan(score)
            credit = per_token(np.asarray(advantage(score)), rollouts)
            keep(rollouts, raw, score, credit)
            notes |= batch_measures(rollouts, raw, score, credit)
            clock.lap("credit")
            valid = np.asarray(score.valid)  # shaping may return arrays of JAX
            for iteration, part in portions(rollouts, valid, credit, plan.num_iterations, plan.minibatches):
                if progress.step == plan.steps:
                    break
                trainable, optimizer_state, stats = update(current(), state.optimizer, part)
                state = state._replace(trainable=trainable, optimizer=optimizer_state)
                stats = {name: float(value) for name, value in stats.items()}
                refuse_non_finite(stats, progress)
                progress = dataclasses.replace(progress, step=progress.step + 1)
                behind = rounds.behind  # what is saved from now on begins with the next batch
                row = {"kind": "train", "step": progress.step, "batch": progress.batch, "iteration": iteration}
                row |= notes | stats | {"policy/learning_rate": float(np.asarray(learning_rate(progress.step)))}
                row |= observer.see(row)
                timing = clock.timing(progress.step, rollouts)
                run.log(row)
                run.log_timing(timing)
                show(row, timing)
            state = state._replace(shaping=shaping)
            progress = dataclasses.replace(
                progress,
                batch=progress.batch + 1,
                tokens=progress.tokens + int(rollouts.lengths.sum()),
                seconds=time.perf_counter() - started,
            )
            before = record["progress"]["step"]
            if due(before, progress.step, plan.evaluate_every) or progress.step >= plan.steps:
                progress = measure()
            record = to_resume(progress, rounds.position(), run)
            if due(before, progress.step, plan.checkpoint_every):
                save()
        progress = dataclasses.replace(progress, reason=reason)
        save(wait=True)
    except BaseException as error:
        # Between batches the state can be saved. Within one, after some of its updates, it could not be resumed to the
        # same end, so the last checkpoint stays the newest. Several processes save together or not at all.
        if progress.step == record["progress"]["step"] and hosts.alike(error):
            with suppress(Exception):
                save(wait=True)
        raise
    finally:
        rounds.close()
    return current(), progress


def batch_measures(rollouts: Rollouts, raw: Score, score: Score, credit: np.ndarray) -> dict[str, float]:
    """What a row says of its batch: the raw score, the shaped one, credit per token."""
    out = measures.reward_measures(raw) | measures.group_measures(raw) | measures.completion_measures(rollouts)
    out |= {**measures.source_measures(rollouts, raw), **components.component_measures(raw)}
    if score is not raw:
        out["reward/shaped_mean"] = measures.reward_measures(score)["reward/mean"]
    out["advantage/abs_mean"] = float(np.abs(credit[rollouts.completion_mask]).mean())
    return out


def refuse_non_finite(stats: dict[str, float], progress: Progress) -> None:
    """Stops a run whose update was not applied; takes `policy/finite` out of the statistics.

    Raises:
      RunError: If the loss or its gradient is not finite.
    """
    if not stats.pop("policy/finite"):
        raise NotFinite(
            f"loss {stats['policy/loss']}, gradient norm {stats['policy/gradient_norm']} at step {progress.step + 1}, "
            f"batch {progress.batch}: the update was not applied, the state is saved and the batch is in "
            "samples.jsonl.zst; lower optimizer.learning_rate (with resume=force) or look at the rewards of that batch"
        )


def judged(progress: Progress, accuracy: float) -> Progress:
    """Progress after an evaluation."""
    better = accuracy > progress.best_accuracy
    return dataclasses.replace(
        progress,
        accuracy=accuracy,
        best_accuracy=accuracy if better else progress.best_accuracy,
        best_step=progress.step if better else progress.best_step,
        stale=0 if better else progress.stale + 1,
    )


def reason_to_stop(progress: Progress, plan: Plan, should_stop: Callable[[], str]) -> str:
    """Why to stop now, or nothing."""
    if progress.step >= plan.steps:
        return "finished"
    if plan.patience and progress.stale >= plan.patience:
        return "patience"
    return should_stop()


def due(before: int, now: int, every: int) -> bool:
    """Whether a multiple of `every` lies in (before, now]."""
    return every > 0 and now // every > before // every


def to_resume(progress: Progress, data: dict[str, Any], run: RunWriter) -> dict[str, Any]:
    """What a checkpoint holds besides arrays: progress, where the rows of the next batch begin, ends of the files."""
    return {"progress": dataclasses.asdict(progress), "data": data, "position": run.position()}


def _bound(tree: Any) -> Any:
    """The arrays bound to their devices, as outputs of a compiled update are: others would compile it twice."""
    return jax.tree.map(lambda x: jax.device_put(x, x.sharding) if isinstance(x, jax.Array) else x, tree)


def restored(
    state: TrainState, batches: Batches, run: RunWriter, checkpoints: Checkpoints
) -> tuple[TrainState, Progress]:
    """The newest checkpoint, with the data and the run's files set back to it; or the given start."""
    found = checkpoints.restore(state)
    if found is None:
        run.rewind(None)
        hosts.meet("restored")
        return state, Progress()
    arrays, record = found
    batches.set_state(record["data"])
    progress = Progress(**record["progress"] | {"reason": ""})
    run.rewind(record["position"], progress.step)
    hosts.meet("restored")  # the rows that observers are going to read
    return TrainState(*arrays), progress
