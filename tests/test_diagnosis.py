"""What `diagnose` says about whole runs: one finding per illness, causes first, and nothing about healthy ones."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_tunix.diagnostics.diagnosis import ALWAYS, EARLIER, RANK, diagnose, told
from agent_tunix.diagnostics.findings import LEVELS, Finding
from agent_tunix.diagnostics.rules import RULES
from agent_tunix.errors import ConfigError

HEALTHY = [5, 25, 55, 85, 115, 140, 160, 175, 185, 190, 195]
STAGNANT = [20, 22, 25, 23, 28, 24, 26, 25, 27, 24, 26]
HACKED = [5, 20, 50, 100, 180, 280, 350, 420, 470, 510, 540]
"""The three curves of the metric card `rewards` of metrics.help."""

IDS = [
    "stagnation",
    "exceeds_bound",
    "explosive_growth",
    "proxy_gold_divergence",
    "length_drift",
    "format_only",
    "answer_spam",
    "collapse",
    "variance_collapse",
    "saturated_high",
    "saturated_low",
    "too_noisy",
    "tradeoff",
    "kl_blowup",
    "entropy_collapse",
    "entropy_explosion",
    "grad_spike",
    "truncation",
    "sampler_mismatch",
    "dead_component",
    "failed_grader",
    "non_finite",
]


def rules_of(series, **facts):
    return [finding.rule for finding in diagnose(series, **facts)]


def run(seed=0, n=200, **changes):
    """A run in order, with some of its series replaced."""
    rng = np.random.default_rng(seed)
    t = np.linspace(0, 1, n)
    task = 0.2 + 0.5 / (1 + np.exp(-(t - 0.4) / 0.1)) + rng.normal(0, 0.03, n)
    layout = 0.97 - 0.4 * np.exp(-t / 0.08) + rng.normal(0, 0.01, n)
    series = {
        "correctness": task,
        "format": layout,
        "reward": 0.7 * task + 0.3 * layout,
        "kl": 0.05 * t + 1e-3 + rng.normal(0, 1e-4, n),
        "entropy": 1.2 - 0.5 * t + rng.normal(0, 0.02, n),
        "completion_length": 200 + 40 * t + rng.normal(0, 4, n),
        "clipped_ratio": 0.03 + rng.normal(0, 0.004, n),
        "zero_std": 0.2 + rng.normal(0, 0.03, n),
        "answer_spam": 0.02 + rng.normal(0, 0.004, n),
        "grad_norm": 2 * np.exp(rng.normal(0, 0.2, n)),
        "loss": rng.normal(0, 0.02, n),
        "gold": task[::10] + rng.normal(0, 0.02, n // 10),
    }
    made = {name: change(t, series) if callable(change) else change for name, change in changes.items()}
    return series | made


def test_the_healthy_curve_of_the_card_gives_nothing():
    assert diagnose({"rewards": HEALTHY}) == []
    assert diagnose({"rewards": HEALTHY}, bounds=(0, 200)) == []


@pytest.mark.parametrize("bounds", [None, (0, 200)])
def test_the_flat_curve_of_the_card_is_stagnation(bounds):
    assert rules_of({"rewards": STAGNANT}, bounds=bounds) == ["stagnation"]


def test_the_hacked_curve_is_an_error_beyond_its_bound_and_a_warning_without_one():
    (error,) = diagnose({"rewards": HACKED}, bounds=(0, 200))
    assert (error.rule, error.level) == ("exceeds_bound", "error")
    assert error.evidence["bound"] == 200
    (warning,) = diagnose({"rewards": HACKED})
    assert (warning.rule, warning.level) == ("explosive_growth", "warn")
    assert warning.evidence["ratio"] == pytest.approx(506.7 / 25, rel=1e-3)  # last and first three values


def test_every_rule_of_the_issue_is_there_once():
    assert sorted(rule.__name__ for rule in RULES) == sorted(IDS)
    assert sorted(RANK) == sorted(IDS)


@pytest.mark.parametrize("seed", range(5))
def test_a_run_in_order_gives_nothing(seed):
    assert diagnose(run(seed), bounds=(0, 1), eval_samples=200) == []
    assert diagnose(run(seed)) == []


@pytest.mark.parametrize(("factor", "shift"), [(100, 0), (100, -50), (0.01, 3)])
def test_the_unit_of_the_reward_does_not_matter(factor, shift):
    def moved(series):
        return series | {"reward": np.asarray(series["reward"]) * factor + shift}

    bounds = (shift, factor + shift)
    assert diagnose(moved(run()), bounds=bounds, eval_samples=200) == []
    flat = run(reward=lambda t, s: 0.2 + np.random.default_rng(1).normal(0, 0.02, t.size))
    alone = {"reward": flat["reward"]}
    assert rules_of(moved(alone), bounds=bounds) == rules_of(alone, bounds=(0, 1)) == ["stagnation"]


def test_the_order_of_the_rows_does_not_matter():
    series = run(answer_spam=lambda t, s: np.where(t > 0.5, 0.6, 0.02))
    del series["gold"]
    steps = np.arange(200)
    mixed = np.random.default_rng(3).permutation(200)
    straight = diagnose(series, steps=steps, bounds=(0, 1))
    shuffled = diagnose({k: np.asarray(v)[mixed] for k, v in series.items()}, steps=steps[mixed], bounds=(0, 1))
    assert [f.rule for f in straight] == ["answer_spam"]
    assert shuffled == straight


def test_of_a_step_that_comes_twice_the_last_value_counts():
    steps = [*range(60), *range(40, 100)]
    values = [0.5] * 40 + [9.0] * 20 + [0.5 + 0.004 * k for k in range(60)]
    assert diagnose({"reward": values}, steps=steps, bounds=(0, 1)) == []


def test_a_value_that_is_there_counts_more_than_a_gap_of_the_same_step():
    steps = [k for k in range(50) for _ in range(2)]
    values = [v for k in range(50) for v in (0.2 + 0.01 * k, None)]
    assert diagnose({"reward": values}, steps=steps, bounds=(0, 1)) == []


def test_short_series_stretch_over_the_run():
    reward = np.concatenate([np.linspace(0.2, 0.5, 100), np.linspace(0.5, 0.9, 100)])
    gold = [0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.44, 0.45, 0.43, 0.44, 0.45, 0.44, 0.42, 0.44]
    found = diagnose({"correct": reward, "reward": reward, "gold": gold}, bounds=(0, 1), eval_samples=400)
    assert [f.rule for f in found] == ["proxy_gold_divergence"]
    assert 60 <= found[0].steps[0] <= 130


def test_the_same_run_under_other_names_gives_the_same():
    names = {
        "reward": "critic/rewards/mean",
        "kl": "actor/kl_loss",
        "entropy": "actor/entropy",
        "completion_length": "response_length/mean",
        "gold": "val-core/gsm8k/acc/mean@1",
    }
    series = {k: v for k, v in run(kl=lambda t, s: 0.02 + 3 * np.clip(t - 0.6, 0, 1)).items() if k in names}
    renamed = {names[name]: values for name, values in series.items()}
    assert rules_of(renamed, bounds=(0, 1)) == rules_of(series, bounds=(0, 1)) == ["kl_blowup"]


def test_names_nobody_knows_are_ignored():
    assert diagnose({"weather": ["rain", "sun"], "reward_std_of_mine": [1, 2]}) == []


def test_roles_say_what_odd_names_mean_in_either_direction():
    t = np.linspace(0, 1, 100)
    noise = np.random.default_rng(0).normal(0, 0.01, 100)
    series = {"a": 0.3 + 0.6 * np.minimum(4 * t, 1) + noise, "b": 0.1 + noise, "r": 0.2 + 0.2 * np.minimum(4 * t, 1)}
    assert diagnose(series) == []
    roles = {"a": "format", "b": "task", "r": "reward"}
    assert rules_of(series, roles=roles, bounds=(0, 1)) == ["format_only"]
    assert rules_of(series, roles={role: name for name, role in roles.items()}, bounds=(0, 1)) == ["format_only"]


def test_the_role_of_a_component_is_not_that_of_its_other_statistics():
    t = np.linspace(0, 1, 60)
    series = {
        "eval/format": [1.0] * 4,
        "reward/part/correctness/group_std": np.full(60, 0.1),
        "reward/part/format": 0.3 + 0.67 * np.minimum(4 * t, 1),
        "reward/part/correctness": np.zeros(60),
    }
    roles = {"reward/part/format": "format", "reward/part/correctness": "task"}
    assert rules_of(series, roles=roles) == rules_of(series) == ["format_only"]


def test_bounds_by_name_are_those_of_any_alias():
    high = np.full(40, 3.0)
    assert rules_of({"critic/rewards/mean": high}, bounds={"reward": (0, 1)}) == ["exceeds_bound"]


@pytest.mark.parametrize(
    "series",
    [
        {},
        {"reward": []},
        {"reward": [0.3]},
        {"reward": [0.3, 0.4]},
        {"kl": [None, None, None]},
        {"entropy": [1.0, np.nan]},
        {"gold": [0.3, 0.5], "completion_length": [10]},
    ],
)
def test_too_little_to_judge_gives_nothing(series):
    assert diagnose(series, bounds=(0, 1)) == []


@pytest.mark.parametrize("values", ["high", ["a", "b"], [[1, 2], [3, 4]], [{"x": 1}], {1, 2}])
def test_what_is_no_row_of_numbers_is_named(values):
    with pytest.raises(ConfigError, match="`reward`"):
        diagnose({"reward": values})


def test_steps_of_another_length_are_named():
    with pytest.raises(ConfigError, match="3 values but 2 steps"):
        diagnose({"reward": [1, 2, 3]}, steps={"reward": [1, 2]})


@pytest.mark.parametrize("bounds", [(1, 0), (1,), "ab", {"reward": (2, 2)}])
def test_bounds_that_mean_nothing_are_refused(bounds):
    with pytest.raises(ConfigError, match="bounds of"):
        diagnose({"reward": [1.0, 2.0]}, bounds=bounds)


NUMBERS = st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True), st.integers(-3, 3))
NAMES = st.sampled_from(
    [
        "reward",
        "correct",
        "format",
        "kl",
        "entropy",
        "gold",
        "length",
        "trunc",
        "zero_std",
        "spam",
        "grad_norm",
        "loss",
        "reward/max",
        "reward_std",
        "failed_fraction",
        "sampler_mismatch",
        "rewards/style/mean",
    ]
)


@settings(max_examples=60, deadline=None)
@given(
    series=st.dictionaries(NAMES, st.lists(NUMBERS, max_size=60), max_size=6),
    bounds=st.sampled_from([None, (0, 1), (-5, 5)]),
    planned=st.sampled_from([None, 10, 1000]),
)
def test_any_numbers_give_findings_and_never_a_traceback(series, bounds, planned):
    found = diagnose(series, bounds=bounds, planned_steps=planned)
    assert all(f.rule in IDS and f.level in LEVELS and f.message and f.remedy for f in found)
    assert all(f.steps[0] <= f.steps[1] for f in found)
    levels = [LEVELS.index(f.level) for f in found]
    assert levels == sorted(levels, reverse=True)


@settings(max_examples=25, deadline=None)
@given(level=st.floats(-1e6, 1e6), n=st.integers(1, 300))
def test_a_constant_never_collapses_or_explodes(level, n):
    assert set(rules_of({"reward": np.full(n, level)})) <= {"stagnation", "saturated_low", "saturated_high"}


def finding(rule, first=0, level="warn", **evidence):
    return Finding(rule, level, (first, 100), rule, evidence)


def test_a_cause_takes_its_symptoms_and_names_them():
    found = told([finding("stagnation"), finding("variance_collapse", 50), finding("entropy_collapse", 20)], 100)
    assert [f.rule for f in found] == ["entropy_collapse"]
    assert found[0].evidence["explains"] == "variance_collapse, stagnation"


@pytest.mark.parametrize(("kl", "fall", "first"), [(30, 60, "kl_blowup"), (80, 60, "collapse"), (60, 60, "kl_blowup")])
def test_of_two_that_may_cause_each_other_the_earlier_is_told(kl, fall, first):
    found = told([finding("collapse", fall), finding("kl_blowup", kl)], 100)
    assert [f.rule for f in found] == [first]


def test_what_explains_nothing_stays_and_errors_come_first():
    found = told([finding("dead_component", 0), finding("grad_spike", 50), finding("exceeds_bound", 90, "error")], 100)
    assert [f.rule for f in found] == ["exceeds_bound", "grad_spike", "dead_component"]


@pytest.mark.parametrize(("ratio", "first"), [(0.1, "format_only"), (3.0, "length_drift")])
def test_a_format_shortens_answers_and_does_not_treble_them(ratio, first):
    found = told([finding("length_drift", 5, ratio=ratio), finding("format_only")], 100)
    assert [f.rule for f in found] == [first]


@pytest.mark.parametrize(("ratio", "first"), [(1.7, "truncation"), (3.0, "length_drift")])
def test_completions_that_are_cut_grow_little(ratio, first):
    found = told([finding("length_drift", 30, ratio=ratio), finding("truncation", 20)], 100)
    assert [f.rule for f in found] == [first]


def test_a_tradeoff_and_format_only_are_one_illness_only_for_the_same_pair():
    form = finding("format_only", format="format", task="correct")
    same = finding("tradeoff", 10, up="format", down="correct")
    other = finding("tradeoff", 10, up="style", down="correct")
    assert [f.rule for f in told([form, same], 100)] == ["format_only"]
    assert sorted(f.rule for f in told([form, other], 100)) == ["format_only", "tradeoff"]


def test_a_component_that_dies_at_once_was_not_traded():
    dead = finding("dead_component", 50, component="style")
    quick = Finding("tradeoff", "warn", (45, 55), "", {"up": "correct", "down": "style"})
    slow = Finding("tradeoff", "warn", (5, 60), "", {"up": "correct", "down": "style"})
    assert [f.rule for f in told([dead, quick], 100)] == ["dead_component"]
    assert [f.rule for f in told([dead, slow], 100)] == ["tradeoff"]


def test_the_tables_of_causes_name_rules_and_have_no_circles():
    for table in (ALWAYS, EARLIER):
        for cause, symptoms in table.items():
            assert {cause, *symptoms} <= {*IDS, "*"}
            assert cause not in symptoms
    # Which of two that may explain each other it is, is decided by how quick the fall was and how far the length grew.
    mutual = {frozenset((a, b)) for a, bs in ALWAYS.items() for b in bs if a in ALWAYS.get(b, ())}
    pairs = [("tradeoff", "dead_component"), ("length_drift", "truncation"), ("length_drift", "format_only")]
    assert mutual == {frozenset(pair) for pair in pairs}


def test_a_million_rows_take_seconds():
    rng = np.random.default_rng(0)
    t = np.linspace(0, 1, 1_000_000)
    series = {"reward": 0.2 + 0.5 * t + rng.normal(0, 0.05, t.size), "loss": rng.normal(0, 1, t.size)}
    start = time.perf_counter()
    assert diagnose(series, bounds=(0, 1)) == []
    assert time.perf_counter() - start < 60  # 0.2 s measured; anything but linear takes hours


def test_a_young_run_is_judged_only_on_what_cannot_change():
    flat = {"reward": 0.2 + np.random.default_rng(0).normal(0, 0.02, 40)}
    assert rules_of(flat, bounds=(0, 1)) == ["stagnation"]
    assert rules_of(flat, bounds=(0, 1), planned_steps=400) == []
    assert rules_of({"reward": [0.2, 0.3, 5.0, 5.0, 5.0]}, bounds=(0, 1), planned_steps=400) == ["exceeds_bound"]


def test_a_rule_that_is_left_out_says_nothing():
    series = run(kl=lambda t, s: 0.02 + 3 * np.clip(t - 0.6, 0, 1))
    without = tuple(rule for rule in RULES if rule.__name__ != "kl_blowup")
    assert rules_of(series, bounds=(0, 1)) == ["kl_blowup"]
    assert rules_of(series, bounds=(0, 1), rules=without) == []


def test_a_cause_is_as_serious_as_the_worst_it_explains():
    (found,) = told([finding("truncation", 5), finding("proxy_gold_divergence", 20, "error")], 100)
    assert (found.rule, found.level) == ("truncation", "error")


def test_what_is_lost_from_the_start_on_is_not_blamed_on_spikes():
    found = told([finding("grad_spike", 3), finding("collapse", 4, from_start=1.0)], 100)
    assert [f.rule for f in found] == ["collapse"]
    assert [f.rule for f in told([finding("grad_spike", 3), finding("collapse", 4)], 100)] == ["grad_spike"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"roles": {"f1": "banana"}}, "unknown role `banana`"),
        ({"roles": {"reward": "banana"}}, "unknown role of `reward` `banana`"),
        ({"roles": {"f1": 3}}, "unknown role `3`"),
        ({"roles": ["f1"]}, "roles are ['f1']; give a mapping"),
        ({"eval_samples": -5}, "eval_samples is -5"),
        ({"eval_samples": "5"}, "eval_samples is '5'"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(arguments, words):
    with pytest.raises(ConfigError) as refused:
        diagnose({"reward": [0.1] * 20, "f1": [0.2] * 20}, **arguments)
    assert words in str(refused.value)


def test_series_are_a_mapping():
    with pytest.raises(ConfigError, match="series are"):
        diagnose([0.1, 0.2])


@pytest.mark.parametrize("value", [16777216.0, -1e9, 1e30, 0.0])
def test_a_held_out_score_that_never_changes_has_a_scale_of_its_own(value):
    assert diagnose({"reward": list(range(20)), "gold": [value] * 20}, bounds=(0, 100)) is not None
