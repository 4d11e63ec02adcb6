"""Sinks get every number of a run, and no sink can stop one."""

import dataclasses
import json
import logging
import threading
import time

import pytest

from agent_tunix import runs, sinks, trackers
from agent_tunix.config import Config, LoggingConfig
from agent_tunix.errors import ConfigError

ROWS = [{"kind": "train", "step": step, "reward/mean": step / 2, "words": "no number"} for step in (1, 2, 3)]


def config_with(*names):
    return dataclasses.replace(Config(), logging=LoggingConfig(sinks=names, project="tests"))


@pytest.fixture
def run(tmp_path):
    with runs.open_run(tmp_path / "run", config={"seed": 1, "data": {"task": "x"}}) as opened:
        yield opened


def logged(run, config, rows=ROWS):
    with sinks.attached(config, run):
        for row in rows:
            run.log(row)
    return runs.read_metrics(run.path, "train")


def own_sink(monkeypatch, function):
    monkeypatch.setattr(sinks, "found", lambda config, path: [("own", lambda: trackers.Sink(function))])


def test_a_function_of_the_users_gets_the_numbers_of_every_row(run, tmp_path):
    (tmp_path / "mine.py").write_text(
        f"def keep(numbers, step):\n"
        f"    with open({str(tmp_path / 'seen')!r}, 'a') as file:\n"
        f"        file.write(f'{{step}} {{numbers}}\\n')\n"
    )
    logged(run, config_with(f"{tmp_path / 'mine.py'}:keep"))
    seen = (tmp_path / "seen").read_text().splitlines()
    assert seen == [f"{step} {{'reward/mean': {step / 2}}}" for step in (1, 2, 3)]


def test_timings_go_there_too(run, monkeypatch):
    seen = []
    own_sink(monkeypatch, lambda numbers, step: seen.append((dict(numbers), step)))
    with sinks.attached(Config(), run):
        run.log_timing({"step": 4, "time/step_s": 0.5})
    assert seen == [({"time/step_s": 0.5}, 4)]


def test_a_failing_sink_says_so_once_and_nothing_is_lost(run, monkeypatch, caplog):
    calls = []

    def fail(numbers, step):
        calls.append(step)
        raise ConnectionError("the tracker\nis away")

    own_sink(monkeypatch, fail)
    with caplog.at_level(logging.WARNING):
        found = logged(run, Config(), ROWS * 3)
    assert len(found) == 9
    assert calls == [1, 2, 3], "given up after three failures in a row"
    assert len(caplog.records) == 1
    assert "sink own failed (ConnectionError: the tracker is away); training goes on" in caplog.text


def test_a_sink_that_cannot_be_opened_or_closed_ends_nothing(run, monkeypatch, caplog):
    def refuse():
        raise PermissionError("no login")

    for opener, words in (
        (refuse, "could not be opened (PermissionError: no login)"),
        (lambda: trackers.Sink(lambda numbers, step: None, refuse), "could not be closed"),
    ):
        monkeypatch.setattr(sinks, "found", lambda config, path, opener=opener: [("own", opener)])
        with caplog.at_level(logging.WARNING):
            logged(run, Config())
        assert words in caplog.text


def test_a_sink_that_hangs_is_left_alone(run, monkeypatch, caplog):
    free = threading.Event()
    monkeypatch.setattr(sinks, "PATIENCE_S", 0.05)
    own_sink(monkeypatch, lambda numbers, step: free.wait(20))
    started = time.monotonic()
    with caplog.at_level(logging.WARNING):
        assert len(logged(run, Config())) == 3
    free.set()
    assert time.monotonic() - started < 15
    assert "did not end within" in caplog.text


def test_a_queue_that_is_full_drops_rows_and_says_so(run, monkeypatch, caplog):
    free = threading.Event()
    monkeypatch.setattr(sinks, "MOST_WAITING", 1)
    own_sink(monkeypatch, lambda numbers, step: free.wait(20))
    with caplog.at_level(logging.WARNING), sinks.attached(Config(), run):
        for _ in range(4):
            run.log(ROWS[0])
        free.set()
    assert "rows behind and misses some" in caplog.text
    assert len(runs.read_metrics(run.path, "train")) == 4


def test_unknown_sinks_and_missing_libraries_are_told_before_the_start(monkeypatch):
    with pytest.raises(ConfigError, match="did you mean `wandb`"):
        sinks.check(config_with("wanddb"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="needs the package trackio: pip install trackio"):
        sinks.check(config_with("trackio"))


# --- TensorBoard ------------------------------------------------------------------------------------------------------


def records(path):
    """The events of a file, every checksum checked."""
    from tensorboardX.proto import event_pb2
    from tensorboardX.record_writer import masked_crc32c

    data = path.read_bytes()
    while data:
        size = int.from_bytes(data[:8], "little")
        assert int.from_bytes(data[8:12], "little") == masked_crc32c(data[:8])
        body = data[12 : 12 + size]
        assert int.from_bytes(data[12 + size : 16 + size], "little") == masked_crc32c(body)
        yield event_pb2.Event.FromString(body)
        data = data[16 + size :]


def scalars(path):
    """`(tag, step, value)` of a file behind its page of charts."""
    found = [(value.tag, event.step, value.simple_value) for event in records(path) for value in event.summary.value]
    assert found[0][0] == "custom_scalars__config__"
    return found[1:]


def starts(path):
    from tensorboardX.proto.event_pb2 import SessionLog

    return [event.step for event in records(path) if event.session_log.status == SessionLog.START]


def event_files(run):
    return sorted((run.path / runs.EVENTS).iterdir())


def test_tensorboard_is_on_unless_it_is_left_out(run):
    assert [name for name, _ in sinks.found(Config(), run.path)] == ["tensorboard"]
    logged(run, config_with())
    assert not (run.path / runs.EVENTS).exists()
    logged(run, Config())
    assert scalars(event_files(run)[0]) == [("reward/mean", step, step / 2) for step in (1, 2, 3)]


def test_a_run_goes_on_in_the_events_it_has(run):
    """Also one from before TensorBoard was a sink, whose config names none."""
    (run.path / runs.EVENTS).mkdir()
    assert [name for name, _ in sinks.found(config_with(), run.path)] == ["tensorboard"]
    assert [name for name, _ in sinks.found(config_with("math:sqrt", "tensorboard"), run.path)] == [
        "tensorboard",
        "math:sqrt",
    ]


def test_tensorboard_gets_every_number_once_after_a_rewind(run):
    def row(step, value):
        return {"kind": "train", "step": step, "reward/mean": value, "none": None, "name": "text"}

    with sinks.attached(Config(), run):
        run.log(row(1, 0.5))
        position = run.position()
        run.log(row(2, 9.0))
        run.log_text("health/alerts", "**WARN** flat", 2)
        run.rewind(position, step=1)
        run.log(row(2, 0.75))
    first, second = event_files(run)
    assert scalars(first) == [("reward/mean", 1, 0.5), ("reward/mean", 2, 9.0), ("health/alerts/text_summary", 2, 0.0)]
    assert starts(first) == []
    # TensorBoard drops what earlier files hold from the step of a START record on.
    assert starts(second) == [2]
    assert scalars(second) == [("reward/mean", 2, 0.75)]


def test_a_start_over_removes_the_events(run):
    logged(run, Config())
    with sinks.attached(Config(), run):
        run.rewind(None)
        run.log(ROWS[0])
    (only,) = event_files(run)
    assert starts(only) == []
    assert scalars(only) == [("reward/mean", 1, 0.5)]


def test_events_are_on_disk_when_a_checkpoint_counts_on_them(run, monkeypatch):
    with sinks.attached(Config(), run):
        run.log(ROWS[0])
        while not (run.path / runs.EVENTS).exists():  # the sink opens in its thread
            time.sleep(0.01)
        run.sync()
        assert scalars(event_files(run)[0]) == [("reward/mean", 1, 0.5)]


def test_a_flush_that_hangs_is_waited_for_once(run, monkeypatch):
    free, opened = threading.Event(), threading.Event()
    stuck = trackers.Sink(lambda numbers, step: opened.set(), flush=lambda: free.wait(20))
    monkeypatch.setattr(sinks, "SYNC_S", 0.2)
    monkeypatch.setattr(sinks, "found", lambda config, path: [("own", lambda: stuck)])
    with sinks.attached(Config(), run):
        run.log(ROWS[0])
        assert opened.wait(20)
        started = time.monotonic()
        for _ in range(100):
            run.sync()
        assert time.monotonic() - started < 15
        free.set()


def test_tensorboard_that_cannot_write_ends_nothing(run, caplog):
    (run.path / runs.EVENTS).write_text("a file where its folder should be")
    with caplog.at_level(logging.WARNING):
        assert len(logged(run, Config(), ROWS * 2)) == 6
    assert "sink tensorboard failed (FileExistsError" in caplog.text
    assert len(caplog.records) == 1


# --- Trackers, offline ------------------------------------------------------------------------------------------------


def test_wandb_offline_keeps_the_numbers_and_one_id(run, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    logged(run, config_with("wandb"))
    first = json.loads((run.path / trackers.KEPT).read_text())["wandb"]
    assert list(run.path.glob(f"wandb/offline-run-*-{first}/run-{first}.wandb"))
    logged(run, config_with("wandb"))
    assert json.loads((run.path / trackers.KEPT).read_text())["wandb"] == first


def test_mlflow_in_a_folder_keeps_the_numbers_and_one_run(run, monkeypatch, tmp_path):
    tracking = pytest.importorskip("mlflow.tracking")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlflow").as_uri())
    logged(run, config_with("mlflow"))
    logged(run, config_with("mlflow"), [{"kind": "train", "step": 4, "reward/mean": 7.0}])
    client = tracking.MlflowClient((tmp_path / "mlflow").as_uri())
    number = json.loads((run.path / trackers.KEPT).read_text())["mlflow"]
    history = client.get_metric_history(number, "reward/mean")
    assert [(metric.step, metric.value) for metric in history] == [(1, 0.5), (2, 1.0), (3, 1.5), (4, 7.0)]


def test_trackio_keeps_the_numbers_here(run, monkeypatch, tmp_path):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    logged(run, config_with("trackio"))
    assert any((tmp_path / "trackio").rglob("*.db"))
