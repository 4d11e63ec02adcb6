"""`fit` on Tunix: the same recipe, the same run folder, the same way to go on, around Tunix's learner."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import jax
import numpy as np
import optax
from jaxtyping import Array, Key

from agent_tunix import advantages, measures, runs, training
from agent_tunix.checkpoints import Checkpoints
from agent_tunix.collecting import Batches, Clock, collect
from agent_tunix.engines import _cluster, _loss, _modules, _rollouts
from agent_tunix.engines._cluster import Cluster, Role
from agent_tunix.engines._learner import Given, Learner, rows_for
from agent_tunix.engines._loss import Algorithm, Example
from agent_tunix.engines._rollouts import Rollout
from agent_tunix.layouts import Layout, plain
from agent_tunix.models import Architecture, Parameters
from agent_tunix.runs import RunWriter
from agent_tunix.tokenizers import Tokenizer
from agent_tunix.training import UNOBSERVED, Observer, Plan, Progress, TrainState
from agent_tunix.types import Recipe, Rollouts, Row, Score
from agent_tunix.updates import per_token


def fit(
    architecture: Architecture,
    parameters: Parameters,
    recipe: Recipe,
    optimizer: optax.GradientTransformation,
    learning_rate: optax.Schedule,
    *,
    tokenizer: Tokenizer,
    rollout: Rollout,
    batches: Batches,
    evaluate: Callable[[Parameters, Key[Array, ""]], dict[str, float]],
    plan: Plan,
    run: RunWriter,
    checkpoints: Checkpoints,
    layout: Layout = plain,
    should_stop: Callable[[], str] = lambda: "",
    observer: Observer = UNOBSERVED,
    show: Callable[[dict[str, Any], dict[str, float]], None] = lambda row, timing: None,
) -> tuple[Parameters, Progress]:
    """Trains a policy with Tunix's cluster and learner, going on from the newest checkpoint if there is one.

    Sampling, updates and the reference are Tunix's; rewards, shaping, credit, the loss, rows of metrics, samples and
    checkpoints are those of `training.fit`, whose arguments these are where they have the same name.

    Args:
      architecture: Of the policy.
      parameters: Where training starts; under a divergence penalty also the reference.
      recipe: Reward, shaping, advantage, loss and, optionally, which groups to keep.
      optimizer: Optax transformation.
      learning_rate: Its schedule, for the metrics.
      tokenizer: Between text and tokens.
      rollout: How Tunix samples, and on which devices.
      batches: Rows to train on.
      evaluate: Held-out metrics, at least `eval/accuracy`, of parameters that lie on the training mesh.
      plan: Length and portions; `streams` mean nothing here.
      run: Where metrics and samples go.
      checkpoints: Where state goes.
      layout: What is encoded of a row.
      should_stop: Asked after every batch; a word saves and returns, and is the reason.
      observer: Sees every row before it is logged, those of an earlier session included.
      show: Called with every row of metrics and its timings.

    Returns:
      Trained parameters, on the training mesh, and the progress made.

    Raises:
      ConfigError: If Tunix cannot run the plan.
      ModelError: If Tunix's module does not compute the model.
      RunError: If the loss stops being finite, as in `training.fit`.
      RewardError: If the reward breaks its contract or its graders are down; the state has been saved.
    """
    cluster = _cluster.build(
        architecture, parameters, optimizer, tokenizer, rollout,
        steps=max(plan.steps, 1), needs_reference=recipe.needs_reference,
    )  # fmt: skip
    course = _Course(
        cluster, parameters, recipe, optimizer, learning_rate, batches, evaluate, plan, run, checkpoints,
        should_stop, observer, show,
    )  # fmt: skip
    old = None if rollout.engine == "vanilla" else lambda drawn: cluster.logprobs(Role.ACTOR, drawn, plan.microbatches)
    course.sample = _rollouts.sampler(cluster.draw, tokenizer, rollout, layout=layout, old_logprobs=old)
    learner = Learner(
        cluster,
        Algorithm(
            num_generations=plan.group_size,
            policy_loss=recipe.loss,
            microbatches=plan.microbatches,
            softcap=architecture.softcap,
        ),
        recipe.reward,
        make=course.batch,
        updates=plan.num_iterations * plan.minibatches,
        before=course.before,
        after=course.after,
    )
    course.start(learner.should_sync_weights)
    try:
        learner.train(rows_for(batches))
        course.finish()
    except BaseException:
        course.rescue()
        raise
    finally:
        learner.executor.shutdown(wait=False, cancel_futures=True)
    return course.parameters(), course.progress


class _Course:
    """What stands around Tunix's loop: progress, rows, evaluations and checkpoints, in the order of `training.fit`."""

    sample: Any

    def __init__(
        self,
        cluster: Cluster,
        parameters: Parameters,
        recipe: Recipe,
        optimizer: optax.GradientTransformation,
        learning_rate: optax.Schedule,
        batches: Batches,
        evaluate: Callable[[Parameters, Key[Array, ""]], dict[str, float]],
        plan: Plan,
        run: RunWriter,
        checkpoints: Checkpoints,
        should_stop: Callable[[], str],
        observer: Observer,
        show: Callable[[dict[str, Any], dict[str, float]], None],
    ) -> None:
        self._cluster, self._recipe, self._optimizer, self._rate = cluster, recipe, optimizer, learning_rate
        self._parameters, self._batches, self._evaluate, self._plan = parameters, batches, evaluate, plan
        self._run, self._checkpoints, self._should_stop = run, checkpoints, should_stop
        self._observer, self._show = observer, show
        self._keys = jax.random.split(jax.random.key(plan.seed))
        self._advantage = jax.jit(recipe.advantage)
        self._lora = bool(parameters.lora_scale)
        self._shaping, self.progress = recipe.shaping.init(), Progress()
        self._started, self._error = time.perf_counter(), None
        cluster.take, cluster.on_update = self._take, self._updated

    # --- State --------------------------------------------------------------------------------------------------------

    def parameters(self) -> Parameters:
        """The policy as it is now."""
        return dataclasses.replace(self._parameters, trainable=_modules.trainable(self._cluster.policy, self._lora))

    def _state(self) -> TrainState:
        trainable = self.parameters().trainable
        optimizer = self._cluster.actor_trainer.optimizer
        return TrainState(trainable, _modules.optimizer_state(optimizer, self._optimizer, trainable), self._shaping)

    def start(self, apart: bool) -> None:
        """Goes on from the newest checkpoint, or begins with an evaluation.

        Args:
          apart: Whether the sampler has parameters of its own.
        """
        state, self.progress = training.restored(self._state(), self._batches, self._run, self._checkpoints)
        _modules.put_trainable(self._cluster.policy, self._lora, state.trainable)
        _modules.put_optimizer_state(self._cluster.actor_trainer.optimizer, state.optimizer)
        self._shaping = state.shaping
        if apart:
            self._cluster.sync_weights()
        self._observer.replay(runs.read_metrics(self._run.path))
        self._started = time.perf_counter() - self.progress.seconds
        self._record = training.to_resume(self.progress, self._batches.get_state(), self._run)
        if np.isnan(self.progress.accuracy):
            self._measure()

    def finish(self) -> None:
        """Saves the end."""
        reason = self._reason or training.reason_to_stop(self.progress, self._plan, self._should_stop)
        self.progress = dataclasses.replace(self.progress, reason=reason)
        self._save(wait=True)

    def rescue(self) -> None:
        """Saves what an error interrupted, if that was between two batches; within one it could not be gone on with."""
        if self.progress.step == self._record["progress"]["step"]:
            with suppress(Exception):
                self._save(wait=True)

    def _save(self, wait: bool = False) -> None:
        self._run.sync()
        self._checkpoints.save(
            self.progress.step, self._state(), self._record, accuracy=self.progress.accuracy, wait=wait
        )

    # --- Batches ------------------------------------------------------------------------------------------------------

    def before(self) -> bool:
        """Whether another batch is to come."""
        self._reason = training.reason_to_stop(self.progress, self._plan, self._should_stop)
        return not self._reason

    def batch(self, rows: Sequence[Row]) -> Example:
        """Samples, scores and credits a batch. Tunix calls it in a thread of its own, while the other one waits."""
        recipe, plan, index = self._recipe, self._plan, self.progress.batch
        self._clock = clock = Clock()
        rollouts, raw, notes = collect(
            self.sample, recipe.reward, recipe.keep_group, self._parameters, Given(rows, self._batches),
            jax.random.fold_in(self._keys[0], index), group_size=plan.group_size, parts=plan.rollout_microbatches,
            max_refills=plan.max_refills, batch=index, record=self._keep, clock=clock,
        )  # fmt: skip
        if recipe.needs_reference:
            reference = self._cluster.logprobs(Role.REFERENCE, rollouts, plan.microbatches)
            rollouts = dataclasses.replace(rollouts, ref_logprobs=reference)
            clock.lap("reference")
        score, self._next_shaping = recipe.shaping.update(raw, self._shaping, rollouts)
        advantages.refuse_nan(score)
        credit = per_token(np.asarray(self._advantage(score)), rollouts)
        self._keep(rollouts, raw, score, credit)
        self._notes = notes | training.batch_measures(rollouts, raw, score, credit)
        clock.lap("credit")
        self._rollouts, self._done = rollouts, 0
        return _loss.example_of(rollouts, np.asarray(score.valid), credit, recipe.loss, plan.minibatches)

    def _keep(self, rollouts: Rollouts, raw: Score | None, *shaped_and_credit: Any) -> None:
        shaped, credit = shaped_and_credit or (None, None)
        where = {"step": self.progress.step, "batch": self.progress.batch}
        self._run.log_samples(measures.rollout_records(rollouts, raw, shaped, credit, **where))

    def _take(self) -> slice | None:
        """The rows of the next update; none after the last step, or after an error, which is raised when Tunix is done.

        Tunix's thread may still be handing over the batch, and would wait for ever for somebody to take it.
        """
        if self._error is not None or self.progress.step == self._plan.steps:
            return None
        size = len(self._rollouts.prompts) // self._plan.minibatches * self._plan.group_size
        start = self._done % self._plan.minibatches * size
        return slice(start, start + size)

    def _updated(self, numbers: dict[str, float]) -> None:
        try:
            finite = np.isfinite(numbers["policy/loss"]) and np.isfinite(numbers["policy/gradient_norm"])
            numbers = numbers | {"policy/finite": float(finite)}
            training.refuse_non_finite(numbers, self.progress)
            self._log(numbers)
        except BaseException as error:
            self._error = error

    def _log(self, numbers: dict[str, float]) -> None:
        iteration, self._done = self._done // self._plan.minibatches, self._done + 1
        self.progress = dataclasses.replace(self.progress, step=self.progress.step + 1)
        step = self.progress.step
        row = {"kind": "train", "step": step, "batch": self.progress.batch, "iteration": iteration}
        row |= self._notes | numbers | {"policy/learning_rate": float(np.asarray(self._rate(step)))}
        row |= self._observer.see(row)
        timing = self._clock.timing(step, self._rollouts)
        self._run.log(row)
        self._run.log_timing(timing)
        self._show(row, timing)

    def after(self) -> None:
        """Ends a batch: evaluates and saves where that is due."""
        if self._error is not None:
            raise self._error
        plan, before = self._plan, self._record["progress"]["step"]
        self._shaping = self._next_shaping
        self.progress = dataclasses.replace(
            self.progress,
            batch=self.progress.batch + 1,
            tokens=self.progress.tokens + int(self._rollouts.lengths.sum()),
            seconds=time.perf_counter() - self._started,
        )
        if training.due(before, self.progress.step, plan.evaluate_every) or self.progress.step >= plan.steps:
            self._measure()
        self._record = training.to_resume(self.progress, self._batches.get_state(), self._run)
        if training.due(before, self.progress.step, plan.checkpoint_every):
            self._save()

    def _measure(self) -> None:
        step = self.progress.step
        row = {"kind": "eval", "step": step}
        row |= self._evaluate(self.parameters(), jax.random.fold_in(self._keys[1], step))
        row |= self._observer.see(row)
        self._run.log(row)
        self._show(row, {})
        self.progress = training.judged(self.progress, row["eval/accuracy"])
