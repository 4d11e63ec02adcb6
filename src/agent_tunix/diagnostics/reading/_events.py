"""TensorBoard event files: records of TFRecord framing, each an `Event` message.

Framing: length (8 bytes, little endian), its checksum (4), data, checksum (4);
https://www.tensorflow.org/tutorials/load_data/tfrecord. The message is
https://github.com/tensorflow/tensorboard/blob/master/tensorboard/compat/proto/event.proto.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from agent_tunix.diagnostics.reading._columns import COUNTERS, Columns, Table
from agent_tunix.diagnostics.reading._files import binary, head
from agent_tunix.errors import RunError

LENGTH = struct.Struct("<Q")
WALL_TIME = struct.Struct("<d")
WALL_TIME_FIELD = b"\x09"  # field 1, 64 bits: every writer puts it first
FRAME, TAIL = 12, 4
SIGN = b"brain.Event:"
LONGEST = 1 << 30
START = 1  # SessionLog.START, which a writer that goes on after a resume puts at its first step
TYPES = {1: np.float32, 2: np.float64}

Scalars = dict[str, tuple[list[int], list[float]]]


def is_event_file(path: Path) -> bool:
    """Whether a file begins as an event file does."""
    return SIGN in head(path)[:64]


def read_events(paths: list[Path]) -> Table:
    """The scalars of event files of one run; where two files log the same step, the one begun later counts.

    Raises:
      RunError: If there is no scalar in them.
    """
    columns, scalars = Columns(), {}
    for _, path, records, whole in sorted((_read_file(path) for path in paths), key=lambda found: found[:2]):
        intact = all(_take(record, scalars) for record in records)
        if not (whole and intact):
            columns.notes.append(f"{path.name} ends in a record that is cut off or damaged")
    for tag, (steps, values) in scalars.items():
        if tag.lower() not in COUNTERS:
            columns.add(tag, np.array(steps, np.float64), np.array(values))
    table = columns.table()
    if not table.series:
        raise RunError(f"{paths[0]} holds no scalars; name the event file that the trainer logged its metrics to")
    return table


def _read_file(path: Path) -> tuple[float, Path, list[bytes], bool]:
    """When a file was begun, its path, its records, and whether they reach to its end."""
    with binary(path) as file:
        data = file.read()
    records, end = [], 0
    for record, position in _records(data):
        records.append(record)
        end = position
    begun = WALL_TIME.unpack_from(records[0], 1)[0] if records and records[0][:1] == WALL_TIME_FIELD else 0.0
    return begun, path, records, end == len(data)


def _records(data: bytes) -> Iterator[tuple[bytes, int]]:
    position = 0
    while position + FRAME <= len(data):
        (length,) = LENGTH.unpack_from(data, position)
        end = position + FRAME + length + TAIL
        if length > LONGEST or end > len(data):
            return
        yield data[position + FRAME : end - TAIL], end
        position = end


def _take(record: bytes, scalars: Scalars) -> bool:
    """Adds the scalars of a record; False if it is no event."""
    from google.protobuf.message import DecodeError
    from tensorboardX.proto import event_pb2

    try:
        event = event_pb2.Event.FromString(record)  # type: ignore[attr-defined]
    except DecodeError:
        return False
    if event.HasField("session_log") and event.session_log.status == START:
        _purge(scalars, event.step)
    for value in event.summary.value:
        number = _scalar(value)
        if number is not None:
            steps, values = scalars.setdefault(value.tag, ([], []))
            steps.append(event.step)
            values.append(number)
    return True


def _scalar(value: Any) -> float | None:
    if value.HasField("simple_value"):
        return value.simple_value
    if not value.HasField("tensor"):
        return None
    tensor = value.tensor
    listed = [*tensor.float_val, *tensor.double_val, *tensor.int_val, *tensor.int64_val]
    if tensor.tensor_content and tensor.dtype in TYPES:
        listed = np.frombuffer(tensor.tensor_content, TYPES[tensor.dtype]).tolist()
    return float(listed[0]) if len(listed) == 1 else None


def _purge(scalars: Scalars, step: int) -> None:
    """Drops what was logged from `step` on before the restart."""
    for steps, values in scalars.values():
        kept = [index for index, at in enumerate(steps) if at < step]
        steps[:], values[:] = [steps[index] for index in kept], [values[index] for index in kept]
