"""From a run folder to an answer, and the table of advice on situations made up for it."""

import dataclasses
import json
import math
import shutil

import numpy as np
import pytest

from agent_tunix import components, jobs, recipes, rewards, tradeoffs
from agent_tunix.components import Limit, Stored
from agent_tunix.diagnostics import advice
from agent_tunix.diagnostics.advice import Situation, advise
from agent_tunix.errors import RunError

REWARD = '''
from agent_tunix import rewards

def digits(response):
    """Share of digits."""
    return sum(c.isdigit() for c in response) / max(len(response), 1)

def short(response):
    """1 for a short response."""
    return float(len(response) < 7)

def both():
    return rewards.weighted_sum(
        (4.0, rewards.per_completion(digits, name="digits", bounds=(0, 1))),
        (1.0, rewards.per_completion(short, name="short", bounds=(0, 1))),
    )

def never(response):
    """Nobody knows how."""
    return 0.0

def unmet():
    return rewards.weighted_sum(
        (4.0, rewards.per_completion(digits, name="digits", bounds=(0, 2))),
        (1.0, rewards.per_completion(never, name="never", bounds=(0, 1))),
        (1.0, rewards.per_completion(never, name="unbounded")),
    )

def one():
    return rewards.per_completion(digits, name="digits", bounds=(0, 1))
'''


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tradeoff")
    (folder / "graders.py").write_text(REWARD)
    settings = {
        "model": {"layers": 1, "width": 16, "heads": 2, "kv_heads": 1, "head_dim": 8, "mlp": 32},
        "data": {"train_size": 64, "heldout_size": 16},
        "sampling": {"max_completion_tokens": 8},
        "warm_start": {"steps": 0},
        "training": {
            "steps": 4, "prompts_per_batch": 4, "group_size": 4, "reward_function": f"{folder}/graders.py:both"
        },
        "evaluation": {"rows": 8, "prompts_per_batch": 8, "every_steps": 0, "sampled": False},
        "checkpoint": {"every_steps": 2, "keep": 2},
        "run_dir": str(folder / "run"),
        "cache_dir": str(folder / "cache"),
    }  # fmt: skip
    return jobs.train(recipes.from_mapping(settings)).path


@pytest.fixture(scope="module")
def found(run):
    return tradeoffs.tradeoff(run, prompts=4, samples=64, directions=2)


def test_a_run_is_read_sampled_and_walked(found):
    assert found.step == 4 and found.completions == 64 and list(found.components) == ["digits", "short"]
    assert [(pair.first, pair.second) for pair in found.pairs] == [("digits", "short"), ("short", "digits")]
    assert found.components["digits"].weight == pytest.approx(4.0, abs=1e-4)
    assert found.pairs[0].ratio == pytest.approx(4.0, abs=1e-4)
    assert sum(one.share for one in found.components.values()) == pytest.approx(1.0, abs=1e-4)
    assert found.components["digits"].asymmetry.up > 0 and found.pairs[0].preconditioned is not None


def test_the_forecast_stands_beside_what_happened(found):
    first, second = found.pairs[0].stages[:2]
    assert first.first_step == 0 and second.first_step >= first.last_step
    assert first.happened == pytest.approx(second.mean_second - first.mean_second)
    assert math.isnan(found.pairs[0].stages[-1].happened)


def test_the_table_says_it_all(found):
    text = found.table()
    for words in (
        "checkpoint 4",
        "digits pushed, short watched",
        "+digits -short",
        "weight ratio",
        "forecast",
        "KL up",
    ):
        assert words in text


def test_json_holds_plain_numbers_only(found):
    document = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert document["pairs"][0]["quadrants"]["pp"]["all"] == found.pairs[0].quadrants["pp"].all
    assert document["components"]["digits"]["asymmetry"]["amount"] > 0


def test_an_earlier_checkpoint_can_be_asked_for_without_walks(run):
    found = tradeoffs.tradeoff(run, checkpoint=2, prompts=4, samples=16, walks=False)
    assert found.step == 2 and found.components["digits"].asymmetry is None
    assert "not measured" in found.table()


def test_one_component_is_no_trade_off(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("graders.py:both", "graders.py:one"))
    with pytest.raises(RunError, match="has 1 component"):
        tradeoffs.tradeoff(tmp_path / "run", prompts=4, samples=16)


def test_a_component_that_is_never_met_is_lost_if_its_bounds_tell(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("graders.py:both", "graders.py:unmet"))
    found = tradeoffs.tradeoff(tmp_path / "run", prompts=4, samples=16, amount=0.01, directions=0)
    never, digits = found.components["never"], found.components["digits"]
    assert (never.low, never.high, never.least, never.greatest, never.met) == (0, 0, 0, 1, 0)
    assert "lost" in {item.rule for pair in found.pairs if pair.second == "never" for item in pair.advice}
    assert math.isnan(found.components["unbounded"].met)
    assert not any(item.rule == "lost" for pair in found.pairs if pair.second == "unbounded" for item in pair.advice)
    # Of what varies the walk's amount is a share of what it could reach, not of what it did.
    assert digits.high < 2 and digits.asymmetry.amount == pytest.approx(0.02)
    assert never.asymmetry is None


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunError, match="is not a run"):
        tradeoffs.tradeoff(tmp_path)


def test_stages_of_a_run_that_trades_one_for_the_other():
    # f and g exclude each other; f takes over from one half of the run to the other.
    f = np.array([[1.0, 1, 0, 0]] * 4 + [[1.0, 1, 1, 0]] * 4)
    g = 1 - f
    stored = Stored(4 * f + g, np.ones(f.shape, bool), {"f": f, "g": g}, np.full(f.shape, np.nan), np.arange(8))
    early, late = tradeoffs.stages(stored, "f", "g", count=2)
    assert early.limit == Limit(1.0, 1.0, 1.0) and early.covariance == pytest.approx(-1 / 3)
    assert early.happened == pytest.approx(-0.25) and (late.first_step, late.last_step) == (4, 7)
    # Of 4 f + 1 - f = 3 f + 1 no weights can be told apart, but their difference can.
    weights = components.part_weights(stored)
    assert weights["f"] - weights["g"] == pytest.approx(3.0) and early.forecast < 0
    assert tradeoffs.stages(stored, "f", "length") == []


# --- Advice -----------------------------------------------------------------------------------------------------------

CALM = Situation("f", "g", 1.0, 1.0, 0.0, math.inf, 5.0, math.inf, 0.7, 0.4, 0.1, 0.3, -1.0)


def rules_of(**changes):
    return [item.rule for item in advise(dataclasses.replace(CALM, **changes))]


def test_a_calm_situation_needs_no_advice():
    assert advise(CALM) == [] and advise(Situation("f", "g")) == []


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"weight_first": 4.0, "correlation": -0.5, "limit": 2.0, "limit_low": 1.5}, "weight_above_limit"),
        ({"cosine": -0.6, "cosine_high": -0.4, "threshold": -0.25}, "interference"),
        ({"weight_first": 4.0, "met_second": 0.3}, "winner_takes_all"),
        ({"met_second": 0.01}, "lost"),
        ({"met_second": 0.0, "share_second": 0.0, "weight_second": math.nan}, "lost"),  # a weight would not help
        ({"share_second": 0.02}, "unheard"),
    ],
)
def test_every_line_of_the_table_has_its_situation(changes, rule):
    assert rules_of(**changes) == [rule]


def test_below_the_limit_the_weight_is_no_matter():
    assert rules_of(weight_first=1.9, correlation=-0.5, limit=2.0) == []


def test_what_is_met_needs_no_credit():
    assert rules_of(share_second=0.0, met_second=0.99) == []


def test_advice_tells_sure_from_probable():
    above = {"weight_first": 4.0, "correlation": -0.5, "limit": 2.0}
    sure = advise(dataclasses.replace(CALM, **above, limit_low=1.5, limit_high=3.0))[0]
    probable = advise(dataclasses.replace(CALM, **above, limit_low=1.5, limit_high=9.0))[0]
    assert "g falls" in sure.message and "g probably falls" in probable.message
    assert sure.settings[0] == "weight of f in rewards.weighted_sum at most 1.5"


def test_the_default_reward_is_told_its_own_settings():
    seen = Situation("format", "correctness", 0.6, 0.4, -0.5, limit=1.0, limit_low=0.8)
    assert advise(seen)[0].settings[0] == "reward.alpha=0.32 (it is 0.6)"


def test_low_rank_is_spoken_of_only_where_it_is_low():
    changes = {"cosine": -0.6, "cosine_high": -0.4, "threshold": -0.25}
    full, low = (advise(dataclasses.replace(CALM, **changes, low_rank=flag))[0].settings for flag in (False, True))
    assert not any("lora_rank" in line for line in full) and any("model.lora_rank" in line for line in low)


def test_settings_that_advice_names_exist():
    text = " ".join([advice.DECOUPLED, "rewards.product rewards.gate rewards.anneal rewards.curriculum weighted_sum"])
    assert "decoupled_parts" in text
    for name in ("product", "gate", "anneal", "curriculum", "weighted_sum"):
        assert name in rewards.__all__
    recipes.validate(recipes.from_mapping({"advantage": {"estimator": "decoupled"}, "reward": {"alpha": 0.32}}))
    for section, keys in {
        "optimizer": ("learning_rate",),
        "training": ("prompts_per_batch", "group_size"),
        "model": ("lora_rank",),
        "warm_start": ("steps",),
        "data": ("level",),
        "reward": ("alpha", "beta", "shaping"),
    }.items():
        config = dataclasses.asdict(recipes.from_mapping({}))
        assert set(keys) <= config[section].keys()
