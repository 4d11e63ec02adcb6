r"""Reading the text of a completion: where it states its answer, and whether it keeps the tagged format.

The tagged format is an optional `<reasoning>...</reasoning>` followed by one `<answer>...</answer>`::

    <reasoning>48 / 2 = 24, 48 + 24 = 72</reasoning>
    <answer>72</answer>

Everything here scans with `str.find` and its relatives, or matches a regular expression against a few hundred
characters at most. A backtracking expression over the whole completion costs seconds on text as simple as four thousand
unclosed tags, and such text is exactly what an untrained policy writes. Answers stand at the end of a completion, so
searches start there.
"""

import re

REASONING_OPEN, REASONING_CLOSE = "<reasoning>", "</reasoning>"
ANSWER_OPEN, ANSWER_CLOSE = "<answer>", "</answer>"
TAGS = (REASONING_OPEN, REASONING_CLOSE, ANSWER_OPEN, ANSWER_CLOSE)

_BOXES = (r"\boxed", r"\boxed ", r"\fbox", r"\fbox ")
_MAX_BRACES = 20_000
_MAX_CLOSING_LINE = 1_000
_MAX_NUMBER = 200
_MAX_BLOCKS = 1_000
_MAX_BARE = 30
_WORD = re.compile(r"[^\W\d_]{3}")
# A fraction and a mixed number are one number; a comma is part of one only before groups of three digits.
_LISTED = re.compile(
    r"(?:(?<!\d)[-+\u2212])?[$€£]?(?:(?:\d+ )?\d+/\d+|\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?%?", re.ASCII
)
_LIST_MARKS = re.compile(r"(?:[\s,;/|&.()\[\]{}]|\b(?:and|or)\b)*", re.IGNORECASE)

_LINE_LABEL = re.compile(r"(?:A(?:ns)?(?:\*\*|__|\*)?:|Ans\.(?=\s))", re.IGNORECASE)
_NAMED = (
    r"(?:the\s+|my\s+|our\s+)?(?:(?:final|correct|required|numerical|numeric)\s+){0,2}answer(?:\*\*|__|\*)?"
    r"(?:\s+to\s+(?:the|this)\s+(?:question|problem))?"
)
# A statement opens the line or a sentence, or concludes one: "I doubt that the answer is 4" states nothing.
_STATEMENT = re.compile(
    r"(?:(?:\A|[.!?;]\s+)(?:(?:since|because)\b[^.!?;]{1,200},\s+)?"
    r"(?:(?:so|thus|hence|therefore|then|and|finally|overall|consequently|in\s+(?:conclusion|summary|total)|as\s+a\s+result|"
    r"to\s+conclude|(?:this|which)\s+means(?:\s+that)?|we\s+conclude\s+that),?\s+)*"
    rf"|,\s+(?:and\s+)?(?:so|thus|hence|therefore),?\s+){_NAMED}(?:\s+is\b(?:\s+(?:therefore|thus|hence)\b,?)?(?:\s*:)?|\s*[:=])",
    re.IGNORECASE,
)
_HEADING = re.compile(rf"{_NAMED}(?:\s+is)?\s*:?(?:\*\*|__)?\s*:?", re.IGNORECASE)
_NUMBER = re.compile(r"(?<![\w.])(?:(?<![\w)\]}.%])[-\u2212])?[$€£]?[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?%?", re.ASCII)

# What makes the digits before or after it, and these, something other than the number that they spell.
_GOES_BEFORE = re.compile(
    r"(?:[\^_/\\{<>\u2264\u2265~\u00b1\u2248\u00d7]|\d[-:.,]|(?<!\*)\*|\bnot|(?:\A|[\s(=])[-\u2212]|\d[eE][-+]?)\s*\Z"
)
_SPACED_GROUP = re.compile(r"\d[ \u2009\u202f\u00a0]\d{3}\Z")
_GOES_ON = re.compile(
    r"\s*(?:/|\^|\u00d7|:\d|\\times|(?:hundred|thousand|million|billion|trillion|dozen)\b|[kKmM]\b)|[eE][-+]?\d"
)

# Directions: Unicode technical report 36, section 2.5.
_TURNING = r"\u202a-\u202e\u2066-\u2069"
_UNPRINTABLE = re.compile(rf"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff{_TURNING}]")
_UNPRINTABLE_OR_BREAK = re.compile(rf"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff{_TURNING}]")

_END_MARKS = (
    "</s>", "<s>", "<eos>", "<pad>", "<end_of_turn>", "<|im_end|>", "<|endoftext|>", "<|end_of_text|>", "<|eot_id|>",
    "<|end|>", "<\uff5cend\u2581of\u2581sentence\uff5c>",
)  # fmt: skip
"""How tokenizers spell the end of a text; a sampler that keeps special tokens leaves it in the completion."""
_WISH = "i hope it is correct."  # Closes every answer of Minerva's few-shot prompt (arXiv:2206.14858, appendix D).


def stated_answer(completion: str) -> str | None:
    r"""Returns what a completion states as its answer, as text.

    The first of these that the completion holds, whatever stands in it:

    1. the last complete `<answer>...</answer>` block,
    2. the last `\boxed{...}` with balanced braces,
    3. the rest of the line after the last `####`, the form of GSM8K,
    4. the last line that is not blank, after `A:`, `Ans:`, `Answer:` or `The answer is` at its start, after the last
       two at the start or the conclusion of one of its sentences, or below a line that holds nothing but `Answer`.

    A `####` before words is a heading where the last line states an answer. Marks of the end of a text, such as
    `</s>`, are not part of a line.

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
    stated = _last_block(completion)
    if stated is None:
        stated = boxed_answer(completion)
    if stated is None:
        stated = _stated_on_a_line(completion)
    return None if stated is None else stated.strip()


def boxed_answer(completion: str) -> str | None:
    r"""Returns what stands in the last `\boxed{...}` or `\fbox{...}` whose braces balance, None without one.

    Walks over the braces from the end. A closing brace waits on a stack for the opening brace that takes it, so the
    first box that finds one is the last complete box. Both searches only ever move left, which keeps the walk linear.

    Args:
      completion: Any text; at most 20,000 braces are read.

    Examples:
      >>> boxed_answer(r"So $\boxed{\frac{1}{2}}$.")
      '\\frac{1}{2}'
    """
    if r"\boxed" not in completion and r"\fbox" not in completion:
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
            if completion.endswith(_BOXES, 0, opening):
                return completion[opening + 1 : end]
        opening = completion.rfind("{", 0, opening)
    return None


def states_several(completion: str, reference: str = "") -> bool:
    r"""Tells whether a completion hedges: it states different answers, or lists more numbers than its reference has.

    Different answers are two closed answer blocks, or three openings one behind the other with a bare number each, as
    in `<answer>3<answer>4<answer>6`. Numbers count only where the stated answer is a list of nothing but numbers: a
    unit, a calculation or a sentence around the answer states one answer.

    Args:
      completion: Any text; the first thousand openings of an answer block are read.
      reference: The right answer; one of no numbers leaves the numbers out.

    Examples:
      >>> states_several("<answer>3</answer> or <answer>4</answer>")
      True
      >>> states_several("<answer>3, 4, 5</answer>", "4"), states_several("<answer>3 4 5</answer>", "3 4 5")
      (True, False)
      >>> states_several("<answer>12 m^2</answer>", "12")
      False
    """
    # Most completions open one block, and one search more proves it.
    if completion.find(ANSWER_OPEN, completion.find(ANSWER_OPEN) + 1) > 0 and _states_rivals(completion):
        return True
    wanted = _LISTED.findall(reference[:_MAX_CLOSING_LINE])
    if not wanted:
        return False
    stated = (stated_answer(completion) or "")[:_MAX_CLOSING_LINE]
    found = _LISTED.findall(stated)
    # `1 000` for 1000 and `3,5` for 3.5 are the reference in another spelling.
    several = len(set(found)) > len(wanted) and _digits(found) != _digits(wanted)
    return several and _LIST_MARKS.fullmatch(_LISTED.sub(" ", stated)) is not None


def _digits(numbers: list[str]) -> str:
    return "".join(filter(str.isdecimal, "".join(numbers)))


def _states_rivals(completion: str) -> bool:
    """Whether answer blocks hold different answers."""
    closed, opened = set(), set()
    for block in completion.split(ANSWER_OPEN, _MAX_BLOCKS)[1:]:
        content, close, _ = block.partition(ANSWER_CLOSE)
        if close and any(map(str.isalnum, content[:_MAX_CLOSING_LINE])):
            closed.add(" ".join(content.split()))
        end = block.find("<")
        bare = (block if end < 0 else block[:end]).strip()
        if len(bare) <= _MAX_BARE and bare[:1].isdecimal() and not _WORD.search(bare):
            opened.add(bare)
    return len(closed) > 1 or len(opened) > 2


def last_number(completion: str) -> str | None:
    """Returns the last number that a completion writes in digits, with its sign, currency and percent sign.

    Args:
      completion: Any text.

    Returns:
      The number as written; None where there is none, where it has more than 200 characters, or where it is part of
      something else: a fraction, a power, a time, a date, a bound, `4 million`.

    Examples:
      >>> last_number("48 clips and 24 clips are $1,072.50.")
      '$1,072.50'
      >>> last_number("none") is None
      True
    """
    end = max(map(completion.rfind, "0123456789"))
    window = completion[max(0, end - _MAX_NUMBER) : end + 2]
    numbers = list(_NUMBER.finditer(window))
    # A number that is cut at the left edge of the window would lose its leading digits.
    if not numbers or (numbers[-1].start() == 0 and end >= _MAX_NUMBER):
        return None
    last, start = numbers[-1], max(0, end - _MAX_NUMBER)
    is_part = (
        _GOES_BEFORE.search(window[: last.start()])
        or _SPACED_GROUP.search(window[: last.end()])
        or _GOES_ON.match(completion, start + last.end())
    )
    return None if is_part else last[0]


def printable(text: object) -> str:
    r"""Text that a terminal shows and does not obey.

    Control characters other than newline and tab, marks that turn the direction of what follows, and lone surrogates,
    which no encoding can write, become escapes as in a string literal.

    Args:
      text: Anything; what is no text is shown as `str` shows it.

    Examples:
      >>> print(printable("a" + chr(27) + "[2Jb"))
      a\x1b[2Jb
    """
    return _UNPRINTABLE.sub(_escaped, str(text))


def one_line(text: object) -> str:
    r"""The same with newlines and tabs as escapes too, for names and for lines that programs read.

    Examples:
      >>> print(one_line("a" + chr(10) + "b"))
      a\nb
    """
    return _UNPRINTABLE_OR_BREAK.sub(_escaped, str(text))


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")


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
    if body[-9:] != ANSWER_CLOSE:
        return False
    start = body.rfind(ANSWER_OPEN)
    if start < 0:
        return False
    answer = body[start + 8 : -9]
    if not answer or answer.isspace() or ("<" in answer and _holds_tag(answer)):
        return False
    if start == 0:
        return True
    if not body.startswith(REASONING_OPEN):
        return False
    # Reasoning without any `<` is the common case, and one search for a character proves that no tag is in it.
    close = body.find("<", 11)
    if body.startswith(REASONING_CLOSE, close) and not body[close + 12 : start].strip():
        return True
    head = body[:start].rstrip()
    return head.endswith(REASONING_CLOSE, 11) and not _holds_tag(head[11:-12])


def _holds_tag(text: str) -> bool:
    return ANSWER_OPEN in text or ANSWER_CLOSE in text or REASONING_OPEN in text or REASONING_CLOSE in text


def _last_block(completion: str) -> str | None:
    """Content of the last answer block that is closed."""
    end = completion.rfind(ANSWER_CLOSE)
    if end < 0:
        return None
    start = completion.rfind(ANSWER_OPEN, 0, end)
    if start < 0:
        return None
    return completion[start + 8 : completion.find(ANSWER_CLOSE, start)]


def _is_escaped(completion: str, position: int) -> bool:
    return position > 0 and completion[position - 1] == "\\"


def _stated_on_a_line(completion: str) -> str | None:
    """What stands after `####`, or else in the closing line."""
    hashes = _after_hashes(completion)
    if hashes is None:
        return _closing_statement(completion)
    hashes = _without_end_marks(hashes)
    if hashes.lstrip(" *")[:1].isalpha():
        closing = _closing_statement(completion)
        return hashes if closing is None else closing
    return hashes


def _after_hashes(completion: str) -> str | None:
    """The rest of the line after the last `####`."""
    mark = completion.rfind("####")
    if mark < 0:
        return None
    end = completion.find("\n", mark)
    return completion[mark + 4 :] if end < 0 else completion[mark + 4 : end]


def _closing_statement(completion: str) -> str | None:
    """What the last line that is not blank states after a label such as `Answer:`."""
    body = _without_end_marks(completion)
    cut = max(body.rfind("\n") + 1, len(body) - _MAX_CLOSING_LINE)
    line = body[cut:].strip()
    bare = line.lstrip("#*_>- ")
    label = _LINE_LABEL.match(bare)
    # One search for the word that every statement holds spares most lines the regular expression.
    statements = _STATEMENT.finditer(bare) if "answer" in bare.casefold() else ()
    for label in statements:  # noqa: B007 (the last match is wanted)
        pass
    if label is None:
        return line if _is_below_heading(body, cut) else None
    stated = _without_emphasis(bare[label.end() :], around=line[: len(line) - len(bare)].strip("#>- "))
    return stated[: -len(_WISH)] if stated.casefold().endswith(_WISH) else stated


def _is_below_heading(body: str, cut: int) -> bool:
    """Whether the last line that is not blank before a position says `Answer` and nothing else."""
    before = body[max(0, cut - _MAX_CLOSING_LINE) : cut].rstrip()
    heading = before[before.rfind("\n") + 1 :].strip("#*_>- \t\r")
    return body[cut - 1 : cut] == "\n" and _HEADING.fullmatch(heading) is not None


def _without_end_marks(text: str) -> str:
    """Drops trailing whitespace and marks of the end of a text, within the last thousand characters."""
    text = text.rstrip()
    if not text.endswith(">"):
        return text
    tail = text[-_MAX_CLOSING_LINE:]
    kept = tail
    while kept.endswith(_END_MARKS):
        kept = kept[: max(kept.rfind("<", 0, -1), 0)].rstrip()
    return text[: len(text) - len(tail) + len(kept)]


def _without_emphasis(stated: str, around: str) -> str:
    """Drops the half of a markdown emphasis whose other half stands before or inside the label."""
    for mark in ("**", "__", "*"):
        if stated.startswith(mark) and stated[len(mark) : len(mark) + 1].isspace():  # **Answer:** 4
            return stated[len(mark) :]
    if around and stated.endswith(around) and not stated.lstrip().startswith(around):  # **Answer: 4**
        return stated[: -len(around)]
    return stated
