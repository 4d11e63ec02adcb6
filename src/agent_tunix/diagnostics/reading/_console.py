"""What trainers print: verl's step lines, dictionaries, tqdm postfixes and NeMo-RL's blocks.

The forms are those of verl 1dda039 (`concat_dict_to_str`), OpenRLHF 3c3be62 (`Global step N: {...}` and a tqdm
postfix), NeMo-RL 7ea279a (`nemo_rl/algorithms/grpo.py`, the block under "Training Results") and transformers 5
(dictionaries, whose numbers are quoted since then).
"""

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from agent_tunix.diagnostics.names import resolve
from agent_tunix.diagnostics.reading._columns import Columns, Table, number
from agent_tunix.diagnostics.reading._files import UNDERSTOOD, text
from agent_tunix.errors import RunError

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
VERL = re.compile(r"(?:^|\s)step:(\d{1,15}) - (.+)")
PAIR = re.compile(
    r"""(['"])([\w][\w/@.+ -]*)\1: (?:[a-z_][\w.]*\()?(['"]?)([-+]?(?:(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?|nan|inf))\3""",
    re.I,
)
GLOBAL_STEP = re.compile(r"[Gg]lobal[ _]step[ :=]+(\d{1,15})\b")
POSTFIX = re.compile(r"\| *(\d{1,15})/(\d{1,15}) \[[^\]]*?/(?:it|s)?,? *((?:[\w./]+=[^,\]\s]+(?:, )?)+)\]?")
NEMO_STEP = re.compile(r"=+ *Step (\d{1,15})(?:/\d+)? *=+")
NEMO_VALUE = re.compile(r"^\s*• ([A-Z][\w ]*): ([-+\w.]+)s?\s*(?:tokens)?$")
NEMO_NAMES = {
    "Loss": "loss",
    "Avg Reward": "reward",
    "Avg Total Reward": "reward",
    "Avg Filtered Reward": "filtered_reward",
    "Mean Generation Length": "mean_gen_tokens_per_sample",
    "Generation KL Error": "gen_kl_error",
    "Accuracy": "validation/accuracy",
    "Total step time": "step_time",
}
MOST_TRAILING = ("eval_", "train_")
CHUNK = 20_000

Row = dict[str, Any]
Parser = Callable[[Iterable[str]], Iterator[Row]]


def read_console(path: Path) -> tuple[Table, str]:
    """The numbers in a console log, whatever stands between them.

    Returns:
      The table, and whose log it was.

    Raises:
      RunError: If no line holds metrics in a form that is known.
    """
    kind = _kind(path)
    columns, chunk = Columns(), []
    with text(path) as file:
        for row in PARSERS[kind](_lines(file)):
            chunk.append(row)
            if len(chunk) == CHUNK:
                columns.add_rows(chunk)
                chunk = []
    columns.add_rows(chunk)
    return columns.table(), kind


def _kind(path: Path) -> str:
    """Whose log it is: the form of its lines, the most particular first, for most logs hold dictionaries as well."""
    found: set[str] = set()
    first = next(iter(SIGNS))
    with text(path) as file:
        for line in _lines(file):
            found |= {kind for kind, sign in SIGNS.items() if kind not in found and sign(line)}
            if first in found:
                break
    if not found:
        raise RunError(f"{path} holds no metrics that are understood; what can be read is {UNDERSTOOD}")
    return next(kind for kind in SIGNS if kind in found)


def _lines(file: Iterable[str]) -> Iterator[str]:
    for line in file:
        # A progress bar draws over itself with carriage returns.
        for part in ESCAPES.sub("", line).split("\r"):
            if part.strip():
                yield part.rstrip("\n")


def verl_rows(lines: Iterable[str]) -> Iterator[Row]:
    """Rows of `step:12 - actor/entropy:0.5 - ...`.

    Examples:
      >>> list(verl_rows(["(TaskRunner pid=7) step:12 - actor/entropy:np.float64(0.5) - actor/lr:1e-06"]))
      [{'step': 12, 'actor/entropy': 0.5, 'actor/lr': 1e-06}]
    """
    for line in lines:
        if found := VERL.search(line):
            row: Row = {"step": int(found[1])}
            for entry in found[2].split(" - "):
                name, _, value = entry.strip().rpartition(":")
                known = number(value)
                if name and known is not None:
                    row[name] = known
            yield row


def dictionary_rows(lines: Iterable[str]) -> Iterator[Row]:
    """Rows of printed dictionaries; where no step is printed beside them, they are counted.

    Evaluations belong to the step before them; dictionaries without a known metric are settings.

    Examples:
      >>> list(dictionary_rows(["Global step 3: {'reward': 0.5, 'kl': nan}", "{'eval_reward': '0.25'}"]))
      [{'step': 3, 'reward': 0.5, 'kl': nan}, {'step': 3, 'eval_reward': 0.25}]
    """
    step = 0
    for line in lines:
        start = line.find("{")
        pairs = {match[2]: float(match[4]) for match in PAIR.finditer(line, start)} if start >= 0 else {}
        if not any(map(_tells, pairs)):
            continue
        said = GLOBAL_STEP.search(line[:start])
        if said:
            step = int(said[1])
        elif "step" not in pairs and not _trailing(pairs):
            step += 1
        yield {"step": step, **pairs}


def _tells(name: str) -> bool:
    """Whether a name is a metric's; dictionaries of settings are printed too, and hold a learning rate."""
    found = resolve(name)
    return found is not None and found.card != "learning_rate"


def _trailing(pairs: Row) -> bool:
    rest = [name for name in pairs if name != "epoch"]
    return bool(rest) and all(name.startswith(MOST_TRAILING) for name in rest)


def postfix_rows(lines: Iterable[str]) -> Iterator[Row]:
    """Rows of tqdm bars with numbers behind them; a bar that starts again goes on counting.

    Examples:
      >>> list(postfix_rows(["Train: 50%|##  | 3/6 [00:10<00:10, 2.5s/it, policy_loss=0.1, kl=0.02]"]))
      [{'step': 3, 'policy_loss': 0.1, 'kl': 0.02}]
    """
    done, last, total = 0, 0, 0
    for line in lines:
        found = POSTFIX.search(line)
        if not found:
            continue
        if int(found[1]) < last:
            done += total
        last, total = int(found[1]), int(found[2])
        pairs = (entry.partition("=") for entry in found[3].split(", "))
        row = {name.strip(): known for name, _, value in pairs if (known := number(value)) is not None}
        yield {"step": done + last, **row}


def nemo_rows(lines: Iterable[str]) -> Iterator[Row]:
    """Rows of NeMo-RL's blocks, named as its other loggers name them.

    Examples:
      >>> list(nemo_rows(["==== Step 2/9 ====", "  • Loss: 0.1", "  • Avg Reward: 0.5", "  • Seeds: 3"]))
      [{'step': 2, 'loss': 0.1, 'reward': 0.5}]
    """
    row: Row = {}
    for line in lines:
        if header := NEMO_STEP.search(line):
            if len(row) > 1:
                yield row
            row = {"step": int(header[1])}
        elif row and (entry := NEMO_VALUE.match(line)) and entry[1] in NEMO_NAMES:
            known = number(entry[2].removesuffix("s"))
            row |= {} if known is None else {NEMO_NAMES[entry[1]]: known}
    if len(row) > 1:
        yield row


def _has_rows(parser: Parser) -> Callable[[str], bool]:
    return lambda line: next(parser([line]), None) is not None


PARSERS: dict[str, Parser] = {
    "verl console log": verl_rows,
    "NeMo-RL console log": nemo_rows,
    "OpenRLHF console log": dictionary_rows,
    "console log of dictionaries (TRL)": dictionary_rows,
    "console log of progress bars (OpenRLHF)": postfix_rows,
}
SIGNS: dict[str, Callable[[str], bool]] = {
    "verl console log": _has_rows(verl_rows),
    "NeMo-RL console log": lambda line: NEMO_STEP.search(line) is not None,
    "OpenRLHF console log": lambda line: "lobal step" in line and _has_rows(dictionary_rows)(line),
    "console log of dictionaries (TRL)": _has_rows(dictionary_rows),
    "console log of progress bars (OpenRLHF)": _has_rows(postfix_rows),
}
