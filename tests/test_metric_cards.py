"""Metric cards: the format, the catalogue, and what it looks like."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from agent_tunix.diagnostics import cards
from agent_tunix.diagnostics.diagnosis import RULES, diagnose
from agent_tunix.errors import ConfigError

PAGE = Path(__file__).parents[1] / "docs" / "metric_cards.md"
CATALOGUE = cards.catalogue()
CURVES = [(card, curve) for card in CATALOGUE.values() for curve in card.curves()]
ILL = [(card, curve) for card, curve in CURVES if curve.rule]

OLD_FORM = """---
id: joy
name: Joy
aliases: [joy, fun/mean]
shortDescription: How much fun it is.
whatToLookFor:
  - It should rise.
visualizations:
  yDomain: [0, 10]
  healthy:
    data:
      - { step: 0, value: 1 }
      - { step: 10, value: 9 }
    analysis: "It rises."
  unhealthy:
    sadness:
      label: "Sadness"
      data:
        - { step: 0, value: 2 }
        - { step: 10, value: 1.5 }
      analysis: "It does not."
variations:
  trl-grpo:
    description: 'Counted per group.'
    whatToLookFor:
      - Zero is dull.
---
Joy is measured.
"""
CHILD = """---
id: joy-grpo
parent: joy
name: Joy in groups
shortDescription: Joy per group.
whatToLookFor: [It should rise.]
lastReviewed: 2025-12-14
---
"""


def written(folder: Path, text: str, name: str = "joy.md") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def names(items) -> list[str]:
    return [f"{card.id}-{curve.key}" for card, curve in items]


def rules_of(curve) -> list[str]:
    findings = diagnose(curve.series, bounds=curve.bounds)
    return [finding.rule for finding in findings]


def test_a_card_in_the_older_form_loads(tmp_path):
    card = cards.load(written(tmp_path, OLD_FORM))
    assert (card.id, card.name, card.shortDescription) == ("joy", "Joy", "How much fun it is.")
    assert card.aliases == ("joy", "fun/mean")
    assert card.whatToLookFor == ("It should rise.",)
    assert card.variations["trl-grpo"]["whatToLookFor"] == ["Zero is dull."]
    assert card.body == "Joy is measured."
    healthy, sad = card.curves()
    assert (healthy.key, healthy.steps.tolist(), healthy.values.tolist()) == ("healthy", [0, 10], [1.0, 9.0])
    assert (sad.label, sad.values.tolist(), sad.analysis, sad.rule) == ("Sadness", [2.0, 1.5], "It does not.", "")


def test_a_card_with_a_parent_loads(tmp_path):
    written(tmp_path, OLD_FORM.replace("whatToLookFor:\n  - It should rise.\n", ""))
    written(tmp_path, CHILD, "joy-grpo.md")
    found = cards.load_all(tmp_path)
    assert list(found) == ["joy", "joy-grpo"]
    assert (found["joy-grpo"].parent, found["joy-grpo"].lastReviewed) == ("joy", "2025-12-14")
    assert found["joy-grpo"].curves() == []
    assert "kind of: joy" in cards.render(found["joy-grpo"])


def test_a_child_without_its_parent_is_refused(tmp_path):
    written(tmp_path, CHILD, "joy-grpo.md")
    with pytest.raises(ConfigError, match=r"joy-grpo.md: `parent`: unknown card `joy`"):
        cards.load_all(tmp_path)


def test_a_parent_leaves_what_to_look_for_to_its_children(tmp_path):
    written(tmp_path, OLD_FORM)
    written(tmp_path, CHILD, "joy-grpo.md")
    with pytest.raises(ConfigError, match=r"joy.md: `whatToLookFor` belongs to the children"):
        cards.load_all(tmp_path)


def test_two_cards_cannot_share_an_id(tmp_path):
    written(tmp_path, OLD_FORM)
    written(tmp_path, OLD_FORM, "other.md")
    with pytest.raises(ConfigError, match=r"other.md: `id` joy is also that of joy.md"):
        cards.load_all(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("id: joy\n", "", "joy.md: `id` is missing"),
        ("name: Joy", "name: 3", "joy.md: `name` is missing or is no text"),
        ("aliases:", "alias:", "joy.md: unknown key `alias`; did you mean `aliases`"),
        ("aliases: [joy, fun/mean]", "aliases: [{name: joy}]", "joy.md: `aliases` must list names"),
        ("aliases: [joy, fun/mean]", "libraries: {tlr: [joy]}", "joy.md: `libraries`: .*`tlr`; did you mean `trl`"),
        ("aliases: [joy, fun/mean]", "libraries: [joy]", "joy.md: `libraries` must be a mapping"),
        ("aliases: [joy, fun/mean]", "direction: upward", "joy.md: `direction`: unknown value `upward`"),
        ("aliases: [joy, fun/mean]", "bounds: 3", "joy.md: `bounds` must be"),
        ("aliases: [joy, fun/mean]", "rules: [stagnaton]", "did you mean `stagnation`"),
        (
            '      label: "Sadness"',
            "      rule: sadness",
            "joy.md: `visualizations.unhealthy`: unknown value `sadness`",
        ),
        ('      label: "Sadness"', "      titel: Sad", "joy.md: `visualizations.unhealthy.sadness` must be a mapping"),
        ("value: 1.5", "valve: 1.5", "joy.md: `visualizations.unhealthy.sadness` gives no curve: 'value'"),
        ('    analysis: "It rises."', "    gen: {fn: const, value: 1}", "give either `data` or `gen`"),
        ('    analysis: "It rises."\n', "", "joy.md: curve `healthy` needs two points and an `analysis`"),
        ("    description: 'Counted per group.'\n", "", "joy.md: `variations.trl-grpo` needs a `description`"),
        ("  - It should rise.", "  - [", "joy.md: the front matter is no YAML"),
        ("---\nid", "id", "joy.md: a metric card begins with YAML"),
    ],
)
def test_a_wrong_card_is_refused_by_file_and_key(tmp_path, old, new, message):
    assert old in OLD_FORM
    with pytest.raises(ConfigError, match=message):
        cards.load(written(tmp_path, OLD_FORM.replace(old, new, 1)))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot read the metric card"):
        cards.load(tmp_path / "none.md")


@pytest.mark.parametrize(
    ("spec", "values"),
    [
        ({"fn": "const", "value": 2, "n": 3}, [2, 2, 2]),
        ({"fn": "power", "a": 1, "b": 5, "n": 3}, [1, 3, 5]),
        ({"fn": "step", "a": 0, "b": 1, "n": 4}, [0, 0, 1, 1]),
        ({"fn": "peak", "a": 0, "b": 4, "c": 2, "n": 5}, [0, 2, 4, 3, 2]),
        ({"fn": "growth", "a": 1, "b": 16, "at": 0.5, "n": 5}, [1, 1, 1, 4, 16]),
        ({"fn": "spikes", "value": 1, "height": 9, "at": [0.5], "n": 3}, [1, 9, 1]),
        ({"fn": "points", "at": [0, 1], "values": [0, 2], "n": 3}, [0, 1, 2]),
        ({"fn": "power", "a": 0, "b": 2, "n": 3, "clip": [0, 1]}, [0, 1, 1]),
    ],
)
def test_recipes_give_these_numbers(spec, values):
    assert cards.generate(spec) == pytest.approx(values)


def test_exponential_and_logistic_recipes_follow_their_formulas():
    rise = cards.generate({"fn": "exp_rise", "a": 0, "b": 1, "tau": 0.5, "n": 3})
    assert rise == pytest.approx([0, 1 - np.exp(-1), 1 - np.exp(-2)])
    curve = cards.generate({"fn": "logistic", "a": 1, "b": 3, "mid": 0.5, "width": 0.1, "n": 3})
    assert curve == pytest.approx([1 + 2 / (1 + np.exp(5)), 2, 1 + 2 / (1 + np.exp(-5))])


def test_what_is_lost_is_nan():
    assert np.isnan(cards.generate({"fn": "lost", "value": 1, "n": 4})).tolist() == [False, False, True, True]


def test_noise_is_reproducible_and_has_its_deviation_and_memory():
    spec = {"fn": "const", "value": 0, "noise": {"sd": 2.0, "ar1": 0.6}, "n": 20000, "seed": 5}
    values = cards.generate(spec)
    np.testing.assert_array_equal(values, cards.generate(spec))
    assert values.std() == pytest.approx(2.0, rel=0.05)
    assert np.corrcoef(values[:-1], values[1:])[0, 1] == pytest.approx(0.6, abs=0.03)


@pytest.mark.parametrize(
    ("spec", "message"),
    [({"fn": "sine"}, "unknown fn `sine`"), ({"fn": "const"}, "missing"), ({"fn": "const", "valeu": 1}, "valeu")],
)
def test_a_wrong_recipe_is_refused(spec, message):
    with pytest.raises(ValueError, match=message):
        cards.generate(spec)


def test_the_catalogue_is_complete():
    assert len(CATALOGUE) >= 26
    for card in CATALOGUE.values():
        assert card.file == f"{card.id}.md"
        assert card.shortDescription.endswith(".")
        assert card.whatToLookFor
        assert card.body
        assert len(card.curves()) >= 2


@pytest.mark.parametrize("card", CATALOGUE.values(), ids=lambda card: card.id)
def test_every_card_says_what_changes_under_each_algorithm_and_where_that_comes_from(card):
    assert set(cards.ALGORITHMS) <= set(card.variations) <= {*cards.ALGORITHMS, "trl-grpo", "trl-kto"}
    for variation in card.variations.values():
        assert len(variation["description"].split()) >= 3
        assert variation["description"].endswith(".")
    assert card.sources


def test_the_reward_card_holds_the_three_curves():
    healthy, stagnation, hacking = CATALOGUE["rewards"].curves()[:3]
    assert healthy.steps.tolist() == stagnation.steps.tolist() == hacking.steps.tolist() == list(range(0, 101, 10))
    assert healthy.values.tolist() == [5, 25, 55, 85, 115, 140, 160, 175, 185, 190, 195]
    assert stagnation.values.tolist() == [20, 22, 25, 23, 28, 24, 26, 25, 27, 24, 26]
    assert hacking.values.tolist() == [5, 20, 50, 100, 180, 280, 350, 420, 470, 510, 540]


def test_what_is_normalised_within_a_group_is_the_advantage():
    card = CATALOGUE["rewards"]
    assert {"trl-grpo", "trl-kto"} <= set(card.variations)
    assert "the group-normalised quantity is the advantage" in card.variations["trl-grpo"]["description"]


def test_curves_stay_inside_the_bounds_of_their_metric():
    for card, curve in CURVES:
        low, high = card.bounds
        known = curve.values[np.isfinite(curve.values)]
        assert low is None or known.min() >= low - 1e-12, (card.id, curve.key)
        assert high is None or known.max() <= high + 1e-12, (card.id, curve.key)


def test_curves_fit_the_axis_of_their_card():
    for card, curve in CURVES:
        low, high = card.visualizations["yDomain"]
        known = curve.values[np.isfinite(curve.values)]
        assert low <= known.mean() <= high, (card.id, curve.key)


def test_the_rules_that_cards_may_name_are_those_there_are():
    assert sorted(rule.__name__ for rule in RULES) == sorted(cards.RULE_IDS)


def test_every_health_rule_is_on_a_card():
    assert {rule for card in CATALOGUE.values() for rule in card.rules} == set(cards.RULE_IDS)
    for card, curve in ILL:
        assert curve.rule in card.rules, (card.id, curve.key)


@pytest.mark.parametrize(("card", "curve"), ILL, ids=names(ILL))
def test_an_ill_example_sets_off_its_rule_first(card, curve):
    assert rules_of(curve)[:1] == [curve.rule]


@pytest.mark.parametrize("card", CATALOGUE.values(), ids=lambda card: card.id)
def test_a_healthy_example_sets_off_nothing(card):
    assert rules_of(card.curves()[0]) == []


@pytest.mark.parametrize(
    "name", ["rewards", "actor/ppo_kl", "CRITIC/rewards/mean", "rewards/format/mean", "health/collapse"]
)
def test_a_card_is_found_by_any_name(name):
    assert cards.find(name).id in CATALOGUE


def test_a_wrong_name_gets_a_suggestion():
    with pytest.raises(ConfigError, match=r"unknown metric `actr/ppo_kl`; did you mean `actor/ppo_kl`\? Cards: adv"):
        cards.find("actr/ppo_kl")
    with pytest.raises(ConfigError, match=r"unknown metric `0000`\. Cards: advantages, "):
        cards.find("0000")


@pytest.mark.parametrize("card", CATALOGUE.values(), ids=lambda card: card.id)
@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_page_keeps_its_width_and_has_no_escape_codes(card, width):
    text = cards.render(card, width)
    assert "\x1b" not in text
    longest = max((word for line in text.split("\n") for word in line.split()), key=len)
    assert max(map(len, text.split("\n"))) <= max(width, len(longest) + 2)


def test_a_page_shows_everything_on_the_card():
    card = CATALOGUE["kl"]
    flat = " ".join(cards.render(card).split())
    for text in (
        card.name,
        *card.whatToLookFor,
        *card.sources,
        "[kl_blowup]",
        "nats per token",
        "actor/reward_kl_penalty",
    ):
        assert text in flat
    assert cards.render(card).count("┤") >= 4
    assert "dr-grpo: Usually switched off." in flat


def test_series_on_another_scale_stand_below_the_chart():
    card = CATALOGUE["eval_accuracy"]
    assert cards.render(card).count("beside it: reward ▁") == 2
    assert "beside it" not in cards.render(CATALOGUE["clip_ratio"])


def axis_of(card, key: str) -> tuple[float, float]:
    """Lowest and highest label of the chart of one example."""
    looks = card.visualizations
    one = {"healthy": looks["healthy"]} if key == "healthy" else {"unhealthy": {key: looks["unhealthy"][key]}}
    text = cards.render(dataclasses.replace(card, visualizations={"yDomain": looks["yDomain"], **one}))
    labels = [float(line.split("┤")[0]) for line in text.split("\n") if "┤" in line]
    return labels[-1], labels[0]


@pytest.mark.parametrize("key", ["healthy", "stagnation", "collapse", "too_noisy"])
def test_a_curve_that_would_be_flat_on_the_axis_of_its_card_gets_its_own(key):
    card = CATALOGUE["kl" if key == "healthy" else "rewards"]
    values = next(curve.values for curve in card.curves() if curve.key == key)
    assert np.ptp(values) < np.ptp(card.visualizations["yDomain"]) / 3
    assert axis_of(card, key) == pytest.approx((values.min(), values.max()), rel=0.005)


def test_a_curve_that_fills_a_third_of_the_axis_of_its_card_is_drawn_on_it():
    assert axis_of(CATALOGUE["kl"], "blow_up") == (0, 1.6)
    # 5 to 195 is a little more than a third of 0 to 550.
    assert axis_of(CATALOGUE["rewards"], "healthy") == (0, 550)


def test_curves_of_one_chart_share_its_axis():
    alone = {"metric": "rewards/a/mean", "gen": {"fn": "power", "a": 0.2, "b": 0.3, "n": 9}, "analysis": "Low."}
    pair = alone | {"companions": {"rewards/b/mean": {"fn": "const", "value": 0.9}}}
    card = CATALOGUE["reward_component"]
    axes = [
        axis_of(dataclasses.replace(card, visualizations={"yDomain": [0, 1], "healthy": healthy}), "healthy")
        for healthy in (alone, pair)
    ]
    assert axes == [(0.2, 0.3), (0, 1)]


def test_a_curve_without_a_number_is_still_a_page(tmp_path):
    lost = OLD_FORM.replace("yDomain: [0, 10]", "yDomain: [0, 1]").replace("value: 1 }", "value: .nan }")
    card = cards.load(written(tmp_path, lost.replace("value: 9", "value: .nan")))
    assert "It rises." in cards.render(card)


def test_the_listing_has_a_line_per_card():
    lines = cards.listing().split("\n")
    assert [line.split()[0] for line in lines] == list(CATALOGUE)
    assert lines[0].endswith("Credit that each completion gets, after the baseline.")


def test_the_page_in_the_docs_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == cards.page(), "write `cards.page()` to docs/metric_cards.md"


def test_cards_need_no_jax_and_load_at_once():
    code = """
import sys
sys.modules.update(dict.fromkeys(("jax", "jaxlib", "jaxtyping", "matplotlib")))
from agent_tunix.diagnostics import cards
import time
start = time.process_time()
assert len(cards.catalogue()) >= 26
assert time.process_time() - start < 5
assert cards.catalogue() is cards.catalogue()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
