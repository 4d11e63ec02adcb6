"""Who is told about a run's health, when it stops, and what its folder says about the reward."""

import itertools
import json

import pytest

from agent_tunix import recipes, reports, rewards, watching
from agent_tunix.config import Config, DiagnosticsConfig, TrainingConfig
from agent_tunix.diagnostics.findings import Finding
from agent_tunix.display import Display
from agent_tunix.errors import ConfigError, RunError
from agent_tunix.types import Bounds

FOUND = Finding("collapse", "error", (40, 60), "reward fell from 0.8 to 0.1", {"drop": 0.7}, "lower the learning rate")


class Writer:
    """The part of a run's folder that findings are written to."""

    def __init__(self, path):
        self.path, self.texts = path, []

    def log_text(self, tag, text, step):
        self.texts.append((tag, text, step))


class Level:
    def __init__(self, level):
        self.level = level


def watch(tmp_path, **chosen):
    config = Config(training=TrainingConfig(steps=100), diagnostics=DiagnosticsConfig(**chosen))
    writer = Writer(tmp_path / "run")
    return watching.monitor(config, recipes.reward(config), writer, Display(100), eval_samples=512), writer


def test_a_finding_is_said_and_written_to_tensorboard(tmp_path, capsys):
    monitor, writer = watch(tmp_path)
    monitor._alert(FOUND)
    assert "ERROR collapse, steps 40 to 60: reward fell from 0.8 to 0.1" in capsys.readouterr().err
    [(tag, text, step)] = writer.texts
    assert (tag, step) == ("health/alerts", 60)
    assert "reward fell from 0.8 to 0.1" in text
    assert "lower the learning rate" in text


def test_a_callback_of_a_file_is_called_with_the_finding(tmp_path):
    (tmp_path / "own.py").write_text(
        "import pathlib\ndef tell(finding):\n    (pathlib.Path(__file__).parent / 'told').write_text(finding.rule)\n"
    )
    monitor, _ = watch(tmp_path, callback=f"{tmp_path / 'own.py'}:tell")
    monitor._alert(FOUND)
    assert (tmp_path / "told").read_text() == "collapse"


def test_a_callback_that_raises_is_reported_and_ends_nothing(tmp_path, caplog):
    (tmp_path / "own.py").write_text("def tell(finding):\n    raise KeyError('no channel')\n")
    monitor, writer = watch(tmp_path, callback=f"{tmp_path / 'own.py'}:tell")
    monitor._alert(FOUND)
    assert "diagnostics.callback failed (KeyError: 'no channel')" in caplog.text
    assert writer.texts


@pytest.mark.parametrize(
    "chosen", [{"callback": "nowhere.py:tell"}, {"webhook": "ftp://example.org"}, {"webhook": "env:NO_SUCH_VARIABLE"}]
)
def test_what_cannot_be_told_is_refused_before_the_run(tmp_path, chosen):
    with pytest.raises(ConfigError):
        watch(tmp_path, **chosen)


def test_a_secret_url_comes_from_the_environment_and_is_posted_to(tmp_path, monkeypatch):
    posted = []

    class Hook:
        def __init__(self, url):
            self.url = url

        def __call__(self, finding, run):
            posted.append((self.url, run, finding.rule))

        def flush(self, timeout_s):
            return True

    monkeypatch.setattr(watching.alerts, "webhook", Hook)
    monkeypatch.setenv("HEALTH_HOOK", "https://example.org/secret")
    monitor, _ = watch(tmp_path, webhook="env:HEALTH_HOOK")
    monitor._alert(FOUND)
    assert posted == [("https://example.org/secret", "run", "collapse")]


@pytest.mark.parametrize(
    ("asked", "level", "stop_on", "reason"),
    [
        (False, 0, "error", ""),
        (False, 1, "error", ""),
        (False, 2, "error", "unhealthy"),
        (False, 1, "warn", "unhealthy"),
        (False, 2, "never", ""),
        (True, 2, "error", "interrupted"),
    ],
)
def test_a_run_stops_when_it_is_asked_to_or_is_ill_enough(asked, level, stop_on, reason):
    assert watching.stopping(lambda: asked, Level(level), stop_on)() == reason


def test_the_folder_says_what_the_reward_can_attain():
    facts = watching.facts(recipes.reward(Config()), 512)
    parts = {"format": (0, 1), "correctness": (0, 1)}
    assert facts == {"name": "default", "bounds": (0.0, 1.0), "parts": parts, "eval_samples": 512}
    json.dumps(facts)


def test_parts_without_a_known_range_have_no_bounds():
    length = rewards.per_completion(len, name="length")
    layout = rewards.per_completion(rewards.tag_format, name="format")
    both = rewards.weighted_sum((1.0, length), (1.0, layout))
    assert watching.facts(both, 8)["bounds"] is None
    assert watching.facts(both, 8)["parts"] == {"length": None, "format": (0, 1)}
    assert watching.known_bounds(both) == {"reward/part/format": (0, 1)}
    assert watching.known_bounds(rewards.scale(layout, 0)) == {"reward/part/format": (0, 1)}  # an empty range is none


def test_ranges_of_parts_follow_their_paths_through_combinations():
    layout = rewards.per_completion(rewards.tag_format, name="format")
    inner = rewards.weighted_sum((1.0, layout), (1.0, rewards.per_completion(len, name="length")), name="style")
    outer = rewards.product(inner, rewards.per_completion(rewards.exact_answer, "answer", name="correctness"))
    assert outer.parts == {
        "style/format": Bounds(0, 1),
        "style/length": Bounds(float("-inf"), float("inf")),
        "correctness": Bounds(0, 1),
    }
    assert rewards.clip(outer, 0, 1).parts == outer.parts


@pytest.mark.parametrize(
    "error", [RunError("no rows"), OSError("disk full"), KeyError("x"), MemoryError(), IndexError()]
)
def test_a_report_that_fails_is_said_and_ends_nothing(tmp_path, monkeypatch, caplog, error):
    def write(paths):
        raise error

    monkeypatch.setattr(reports, "write", write)
    assert watching.write_report(tmp_path) is None
    assert "could not be written" in caplog.text


def test_the_report_is_written_on_the_way_but_not_at_the_end(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(watching.time, "monotonic", lambda: 0.0)
    monkeypatch.setattr(reports, "write", lambda paths: written.append(paths))
    on_row = watching.periodic_report(tmp_path, 10, 30)
    for step in range(1, 31):
        on_row({"kind": "train", "step": step})
        on_row({"kind": "eval", "step": step})
    assert len(written) == 2


def test_a_report_that_takes_long_is_written_less_often(tmp_path, monkeypatch):
    clock, written = [0.0], []
    monkeypatch.setattr(watching.time, "monotonic", lambda: clock[0])

    def write(paths):
        written.append(clock[0])
        clock[0] += 2.0

    monkeypatch.setattr(reports, "write", write)
    on_row = watching.periodic_report(tmp_path, 10, 1000)
    for step in range(1, 1000):
        clock[0] += 0.1
        on_row({"kind": "train", "step": step})
    assert written[0] == pytest.approx(1.0)
    pauses = [later - earlier - 2 for earlier, later in itertools.pairwise(written)]
    assert all(40 <= pause <= 41.1 for pause in pauses)  # twenty times as long as it takes
