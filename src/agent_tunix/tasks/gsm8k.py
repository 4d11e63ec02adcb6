"""Grade-school word problems (GSM8K) with a worked rationale and a whole-number answer.

Sample row, from a line ``{"question": "Natalia sold ...", "answer": "Natalia sold 48/2 = <<48/2=24>>24 clips in
May.\\nNatalia sold 48+24 = <<48+24=72>>72 clips altogether in April and May.\\n#### 72"}``::

    {"prompt": "Natalia sold ...", "answer": "72",
     "demonstration": "<reasoning>Natalia sold 48/2 = 24 clips in May.\\nNatalia sold 48+24 = 72 clips altogether in
                       April and May.</reasoning><answer>72</answer>", "task": "gsm8k", "level": 2}

`level` is the number of lines of the rationale. The published test questions are the held-out split.

Cobbe et al., 2021, Training Verifiers to Solve Math Word Problems, https://arxiv.org/abs/2110.14168; data at
https://github.com/openai/grade-school-math under the MIT licence.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from agent_tunix.tasks._files import parsed, read, text_of
from agent_tunix.tasks._task import DataError

_CALCULATOR = re.compile(r"<<[^<>]*>>")
_NUMBER = re.compile(r"([-−]?)\$?([0-9]+|[0-9]{1,3}(?:,[0-9]{3})+)(?:\.([0-9]+))?")


def load(path: str | None, *, malformed: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]], int]:
    """Reads the training and the test questions.

    Args:
      path: Folder of `train.jsonl` and `test.jsonl` as published; None loads `openai/gsm8k` through `datasets`.
      malformed: `raise` or `skip`.

    Returns:
      Training rows, held-out rows and the number of malformed rows skipped.

    Raises:
      DataError: Missing, empty or malformed files, or no way to the hub.
    """
    rows, skipped = [], 0
    for records, unreadable in _from_hub() if path is None else _from_folder(Path(path), malformed):
        good, without_answer = parsed(records, row, malformed=malformed)
        rows.append([parsed_row for _, parsed_row in good])
        skipped += unreadable + without_answer
    return rows[0], rows[1], skipped


def _from_folder(path: Path, malformed: str) -> list[tuple[list[tuple[str, dict[str, Any]]], int]]:
    if not path.is_dir():
        raise DataError(f"{path} is not a folder; data.path of gsm8k is a folder of train.jsonl and test.jsonl")
    return [read(path / name, malformed=malformed) for name in ("train.jsonl", "test.jsonl")]


def _from_hub() -> list[tuple[Iterable[tuple[str, dict[str, Any]]], int]]:
    advice = "pass data.path=FOLDER with train.jsonl and test.jsonl"
    try:
        import datasets  # optional, so only where it is asked for
    except ImportError as error:
        raise DataError(f"gsm8k from the hub needs `agent-tunix[hub]`; install it, or {advice}") from error
    try:
        splits = datasets.load_dataset("openai/gsm8k", "main")
    except Exception as error:  # the hub's clients fail in their own ways, and one advice answers all of them
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"openai/gsm8k could not be loaded from the hub ({reason}); {advice}") from error
    return [
        ([(f"openai/gsm8k {split} row {number}", dict(record)) for number, record in enumerate(splits[split], 1)], 0)
        for split in ("train", "test")
    ]


def row(record: dict[str, Any]) -> dict[str, Any]:
    """A row from a published record with `question` and `answer`.

    Raises:
      ValueError: A key is missing or not text, or the answer does not end in one `####` and a number.
    """
    question, solution = (text_of(record, key) for key in ("question", "answer"))
    rationale, *golds = solution.split("####")
    if len(golds) != 1:
        raise ValueError(f"`answer` has {len(golds)} `####` instead of one before the number")
    gold = canonical(golds[0])
    rationale = _CALCULATOR.sub("", rationale).strip()
    demonstration = f"<reasoning>{rationale}</reasoning><answer>{gold}</answer>"
    level = rationale.count("\n") + 1
    return {"prompt": question, "answer": gold, "demonstration": demonstration, "task": "gsm8k", "level": level}


def canonical(text: str) -> str:
    """One spelling per number: no thousands separators, no leading or trailing zeros, no negative zero.

    Raises:
      ValueError: The text is not a number.

    Examples:
      >>> canonical(" 1,080 "), canonical("-5"), canonical("-0.0"), canonical("2.50")
      ('1080', '-5', '0', '2.5')
    """
    match = _NUMBER.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text.strip()[:40]!r} after `####` is not a number")
    sign, whole, fraction = match.groups()
    whole = whole.replace(",", "").lstrip("0") or "0"
    number = f"{whole}.{(fraction or '').rstrip('0')}".rstrip(".")
    return f"-{number}" if sign and number != "0" else number
