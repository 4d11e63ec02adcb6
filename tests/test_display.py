from io import StringIO

import pytest
from rich.console import Console

from agent_tunix.display import LINES, Display, evaluation_line, format_number, reward_line

TRAIN = {"kind": "train", "step": 1, "reward/mean": 0.25, "policy/kl": 0.0125, "completion/length": 12.0}
EVALUATION = {"kind": "eval", "step": 50, "eval/accuracy": 0.5, "eval/format": 1.0}


def shown(steps, act, *, terminal=False, **settings):
    """What `act(display)` writes, as lines."""
    file = StringIO()
    console = Console(file=file, force_terminal=terminal, width=200, soft_wrap=True, highlight=False)
    with Display(steps, console=console, **settings) as display:
        act(display)
    return file.getvalue().splitlines()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.12345, "0.123"),
        (0, "0.000"),
        (-0.5, "-0.500"),
        (999.5, "999.500"),
        (1000, "1,000"),
        (12345.6, "12,346"),
        (-2000.4, "-2,000"),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
    ],
)
def test_numbers_as_people_read_them(value, text):
    assert format_number(value) == text


def test_evaluation_line_names_the_step_and_every_metric_of_it():
    line = evaluation_line(EVALUATION | {"other": 3.0})
    assert line == "evaluation after step 50: accuracy 0.500, format 1.000"


def test_a_step_is_one_plain_line_without_a_terminal():
    (line,) = shown(10, lambda display: display.show(TRAIN, {"throughput/tokens_per_s": 15000.0}))
    assert line == "step 1/10 reward 0.250 kl 0.013 length 12.000 tokens/s 15,000 accuracy -"


def test_numbers_that_a_row_does_not_have_are_left_out():
    (line,) = shown(10, lambda display: display.show({"kind": "train", "step": 1, "policy/kl": None}, {}))
    assert line == "step 1/10 accuracy -"


def test_the_last_accuracy_is_shown_beside_the_steps_after_it():
    lines = shown(10, lambda display: (display.show(EVALUATION, {}), display.show(TRAIN, {})))
    assert lines[0] == "evaluation after step 50: accuracy 0.500, format 1.000"
    assert lines[1].endswith("accuracy 0.500")


@pytest.mark.parametrize(("level", "word"), [(0.0, "ok"), (1.0, "warn"), (2.0, "error")])
def test_the_health_of_the_last_check_is_shown_beside_the_steps_after_it(level, word):
    steps = [TRAIN, TRAIN | {"step": 2, "health/worst": level}, TRAIN | {"step": 3}]
    lines = shown(3, lambda display: [display.show(row, {}) for row in steps])
    assert "health" not in lines[0]
    assert [line.split("accuracy - ")[1] for line in lines[1:]] == [f"health {word}"] * 2


@pytest.mark.parametrize("steps", [1, 7, 20, 300, 1999])
def test_a_run_of_any_length_prints_few_lines_with_its_first_and_last_step(steps):
    def act(display):
        for step in range(1, steps + 1):
            display.show(TRAIN | {"step": step}, {})

    lines = [line.split()[1] for line in shown(steps, act)]
    assert lines[0] == f"1/{steps}" and lines[-1] == f"{steps}/{steps}"
    assert len(lines) == len(set(lines)) <= 2 * LINES


def test_the_warm_start_prints_its_beginning_middle_and_end():
    def act(display):
        for step in range(1, 101):
            display.warm_start(step, 100, 1 / step)

    assert shown(10, act) == [
        "warm start 1/100 loss 1.000",
        "warm start 50/100 loss 0.020",
        "warm start 100/100 loss 0.010",
    ]


REWARDS = {
    "batch": 3,
    "reward/mean": 0.25,
    "reward/std": 0.5,
    "reward/min": 0.0,
    "reward/p10": 0.1,
    "reward/p50": 0.2,
    "reward/p90": 0.75,
    "reward/max": 1.0,
    "reward/part/format": 0.5,
    "reward/part/format/std": 0.1,
    "group/flat_fraction": 0.125,
}


def test_reward_line_shows_the_distribution_and_the_parts():
    assert reward_line(REWARDS) == (
        "rewards of batch 3: mean 0.250 std 0.500 min 0.000 p10 0.100 p50 0.200 p90 0.750 max 1.000; "
        "format 0.500; flat groups 0.12"
    )


def test_rewards_are_logged_once_per_batch_where_asked():
    def act(display):
        for step, batch in ((101, 3), (102, 3), (103, 4)):
            display.show(TRAIN | REWARDS | {"step": step, "batch": batch}, {})

    lines = shown(1000, act, log_rewards=True)
    assert [line.split(":")[0] for line in lines] == ["rewards of batch 3", "rewards of batch 4"]
    assert shown(1000, act) == []


def test_text_in_brackets_is_printed_as_it_is():
    assert shown(1, lambda display: display.say("[bold] keep [/] me")) == ["[bold] keep [/] me"]


def test_a_terminal_gets_a_bar_and_its_evaluations():
    text = "\n".join(
        shown(
            10,
            lambda display: (display.warm_start(1, 2, 3.0), display.show(TRAIN, {}), display.show(EVALUATION, {})),
            terminal=True,
        )
    )
    assert "GRPO" in text and "1/10" in text and "reward 0.250" in text
    assert "evaluation after step 50: accuracy 0.500" in text
    assert "step 1/10" not in text  # the bar says it


def test_the_display_lets_exceptions_through():
    def fail(display):
        raise KeyError("x")

    with pytest.raises(KeyError, match="x"):
        shown(1, fail)


def test_standard_output_is_left_to_results(capsys):
    with Display(1) as display:
        display.say("for people")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "for people\n"
