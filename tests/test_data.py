"""Loading and splitting files, shuffled batches that resume, and token layouts."""

import csv
import json
import logging
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_tunix import data, tasks
from agent_tunix.config import DataConfig
from agent_tunix.errors import ConfigError
from agent_tunix.tasks import DataError
from agent_tunix.tokenizers import CharacterTokenizer

TOKENIZER = CharacterTokenizer()
SETTINGS = {
    "path": None,
    "level": 1,
    "train_size": 50,
    "heldout_size": 10,
    "prompt_column": "prompt",
    "answer_column": "answer",
    "demonstration_column": "demonstration",
    "malformed": "raise",
    "seed": 0,
}
ROWS = [{"prompt": f"{number}+1=", "answer": str(number + 1)} for number in range(200)]


def load(task, **changed):
    return data.load(task, **(SETTINGS | changed))


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def write_csv(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def write_parquet(path, rows):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return str(path)


WRITERS = {"jsonl": write_jsonl, "csv": write_csv, "parquet": write_parquet}


def prompts(rows):
    return [row["prompt"] for row in rows]


# Loading.
def test_arguments_are_named_as_in_the_config():
    assert set(SETTINGS) - {"seed"} <= set(DataConfig.__dataclass_fields__)


@pytest.mark.parametrize("task", tasks.names())
def test_procedural_task_loads_both_splits(task):
    dataset = load(task)
    assert (len(dataset.train), len(dataset.heldout), dataset.skipped, dataset.overlapping) == (50, 10, 0, 0)
    assert set(prompts(dataset.train)).isdisjoint(prompts(dataset.heldout))


def test_unknown_task_lists_all_known_ones():
    with pytest.raises(ConfigError, match=r"unknown task `gsm8`; did you mean `gsm8k`.*file, gsm8k"):
        load("gsm8")


@pytest.mark.parametrize("suffix", WRITERS)
def test_file_of_any_format_is_split_by_hash(tmp_path, suffix):
    dataset = load("file", path=WRITERS[suffix](tmp_path / f"rows.{suffix}", ROWS))
    expected = {row["prompt"] for row in ROWS if tasks.is_heldout(row["prompt"])}
    assert set(prompts(dataset.heldout)) == expected and 5 < len(expected) < 40
    assert set(prompts(dataset.train)) == set(prompts(ROWS)) - expected
    assert dataset.train[0] == {"prompt": "0+1=", "answer": "1", "demonstration": None, "task": "file", "level": 1}


def test_split_of_a_file_does_not_depend_on_order_or_on_other_rows(tmp_path):
    first = load("file", path=write_jsonl(tmp_path / "a.jsonl", ROWS))
    second = load("file", path=write_jsonl(tmp_path / "b.jsonl", ROWS[100:][::-1]))
    assert set(prompts(second.heldout)) <= set(prompts(first.heldout))


def test_small_file_holds_out_one_prompt_with_all_its_rows(tmp_path):
    rows = [{"prompt": prompt, "answer": "1"} for prompt in ("a", "b", "a")]
    dataset = load("file", path=write_jsonl(tmp_path / "rows.jsonl", rows))
    assert sorted(len(set(prompts(split))) for split in dataset[:2]) == [1, 1]
    assert len(dataset.train) + len(dataset.heldout) == 3
    with pytest.raises(DataError, match="has 1 usable prompts; at least 2"):
        load("file", path=write_jsonl(tmp_path / "one.jsonl", rows[:1] * 5))


@settings(deadline=None, max_examples=30)
@given(st.sets(st.text(min_size=1).filter(str.strip), min_size=2, max_size=12))
def test_hash_split_leaves_something_on_both_sides(drawn):
    train, heldout = data._split_by_hash([{"prompt": prompt} for prompt in drawn], Path("rows.jsonl"))
    assert train and heldout and set(prompts(train)) | set(prompts(heldout)) == drawn


def test_columns_are_mapped_and_further_ones_kept(tmp_path):
    rows = [
        {"question": f"q{number}", "gold": number / 2, "worked": "so", "topic": "x", "level": number, "task": "mine"}
        for number in range(4)
    ]
    columns = {"prompt_column": "question", "answer_column": "gold", "demonstration_column": "worked"}
    dataset = load("file", path=write_parquet(tmp_path / "rows.parquet", rows), **columns)
    found = sorted([*dataset.train, *dataset.heldout], key=lambda row: row["prompt"])
    assert [row["answer"] for row in found] == ["0", "0.5", "1", "1.5"]
    assert [row["level"] for row in found] == [0, 1, 2, 3]
    assert found[3] | {"level": 0} == {
        "prompt": "q3", "answer": "1.5", "demonstration": "so", "topic": "x", "level": 0, "task": "mine",
    }  # fmt: skip


def test_rows_with_different_columns_get_the_same_ones(tmp_path):
    rows = [{**row, **({"hint": "h"} if index % 2 else {"note": "n"})} for index, row in enumerate(ROWS)]
    dataset = load("file", path=write_jsonl(tmp_path / "rows.jsonl", rows))
    columns = {"prompt", "answer", "demonstration", "task", "level", "hint", "note"}
    assert all(set(row) == columns for row in [*dataset.train, *dataset.heldout])
    assert dataset.train[0]["note"] == "n" and dataset.train[0]["hint"] is None


def test_folder_with_train_and_test_is_used_as_it_is_but_for_shared_prompts(tmp_path, caplog):
    write_jsonl(tmp_path / "train.jsonl", ROWS[:20])
    write_csv(tmp_path / "test.csv", ROWS[15:25])
    dataset = load("file", path=str(tmp_path))
    assert prompts(dataset.heldout) == prompts(ROWS[15:25])
    assert prompts(dataset.train) == prompts(ROWS[:15]) and dataset.overlapping == 5
    assert "removed 5 training rows whose prompt is held out" in caplog.text


def test_train_rows_that_are_all_held_out_are_refused(tmp_path):
    for name in ("train", "test"):
        write_jsonl(tmp_path / f"{name}.jsonl", ROWS[:3])
    with pytest.raises(DataError, match=r"no training rows are left.*overlapping and removed: 3"):
        load("file", path=str(tmp_path))


def test_folder_without_or_with_two_train_files_is_refused(tmp_path):
    write_jsonl(tmp_path / "training.jsonl", ROWS)
    with pytest.raises(DataError, match=r"no train file \(train\.jsonl, train\.csv, train\.parquet\).*training\.jsonl"):
        load("file", path=str(tmp_path))
    write_jsonl(tmp_path / "train.jsonl", ROWS)
    write_csv(tmp_path / "train.csv", ROWS)
    with pytest.raises(DataError, match=r"has train\.jsonl and train\.csv; keep one"):
        load("file", path=str(tmp_path))


@pytest.mark.parametrize("malformed", ["raise", "skip"])
def test_missing_column_names_those_found_and_the_nearest(tmp_path, malformed):
    path = write_csv(tmp_path / "rows.csv", [{"question": "q", "answers": "1"}])
    with pytest.raises(DataError, match=r"no column `answer` \(did you mean `answers`\?\).*question, answers"):
        load("file", path=path, malformed=malformed, prompt_column="question")
    with pytest.raises(DataError, match=r"no column `solution`.*data\.demonstration_column"):
        load("file", path=path, prompt_column="question", answer_column="answers", demonstration_column="solution")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answer": "1"}, "`prompt` is None"),
        ({"prompt": 5, "answer": "1"}, "`prompt` is 5"),
        ({"prompt": " ", "answer": "1"}, "`prompt` is ' '"),
        ({"prompt": "q"}, "`answer` is None"),
        ({"prompt": "q", "answer": ""}, "`answer` is ''"),
        ({"prompt": "q", "answer": True}, "`answer` is True"),
        ({"prompt": "q", "answer": [1]}, r"`answer` is \[1\]"),
        ({"prompt": "q", "answer": float("nan")}, "`answer` is nan"),
        ({"prompt": "q", "answer": "1", "demonstration": 3}, "`demonstration` is 3"),
    ],
)
def test_unusable_row_is_named_or_skipped_and_counted(tmp_path, caplog, row, message):
    path = write_jsonl(tmp_path / "rows.jsonl", [*ROWS[:5], row])
    with pytest.raises(DataError, match=rf"rows\.jsonl:6: column {message}"):
        load("file", path=path)
    dataset = load("file", path=path, malformed="skip")
    assert dataset.skipped == 1 and len(dataset.train) + len(dataset.heldout) == 5
    assert "rows.jsonl:6" in caplog.text


def test_csv_rows_of_wrong_width_are_malformed(tmp_path):
    (tmp_path / "rows.csv").write_text("\ufeffprompt,answer\na,1\nb\nc,1,2\nd,4\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"rows\.csv:3: fewer fields"):
        load("file", path=str(tmp_path / "rows.csv"))
    dataset = load("file", path=str(tmp_path / "rows.csv"), malformed="skip")
    assert dataset.skipped == 2 and sorted(prompts([*dataset.train, *dataset.heldout])) == ["a", "d"]


def test_csv_fields_may_hold_newlines_and_separators(tmp_path):
    rows = [{"prompt": 'a\nb,"c"', "answer": "1"}, {"prompt": "d", "answer": "2"}]
    dataset = load("file", path=write_csv(tmp_path / "rows.csv", rows))
    assert sorted(prompts([*dataset.train, *dataset.heldout])) == ['a\nb,"c"', "d"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.jsonl", b"", "has no rows"),
        ("rows.csv", b"prompt,answer\n", "has no rows"),
        ("rows.csv", b"prompt,answer\n\xff,1\n", "is not UTF-8"),
        ("rows.csv", b"prompt,answer\n" + b"a" * 200_000 + b",1\n", r"rows\.csv:\d+: field larger"),
        ("rows.parquet", b"PAR0", "is not a Parquet file"),
        ("rows.txt", b"1", r"unknown format.*\.jsonl, \.csv, \.parquet"),
    ],
)
def test_unreadable_file_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        load("file", path=str(tmp_path / name))
    assert str(tmp_path / name) in str(caught.value)


def test_missing_file_path_and_wrong_choice_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"absent\.jsonl does not exist"):
        load("file", path=str(tmp_path / "absent.jsonl"))
    with pytest.raises(ConfigError, match=r"needs data\.path"):
        load("file")
    with pytest.raises(ConfigError, match=r"data\.malformed `ignore`"):
        load("file", path=write_jsonl(tmp_path / "rows.jsonl", ROWS), malformed="ignore")


def test_file_of_malformed_rows_only_is_refused_even_when_skipping(tmp_path):
    (tmp_path / "rows.jsonl").write_text("{\n[\n")
    with pytest.raises(DataError, match="0 usable prompts"):
        load("file", path=str(tmp_path / "rows.jsonl"), malformed="skip")


# Batches.
def take(iterator, count):
    return [[row["prompt"] for row in next(iterator)] for _ in range(count)]


@pytest.mark.parametrize(("count", "size"), [(1, 1), (3, 2), (20, 20), (50, 7), (97, 96), (200, 64)])
def test_each_epoch_visits_each_row_once_across_batch_boundaries(count, size):
    taken = take(data.batches(ROWS[:count], size=size, seed=2**40), -(-3 * count // size))
    assert all(len(batch) == size for batch in taken)
    flat = [prompt for batch in taken for prompt in batch]
    for epoch in range(3):
        assert sorted(flat[epoch * count : (epoch + 1) * count]) == sorted(prompts(ROWS[:count]))


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = [tuple(batch) for seed in range(4) for batch in take(data.batches(ROWS[:20], size=20, seed=seed), 4)]
    # Sixteen orders out of 20! without a repetition: in particular epoch 1 of seed 0 is not epoch 0 of seed 1.
    assert len(set(orders)) == 16
    assert take(data.batches(ROWS, size=7, seed=3), 5) == take(data.batches(ROWS, size=7, seed=3), 5)


@pytest.mark.parametrize("consumed", [0, 1, 2, 3, 8, 50])
def test_restored_state_gives_exactly_the_batches_that_would_have_followed(consumed):
    rows = ROWS[:10]  # four rows per batch: mid-epoch, across epochs and, after five batches, between them
    original = data.batches(rows, size=4, seed=1)
    take(original, consumed)
    state = json.loads(json.dumps(original.get_state()))
    following = take(original, 12)
    fresh = data.batches(rows, size=4, seed=1)
    fresh.set_state(state)
    assert take(fresh, 12) == following
    original.set_state(state)  # back in time, on the same iterator
    assert take(original, 12) == following
    assert original.get_state() == fresh.get_state()


def test_state_counts_delivered_rows_only():
    iterator = data.batches(ROWS, size=8, seed=0)
    take(iterator, 3)
    assert iterator.get_state() == {"next_index": 24}


def test_batches_hold_the_rows_themselves():
    rows = [{"prompt": "a", "numbers": [1, 2]}]
    assert next(data.batches(rows, size=1, seed=0)) == rows


@pytest.mark.parametrize(("size", "count"), [(0, 5), (6, 5), (1, 0), (-1, 5)])
def test_batch_size_that_cannot_be_is_refused(size, count):
    with pytest.raises(ConfigError, match=f"a batch of {size} rows cannot be drawn from {count}"):
        data.batches(ROWS[:count], size=size, seed=0)
    with pytest.raises(ConfigError, match="seed is -1"):
        data.batches(ROWS, size=1, seed=-1)


# Encoding.
def test_prompts_are_left_padded_behind_the_beginning_token():
    encoded = data.encode_prompts(TOKENIZER, ["1", "123"], max_tokens=5, overlong="raise")
    assert encoded.ids.tolist() == [[0, 0, 0, 1, 26], [0, 1, 26, 27, 28]]
    assert encoded.mask.tolist() == [[False] * 3 + [True] * 2, [False] + [True] * 4]
    assert encoded.truncated == 0 and encoded.ids.dtype == np.int32


def test_overlong_prompt_is_refused_with_index_count_and_key():
    message = r"prompt 1 \('1234'\) has 5 tokens .* data\.max_prompt_tokens is 4; .*data\.overlong_prompts=truncate"
    with pytest.raises(DataError, match=message):
        data.encode_prompts(TOKENIZER, ["123", "1234"], max_tokens=4, overlong="raise")


def test_overlong_prompt_keeps_the_beginning_token_and_its_last_tokens():
    encoded = data.encode_prompts(TOKENIZER, ["123", "1234", "12345"], max_tokens=4, overlong="truncate")
    assert encoded.ids.tolist() == [[1, 26, 27, 28], [1, 27, 28, 29], [1, 28, 29, 30]]
    assert encoded.truncated == 2 and encoded.mask.all()


def test_empty_prompt_is_only_the_beginning_token():
    encoded = data.encode_prompts(TOKENIZER, [""], max_tokens=3, overlong="raise")
    assert encoded.ids.tolist() == [[0, 0, 1]]
    assert data.encode_prompts(TOKENIZER, [], max_tokens=3, overlong="raise").ids.shape == (0, 3)


def test_wrong_choice_or_budget_for_prompts_is_refused():
    with pytest.raises(ConfigError, match=r"data\.overlong_prompts `cut`.*raise, truncate"):
        data.encode_prompts(TOKENIZER, ["1"], max_tokens=4, overlong="cut")
    with pytest.raises(ConfigError, match=r"data\.max_prompt_tokens is 1"):
        data.encode_prompts(TOKENIZER, ["1"], max_tokens=1, overlong="truncate")


def test_completions_end_and_are_right_padded_and_long_ones_are_marked():
    encoded = data.encode_completions(TOKENIZER, ["1", "12", "123", ""], max_tokens=3)
    assert encoded.ids.tolist() == [[26, 2, 0], [26, 27, 2], [26, 27, 28], [2, 0, 0]]
    assert encoded.mask.tolist() == [[True, True, False], [True] * 3, [True] * 3, [True, False, False]]
    assert encoded.fits.tolist() == [True, True, False, True]


def test_every_demonstration_of_the_default_task_survives_encoding():
    rows = load("sorting").train
    encoded = data.encode_completions(TOKENIZER, [row["demonstration"] for row in rows], max_tokens=16)
    assert encoded.fits.all()
    assert [TOKENIZER.decode(ids) for ids in encoded.ids] == [row["demonstration"] for row in rows]


def test_loading_says_nothing_when_all_is_well(caplog, tmp_path):
    with caplog.at_level(logging.INFO, "agent_tunix"):
        load("file", path=write_jsonl(tmp_path / "rows.jsonl", ROWS))
    assert caplog.text == ""
