import json
import math
import shutil
import sys

import numpy as np
import pytest

from agent_tunix import runs
from agent_tunix.errors import AgentTunixError, ConfigError, RunError
from agent_tunix.plain import json_line
from agent_tunix.reports import _plots, figures
from agent_tunix.reports._gather import gather

pytest.importorskip("matplotlib", reason="the extra `plots` is not installed")

from matplotlib.image import imread

STEPS = 80
CONFIG = {"data": {"task": "sorting"}, "model": {"name": "tiny"}, "training": {"steps": STEPS}, "seed": 0}
QUADRANTS = {"pp": (0.1, 0.25), "pm": (0.3, 0.6), "mp": (0.4, 0.1), "mm": (0.2, 0.05)}


def row(step):
    t, noise = step / STEPS, math.sin(12.9898 * step) * 0.02
    first, second = 0.2 + 0.7 * t + noise, 0.8 - 0.4 * t - noise
    values = {"reward/mean": 0.7 * first + 0.3 * second, "policy/kl": 0.2 * t**2, "policy/entropy": 2.0 - t}
    for name, mean, weight, share in (("right", first, 0.7, 1.1), ("form", second, 0.3, -0.1)):
        part = f"reward/part/{name}"
        values |= {part: mean, f"{part}/std": 0.3, f"{part}/weight": weight, f"{part}/advantage_share": share}
    pair = "tradeoff/right__form"
    values |= {f"{pair}/correlation": -0.3, f"{pair}/weight_limit": 2.0 - t, f"{pair}/forecast": -0.01}
    for name, (every, positive) in QUADRANTS.items():
        values |= {f"{pair}/quadrant_{name}_all": every, f"{pair}/quadrant_{name}_positive": positive}
    return {"kind": "train", "step": step, **values}


def samples(step):
    for prompt in range(4):
        for index in range(4):
            right = index < step * (prompt + 1) // STEPS
            text = f"<answer>{prompt if right else 9}</answer>"
            columns = {"answer": str(prompt), "task": "sorting", "level": 1}
            yield {
                "step": step,
                "batch": step,
                "prompt_index": prompt,
                "completion_index": index,
                "prompt": f"p{prompt}",
                "completion": text,
                "columns": columns,
                "length": 4,
                "truncated": False,
                "reward": float(right),
                "parts": {"right": float(right), "form": 1.0},
                "outcomes": {"right": "graded", "form": "graded"},
                "advantage": 0.0,
            }


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("figures") / "run_a"
    with runs.open_run(path, config=CONFIG) as writer:
        for step in range(1, STEPS + 1):
            writer.log(row(step))
            if step % 8 == 0:
                gold = 0.3 + 0.4 * step / STEPS - 0.6 * (step / STEPS) ** 2
                writer.log({"kind": "eval", "step": step, "eval/accuracy": gold})
                writer.log_samples(samples(step))
        writer.write_summary({"reason": "finished"})
    return path


@pytest.fixture
def short(tmp_path):
    """A run that has logged a reward a few times, and nothing else."""
    with runs.open_run(tmp_path / "short", config=CONFIG) as writer:
        for step in range(1, 7):
            writer.log({"kind": "train", "step": step, "reward/mean": 100.0 * step})
    return tmp_path / "short"


@pytest.fixture(scope="module")
def written(run, tmp_path_factory):
    return figures.write_figures([run], tmp_path_factory.mktemp("out"))


def drawn(paths):
    """The figures, not saved, by name."""
    told = [gather(path) for path in paths]
    with _plots.matplotlib().rc_context(_plots.STYLE):
        return dict(figures.single(told[0]) if len(told) == 1 else figures.overlay(told))


@pytest.fixture(scope="module")
def by_name(run):
    return drawn([run])


def texts(figure):
    """Every text of a figure."""
    return {text.get_text().strip() for text in figure.findobj(match=lambda artist: hasattr(artist, "get_text"))}


def curves(axis):
    return {line.get_label(): line for line in axis.get_lines()}


def test_a_run_gives_the_pictures_of_its_report(written):
    assert [path.name for path in written] == [
        "reward.png",
        "components.png",
        "tradeoff.png",
        "distance.png",
        "policy.png",
        "prompts.png",
    ]


def test_no_picture_is_blank(written):
    for path in written:
        pixels = imread(path)
        assert pixels.shape[0] > 200 and pixels.shape[1] > 400
        assert 0.01 < np.mean(pixels[..., :3].mean(-1) < 0.9) < 0.95, path.name


@pytest.mark.parametrize("format", ["png", "pdf", "svg"])
def test_the_same_run_gives_the_same_bytes(short, tmp_path, format):
    first, second = (figures.write_figures([short], tmp_path / name, format=format) for name in ("a", "b"))
    assert [path.name for path in first] == [f"reward.{format}"]
    assert first[0].read_bytes() == second[0].read_bytes()


def test_hatches_and_maps_are_the_same_bytes_too(run, written, tmp_path):
    with _plots.matplotlib().rc_context(_plots.STYLE):
        again = {name: figure for name, figure in figures.single(gather(run)) if name in ("components", "prompts")}
        for name, figure in again.items():
            before = next(path for path in written if path.stem == name)
            assert _plots.save(figure, tmp_path / before.name).read_bytes() == before.read_bytes()
    assert len(again) == 2


def test_block_means_stand_where_the_reward_was(by_name):
    axis = by_name["reward"].axes[0]
    steps, means = curves(axis)["reward"].get_data()
    assert steps[0] == 2.5  # the first of twenty blocks: steps 1 to 4
    assert means[0] == pytest.approx(np.mean([row(step)["reward/mean"] for step in (1, 2, 3, 4)]), abs=1e-12)
    assert {"reward", "held-out accuracy"} <= texts(by_name["reward"])


def test_lift_is_the_share_among_credited_over_the_share_of_all(by_name):
    bars = next(axis for axis in by_name["tradeoff"].axes if axis.patches)
    assert [bar.get_width() for bar in bars.patches] == pytest.approx([1.5, 1.0, -0.75, -0.75], abs=1e-12)
    assert "×2.5 (10 % of all)" in texts(by_name["tradeoff"])


def test_the_weight_limit_stands_beside_the_actual_ratio(by_name):
    axis = next(axis for axis in by_name["tradeoff"].axes if "actual ratio" in curves(axis))
    assert curves(axis)["actual ratio"].get_ydata()[0] == pytest.approx(7 / 3, abs=1e-12)
    limits = curves(axis)["limit w* (block medians)"].get_ydata()
    assert limits[0] == pytest.approx(2.0 - 2.5 / STEPS, abs=1e-12)
    assert not any("$" in text for text in texts(by_name["tradeoff"]))


def test_every_point_is_ringed_where_the_forecast_is_negative(by_name):
    phase = by_name["tradeoff"].axes[0]
    dots, rings = phase.collections
    assert len(dots.get_offsets()) == len(rings.get_offsets()) > 10


def test_shares_of_the_advantage_are_stacked_both_ways(by_name):
    axis = by_name["components"].axes[2]
    low, high = (
        getattr(np.concatenate([c.get_paths()[0].vertices[:, 1] for c in axis.collections]), f)()
        for f in ("min", "max")
    )
    assert (low, high) == pytest.approx((-0.1, 1.1), abs=1e-12)


def test_findings_are_named_in_their_picture(by_name):
    assert any("tradeoff" in text for text in texts(by_name["components"]))


def test_distance_is_the_root_of_the_divergence(by_name):
    axis = by_name["distance"].axes[0]
    last = curves(axis)["held-out accuracy"].get_xdata()[-1]
    assert last == pytest.approx(math.sqrt(0.2), rel=0.05)


def test_solve_rates_and_rewards_have_a_map_each(by_name):
    titles = {axis.get_title(loc="left") for axis in by_name["prompts"].axes}
    assert {"Solve rate", "Distribution of the reward"} <= titles


def test_several_runs_lie_over_each_other_in_different_dashes(run, tmp_path):
    shutil.copytree(run, tmp_path / "run_b")
    assert [path.name for path in figures.write_figures([run, tmp_path / "run_b"], tmp_path / "out")] == ["overlay.png"]
    axis = drawn([run, tmp_path / "run_b"])["overlay"].axes[0]
    both = [curves(axis)[name] for name in ("run_a", "run_b")]
    assert both[0].get_linestyle() != both[1].get_linestyle()
    assert both[0].get_color() != both[1].get_color()


def test_styles_differ_without_colour():
    count = len(_plots.COLOURS)
    assert len({str(dash) for dash in _plots.DASHES}) == len(set(_plots.MARKERS)) == count


def test_a_run_that_has_little_gives_what_there_is(short):
    assert list(drawn([short])) == ["reward"]


def test_a_reward_on_another_scale_gets_a_panel_of_its_own(tmp_path):
    with runs.open_run(tmp_path / "r", config=CONFIG) as writer:
        for step in range(1, 31):
            writer.log({"kind": "train", "step": step, "reward/mean": 100.0 * step})
            writer.log({"kind": "eval", "step": step, "eval/accuracy": 0.5})
    axes = drawn([tmp_path / "r"])["reward"].axes
    assert [axis.get_ylabel() for axis in axes] == ["reward", "share"]


def test_names_with_dollars_and_underscores_are_shown_as_they_are(tmp_path):
    with runs.open_run(tmp_path / "r", config=CONFIG) as writer:
        for step in range(1, 31):
            writer.log({"kind": "train", "step": step, "reward/mean": 0.1, "reward/part/$x_{": step / 30})
    (tmp_path / "r" / "metrics.jsonl").write_bytes(
        b"".join(
            json_line(
                json.loads(line) | {"reward/part/$x_{/std": 0.1, "reward/part/_y": 0.5, "reward/part/_y/std": 0.1}
            )
            for line in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()
        )
    )
    figures.write_figures([tmp_path / "r"], tmp_path / "out")
    assert {"$x_{", "_y"} <= texts(drawn([tmp_path / "r"])["components"])


def test_one_wild_value_does_not_flatten_the_others():
    axis = _plots.page(3, 3).subplots()
    values = np.r_[1000.0, np.linspace(1, 2, 999)]
    axis.plot(values)
    _plots.unspiked(axis, values)
    assert axis.get_ylim()[1] < 3


def test_cells_of_a_map_meet_half_way_between_batches():
    axis = _plots.page(3, 3).subplots()
    cells = _plots.heat(axis, np.array([[0.0, 1.0, np.nan]]), np.array([0.0, 10.0, 40.0]), (0.0, 1.0))
    assert cells.get_coordinates()[0, :, 0].tolist() == [-10.0, 5.0, 25.0, 50.0]
    assert cells.get_array().mask.ravel().tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("arguments", "error", "part"),
    [
        ({"runs": ["missing"]}, RunError, "missing"),
        ({"runs": []}, RunError, "at least one run"),
        ({"format": "jpeg"}, ConfigError, "Allowed: pdf, png, svg"),
    ],
)
def test_errors_say_what_to_do(run, tmp_path, arguments, error, part):
    with pytest.raises(error) as caught:
        figures.write_figures(**({"runs": [run], "folder": tmp_path} | arguments))
    assert part in str(caught.value)


def test_a_folder_that_cannot_be_made_is_named(run, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="cannot write figures to"):
        figures.write_figures([run], tmp_path / "file" / "out")


def test_without_matplotlib_the_extra_is_named(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(AgentTunixError, match=r"agent-tunix\[plots\]"):
        figures.write_figures([run], tmp_path)
