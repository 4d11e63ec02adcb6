"""Reading and writing the weights of a model folder."""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from agent_tunix.errors import ModelError
from agent_tunix.hugging_face._config import architecture_of, config_of, read_config
from agent_tunix.hugging_face._weights import Weight, weights
from agent_tunix.models import Architecture
from agent_tunix.types import Params

logger = logging.getLogger(__name__)

SHARD_BYTES = 5_000_000_000
"""Largest file of weights that `save` writes; what transformers writes, too."""

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"

BESIDE = (
    "generation_config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
"""Files that go with the weights and that training does not change."""


def read_architecture(folder: str | Path) -> Architecture:
    """The architecture of a model folder, from its `config.json`.

    Raises:
      ModelError: If it cannot be read, or has no forward here.
    """
    return architecture_of(read_config(_existing(folder)))


def fingerprint(folder: str | Path) -> str:
    """A hash that changes with the config and with the names, shapes, types and sizes of the weights.

    It does not read the weights themselves, which would take minutes for large models.
    """
    folder = _existing(folder)
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for file in sorted(set(_files(folder).values())):
        digest.update(f"{file.name} {file.stat().st_size}".encode())
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            digest.update(stream.read(min(length, 2**27)))
            digest.update(stream.read(2**16))  # the first weights
    return digest.hexdigest()


def load(
    folder: str | Path,
    *,
    dtype: str | None = None,
    keep: Callable[[tuple[Any, ...], np.ndarray], Any] = lambda path, array: jnp.asarray(array),
) -> tuple[Architecture, Params]:
    """The architecture and the parameters of a model folder.

    Tensors are read one at a time, so that besides the parameters one of them is held.

    Args:
      folder: With `config.json` and `model.safetensors`, or shards and `model.safetensors.index.json`.
      dtype: `float32` or `bfloat16`; None keeps that of each tensor.
      keep: Called with the path of each weight in the tree and the array; what it returns is kept. By default that is
        the array on the device; others leave it on the host, or keep less of it (`agent_tunix.models.quantizer`).

    Raises:
      ModelError: If a file or a tensor is missing, has another shape than `config.json` says, or is cut off.
    """
    folder = _existing(folder)
    architecture = read_architecture(folder)
    files = _files(folder)
    named = {_plain(name): (name, file) for name, file in files.items()}
    needed = weights(architecture)
    _check_names(folder, needed, named)
    kind = None if dtype is None else np.dtype(getattr(ml_dtypes, dtype, None) or dtype)
    params: Params = {}
    tensors = _Tensors(named)
    for weight in needed:
        found = [tensors.read(name, weight.shape) for name in weight.names]
        array = weight.ours([tensor if kind is None else tensor.astype(kind) for tensor in found])
        _put(params, weight.path, keep(weight.path, array))
    return architecture, params


def save(
    folder: str | Path,
    architecture: Architecture,
    params: Params,
    *,
    like: str | Path | None = None,
    beside: Callable[[Path], None] | None = None,
    dtype: str | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Path:
    """Writes a model folder that transformers, vLLM and this package read.

    Args:
      folder: Made where missing. It is written beside itself first, so that a torn one is never left behind.
      architecture: Of the parameters.
      params: The full tree, low-rank updates merged.
      like: The folder that training started from; its tokenizer, generation config, chat template and the entries of
        its `config.json` that we do not set are taken over.
      beside: Writes further files into the folder, such as a tokenizer.
      dtype: Of the weights; None keeps theirs.
      shard_bytes: Largest file; more are written with an index.

    Raises:
      ModelError: If the folder holds something already, or the disk refuses.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise ModelError(f"{folder} is not empty; give a new folder, so that no model is overwritten")
    torn = folder.with_name(folder.name + ".part")
    shutil.rmtree(torn, ignore_errors=True)
    try:
        torn.mkdir(parents=True)
        tensors = _tensors(architecture, params, dtype)
        kind = _write_shards(torn, tensors, shard_bytes)
        _write_config(torn, architecture, kind, like)
        for name in BESIDE:
            if like is not None and (Path(like) / name).is_file():
                shutil.copyfile(Path(like) / name, torn / name)
        if beside is not None:
            beside(torn)
        if folder.exists():
            folder.rmdir()
        torn.rename(folder)
    except OSError as error:
        raise ModelError(f"{folder} could not be written: {error}; free space or give another folder") from error
    return folder


# --- Reading ----------------------------------------------------------------------------------------------------------


def _existing(folder: str | Path) -> Path:
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise ModelError(f"{path} is no folder; give one with config.json and model.safetensors")
    return path


def _files(folder: Path) -> dict[str, Path]:
    """Which file holds each tensor."""
    index = folder / INDEX
    if index.is_file():
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        missing = sorted({file for file in names.values() if not (folder / file).is_file()})
        if missing:
            raise ModelError(f"{folder} lacks {', '.join(missing)}, named in {INDEX}; copy or download all shards")
        return {name: folder / file for name, file in names.items()}
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        with _opened(file) as tensors:
            found |= dict.fromkeys(tensors.keys(), file)
    if not found:
        older = any(folder.glob("*.bin")) or any(folder.glob("*.pth"))
        advice = "; convert the PyTorch files with `save_pretrained(..., safe_serialization=True)`" if older else ""
        raise ModelError(f"{folder} has no *.safetensors{advice}")
    return found


def _opened(file: Path) -> Any:
    try:
        return safe_open(file, framework="np")
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file} is no safetensors file, or cut off ({error}); copy or download it again") from error


def _plain(name: str) -> str:
    """A tensor's name as in a model of text alone."""
    name = name.removeprefix("language_model.")
    return "model." + name.removeprefix("model.language_model.") if name.startswith("model.language_model.") else name


class _Tensors:
    """Tensors by their plain names, with one file open at a time."""

    def __init__(self, named: Mapping[str, tuple[str, Path]]) -> None:
        self._named = named
        self._file: Path | None = None
        self._open: Any = None

    def read(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """One tensor, after a look at its shape."""
        own, file = self._named[name]
        if file != self._file:
            self._file, self._open = file, _opened(file)
        found = tuple(self._open.get_slice(own).get_shape())
        if found != shape:
            raise ModelError(
                f"{own} in {file} is {list(found)}, but config.json makes it {list(shape)}; the weights belong to "
                "another config"
            )
        return self._open.get_tensor(own)


def _check_names(folder: Path, needed: list[Weight], named: Mapping[str, Any]) -> None:
    names = [name for weight in needed for name in weight.names]
    missing = [name for name in names if name not in named]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ModelError(
            f"{folder} lacks the weights {', '.join(missing[:3])}{more} that its config.json asks for; "
            "is a shard missing, or the config another model's?"
        )
    known = set(names)
    unused = [name for name in named if name not in known and not _harmless(name)]
    if unused:
        logger.warning(
            "%s: %d weights are not used, %s for instance; only the text part of a model is trained and exported",
            folder, len(unused), unused[0],
        )  # fmt: skip


def _harmless(name: str) -> bool:
    """Tied unembeddings and constants that some exporters write."""
    return name == "lm_head.weight" or "rotary_emb" in name


def _put(params: Params, path: tuple[str | int, ...], array: Any) -> None:
    tree: Any = params
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = array


# --- Writing ----------------------------------------------------------------------------------------------------------


def _tensors(architecture: Architecture, params: Params, dtype: str | None) -> Iterator[tuple[str, np.ndarray]]:
    kind = None if dtype is None else np.dtype(getattr(ml_dtypes, dtype, None) or dtype)
    for weight in weights(architecture):
        tree: Any = params
        for name in weight.path:
            tree = tree[name]
        array = np.asarray(jax.device_get(tree))
        for name, tensor in zip(weight.names, weight.theirs(array), strict=True):
            yield name, np.ascontiguousarray(tensor if kind is None else tensor.astype(kind))


def _write_shards(folder: Path, tensors: Iterator[tuple[str, np.ndarray]], shard_bytes: int) -> str:
    """Writes one file, or numbered ones and an index; the name of the weights' dtype."""
    shard: dict[str, np.ndarray] = {}
    shards: list[list[str]] = []
    total, kind = 0, "float32"

    def flush() -> None:
        save_file(shard, folder / f"part-{len(shards)}.safetensors", metadata={"format": "pt"})
        shards.append(list(shard))
        shard.clear()

    for name, tensor in tensors:
        if shard and sum(one.nbytes for one in shard.values()) + tensor.nbytes > shard_bytes:
            flush()
        shard[name], kind = tensor, tensor.dtype.name
        total += tensor.nbytes
    flush()
    if len(shards) == 1:
        (folder / "part-0.safetensors").rename(folder / SINGLE)
        return kind
    where = {}
    for number, names in enumerate(shards):
        file = f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors"
        (folder / f"part-{number}.safetensors").rename(folder / file)
        where |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return kind


def _write_config(folder: Path, architecture: Architecture, dtype: str, like: str | Path | None) -> None:
    config = config_of(architecture)
    if like is not None:
        given = read_config(Path(like))
        given = given.get("text_config", given)
        # What the origin says about the same model stays in its own words, as long as it reads the same.
        if architecture_of(given) == architecture:
            config = {**given, "architectures": config["architectures"], "model_type": config["model_type"]}
        else:
            config = given | config
    config |= {"dtype": dtype, "torch_dtype": dtype}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
