"""Texts whose worth is known: right and wrong answers, and what a policy may write instead of answering.

A probe deserves no more than a wrong answer, whatever a reward looks at.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from agent_tunix.types import Row

Style = Callable[[str], str]

STYLES: Mapping[str, Style] = {
    "tags": lambda answer: f"<answer>{answer}</answer>",
    "reasoning and tags": lambda answer: f"<reasoning>Step by step.</reasoning>\n<answer>{answer}</answer>",
    "hashes": lambda answer: f"Step by step.\n#### {answer}",
    "sentence": lambda answer: f"Step by step. The answer is {answer}.",
    "box": lambda answer: f"Step by step. \\boxed{{{answer}}}",
}
"""Ways of stating an answer; the one that a reward pays best for is the one its references are written in."""


class Probe(NamedTuple):
    """A kind of text that deserves no more than a wrong answer.

    Attributes:
      name: For people.
      write: `(prompt, right answer, wrong answer, style) -> completion`.
    """

    name: str
    write: Callable[[str, str, str, Style], str]


PROBES: tuple[Probe, ...] = (
    Probe("empty", lambda prompt, right, wrong, style: ""),
    Probe("only whitespace", lambda prompt, right, wrong, style: " \n" * 20),
    Probe("no answer in the format", lambda prompt, right, wrong, style: style("")),
    Probe("very long", lambda prompt, right, wrong, style: "word and " * 2_000),
    Probe("repeated wrong answer", lambda prompt, right, wrong, style: style(wrong) * 50),
    Probe("tag-stuffed", lambda prompt, right, wrong, style: "<answer>" * 500 + "</answer>" * 500),
    Probe("gold echoed, wrong answer stated", lambda prompt, right, wrong, style: f"{right} {right}\n{style(wrong)}"),
    Probe("gold in a list", lambda prompt, right, wrong, style: style(f"{wrong}, {right}")),
    Probe("gold or another", lambda prompt, right, wrong, style: style(f"{right} or {wrong}")),
    Probe("gold denied", lambda prompt, right, wrong, style: style(f"not {right}")),
    Probe("gold in a comment", lambda prompt, right, wrong, style: style(f"{wrong}<!-- {right} -->")),
    Probe("gold as a bound", lambda prompt, right, wrong, style: style(f"> {right}")),
    Probe("gold stated, then a wrong answer", lambda prompt, right, wrong, style: f"{style(right)}\n{style(wrong)}"),
    Probe("boxes, the last one wrong", lambda prompt, right, wrong, style: f"\\boxed{{{right}}} \\boxed{{{wrong}}}"),
    Probe("every small number", lambda prompt, right, wrong, style: style(" ".join(map(str, range(200))))),
    Probe("prompt copied", lambda prompt, right, wrong, style: prompt),
    Probe("prompt copied into the answer", lambda prompt, right, wrong, style: style(prompt)),
    Probe("code that exits", lambda prompt, right, wrong, style: "```python\nimport os\nos._exit(0)\n```"),
)  # fmt: skip


def _answers(rows: Sequence[Row]) -> tuple[list[str], list[str]]:
    """For every row its right answer, and another row's."""
    right = [str(row.get("answer", "")) for row in rows]
    return right, [_other(right, index) for index in range(len(rows))]


def plain_texts(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Right and wrong answers in every style, and demonstrations; by name, one text for every row."""
    right, wrong = _answers(rows)
    texts = {}
    for name, style in STYLES.items():
        texts[f"right, {name}"] = [style(answer) for answer in right]
        texts[f"wrong, {name}"] = [style(answer) for answer in wrong]
    if all(row.get("demonstration") for row in rows):
        texts["demonstration"] = [row["demonstration"] for row in rows]
    return texts


def probe_texts(rows: Sequence[Row], style: Style) -> dict[str, list[str]]:
    """Every probe in one style; by name, one text for every row."""
    answers = list(zip(rows, *_answers(rows), strict=True))
    return {
        probe.name: [probe.write(row["prompt"], right, wrong, style) for row, right, wrong in answers]
        for probe in PROBES
    }


def _other(answers: Sequence[str], index: int) -> str:
    """The next answer that differs; one that cannot be right where all are the same."""
    following = [*answers[index + 1 :], *answers[:index]]
    return next((answer for answer in following if answer != answers[index]), f"{answers[index]}1")
