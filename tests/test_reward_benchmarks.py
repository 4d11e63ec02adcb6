"""The benchmark of rewards and the fuzzing of graders: they run, agree with the truth, and notice what is wrong."""

import importlib
import json
import math
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(FOLDER))

import fuzz_graders  # noqa: E402
import grader_cases  # noqa: E402
import reward_engines  # noqa: E402
from grader_cases import Case, one_of, within  # noqa: E402
from reward_engines import HASHES, TAGS, batch, verl_score  # noqa: E402

benchmark = importlib.import_module("rewards")  # by its name, beside the package's module of the same name

ENGINES = {engine.name: engine for engine in reward_engines.engines()}
OURS = [name for name, engine in ENGINES.items() if engine.source == "agent_tunix"]


def run(script, *arguments):
    return subprocess.run(
        [sys.executable, str(FOLDER / script), *arguments], capture_output=True, text=True, timeout=300, check=False
    )


# --- The benchmark ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", [TAGS, HASHES])
def test_completions_have_their_length_and_half_of_the_whole_ones_are_right(style):
    given = batch(style, prompts=64, group_size=16, characters=600, seed=3)
    assert len(given.completions) == len(given.answers) == len(given.right) == 1024
    assert {len(completion) for completion in given.completions} == {600}
    # Of 90 % half are right; of the malformed ones only those with words after a right answer, 1.25 % of all.
    assert abs(sum(given.right) / 1024 - 0.4625) < 4 * math.sqrt(0.25 / 1024)
    assert given.rollouts.shape == (64, 16)
    assert given.rollouts.completions[2][5] == given.completions[2 * 16 + 5]


def test_both_styles_say_the_same():
    tags, hashes = (batch(style, prompts=8, group_size=8, characters=600, seed=1) for style in (TAGS, HASHES))
    assert tags.right == hashes.right
    assert tags.answers == hashes.answers
    assert tags.completions != hashes.completions


@pytest.mark.parametrize("name", OURS)
def test_our_engines_agree_with_the_truth_everywhere(name):
    engine = ENGINES[name]
    given = batch(engine.style, prompts=64, group_size=16, characters=600, seed=11)
    assert list(engine.correctness(engine.run(given))) == given.right


@pytest.mark.parametrize("name", sorted(set(ENGINES) - set(OURS)))
def test_other_engines_agree_on_nine_tenths(name):
    engine = ENGINES[name]
    given = batch(engine.style, prompts=64, group_size=16, characters=600, seed=11)
    found = engine.correctness(engine.run(given))
    assert len(found) == 1024
    assert sum(said == right for said, right in zip(found, given.right)) > 0.9 * 1024


@pytest.mark.parametrize(
    ("response", "reference", "strict", "flexible"),
    [
        ("#### 72", "72", 1, 1),
        ("#### 1,072", "1072", 1, 0),  # only the strict method drops commas
        ("#### 1,072", "1,072", 0, 1),
        ("It is 72", "72", 0, 1),
        ("#### 72" + " " * 300, "72", 0, 0),  # only the last 300 characters are read
        ("#### $72", "72", 0, 1),
        ("72.", "72", 0, 0),
        ("none", "72", 0, 0),
    ],
)
def test_what_stands_for_verl_grades_as_documented(response, reference, strict, flexible):
    assert verl_score(response, reference, "strict") == strict
    assert verl_score(response, reference, "flexible") == flexible


def test_what_stands_for_trl_grades_lists():
    texts = ["<reasoning>x</reasoning>\n<answer>1,072</answer>", "<answer>72 or 73</answer>", "72"]
    assert reward_engines.format_reward(texts) == [1, 0, 0]
    assert reward_engines.answer_reward(texts, ["1072", "72", "72"]) == [1, 1, 0]


def test_the_spread_of_a_measurement():
    assert benchmark.spread([3.0, 1.0, 2.26]) == {"median": 2.3, "min": 1.0, "max": 3.0}


def test_the_benchmark_writes_what_it_measured(tmp_path):
    path = tmp_path / "rewards.json"
    parts = ("throughput", "hostile", "runners", "programs", "judges")
    done = run("rewards.py", "--quick", "--json", str(path), "--only", *parts)
    assert done.returncode == 0, done.stderr
    result = json.loads(path.read_text())
    assert result["quick"] and result["machine"]["cores"] >= 1
    throughput = result["throughput"]
    assert set(throughput["engines"]) == set(ENGINES)
    for name, row in throughput["engines"].items():
        assert row["graded"] == 2 * 4 * 4  # rounds, prompts, members
        assert row["per_s"]["min"] <= row["per_s"]["median"] <= row["per_s"]["max"]
        assert name in OURS or row["source"] in ("re-implementation", "google-tunix")
        assert name not in OURS or row["agreement"] == 1
        assert name in done.stdout
    assert set(result["runners"]["microseconds_per_call"]) == {
        "inline", "threads(8)", "asynchronous(64)", "processes(2)",
    }  # fmt: skip
    assert result["runners"]["pool_kill"]["late_ms"]["min"] > 0
    assert result["programs"]["right"] == result["programs"]["programs"] == 4
    hostile = result["hostile"]
    assert len(hostile["kinds"]) == 12
    assert set(hostile["graders"]) == {case.name for case in grader_cases.cases()}
    assert all(row["on"] in hostile["kinds"] for row in hostile["graders"].values())


def test_the_page_shows_the_numbers_of_the_result_file():
    docs = FOLDER.parent / "docs"
    result = json.loads((docs / "results" / "rewards.json").read_text(encoding="utf-8"))
    shown = (docs / "guides" / "reward_speed.md").read_text(encoding="utf-8").splitlines()
    assert not result["quick"]
    assert [line for line in benchmark.table(result).splitlines() if line and line not in shown] == []


def test_the_formulas_of_the_benchmark_are_judged_as_they_are():
    result = benchmark.symbolic(benchmark.QUICK)
    assert (result["pairs"], result["right"]) == (50, 50)


def test_unknown_parts_are_refused(capsys):
    with pytest.raises(SystemExit) as stopped:
        benchmark.arguments(["--only", "everything"])
    assert stopped.value.code == 2
    assert "everything" in capsys.readouterr().err


# --- The fuzzing ------------------------------------------------------------------------------------------------------


SHARE = within(0, 1)


def case(grade, accepts=SHARE, grade_list=None):
    return Case("planted", grade, grade_list, accepts)


def fuzzed(planted, seconds=0, counts=(300, 2)):
    return fuzz_graders.fuzz([planted], seconds=seconds, seed_number=0, counts=counts)["planted"]


def test_every_public_grader_is_fuzzed():
    from agent_tunix import recipes

    fuzzed_names = {case.name.partition("(")[0] for case in grader_cases.cases()}
    assert set(recipes.graders()) - fuzzed_names <= set(grader_cases.LEFT_OUT)
    assert {"check_numbers", "reasoning_tags.check_answer", "text.stated_answer", "answer_key"} <= fuzzed_names


def test_names_of_cases_are_unique_and_symbolic_comparison_is_asked_for():
    names = [case.name for case in grader_cases.cases(symbolic=True)]
    assert len(names) == len(set(names))
    assert set(names) - {case.name for case in grader_cases.cases()} == {"exact_answer(symbolic=True)"}


def test_an_exception_is_found_and_shrunk_to_its_cause():
    def fails(response, reference):
        return 1 / (0.0 if "</answer>" in response else 1.0)

    failure = fuzzed(case(fails)).failure
    assert "raised ZeroDivisionError" in failure
    shrunk = eval(failure.partition("response = ")[2].partition("\n")[0])
    assert shrunk in ("</answer>", "<answer></answer>", "<reasoning></reasoning><answer></answer>")


@pytest.mark.parametrize(
    ("grade", "message"),
    [
        (lambda response, _: len(response) / 50, "outside of what is documented"),
        (lambda response, _: math.nan if "9" in response else 1.0, "gave nan, which is outside"),
        (lambda response, _: None, "gave None, which is outside"),
    ],
)
def test_a_value_out_of_range_is_found(grade, message):
    assert message in fuzzed(case(grade)).failure


def test_a_grader_that_changes_its_mind_is_found():
    calls = []

    def fickle(response, _):
        calls.append(response)
        return len(calls) % 2 / 2

    assert "something else at the second call" in fuzzed(case(fickle)).failure


def test_a_list_that_is_graded_differently_is_found():
    planted = case(lambda response, _: 1.0, grade_list=lambda response, _: [float("x" not in response * 0 + "x")])
    assert "1.0 for the text and 0.0 for a list of it" in fuzzed(planted).failure


def test_a_slow_text_is_found_and_written_down_as_code():
    def quadratic(response, _):
        if len(response) >= 20_000:
            until = time.thread_time() + 0.07 + 1e-7 * len(response)
            while time.thread_time() < until:
                pass
        return 1.0

    tally = fuzzed(case(quadratic), counts=(1, 2))
    assert "are allowed" in tally.failure
    written = tally.failure.partition("response = ")[2].partition("\n")[0]
    assert len(eval(written)) >= 19_000
    assert tally.slowest_share > 1


def test_a_sound_grader_passes_and_is_counted():
    tally = fuzzed(case(lambda response, _: 1.0, one_of(1), lambda response, _: [1.0]), counts=(20, 2))
    assert tally.failure == ""
    assert tally.calls == 22


def test_the_same_seed_means_the_same_texts():
    def texts_of():
        seen = []
        fuzzed(case(lambda response, _: float(bool(seen.append(response)))), counts=(30, 1))
        return seen

    assert texts_of() == texts_of()


def test_a_quick_run_tells_about_every_grader_and_leaves_nothing_behind(tmp_path):
    done = subprocess.run(
        [sys.executable, str(FOLDER / "fuzz_graders.py"), "--quick", "--seed", "5"],
        capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    assert "raised" not in done.stdout and "gave" not in done.stdout, done.stdout  # time alone is not judged here
    assert all(f"\n{case.name[:40]}" in done.stdout for case in grader_cases.cases())
    assert list(tmp_path.iterdir()) == []


def test_a_word_that_names_no_grader_is_refused(capsys):
    assert fuzz_graders.main(["--quick", "--only", "no such grader"]) == 2
    assert "no such grader" in capsys.readouterr().err


def test_the_curves_of_length_rewards_favour_what_they_say():
    import draw_lengths

    found = {name: draw_lengths.curves(made()) for name, (_, made) in draw_lengths.PANELS.items()}
    for name in ("cosine_length", "concise", "relative_length"):
        assert (np.diff(found[name]["right"]) <= 1e-6).all() and found[name]["right"][0] > found[name]["right"][-1]
    assert (found["cosine_length"]["right"] > found["cosine_length"]["wrong"]).all()
    assert not found["concise"]["wrong"].any()
    np.testing.assert_array_equal(found["soft_overlong"]["right"], found["soft_overlong"]["wrong"])
