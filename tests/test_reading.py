"""Anybody's log is read as what it is, and what is none is refused in one sentence."""

import dataclasses
import gzip
import json
import math
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from agent_tunix.diagnostics.diagnosis import diagnose
from agent_tunix.diagnostics.findings import Finding
from agent_tunix.diagnostics.reading import Log, read, report_text, to_json
from agent_tunix.errors import RunError

LOGS = Path(__file__).parent / "fixtures" / "logs"


def write(folder: Path, text: str, name: str = "log.txt") -> Path:
    path = folder / name
    path.write_bytes(text.encode())
    return path


def lines(*rows: dict) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


# --- Logs that others really wrote ------------------------------------------------------------------------------------


def test_trainer_state_of_trl_gives_training_and_evaluation_apart():
    log = read(LOGS / "trl_trainer_state.json")
    history = json.loads((LOGS / "trl_trainer_state.json").read_text())["log_history"]
    assert log.source == "trainer_state.json (transformers, TRL)"
    assert log.series["reward"].tolist() == [row["reward"] for row in history if "reward" in row]
    assert log.steps["reward"].tolist() == list(range(1, 13))
    assert log.steps["eval_reward"].tolist() == [4, 8, 12]
    assert "epoch" not in log.series
    assert "num_tokens" in log.unknown
    assert "reward" not in log.unknown


def test_what_trl_printed_holds_the_numbers_of_its_trainer_state():
    printed, state = read(LOGS / "trl_console.log"), read(LOGS / "trl_trainer_state.json")
    assert printed.source == "console log of dictionaries (TRL)"
    for name in ("reward", "kl", "eval_reward", "completions/clipped_ratio", "rewards/right_digit/mean"):
        assert printed.steps[name].tolist() == state.steps[name].tolist()
        np.testing.assert_allclose(printed.series[name], state.series[name], rtol=5e-4, atol=1e-9)


def test_tunix_events_give_its_tags_and_steps():
    log = read(LOGS / "tunix_events")
    assert log.source == "TensorBoard events"
    assert log.steps["rewards/train/score/mean"].tolist() == list(range(12))
    assert set(log.series["rewards/train/right_digit"].tolist()) <= {k / 16 for k in range(17)}
    parts = log.series["rewards/train/right_digit"] + log.series["rewards/train/digits_only"]
    np.testing.assert_allclose(log.series["rewards/train/score/mean"], parts, atol=1e-6)
    assert read(next((LOGS / "tunix_events").iterdir())).series.keys() == log.series.keys()


def test_verl_console_gives_what_its_file_logger_gives():
    console, file = read(LOGS / "verl_console.log"), read(LOGS / "verl_file_logger.jsonl")
    assert console.source == "verl console log"
    assert console.series.keys() == file.series.keys()
    for name in file.series:
        assert console.series[name].tolist() == file.series[name].tolist()
        assert console.steps[name].tolist() == file.steps[name].tolist()
    assert console.steps["val-core/gsm8k/acc/mean@1"].tolist() == [0, 5]
    assert console.series["actor/entropy"].tolist() == [0.47, 0.44, 0.41, 0.38, 0.35]


def test_openrlhf_console_puts_evaluations_at_the_step_before_them():
    log = read(LOGS / "openrlhf_console.log")
    assert log.source == "OpenRLHF console log"
    assert log.series["reward"].tolist() == [0.35, 0.45, 0.55, 0.65]
    assert log.steps["eval_gsm8k_pass1"].tolist() == [2, 4]


def test_nemo_console_is_named_as_its_other_loggers_name_it():
    log = read(LOGS / "nemo_console.log")
    assert log.source == "NeMo-RL console log"
    assert log.series["reward"].tolist() == [0.3, 0.4, 0.5]
    assert log.series["step_time"].tolist() == [31.5] * 3
    assert log.unknown == ()


def test_wandb_export_drops_the_run_and_the_bounds_and_keeps_sparse_evaluations_sparse():
    log = read(LOGS / "wandb_export.csv")
    assert log.source == "CSV exported from W&B"
    assert log.series.keys() == {"train/reward", "eval_accuracy"}
    assert log.steps["train/reward"].tolist() == [10, 20, 30, 40]
    assert log.steps["eval_accuracy"].tolist() == [20, 40]


@pytest.mark.parametrize("name", sorted(path.name for path in LOGS.iterdir() if path.name != "README.md"))
def test_rules_can_judge_every_one_of_them(name):
    log = read(LOGS / name)
    findings = diagnose(log.series, steps=log.steps, bounds=log.bounds, eval_samples=log.eval_samples, roles=log.roles)
    assert report_text(log, findings)
    assert all(finding.level != "error" for finding in findings)


def test_wandb_export_of_two_runs_is_refused(tmp_path):
    with pytest.raises(RunError, match=r"2 runs \(a, b\); export one run"):
        read(write(tmp_path, "Step,a - reward,b - reward\n1,0.5,0.6\n"))


# --- Our runs ---------------------------------------------------------------------------------------------------------


def our_run(folder: Path, metrics: str) -> Path:
    config = {"evaluation": {"rows": 128}, "data": {"heldout_size": 100}}
    write(folder, yaml.safe_dump(config), "config.yaml")
    write(folder, metrics, "metrics.jsonl")
    return folder


def test_a_run_tells_its_bounds_its_roles_and_the_size_of_its_evaluation(tmp_path):
    rows = [{"kind": "train", "step": n, "batch": n, "reward/mean": n / 10, "reward/part/format": 1.0} for n in (1, 2)]
    our_run(tmp_path, lines({"kind": "eval", "step": 0, "eval/accuracy": 0.25}, *rows))
    declared = {"bounds": [0, 1], "parts": {"format": [0.0, 1.0], "length": None}}
    write(tmp_path, json.dumps(declared), "reward.json")
    write(tmp_path, lines({"step": 1, "time/step_s": 2.5}), "timings.jsonl")
    log = read(tmp_path)
    assert log.source == "run of agent-tunix"
    assert log.bounds == {"reward/mean": (0.0, 1.0), "reward/part/format": (0.0, 1.0)}
    assert log.roles == {"reward/mean": "reward", "eval/accuracy": "gold", "reward/part/format": "format"}
    assert log.eval_samples == 100
    assert log.steps["eval/accuracy"].tolist() == [0]
    assert log.series["time/step_s"].tolist() == [2.5]
    assert log.unknown == ()


def test_the_size_of_an_evaluation_is_what_the_run_counted(tmp_path):
    our_run(tmp_path, lines({"kind": "train", "step": 1, "reward/mean": 0.1}))
    for counted, known in ((37, 37), (None, 100), (0, 100), ("37", 100)):
        write(tmp_path, json.dumps({"bounds": [0, 1], "parts": {}, "eval_samples": counted}), "reward.json")
        assert read(tmp_path).eval_samples == known


def test_an_empty_range_is_no_bound(tmp_path):
    our_run(tmp_path, lines({"kind": "train", "step": 1, "reward/mean": 0.0, "reward/part/style/format": 1.0}))
    declared = {"bounds": [0, 0], "parts": {"style/format": [0, 2], "gone": [0, 1]}}
    write(tmp_path, json.dumps(declared), "reward.json")
    assert read(tmp_path).bounds == {"reward/part/style/format": (0.0, 2.0)}


def test_a_run_without_declared_bounds_has_none(tmp_path):
    our_run(tmp_path, lines({"kind": "train", "step": 1, "reward/mean": 0.1}))
    assert read(tmp_path).bounds == {}
    write(tmp_path, json.dumps({"bounds": None, "parts": {}}), "reward.json")
    assert read(tmp_path).bounds == {}


@pytest.mark.parametrize("damaged", ['{"bounds": [0', '{"bounds": [0]}', '{"bounds": 3}', "[]"])
def test_damaged_bounds_are_named(tmp_path, damaged):
    our_run(tmp_path, lines({"kind": "train", "step": 1, "reward/mean": 0.1}))
    write(tmp_path, damaged, "reward.json")
    with pytest.raises(RunError, match=r"reward.json is damaged"):
        read(tmp_path)


def test_null_in_a_run_is_nan_and_half_a_last_line_is_left_out(tmp_path):
    whole = lines({"kind": "train", "step": 1, "reward/mean": None}, {"kind": "train", "step": 2, "reward/mean": 0.5})
    log = read(our_run(tmp_path, whole + '{"kind": "train", "step": 3, "rew'))
    np.testing.assert_array_equal(log.series["reward/mean"], [math.nan, 0.5])
    assert log.notes == ("1 line left out: no JSON object, or cut off",)


def test_a_run_that_has_not_begun_is_said_to_have_logged_nothing(tmp_path):
    with pytest.raises(RunError, match="has not logged a step yet"):
        read(our_run(tmp_path, ""))


# --- JSON -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["step", "global_step", "_step", "train/global_step", "training/global_step", "Step"])
def test_json_lines_know_the_column_that_counts_steps(tmp_path, key):
    log = read(write(tmp_path, lines({key: 5, "reward": 0.1}, {key: 10, "reward": 0.2})))
    assert log.steps["reward"].tolist() == [5, 10]
    assert set(log.series) == {"reward"}


def test_without_steps_rows_are_counted(tmp_path):
    log = read(write(tmp_path, lines({"reward": 0.1}, {"reward": 0.2})))
    assert log.steps["reward"].tolist() == [1, 2]
    assert "rows are counted from 1" in log.notes[0]


def test_a_row_without_a_step_belongs_to_the_step_before_it(tmp_path):
    log = read(write(tmp_path, lines({"step": 7, "reward": 0.1}, {"kl": 0.5}, {"step": 8, "reward": 0.2})))
    assert log.steps["kl"].tolist() == [7]


def test_held_out_rows_of_the_same_names_stay_apart(tmp_path):
    rows = [{"step": 1, "mode": "train", "reward": 0.1}, {"step": 1, "mode": "eval", "reward": 0.9}]
    log = read(write(tmp_path, lines(*rows)))
    assert log.series["reward"].tolist() == [0.1]
    assert log.series["eval/reward"].tolist() == [0.9]


def test_held_out_names_are_marked_once_and_whole(tmp_path):
    log = read(write(tmp_path, lines({"step": 1, "kind": "eval", "value_loss": 0.5, "eval/accuracy": 0.25})))
    assert set(log.series) == {"eval/value_loss", "eval/accuracy"}


def test_nested_rows_are_named_by_their_path(tmp_path):
    log = read(write(tmp_path, lines({"step": 1, "reward": {"mean": 0.5}, "note": "fine"})))
    assert log.series["reward/mean"].tolist() == [0.5]
    assert log.notes == ("columns without a number: note",)


@pytest.mark.parametrize("word", ["NaN", "nan", "null", ""])
def test_words_for_no_number_are_nan(tmp_path, word):
    log = read(write(tmp_path, lines({"step": 1, "reward": 0.1}, {"step": 2, "reward": word})))
    np.testing.assert_array_equal(log.series["reward"], [0.1, math.nan])


def test_infinity_stays_infinite(tmp_path):
    log = read(
        write(tmp_path, '{"step": 1, "loss": Infinity}\n{"step": 2, "loss": "-Infinity"}\n{"step": 3, "loss": "inf"}\n')
    )
    assert log.series["loss"].tolist() == [math.inf, -math.inf, math.inf]


@pytest.mark.parametrize(
    ("document", "source"),
    [
        ([{"step": 1, "reward": 0.1}, {"step": 2, "reward": 0.2}], "JSON list"),
        ({"step": [1, 2], "reward": [0.1, 0.2]}, "JSON lists by name"),
        ({"train/reward": {"1": 0.1, "2": 0.2}}, "JSON steps by name"),
    ],
)
@pytest.mark.parametrize("indent", [None, 2])
def test_json_documents_of_every_form_give_the_same(tmp_path, document, source, indent):
    log = read(write(tmp_path, json.dumps(document, indent=indent)))
    (name,) = log.series
    assert log.source == source
    assert log.series[name].tolist() == [0.1, 0.2]
    assert log.steps[name].tolist() == [1, 2]


def test_json_lines_may_be_packed_or_marked(tmp_path):
    text = lines({"step": 1, "reward": 0.5})
    packed = tmp_path / "log.jsonl.gz"
    packed.write_bytes(gzip.compress(text.encode()))
    assert read(packed).series["reward"].tolist() == [0.5]
    for encoding in ("utf-8-sig", "utf-16"):
        marked = tmp_path / "marked"
        marked.write_bytes(text.encode(encoding))
        assert read(marked).series["reward"].tolist() == [0.5]


# --- CSV --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_csv_of_every_delimiter_and_line_end(tmp_path, delimiter, newline):
    rows = [["step", "reward", "kl"], ["1", "0.5", "0.01"], ["2", "0.75", "nan"]]
    log = read(write(tmp_path, newline.join(delimiter.join(row) for row in rows) + newline))
    assert log.series["reward"].tolist() == [0.5, 0.75]
    np.testing.assert_array_equal(log.series["kl"], [0.01, math.nan])


def test_between_semicolons_the_decimal_sign_may_be_a_comma(tmp_path):
    assert read(write(tmp_path, "step;reward\n1;0,5\n2;0,75\n")).series["reward"].tolist() == [0.5, 0.75]


def test_an_empty_cell_was_not_logged_and_the_word_nan_was(tmp_path):
    log = read(write(tmp_path, "step,eval_accuracy,loss\n1,,0.5\n2,0.25,nan\n3,,0.25\n4,0.5,\n"))
    assert log.steps["eval_accuracy"].tolist() == [2, 4]
    assert log.series["eval_accuracy"].tolist() == [0.25, 0.5]
    np.testing.assert_array_equal(log.series["loss"], [0.5, math.inf, 0.25])


def test_a_column_of_words_does_not_disturb_the_numbers(tmp_path):
    log = read(write(tmp_path, "step,model,reward\n1,tiny,0.5\n2,tiny,\n3,tiny,0.75\n"))
    assert log.steps["reward"].tolist() == [1, 3]
    assert log.notes == ("columns without a number: model",)


def test_a_header_that_comes_again_and_a_last_row_that_is_cut_off_are_left_out(tmp_path):
    log = read(write(tmp_path, "step,reward,kl\n1,0.5,0\nstep,reward,kl\n2,0.75,0\n3,0.1"))
    assert log.series["reward"].tolist() == [0.5, 0.75]
    assert log.notes == ("the last row was cut off and left out",)


def test_rows_longer_or_shorter_than_the_header_are_told(tmp_path):
    log = read(write(tmp_path, "step,reward,kl\n1,0.5,0.1,7\n2,0.6\n3,0.7,0.3\n4,0,8,0.4\n5,0.9,0.5,\n"))
    assert log.steps["reward"].tolist() == [2, 3, 5]
    assert log.series["reward"].tolist() == [0.6, 0.7, 0.9]
    assert log.steps["kl"].tolist() == [3, 5]
    assert log.notes == (
        "1 row of fewer cells than the 3 that the header names, such as 2, was filled up",
        "2 rows of more cells than the 3 that the header names, such as 4, were left out",
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("step,reward\n1,0,5\n2,0,6\n", "names 2 columns and its rows have 3 cells"),
        ("step,reward,kl\n1,0.5\n2,0.6\n", "names 3 columns and its rows have 2 cells"),
        ("step,reward,kl\n1,0.5\n2,0.6,1,2\n", "names 3 columns and its rows have 2 to 4 cells"),
    ],
)
def test_a_table_without_a_row_like_its_header_is_refused(tmp_path, content, words):
    with pytest.raises(RunError, match="is no table") as caught:
        read(write(tmp_path, content))
    assert words in str(caught.value)


def test_one_row_is_a_log(tmp_path):
    assert read(write(tmp_path, "step,reward\n1,0.5\n")).steps["reward"].tolist() == [1]


# --- Steps ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    ["step,reward\nfoo,0.1\nbar,0.2\n", '{"step": "foo", "reward": 0.1}\n{"step": "bar", "reward": 0.2}\n'],
)
def test_a_column_of_steps_that_holds_words_is_named(tmp_path, content):
    log = read(write(tmp_path, content))
    assert log.steps["reward"].tolist() == [1, 2]
    assert log.notes[0] == (
        "the column `step` counts steps but holds no number in 2 rows, first `foo`, so rows are counted from 1"
    )


def test_a_word_among_the_steps_is_named_and_belongs_to_the_step_before(tmp_path):
    log = read(write(tmp_path, "step;reward;kl\n1;0,5;0\nx;;0,1\n,;0,7;\n3;0,8;0\n"))
    assert log.steps["reward"].tolist() == [1, 3]
    assert log.notes[0] == "the column `step` counts steps but holds no number in 2 rows, first `x`"


def test_after_a_resume_the_later_row_counts(tmp_path):
    log = read(write(tmp_path, "step,reward\n1,0.1\n2,0.2\n3,0.3\n2,0.9\n3,0.8\n4,0.7\n"))
    assert log.steps["reward"].tolist() == [1, 2, 3, 4]
    assert log.series["reward"].tolist() == [0.1, 0.9, 0.8, 0.7]
    assert "logged twice" in log.notes[0]


@given(st.permutations(list(range(1, 9))))
def test_rows_in_any_order_are_one_log(tmp_path_factory, order):
    path = write(tmp_path_factory.mktemp("log"), "".join(f'{{"step": {n}, "reward": {n / 8}}}\n' for n in order))
    log = read(path)
    assert log.steps["reward"].tolist() == list(range(1, 9))
    assert log.series["reward"].tolist() == [n / 8 for n in range(1, 9)]


@given(st.lists(st.one_of(st.none(), st.floats(allow_nan=False, width=32)), min_size=2, max_size=20))
def test_csv_and_json_lines_give_the_same_numbers(tmp_path_factory, values):
    folder = tmp_path_factory.mktemp("log")
    known = [(n, value) for n, value in enumerate(values, 1) if value is not None]
    table = "step,reward,kl\n" + "".join(
        f"{n},{'' if value is None else value},0\n" for n, value in enumerate(values, 1)
    )
    rows = [{"step": n, "kl": 0.0} | ({} if value is None else {"reward": value}) for n, value in enumerate(values, 1)]
    for log in (read(write(folder, table, "t.csv")), read(write(folder, lines(*rows), "t.jsonl"))):
        assert log.series.get("reward", np.array([])).tolist() == [value for _, value in known]
        assert log.steps.get("reward", np.array([])).tolist() == [n for n, _ in known]


# --- TensorBoard ------------------------------------------------------------------------------------------------------


def write_events(folder: Path, steps: range, value: float, number: int, purge: int | None = None) -> Path:
    from tensorboardX import SummaryWriter

    with SummaryWriter(str(folder), filename_suffix=f".{number}", purge_step=purge) as writer:
        for step in steps:
            writer.add_scalar("reward/mean", value, step, walltime=100.0 * number)
    return max(folder.glob(f"*.{number}"))


def test_of_several_event_files_the_later_counts(tmp_path):
    write_events(tmp_path, range(1, 6), 0.25, 0)
    write_events(tmp_path, range(4, 7), 0.5, 1)
    log = read(tmp_path)
    assert log.steps["reward/mean"].tolist() == [1, 2, 3, 4, 5, 6]
    assert log.series["reward/mean"].tolist() == [0.25, 0.25, 0.25, 0.5, 0.5, 0.5]


def test_what_a_restart_took_back_is_gone(tmp_path):
    write_events(tmp_path, range(1, 9), 0.25, 0)
    write_events(tmp_path, range(4, 6), 0.5, 1, purge=4)
    assert read(tmp_path).steps["reward/mean"].tolist() == [1, 2, 3, 4, 5]


def test_an_event_file_may_end_in_half_a_record(tmp_path):
    path = write_events(tmp_path, range(1, 6), 0.25, 0)
    path.write_bytes(path.read_bytes()[:-5])
    log = read(path)
    assert log.steps["reward/mean"].tolist() == [1, 2, 3, 4]
    assert "cut off" in log.notes[0]


def test_an_event_file_of_nonsense_behind_its_first_record_is_read_up_to_there(tmp_path):
    path = write_events(tmp_path, range(1, 3), 0.25, 0)
    path.write_bytes(path.read_bytes() + struct.pack("<Q", 8) + b"\0" * 4 + b"\xff" * 8 + b"\0" * 4)
    log = read(path)
    assert log.steps["reward/mean"].tolist() == [1, 2]
    assert "damaged" in log.notes[0]


def test_the_newest_of_several_event_folders_is_read_and_said_so(tmp_path):
    for number, name in enumerate(("old", "new")):
        path = write_events(tmp_path / name, range(1, 3), float(number), 0)
        os.utime(path, (1000 + number, 1000 + number))
    log = read(tmp_path)
    assert log.series["reward/mean"].tolist() == [1.0, 1.0]
    assert log.notes == ("read new, the newest of 2",)


# --- Folders ----------------------------------------------------------------------------------------------------------


def test_the_newest_checkpoint_of_a_trainer_is_read(tmp_path):
    for step in (9, 10):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        write(folder, json.dumps({"log_history": [{"step": step, "reward": 0.5}]}), "trainer_state.json")
    log = read(tmp_path)
    assert log.steps["reward"].tolist() == [10]
    assert log.notes == ("read checkpoint-10/trainer_state.json, the newest of 2",)
    assert read(tmp_path / "checkpoint-9").steps["reward"].tolist() == [9]


def test_a_folder_with_one_log_is_that_log_and_with_two_it_is_asked_which(tmp_path):
    write(tmp_path, "step,reward\n1,0.5\n", "progress.csv")
    assert read(tmp_path).notes == ("read progress.csv",)
    write(tmp_path, lines({"step": 1, "reward": 0.5}), "more.jsonl")
    with pytest.raises(RunError, match=r"several logs \(more.jsonl, progress.csv\); name one"):
        read(tmp_path)


# --- Console ----------------------------------------------------------------------------------------------------------


def test_settings_that_are_printed_are_no_metrics(tmp_path):
    text = "{'learning_rate': 1e-06, 'temperature': 1.0}\n{'loss': 0.5, 'reward': nan}\n"
    log = read(write(tmp_path, text))
    assert log.steps["reward"].tolist() == [1]
    assert set(log.series) == {"loss", "reward"}


def test_a_garbled_number_in_a_printed_dictionary_is_left_out(tmp_path):
    log = read(write(tmp_path, "{'loss': 0..32, 'reward': 0.5}\n{'loss': 0.25, 'reward': 0.75}\n"))
    assert log.series["reward"].tolist() == [0.5, 0.75]
    assert log.steps["loss"].tolist()[-1] == 2


def test_progress_bars_go_on_counting_in_the_next_epoch(tmp_path):
    bar = "\rTrain: 50%|##   | {}/2 [00:10<00:10,  2.5s/it, policy_loss={}, kl=0.02]"
    log = read(write(tmp_path, "start\n" + "".join(bar.format(n % 2 + 1, n / 4) for n in range(4)) + "\n"))
    assert log.source == "console log of progress bars (OpenRLHF)"
    assert log.steps["policy_loss"].tolist() == [1, 2, 3, 4]
    assert log.series["policy_loss"].tolist() == [0.0, 0.25, 0.5, 0.75]


# --- What is no log ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty; what can be read is a run folder"),
        (b" \n\n", "is empty"),
        (bytes(range(256)) * 8, "is binary and no event file"),
        (b"step,reward\n", "holds a header and no rows"),
        (b"1,0.5\n2,0.6\n", "has no header: its first line is 1, 0.5"),
        (b"hello\nworld\n", "holds no metrics that are understood"),
        (b'{"step": 1, "foo": 2}\n', "holds no metric that a card knows; its columns are foo"),
        (b'{"step": 1, "name": "x"}\n', "holds no numbers"),
        (b'{"config": {"a": {"b": 1}}, "x": 3\n', "is not JSON"),
        (b"[1, 2, 3]", "holds no metrics that are understood"),
        (b'"just a string"', "no metrics that are understood"),
        (b"{}", "holds no numbers"),
        (b'{"a": 1}\nfoo\nbar\n', "holds 2 lines that are not JSON and 1 that are"),
        (gzip.compress(b'{"step": 1, "reward": 2}\n' * 2000, mtime=0)[:40], "cut off gzip file"),
        ("step,récompense\n1,2\n".encode("latin-1"), "no metric that a card knows"),
    ],
)
def test_what_is_no_log_is_refused_in_one_sentence(tmp_path, content, words):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(RunError) as refused:
        read(path)
    assert words in str(refused.value)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def outcome(path: Path) -> Log | str:
    """The log, or the sentence that refuses it; whatever else is raised fails the test."""
    try:
        return read(path)
    except RunError as refused:
        return str(refused)


@given(st.binary(max_size=300))
def test_any_bytes_give_a_log_or_one_sentence(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("bytes") / "file"
    path.write_bytes(content)
    got = outcome(path)
    assert isinstance(got, Log) or str(path) in got


FRAGMENTS = [
    "step",
    "reward",
    ",",
    ";",
    "\n",
    "1",
    "0.5",
    "nan",
    "{",
    "}",
    '"',
    "'",
    ": ",
    "[",
    "]",
    " - ",
    "=",
    "|",
    "step:1",
    "\t",
]


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=30).map("".join))
def test_any_scraps_of_logs_give_a_log_or_one_sentence(tmp_path_factory, content):
    path = write(tmp_path_factory.mktemp("scraps"), content)
    got = outcome(path)
    if isinstance(got, Log):
        assert all(len(got.steps[name]) == len(values) > 0 for name, values in got.series.items())
        assert report_text(got, [])
    else:
        assert "\n" not in got


@pytest.mark.parametrize(
    "row",
    [
        '{"step": 1e300, "reward": 1}',
        '{"step": Infinity, "reward": 1}',
        f'{{"step": 1, "reward": 1{"0" * 400}}}',
        '{"step": 1, "reward": 1, "deep": ' + '{"a": ' * 500 + "1" + "}" * 501,
        '{"step": 1, "reward": [1, 2]}\n{"step": 2, "reward": 0.5}',
    ],
)
def test_strange_numbers_and_shapes_do_not_stop_the_rest(tmp_path, row):
    log = read(write(tmp_path, row + "\n" + lines({"step": 3, "reward": 0.5})))
    assert log.series["reward"][-1] in (0.5, 1.0)


def test_a_missing_path_an_empty_folder_and_a_lock_are_told(tmp_path):
    with pytest.raises(RunError, match="there is no"):
        read(tmp_path / "nowhere")
    with pytest.raises(RunError, match="holds no log"):
        read(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission_is_told(tmp_path):
    path = write(tmp_path, "step,reward\n1,2\n")
    path.chmod(0)
    with pytest.raises(RunError, match="Permission denied"):
        read(path)


def test_what_the_system_refuses_is_told(tmp_path, monkeypatch):
    path = write(tmp_path, "step,reward\n1,2\n")

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(RunError, match=r"cannot read .*log.txt: Permission denied"):
        read(path)


# --- Size -------------------------------------------------------------------------------------------------------------


def test_long_logs_are_read_in_chunks_without_a_seam(tmp_path):
    count = 30_000
    table = write(tmp_path, "step,reward\n" + "".join(f"{n},{n / 8}\n" for n in range(count)), "t.csv")
    rows = write(tmp_path, "".join(f'{{"step": {n}, "reward": {n / 8}}}\n' for n in range(count)), "t.jsonl")
    for log in (read(table), read(rows)):
        assert log.steps["reward"].tolist() == list(range(count))
        assert log.series["reward"].tolist() == [n / 8 for n in range(count)]


# --- What is said -----------------------------------------------------------------------------------------------------

FINDINGS = [
    Finding("too_noisy", "info", (1, 3), "the reward is noisy"),
    Finding("collapse", "error", (2, 3), "the reward fell to 0.1", {"level": math.nan}, "lower the learning rate"),
]


@pytest.fixture
def log() -> Log:
    steps = np.array([1, 2, 3])
    series = {"reward/mean": np.array([0.5, 0.25, math.nan]), "rewards/format/mean": np.ones(3), "foo": np.zeros(3)}
    return Log(series, dict.fromkeys(series, steps), unknown=("foo",), source="CSV", notes=("rows were sorted",))


def test_the_report_names_what_was_read_judged_and_not_known(log):
    assert report_text(log, FINDINGS).splitlines() == [
        "CSV: 3 rows, steps 1 to 3, 2 known of 3 metrics",
        "",
        "Verdict: error (1 error, 1 remark).",
        "",
        "ERROR collapse, steps 2 to 3: the reward fell to 0.1",
        "  To do: lower the learning rate",
        "",
        "INFO too_noisy, steps 1 to 3: the reward is noisy",
        "",
        "metric               card                         values       first        last",
        "reward/mean          rewards                           2         0.5        0.25",
        "rewards/format/mean  reward_component of format        3           1           1",
        "",
        "Note: rows were sorted.",
        "",
        "No card knows these, so they were not judged: foo",
    ]


def test_a_hostile_log_cannot_write_to_the_terminal(log):
    sly = "rewards/\x1b]0;owned\x07\nVerdict: healthy/mean"
    steps, values = np.array([1, 2, 3]), np.ones(3)
    series = {sly: values, "foo\x1b[2J": values, "lone\ud800": values}
    hostile = Log(
        series, dict.fromkeys(series, steps), unknown=("foo\x1b[2J", "lone\ud800"), source="CSV", notes=("a\x9bb",)
    )
    finding = Finding("collapse", "error", (1, 3), f"{sly} fell", remedy="see\x1b[31m")
    text = report_text(hostile, [finding])
    assert not any((ord(sign) < 32 and sign != "\n") or 127 <= ord(sign) < 160 for sign in text)
    assert text.encode()
    assert "rewards/\\x1b]0;owned\\x07\\nVerdict: healthy/mean  reward_component" in text
    assert "lone\\ud800" in text and "foo\\x1b[2J" in text and "a\\x9bb" in text and "see\\x1b[31m" in text


def test_a_log_of_three_rows_is_not_called_healthy(log):
    assert "Too short to judge: the rules need at least 10 rows." in report_text(log, [])


def test_a_list_is_no_number(tmp_path):
    file = tmp_path / "log.jsonl"
    file.write_text('{"step": 1, "kl": 0.1, "reward": [1, 2]}\n{"step": 2, "kl": 0.2, "reward": [3, 4]}\n')
    log = read(file)
    assert list(log.series) == ["kl"]
    assert "columns without a number: reward" in log.notes


def test_a_healthy_log_says_so(log):
    steps = {"reward": np.arange(20)}
    longer = dataclasses.replace(log, series={"reward": np.linspace(0, 1, 20)}, steps=steps, unknown=())
    assert "Healthy: no rule fired." in report_text(longer, [])
    assert "Healthy: 1 remark." in report_text(log, FINDINGS[:1])


def test_json_is_plain_and_holds_the_same(log):
    told = to_json(log, FINDINGS)
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert told["verdict"] == "error"
    assert told["steps"] == [1, 3]
    assert [finding["rule"] for finding in told["findings"]] == ["collapse", "too_noisy"]
    assert told["findings"][0]["evidence"] == {"level": None}
    assert told["metrics"]["reward/mean"] == {
        "card": "rewards", "component": "", "statistic": "mean", "values": 2, "last": 0.25,
    }  # fmt: skip
    assert told["unknown"] == ["foo"]


def test_a_log_without_a_reward_is_said_to_be_judged_by_the_rest(tmp_path):
    log = read(write(tmp_path, "step,kl\n1,0.5\n"))
    assert log.notes == ("no metric stands for the reward, so only the rules about the rest apply",)


def test_of_two_rows_of_one_step_the_later_counts_whatever_else_they_hold(tmp_path):
    file = tmp_path / "log.jsonl"
    rows = [
        {"step": 1, "reward": 0.1},
        {"step": 2, "reward": 0.2, "kl": 0.0},
        {"step": 1, "reward": 0.3},  # resumed; its shape was first seen before that of the row above
        {"step": 2, "reward": 0.4},
        {"step": 2, "reward": 0.5, "kl": 0.1},
        {"step": 3, "reward": 0.6},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    log = read(file)
    assert log.series["reward"].tolist() == [0.3, 0.5, 0.6]
    assert "logged twice" in log.notes[0]


def test_rows_in_order_that_differ_in_shape_get_no_note(tmp_path):
    file = tmp_path / "log.jsonl"
    rows = [{"step": step, "reward": 0.1 * step} | ({"kl": 0.0} if step % 3 == 0 else {}) for step in range(1, 8)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read(file).notes == ()


def test_a_column_of_ones_own_is_judged_by_the_role_it_is_given(tmp_path):
    file = tmp_path / "log.csv"
    file.write_text("step,f1\n" + "".join(f"{i},{i / 20}\n" for i in range(20)))
    with pytest.raises(RunError, match="no metric that a card knows"):
        read(file)
    log = read(file, roles={"f1": "gold"})
    assert (log.roles, log.unknown) == ({"f1": "gold"}, ())
    with pytest.raises(RunError, match=r"no column `f2` that could have a role; its columns are f1"):
        read(file, roles={"f2": "gold"})


@pytest.mark.parametrize(
    "text",
    [
        '{"step": %d, "reward": 0.5, "loss": NaN}',
        "step:%d - critic/rewards/mean:0.5 - actor/pg_loss:np.float64(nan)",
        "{'loss': nan, 'reward': 0.5, 'step': %d}",
    ],
)
def test_a_loss_that_is_written_out_as_nan_was_not_finite(tmp_path, text):
    file = tmp_path / "log"
    file.write_text("".join(text % step + "\n" for step in range(1, 30)))
    log = read(file)
    [name] = [name for name in log.series if "loss" in name]
    assert np.isinf(log.series[name]).all()


def test_a_loss_that_is_null_or_empty_was_not_logged(tmp_path):
    file = tmp_path / "log.jsonl"
    file.write_text(
        "".join(json.dumps({"step": i, "reward": 0.5, "loss": None if i % 2 else 0.1}) + "\n" for i in range(30))
    )
    values = read(file).series["loss"]
    assert not np.isinf(values).any()
    assert np.isfinite(values).sum() == 15
