"""What preflight says of good rewards, and of rewards with known faults."""

import json
import math

import numpy as np
import pytest

from agent_tunix import preflight, probes, rewards
from agent_tunix.cli import main
from agent_tunix.types import Reward

ROWS = [
    {"prompt": f"How much is {n} and {n}?", "answer": str(2 * n), "demonstration": f"<answer>{2 * n}</answer>"}
    for n in range(3, 9)
]


def tried(grader, *columns, **settings):
    return preflight.preflight(rewards.per_completion(grader, *columns, **settings), ROWS, group_size=4)


def messages(result, level=None):
    return " | ".join(finding.message for finding in result.findings if level in (None, finding.level))


def test_the_default_reward_has_no_errors_and_its_shares_are_its_weights():
    result = preflight.preflight(rewards.default(), ROWS)
    assert result.ok, result.findings
    assert (result.style, result.right) == ("tags", pytest.approx(1.0))
    assert result.wrong == pytest.approx(0.3)
    assert result.observed == (0.0, 1.0) and result.bounds == (0.0, 1.0)
    assert result.components.parts["correctness"].weight == pytest.approx(0.7, abs=1e-6)
    assert result.components.parts["format"].weight == pytest.approx(0.3, abs=1e-6)
    assert result.components.explained == pytest.approx(1.0, abs=1e-6)
    assert result.deterministic and result.picklable


def test_expected_flat_groups_follow_from_the_group_size():
    result = preflight.preflight(rewards.default(), ROWS, group_size=4)
    assert result.flat_share[0.5] == pytest.approx(2 * 0.5**4) and result.flat_share[0.1] == pytest.approx(0.6562)


@pytest.mark.parametrize(
    ("grader", "exploit"),
    [
        (lambda response, answer: float(answer in response), "gold in a list"),
        (lambda response, answer: float(answer in response), "gold denied"),
        (lambda response, answer: float(f"<answer>{answer}" in response), "gold or another"),
        (lambda response, answer: min(1.0, len(response) / 10_000) + 0.5 * (answer in response), "very long"),
        (lambda response, answer: float(answer in response.split()), "every small number"),
    ],
)
def test_exploits_are_found(grader, exploit):
    result = tried(grader, "answer", bounds=(0, 2))
    assert f"exploit: `{exploit}`" in messages(result, "error") and not result.ok


@pytest.mark.parametrize("strict", [rewards.exact_answer])
def test_the_strict_grader_has_no_exploits(strict):
    result = tried(strict, "answer", bounds=(0, 1))
    assert result.findings == ()
    assert max(result.probes.values()) == 0.0 and result.right == 1.0


def test_a_reward_that_reads_another_format_is_tried_in_it():
    boxed = tried(lambda response, answer: float(response.endswith(f"\\boxed{{{answer}}}")), "answer", bounds=(0, 1))
    assert boxed.style == "box" and boxed.ok


def test_a_reward_that_tells_nothing_apart_is_an_error():
    result = tried(lambda response: 0.5, bounds=(0, 1))
    assert "a right answer earns 0.500 and a wrong one 0.500" in messages(result, "error")
    assert "nothing to learn from" in messages(result, "error")


def test_failures_abstentions_and_exceptions_are_told_apart():
    assert "`int` failed on" in messages(tried(lambda response: int(response), name="int"), "error")
    assert "abstained on every text" in messages(tried(lambda response: None, name="silent"), "error")
    broken = preflight.preflight(rewards.from_lists(lambda completions: [1.0], name="one"), ROWS)
    assert "it raised ValueError: reward `one` returned 1 entries" in messages(broken) and not broken.ok
    assert len(preflight.table(broken).splitlines()) == 2
    assert "it raised ValueError: reward `x` needs the column `solution`" in messages(
        tried(lambda response, solution: 1.0, "solution", name="x")
    )


def test_chance_slowness_and_missing_bounds_are_warnings():
    random = np.random.default_rng(0)
    noisy = tried(lambda response, answer: float(answer in response) + random.uniform(0, 0.01), "answer")
    assert "other values" in messages(noisy, "warning") and "bounds are not declared" in messages(noisy, "warning")
    assert not noisy.deterministic


def test_what_cannot_be_sent_to_another_process_is_said():
    import threading

    lock = threading.Lock()
    result = tried(lambda response, answer: float(lock.locked()), "answer", bounds=(0, 1))
    assert not result.picklable


def test_a_component_without_influence_is_named():
    reward = rewards.weighted_sum(
        (1.0, rewards.per_completion(rewards.exact_answer, "answer", bounds=(0, 1))),
        (1.0, rewards.per_completion(lambda response: 1.0 * (response == "!"), name="shout", bounds=(0, 1))),
    )
    result = preflight.preflight(reward, ROWS)
    assert result.ok and messages(result, "warning") == "`shout` makes up less than 1 % of the advantage on these texts"


def test_rows_without_answers_end_in_an_error_and_not_in_an_exception():
    rows = [{"prompt": "say something"}, {"prompt": "say more"}]
    result = preflight.preflight(rewards.per_completion(rewards.tag_format, bounds=(0, 1)), rows)
    assert not result.ok and not math.isnan(result.right)


def test_one_row_is_refused():
    with pytest.raises(ValueError, match="got 1 rows; give at least two"):
        preflight.preflight(rewards.default(), ROWS[:1])


def test_the_command_prints_a_table_and_its_exit_code_says_whether_errors_were_found(tmp_path, capsys):
    assert main(["preflight", "default", "--data", "sorting", "--rows", "4"]) == 0
    out = capsys.readouterr().out
    assert "right answer          1.000" in out and "expected flat groups of 8" in out
    lax = tmp_path / "lax.py"
    lax.write_text("def lax(response, answer):\n    return float(answer in response)\n")
    assert main(["preflight", f"{lax}:lax", "--data", "arithmetic", "--rows", "4", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is False and document["bounds"] == [None, None]
    assert any("exploit" in finding["message"] for finding in document["findings"])


def test_the_command_reads_rows_of_a_file(tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS * 1))
    assert main(["preflight", "exact_answer", "--data", str(path), "--rows", "4"]) == 0
    assert "nothing found" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nothing", "--data", "sorting"], "unknown REWARD `nothing`"),
        (["default", "--data", "sortin"], "did you mean `sorting`"),
        (["default", "--data", "sorting", "--rows", "1"], "--rows is 1"),
    ],
)
def test_wrong_words_are_named(words, said, capsys):
    assert main(["preflight", *words]) == 2
    assert said in capsys.readouterr().err


def test_every_probe_and_style_is_written_for_every_row():
    seen = []

    def score(rollouts):
        seen.extend(group for group in rollouts.completions)
        return rewards.default()(rollouts)

    preflight.preflight(Reward("watching", score), ROWS)
    assert [len(group) for group in seen[:: len(ROWS)]] == [2 * len(probes.STYLES) + 1] * 2 + [len(probes.PROBES)]


def test_a_demonstration_counts_as_a_right_answer_where_the_reference_states_none():
    rows = [{"prompt": f"p{n}", "answer": str(n), "demonstration": f"{n}+0"} for n in range(2, 6)]
    result = preflight.preflight(
        rewards.per_completion(lambda response, answer: float(response == f"{answer}+0"), "answer", bounds=(0, 1)), rows
    )
    assert (result.right, result.wrong) == (1.0, 0.0)
