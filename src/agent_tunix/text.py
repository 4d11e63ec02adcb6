r"""Reading the text of a completion: where it states its answer, and whether it keeps the tagged format.

The tagged format is an optional `<reasoning>...</reasoning>` followed by one `<answer>...</answer>`::

    <reasoning>48 / 2 = 24, 48 + 24 = 72</reasoning>
    <answer>72</answer>

Everything here scans with `str.find` and its relatives, or matches a regular expression against a few hundred
characters at most. A backtracking expression over the whole completion costs seconds on text as simple as four thousand
unclosed tags, and such text is exactly what an untrained policy writes.
"""

import re

REASONING_OPEN, REASONING_CLOSE = "<reasoning>", "</reasoning>"
ANSWER_OPEN, ANSWER_CLOSE = "<answer>", "</answer>"
TAGS = (REASONING_OPEN, REASONING_CLOSE, ANSWER_OPEN, ANSWER_CLOSE)

_BOX = r"\boxed"
_MAX_BRACES = 20_000
_MAX_CLOSING_LINE = 1_000

_LINE_LABEL = re.compile(r"A(?:\*\*|__)?:", re.IGNORECASE)
# A statement opens the line or a sentence: "I doubt that the answer is 4" states nothing.
_STATEMENT = re.compile(
    r"(?:\A|[.!?;]\s+)(?:(?:so|thus|hence|therefore|then|and),?\s+)*(?:the\s+|my\s+)?(?:(?:final|correct)\s+)?"
    r"answer(?:\*\*|__)?(?:\s+is\b(?:\s*:)?|\s*[:=])",
    re.IGNORECASE,
)


def stated_answer(completion: str) -> str | None:
    r"""Returns what a completion states as its answer, as text.

    The first of these that the completion holds, whatever stands in it:

    1. the last complete `<answer>...</answer>` block,
    2. the last `\boxed{...}` with balanced braces,
    3. the rest of the line after the last `####`, the form of GSM8K,
    4. the last line that is not blank, after `A:`, `Answer:` or `The answer is` at its start, or after the last two
       at the start of one of its sentences.

    Args:
      completion: Any text; tags are case-sensitive.

    Returns:
      The stated text without surrounding whitespace, empty where an empty answer is stated; None where none is.

    Examples:
      >>> stated_answer("<reasoning>2 + 2</reasoning><answer> 4 </answer>")
      '4'
      >>> stated_answer("2 + 2 = 4. The answer is 4.")
      '4.'
      >>> stated_answer("2 + 2 = 4") is None
      True
    """
    for find in (_last_block, _last_box, _after_hashes, _closing_statement):
        stated = find(completion)
        if stated is not None:
            return stated.strip()
    return None


def tag_counts(completion: str) -> dict[str, int]:
    """Counts each of the four tags of the format, with the tag itself as key."""
    return {tag: completion.count(tag) for tag in TAGS}


def has_answer_block(completion: str) -> bool:
    """Tells whether the last complete `<answer>...</answer>` block holds anything but whitespace."""
    block = _last_block(completion)
    return block is not None and bool(block.strip())


def is_tagged(completion: str) -> bool:
    """Tells whether a completion is exactly the tagged format.

    Args:
      completion: Any text.

    Returns:
      True for at most one reasoning block followed by exactly one answer block that is not blank, with nothing but
      whitespace around and between them, and no further tag anywhere.
    """
    body = completion.strip()
    start, end = body.find(ANSWER_OPEN), body.find(ANSWER_CLOSE)
    if start < 0 or end + len(ANSWER_CLOSE) != len(body):
        return False
    answer = body[start + len(ANSWER_OPEN) : end]
    if not answer.strip() or ANSWER_OPEN in answer or REASONING_OPEN in answer or REASONING_CLOSE in answer:
        return False
    return start == 0 or _is_reasoning(body[:start].rstrip())


def _is_reasoning(head: str) -> bool:
    """Whether the text is one reasoning block and nothing else."""
    if not head.startswith(REASONING_OPEN) or head.find(REASONING_OPEN, 1) >= 0:
        return False
    return head.find(REASONING_CLOSE) == len(head) - len(REASONING_CLOSE)


def _last_block(completion: str) -> str | None:
    """Content of the last answer block that is closed."""
    last_close = completion.rfind(ANSWER_CLOSE)
    if last_close < 0:
        return None
    start = completion.rfind(ANSWER_OPEN, 0, last_close)
    if start < 0:
        return None
    start += len(ANSWER_OPEN)
    return completion[start : completion.find(ANSWER_CLOSE, start)]


def _last_box(completion: str) -> str | None:
    r"""Content of the last `\boxed{...}` whose braces balance.

    Walks over the braces from the end. A closing brace waits on a stack for the opening brace that takes it, so the
    first box that finds one is the last complete box. Both searches only ever move left, which keeps the walk linear.
    """
    if _BOX + "{" not in completion:
        return None
    opening, closing = completion.rfind("{"), completion.rfind("}")
    waiting: list[int] = []
    for _ in range(_MAX_BRACES):
        if opening < 0:
            return None
        if closing > opening:
            if not _is_escaped(completion, closing):
                waiting.append(closing)
            closing = completion.rfind("}", 0, closing)
            continue
        if waiting and not _is_escaped(completion, opening):
            end = waiting.pop()
            if completion.endswith(_BOX, 0, opening):
                return completion[opening + 1 : end]
        opening = completion.rfind("{", 0, opening)
    return None


def _is_escaped(completion: str, position: int) -> bool:
    return position > 0 and completion[position - 1] == "\\"


def _after_hashes(completion: str) -> str | None:
    """The rest of the line after the last `####`."""
    mark = completion.rfind("####")
    if mark < 0:
        return None
    end = completion.find("\n", mark)
    return completion[mark + 4 :] if end < 0 else completion[mark + 4 : end]


def _closing_statement(completion: str) -> str | None:
    """What the last line that is not blank states after a label such as `Answer:`."""
    body = completion.rstrip()
    line = body[max(body.rfind("\n") + 1, len(body) - _MAX_CLOSING_LINE) :].strip()
    bare = line.lstrip("#*_ ")
    label = _LINE_LABEL.match(bare)
    for label in _STATEMENT.finditer(bare):  # noqa: B007 (the last match is wanted)
        pass
    if label is None:
        return None
    return _without_emphasis(bare[label.end() :], around=line[: len(line) - len(bare)].strip("# "))


def _without_emphasis(stated: str, around: str) -> str:
    """Drops the half of a markdown emphasis whose other half stands before or inside the label."""
    for mark in ("**", "__"):
        if stated.startswith(mark) and stated[2:3].isspace():  # **Answer:** 4
            return stated[2:]
    if around and stated.endswith(around) and not stated.lstrip().startswith(around):  # **Answer: 4**
        return stated[: -len(around)]
    return stated
