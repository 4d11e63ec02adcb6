"""Whole jobs from a configuration: train, go on, evaluate, sample. Everything below takes plain arguments."""

import contextlib
import dataclasses
import logging
import resource
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
from jax.sharding import Mesh

from agent_tunix import (
    checkpoints,
    collecting,
    evaluation,
    hosts,
    models,
    policies,
    recipes,
    reward_analysis,
    runs,
    sinks,
    training,
    watching,
    workshop,
)
from agent_tunix.collecting import Feedback
from agent_tunix.config import Config
from agent_tunix.display import Display
from agent_tunix.errors import RunError, command
from agent_tunix.models import Parameters
from agent_tunix.runs import Run, RunWriter
from agent_tunix.types import Params, Recipe, Row
from agent_tunix.workshop import Workshop

logger = logging.getLogger(__name__)


Trained = tuple[Parameters, training.Progress]


class Interrupted(Exception):
    """A signal asked to stop before the first step."""


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
    watching.check(config)
    sinks.check(config)
    if config.engine == "tunix":
        workshop.rollout(config)
    hosts.join(config.distributed)
    with hosts.noticed():
        return _joined(config)


def _joined(config: Config) -> Run:
    """The same, among the other processes if there are any."""
    plain = dataclasses.asdict(config)
    path = _run_dir(config, plain)
    workshop.keep_compiled_programs(workshop.cache_dir(config))
    first = hosts.index() == 0
    with (
        _opened(path, plain, config.resume) as run,
        Display(config.training.steps, log_rewards=config.training.log_rewards, quiet=not first) as display,
        stop_signals() as should_stop,
    ):
        done = hosts.exchanged("done", runs.read_summary(path))[0]
        if done and not run.changes:
            line = f"{path} is finished at step {done['step']}; nothing to do"
            unwell = done.get("reason") == "unhealthy"
            display.say(_unhealthy_line(path, done["step"], config.training.stop_on) if unwell else line)
            return runs.read_run(path)
        if "mesh" in run.changes:
            display.say(_mesh_line(*run.changes["mesh"]))
        try:
            _trained(config, path, run, display, should_stop)
        except Interrupted:
            display.say(f"stopped in the warm start, which will start over; go on with: {command('resume', path)}")
        except hosts.FailedElsewhere as error:
            if error.kind != Interrupted.__name__:
                raise
        hosts.meet("end")
    return runs.read_run(path)


def _trained(config: Config, path: Path, run: RunWriter, display: Display, should_stop: Callable[[], bool]) -> None:
    shop = policies.workshop_of(config)
    workshop.check_prompts(shop)
    mesh = workshop.mesh(config)
    on_step = _warm_start_step(config, display, should_stop)
    start = workshop.start_params(shop, path, on_step, on_host=mesh is not None)
    with sinks.attached(config, run) if hosts.index() == 0 else contextlib.nullcontext():
        _fit(shop, start, run, display, should_stop, mesh)


def _run_dir(config: Config, plain: dict[str, Any]) -> Path:
    """The folder of the run, the same for all processes."""

    def chosen() -> Path | None:
        if config.run_dir:
            return Path(config.run_dir)
        return runs.new_run_dir(runs.default_name(plain)) if hosts.index() == 0 else None

    found = hosts.together("run_dir", chosen)[0]
    assert found is not None
    return found


def _opened(path: Path, plain: dict[str, Any], resume: str) -> RunWriter:
    """The run, written by the first process and followed by the others, which have to see its folder.

    Raises:
      RunError: If it cannot be opened, or another process has no such folder.
    """
    if hosts.count() == 1:
        return runs.open_run(path, config=plain, resume=resume)
    opened: list[RunWriter] = []

    def open_first() -> tuple[bool, dict[str, Any]] | None:
        if hosts.index():
            return None
        opened.append(runs.open_run(path, config=plain, resume=resume))
        return opened[0].resumed, opened[0].changes

    def seen() -> None:
        if not runs.is_run(path):
            raise RunError(f"{path.absolute()} is not the folder that process 0 writes; put run_dir on a shared one")

    found = hosts.together("open", open_first)[0]
    assert found is not None
    hosts.together("seen", seen)
    return opened[0] if opened else runs.Follower(path, resumed=found[0], changes=found[1])


def resume(path: Path | str) -> Run:
    """Goes on with a run as its own folder describes it."""
    config = recipes.from_mapping(runs.read_config(path))
    return train(dataclasses.replace(config, run_dir=str(path), resume="auto"))


def evaluate_run(
    path: Path | str, *, split: str = "heldout", samples: int = 0, checkpoint: int | Literal["best"] | None = None
) -> evaluation.Evaluation:
    """Evaluates the trained policy of a run.

    Args:
      path: Run folder.
      split: `heldout` (also called `test`) or `train`.
      samples: Completions per prompt at the training temperature, for pass@k and majority@k; 0 for greedy only.
      checkpoint: Step of the checkpoint, or `best` by held-out accuracy; None is the newest.
    """
    shop, parameters = policies.load(path, checkpoint)
    rows = {"heldout": shop.dataset.heldout, "test": shop.dataset.heldout, "train": shop.dataset.train}.get(split)
    if rows is None:
        raise RunError(f"unknown split `{split}`; allowed: heldout, test, train")
    answers = workshop.answers(shop, rows[: shop.config.evaluation.rows])
    key = jax.random.key(shop.config.seed)
    greedy = answers(workshop.sampler(shop, greedy=True), parameters, 1, key)
    sampled = answers(workshop.sampler(shop), parameters, samples, key) if samples else ()
    return evaluation.evaluation(greedy, sampled, split=split, samples=samples)


def sample_run(
    path: Path | str, prompts: int | Sequence[str] = 4, *, checkpoint: int | Literal["best"] | None = None
) -> list[dict[str, Any]]:
    """Completions of a run's policy, one sampled per prompt.

    Args:
      path: Run folder.
      prompts: Texts, or how many of the held-out prompts to take.
      checkpoint: Step of the checkpoint, or `best` by held-out accuracy; None is the newest.

    Returns:
      One dictionary per prompt: `prompt`, `completion`, `truncated` and, for held-out rows, `answer` and `correct`.
    """
    shop, parameters = policies.load(path, checkpoint)
    rows: Sequence[Row]
    rows = shop.dataset.heldout[:prompts] if isinstance(prompts, int) else [{"prompt": text} for text in prompts]
    rollouts = workshop.sampler(shop)(parameters, rows, 1, jax.random.key(shop.config.seed))
    out = []
    for row, texts, truncated in zip(rows, rollouts.completions, rollouts.truncated, strict=True):
        item = {"prompt": row["prompt"], "completion": texts[0], "truncated": bool(truncated[0])}
        if "answer" in row:
            item |= {"answer": row["answer"], "correct": recipes.is_correct(texts[0], row) == 1.0}
        out.append(item)
    return out


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


def _resume_line(path: Path, step: int) -> str:
    return f"stopped after step {step}, everything is saved; go on with: {command('resume', path)}"


def _unhealthy_line(path: Path, step: int, stop_on: str) -> str:
    return (
        f"stopped after step {step} by training.stop_on={stop_on}, everything is saved; to go on all the same: train "
        f"with the same settings, run_dir={path} training.stop_on=never resume=force"
    )


def _mesh_line(old: object, new: object) -> str:
    return f"mesh was {old} and is {new}: from here on the last bits may be others than over the mesh it began with"


def _fit(
    shop: Workshop, start: Params, run: RunWriter, display: Display, asked: Callable[[], bool], mesh: Mesh | None
) -> None:
    config, first = _watched(shop.config), hosts.index() == 0
    recipe = recipes.recipe(config)
    batches, feedback = workshop.batches(shop, recipe.reward)
    recipe = recipe._replace(reward=collecting.dealt(recipe.reward, mesh))
    eval_samples = len(shop.dataset.heldout[: config.evaluation.rows])
    run.write_reward(watching.facts(recipe.reward, eval_samples))
    monitor = watching.monitor(config, recipe.reward, run, display, eval_samples=eval_samples)
    report = watching.periodic_report(run.path, config.diagnostics.report_every_steps, config.training.steps)
    stopping = watching.stopping(asked, monitor, config.training.stop_on)

    def show(row: dict[str, Any], timing: dict[str, float]) -> None:
        display.show(row, timing)
        report(row)

    manager = checkpoints.Checkpoints(run.path / runs.CHECKPOINTS, keep=config.checkpoint.keep)
    try:
        parameters, progress = _FITS[config.engine](
            shop,
            workshop.parameters(shop, start),
            recipe,
            mesh,
            feedback,
            batches=batches,
            evaluate=workshop.evaluator(shop, mesh),
            plan=workshop.plan(config, shop.architecture, mesh),
            run=run,
            checkpoints=manager,
            should_stop=lambda: next(filter(None, hosts.exchanged("stop", stopping())), ""),
            observer=monitor,
            show=show,
        )
        manager.wait()
    finally:
        manager.close()
    if progress.reason == "interrupted":
        display.say(_resume_line(run.path, progress.step))
        return
    if progress.reason == "unhealthy":
        display.say(_unhealthy_line(run.path, progress.step, config.training.stop_on))
    sha256 = _same_everywhere(models.params_sha256(parameters.trainable))
    if not first:
        return
    summary = _summary(run.path, sha256, progress)
    run.write_summary(summary | {"health": [finding.to_json() for finding in monitor.findings]})
    if config.training.save_reward_analysis:
        analysis = reward_analysis.analyse(runs.read_samples(run.path))
        run.write_reward_analysis(analysis)
        display.say(reward_analysis.table(analysis))
    watching.write_report(run.path)


def _watched(config: Config) -> Config:
    """A config with which only the first of several processes tells others of findings, and writes reports."""
    if hosts.index() == 0:
        return config
    silent = dataclasses.replace(config.diagnostics, callback=None, webhook=None, report_every_steps=0)
    return dataclasses.replace(config, diagnostics=silent)


def _same_everywhere(sha256: str) -> str:
    """The hash of the parameters.

    Raises:
      RunError: If the processes have ended with different ones.
    """
    found = hosts.exchanged("sha256", sha256)
    if len(set(found)) > 1:
        raise RunError(f"the processes have ended with different parameters ({', '.join(found)}); the run is broken")
    return sha256


def _on_jax(
    shop: Workshop, parameters: Parameters, recipe: Recipe, mesh: Mesh | None, feedback: Feedback, **around: Any
) -> Trained:
    return training.fit(
        shop.policy,
        workshop.placed(shop, parameters, mesh),
        recipe,
        *workshop.optimizer(shop.config),
        sample=workshop.sampler(shop, mesh=mesh),
        mesh=mesh,
        feedback=feedback,
        **around,
    )


def _on_tunix(
    shop: Workshop, parameters: Parameters, recipe: Recipe, mesh: Mesh | None, feedback: Feedback, **around: Any
) -> Trained:
    """Meshes of its own; and rows are drawn ahead, so that nothing could be made of what it would be told of them."""
    from agent_tunix import engines  # Tunix's learners take seconds to import

    return engines.fit(
        shop.architecture,
        parameters,
        recipe,
        *workshop.optimizer(shop.config),
        tokenizer=shop.tokenizer,
        rollout=workshop.rollout(shop.config),
        layout=shop.layout,
        **around,
    )


_FITS: Mapping[str, Callable[..., Trained]] = {"jax": _on_jax, "tunix": _on_tunix}


def _warm_start_step(config: Config, display: Display, should_stop: Callable[[], bool]) -> Callable[[int, float], None]:
    def on_step(step: int, loss: float) -> None:
        display.warm_start(step, config.warm_start.steps, loss)
        if should_stop():
            raise Interrupted

    return on_step


def _summary(path: Path, sha256: str, progress: training.Progress) -> dict[str, Any]:
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
        "params_sha256": sha256,
        "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
    }


def _numbers(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "kind"}
