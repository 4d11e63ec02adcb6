"""Which quantity a metric name stands for."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_tunix import rewards
from agent_tunix.components import component_measures
from agent_tunix.diagnostics.cards import catalogue
from agent_tunix.diagnostics.names import Resolved, resolve
from agent_tunix.measures import latency_measures, reward_measures
from agent_tunix.types import Score

METRICS = Path(__file__).parents[1] / "docs" / "metrics.md"


@pytest.mark.parametrize(
    ("name", "card"),
    [
        ("reward", "rewards"),
        ("rewards/mean", "rewards"),
        ("critic/rewards/mean", "rewards"),
        ("rewards/score/mean", "rewards"),
        ("frac_reward_zero_std", "frac_reward_zero_std"),
        ("val-core/openai/gsm8k/acc/mean@8", "eval_accuracy"),
        ("eval_gsm8k_pass1", "eval_accuracy"),
        ("actor/ppo_kl", "approx_kl"),
        ("policy/approxkl_avg", "approx_kl"),
        ("vllm_kl", "sampler_mismatch"),
        ("approx_entropy", "entropy"),
        ("actor/pg_clipfrac", "clip_ratio"),
        ("response_length/clip_ratio", "clipped_ratio"),
        ("completions/clipped_ratio", "clipped_ratio"),
        ("mean_gen_tokens_per_sample", "completion_length"),
        ("critic/vf_explained_var", "explained_variance"),
        ("completion/several_answers_fraction", "answer_spam"),
    ],
)
def test_the_same_quantity_under_the_names_of_many_libraries(name, card):
    assert resolve(name) == Resolved(card)


@pytest.mark.parametrize(
    ("name", "component", "card"),
    [
        ("rewards/format_reward/mean", "format_reward", "reward_component"),
        ("rewards/Format/std", "Format", "component_std"),
        ("reward/part/exact answer", "exact answer", "reward_component"),
        ("rewards/train/correctness", "correctness", "reward_component"),
        ("reward/part/length/group_std", "length", "component_std"),
        ("reward/part/judge/failed_fraction", "judge", "failed_grader"),
        ("format", "format", "reward_component"),
        ("task_reward", "task_reward", "reward_component"),
        ("length_reward", "length_reward", "reward_component"),
        ("reward/correctness", "correctness", "reward_component"),
        # Accuracy as a reward is not the accuracy on held-out prompts.
        ("reward/accuracy", "accuracy", "reward_component"),
    ],
)
def test_a_pattern_yields_the_component(name, component, card):
    assert resolve(name) == Resolved(card, component)


@pytest.mark.parametrize(
    "name",
    [
        "reward_std_of_something",
        "my_reward",
        "rewards/",
        "reward/part/",
        "rewards/a/b/mean",
        "xkl",
        "kl/loss/extra",
        "train",
        "eval/",
        "eval_runtime",
        "eval_samples_per_second",
        "eval_num_tokens",
        "num_tokens",
        "reward_variance",
        "clip_ratio/length",
        "acc",
        "epoch",
        "",
        "/",
        "{name}",
        "perplexity",
    ],
)
def test_unknown_names_are_not_guessed(name):
    assert resolve(name) is None


@pytest.mark.parametrize(
    ("names", "card"),
    [
        ("eval/acc eval_acc val/accuracy val_accuracy val/acc val_acc test/accuracy test_accuracy", "eval_accuracy"),
        ("held_out_accuracy gold_reward gold_score true_reward pass@1 eval/pass@1 eval_pass@1", "eval_accuracy"),
        ("proxy_reward", "rewards"),
        ("kl_divergence kl_div kl/mean", "kl"),
        ("policy_entropy", "entropy"),
        ("mean_length mean_response_length avg_length completion/mean_length", "completion_length"),
        ("truncated_fraction truncation_ratio", "clipped_ratio"),
        ("grader_failures grader_error_rate grader/failed_fraction", "failed_grader"),
        ("gradient_norm global_grad_norm", "grad_norm"),
    ],
)
def test_names_that_people_make_up_are_known(names, card):
    assert {name: resolve(name) for name in names.split()} == dict.fromkeys(names.split(), Resolved(card))


@pytest.mark.parametrize(
    ("name", "card", "statistic"),
    [
        ("actor/train/perplexity", "loss", "exponential"),
        ("actor/eval/perplexity", "loss", "eval_exponential"),
        ("completions/min_terminated_length", "terminated_length", "min"),
        ("completions/max_terminated_length", "terminated_length", "max"),
        ("objective/entropy", "entropy", "sequence"),
        # The core metric of the same data set is the accuracy, so the reward beside it is not taken for it.
        ("val-aux/openai/gsm8k/reward/mean@8", "eval_accuracy", "aux_reward"),
        ("val-core/openai/gsm8k/reward/mean@8", "eval_accuracy", "reward"),
    ],
)
def test_other_statistics_of_a_quantity_stand_beside_it(name, card, statistic):
    assert resolve(name) == Resolved(card, statistic=statistic)


def test_reward_std_is_not_taken_for_reward():
    assert resolve("reward_std") == Resolved("reward_std")


def test_letters_are_compared_without_their_case():
    assert resolve("Reward") == resolve("reward") == resolve(" REWARD ")


def test_inserted_segments_are_dropped():
    assert resolve("actor/train/kl") == resolve("kl")
    assert resolve("global/train/entropy") == resolve("entropy")
    assert resolve("train/reward") == resolve("reward")


def test_a_whole_name_comes_before_dropping_its_segments():
    assert resolve("eval/accuracy") == Resolved("eval_accuracy")
    assert resolve("val/ratio") == Resolved("importance_ratio")
    # Accuracy on the training prompts is a reward, not the held-out truth.
    assert resolve("train/accuracy") == Resolved("reward_component", "accuracy")


@pytest.mark.parametrize("name", ["rewards/eval/score/mean", "eval/reward", "val/rewards/mean", "eval_rewards/mean"])
def test_the_reward_on_held_out_rows_is_not_taken_for_the_training_reward(name):
    assert resolve(name) == Resolved("rewards", statistic="eval")


def test_other_statistics_of_held_out_rows_are_marked_as_well():
    assert resolve("eval/completions/max_length") == Resolved("completion_length", statistic="eval_max")
    assert resolve("eval_rewards/f/mean") == Resolved("reward_component", "f", "eval")


def test_a_segment_that_is_the_name_of_a_component_stays_one():
    assert resolve("reward/part/val") == Resolved("reward_component", "val")
    assert resolve("rewards/train/mean") == Resolved("rewards")


def nested_score() -> Score:
    """A batch scored by a weighted sum with a weighted sum in it."""
    tags = rewards.per_completion(rewards.tag_format, name="format")
    style = rewards.weighted_sum((1.0, tags), (0.5, rewards.per_completion(len, name="eval")), name="style")
    exact = rewards.per_completion(rewards.exact_answer, "answer", name="correctness")
    names = list(rewards.weighted_sum((1.0, style), (2.0, exact)).parts)
    parts = {name: np.random.default_rng(seed).normal(size=(4, 6)) for seed, name in enumerate(names)}
    seconds = {name: np.full((4, 6), 0.5) for name in names}
    return Score(sum(parts.values()), np.ones((4, 6), bool), parts=parts, seconds=seconds)


def test_parts_of_parts_are_known_by_everything_that_is_logged_of_them():
    score = nested_score()
    assert list(score.parts) == ["style/format", "style/eval", "correctness"]
    logged = reward_measures(score) | component_measures(score) | latency_measures(score)
    found = {name: resolve(name) for name in logged}
    assert [name for name, quantity in found.items() if quantity is None] == []
    pairs = {quantity.component for quantity in found.values() if quantity and quantity.card == "tradeoff"}
    assert {"style/format__style/eval", "style/eval__correctness", "correctness__style/format"} <= pairs
    for part in score.parts:
        names = [name for name in logged if name.startswith(f"reward/part/{part}")]
        assert len(names) == 14
        assert {quantity.component for name in names if (quantity := found[name])} == {part}


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("reward/part/style/format", Resolved("reward_component", "style/format")),
        ("reward/part/style/format/std", Resolved("component_std", "style/format", "batch")),
        ("reward/part/style/format/group_std", Resolved("component_std", "style/format")),
        ("reward/part/style/format/failed_fraction", Resolved("failed_grader", "style/format")),
        ("reward/part/eval/std", Resolved("component_std", "eval", "batch")),
        ("reward/part/val/train/min", Resolved("reward_component", "val/train", "min")),
        ("train/reward/part/style/format", Resolved("reward_component", "style/format")),
        ("eval/reward/part/format", Resolved("reward_component", "format", "eval")),
        ("tradeoff/style/format__x/correlation", Resolved("tradeoff", "style/format__x", "correlation")),
        ("tradeoff/eval__x/forecast", Resolved("tradeoff", "eval__x", "forecast")),
        ("reward/part/std", Resolved("reward_component", "std")),
        ("reward/part/a//b", None),
        ("reward/part/a/", None),
    ],
)
def test_a_part_of_a_combination_is_a_path(name, found):
    assert resolve(name) == found


PIECE = st.text("abe_ .", min_size=1).map(str.strip).filter(bool)


@given(st.lists(PIECE | st.sampled_from(["eval", "train", "val"]), min_size=1, max_size=4).map("/".join))
def test_every_path_comes_back_from_the_name_of_its_series(path):
    assert resolve(f"reward/part/{path}/group_std") == Resolved("component_std", path)
    assert resolve(f"reward/part/{path}") == Resolved("reward_component", path)


def test_one_prefix_of_a_held_out_metric_is_dropped_and_no_more():
    assert resolve("eval_kl") == Resolved("kl", statistic="eval")
    assert resolve("eval_eval_kl") is None
    assert resolve("eval_" * 2000) is None
    assert resolve("eval/" * 2000 + "kl") == Resolved("kl", statistic="eval")


def test_complements_are_marked():
    assert resolve("advantage/nonzero_frac") == Resolved("frac_reward_zero_std", complement=True)
    assert resolve("natural_termination_rate") == Resolved("clipped_ratio", complement=True)


@pytest.mark.parametrize(
    ("better", "other"),
    [("rewards/train/score/mean", "rewards/train/mean"), ("critic/score/mean", "critic/rewards/mean")],
)
def test_of_two_names_for_one_thing_the_better_one_is_known(better, other):
    first, second = resolve(better), resolve(other)
    assert first is not None
    assert second is not None
    assert first == second == Resolved("rewards")
    assert (first.fallback, second.fallback) == (False, True)


def test_statistics_over_reward_functions_are_no_components():
    assert resolve("rewards/train/min") == Resolved("rewards", statistic="function_min")
    assert resolve("rewards/eval/max") == Resolved("rewards", statistic="eval_function_max")


def test_percentages_are_no_share():
    for name in ("baseline_reward/pct_mixed", "dynamic_filtering_pass_rate"):
        found = resolve(name)
        assert found is not None
        assert found.statistic == "percent"


@pytest.mark.parametrize("card", catalogue().values(), ids=lambda card: card.id)
def test_every_alias_resolves_to_its_own_card(card):
    for alias in card.aliases:
        found = resolve(alias)
        assert found is not None, alias
        assert found.card == card.id, alias


def test_no_name_belongs_to_two_cards_or_means_two_things():
    owners: dict[str, set] = {}
    for card in catalogue().values():
        owners.setdefault(card.id, set()).add(Resolved(card.id))
        for key in (key for keys in card.keys.values() for key in keys):
            meaning = Resolved(card.id, key.component, key.statistic, key.complement)
            owners.setdefault(key.text.lower(), set()).add(meaning)
    assert {name: found for name, found in owners.items() if len(found) > 1} == {}


def test_every_metric_of_our_own_is_on_a_card():
    rows = [line.split("|")[1] for line in METRICS.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    names = [name.replace("NAME", "brevity") for row in rows for name in re.findall("`([^`]+)`", row)]
    assert len(names) > 30
    unknown = [name for name in names if resolve(name.replace("RULE", "collapse").replace("A__B", "a__b")) is None]
    assert set(unknown) <= {"step", "batch", "iteration"}


@given(st.text(max_size=40))
def test_any_text_resolves_or_does_not(name):
    found = resolve(name)
    assert found is None or found.card in catalogue()
