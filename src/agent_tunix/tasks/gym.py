r"""Data sets of reasoning-gym, scored by this package's own strict checker.

Sample row, of `leg_counting`::

    {"prompt": "Your task is to count how many legs there are in total ... 3 sea slugs, 12 deers ...", "answer": "48",
     "demonstration": "<answer>48</answer>", "task": "gym_leg_counting", "level": 1}

Only questions and answers are taken from the library. Its own `score_answer` gives credit for every text that holds the
answer (`30` earns 0.5 where 3 is right), in some data sets for any text at all, and executes the answer in others, so
it is never called. What it would be needed for are data sets with several right answers; those are refused, and so are
the few whose rows differ from one process to the next, which no run could be resumed with.

Stojanovski et al., 2025, Reasoning Gym (arXiv 2505.24760); https://github.com/open-thought/reasoning-gym, Apache-2.0.
"""

import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any

from agent_tunix.errors import ConfigError, unknown
from agent_tunix.rewards import exact_answer
from agent_tunix.tasks._task import DataError, is_heldout, make_row

logger = logging.getLogger(__name__)

PREFIX = "gym_"
"""Before the names of data sets in the column `task`."""

ONE_ANSWER = frozenset(
    (
        "calendar_arithmetic", "chain_sum", "circuit_logic", "color_cube_rotation", "decimal_chain_sum",
        "family_relationships", "game_of_life_halting", "gsm_symbolic", "needle_haystack", "products",
        "rectangle_count", "self_reference", "spell_backward", "string_insertion", "zebra_puzzles",
    )
)  # fmt: skip
"""Data sets with a scorer of their own that only adds partial credit or other spellings of the one right answer, as
read in 0.1.25. Those without a scorer of their own have one right answer by the library's own account."""

CHANGING = frozenset(("isomorphic_strings", "list_functions", "ransom_note"))
"""Data sets of one answer whose rows depend on Python's hash seed, measured with 0.1.25."""

_PATIENCE = 2_000
"""Rows in a row that bring nothing new before a data set counts as exhausted."""
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def load(
    name: str | None, arguments: Mapping[str, Any], *, train_size: int, heldout_size: int, seed: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Training rows and held-out rows of a data set, split by the hash of the prompt.

    Args:
      name: Of the data set, as `reasoning_gym.create_dataset` takes it.
      arguments: Its settings, such as `{"min_animals": 2}`.
      train_size: Training rows; fewer if the data set has no more prompts.
      heldout_size: Held-out rows, which all differ; fewer likewise.
      seed: Any whole number from 0.

    Raises:
      ConfigError: No name, an unknown one, or settings that the data set refuses.
      DataError: The library is not installed, or the data set cannot be scored strictly.
    """
    wanted = {False: train_size, True: heldout_size}
    dataset = _dataset(name, arguments, size=20 * (train_size + heldout_size) + _PATIENCE, seed=seed)
    rows: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
    seen, fruitless = set(), 0
    for prompt, answer in _items(name, dataset):
        held = is_heldout(prompt)
        if len(rows[held]) == wanted[held] or (held and prompt in seen):
            fruitless += 1
        else:
            fruitless = 0
            seen.add(prompt)
            rows[held].append(make_row(f"{PREFIX}{name}", 1, prompt, answer))
        if fruitless == _PATIENCE or all(len(rows[held]) == wanted[held] for held in rows):
            break
    for held, split in ((False, "training"), (True, "held-out")):
        if len(rows[held]) < wanted[held]:
            logger.warning("`%s` has only %d of the %d %s rows asked for", name, len(rows[held]), wanted[held], split)
    return rows[False], rows[True]


def is_correct(answer: str, row: Mapping[str, Any]) -> bool:
    """Whether an answer, without its tags, is the row's: equal as a number where it is one, else as text.

    Numbers are compared as by `rewards.exact_answer`. Texts have to be equal to the letter, but for whitespace at the
    ends of lines and runs of it within them.

    Examples:
      >>> is_correct("48.0", {"answer": "48"}), is_correct("480", {"answer": "48"})
      (True, False)
      >>> is_correct("1 2\\n3  4", {"answer": "1 2\\n3 4"}), is_correct("1 2 3 4", {"answer": "1 2\\n3 4"})
      (True, False)
    """
    reference = str(row["answer"]).strip()
    if _NUMBER.fullmatch(reference):
        return exact_answer(f"<answer>{answer}</answer>", reference) == 1.0
    return _lines(answer) == _lines(reference)


def _lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.strip().splitlines()]


def _dataset(name: str | None, arguments: Mapping[str, Any], *, size: int, seed: int) -> Any:
    if name is None:
        raise ConfigError("data.gym is not set; data.task=gym needs the name of a data set of reasoning-gym there")
    try:
        import reasoning_gym
        from reasoning_gym.dataset import ProceduralDataset
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise DataError("data.task=gym needs reasoning-gym; install `agent-tunix[gym]`") from error
    if name not in DATASETS:
        raise ConfigError(unknown("data.gym", name, DATASETS))
    _refuse(name, DATASETS[name][0].score_answer is not ProceduralDataset.score_answer)
    try:
        # The library seeds row i with seed + i, so that runs 0 and 1 would share all rows but one.
        return reasoning_gym.create_dataset(name, size=size, seed=1_000_003 * seed % 2**31, **arguments)
    except (TypeError, ValueError, AssertionError) as error:
        raise ConfigError(f"data.gym_arguments of {name} are {dict(arguments)}, which it refuses: {error}") from error


def _refuse(name: str, has_scorer: bool) -> None:
    """Refuses a data set that an exact comparison could not score, or that no run could be resumed with."""
    if has_scorer and name not in ONE_ANSWER:
        raise DataError(
            f"data.gym={name} has a scorer of its own, as several answers may be right, and an exact comparison would "
            "call right ones wrong; take a data set with one answer, such as leg_counting"
        )
    if name in CHANGING:
        raise DataError(f"data.gym={name} makes other rows in every process, so no run could be resumed; take another")


def _items(name: str | None, dataset: Any) -> Iterator[tuple[str, str]]:
    """Questions and answers; rows that the library fails to make, as it does a few, are left out."""
    failed = 0
    for index in range(len(dataset)):
        try:
            item = dataset[index]
        except Exception as error:
            failed += 1
            if failed == 1:
                logger.warning("`%s` could not make row %d (%r); it leaves such rows out", name, index, error)
            if failed == _PATIENCE:
                raise DataError(f"data.gym={name} could not make {failed} rows, the last for {error!r}") from error
            continue
        if not isinstance(item["answer"], str):
            raise DataError(f"data.gym={name} has rows without an answer in text ({item['answer']!r}); take another")
        yield item["question"], item["answer"]
