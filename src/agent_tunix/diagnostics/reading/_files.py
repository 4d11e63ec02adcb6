"""Opening what may be anything: encodings, gzip, and one sentence for what cannot be read."""

import codecs
import contextlib
import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from agent_tunix.errors import RunError

GZIP = b"\x1f\x8b"
MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
SAMPLE = 1 << 16
UNDERSTOOD = (
    "a run folder of agent-tunix, TensorBoard event files, CSV (also exported from W&B), JSON lines, a JSON list, "
    "trainer_state.json of TRL or transformers, and console logs of verl, OpenRLHF, NeMo-RL and TRL"
)


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns what goes wrong while a file is read into one sentence."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise RunError(
            f"{path} is a damaged or cut off gzip file; unpack what is left of it with `gzip -dc`"
        ) from error
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror or error}") from error


@contextlib.contextmanager
def binary(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, unpacked if it is gzip."""
    with readable(path), open(path, "rb") as raw:
        packed = raw.read(2) == GZIP
        raw.seek(0)
        if packed:
            with gzip.open(raw) as unpacked:
                yield unpacked  # type: ignore[misc]
        else:
            yield raw


@contextlib.contextmanager
def text(path: Path) -> Iterator[IO[str]]:
    """The text of a file; bytes that are no text become U+FFFD, so that a console log survives them."""
    with binary(path) as raw:
        encoding = _encoding(head(path)[:4])
        yield io.TextIOWrapper(raw, encoding=encoding, errors="replace")


def head(path: Path) -> bytes:
    """The first bytes of a file."""
    with binary(path) as raw:
        return raw.read(SAMPLE)


def sample(path: Path) -> str:
    """The first characters of a text file.

    Raises:
      RunError: If the file is empty or no text.
    """
    data = head(path)
    encoding = _encoding(data[:4])
    if not data.strip():
        raise RunError(f"{path} is empty; what can be read is {UNDERSTOOD}")
    if encoding == "utf-8" and b"\0" in data:
        raise RunError(f"{path} is binary and no event file; what can be read is {UNDERSTOOD}")
    return codecs.decode(data, encoding, "replace")


def _encoding(start: bytes) -> str:
    return next((encoding for mark, encoding in MARKS.items() if start.startswith(mark)), "utf-8")
