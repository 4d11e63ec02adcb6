"""Rows of data sets that others keep: the Hugging Face hub, TensorFlow Datasets, Kaggle."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from agent_tunix.tasks._task import DataError

Records = list[tuple[str, dict[str, Any]]]
"""Rows with the place they come from."""

TESTS = ("test", "validation", "dev", "eval")
"""Names of splits that are held out, the first that is there."""

ADVICE = "check the name and the connection, or save the rows as JSONL and pass that file"


def is_remote(path: str) -> bool:
    """Whether a path names a data set that others keep, `hf:`, `tfds:` or `kaggle:`."""
    return path.partition(":")[0] in SOURCES and ":" in path


def load(path: str) -> tuple[Records, Records | None] | Path:
    """The training rows and the rows held out of a data set, or the file or folder that it was downloaded to.

    Args:
      path: `hf:ORGANISATION/NAME`, perhaps with `/CONFIG` behind it; `tfds:NAME`; or `kaggle:OWNER/NAME`, perhaps with
        `/FILE` behind it.

    Raises:
      DataError: If its library is not installed, or it could not be loaded.
    """
    scheme, _, name = path.partition(":")
    package, read = SOURCES[scheme]
    try:
        return read(name)
    except ImportError as error:
        raise DataError(f"{path} needs the package {package}; pip install {package}") from error
    except DataError:
        raise
    except Exception as error:  # clients of hubs fail in their own ways, and one advice answers all of them
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise DataError(f"{path} could not be loaded ({reason}); {ADVICE}") from error


def _from_hugging_face(name: str) -> tuple[Records, Records | None]:
    import datasets

    parts = name.split("/")
    repository, config = "/".join(parts[:2]), "/".join(parts[2:]) or None
    found: Any = datasets.load_dataset(repository, config)
    return _split(f"hf:{name}", found)


def _from_tensorflow_datasets(name: str) -> tuple[Records, Records | None]:
    import tensorflow_datasets

    # Data sources are read without TensorFlow.
    found: Any = tensorflow_datasets.data_source(name)
    return _split(f"tfds:{name}", found)


def _from_kaggle(name: str) -> Path:
    import kagglehub

    parts = name.split("/")
    return Path(kagglehub.dataset_download("/".join(parts[:2])), *parts[2:])


def _split(path: str, splits: Mapping[str, Iterable[Mapping[str, Any]]]) -> tuple[Records, Records | None]:
    if "train" not in splits:
        raise DataError(f"{path} has no split `train`, but {', '.join(splits) or 'nothing'}; {ADVICE}")
    test = next((split for split in TESTS if split in splits), None)
    return _records(path, "train", splits["train"]), None if test is None else _records(path, test, splits[test])


def _records(path: str, split: str, rows: Iterable[Mapping[str, Any]]) -> Records:
    return [(f"{path} {split} row {number}", _plain(row)) for number, row in enumerate(rows, 1)]


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """Values as Python's own; TensorFlow Datasets give bytes and scalars of NumPy."""

    def value(found: Any) -> Any:
        if isinstance(found, bytes):
            return found.decode("utf-8")
        return found.item() if hasattr(found, "item") and getattr(found, "shape", None) == () else found

    return {key: value(found) for key, found in row.items()}


SOURCES: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "hf": ("datasets", _from_hugging_face),
    "tfds": ("tensorflow_datasets", _from_tensorflow_datasets),
    "kaggle": ("kagglehub", _from_kaggle),
}
"""Words before the colon, what has to be installed, and what reads."""
