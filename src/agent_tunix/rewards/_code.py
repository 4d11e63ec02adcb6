"""Rewards of programs: do they pass their tests?

Rows look like those of MBPP (https://huggingface.co/datasets/google-research-datasets/mbpp), of HumanEval
(https://github.com/openai/human-eval) or of programming contests::

    tests: ["assert add(1, 2) == 3", "assert add(-1, 1) == 0"]
    tests: "def check(candidate):\\n    assert candidate(1, 2) == 3\\n", entry_point: "add"
    tests: [{"input": "1 2\\n", "output": "3\\n"}]
"""

import functools
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from agent_tunix.rewards._sandbox import sandbox
from agent_tunix.rewards._sandbox.sandbox import Limits, SandboxError, sandbox_report
from agent_tunix.rewards._universal import universal
from agent_tunix.text import ANSWER_CLOSE, ANSWER_OPEN

__all__ = ["SandboxError", "passes_tests", "program_of", "sandbox_report"]

_CREDITS = ("all", "fraction")
_PYTHON = ("python", "py", "python3")


class _Tests(NamedTuple):
    """One row's tests: statements to run, or pairs of standard input and output."""

    source: str | None
    pairs: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class _Boxed:
    """One row's tests as one value, which NumPy would otherwise spread over an axis."""

    tests: Any


def _per_response(grade: Callable[..., float]) -> Callable[..., Any]:
    """Makes a grader universal whose second argument, `tests`, is one value for each response, also where a list."""

    @functools.wraps(grade)
    def unboxed(response: str, tests: Any, *arguments: Any, **settings: Any) -> float:
        return grade(response, tests.tests if isinstance(tests, _Boxed) else tests, *arguments, **settings)

    everywhere, signature = universal(unboxed), inspect.signature(grade)

    @functools.wraps(grade)
    def grader(*arguments: Any, **settings: Any) -> Any:
        given = settings if "completions" in settings else signature.bind(*arguments, **settings).arguments
        if isinstance(given.get("response"), str):
            return grade(**given)
        if "tests" in given and not isinstance(given["tests"], str):
            given = {**given, "tests": [_Boxed(tests) for tests in given["tests"]]}
        return everywhere(**given)

    grader.each = grade  # pyright: ignore[reportAttributeAccessIssue]
    return grader


@_per_response
def passes_tests(
    response: Any,
    tests: Any,
    entry_point: Any = None,
    *,
    credit: str = "all",
    timeout_s: float = 5.0,
    memory_mb: int = 512,
    file_mb: int = 16,
    processes: int = 8,
) -> Any:
    """Grades the program in a response by tests, in a process that is limited, confined and gone afterwards.

    The program is that of `program_of`. It gets the standard library and no other packages, no environment variables
    and no arguments; what it prints beside the tests is thrown away. It never shares a process with its tests: names
    that the tests neither define nor import and Python has not built in stand for functions and classes of the
    program, whose arguments and results travel as plain values (None, bool, int, float, complex, str, bytes, list,
    tuple, dict, set, frozenset and range, nested, up to 4 MB; subclasses become these). It gets copies of its
    arguments, so a test cannot see them changed. Methods of other objects that it returns can be called, as in
    `Solution().add(1, 2)`; such an object, an iterator for example, equals nothing and has no truth value. An
    exception that it raises arrives as the nearest built-in one. At least one assertion has to pass, or a program that
    gives a test nothing to loop over would be right: a test that expects an exception has to assert that it came.

    Tests themselves are trusted: they run with the rights of the caller. Of the machine, a program sees what
    `sandbox_report` says.

    Args:
      response: A completion, or a list of them.
      tests: For one response, one of

        - Python text with `assert` statements, in any functions, or a list of such texts;
        - a list of `{"input": text, "output": text}`: the program is run as a script on each input, and has to end
          without an error and to write the output, up to whitespace at the ends of lines and of the text;
        - a dictionary `{"inputs": [...], "outputs": [...]}`, which means the same;
        - the JSON text of any of these.

        For a list of responses, a list with one of these for each, or one text for all.
      entry_point: The name that the tests' function `check` is called with, where they define but do not call it. It
        is taken from the program even where Python has a built-in function of that name.
      credit: `all` gives 1 where everything passes and 0 otherwise; `fraction` gives the share of asserts, or of
        pairs, that pass.
      timeout_s: Seconds of wall-clock time for loading the program and all of its tests; what has not passed by then,
        has failed.
      memory_mb: Address space of each process of the program, in MiB.
      file_mb: Size of each file that it writes, in MiB, and of all of them where it has its own file system.
      processes: Processes and threads that it may have at once, its own included.

    Returns:
      A number in [0, 1] for a text, an array for a list of them. Whatever the program does wrong is 0; it never raises.

    Raises:
      ValueError: The tests cannot be run: they are not Python, assert nothing, call nothing of the program, or pass
        it what is no plain value.
      SandboxError: The program could not be started, which says nothing about it.

    Examples:
      >>> passes_tests("```python\\ndef add(a, b):\\n    return a + b\\n```", "assert add(1, 2) == 3")
      1.0
    """
    if credit not in _CREDITS:
        raise ValueError(f"credit is one of {', '.join(_CREDITS)}, got {credit!r}")
    limits = Limits(timeout_s, memory_mb, file_mb, processes)
    source, pairs = _tests_of(tests)
    program = program_of(response)
    if source is None:
        return _stream_credit(program, pairs, credit, limits)
    return _call_credit(program, source, entry_point, credit, limits)


def program_of(text: str) -> str:
    r"""Returns the program that a text states.

    That is the content of the last fenced block marked `python`, `py` or `python3`, else of the last fenced block
    without a mark, else the last complete `<answer>` block, else all of it. As in CommonMark, a block that is not
    closed goes on to the end, and one is closed by a fence at least as long as its own.

    Examples:
      >>> program_of("So:\n```python\nx = 1\n```\nDone.")
      'x = 1'
    """
    program = _last_marked(_fenced(text))
    if program is not None:
        return program
    end = text.rfind(ANSWER_CLOSE)
    begin = text.rfind(ANSWER_OPEN, 0, max(end, 0))
    if begin < 0:
        return text
    answer = text[begin + len(ANSWER_OPEN) : end]
    program = _last_marked(_fenced(answer))  # A fence that follows the tag on its line begins no line before now.
    return answer if program is None else program


def _last_marked(blocks: Sequence[tuple[str, str]]) -> str | None:
    """The content of the last block for Python, else of the last block for nothing in particular."""
    for marks in (_PYTHON, ("",)):
        for mark, content in reversed(blocks):
            if mark in marks:
                return content
    return None


def _fenced(text: str) -> list[tuple[str, str]]:
    """The fenced blocks of Markdown text: the first word after each opening fence, and the lines up to its end."""
    if "```" not in text:
        return []
    blocks: list[tuple[str, str]] = []
    fence, mark, inside = 0, "", []
    for line in text.split("\n"):
        bare = line.strip()
        ticks = len(bare) - len(bare.lstrip("`"))
        if not fence and ticks >= 3 and "`" not in bare[ticks:]:
            fence, mark, inside = ticks, bare[ticks:].strip().partition(" ")[0].lower(), []
        elif fence and ticks >= fence and ticks == len(bare):
            blocks.append((mark, "\n".join(inside)))
            fence = 0
        elif fence:
            inside.append(line)
    return [*blocks, (mark, "\n".join(inside))] if fence else blocks


# --- Tests ------------------------------------------------------------------------------------------------------------


def _tests_of(tests: Any) -> _Tests:
    """Tests in any of the documented forms."""
    if isinstance(tests, str):
        if not tests.lstrip().startswith(("[", "{")):
            return _Tests(tests, ())
        try:
            tests = json.loads(tests)
        except ValueError:  # Python text may begin with a bracket too.
            return _Tests(tests, ())
    if hasattr(tests, "tolist"):  # Columns of Parquet files hold arrays.
        tests = tests.tolist()
    if isinstance(tests, Mapping) and {"inputs", "outputs"} <= set(tests) and not tests.get("fn_name"):
        return _Tests(None, _texts(zip(tests["inputs"], tests["outputs"], strict=True)))
    if isinstance(tests, Sequence) and tests and all(isinstance(test, str) for test in tests):
        return _Tests("\n".join(tests), ())
    if isinstance(tests, Sequence) and tests and all(isinstance(test, Mapping) for test in tests):
        return _Tests(None, _texts((test["input"], test["output"]) for test in tests))
    raise ValueError(
        f"tests are {tests!r:.80} ({type(tests).__name__}); give Python text with asserts, a list of such texts, or a "
        "list of dictionaries with `input` and `output`"
    )


def _texts(pairs: Any) -> list[tuple[str, str]]:
    texts = [(given, wanted) for given, wanted in pairs]
    if not texts or not all(isinstance(text, str) for pair in texts for text in pair):
        raise ValueError(f"inputs and outputs of a program are texts, and at least one pair, got {texts!r:.80}")
    return texts


def _call_credit(program: str, source: str, entry_point: str | None, credit: str, limits: Limits) -> float:
    count = sandbox.run_asserts(program, source, entry_point, stop_early=credit == "all", limits=limits)
    if count is None or not count["passed"]:
        return 0.0
    if not count["failed"]:
        return 1.0
    # A statement that raised kept the asserts after it from running: they are counted as written.
    return count["passed"] / max(count["asserts"], count["passed"] + count["failed"]) if credit == "fraction" else 0.0


def _stream_credit(program: str, pairs: Sequence[tuple[str, str]], credit: str, limits: Limits) -> float:
    written = sandbox.outputs(program, [given for given, _ in pairs], limits=limits)
    right = sum(
        text is not None and _settled(text) == _settled(wanted)
        for text, (_, wanted) in zip(written, pairs, strict=True)
    )
    return right / len(pairs) if credit == "fraction" else float(right == len(pairs))


def _settled(text: str) -> str:
    """Text without whitespace at the ends of its lines and its own end."""
    return "\n".join(line.rstrip() for line in text.split("\n")).rstrip()
