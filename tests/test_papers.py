"""Every paper, held to the same laws: it reads as a paper, trains two steps, and what it declares holds exactly."""

import ast
import dataclasses
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from agent_tunix import overrides, papers, recipes, rewards, sampling
from agent_tunix.cli import main
from agent_tunix.diagnostics.rules import RULES
from agent_tunix.errors import ConfigError
from agent_tunix.models import Parameters
from agent_tunix.papers import _catalogue, _pages, _running
from agent_tunix.papers import _lab as lab
from agent_tunix.papers._frame import SECTIONS, Check, Comparison, Method, Paper
from agent_tunix.training import per_token
from agent_tunix.types import Rollouts
from agent_tunix.updates import initial_state, portions, updater

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "src" / "agent_tunix" / "papers"
CONF = ROOT / "conf" / "paper"
SLUGS = papers.names()
TRAINED = [slug for slug in SLUGS if papers.find(slug).recipe is not None]
FAST = [
    "decoupled_efficiency",
    "gated_accumulation",
    "kinesthetic",
    "likelihood_rewards",
    "local_credit",
    "reward_distance",
    "reward_model_robustness",
]
"""Those that CI measures again: some seconds each."""
LAWS = [pytest.param(law, id=f"{slug}-{law.__name__}") for slug in SLUGS for law in papers.find(slug).paper.laws]


# --- Each paper -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slug", SLUGS)
def test_a_paper_reads_as_one(slug):
    method = papers.find(slug)
    assert list(method.sections) == list(SECTIONS)
    assert all(len(method.sections[name]) > 20 for name in SECTIONS)
    assert f"papers run {slug}" in method.sections["Run"]
    assert re.search(r"20\d\d-\d\d-\d\d", method.sections["Seen"]), "Seen needs the date of its numbers"
    assert 40 <= len((FOLDER / f"{slug}.py").read_text(encoding="utf-8").splitlines()) <= 150
    assert method.paper.comparisons
    assert method.paper.checks
    assert all(law.__doc__ for law in method.paper.laws)


@pytest.mark.parametrize("slug", SLUGS)
def test_a_paper_imports_no_other(slug):
    tree = ast.parse((FOLDER / f"{slug}.py").read_text(encoding="utf-8"))
    modules = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    inside = [
        module.removeprefix("agent_tunix.papers.") for module in modules if module.startswith("agent_tunix.papers.")
    ]
    assert all(module.startswith("_") for module in inside)


@pytest.mark.parametrize("law", LAWS)
def test_what_a_paper_declares_holds(law):
    for seed in range(5):
        assert law(np.random.default_rng(seed)), f"{law.__doc__} (seed {seed})"


@pytest.mark.parametrize("slug", TRAINED)
def test_a_paper_has_numbers_to_train_with(slug):
    text = (CONF / f"{slug}.yaml").read_text(encoding="utf-8")
    assert "EXPECTED" not in text
    assert [line.split(":")[0] for line in text.splitlines() if line.startswith("# ")][1:] == [
        "# What",
        "# Cost",
        "# Command",
        "# Expected result",
    ]
    config = overrides.load([f"paper={slug}"])
    assert config.paper.name == slug
    numbers = papers.find(slug).numbers
    assert config.paper.numbers == {name: numbers[name] for name in config.paper.numbers}  # each of them once
    assert recipes.recipe(config) is not None


def test_only_papers_that_train_have_such_a_file():
    assert sorted(path.stem for path in CONF.glob("*.yaml")) == TRAINED


@pytest.fixture(scope="module")
def sampled(policy, params, tokenizer, rows, quickly_compiled):
    """The smallest policy, a batch it drew, and the log-probabilities it has as its own reference."""
    sample = sampling.sampler(policy, tokenizer, max_prompt_tokens=16, max_completion_tokens=12, streams=1)
    parameters = Parameters(params, {})
    return parameters, sample(parameters, rows[:4], 4, jax.random.key(0))


def two_steps(policy, parameters, rollouts, recipe):
    rollouts = dataclasses.replace(rollouts, ref_logprobs=np.asarray(rollouts.old_logprobs) - 0.1)
    optimizer = optax.adam(1e-3)
    update = updater(policy, recipe.loss, optimizer, microbatches=1, temperature=1.0)
    trainable = jax.tree.map(np.copy, parameters.trainable)
    state, remembered, losses = initial_state(optimizer, trainable, None), recipe.shaping.init(), []
    for _ in range(2):
        score, remembered = recipe.shaping.update(recipe.reward(rollouts), remembered, rollouts)
        credit = per_token(np.asarray(recipe.advantage(score)), rollouts)
        assert np.isfinite(credit).all()
        for _, part in portions(rollouts, np.asarray(score.valid), credit, 1, 1):
            trainable, state, stats = update(dataclasses.replace(parameters, trainable=trainable), state, part)
            losses.append(float(stats["policy/loss"]))
    return jax.tree.map(np.asarray, trainable), losses


@pytest.mark.parametrize("slug", TRAINED)
def test_a_paper_takes_two_steps_twice_alike(slug, policy, sampled):
    recipe = recipes.recipe(overrides.load([f"paper={slug}"]))
    first, losses = two_steps(policy, *sampled, recipe)
    assert np.isfinite(losses).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(first))
    again, _ = two_steps(policy, *sampled, recipe)
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, first, again)))


@pytest.mark.parametrize("slug", SLUGS)
def test_results_are_kept_and_came_from_the_checks_as_they_are(slug):
    kept, paper = _catalogue.kept(slug), papers.find(slug).paper
    assert kept is not None, f"agent-tunix papers run {slug} --first-seed 100 --to docs/papers"
    first, *_, last = kept["seeds"]
    assert first in (100, 200)  # with neither hundred was any toy made
    assert kept["seeds"] == list(range(first, last + 1))
    assert len(kept["seeds"]) >= 5
    assert kept["seconds"] < 180
    assert [row["what"] for row in kept["comparisons"]] == [row.what for row in paper.comparisons]
    again = _running.Result(
        slug, (), (), (), tuple(_running.verdict(check, kept["measured"]) for check in paper.checks), 0
    )
    assert [verdict.words for verdict in again.verdicts] == [check["words"] for check in kept["checks"]]
    assert [verdict.passed for verdict in again.verdicts] == [check["passed"] for check in kept["checks"]]


@pytest.mark.parametrize("slug", FAST)
def test_a_paper_measures_again_what_it_measured(slug):
    """Two seeds of a fast subset; floats of another machine may differ a little, learning amplifies it."""
    result, kept = papers.run(papers.find(slug), [100, 101]), _catalogue.kept(slug)
    for row, before in zip(result.rows, kept["comparisons"], strict=True):
        assert row.what == before["what"]
        assert np.isfinite(row.difference.mean)
        if before["difference"]["low"] * before["difference"]["high"] > 0:  # not a matter of chance
            assert np.sign(row.difference.mean) == np.sign(before["difference"]["mean"])
    assert {name: value.shape for name, value in result.measured[0].items() if not value.ndim} == {
        name: () for name, value in kept["measured"][0].items() if not isinstance(value, list)
    }


# --- The frame --------------------------------------------------------------------------------------------------------


def test_pages_and_bibliography_are_not_stale():
    for path, words in _pages.pages(ROOT / "docs").items():
        again = f"docs/{path} is stale: python -m agent_tunix.papers._pages"
        assert (ROOT / "docs" / path).read_text(encoding="utf-8") == words, again


def test_tables_of_remedies_are_not_stale(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import remedies
    from page_tables import renewed

    page = remedies.PAGE.read_text(encoding="utf-8")
    kept = json.loads(remedies.SAVED.read_text(encoding="utf-8"))
    assert [(run["sabotage"], run["paper"]) for run in kept["runs"]] == [one[:2] for one in remedies.REMEDIES]
    assert renewed(page, remedies.tables(kept)) == page, "stale: python benchmarks/remedies.py --draw-only"


def test_remedies_are_for_rules_that_exist_and_by_papers_that_are_built():
    assert set(_catalogue.TREATS) <= {rule.__name__ for rule in RULES}
    assert {slug for methods in _catalogue.TREATS.values() for slug in methods} <= set(SLUGS)


def made(checks, measured, comparisons=()):
    paper = Paper("T", "A", 2025, "", "memory", comparisons, checks)
    return Method("made", paper, {}, "", lambda seed: measured[seed], None)


def test_a_check_is_about_the_mean_over_seeds_with_ends_included():
    method = made(
        (Check("mean of 2", lambda m: m["x"], 2.0, 2.0), Check("above", lambda m: m["x"], 2.1)),
        [{"x": 1.0}, {"x": 3.0}],
    )
    result = papers.run(method, [0, 1])
    assert [verdict.passed for verdict in result.verdicts] == [True, False]
    assert not result.passed


def test_a_check_may_ask_for_the_whole_interval():
    checks = (
        Check("mean", lambda m: m["x"], at_least=0.0),
        Check("interval", lambda m: m["x"], at_least=0.0, surely=True),
        Check("interval above", lambda m: m["x"], at_least=-12.0, at_most=16.0, surely=True),
    )
    result = papers.run(made(checks, [{"x": 1.0}, {"x": 3.0}]), [0, 1])  # the interval is 2 plus or minus 12.706
    assert [verdict.passed for verdict in result.verdicts] == [True, False, True]


def test_a_check_of_what_is_not_a_number_fails():
    assert not papers.run(made((Check("nan", lambda m: m["x"], at_least=0.0),), [{"x": float("nan")}]), [0]).passed


def test_differences_are_of_pairs():
    measured = [{"a/x": 1.0, "b/x": 2.0}, {"a/x": 5.0, "b/x": 6.0}]
    row = papers.run(made((), measured, (Comparison("x", "a/x", "b/x"),)), [0, 1]).rows[0]
    assert row.names == ("a", "b")
    assert row.difference == _running.Spread(1.0, 1.0, 1.0)
    # t of one degree of freedom at 97.5 % is 12.706; the deviation of 1 and 5 is 2.828, over the root of two 2.
    assert row.baseline.high == pytest.approx(3 + 12.706 * 2, rel=1e-4)


def test_curves_are_kept_in_few_points_with_both_ends():
    document = papers.to_json(papers.run(made((), [{"c": np.arange(1000.0)}]), [0]))
    assert len(document["measured"][0]["c"]) == _running.POINTS
    assert document["measured"][0]["c"][:: _running.POINTS - 1] == [0.0, 999.0]


def test_run_without_seeds_is_refused():
    with pytest.raises(ValueError, match="no seeds"):
        papers.run(made((), []), [])


def test_components_are_graded_once_and_keep_their_validity():
    calls = []

    def grade(completion):
        calls.append(completion)
        return None if completion == "?" else float(len(completion))

    whole = rewards.weighted_sum(
        (0.5, rewards.per_completion(grade, name="length")),
        (0.5, rewards.per_completion(lambda completion: 1.0, name="one")),
    )
    length, one = papers.components(whole, "length", "one")
    rollouts = texts([["ab", "?"]])
    assert length(rollouts).value.tolist() == [[2.0, 0.0]]
    assert length(rollouts).valid.tolist() == [[True, False]]
    assert one(rollouts).valid.tolist() == [[True, True]]
    assert len(calls) == 2
    with pytest.raises(ConfigError, match="did you mean `length`"):
        papers.components(whole, "lenght")


def texts(completions):
    shape = (len(completions), len(completions[0]))
    tokens = np.zeros((*shape, 1), np.int32)
    return Rollouts(
        prompts=["?"] * shape[0],
        completions=completions,
        columns={},
        prompt_ids=np.zeros((shape[0], 1), np.int32),
        prompt_mask=np.ones((shape[0], 1), bool),
        completion_ids=tokens,
        completion_mask=tokens == 0,
        truncated=np.zeros(shape, bool),
        logprobs=np.zeros(tokens.shape, np.float32),
        old_logprobs=np.zeros(tokens.shape, np.float32),
    )


# --- The command ------------------------------------------------------------------------------------------------------


def test_the_list_has_every_paper_and_those_that_are_planned(capsys):
    assert main(["papers", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [entry["slug"] for entry in listed if entry["status"] != "planned"] == SLUGS
    assert len(listed) == 50 == len({entry["slug"] for entry in listed})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["papers", "show", "gated_acumulation"], "did you mean `gated_accumulation`?"),
        (["papers", "run"], "needs the slug of a paper"),
        (["papers", "run", "gated_accumulation", "--seeds", "0"], "--seeds is 0; it must be at least 1"),
        (["train", "paper=gated_accumulation", "paper.numbers.weigth=1"], "did you mean `weight`?"),
        (["train", "paper.name=gated_acumulation"], "did you mean `gated_accumulation`?"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1


def test_show_tells_what_a_paper_says_of_itself(capsys):
    assert main(["papers", "show", "gated_accumulation"]) == 0
    shown = capsys.readouterr().out
    assert "arXiv:2508.10548" in shown
    assert all(f"\n{name}: " in shown for name in SECTIONS)


def test_a_run_writes_numbers_and_a_picture(capsys, tmp_path):
    assert main(["papers", "run", "gated_accumulation", "--seeds", "1", "--to", str(tmp_path)]) in (0, 1)
    assert "difference" in capsys.readouterr().out
    assert json.loads((tmp_path / "gated_accumulation.json").read_text())["paper"] == "gated_accumulation"
    assert "</svg>" in (tmp_path / "gated_accumulation.svg").read_text()


# --- The laboratory ---------------------------------------------------------------------------------------------------


def test_a_tilted_policy_is_the_best_one():
    key = jax.random.key(0)
    problem = lab.planted(key)
    best = lab.tilted(problem.proxy, problem.reference, 0.7)

    def worth(probs):
        return float(probs @ problem.proxy - 0.7 * lab.divergence(probs, problem.reference))

    for number in range(20):
        other = jax.nn.softmax(jnp.log(best) + 0.1 * jax.random.normal(jax.random.key(number), best.shape))
        assert worth(other) < worth(best)


@pytest.mark.parametrize("nats", [0.1, 1.0, 2.0])
def test_a_policy_is_found_at_a_divergence(nats):
    problem = lab.planted(jax.random.key(1))
    found = lab.at_divergence(problem.proxy, problem.reference, nats)
    assert float(lab.divergence(found, problem.reference)) == pytest.approx(nats, abs=1e-3)


def test_learning_on_a_bandit_follows_the_exact_gradient():
    """With many completions the first step is the gradient of the expected reward, up to n / (n - 1)."""
    logits, pay = jnp.array([0.3, -0.2, 0.1]), jnp.array([1.0, 0.0, 0.5])
    toy = lab.bandit(logits, group=20_000)
    learned = lab.learn(
        toy, lambda key, sampled: lab.score(pay[sampled.last]), key=jax.random.key(0), steps=1, rate=1.0
    )
    probs = jax.nn.softmax(logits)
    np.testing.assert_allclose(learned.params[0] - logits, probs * (pay - probs @ pay), atol=0.01)


def test_log_probabilities_of_sequences_are_those_they_were_drawn_with():
    model = lab.transformer(vocab=5, most=6, width=8, layers=1)
    toy = lab.sequences(model, lambda key: jnp.array([[1, 2], [3, 4]]), length=4, group=3, stop=0)
    params = toy.init(jax.random.key(0))
    sampled = toy.sample(params, jax.random.key(1))
    logs, _ = toy.logprobs(params, sampled)
    for prompt, member, place in ((0, 0, 0), (1, 2, 3), (0, 1, 2)):
        context = jnp.concatenate([sampled.trail[prompt], sampled.actions[prompt, member, :place]])
        expected = jax.nn.log_softmax(model.logits(params, context)[-1])[sampled.actions[prompt, member, place]]
        assert float(logs[prompt, member, place]) == pytest.approx(float(expected), abs=1e-5)
    stops = np.asarray(sampled.actions) == 0
    first = np.where(stops.any(-1), stops.argmax(-1), 3)
    np.testing.assert_array_equal(sampled.completion_mask, np.arange(4) <= first[..., None])
