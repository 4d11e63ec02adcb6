"""Data sets of reasoning-gym, through a stand-in that always runs and through the library where it is installed."""

import logging
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from agent_tunix import recipes, tasks
from agent_tunix.errors import ConfigError
from agent_tunix.tasks import DataError, gym
from tests.test_data import load

ROOT = Path(__file__).parents[1]


class ProceduralDataset:
    """As the library's: a scorer that pays for every text that holds the answer."""

    def __init__(self, size, seed, **arguments):
        self.size, self.seed, self.arguments = size, seed, arguments

    def __len__(self):
        return self.size

    def score_answer(self, answer, entry):
        raise AssertionError("the library's scorer must not be asked")


class Sums(ProceduralDataset):
    def __getitem__(self, index):
        number = self.seed + index
        return {"question": f"{number} and {self.arguments.get('more', 1)}?", "answer": str(number + 1)}


class FewSums(Sums):
    def __getitem__(self, index):
        return super().__getitem__(index % 30 - self.seed)


class Puzzles(Sums):
    def score_answer(self, answer, entry):
        raise AssertionError("the library's scorer must not be asked")


class Wordless(Sums):
    def __getitem__(self, index):
        return {"question": "?", "answer": None}


class Uneven(Sums):
    def __getitem__(self, index):
        return {**super().__getitem__(index), "share": 1 / (index % 3)}


class Broken(Sums):
    def __getitem__(self, index):
        raise ZeroDivisionError


@pytest.fixture
def library(monkeypatch):
    """A stand-in for reasoning_gym with data sets of its own; those asked for are noted."""
    asked = []
    known = {
        "sums": Sums,
        "few": FewSums,
        "puzzles": Puzzles,
        "chain_sum": Puzzles,
        "ransom_note": Sums,
        "none": Wordless,
        "uneven": Uneven,
        "broken": Broken,
    }

    def create_dataset(name, size, seed, **arguments):
        if "wrong" in arguments:
            raise TypeError("unexpected keyword argument 'wrong'")
        asked.append((name, seed, arguments))
        return known[name](size, seed, **arguments)

    modules = {name: ModuleType(name) for name in ("reasoning_gym", "reasoning_gym.dataset", "reasoning_gym.factory")}
    modules["reasoning_gym"].create_dataset = create_dataset
    modules["reasoning_gym.dataset"].ProceduralDataset = ProceduralDataset
    modules["reasoning_gym.factory"].DATASETS = {name: (kind, object) for name, kind in known.items()}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return asked


def test_rows_are_split_by_the_hash_of_their_prompt(library):
    found = load("gym", gym_task="sums", gym_arguments={"more": 2}, train_size=40, heldout_size=7, seed=3)
    assert (len(found.train), len(found.heldout)) == (40, 7)
    assert all(tasks.is_heldout(row["prompt"]) for row in found.heldout)
    assert not any(tasks.is_heldout(row["prompt"]) for row in found.train)
    number, answer = int(found.train[0]["prompt"].split()[0]), found.train[0]["answer"]
    assert found.train[0] == {
        "prompt": f"{number} and 2?", "answer": answer, "demonstration": f"<answer>{answer}</answer>",
        "task": "gym_sums", "level": 1,
    }  # fmt: skip
    assert library == [("sums", 3_000_009, {"more": 2})]


def test_seeds_share_no_rows(library):
    first, second = (load("gym", gym_task="sums", seed=seed) for seed in (0, 1))
    assert {row["prompt"] for row in first.train}.isdisjoint(row["prompt"] for row in second.train)


def test_a_data_set_that_runs_out_gives_what_it_has(library, caplog):
    with caplog.at_level(logging.WARNING, "agent_tunix"):
        found = load("gym", gym_task="few", train_size=40, heldout_size=10)
    # Thirty prompts, of which about a tenth is held out; training rows repeat, held-out ones do not.
    held = {f"{number} and 1?" for number in range(30) if tasks.is_heldout(f"{number} and 1?")}
    assert {row["prompt"] for row in found.heldout} == held and len(found.heldout) == len(held) < 10
    assert len(found.train) == 40
    assert f"only {len(held)} of the 10 held-out rows" in caplog.text


def test_rows_that_the_library_fails_to_make_are_left_out(library, caplog):
    found = load("gym", gym_task="uneven", train_size=20, heldout_size=1)
    assert len(found.train) == 20 and not any(int(row["prompt"].split()[0]) % 3 == 0 for row in found.train)
    assert "`uneven` could not make row 0 (ZeroDivisionError" in caplog.text


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"gym_task": None}, ConfigError, "data.gym is not set"),
        ({"gym_task": "sum"}, ConfigError, "unknown data.gym `sum`; did you mean `sums`"),
        (
            {"gym_task": "sums", "gym_arguments": {"wrong": 1}},
            ConfigError,
            "of sums are {'wrong': 1}, which it refuses",
        ),
        ({"gym_task": "puzzles"}, DataError, "data.gym=puzzles has a scorer of its own"),
        ({"gym_task": "ransom_note"}, DataError, "other rows in every process"),
        ({"gym_task": "broken"}, DataError, "could not make 2000 rows"),
        ({"gym_task": "none"}, DataError, r"rows without an answer in text \(None\)"),
    ],
)
def test_what_cannot_be_scored_or_repeated_is_refused(library, settings, error, words):
    with pytest.raises(error, match=words) as caught:
        load("gym", **settings)
    assert "\n" not in str(caught.value)


def test_a_scorer_that_only_adds_partial_credit_is_no_reason_to_refuse(library):
    assert load("gym", gym_task="chain_sum").train


def test_an_absent_library_is_named_by_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(DataError, match=r"install `agent-tunix\[gym\]`"):
        load("gym", gym_task="leg_counting")


@pytest.mark.parametrize(
    ("response", "answer", "correct"),
    [
        ("<answer>48</answer>", "48", 1.0),
        ("<answer>48.0</answer>", "48", 1.0),
        # The library's scorer pays 0.5, 0.67 and 0.2 for these.
        ("<answer>480</answer>", "48", 0.0),
        ("<answer>-48</answer>", "48", 0.0),
        ("<answer>I say 48 </answer>", "48", 0.0),
        ("48", "48", 0.0),
        ("<answer> 1 2 \n3  4</answer>", "1 2\n3 4", 1.0),
        ("<answer>1 2 3 4</answer>", "1 2\n3 4", 0.0),
        ("<answer>true</answer>", "True", 0.0),
        ("<answer>1e3</answer>", "1e3", 1.0),
        ("<answer>1000</answer>", "1e3", 0.0),
    ],
)
def test_answers_are_right_to_the_letter_or_as_numbers(response, answer, correct):
    assert recipes.is_correct(response, {"task": "gym_any", "answer": answer}) == correct


# --- The library itself -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reasoning_gym():
    return pytest.importorskip("reasoning_gym", reason="the extra `gym` is not installed")


@pytest.mark.usefixtures("reasoning_gym")
@pytest.mark.parametrize(
    "name", ["leg_counting", "gcd", "rotate_matrix", "syllogism", *sorted(gym.ONE_ANSWER - {"zebra_puzzles"})]
)
def test_demonstrations_are_right_and_changed_answers_wrong(name):
    rows = load("gym", gym_task=name, train_size=20, heldout_size=2).train
    assert all(recipes.is_correct(row["demonstration"], row) == 1.0 for row in rows)
    assert not any(recipes.is_correct(f"<answer>{row['answer']}0x</answer>", row) for row in rows)


@pytest.mark.usefixtures("reasoning_gym")
def test_the_lists_name_data_sets_of_the_library_and_the_right_ones():
    from reasoning_gym.dataset import ProceduralDataset
    from reasoning_gym.factory import DATASETS

    plain = {name for name, (kind, _) in DATASETS.items() if kind.score_answer is ProceduralDataset.score_answer}
    assert set(DATASETS) - plain >= gym.ONE_ANSWER
    assert plain >= gym.CHANGING
    with pytest.raises(DataError, match="scorer of its own"):
        load("gym", gym_task="countdown")


@pytest.mark.usefixtures("reasoning_gym")
def test_rows_are_the_same_in_every_process():
    code = (
        "from agent_tunix.tasks import gym; print(gym.load('leg_counting', {}, train_size=50, heldout_size=5, seed=1))"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONPATH": str(ROOT / "src"), "PYTHONHASHSEED": seed},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2")
    ]  # fmt: skip
    assert said[0] == said[1] != ""
