"""Several sources in one run: their rows side by side, and batches that hold them in given shares."""

import itertools
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import grain
import numpy as np

from agent_tunix.data import Dataset, disjoint, fill_columns
from agent_tunix.errors import ConfigError
from agent_tunix.types import Row

SOURCE = "source"
"""Column with the name of the source of a row."""

OWN_SOURCE = "own_source"
"""Column that keeps what rows of a file called `source` themselves."""


def joined(datasets: Mapping[str, Dataset]) -> Dataset:
    """The rows of several sources as one dataset; each says in its column `source` where it is from.

    Rows of the sources take turns, so that the first few hold every source. All rows get the same columns. A training
    row whose prompt any source holds out is removed.

    Args:
      datasets: By the name of the source.

    Raises:
      DataError: No rows are left.
    """
    train = _in_turn([_named(name, found.train) for name, found in datasets.items()])
    heldout = _in_turn([_named(name, found.heldout) for name, found in datasets.items()])
    fill_columns([*train, *heldout])
    whole = disjoint(train, heldout, skipped=sum(found.skipped for found in datasets.values()))
    return whole._replace(overlapping=whole.overlapping + sum(found.overlapping for found in datasets.values()))


def _named(name: str, rows: Sequence[Row]) -> list[dict[str, Any]]:
    return [{**row, **({OWN_SOURCE: row[SOURCE]} if SOURCE in row else {}), SOURCE: name} for row in rows]


def _in_turn(parts: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    return [row for turn in itertools.zip_longest(*parts) for row in turn if row is not None]


def batches(
    rows: Sequence[Row], weights: Mapping[str, float], *, size: int, seed: int
) -> grain.DatasetIterator[list[Row]]:
    """Batches without end in which every source has its share, to within a row.

    Each source is shuffled by itself as in `data.batches`, in an order that does not depend on the other sources, and
    comes round again when all its rows have been seen. Which source comes next follows from the weights alone.

    Args:
      rows: With the column `source`.
      weights: Of the sources to draw from; only their ratios count.
      size: Rows per batch.
      seed: Whole number from 0.

    Returns:
      grain's iterator over lists of rows; its state counts rows, as that of `data.batches`.

    Raises:
      ConfigError: A source has fewer rows than its share of a batch.
    """
    members = {name: [row for row in rows if row[SOURCE] == name] for name, weight in weights.items() if weight > 0}
    total = sum(weights[name] for name in members)
    for name, found in members.items():
        share = weights[name] / total * size
        if len(found) < share:
            raise ConfigError(
                f"source {name} has {len(found)} training rows, but its weight asks for {share:.0f} of the {size} rows "
                "of a batch; lower its weight or training.prompts_per_batch"
            )
    parts = [
        grain.MapDataset.source(found).seed(_seed(seed, name)).shuffle().repeat() for name, found in members.items()
    ]
    mixed = grain.MapDataset.mix(parts, weights=[weights[name] / total for name in members])
    in_order = mixed.to_iter_dataset(grain.ReadOptions(num_threads=0))
    return iter(in_order.batch(size, drop_remainder=True, batch_fn=list))


def _seed(seed: int, name: str) -> int:
    return int(np.random.SeedSequence([seed, zlib.crc32(name.encode())]).generate_state(1)[0])
