"""The policy that a run has trained: loaded, exported, or where another run starts."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Literal

import jax

from agent_tunix import checkpoints, hosts, hugging_face, models, recipes, runs, training, workshop
from agent_tunix.config import Config
from agent_tunix.errors import ModelError, RunError, command
from agent_tunix.models import Parameters
from agent_tunix.tokenizers import CharacterTokenizer
from agent_tunix.workshop import START, Workshop

RUN = "run:"
"""What stands before a run folder in `model.weights`."""


def workshop_of(config: Config) -> Workshop:
    """The workshop of a configuration; its weights may also be those of a run."""

    def folder_of(weights: str) -> Path:
        return _folder_of_run(weights, config) if weights.startswith(RUN) else hugging_face.folder_of(weights)

    return workshop.workshop(config, folder_of)


def export(
    path: Path | str, to: Path | str, *, checkpoint: int | Literal["best"] | None = None, dtype: str | None = None
) -> Path:
    """Writes the policy of a run as a model folder that transformers and vLLM read, low-rank updates merged.

    Args:
      path: Run folder.
      to: New folder. Tokenizer, chat template and generation config are those of the pretrained model, or for the
        built-in policy its character-level one.
      checkpoint: Step of the checkpoint, 0 for where GRPO started, or `best`; None is the newest.
      dtype: `float32` or `bfloat16`; None keeps that of the weights training started from.

    Raises:
      ModelError: If the folder cannot be written.
      RunError: If the run has no such checkpoint.
    """
    shop, parameters = load(path, checkpoint)
    if dtype is None and shop.origin is not None:
        dtype = hugging_face.read_config(shop.origin).get("dtype") or "float32"
    tokenizer = shop.tokenizer

    def beside(folder: Path) -> None:
        if isinstance(tokenizer, CharacterTokenizer):
            hugging_face.write_tokenizer(folder, tokenizer)

    frozen = jax.tree.map(lambda weight: weight.astype("float32"), models.plain(parameters.frozen))
    params = models.merged(dataclasses.replace(parameters, frozen=frozen))
    return hugging_face.save(to, shop.architecture, params, like=shop.origin, beside=beside, dtype=dtype)


def load(path: Path | str, checkpoint: int | Literal["best"] | None = None) -> tuple[Workshop, Parameters]:
    """The workshop and the trained parameters of a run.

    Args:
      path: Run folder.
      checkpoint: Step of the checkpoint, 0 for where GRPO started, or `best`; None is the newest.

    Raises:
      RunError: If the run has no such checkpoint.
    """
    path = Path(path)
    config = recipes.from_mapping(runs.read_config(path))
    workshop.keep_compiled_programs(workshop.cache_dir(config))
    shop = workshop_of(config)
    if not (path / START).exists():
        raise RunError(f"{path} holds no parameters yet; train it first")
    start = workshop.parameters(shop, workshop.kept_params(shop, path))
    if checkpoint == 0:
        return shop, start
    optimizer = workshop.optimizer(config)[0]
    like = training.TrainState(start.trainable, optimizer.init(start.trainable), recipes.recipe(config).shaping.init())
    manager = checkpoints.Checkpoints(path / runs.CHECKPOINTS, keep=config.checkpoint.keep)
    try:
        found = manager.restore(like, manager.best_step() if checkpoint == "best" else checkpoint)
    finally:
        manager.close()
    if found is None:
        raise RunError(f"{path} has no complete checkpoint yet; go on with {command('resume', path)}")
    return shop, dataclasses.replace(start, trainable=training.TrainState(*found[0]).trainable)


def _folder_of_run(weights: str, config: Config) -> Path:
    """The policy of a run as a model folder in the cache, written where it is not there yet.

    Args:
      weights: `run:FOLDER`, perhaps with `@STEP` or `@best`.
      config: Of the run that starts from it.
    """
    folder, _, which = weights.removeprefix(RUN).partition("@")
    if which not in ("", "best") and not which.isdecimal():
        raise ModelError(
            f"model.weights={weights} ends in @{which}; write @STEP or @best, or leave it out for the newest"
        )
    path = Path(folder).expanduser().absolute()
    runs.read_config(path)
    step = int(which) if which.isdecimal() else _latest(path, best=which == "best")
    digest = hashlib.sha256(f"{path} {step}".encode())
    for file in (path / runs.CONFIG, *sorted((path / runs.CHECKPOINTS / str(step)).glob("_*"))):
        digest.update(file.read_bytes())  # orbax notes there when the checkpoint was written
    kept = workshop.cache_dir(config) / "runs" / digest.hexdigest()[:32]
    if hosts.count() > 1 and not kept.exists():
        raise ModelError(
            f"model.weights={weights} has to be written out before several processes read it: "
            f"{command('export', path, '--to', 'DIR')}, then model.weights=DIR"
        )
    return kept if kept.exists() else export(path, kept, checkpoint=step, dtype="float32")


def _latest(path: Path, *, best: bool) -> int:
    """The step of the newest checkpoint of a run, or of its best."""
    manager = checkpoints.Checkpoints(path / runs.CHECKPOINTS, keep=1)
    try:
        found = manager.best_step() if best else max(manager.steps(), default=None)
    finally:
        manager.close()
    if found is None:
        raise RunError(f"{path} has no complete checkpoint yet; go on with {command('resume', path)}")
    return found
