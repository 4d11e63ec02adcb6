import dataclasses
import math
from dataclasses import replace
from functools import reduce
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import yaml

from agent_tunix import advantages, overrides, recipes, rewards, sources
from agent_tunix.config import Config
from agent_tunix.errors import ConfigError
from agent_tunix.plain import flatten
from agent_tunix.types import Outcome, Rollouts, Score, TokenBatch

CONF = sorted(overrides.conf_dir().glob("*/*.yaml"))
DEFAULTS = dataclasses.asdict(Config())


def with_value(key, value, config=None):
    """The config with one dotted key set."""
    *sections, leaf = key.split(".")
    config = config or Config()
    nodes = reduce(lambda nodes, name: [*nodes, getattr(nodes[-1], name)], sections, [config])
    node = replace(nodes[-1], **{leaf: value})
    for name, parent in zip(reversed(sections), reversed(nodes[:-1])):
        node = replace(parent, **{name: node})
    return node


def look_up(tree, key):
    return reduce(lambda node, name: node[name], key.split("."), tree)


def texts(completions, columns):
    """Rollouts of texts alone."""
    shape = (len(completions), len(completions[0]))
    tokens = np.zeros((*shape, 1), np.int32)
    return Rollouts(
        prompts=["?"] * shape[0],
        completions=completions,
        columns=columns,
        prompt_ids=tokens[:, 0],
        prompt_mask=tokens[:, 0] == 0,
        completion_ids=tokens,
        completion_mask=tokens == 0,
        truncated=np.zeros(shape, bool),
        logprobs=tokens * 0.0,
        old_logprobs=tokens * 0.0,
    )


# --- validate


def test_the_defaults_are_valid():
    assert recipes.validate(Config()) is None


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("training.group_size", 1, "at least 2"),
        ("training.prompts_per_batch", 0, "at least 1"),
        ("training.minibatches", 3, "does not divide 64 prompts"),
        ("training.microbatches", 3, "3 buckets of 64 prompts x 8 completions got no equal parts"),
        ("sampling.rollout_microbatches", 5, "does not divide 64 prompts"),
        ("sampling.top_p", 0.0, "above 0"),
        ("sampling.top_p", 1.1, "at most 1"),
        ("sampling.min_p", 1.0, "below 1"),
        ("sampling.min_p", -0.1, "at least 0"),
        ("sampling.temperature", -1.0, "at least 0"),
        ("sampling.temperature", 0.0, "completions of a group equal"),
        ("sampling.max_completion_tokens", 0, "at least 1"),
        ("data.train_size", -1, "at least 1"),
        ("data.level", 0, "at least 1"),
        ("optimizer.learning_rate", 0.0, "above 0"),
        ("optimizer.learning_rate", math.nan, "finite"),
        ("optimizer.b2", 1.0, "below 1"),
        ("reward.alpha", math.inf, "finite"),
        ("loss.dual_clip", 1.0, "above 1"),
        ("loss.epsilon_high", 0.0, "above 0"),
        ("model.kv_heads", 3, "does not divide model.heads = 2"),
        ("model.head_dim", 15, "even"),
        ("data.task", "file", "data.path"),
        ("data.task", "sortin", "did you mean `sorting`? Allowed: arithmetic"),
        ("advantage.estimator", "group_normalised", "did you mean `group_normalized`?"),
        ("loss.surrogate", "cliped", "did you mean `clipped`? Allowed: clipped, truncated."),
        ("loss.ratio", "tokens", "did you mean `token`?"),
        ("loss.aggregation", "token_sum", "did you mean `token_mean`?"),
        ("loss.kl_estimator", "k4", "Allowed: k1, k2, k3."),
        ("optimizer.schedule", "linear", "cosine"),
        ("data.malformed", "ignore", "skip"),
        ("data.overlong_prompts", "cut", "truncate"),
        ("resume", "yes", "auto, force, never"),
        ("advantage.arguments", {"epsilon": 1.0}, "did you mean `eps`? Allowed: ddof, eps."),
        ("advantage.arguments", {"ddof": 0.5}, "takes a int"),
        ("seed", -1, "at least 0"),
    ],
)
def test_a_setting_that_cannot_mean_anything_is_named(key, value, words):
    with pytest.raises(ConfigError) as caught:
        recipes.validate(with_value(key, value))
    sentence = str(caught.value)
    assert words in sentence
    assert "\n" not in sentence
    assert key.split(".")[-1] in sentence or key == "advantage.arguments"


def test_microbatches_cut_the_prompts_and_groups_of_a_minibatch():
    config = with_value("training.minibatches", 4)  # 64 prompts, 16 each, times groups of 8
    recipes.validate(with_value("training.microbatches", 16 * 8, config))
    with pytest.raises(ConfigError, match="256: 256 buckets of 16 prompts x 8 completions got no equal parts"):
        recipes.validate(with_value("training.microbatches", 256, config))


def test_every_bound_and_choice_is_about_a_key_that_exists():
    known = set(overrides.keys())
    for table in (recipes.CHOICES, recipes.AT_LEAST, recipes.ABOVE, recipes.AT_MOST, recipes.BELOW):
        assert set(table) <= known


def test_every_number_is_bounded_or_free_on_purpose():
    numbers = {key for key, hint in overrides.keys().items() if {int, float} & {hint, *getattr(hint, "__args__", ())}}
    bounded = set(recipes.AT_LEAST) | set(recipes.ABOVE) | set(recipes.AT_MOST) | set(recipes.BELOW)
    # The weights may be negative; the arguments and the group size are checked in words of their own.
    free = {"reward.alpha", "reward.beta", "loss.entropy_coefficient"}
    assert numbers - bounded == free | {"training.group_size", "advantage.arguments"}


# --- callables


@pytest.mark.parametrize("name", [*recipes.ESTIMATORS, "decoupled"])
def test_every_estimator_gives_credit_of_the_shape_of_the_score(name):
    value = np.array([[1.0, 0.0, 0.5], [0.25, 1.0, 0.0]], np.float32)
    graded = np.full(value.shape, Outcome.GRADED)
    score = Score(
        jnp.asarray(value),
        jnp.ones(value.shape, bool),
        parts={"format": value, "correctness": 1 - value},
        outcomes={"format": graded, "correctness": graded},
    )
    # With two of three completions in a subset, pass@k still tells them apart.
    arguments = {"k": 2.0} if name == "pass_at_k" else {}
    config = with_value("advantage.arguments", arguments, with_value("advantage.estimator", name))
    credit = recipes.advantage(config)(score)
    assert credit.shape == (2, 3)
    assert float(jnp.abs(credit).max()) > 0


def test_arguments_reach_the_estimator_in_their_types():
    score = Score(jnp.array([[1.0, 0.0]]), jnp.ones((1, 2), bool))
    config = with_value("advantage.arguments", {"ddof": 0.0, "eps": 0.0})
    # Mean 0.5, deviation with ddof 0 is 0.5.
    np.testing.assert_allclose(recipes.advantage(config)(score), [[1.0, -1.0]], atol=1e-6)
    expected = advantages.group_normalized(score.value[0], score.valid[0], ddof=0, eps=0.0)
    np.testing.assert_array_equal(recipes.advantage(config)(score)[0], expected)


@pytest.mark.parametrize("surrogate", recipes.SURROGATES)
@pytest.mark.parametrize("ratio", recipes.RATIOS)
@pytest.mark.parametrize("aggregation", recipes.AGGREGATIONS)
def test_every_loss_is_minus_the_advantage_on_policy(surrogate, ratio, aggregation):
    config = with_value("loss.surrogate", surrogate)
    config = with_value("loss.aggregation", aggregation, with_value("loss.ratio", ratio, config))
    config = with_value("sampling.max_completion_tokens", 4, config)
    loss = recipes.loss(config)
    logprobs, mask = jnp.full((1, 2, 4), -1.0), jnp.ones((1, 2, 4), bool)
    credit = jnp.array([[[2.0] * 4, [1.0] * 4]])
    losses, _ = loss.per_token(TokenBatch(logprobs, -logprobs, logprobs, logprobs, None, credit, mask))
    # CISPO's surrogate is weight * advantage * logprob; here the logprob is -1 and its sign is turned once more.
    expected = -credit if surrogate == "clipped" else credit
    np.testing.assert_allclose(losses, expected, atol=1e-6)
    weights = loss.weights(mask, jnp.zeros((1, 2), bool))
    total = {"sequence_mean_token_sum": 4.0}.get(aggregation, 1.0)
    assert float(weights.sum()) == pytest.approx(total, abs=1e-6)


@pytest.mark.parametrize("estimator", recipes.DIVERGENCES)
def test_a_divergence_needs_a_reference(estimator):
    config = with_value("loss.kl_estimator", estimator, with_value("loss.kl_coefficient", 0.1))
    assert recipes.recipe(config).needs_reference
    assert recipes.recipe(with_value("reward.kl_penalty", 0.1)).needs_reference
    assert not recipes.recipe(Config()).needs_reference


def test_dynamic_sampling_keeps_groups_that_differ():
    assert recipes.recipe(Config()).keep_group is None
    keep = recipes.recipe(with_value("training.dynamic_sampling", True)).keep_group
    assert keep is not None
    score = Score(np.array([[1.0, 1.0], [1.0, 0.0]]), np.ones((2, 2), bool))
    assert keep(score).tolist() == [False, True]


def test_the_default_reward_weighs_format_and_correctness():
    right = "<reasoning>\nx\n</reasoning>\n<answer>\n4\n</answer>"
    score = recipes.reward(Config())(texts([[right, "It is <answer>4</answer>", "no"]], {"answer": ["4"]}))
    # 0.3 * 1 + 0.7 * 1, 0.3 * 0.5 + 0.7 * 1, nothing.
    np.testing.assert_allclose(score.value, [[1.0, 0.85, 0.0]], atol=1e-6)
    assert set(score.parts) == {"format", "correctness"}


def test_a_task_with_many_answers_grades_by_its_own_rules():
    row = {"task": "countdown", "answer": "5*2+11", "numbers": [2, 5, 11], "target": 21}
    assert recipes.is_correct("<answer>11+2*5</answer>", row) == 1.0
    assert recipes.is_correct("<answer>21</answer>", row) == 0.0
    assert recipes.is_correct("no answer", row) == 0.0
    columns = {key: [value] for key, value in row.items()}
    score = recipes.reward(Config())(texts([["<answer>11+2*5</answer>", "<answer>21</answer>"]], columns))
    np.testing.assert_array_equal(score.parts["correctness"], [[1.0, 0.0]])
    assert recipes.is_correct("<answer>4</answer>", {"answer": "4"}) == 1.0


# --- training.reward_function


def reward_function(name):
    return recipes.reward(with_value("training.reward_function", name))


@pytest.fixture
def reward_file(tmp_path, monkeypatch):
    (tmp_path / "my_rewards.py").write_text(
        "import json\n"
        "def shorter(response, answer):\n    return -float(len(response))\n"
        "def odd(x):\n    return 0.0\n"
        "number = 3\n"
    )
    (tmp_path / "broken_rewards.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["my_rewards.py:shorter", "my_rewards:shorter", "{folder}/my_rewards.py:shorter"])
def test_a_function_of_the_users_own_becomes_the_reward(reward_file, name):
    score = reward_function(name.format(folder=reward_file))(texts([["ab", "abcd"]], {"answer": ["x"]}))
    np.testing.assert_array_equal(score.value, [[-2.0, -4.0]])


def test_a_grader_of_the_package_becomes_the_reward():
    assert "exact_answer" in recipes.graders()
    score = reward_function("exact_answer")(texts([["<answer>4</answer>", "5"]], {"answer": ["4"]}))
    np.testing.assert_array_equal(score.value, [[1.0, 0.0]])
    assert reward_function("default").name == rewards.default().name


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("exact_anser", "did you mean `exact_answer`? Allowed: binary_reward, check_answer"),
        ("weighted_sum", "allowed: binary_reward"),
        ("my_rewards.py:short", "did you mean `shorter`? Allowed: odd, shorter."),
        ("my_rewards.py:number", "Allowed: odd, shorter"),
        ("my_rewards.py:odd", "make it (response, ground_truth)"),
        ("absent.py:f", "does not exist"),
        ("no_such_package.rewards:f", "No module named"),
        ("broken_rewards.py:f", "ZeroDivisionError"),
        (":f", "package.module:function"),
        ("my_rewards:", "package.module:function"),
    ],
)
def test_a_reward_that_cannot_be_found_is_named(reward_file, name, words):
    with pytest.raises(ConfigError) as caught:
        reward_function(name)
    assert words.lower() in str(caught.value).lower()


def test_a_reward_file_does_not_replace_a_module_of_its_name(tmp_path):
    (tmp_path / "math.py").write_text("def f(response):\n    return 1.0\n")
    reward_function(f"{tmp_path / 'math.py'}:f")
    import math as imported

    assert imported.sqrt(4.0) == 2.0


def test_decoupled_needs_the_parts_of_the_default_reward():
    config = with_value("advantage.estimator", "decoupled", with_value("training.reward_function", "exact_answer"))
    with pytest.raises(ConfigError, match="only the default reward has"):
        recipes.validate(config)


# --- other borders


def test_the_dataset_follows_the_config():
    small = replace(Config(), data=replace(Config().data, task="comparison", train_size=20, heldout_size=5, level=2))
    loaded = sources.dataset(small)
    assert (len(loaded.train), len(loaded.heldout)) == (20, 5)
    assert {(row["task"], row["level"]) for row in loaded.train} == {("comparison", 2)}


def test_a_config_survives_the_run_folder():
    config = with_value("sampling.stop", ("</answer>",), with_value("advantage.arguments", {"eps": 0.5}))
    assert recipes.from_mapping(yaml.safe_load(yaml.safe_dump(_plain(config)))) == config
    with pytest.raises(ConfigError, match=r"loss.epsilom.*did you mean `loss.epsilon`"):
        recipes.from_mapping({"loss": {"epsilom": 1.0}})


def _plain(config):
    values = dataclasses.asdict(config)
    values["sampling"]["stop"] = list(values["sampling"]["stop"])
    return values


# --- overrides and conf


def test_no_override_gives_the_dataclass_defaults():
    assert overrides.load() == Config()


def test_the_groups_are_the_folders_of_conf():
    assert set(overrides.groups()) == {"data", "experiment", "model", "paper", "reward", "training"}


@pytest.mark.parametrize(
    ("given", "key", "value"),
    [
        ("seed=7", "seed", 7),
        ("+seed=7", "seed", 7),
        ("++seed=7", "seed", 7),
        ("training.reward_function=f", "training.reward_function", "f"),
        ("+training.reward_function=a.py:f", "training.reward_function", "a.py:f"),
        ("training.log_rewards=true", "training.log_rewards", True),
        ("+training.save_reward_analysis=true", "training.save_reward_analysis", True),
        ("experiment=quick_test", "training.steps", 10),
        ("+experiment=quick_test", "training.steps", 10),
        ("data=gsm8k", "data.max_prompt_tokens", 256),
        ("+data=gsm8k", "sampling.max_completion_tokens", 192),
        ("experiment=gsm8k_short", "data.task", "gsm8k"),
        ("loss.epsilon=1", "loss.epsilon", 1.0),
        ("loss.dual_clip=3", "loss.dual_clip", 3.0),
        ("loss.dual_clip=null", "loss.dual_clip", None),
        ("sampling.stop=[a,b]", "sampling.stop", ("a", "b")),
        ("advantage.arguments.eps=0.5", "advantage.arguments", {"eps": 0.5}),
        ("+advantage.arguments.eps=0.5", "advantage.arguments", {"eps": 0.5}),
        ("run_dir=some folder/run", "run_dir", "some folder/run"),
        ("run_dir='a=b'", "run_dir", "a=b"),
    ],
)
def test_overrides_reach_the_config(given, key, value):
    config = overrides.load([given])
    found = reduce(getattr, key.split("."), config)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("training.step=5", "unknown key `training.step`; did you mean `training.steps`? Allowed in training: dynamic"),
        ("learning_rate=1", "did you mean `optimizer.learning_rate`?"),
        ("+colour=red", "unknown key `colour`; "),
        ("data=soring", "unknown data `soring`; did you mean `sorting`? Allowed: arithmetic, comparison"),
        ("experiment=quick", "did you mean `quick_test`?"),
        ("training.steps=abc", "`training.steps=abc` does not fit: training.steps takes a whole number"),
        ("training.steps=1.5", "takes a whole number"),
        ("training.steps=null", "takes a whole number"),
        ("training.dynamic_sampling=maybe", "takes true or false"),
        ("loss.dual_clip=x", "takes a number or null"),
        ("advantage.arguments.eps=x", "does not fit"),
        ("training.steps", "`training.steps` is not an override; write key=value"),
        ("run_dir=a=b", "quote the value"),
        ("seed=1,2", "--multirun"),
        ("~training.steps", "write training.steps=value"),
    ],
)
def test_overrides_that_cannot_be_used_are_named_in_one_line(given, words):
    with pytest.raises(ConfigError) as caught:
        overrides.load([given])
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_sweep_is_every_combination_in_order():
    assert overrides.sweep(["model=tiny", "seed=0,1", "+optimizer.learning_rate=1e-4,3e-4"]) == [
        ["model=tiny", "seed=0", "+optimizer.learning_rate=0.0001"],
        ["model=tiny", "seed=0", "+optimizer.learning_rate=0.0003"],
        ["model=tiny", "seed=1", "+optimizer.learning_rate=0.0001"],
        ["model=tiny", "seed=1", "+optimizer.learning_rate=0.0003"],
    ]


def test_options_of_a_folder_of_the_users_own_are_found(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "wide.yaml").write_text("width: 96\n")
    assert overrides.load(["model=wide"], config_dir=tmp_path).model.width == 96
    with pytest.raises(ConfigError, match="not a folder"):
        overrides.load([], config_dir=tmp_path / "absent")


def test_hydra_of_a_caller_is_left_as_it_was():
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    with initialize_config_dir(str(overrides.conf_dir()), version_base="1.3"):
        theirs = GlobalHydra.instance().hydra
        overrides.load(["seed=1"])
        assert GlobalHydra.instance().hydra is theirs
    assert not GlobalHydra.instance().is_initialized()


@pytest.mark.parametrize("path", CONF, ids=lambda path: f"{path.parent.name}/{path.stem}")
class TestConf:
    def test_it_composes_to_a_valid_config(self, path):
        needed = {"file": "data.path=rows.jsonl", "math": "data.path=rows.jsonl", "mixture": "data.sources.sorting={}"}
        extra = [needed[path.stem]] if path.stem in needed else []
        assert recipes.validate(overrides.load([f"{path.parent.name}={path.stem}", *extra])) is None

    def test_its_header_says_what_cost_command_and_result(self, path):
        lines = [line for line in path.read_text().splitlines() if not line.startswith("# @package")]
        starts = ["# What: ", "# Cost: ", "# Command: python run_training.py", "# Expected result: "]
        assert all(
            line.startswith(start) and len(line) > len(start) for line, start in zip(lines, starts, strict=False)
        )
        assert f"{path.parent.name}={path.stem}" in lines[2]

    def test_it_holds_only_differences_from_the_dataclasses(self, path):
        values = yaml.safe_load(path.read_text()) or {}
        values.pop("defaults", None)
        if "@package _global_" not in path.read_text():
            values = {path.parent.name: values}
        for key, value in flatten(values).items():
            if not key.startswith("paper.numbers."):  # whose defaults are those of a function, see test_papers
                assert look_up(DEFAULTS, key) != value, key


def test_every_task_and_only_those_has_a_file():
    assert overrides.groups()["data"] == sorted(recipes.CHOICES["data.task"]())


def test_the_wheel_takes_conf_along():
    import tomllib

    project = Path(overrides.__file__).resolve().parents[2] / "pyproject.toml"
    included = tomllib.loads(project.read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert included == {"conf": "agent_tunix/conf", "docs/papers": "agent_tunix/papers/results"}


def test_conf_of_an_installed_package_lies_beside_its_modules(tmp_path, monkeypatch):
    monkeypatch.setattr(overrides, "__file__", str(tmp_path / "site" / "agent_tunix" / "overrides.py"))
    assert overrides.conf_dir() == tmp_path / "site" / "agent_tunix" / "conf"


def test_a_named_preset_becomes_the_reward():
    config = with_value("training.reward_function", "agent_tunix.rewards.presets.reasoning_tags:reward")
    assert len(recipes.reward(config)(texts([["<answer>4</answer>", "4"]], {"answer": ["4"]})).parts) == 4


def test_shapings_without_arguments_have_names():
    assert {"rank", "center", "standardize", "tanh"} <= set(recipes.shapings())
    shaping = recipes.shaping(with_value("reward.shaping", "rank"))
    score = Score(np.array([[3.0, 1.0, 2.0]], np.float32), np.ones((1, 3), bool))
    np.testing.assert_allclose(shaping.update(score, shaping.init(), None)[0].value, [[0.5, -0.5, 0.0]])
    with pytest.raises(ConfigError, match="did you mean `rank`"):
        recipes.shaping(with_value("reward.shaping", "ranks"))
    with pytest.raises(ConfigError, match=r"say which function of the file, mine.py:NAME"):
        recipes.shaping(with_value("reward.shaping", "mine.py"))
