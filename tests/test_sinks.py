"""Sinks get every number of a run, and no sink can stop one."""

import dataclasses
import json
import logging
import threading
import time

import pytest

from agent_tunix import runs, sinks
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
    monkeypatch.setattr(sinks, "found", lambda config, path: [("own", lambda: sinks.Sink(function))])


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
        (lambda: sinks.Sink(lambda numbers, step: None, refuse), "could not be closed"),
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


# --- Trackers, offline ------------------------------------------------------------------------------------------------


def test_wandb_offline_keeps_the_numbers_and_one_id(run, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    logged(run, config_with("wandb"))
    first = json.loads((run.path / sinks.KEPT).read_text())["wandb"]
    assert list(run.path.glob(f"wandb/offline-run-*-{first}/run-{first}.wandb"))
    logged(run, config_with("wandb"))
    assert json.loads((run.path / sinks.KEPT).read_text())["wandb"] == first


def test_mlflow_in_a_folder_keeps_the_numbers_and_one_run(run, monkeypatch, tmp_path):
    tracking = pytest.importorskip("mlflow.tracking")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlflow").as_uri())
    logged(run, config_with("mlflow"))
    logged(run, config_with("mlflow"), [{"kind": "train", "step": 4, "reward/mean": 7.0}])
    client = tracking.MlflowClient((tmp_path / "mlflow").as_uri())
    number = json.loads((run.path / sinks.KEPT).read_text())["mlflow"]
    history = client.get_metric_history(number, "reward/mean")
    assert [(metric.step, metric.value) for metric in history] == [(1, 0.5), (2, 1.0), (3, 1.5), (4, 7.0)]


def test_trackio_keeps_the_numbers_here(run, monkeypatch, tmp_path):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    logged(run, config_with("trackio"))
    assert any((tmp_path / "trackio").rglob("*.db"))
