"""The labelled runs that health rules are measured on: they are what they say, whatever a rule thinks of them."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(FOLDER))

import diagnostics as benchmark  # noqa: E402
from health_families import FAMILIES, HEALTHY_FAMILIES, ILL_FAMILIES  # noqa: E402
from health_runs import REPORTING_FROM, case, metric_rows, rescaled, world  # noqa: E402
from health_simulation import COURSES, World, at_rows, course, observe  # noqa: E402
from ill_families import flat_share  # noqa: E402

SEEDS = range(40)


def head(values):
    return float(np.mean(values[: max(3, len(values) // 20)]))


def tail(values):
    return float(np.mean(values[-max(3, len(values) // 20) :]))


def at_onset(true: World, values):
    return float(values[max(0, int(true.onset * true.steps) - 1)])


def gained_accuracy(true: World):
    """Since the first step that is not before the onset."""
    return tail(true.gold) - float(true.gold[math.ceil(true.onset * (true.steps - 1))])


def level(values, low, high):
    return low <= float(np.min(values)) and float(np.max(values)) <= high


# --- Labels are honest ------------------------------------------------------------------------------------------------


def stagnates(true):
    return level(true.reward, 0.08, 0.58) and abs(tail(true.reward) - head(true.reward)) < 0.04


def leaves_its_bound(true):
    return tail(true.reward) > 1.15


def explodes(true):
    thirds = np.interp([0, 1 / 3, 2 / 3], np.linspace(0, 1, true.steps), true.reward)
    return tail(true.reward) > 15 * true.reward[0] and np.diff(thirds)[1] > 1.5 * np.diff(thirds)[0]


def tricks(true):
    gained = tail(true.reward) - at_onset(true, true.reward)
    return gained > 0.15 and gained_accuracy(true) < 0.06


def drifts_in_length(true):
    ratio = tail(true.median_length) / at_onset(true, true.median_length)
    return (ratio > 2 or ratio < 0.37) and gained_accuracy(true) < 0.05


def learns_only_the_format(true):
    layout, task = true.rates[true.format], true.rates[true.task]
    return tail(layout) > 0.8 and tail(layout) - at_onset(true, layout) > 0.35 and tail(task) - head(task) < 0.03


def spams(true):
    return tail(true.spam) > 0.38 and gained_accuracy(true) < 0.04


def collapses(true):
    peak = float(np.max(true.reward))
    return peak - tail(true.reward) > max(0.5 * peak, 0.2)


def loses_variance(true):
    return tail(flat_share(true)) > 0.7 and 0.15 < tail(true.solve) < 0.8


def jumps(true):
    seen = observe(true, np.random.default_rng(0))["reward"]
    first, second = np.array_split(true.reward, 2)
    return float(np.std(np.diff(seen))) / math.sqrt(2) > 0.16 and abs(np.mean(second) - np.mean(first)) < 0.2


def trades(true):
    changes = [tail(rate) - at_onset(true, rate) for rate in true.rates.values()]
    return max(changes) > 0.3 and min(changes) < -0.2 and tail(true.reward) > at_onset(true, true.reward)


def diverges(true):
    return tail(true.kl) > max(0.5, 8 * at_onset(true, true.kl))


def loses_entropy(true):
    return tail(true.entropy) < 0.13 * head(true.entropy)


def gains_entropy(true):
    return tail(true.entropy) > max(1.4, 2.7 * at_onset(true, true.entropy))


def spikes(true):
    first = int(true.onset * true.steps)
    return np.sum(true.spikes >= 12) >= max(8, 0.045 * (true.steps - first)) and np.all(true.spikes[:first] == 1)


def is_cut(true):
    return tail(true.truncated) > 0.4


def mismatches(true):
    return tail(true.mismatch) > 0.08


def has_a_dead_component(true):
    rare = [name for name, rate in true.parts.items() if np.max(rate) <= 1 / 3000]
    return all(true.weights[name] > 0.12 for name in [*true.constants, *rare]) and bool(true.constants or rare)


def grader_fails(true):
    return tail(true.failed) > 0.25 or np.mean(true.failed[int(true.onset * true.steps) :] > 0.6) > 0.2


def is_not_finite(true):
    return sum(np.sum(~np.isfinite(values)) for values in true.holes.values()) >= 3


STRENGTH = {
    "stagnation": stagnates,
    "exceeds_bound": leaves_its_bound,
    "explosive_growth": explodes,
    "proxy_gold_divergence": tricks,
    "length_drift": drifts_in_length,
    "format_only": learns_only_the_format,
    "answer_spam": spams,
    "collapse": collapses,
    "variance_collapse": loses_variance,
    "saturated_high": lambda true: np.min(true.reward) > 0.97,
    "saturated_low": lambda true: np.max(true.reward) < 0.016,
    "too_noisy": jumps,
    "tradeoff": trades,
    "kl_blowup": diverges,
    "entropy_collapse": loses_entropy,
    "entropy_explosion": gains_entropy,
    "grad_spike": spikes,
    "truncation": is_cut,
    "sampler_mismatch": mismatches,
    "dead_component": has_a_dead_component,
    "failed_grader": grader_fails,
    "non_finite": is_not_finite,
}


@pytest.mark.parametrize("family", ILL_FAMILIES)
def test_ill_runs_are_ill(family):
    weak = [
        seed for seed in (*SEEDS, *(REPORTING_FROM + k for k in SEEDS)) if not STRENGTH[family](world(family, seed))
    ]
    assert weak == []


@pytest.mark.parametrize("family", HEALTHY_FAMILIES)
def test_healthy_runs_learn_and_break_nothing(family):
    for seed in (*SEEDS, *(REPORTING_FROM + k for k in SEEDS)):
        true = world(family, seed)
        assert tail(true.gold) - head(true.gold) > 0.05, seed
        assert tail(true.reward) - head(true.reward) > 0.06, seed
        assert np.max(np.maximum.accumulate(true.reward) - true.reward) < 0.15, seed
        assert max(np.max(true.truncated), np.max(true.spam), np.max(true.failed)) < 0.1, seed
        assert tail(true.entropy) > 0.25 * head(true.entropy), seed
        assert np.max(true.kl) < 0.5, seed
        assert np.max(true.mismatch) < 0.01, seed
        assert true.constants == {}, seed
        assert true.holes == {}, seed


def test_every_rule_has_a_family_and_there_are_enough_healthy_ones():
    assert sorted(ILL_FAMILIES) == sorted(STRENGTH)
    assert all(FAMILIES[rule].label == rule for rule in STRENGTH)
    assert len(HEALTHY_FAMILIES) >= 8
    assert sorted(benchmark.rule_id(rule) for rule in benchmark.RULES) == sorted(STRENGTH)


# --- Runs are what they say -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_seed_gives_the_same_run_and_another_another(family):
    one, again, other = case(family, 3), case(family, 3), case(family, 4)
    assert one.series.keys() == again.series.keys()
    for name, values in one.series.items():
        np.testing.assert_array_equal(values, again.series[name])
    main, elsewhere = one.series[one.reward_names[0]], other.series[other.reward_names[0]]
    assert main.size != elsewhere.size or not np.array_equal(main, elsewhere, equal_nan=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_series_have_steps_of_their_length_and_hold_what_is_needed(family):
    for seed in range(12):
        given = case(family, seed)
        for name, values in given.series.items():
            steps = given.steps[name] if isinstance(given.steps, dict) else given.steps
            assert steps is None or steps.shape == values.shape
            assert values.shape[0] >= 5
        assert 60 <= given.total <= 1000
        assert FAMILIES[family].bounds == "maybe" or (given.bounds is None) == (FAMILIES[family].bounds == "never")
        if "eval_accuracy" in FAMILIES[family].needs:
            assert given.eval_samples is not None
        if "eval_accuracy" in FAMILIES[family].never:
            assert given.eval_samples is None


def test_logs_come_with_gaps_repeats_units_and_in_every_language():
    given = [case("learns", seed) for seed in range(80)]
    steps = [next(iter(c.steps.values())) if isinstance(c.steps, dict) else c.steps for c in given]
    assert sum(s is not None and np.any(np.diff(s) <= 0) for s in steps) > 5
    assert sum(s is not None and np.any(np.diff(s) > 1) for s in steps) > 10
    assert sum(np.isnan(c.series[c.reward_names[0]]).any() for c in given) > 5
    names = {c.reward_names[0] for c in given}
    assert names == {"reward/mean", "reward", "critic/rewards/mean", "rewards/train/score/mean"}
    assert sum(c.roles is not None for c in given) > 4
    spans = [c.bounds[1] - c.bounds[0] for c in given if isinstance(c.bounds, tuple)]
    assert min(spans) < 1 < max(spans)


def test_rows_of_metrics_hold_every_value_once_and_in_order():
    given = case("proxy_gold_divergence", 5)
    rows = list(metric_rows(given))
    for name, values in given.series.items():
        told = [row[name] for row in rows if name in row]
        np.testing.assert_array_equal(told, values[~np.isnan(values)])


def test_rescaling_moves_rewards_and_bounds_together():
    given = next(c for c in (case("saturated_high", seed) for seed in range(9)) if isinstance(c.bounds, tuple))
    moved = rescaled(given, 100.0, -50.0)
    name = given.reward_names[0]
    assert moved.bounds == (given.bounds[0] * 100 - 50, given.bounds[1] * 100 - 50)
    np.testing.assert_allclose(moved.series[name], given.series[name] * 100 - 50)


# --- The simulation ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", COURSES)
def test_a_course_is_nothing_before_its_onset_and_complete_at_the_end(shape):
    for seed in range(20):
        values = course(shape, 300, 0.4, np.random.default_rng(seed))
        assert np.all(np.abs(values[:119]) < 1e-9)
        assert np.all((values >= -1e-9) & (values <= 1.0501))
        assert 0.94 < values[-10:].mean() < 1.06


def test_observations_follow_from_the_truth():
    true = world("learns", 11)
    true.graded, true.spread = False, np.full(true.steps, 6.0)
    many = at_rows(true, np.repeat(true.steps // 2, 400))
    seen = observe(many, np.random.default_rng(1))
    assert seen["reward"].mean() == pytest.approx(many.reward[0], abs=0.01)
    assert seen["clipped_ratio"].mean() == pytest.approx(many.truncated[0], abs=0.01)
    assert seen[f"part {true.task}"].mean() == pytest.approx(many.proxy[0], abs=0.01)


def test_flat_groups_follow_the_beta_binomial_distribution():
    """With one completion solved at 1/2, spread 2 is uniform: both of a pair agree with probability 2/3."""
    true = world("variance_collapse", 0)
    true.solve, true.spread, true.group = np.full(true.steps, 0.5), np.full(true.steps, 2.0), 2
    assert flat_share(true)[0] == pytest.approx(2 / 3)


# --- The benchmark ----------------------------------------------------------------------------------------------------


def test_wilson_interval_is_that_of_the_formula():
    """10 of 20 at z = 2: (10 + 2) / 24 +- 2 / 24 * sqrt(5 + 1)."""
    low, high = benchmark.wilson(10, 20, z=2.0)
    assert (low, high) == pytest.approx((0.5 - math.sqrt(6) / 12, 0.5 + math.sqrt(6) / 12))


def test_jobs_keep_to_their_half_of_the_seeds():
    tuning, reporting = benchmark.jobs(3, 40, "tuning"), benchmark.jobs(3, 40, "reporting")
    assert max(job.seed for job in tuning) < REPORTING_FROM <= min(job.seed for job in reporting)
    assert len(tuning) == 3 * len(ILL_FAMILIES) + 40
    assert len(set(tuning)) == len(tuning)


def test_a_run_that_is_watched_reports_its_illness_after_its_onset():
    verdict = benchmark.judge(benchmark.Job("sampler_mismatch", 2, online=True, ablate=True))
    assert verdict.first == verdict.reported == "sampler_mismatch"
    assert verdict.onset < verdict.first_report <= verdict.total
    assert "sampler_mismatch" not in verdict.without
    assert benchmark.watched(case("learns", 2)) == (None, "")


def test_the_command_writes_its_result_and_renews_the_tables_of_a_page(tmp_path, capsys):
    page, result = tmp_path / "page.md", tmp_path / "result.json"
    header = "| healthy runs | runs | false alarms | 95 % interval |"
    page.write_text(f"# Title\n\n{header}\n|---|\n| old | 1 |\n\nThe end.\n", encoding="utf-8")
    sizes = ["--runs", "2", "--healthy", "18", "--processes", "1", "--only", "saturated_high", "learns"]
    assert benchmark.main([*sizes, "--json", str(result), "--page", str(page)]) == 0
    written = json.loads(result.read_text(encoding="utf-8"))
    assert written["families"]["saturated_high"]["first_finding"]["of"] == 2
    assert written["healthy"]["runs"] == 1
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"# Title\n\n{header}\n|---|--:|--:|--:|\n| all | 1 |")
    assert text.endswith("The end.\n")
    assert "| `saturated_high` | 2 |" in capsys.readouterr().out


def allowed_misses(runs, share, doubt=1e-4):
    """Misses that a rule with exactly this share of misses exceeds with a probability below `doubt`."""
    probability, total, misses = (1 - share) ** runs, 0.0, 0
    while total + probability < 1 - doubt:
        total += probability
        probability *= (runs - misses) / (misses + 1) * share / (1 - share)
        misses += 1
    return misses


def test_allowed_misses_are_those_of_the_binomial_distribution():
    """Two runs, half of them missed: 0, 1, 2 misses with 1/4, 1/2, 1/4."""
    assert [allowed_misses(2, 0.5, doubt) for doubt in (0.8, 0.3, 0.2)] == [0, 1, 2]


@pytest.mark.slow
def test_a_small_slice_finds_illnesses_first_and_leaves_healthy_runs_alone():
    verdicts = benchmark.judged(benchmark.jobs(20, 126, "reporting", rescale=False), processes=1)
    result = benchmark.summary(verdicts)
    for family, row in result["families"].items():
        missed = round((1 - row["first_finding"]["share"]) * 20)
        assert missed <= allowed_misses(20, 0.03), (family, row["missed"])
    ill = result["all_families"]
    assert round((1 - ill["share"]) * ill["of"]) <= allowed_misses(ill["of"], 0.03)
    alarms = result["healthy"]["false_alarms"]
    assert round(alarms["share"] * alarms["of"]) <= allowed_misses(alarms["of"], 0.005), result["healthy"]["alarmed"]
