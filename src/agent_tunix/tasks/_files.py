"""Rows out of JSONL, CSV and Parquet files, each with the place it came from."""

import csv
import json
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from agent_tunix.errors import ConfigError, unknown
from agent_tunix.tasks._task import DataError

logger = logging.getLogger(__name__)

SUFFIXES = (".jsonl", ".csv", ".parquet")
"""File formats, by the end of the file name."""

_ON_MALFORMED = ("raise", "skip")
_Raw = TypeVar("_Raw")
_Parsed = TypeVar("_Parsed")


def parsed(
    records: Iterable[tuple[str, _Raw]], parse: Callable[[_Raw], _Parsed], *, malformed: str
) -> tuple[list[tuple[str, _Parsed]], int]:
    """Parses records, each with its place (`file:line`), and counts those that cannot be.

    Args:
      records: Pairs of a place and what stands there.
      parse: Raises ValueError with the reason where a record is malformed.
      malformed: `raise`, or `skip`, which logs place and reason.

    Returns:
      Pairs of a place and the parsed record, and the number of skipped records.

    Raises:
      DataError: A malformed record under `raise`.
    """
    if malformed not in _ON_MALFORMED:
        raise ConfigError(unknown("value of data.malformed", malformed, _ON_MALFORMED))
    good, skipped = [], 0
    for place, record in records:
        try:
            good.append((place, parse(record)))
        except ValueError as error:
            if malformed == "raise":
                raise DataError(f"{place}: {error}; correct the row, or set data.malformed=skip") from error
            skipped += 1
            logger.warning("skipped %s: %s", place, error)
    if skipped:
        logger.warning("skipped %d malformed rows of %d", skipped, skipped + len(good))
    return good, skipped


def text_of(record: dict[str, Any], key: str) -> str:
    """The text that a record holds under a key, without surrounding whitespace.

    Raises:
      ValueError: The key is missing, or holds something else or nothing but whitespace.
    """
    if key not in record:
        raise ValueError(f"`{key}` is missing; the row has {', '.join(map(str, record)) or 'no keys'}")
    if not isinstance(record[key], str) or not record[key].strip():
        raise ValueError(f"`{key}` is {record[key]!r}, not text")
    return record[key].strip()


def read(path: Path, *, malformed: str) -> tuple[list[tuple[str, dict[str, Any]]], int]:
    """Reads a file of rows, by the end of its name.

    Returns:
      Pairs of a place and a row as it stands in the file, and the number of skipped rows.

    Raises:
      DataError: The file is missing, empty, of an unknown format, or malformed.
    """
    readers = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}
    if path.suffix.lower() not in readers:
        raise DataError(f"{path} has an unknown format; name it with one of {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise DataError(f"{path} is not a file; check data.path")
    try:
        rows, skipped = readers[path.suffix.lower()](path, malformed)
    except OSError as error:
        raise DataError(f"{path} could not be read ({error.strerror or error}); check data.path") from error
    if not rows and not skipped:
        raise DataError(f"{path} has no rows; check data.path")
    return rows, skipped


def _jsonl(path: Path, malformed: str) -> tuple[list[tuple[str, dict[str, Any]]], int]:
    # Split on the newline byte only: texts may hold U+2028 and its like, at which `str.splitlines` would cut.
    lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    records = ((f"{path}:{number}", line) for number, line in enumerate(lines, 1) if line.strip())
    return parsed(records, _json_object, malformed=malformed)


def _json_object(line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 ({error.reason} at byte {error.start})") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg} at column {error.colno})") from error
    except RecursionError as error:
        raise ValueError("not usable JSON (nested too deeply)") from error
    if not isinstance(row, dict):
        raise ValueError(f"a JSON {type(row).__name__}, not an object")
    return row


def _csv(path: Path, malformed: str) -> tuple[list[tuple[str, dict[str, Any]]], int]:
    # `utf-8-sig` drops the byte-order mark that spreadsheets write, which would become part of the first column name.
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        try:
            records = [(f"{path}:{reader.line_num}", row) for row in reader]
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is not UTF-8 ({error.reason}); save it as UTF-8") from error
        except csv.Error as error:
            raise DataError(f"{path}:{reader.line_num}: {error}; correct the file") from error
    return parsed(records, _whole_csv_row, malformed=malformed)


def _whole_csv_row(row: dict[Any, Any]) -> dict[str, Any]:
    if None in row:
        raise ValueError(f"{len(row[None])} more fields than the header has columns")
    if None in row.values():
        raise ValueError("fewer fields than the header has columns")
    return row


def _parquet(path: Path, malformed: str) -> tuple[list[tuple[str, dict[str, Any]]], int]:
    try:
        import pyarrow.parquet  # optional and slow to import, so only where a Parquet file asks for it
    except ImportError as error:
        raise DataError(f"reading {path} needs pyarrow; install `agent-tunix[parquet]`") from error
    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except pyarrow.ArrowException as error:
        raise DataError(f"{path} is not a Parquet file ({str(error).splitlines()[0]})") from error
    return parsed(((f"{path} row {number}", row) for number, row in enumerate(rows, 1)), dict, malformed=malformed)
