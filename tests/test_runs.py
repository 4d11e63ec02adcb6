import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from agent_tunix import runs
from agent_tunix.errors import ConfigChanged, RunError
from agent_tunix.plain import differences, flatten, json_line, plain

CONFIG = {
    "data": {"task": "sorting"},
    "model": {"name": "tiny"},
    "optimizer": {"learning_rate": 1e-3, "eps": 1e-8},
    "sampling": {"stop": ()},
    "seed": 0,
    "run_dir": None,
    "resume": "auto",
    "cache_dir": None,
}


def changed(**values):
    return CONFIG | values


def train_row(step, **values):
    return {"step": step, "kind": "train", **values}


def contents(path):
    return {name: (path / name).read_bytes() for name in runs.GROWING}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run"


def test_what_is_written_is_read_back(folder):
    with runs.open_run(folder, config=CONFIG) as run:
        assert not run.resumed
        run.log(train_row(1, **{"reward/mean": np.float32(0.5)}))
        run.log({"step": 1, "kind": "eval", "eval/accuracy": 0.25})
        run.log_timing({"step": 1, "time/step_s": 0.1})
        run.log_samples([{"step": 1, "completion": "ü<answer>"}, {"step": 1, "completion": "\ud800"}])
        run.log_samples([])
        run.log_samples([{"step": 2, "truncated": np.bool_(True), "scores": np.array([1.0, np.nan])}])
        run.write_summary({"eval/accuracy": 0.25})
    assert runs.read_metrics(folder) == [
        {"step": 1, "kind": "train", "reward/mean": 0.5},
        {"step": 1, "kind": "eval", "eval/accuracy": 0.25},
    ]
    assert runs.read_metrics(folder, "eval") == [{"step": 1, "kind": "eval", "eval/accuracy": 0.25}]
    assert runs.read_timings(folder) == [{"step": 1, "time/step_s": 0.1}]
    assert list(runs.read_samples(folder)) == [
        {"step": 1, "completion": "ü<answer>"},
        {"step": 1, "completion": "\ud800"},
        {"step": 2, "truncated": True, "scores": [1.0, None]},
    ]
    assert runs.read_summary(folder) == {"eval/accuracy": 0.25}
    assert runs.read_config(folder) == plain(CONFIG)
    run = runs.read_run(folder)
    assert run.summary == {"eval/accuracy": 0.25}
    assert run.config["sampling"] == {"stop": []}
    assert len(run.metrics("train")) == 1
    assert len(list(run.samples())) == 3


def test_metrics_that_are_not_finite_stay_valid_json(folder):
    with runs.open_run(folder, config=CONFIG) as run:
        run.log(train_row(1, a=math.nan, b=-math.inf, c=np.float32("inf")))
    text = (folder / "metrics.jsonl").read_text()
    assert json.loads(text, parse_constant=lambda name: pytest.fail(name)) == train_row(1, a=None, b=None, c=None)


@pytest.mark.parametrize("row", [{"step": 1}, {"kind": "train"}, {"step": 1, "kind": "other"}])
def test_a_row_without_step_or_kind_is_refused(folder, row):
    with runs.open_run(folder, config=CONFIG) as run, pytest.raises(ValueError, match="step and a kind"):
        run.log(row)


def test_environment_names_versions_and_every_start(folder):
    runs.open_run(folder, config=CONFIG).close()
    runs.open_run(folder, config=changed(seed=3), resume="force").close()
    document = json.loads((folder / "environment.json").read_text())
    assert document["python"] == ".".join(map(str, sys.version_info[:3]))
    assert document["packages"]["numpy"] == np.__version__
    assert [start["changed"] for start in document["starts"]] == [{}, {"seed": [0, 3]}]
    assert document["starts"][0]["pid"] == os.getpid()


def test_listeners_are_told_rows_texts_and_where_the_run_was_cut_back_to(folder):
    told = []
    listener = runs.Listener(
        lambda row: told.append(row["step"]),
        lambda tag, text, step: told.append((tag, text, step)),
        lambda step: told.append(("rewound", step)),
        lambda: told.append("sync"),
    )
    with runs.open_run(folder, config=CONFIG) as run:
        run.attach(runs.Listener(lambda row: None))  # one that only cares for rows
        run.attach(listener)
        run.log(train_row(1))
        position = run.position()
        run.sync()
        run.log_timing({"step": 2, "time/step_s": 0.1})
        run.log_text("health/alerts", "**WARN**", 2)
        run.rewind(position, step=1)
        run.rewind(position)
        run.rewind(None)
    assert told == [1, "sync", 2, ("health/alerts", "**WARN**", 2), ("rewound", 1), ("rewound", 0), ("rewound", None)]
    assert not (folder / "tensorboard").exists()


def test_rewinding_and_repeating_gives_the_same_bytes(folder, tmp_path):
    def one_step(run, step):
        run.log(train_row(step, loss=1 / step))
        run.log_timing({"step": step, "time/step_s": 0.1})
        run.log_samples([{"step": step, "completion": "x" * step}])

    with runs.open_run(tmp_path / "whole", config=CONFIG) as run:
        for step in range(1, 6):
            one_step(run, step)
    with runs.open_run(folder, config=CONFIG) as run:
        one_step(run, 1)
        one_step(run, 2)
        position = run.position()
        one_step(run, 3)
        run.write_summary({"step": 3})
    for name in runs.GROWING:  # what a process that dies in the middle of a write leaves
        with open(folder / name, "ab") as file:
            file.write(b"\x28\xb5\x2f\xfd torn")
    with runs.open_run(folder, config=CONFIG) as run:
        assert run.resumed
        run.rewind(position, step=2)
        assert run.position() == position
        assert runs.read_summary(folder) is None
        for step in range(3, 6):
            one_step(run, step)
    assert contents(folder) == contents(tmp_path / "whole")


def test_rewinding_to_none_starts_over(folder):
    with runs.open_run(folder, config=CONFIG) as run:
        run.log(train_row(1))
        run.log_samples([{"step": 1}])
        run.rewind(None)
        assert run.position() == dict.fromkeys(runs.GROWING, 0)
        run.log(train_row(1, again=True))
    assert runs.read_metrics(folder) == [train_row(1, again=True)]


def test_a_file_shorter_than_its_checkpoint_is_an_error_and_nothing_is_cut(folder):
    with runs.open_run(folder, config=CONFIG) as run:
        run.log(train_row(1))
        run.log_samples([{"step": 1}])
        position = run.position()
        before = contents(folder)
        with pytest.raises(RunError, match=r"samples.jsonl.zst has \d+ bytes but its checkpoint was taken at 10000"):
            run.rewind(position | {"metrics.jsonl": 1, "samples.jsonl.zst": 10_000}, step=1)
        assert contents(folder) == before


def test_a_resumed_run_is_not_written_to_before_it_is_rewound(folder):
    runs.open_run(folder, config=CONFIG).close()
    with runs.open_run(folder, config=CONFIG) as run:
        with pytest.raises(RuntimeError, match="rewind"):
            run.log(train_row(1))
        run.rewind(None)
        run.log(train_row(1))


def test_readers_survive_a_file_cut_anywhere(folder):
    rows = [{"step": step, "kind": "train", "text": "abc" * step} for step in range(1, 4)]
    with runs.open_run(folder, config=CONFIG) as run:
        for row in rows:
            run.log(row)
            run.log_samples([row])
    # Shorter by one byte at a time, from whole to empty.
    for size in reversed(range((folder / "metrics.jsonl").stat().st_size + 1)):
        os.truncate(folder / "metrics.jsonl", size)
        whole = (folder / "metrics.jsonl").read_bytes().count(b"\n")
        assert runs.read_metrics(folder) == rows[:whole]
    for size in reversed(range((folder / "samples.jsonl.zst").stat().st_size + 1)):
        os.truncate(folder / "samples.jsonl.zst", size)
        samples = list(runs.read_samples(folder))
        assert samples == rows[: len(samples)]


def test_damage_before_the_end_is_named(folder):
    with runs.open_run(folder, config=CONFIG) as run:
        run.log(train_row(1))
        run.log_samples([{"step": 1}])
    (folder / "metrics.jsonl").write_text('{"step": 1}\nnot json\n{"step": 3}\n')
    with pytest.raises(RunError, match=r"metrics.jsonl, line 2"):
        runs.read_metrics(folder)
    (folder / "samples.jsonl.zst").write_bytes(b"no frame at all")
    with pytest.raises(RunError, match=r"samples.jsonl.zst is damaged"):
        list(runs.read_samples(folder))


def test_a_changed_config_lists_every_key_and_refuses(folder):
    runs.open_run(folder, config=CONFIG).close()
    other = changed(seed=7, optimizer={"learning_rate": 3e-4, "eps": 1e-8}, run_dir="elsewhere", cache_dir="x")
    with pytest.raises(ConfigChanged) as caught:
        runs.open_run(folder, config=other)
    assert "seed: 0 -> 7" in str(caught.value)
    assert "optimizer.learning_rate: 0.001 -> 0.0003" in str(caught.value)
    assert "resume=force" in str(caught.value)
    assert caught.value.changes == {"seed": (0, 7), "optimizer.learning_rate": (1e-3, 3e-4)}
    assert runs.read_config(folder)["seed"] == 0
    with runs.open_run(folder, config=other, resume="force") as run:
        assert run.changes == caught.value.changes
    assert runs.read_config(folder)["seed"] == 7


def test_where_and_how_a_run_is_opened_is_no_change(folder):
    runs.open_run(folder, config=CONFIG).close()
    with runs.open_run(folder, config=changed(run_dir=str(folder), resume="force", cache_dir="/c")) as run:
        assert run.resumed
        assert run.changes == {}


def test_never_refuses_an_existing_run(folder):
    runs.open_run(folder, config=CONFIG, resume="never").close()
    with pytest.raises(RunError, match="already a run"):
        runs.open_run(folder, config=CONFIG, resume="never")


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match=r"notes.txt but no config.yaml"):
        runs.open_run(tmp_path, config=CONFIG)
    assert [entry.name for entry in tmp_path.iterdir()] == ["notes.txt"]


def test_a_start_that_died_before_its_config_was_written_is_no_obstacle(folder):
    folder.mkdir()
    (folder / ".lock").write_text("1\n")
    (folder / ".config.yaml.tmp").write_text("seed")
    with runs.open_run(folder, config=CONFIG) as run:
        assert not run.resumed


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(RunError, match="cannot create the run folder"):
            runs.open_run(path, config=CONFIG)
        with pytest.raises(RunError, match="cannot create the run folder"):
            runs.new_run_dir("x", root=path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_folder_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(RunError, match="cannot create the run folder"):
        runs.open_run(tmp_path / "run", config=CONFIG)
    with pytest.raises(RunError, match="cannot write to the run folder"):
        runs.open_run(tmp_path, config=CONFIG)


def test_a_full_disk_is_named(folder, monkeypatch):
    with runs.open_run(folder, config=CONFIG) as run:
        with open("/dev/full", "ab", buffering=0) as full:
            monkeypatch.setitem(run._files, "metrics.jsonl", full)
            with pytest.raises(RunError, match="No space left on device"):
                run.log(train_row(1))
        monkeypatch.undo()


def test_a_folder_belongs_to_one_process_until_it_ends(folder):
    program = "import sys, yaml; from agent_tunix import runs; r = runs.open_run(sys.argv[1], config=yaml.safe_load("
    program += "sys.argv[2])); print('open', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", program, str(folder), yaml.safe_dump(plain(CONFIG))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        with pytest.raises(RunError, match=f"in use by process {other.pid}"):
            runs.open_run(folder, config=CONFIG)
        other.kill()
    with runs.open_run(folder, config=CONFIG) as run:
        assert run.resumed
        with pytest.raises(RunError, match=f"in use by process {os.getpid()}"):
            runs.open_run(folder, config=CONFIG)
    runs.open_run(folder, config=CONFIG).close()


def test_reading_needs_no_lock(folder):
    with runs.open_run(folder, config=CONFIG) as run:
        run.log(train_row(1))
        assert runs.read_metrics(folder) == [train_row(1)]


def test_a_failed_opening_gives_the_folder_free(folder):
    runs.open_run(folder, config=CONFIG).close()
    with pytest.raises(ConfigChanged):
        runs.open_run(folder, config=changed(seed=1))
    runs.open_run(folder, config=CONFIG).close()


def test_runs_that_start_in_the_same_second_get_folders_of_their_own(tmp_path):
    assert runs.default_name(CONFIG | {"model": {"name": "org/big model"}}) == "sorting-org_big_model-s0"
    made = [runs.new_run_dir("sorting-tiny-s0", root=tmp_path / "runs") for _ in range(5)]
    assert len(set(made)) == 5
    assert all(path.is_dir() and path.name.startswith("sorting-tiny-s0-2") for path in made)


def test_latest_is_the_run_started_last(tmp_path):
    with pytest.raises(RunError, match="no run in"):
        runs.latest(tmp_path)
    for second, name in enumerate(["b", "a"]):
        runs.open_run(tmp_path / name, config=CONFIG).close()
        os.utime(tmp_path / name / "environment.json", (second, second))
    assert runs.latest(tmp_path) == tmp_path / "a"


@pytest.mark.parametrize(
    "read", [runs.read_config, runs.read_metrics, runs.read_samples, runs.read_summary, runs.read_run]
)
def test_what_is_no_run_is_named_with_what_a_run_holds(tmp_path, read):
    assert not runs.is_run(tmp_path)
    with pytest.raises(RunError, match=r"is not a run.*a run folder holds config.yaml"):
        read(tmp_path)
    with pytest.raises(RunError, match="no such folder"):
        read(tmp_path / "absent")


def test_missing_and_damaged_files_are_named(folder):
    runs.open_run(folder, config=CONFIG).close()
    assert runs.read_summary(folder) is None
    (folder / "metrics.jsonl").unlink()
    with pytest.raises(RunError, match=r"metrics.jsonl is missing"):
        runs.read_metrics(folder)
    (folder / "summary.json").write_text("{")
    with pytest.raises(RunError, match=r"summary.json is not JSON"):
        runs.read_summary(folder)
    (folder / "config.yaml").write_text("[1, 2")
    with pytest.raises(RunError, match=r"config.yaml is not YAML"):
        runs.read_config(folder)
    (folder / "config.yaml").write_text("")
    with pytest.raises(RunError, match="holds no config"):
        runs.read_config(folder)


def test_run_folders_are_read_without_jax():
    program = "import sys, agent_tunix.runs; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), values))
def test_plain_values_survive_a_json_line(row):
    assert json.loads(json_line(row)) == row
    assert json_line(row).count(b"\n") == 1


def test_plain_refuses_what_json_cannot_hold():
    with pytest.raises(TypeError, match="object"):
        plain({"a": object()})


def test_differences_are_dotted_and_see_missing_keys():
    assert flatten({"a": {"b": 1, "c": {}}, "d": [2]}) == {"a.b": 1, "d": [2]}
    assert differences({"a": {"b": 1}, "x": 1}, {"a": {"b": 2}, "y": (3,)}) == {
        "a.b": (1, 2),
        "x": (1, None),
        "y": (None, [3]),
    }
    assert differences({"stop": ("a",)}, {"stop": ["a"]}) == {}
