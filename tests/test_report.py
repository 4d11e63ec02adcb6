"""The page of a run: its numbers, its pictures, and that nothing a model writes can do anything but be read."""

import base64
import hashlib
import json
import math
import re
import time
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_tunix import reports, runs
from agent_tunix.diagnostics.findings import Finding
from agent_tunix.diagnostics.reading import Log, read
from agent_tunix.errors import RunError
from agent_tunix.reports import _banner, _chart, _pairs, _payload, _pictures, _samples, _series, _svg, _words
from agent_tunix.reports._gather import Told, gather
from agent_tunix.reports.page import linked, render

HOSTILE = '</script><script>alert(1)</script><img src=x onerror="alert(2)"><!-- \u2028 \ud800 \u202e {{ 7*7 }} "\'&'
LOGS = Path(__file__).parent / "fixtures" / "logs"


# --- Runs to report on ------------------------------------------------------------------------------------------------


def record(step, index, member, completion, reward, **more):
    parts = {"format": 1.0, "correctness": float((reward or 0.0) > 0.5)}
    base = {
        "step": step,
        "batch": step,
        "prompt_index": index,
        "completion_index": member,
        "prompt": f"prompt {index} of batch {step}",
        "completion": completion,
        "columns": {"answer": "4"},
        "length": len(completion),
        "truncated": False,
        "reward": reward,
        "parts": parts,
        "advantage": (reward or 0.0) - 0.5,
    }
    return base | more


def train_row(step, steps, noise):
    solved = 1.0 / (1.0 + math.exp(-8.0 * (step / steps - 0.4)))
    return {
        "kind": "train",
        "step": step,
        "reward/mean": 0.3 + 0.65 * solved + 0.02 * noise[0],
        "reward/part/format": min(1.0, 0.9 + 0.1 * solved),
        "reward/part/correctness": min(1.0, max(0.0, solved + 0.02 * noise[1])),
        "group/flat_fraction": 0.2 + 0.5 * (2 * solved - 1) ** 2,
        "completion/length": 12 + 0.3 * noise[2],
        "policy/entropy": 0.6 - 0.4 * solved,
        "policy/kl": 0.01 + 0.2 * solved + 0.001 * abs(noise[0]),
        "policy/gradient_norm": 1.0 + 0.1 * noise[1],
        "policy/ratio": 1.0,
    }


def made_run(path, steps=40, *, samples=True, evaluations=True, parts=True, kl=True, finished=True, text="4"):
    """A run folder as training writes it, with a reward that is learnt."""
    noise = np.random.default_rng(0).standard_normal((steps + 1, 3))
    config = {"seed": 0, "data": {"task": "own", "heldout_size": 100}, "evaluation": {"rows": 100}}
    with runs.open_run(path, config=config | {"training": {"steps": steps}, "name": text}) as run:
        for step in range(1, steps + 1):
            row = train_row(step, steps, noise[step])
            row = {name: value for name, value in row.items() if parts or "part/" not in name}
            run.log({name: value for name, value in row.items() if kl or name != "policy/kl"})
            run.log_timing({"step": step, "time/step_s": 0.2})
            if evaluations and step % max(steps // 8, 1) == 0:
                run.log({"kind": "eval", "step": step, "eval/accuracy": row["reward/mean"] - 0.1})
            if samples:
                run.log_samples(batch_of(step, text))
        if finished:
            run.write_summary({"reason": "finished", "step": steps, "tokens": 1234, "seconds": 61.0})
    return path


def batch_of(step, text):
    wanted = f"<answer>{text}</answer>"
    return [
        record(step, prompt, member, wanted if member % 2 else f"no answer {step} {prompt}", 1.0 if member % 2 else 0.2)
        for prompt in range(3)
        for member in range(4)
    ]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return made_run(tmp_path_factory.mktemp("runs") / "learnt")


@pytest.fixture(scope="module")
def page(run):
    return reports.write([run]).read_text(encoding="utf-8")


class Elements(HTMLParser):
    """Every element of a page with its attributes, and the text of scripts."""

    def __init__(self, text):
        super().__init__()
        self.found, self.scripts, self.inside = [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        self.inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.inside == "script":
            self.scripts[-1] += data

    def handle_endtag(self, tag):
        self.inside = None


def payload_of(text):
    return json.loads(Elements(text).scripts[0])


def told(series, **more):
    steps = {name: np.arange(1.0, len(values) + 1) for name, values in series.items()}
    log = Log({name: np.asarray(values, float) for name, values in series.items()}, steps, **more)
    return Told("a log", log)


# --- The page ---------------------------------------------------------------------------------------------------------


def test_a_run_gets_its_page_in_its_own_folder(run):
    assert reports.write([run]) == run / "report.html"
    assert not list(run.glob(".report*"))


def test_every_section_of_a_full_run_is_there(page):
    ids = [attributes["id"] for tag, attributes in Elements(page).found if tag == "section"]
    assert ids == ["findings", "reward", "components", "tradeoff", "distance", "policy", "prompts", "samples", "setup"]


def test_the_page_is_sound_for_a_screen_reader(page):
    found = Elements(page).found
    ids = Counter(attributes["id"] for _, attributes in found if "id" in attributes)
    assert max(ids.values()) == 1
    pictures = [attributes for tag, attributes in found if tag == "svg" and attributes.get("role") == "img"]
    assert len(pictures) > 10
    for attributes in pictures:
        assert all(ids[key] == 1 for key in attributes["aria-labelledby"].split())
    assert ("html", {"lang": "en"}) in found
    assert [tag for tag, _ in found].count("h1") == 1


def test_every_link_within_the_page_leads_somewhere(page):
    found = Elements(page).found
    ids = {attributes.get("id") for _, attributes in found}
    links = [attributes["href"] for tag, attributes in found if tag == "a" and attributes["href"].startswith("#")]
    assert links
    assert {link[1:] for link in links} <= ids


def test_the_policy_allows_this_script_and_nothing_else(page):
    policy = next(a["content"] for tag, a in Elements(page).found if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    script = Elements(page).scripts[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy


def test_no_element_asks_for_anything_outside_of_the_page(page):
    for tag, attributes in Elements(page).found:
        assert "src" not in attributes
        assert "style" not in attributes  # the policy would refuse it
        assert not any(name.startswith("on") for name in attributes)
        assert tag not in ("link", "iframe", "object", "embed", "img", "base")


def test_what_a_model_wrote_stays_text(tmp_path):
    folder = made_run(tmp_path / "x<b>&", steps=12, text=HOSTILE)
    text = reports.write([folder]).read_text(encoding="utf-8")
    found = Elements(text).found
    assert [tag for tag, _ in found].count("script") == 2
    assert not {"img", "b"} & {tag for tag, _ in found}
    assert "{{ 7*7 }}" in text  # no template was run
    assert "⟨202E⟩" in text
    assert "\u202e" not in text
    assert "\ud800" not in text
    payload_of(text)


def test_names_of_metrics_and_parts_are_text_as_well(tmp_path):
    series = {f"rewards/{HOSTILE[:60].replace('/', '|')}/mean": np.linspace(0, 1, 30), "reward": np.linspace(0, 1, 30)}
    hostile = Finding("stagnation", "warn", (1, 9), HOSTILE, {HOSTILE: HOSTILE}, f"`{HOSTILE}` https://x.org/{HOSTILE}")
    one = told(series, source=HOSTILE, notes=(HOSTILE,), unknown=(HOSTILE,))
    text = render([Told(HOSTILE, one.log, [hostile])])
    found = Elements(text).found
    assert [tag for tag, _ in found].count("script") == 2
    assert "img" not in {tag for tag, _ in found}
    assert not any(name.startswith("on") for _, attributes in found for name in attributes)
    assert payload_of(text)["runs"][0]["name"] == HOSTILE


@given(st.text())
def test_script_json_holds_any_text_and_never_a_tag(text):
    written = _words.script_json({"text": text})
    assert json.loads(written) == {"text": text}
    assert not set(written) & set("<>&\u2028\u2029")
    written.encode("ascii")


@given(st.text(st.characters(), max_size=200))
def test_clean_text_can_be_written_and_does_not_turn_around(text):
    cleaned = _words.clean(text)
    cleaned.encode("utf-8")
    assert not re.search("[\x00-\x08\u202a-\u202e\u2066-\u2069]", cleaned)


def test_long_texts_are_cut_with_a_note(tmp_path):
    folder = made_run(tmp_path / "long", steps=6, text="7" * 5000)
    text = reports.write([folder]).read_text(encoding="utf-8")
    assert "7" * 1000 in text
    assert "7" * 2000 not in text
    assert "more characters left out" in text


def test_five_hundred_steps_fit_in_a_megabyte_and_a_half_and_four_seconds(tmp_path):
    folder = made_run(tmp_path / "whole", steps=500)
    start = time.process_time()
    written = reports.write([folder])
    assert time.process_time() - start < 4.0
    assert written.stat().st_size < 1_500_000


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ({"samples": False}, "No samples were stored"),
        ({"evaluations": False}, "No held-out accuracy was logged"),
        ({"kl": False}, "No divergence from a reference policy was logged"),
        ({"finished": False}, "unfinished, step 12 of 12"),
    ],
)
def test_what_a_run_lacks_is_said_in_a_line(tmp_path, missing, said):
    text = reports.write([made_run(tmp_path / "run", steps=12, **missing)]).read_text(encoding="utf-8")
    assert said in text


def test_a_run_of_one_component_has_no_trade_off(tmp_path):
    one = told({"reward": np.linspace(0, 1, 30), "rewards/only/mean": np.linspace(0, 1, 30)})
    text = render([one])
    assert "single component" in text
    assert 'id="tradeoff"' not in text


@pytest.mark.parametrize("length", [1, 2, 3, 5])
def test_a_run_of_a_few_steps_gets_a_page(tmp_path, length):
    assert reports.write([made_run(tmp_path / "run", steps=length)]).stat().st_size > 10_000


@pytest.mark.parametrize("values", [[0.5] * 30, [np.nan] * 29 + [1.0], [1e300, -1e300] * 15, [0.0, np.inf] * 15])
def test_strange_numbers_get_a_page(values):
    text = render([told({"reward": values, "kl": values, "grad_norm": values, "eval/accuracy": values})])
    assert "nan" not in re.sub(r"<script.*</script>", "", text, flags=re.DOTALL).lower().replace("finance", "")


def test_a_log_of_somebody_else_gets_a_page_with_what_is_there(tmp_path):
    rows = ["step,reward,kl,mystery", *(f"{i},{i / 40},{0.001 * i},{i}" for i in range(40))]
    log = tmp_path / "their.csv"
    log.write_text("\n".join(rows), encoding="utf-8")
    written = reports.write([log])
    assert written == tmp_path / "their.csv.report.html"
    text = written.read_text(encoding="utf-8")
    assert "1 columns without a card" in text
    assert "No samples were stored" in text
    assert reports.write_log(read(log), tmp_path / "same.html", "their.csv").read_text(encoding="utf-8") == text


@pytest.mark.parametrize("name", ["trl_trainer_state.json", "verl_console.log", "wandb_export.csv", "tunix_events"])
def test_logs_of_other_libraries_get_a_page(tmp_path, name):
    if not (LOGS / name).exists():
        pytest.skip(f"no fixture {name}")
    text = reports.write([LOGS / name], tmp_path / "page.html").read_text(encoding="utf-8")
    assert 'id="chart-reward"' in text


def test_several_runs_are_laid_over_each_other_and_compared(tmp_path, run):
    other = made_run(tmp_path / "a" / "learnt", steps=20, text="other")
    text = reports.write([run, other], tmp_path / "both.html").read_text(encoding="utf-8")
    lines = payload_of(text)["charts"]["reward"]
    assert [line["label"] for line in lines] == ["learnt", "learnt (2)"]
    assert [len(line["y"]) for line in lines] == [40, 20]
    assert 'id="comparison"' in text
    assert "<td>training.steps</td><td>40</td><td>20</td>" in text
    assert "<td>seed</td>" not in text


def test_no_run_and_a_place_that_cannot_be_written_are_refused_in_words(run, tmp_path):
    with pytest.raises(RunError, match="at least one run"):
        reports.write([])
    with pytest.raises(RunError, match="cannot write the report"):
        reports.write([run], tmp_path / "missing" / "page.html")


def test_the_rows_to_download_are_the_rows_of_the_run(page, run):
    data = payload_of(page)
    column = data["runs"][0]["columns"]["reward/mean"]
    rows = runs.read_metrics(run, "train")
    assert data["axes"][column["steps"]] == [row["step"] for row in rows]
    assert column["values"] == pytest.approx([row["reward/mean"] for row in rows], rel=1e-5)
    assert data["every"] == 1


def test_very_long_logs_are_thinned_and_keep_their_last_row():
    one = told({name: np.arange(40_000.0) for name in ("reward", "kl", "entropy")})
    data = json.loads(_payload.payload([one], []))
    column = data["runs"][0]["columns"]["kl"]
    assert data["every"] == 2
    assert len(column["values"]) == 20_000
    assert column["values"][-1] == 39_999


# --- Verdict and findings ---------------------------------------------------------------------------------------------


def test_the_banner_is_the_first_of_the_most_serious_findings():
    found = [
        Finding("length_drift", "warn", (10, 20), "lengths doubled", {}, "cap the length"),
        Finding("collapse", "error", (30, 40), "reward fell by 0.5", {}, "lower the rate"),
        Finding("kl_blowup", "error", (25, 40), "kl is 9", {}, "raise beta"),
    ]
    said = _banner.verdict([Told("x", told({"reward": [0.1, 0.2]}).log, found)])
    assert said["level"] == "error"
    assert said["verdict"] == "Collapse, steps 30–40"
    assert said["advice"] == "Reward fell by 0.5. Lower the rate. 2 more findings below."


def test_a_healthy_run_is_called_healthy_and_what_is_unknown_is_said():
    said = _banner.verdict([told({"reward": [0.1, 0.2]})])
    assert said["verdict"] == "Healthy: no rule found anything wrong."
    assert "a held-out score and the bounds of the reward" in said["advice"]


def test_a_finding_links_to_its_chart_and_its_samples(run):
    one = gather(run)
    found = [
        Finding("entropy_collapse", "warn", (5, 40), "entropy fell to 0.01", {"start": 0.6}, "clip higher"),
        Finding("dead_component", "warn", (1, 40), "it is 0", {"component": "correctness"}, "look at it"),
        Finding("grad_spike", "warn", (5, 9), "spikes", {}, "lower the rate"),
    ]
    text = render([Told(one.name, one.log, found, one.batches, one.config)])
    assert 'href="#chart-entropy"' in text
    assert 'data-kind="latest"' in text
    assert 'href="#chart-part-1"' in text  # format is the first component, correctness the second
    assert "start 0.6" in text
    assert '<rect class="stretch warn"' in text


def test_remedies_link_addresses_and_set_names_apart():
    shown = str(linked("Lower `lr` & see https://a.org/x_(y). Then <b>"))
    assert "<code>lr</code> &amp; see" in shown
    assert '<a href="https://a.org/x_" rel="noreferrer">' in shown
    assert "&lt;b&gt;" in shown


@pytest.mark.parametrize(("seconds", "said"), [(42.4, "42 s"), (190.0, "3 min 10 s"), (8040.0, "2 h 14 min")])
def test_durations_are_said_as_people_say_them(seconds, said):
    assert _banner.duration(seconds) == said


# --- Samples and maps -------------------------------------------------------------------------------------------------


def test_samples_are_found_by_kind():
    batch = [
        record(0, 0, 0, "<answer>4</answer>", 1.0),
        record(0, 0, 1, "<answer>5</answer>", 0.9),
        record(0, 0, 2, "<answer>3</answer> or <answer>4</answer>", 0.8),
        record(0, 0, 3, "word " * 40, 0.0, truncated=True),
        record(0, 0, 4, "boom", None, failures={"correctness": "it raised"}),
    ]
    by_kind = {}
    for sample in _samples.choose([batch]):
        for kind in sample.kinds:
            by_kind.setdefault(kind, []).append(sample.record["completion"])
    assert by_kind["best_wrong"][0] == "<answer>5</answer>"
    assert "<answer>4</answer>" not in by_kind["best_wrong"]
    assert by_kind["several"] == ["<answer>3</answer> or <answer>4</answer>"]
    assert by_kind["truncated"] == ["word " * 40]
    assert set(by_kind["longest"]) == {one["completion"] for one in batch}
    assert by_kind["failed"] == ["boom"]
    assert len(_samples.choose([batch])) == 5  # a text stands there once, whatever its kinds


def test_right_is_what_the_strict_grader_accepts_not_what_was_rewarded():
    assert _samples.is_right(record(0, 0, 0, "<answer>4</answer>", 0.0)) is True
    assert _samples.is_right(record(0, 0, 0, "<answer>3, 4, 5</answer>", 1.0)) is False
    assert _samples.is_right(record(0, 0, 0, "<answer>4</answer>", 1.0, columns={})) is None
    countdown = {"task": "countdown", "answer": "1 + 2", "numbers": [1, 2], "target": 3}
    assert _samples.is_right(record(0, 0, 0, "no idea", 1.0, columns=countdown)) is False


def groups_of(step, rates, prompts):
    return [
        record(step, p, m, "<answer>4</answer>" if m < 4 * rate else "?", 0.5, prompt=prompts[p])
        for p, rate in enumerate(rates)
        for m in range(4)
    ]


def test_prompts_that_come_back_get_a_row_each_the_easiest_at_the_bottom():
    batches = [groups_of(step, [0.25, 1.0], ["hard", "easy"]) for step in range(4)]
    found = _samples.solve_rates(batches)
    assert list(found.rows) == ["easy", "hard"]
    assert found.table.tolist() == [[1.0] * 4, [0.25] * 4]


def test_prompts_that_never_come_back_are_ranked_within_their_batch():
    batches = [groups_of(step, [0.0, 1.0, 0.5], [f"{step}a", f"{step}b", f"{step}c"]) for step in range(4)]
    found = _samples.solve_rates(batches)
    assert not found.rows
    assert found.table[:, 0].tolist() == [1.0, 0.5, 0.0]


def test_a_batch_without_any_reward_leaves_its_column_empty():
    scored = [record(0, 0, m, "x", reward, columns={}) for m, reward in enumerate([0.0, 1.0])]
    failed = [record(1, 0, m, "x", None, columns={}) for m in range(2)]
    assert np.isnan(_samples.solve_rates([scored, failed]).table[:, 1]).all()
    assert np.isnan(_samples.distribution([scored, failed]).table[:, 1]).all()
    assert "–" in _pictures.reward_map([scored, failed]).table.rows[1]
    assert _pictures.solve_map([failed]) is None


def test_a_reward_on_another_scale_is_put_beside_the_accuracy():
    n = 40
    series = {"kl": np.linspace(0.01, 1, n), "reward": np.linspace(0, 200, n), "eval/accuracy": np.linspace(0, 0.5, n)}
    found = _pictures.distance(told(series, bounds={"reward": (0.0, 200.0)}))
    assert found.legend[0].label == "reward, 0 to 200 drawn as 0 to 1"
    assert found.table.rows[-1] == ["0.987", "0.5"]  # divergences are block means: the last is of three steps


def test_without_answers_the_reward_stands_in_for_the_solve_rate():
    batch = [record(0, 0, m, "x", reward, columns={}) for m, reward in enumerate([0.0, 10.0, 5.0, 5.0])]
    found = _samples.solve_rates([batch])
    assert found.table.tolist() == [[0.5]]
    assert "reward" in found.what


def test_the_distribution_of_a_batch_adds_up_to_one():
    found = _samples.distribution([[record(0, 0, m, "x", reward) for m, reward in enumerate([0.0, 0.0, 0.3, 1.0])]])
    assert np.nansum(found.table) == pytest.approx(1.0)
    assert found.table[0, 0] == 0.5
    assert found.table[-1, 0] == 0.25
    assert _samples.distribution([[record(0, 0, 0, "x", 1.0)]]) is None


# --- Pairs of components ----------------------------------------------------------------------------------------------


def pair_rows(first="f", second="g", n=30, **columns):
    base = {f"rewards/{first}/mean": np.linspace(0.1, 0.9, n), f"rewards/{second}/mean": np.linspace(0.8, 0.5, n)}
    return base | {f"tradeoff/{name}": np.full(n, value) for name, value in columns.items()}


def test_lift_is_the_share_among_positive_credit_over_the_share_among_all():
    series = pair_rows()
    for quadrant, (base, positive) in {"pp": (0.2, 0.3), "pm": (0.1, 0.4), "mp": (0.4, 0.1), "mm": (0.3, 0.2)}.items():
        series |= {
            f"tradeoff/f__g/quadrant_{quadrant}_{side}": np.full(30, share)
            for side, share in (("all", base), ("positive", positive), ("negative", 0.0))
        }
    rows, steps = _pairs.quadrant_rows(told(series), "f", "g")
    assert [row["lift"] for row in rows] == ["1.5", "4", "0.25", "0.67"]
    assert [row["shade"] for row in rows] == [6, 8, 1, 3]
    assert rows[1]["label"] == "f up, g down"
    assert steps == "steps 1–30"


def test_points_are_rings_where_the_second_component_was_forecast_to_fall():
    series = pair_rows() | {
        "tradeoff/f__g/correlation": np.full(30, -0.5),
        "tradeoff/f__g/forecast": np.r_[np.full(15, 0.1), np.full(15, -0.1)],
        "tradeoff/f__g/weight_limit": np.full(30, 2.0),
        "reward/part/f/weight": np.full(30, 4.0),
        "reward/part/g/weight": np.full(30, 1.0),
    }
    (found,) = _pairs.pairs(told(series))
    phase, limit = (next(c for c in found.charts if c.key.startswith(name)) for name in ("phase", "limit"))
    assert phase.picture.count(' ring"') == 5  # the later half of ten blocks of three steps
    assert found.verdict == "Forecast to fall: g at 50% of the steps."
    assert [label for label, _, _ in limit.pointer] == ["limit w*", "actual ratio of the weights"]
    assert limit.pointer[1][2].tolist() == [4.0] * 30


def test_pairs_of_a_run_that_did_not_log_them_come_from_its_samples(run):
    one = gather(run)
    assert len(one.pairs) == 1
    assert one.named("reward/part/correctness/advantage_share").values == pytest.approx(1.0)  # format never varies


# --- Pictures ---------------------------------------------------------------------------------------------------------


def test_held_out_accuracy_gets_two_standard_errors_of_its_questions():
    found = _pictures.gold(told({"eval/accuracy": [0.5, 1.0]}, eval_samples=100))
    assert found.error.tolist() == pytest.approx([0.1, 0.0])
    assert _pictures.gold(told({"eval/accuracy": [0.5, 1.0]})).error is None


def test_a_reward_on_another_scale_has_its_accuracy_in_a_picture_of_its_own():
    accuracy = {"eval/accuracy": np.linspace(0.1, 0.9, 20)}
    small = _pictures.reward(told({"reward": np.linspace(0, 1, 20)} | accuracy))
    large = _pictures.reward(told({"reward": np.linspace(0, 200, 20)} | accuracy, bounds={"reward": (0.0, 250.0)}))
    assert [chart.key for chart in small] == ["reward"]
    assert [chart.key for chart in large] == ["reward", "gold"]
    assert "upper bound 250" in large[0].picture


def test_the_peak_of_over_optimisation_is_told_when_the_run_is_past_it():
    root = np.linspace(0.1, 3.0, 60)
    gold = root * (1.0 - 1.0 * np.log(root))  # a = b = 1: the peak is at exp(0) = 1
    series = {"kl": root**2, "reward": np.linspace(0, 1, 60), "eval/accuracy": gold}
    found = _pictures.distance(told(series))
    assert "its peak is at √KL = 1" in found.note
    assert "more of it hurts" in found.note


def test_signed_shares_are_stacked_on_both_sides_of_zero():
    layers = {"f": np.array([1.2, 1.2]), "g": np.array([-0.2, -0.2])}
    found = _chart.stacked("k", "t", np.array([1.0, 2.0]), layers, styles=[0, 1], unit="share")
    bands = re.findall(r'class="s(\d) band solid" points="([^"]*)"', found.picture)
    heights = {style: [float(p.split(",")[1]) for p in points.split()] for style, points in bands if style == "1"}
    zero = _svg.frame((1.0, 2.0), _svg.span([[1.2, -0.2, 0.0, 1.0]]), width=960, height=247.5).at_y(0.0)
    assert min(heights["1"]) == pytest.approx(zero, abs=0.1)  # g hangs below the zero line
    assert found.summary == "At the end: f 1.2, g −0.2."


def test_a_metric_that_never_moves_gets_no_picture(page):
    assert 'id="chart-importance_ratio"' not in page
    assert "The same at every step, so without a chart: " in page


@given(st.floats(-1e3, 1e3), st.floats(1e-6, 1e6), st.integers(2, 10))
def test_ticks_are_round_and_lie_within_their_range(start, size, wanted):
    low = start * size
    found = [value for value, _ in _svg.ticks(low, low + size, wanted)]
    assert len(found) <= 2 * wanted + 2
    assert all(low - 1e-6 * size <= value <= low + 1.000001 * size for value in found)


@given(st.lists(st.floats(-1e9, 1e9) | st.just(float("nan")), min_size=1, max_size=30))
def test_lines_stay_within_their_box(values):
    on = _svg.frame((0.0, 30.0), (-1.0, 1.0))
    drawn = _svg.line(on, np.arange(len(values), dtype=float), np.array(values), 0)
    for x, y in re.findall(r"(-?[\d.]+),(-?[\d.]+)", drawn):
        assert on.left - 0.1 <= float(x) <= on.right + 0.1
        assert on.top - 0.1 <= float(y) <= on.bottom + 0.1


def test_a_line_breaks_where_values_are_missing():
    on = _svg.frame((0.0, 5.0), (0.0, 1.0))
    drawn = _svg.line(on, np.arange(6.0), np.array([0.1, 0.2, np.nan, 0.3, np.nan, np.nan]), 0)
    assert drawn.count("<polyline") == 1
    assert drawn.count("<circle") == 1


def test_cells_of_one_shade_in_a_column_are_one_piece():
    on = _svg.frame((0.0, 1.0), (0.0, 1.0))
    drawn = _svg.cells(on, np.array([[0.0, 1.0], [0.0, np.nan], [0.0, 1.0]]))
    pieces = {shade: path.count("M") for shade, path in re.findall(r'class="h(\d) cell" d="([^"]*)"', drawn)}
    assert pieces == {"0": 1, "8": 2}


# --- Numbers ----------------------------------------------------------------------------------------------------------


def test_block_means_and_their_errors_are_those_of_a_line_through_the_block():
    means = _series.blocks(np.arange(6.0), np.array([0.0, 1.0, 2.0, 5.0, 8.0, 5.0]), 2)
    assert means.mean.tolist() == [1.0, 6.0]
    assert means.error[0] == pytest.approx(0.0)
    assert means.error[1] == pytest.approx(math.sqrt(6.0 / 1 / 3))  # residuals -1, 2, -1; one degree of freedom
    assert (means.first.tolist(), means.last.tolist()) == ([0.0, 3.0], [2.0, 5.0])


@given(st.lists(st.floats(-100, 100), min_size=3, max_size=120))
def test_block_means_weighted_by_their_lengths_give_the_mean(values):
    found = _series.blocks(np.arange(float(len(values))), np.array(values))
    weights = found.last - found.first + 1
    assert float((found.mean * weights).sum() / weights.sum()) == pytest.approx(np.mean(values), abs=1e-9)


def test_change_points_are_where_the_mean_shifts():
    rng = np.random.default_rng(3)
    values = np.repeat([0.0, 1.0, 0.4], 60) + 0.1 * rng.standard_normal(180)
    assert _series.change_points(values) == [60, 120]


def test_noise_about_a_constant_has_hardly_ever_a_change_point():
    rng = np.random.default_rng(5)
    alarms = sum(bool(_series.change_points(rng.standard_normal(200))) for _ in range(200))
    assert alarms <= 20


def test_the_over_optimisation_fit_finds_its_own_curve():
    d = np.linspace(0.05, 2.0, 30)
    fit = _series.over_optimisation(d, 0.2 + d * (0.5 - 0.8 * np.log(d)))
    assert (fit.start, fit.gain, fit.loss) == pytest.approx((0.2, 0.5, 0.8))
    assert fit.peak == pytest.approx(math.exp(0.5 / 0.8 - 1.0))
    assert fit.at(np.array([1.0])) == pytest.approx([0.7])


def test_a_straight_line_is_no_over_optimisation():
    d = np.linspace(0.05, 2.0, 30)
    noise = 0.01 * np.random.default_rng(1).standard_normal(30)
    assert _series.over_optimisation(d, 0.2 + 0.3 * d + noise) is None
    assert _series.over_optimisation(d[:5], d[:5] ** 2) is None


@given(st.integers(1, 3000), st.integers(0, 2999))
def test_thinning_keeps_a_lone_spike(length, place):
    values = np.zeros(length)
    values[place % length] = 7.0
    steps, kept = _series.thin(np.arange(float(length)), values, 100)
    assert kept.max() == 7.0
    assert len(kept) <= max(100, min(length, 100))
    assert (np.diff(steps) > 0).all()


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0"), (12.0, "12"), (0.98449, "0.984"), (-0.5, "−0.5"), (1234.5, "1,230"), (1e-9, "1e-9"), (None, "–")],
)
def test_numbers_have_sensible_digits(value, shown):
    assert _words.number(value) == shown
