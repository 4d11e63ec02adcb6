"""From a task to batches of token ids: loading and splitting rows, shuffled batches on grain, and their encoding."""

import functools
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grain
import numpy as np
from jaxtyping import Bool, Int32

from agent_tunix import tasks
from agent_tunix.errors import ConfigError, nearest, unknown
from agent_tunix.tasks import DataError, gsm8k, gym, math_problems
from agent_tunix.tasks import _remote as remote
from agent_tunix.tasks._files import SUFFIXES, parsed, read
from agent_tunix.tokenizers import Tokenizer
from agent_tunix.types import Row

logger = logging.getLogger(__name__)

MESSAGES = "messages"
"""Column of rows that hold a chat instead of a prompt alone."""


class Dataset(NamedTuple):
    """Rows of a task, split.

    Attributes:
      train: Rows to train on, each with `prompt`, `answer`, `demonstration` (or None), `task`, `level` and any columns
        of its own; all rows have the same columns.
      heldout: Rows to evaluate on; no prompt of theirs is among those of `train`.
      skipped: Malformed rows that were left out.
      overlapping: Training rows removed because their prompt is held out.
    """

    train: list[dict[str, Any]]
    heldout: list[dict[str, Any]]
    skipped: int = 0
    overlapping: int = 0


class EncodedPrompts(NamedTuple):
    """Prompts as the sampler takes them.

    Attributes:
      ids: Beginning-of-sequence token and prompt, left-padded.
      mask: True where `ids` is not padding.
      truncated: Number of prompts that lost tokens on their left.
    """

    ids: Int32[np.ndarray, "prompts prompt_tokens"]
    mask: Bool[np.ndarray, "prompts prompt_tokens"]
    truncated: int


class EncodedCompletions(NamedTuple):
    """Completions as supervised training takes them.

    Attributes:
      ids: Completion and end-of-sequence token, right-padded.
      mask: True where `ids` is not padding, so also on the end-of-sequence token.
      fits: False where a completion with its end-of-sequence token is longer than the row; such a row holds the
        beginning of the completion without an end.
    """

    ids: Int32[np.ndarray, "completions tokens"]
    mask: Bool[np.ndarray, "completions tokens"]
    fits: Bool[np.ndarray, " completions"]


def names() -> list[str]:
    """Every task that rows are loaded from: the procedural ones, `gsm8k`, `math`, `gym` and `file`."""
    return [*tasks.names(), "gsm8k", "math", "gym", "file"]


def load(
    task: str,
    *,
    path: str | None,
    level: int,
    train_size: int,
    heldout_size: int,
    prompt_column: str,
    answer_column: str,
    demonstration_column: str,
    malformed: str,
    seed: int,
    symbolic: bool = False,
    gym_task: str | None = None,
    gym_arguments: Mapping[str, Any] | None = None,
) -> Dataset:
    """Rows of a task, split into training and held-out rows that share no prompt.

    Args:
      task: One of `names()`.
      path: For `gsm8k` a folder of `train.jsonl` and `test.jsonl`, or None for the hub. For `file` and `math` a JSONL,
        CSV or Parquet file, a tenth of whose prompts is held out by their hash, or a folder with such a file named
        `train` and perhaps one named `test`, or a data set of a hub (`tasks/_remote.py`), of which the test or
        validation split is held out. For `file`, columns `task` and `level` (a whole number) are kept. Unused by
        procedural tasks.
      level: Difficulty of procedural tasks.
      train_size: Training rows of procedural tasks and `gym`; files are used whole.
      heldout_size: Held-out rows of the same.
      prompt_column: Column of prompts in a file; texts, or chats as lists of messages.
      answer_column: Column of reference answers in a file.
      demonstration_column: Column of solving completions in a file; it may be absent.
      malformed: `raise` or `skip` rows of gsm8k and files that cannot be read.
      seed: For procedural tasks and `gym`.
      symbolic: For `math`, whether answers are also compared as mathematics.
      gym_task: For `gym`, the name of a data set of reasoning-gym.
      gym_arguments: Its settings.

    Raises:
      ConfigError: An unknown name, or a setting out of range.
      DataError: Missing, empty or malformed files, or missing columns.
    """
    if task in tasks.TASKS:
        rows = [
            tasks.generate(task, level=level, size=size, split=split, seed=seed)
            for split, size in (("train", train_size), ("heldout", heldout_size))
        ]
        return disjoint(*rows, skipped=0)
    if task == "gsm8k":
        train, heldout, skipped = gsm8k.load(path, malformed=malformed)
        return disjoint(train, heldout, skipped=skipped)
    if task == "gym":
        sizes = {"train_size": train_size, "heldout_size": heldout_size, "seed": seed}
        return disjoint(*gym.load(gym_task, gym_arguments or {}, **sizes), skipped=0)
    if task == "math":
        return _from_files(task, path, functools.partial(_problems, symbolic=symbolic, malformed=malformed), malformed)
    if task == "file":
        columns = prompt_column, answer_column, demonstration_column
        return _from_files(task, path, functools.partial(_mapped, columns=columns, malformed=malformed), malformed)
    raise ConfigError(unknown("task", task, names()))


def disjoint(train: list[dict[str, Any]], heldout: list[dict[str, Any]], *, skipped: int) -> Dataset:
    """Removes training rows whose prompt is held out, and refuses empty splits."""
    held = {row["prompt"] for row in heldout}
    kept = [row for row in train if row["prompt"] not in held]
    overlapping = len(train) - len(kept)
    if overlapping:
        logger.warning("removed %d training rows whose prompt is held out", overlapping)
    for split, rows in (("training", kept), ("held-out", heldout)):
        if not rows:
            raise DataError(
                f"no {split} rows are left (malformed and skipped: {skipped}, overlapping and removed: {overlapping}); "
                "pass more rows"
            )
    return Dataset(kept, heldout, skipped, overlapping)


_Records = list[tuple[str, dict[str, Any]]]
"""Rows as they stand somewhere, each with its place."""

_ToRows = Callable[[str, _Records], tuple[list[dict[str, Any]], int]]
"""`(source, records) -> (rows, skipped)`: rows in the package's own columns, and how many were malformed."""


def _from_files(task: str, path: str | None, to_rows: _ToRows, malformed: str) -> Dataset:
    """Reads a file, or a folder of them, and splits by hash what comes without test rows."""
    if path is None:
        raise ConfigError(
            f"data.task={task} needs data.path, a JSONL, CSV or Parquet file or a folder with `train` in it"
        )
    (source, records, skipped), *others = _splits(path, malformed)
    train, unusable = to_rows(source, records)
    skipped += unusable
    if not others:
        train, test = _split_by_hash(train, source)
    else:
        ((source, records, unread),) = others
        test, unusable = to_rows(source, records)
        skipped += unread + unusable
    fill_columns([*train, *test])
    return disjoint(train, test, skipped=skipped)


def _problems(source: str, records: _Records, *, symbolic: bool, malformed: str) -> tuple[list[dict[str, Any]], int]:
    good, skipped = parsed(records, functools.partial(math_problems.row, symbolic=symbolic), malformed=malformed)
    return [row for _, row in good], skipped


_Split = tuple[str, _Records, int]
"""Where rows come from, the rows with their places, and how many could not be read."""


def _splits(path: str, malformed: str) -> list[_Split]:
    """The training rows, and those held out if they are kept apart, as they stand in files or on a hub."""
    found = remote.load(path) if remote.is_remote(path) else Path(path)
    if isinstance(found, Path):
        return [(str(file), *read(file, malformed=malformed)) for file in _find_files(found) if file is not None]
    return [(path, rows, 0) for rows in found if rows is not None]


def _find_files(path: Path) -> tuple[Path, Path | None]:
    """The training file and the test file, if there is one."""
    if not path.exists():
        raise DataError(f"{path} does not exist; check data.path")
    if not path.is_dir():
        return path, None
    found = {stem: [path / f"{stem}{suffix}" for suffix in SUFFIXES if (path / f"{stem}{suffix}").is_file()]
             for stem in ("train", "test")}  # fmt: skip
    for stem, files in found.items():
        if len(files) > 1:
            raise DataError(f"{path} has {' and '.join(file.name for file in files)}; keep one {stem} file")
    if not found["train"]:
        there = ", ".join(sorted(entry.name for entry in path.iterdir())[:10]) or "nothing"
        raise DataError(f"{path} has no train file ({', '.join(f'train{suffix}' for suffix in SUFFIXES)}), but {there}")
    return found["train"][0], found["test"][0] if found["test"] else None


def _mapped(
    source: str, records: _Records, *, columns: tuple[str, str, str], malformed: str
) -> tuple[list[dict[str, Any]], int]:
    """Rows in the package's own columns, and the number of malformed ones."""
    there = {column: None for _, record in records for column in record}
    # `demonstration` is this package's own name and may be absent; any other name was asked for.
    required = columns if columns[2] != "demonstration" else columns[:2]
    for key, column in zip(("prompt", "answer", "demonstration"), required, strict=False):
        if records and column not in there:
            near = nearest(column, there)
            hint = f" (did you mean `{near}`?)" if near else ""
            found = ", ".join(map(str, there)) or "none"
            raise DataError(f"{source} has no column `{column}`{hint}; set data.{key}_column to one of: {found}")
    good, unusable = parsed(records, lambda record: _own_columns(record, columns), malformed=malformed)
    return [row for _, row in good], unusable


def _own_columns(record: dict[str, Any], columns: tuple[str, str, str]) -> dict[str, Any]:
    """Renames the mapped columns and checks what the package relies on; raises ValueError with the reason."""
    prompt, answer, demonstration = (record.get(column) for column in columns)
    chat = {}
    if isinstance(prompt, list):
        prompt, chat = _asked(prompt), {MESSAGES: prompt}
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError(f"column `{columns[0]}` is {prompt!r}, not a text")
    if not isinstance(answer, str | int | float) or isinstance(answer, bool) or not _spelled(answer):
        raise ValueError(f"column `{columns[1]}` is {answer!r}, neither a text nor a number")
    if demonstration is not None and not isinstance(demonstration, str):
        raise ValueError(f"column `{columns[2]}` is {demonstration!r}, not a text")
    others = {column: value for column, value in record.items() if column not in columns}
    return (
        others
        | chat
        | {
            "prompt": prompt,
            "answer": _spelled(answer),
            "demonstration": demonstration or None,
            "task": str(others.get("task") or "file"),
            "level": _level(others.get("level")),
        }
    )


def _asked(messages: list[Any]) -> str:
    """What the user says last in a chat."""
    for message in messages:
        if not isinstance(message, dict) or not all(isinstance(message.get(key), str) for key in ("role", "content")):
            raise ValueError(f"a message of its chat is {message!r}, without a role and a content")
    asked = [message["content"] for message in messages if message["role"] == "user"]
    if not asked:
        raise ValueError("its chat has no message of a user")
    return asked[-1]


def _spelled(answer: str | int | float) -> str:
    """The answer as text, `2` for 2.0, empty for what is not a number."""
    if isinstance(answer, float):
        return "" if not math.isfinite(answer) else str(int(answer)) if answer.is_integer() else str(answer)
    return str(answer).strip()


def _level(value: Any) -> int:
    """The file's own level where it is a whole number, else 1."""
    return int(value) if isinstance(value, int | str) and str(value).isdecimal() else 1


def _split_by_hash(rows: list[dict[str, Any]], source: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Holds out the prompts whose hash is in the lowest tenth, and at least one prompt."""
    prompts = {row["prompt"] for row in rows}
    if len(prompts) < 2:
        raise DataError(f"{source} has {len(prompts)} usable prompts; at least 2 are needed to hold one out")
    held = {prompt for prompt in prompts if tasks.is_heldout(prompt)} or {min(prompts, key=tasks.split_hash)}
    if held == prompts:
        held = held - {max(prompts, key=tasks.split_hash)}
    return [row for row in rows if row["prompt"] not in held], [row for row in rows if row["prompt"] in held]


def fill_columns(rows: Sequence[dict[str, Any]]) -> None:
    """Gives every row every column, None where it has no value, so that batches have one set of columns."""
    empty = {column: None for row in rows for column in row}
    for row in rows:
        row.update(empty | row)


def batches(rows: Sequence[Row], *, size: int, seed: int) -> grain.DatasetIterator:
    """Shuffled batches without end.

    Every epoch visits each row once, in an order of its own. Where `size` does not divide the number of rows, a batch
    spans two epochs, so that none is short and none of the rows is dropped.

    Args:
      rows: At least `size` of them.
      size: Rows per batch.
      seed: Whole number from 0; orders of different seeds are unrelated.

    Returns:
      grain's iterator over lists of rows. `get_state()` is a small dictionary that JSON can hold, counting rows;
      `set_state(state)` continues from there with exactly the batches that would have followed.

    Raises:
      ConfigError: More rows per batch than there are, fewer than 1, or a negative seed.
    """
    if not 1 <= size <= len(rows):
        raise ConfigError(f"a batch of {size} rows cannot be drawn from {len(rows)}; use 1 to {len(rows)} per batch")
    if seed < 0:
        raise ConfigError(f"seed is {seed}; it must be at least 0")
    # `.seed(seed).shuffle()`, not `.shuffle(seed=seed)`: the latter orders epoch e by `seed + e`, so that run 0 would
    # see in its second epoch what run 1 sees in its first.
    endless = grain.MapDataset.source(rows).seed(seed).shuffle().repeat()
    # No threads: rows are in memory, and a read-ahead would be in flight when the state is saved.
    in_order = endless.to_iter_dataset(grain.ReadOptions(num_threads=0))
    return iter(in_order.batch(size, drop_remainder=True, batch_fn=list))


def encode_prompts(tokenizer: Tokenizer, prompts: Sequence[str], *, max_tokens: int, overlong: str) -> EncodedPrompts:
    """Encodes prompts behind a beginning-of-sequence token, where the model has one, left-padded to one length.

    Args:
      tokenizer: Adds no special tokens itself.
      prompts: Texts.
      max_tokens: Length of a row, beginning-of-sequence token included.
      overlong: What to do with a longer prompt: `raise`, or `truncate`, which keeps the beginning-of-sequence token
        and the last tokens of the prompt.

    Raises:
      DataError: A prompt is too long under `raise`.
      ConfigError: Another value of `overlong`, or a `max_tokens` below 2.
    """
    if overlong not in ("raise", "truncate"):
        raise ConfigError(unknown("value of data.overlong_prompts", overlong, ("raise", "truncate")))
    if max_tokens < 2:
        raise ConfigError(f"data.max_prompt_tokens is {max_tokens}; at least 2 are needed for a token after the first")
    ids = np.full((len(prompts), max_tokens), tokenizer.pad_id(), np.int32)
    mask = np.zeros((len(prompts), max_tokens), bool)
    first = [] if tokenizer.bos_id() is None else [tokenizer.bos_id()]
    room, truncated = max_tokens - len(first), 0
    for index, prompt in enumerate(prompts):
        tokens = tokenizer.encode(prompt)
        if len(tokens) > room:
            if overlong == "raise":
                raise DataError(
                    f"prompt {index} ({_shown(prompt)}) has {len(tokens) + len(first)} tokens"
                    f"{' with its beginning-of-sequence token' if first else ''}, but data.max_prompt_tokens is "
                    f"{max_tokens}; raise it or set data.overlong_prompts=truncate"
                )
            truncated += 1
            tokens = tokens[len(tokens) - room :]
        row = [*first, *tokens]
        start = max_tokens - len(row)
        ids[index, start:] = row
        mask[index, start:] = True
    return EncodedPrompts(ids, mask, truncated)


def encode_completions(tokenizer: Tokenizer, texts: Iterable[str], *, max_tokens: int) -> EncodedCompletions:
    """Encodes completions with an end-of-sequence token, right-padded to one length.

    Args:
      tokenizer: Adds no special tokens itself.
      texts: Completions, such as demonstrations.
      max_tokens: Length of a row, end-of-sequence token included.

    Returns:
      Ids, mask and which rows fit; it is the caller's to leave out or to count those that do not.
    """
    rows = [[*tokenizer.encode(text), tokenizer.eos_id()] for text in texts]
    ids = np.full((len(rows), max_tokens), tokenizer.pad_id(), np.int32)
    mask = np.zeros((len(rows), max_tokens), bool)
    for index, tokens in enumerate(rows):
        kept = tokens[:max_tokens]
        ids[index, : len(kept)] = kept
        mask[index, : len(kept)] = True
    return EncodedCompletions(ids, mask, np.array([len(tokens) <= max_tokens for tokens in rows], bool))


def _shown(text: str) -> str:
    """The beginning of a text, quoted, for an error message."""
    return repr(text if len(text) <= 40 else f"{text[:37]}...")
