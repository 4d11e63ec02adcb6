"""Data sets of hubs, through stand-ins for their clients: none can be reached from the tests."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from agent_tunix import data, layouts
from agent_tunix.tasks import DataError, _remote


def loaded(path, **columns):
    names = {"prompt_column": "question", "answer_column": "answer", "demonstration_column": "demonstration"} | columns
    sizes = {"level": 1, "train_size": 1, "heldout_size": 1, "seed": 0}
    return data.load("file", path=path, malformed="raise", **sizes, **names)


ROWS = [{"question": f"{n} + 1?", "answer": str(n + 1)} for n in range(6)]


def test_splits_of_the_hugging_face_hub(monkeypatch):
    asked = []

    def load_dataset(name, config):
        asked.append((name, config))
        return {"train": ROWS[:4], "validation": ROWS[4:]}

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    found = loaded("hf:openai/gsm8k/main")
    assert asked == [("openai/gsm8k", "main")]
    assert [row["prompt"] for row in found.train] == [row["question"] for row in ROWS[:4]]
    assert [row["answer"] for row in found.heldout] == ["5", "6"]
    loaded("hf:openai/gsm8k")
    assert asked[-1] == ("openai/gsm8k", None)


def test_tensorflow_datasets_give_bytes_and_scalars(monkeypatch):
    rows = [{"question": f"{n} + 1?".encode(), "answer": np.int64(n + 1), "level": np.int64(3)} for n in range(20)]
    library = SimpleNamespace(data_source=lambda name: {"train": rows})
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", library)
    found = loaded("tfds:arithmetic")
    assert {row["level"] for row in found.train} == {3}
    assert len(found.train) + len(found.heldout) == 20
    assert all(isinstance(row["prompt"], str) for row in found.train)


def test_a_file_of_kaggle_is_read_as_a_file(monkeypatch, tmp_path):
    (tmp_path / "rows.csv").write_text("question,answer\n" + "".join(f"{n} + 1?,{n + 1}\n" for n in range(9)))
    asked = []
    library = SimpleNamespace(dataset_download=lambda handle: asked.append(handle) or str(tmp_path))
    monkeypatch.setitem(sys.modules, "kagglehub", library)
    found = loaded("kaggle:owner/name/rows.csv")
    assert asked == ["owner/name"]
    assert len(found.train) + len(found.heldout) == 9


def test_failures_are_told_in_one_line(monkeypatch):
    def unreachable(name, config):
        raise ConnectionError("no route\nto the hub")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=unreachable))
    with pytest.raises(DataError, match=r"hf:a/b could not be loaded \(no route\); check the name") as caught:
        loaded("hf:a/b")
    assert "\n" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=lambda *_: {"all": ROWS}))
    with pytest.raises(DataError, match="no split `train`, but all"):
        loaded("hf:a/b")
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(DataError, match="needs the package tensorflow_datasets"):
        loaded("tfds:gsm8k")
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=lambda *_: {"train": ROWS}))
    with pytest.raises(DataError, match="hf:a/b has no column `problem`"):
        loaded("hf:a/b", prompt_column="problem")


def test_what_is_no_scheme_is_a_path():
    assert not _remote.is_remote("C:/rows.jsonl")
    assert not _remote.is_remote("rows.jsonl")
    assert _remote.is_remote("hf:a/b")


def chat(text, *before):
    return [*before, {"role": "user", "content": text}]


def test_rows_may_be_chats(tmp_path):
    system = {"role": "system", "content": "Be brief."}
    rows = [{"messages": chat(f"{n} + 1?", system), "answer": n + 1} for n in range(5)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = loaded(str(tmp_path / "rows.jsonl"), prompt_column="messages")
    row = found.train[0]
    assert row["prompt"].endswith("+ 1?")
    assert row[data.MESSAGES][0] == system

    class Tokenizer:
        has_chat_template = True

        def chat(self, messages):
            return "|".join(message["content"] for message in messages)

    assert layouts.layout(Tokenizer())(row) == f"Be brief.|{row['prompt']}"


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([{"role": "user"}], "without a role and a content"),
        ([{"role": "system", "content": "x"}], "no message of a user"),
    ],
)
def test_broken_chats_are_named(tmp_path, messages, words):
    rows = [{"messages": messages, "answer": "1"}, {"messages": chat("a"), "answer": "1"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=words):
        loaded(str(tmp_path / "rows.jsonl"), prompt_column="messages")
