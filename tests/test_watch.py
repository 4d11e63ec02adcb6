import io
import json
import threading

import pytest
from rich.console import Console

from agent_tunix import runs
from agent_tunix.diagnostics import diagnosis
from agent_tunix.diagnostics.findings import Finding
from agent_tunix.errors import RunError
from agent_tunix.plain import json_line
from agent_tunix.reports import _following, watch
from agent_tunix.reports._following import Following, Tail

CONFIG = {"data": {"task": "sorting"}, "model": {"name": "tiny"}, "training": {"steps": 40}, "seed": 0}
KL = Finding("kl_blowup", "error", (25, 30), "KL is 0.9, six times its median", {"kl": 0.9}, "Lower the learning rate.")
STALL = Finding("stagnation", "warn", (1, 30), "reward [bold]stays[/bold] at 0.2")


def row(step, **values):
    reward = 0.2 + 0.02 * step
    known = {"reward/mean": reward, "reward/part/format": 1.0, "reward/part/format/std": 0.0}
    return {"kind": "train", "step": step, **known, "policy/kl": 0.001 * step, "group/flat_fraction": 0.25, **values}


def write(writer, steps, **values):
    for step in steps:
        writer.log(row(step, **values))
        writer.log_timing({"step": step, "time/step_s": 2.0, "throughput/tokens_per_s": 1234.0})


@pytest.fixture
def run(tmp_path):
    with runs.open_run(tmp_path / "r", config=CONFIG) as writer:
        yield writer


def plain_console():
    return Console(file=io.StringIO(), width=120, force_terminal=False)


def terminal(width=120):
    return Console(file=io.StringIO(), width=width, height=40, force_terminal=True, color_system="standard")


def shown(following, width=120):
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(watch.panel(following, width=width))
    return console.file.getvalue()


def polled(path):
    following = Following(path)
    following.poll()
    return following


@pytest.fixture
def found(monkeypatch):
    """Findings that the next diagnoses return."""
    findings = []
    monkeypatch.setattr(diagnosis, "diagnose", lambda *_, **__: list(findings))
    monkeypatch.setattr(_following, "DIAGNOSE_EVERY_S", 0.0)
    return findings


# Reading what grows


def test_every_row_is_read_once(tmp_path):
    file = tmp_path / "m.jsonl"
    tail = Tail(file)
    assert tail.read() == (False, [])
    file.write_bytes(json_line(row(1)) + json_line(row(2)))
    assert [r["step"] for r in tail.read()[1]] == [1, 2]
    assert tail.read() == (False, [])
    with open(file, "ab") as grown:
        grown.write(json_line(row(3)))
    assert [r["step"] for r in tail.read()[1]] == [3]


def test_a_row_that_is_being_written_waits_for_its_end(tmp_path):
    file, line = tmp_path / "m.jsonl", json_line(row(2))
    file.write_bytes(json_line(row(1)) + line[:20])
    tail = Tail(file)
    assert [r["step"] for r in tail.read()[1]] == [1]
    with open(file, "ab") as grown:
        grown.write(line[20:])
    assert [r["step"] for r in tail.read()[1]] == [2]


@pytest.mark.parametrize("after", [[1], [1, 2, 9, 10], [1, 2, 9, 10, 11, 12, 13], []])
def test_a_file_that_was_cut_back_is_read_anew_however_long_it_is_by_then(tmp_path, after):
    file = tmp_path / "m.jsonl"
    file.write_bytes(b"".join(json_line(row(step)) for step in (1, 2, 3, 4)))
    tail = Tail(file)
    tail.read()
    file.write_bytes(b"".join(json_line(row(step, other=1)) for step in after))
    assert tail.read() == (True, [row(step, other=1) for step in after])


def test_a_removed_file_starts_over_once(tmp_path):
    file = tmp_path / "m.jsonl"
    file.write_bytes(json_line(row(1)))
    tail = Tail(file)
    tail.read()
    file.unlink()
    assert [tail.read(), tail.read()] == [(True, []), (False, [])]


@pytest.mark.parametrize("line", [b"{oops}\n", b"[1]\n", b'{"kind": "train"}\n', b"\xff\xfe\n"])
def test_a_damaged_line_is_named(tmp_path, line):
    file = tmp_path / "m.jsonl"
    file.write_bytes(json_line(row(1)) + line)
    with pytest.raises(RunError, match=r"m\.jsonl, line 2, is no"):
        Tail(file).read()


def test_columns_hold_training_evaluation_and_timings(run):
    write(run, [1, 2], **{"policy/kl": None, "reward/mean": 0.25})
    run.log({"kind": "eval", "step": 2, "eval/accuracy": 0.5})
    following = polled(run.path)
    assert following.columns["reward/mean"] == ([1, 2], [0.25, 0.25])
    assert following.columns["eval/accuracy"] == ([2], [0.5])
    assert following.columns["throughput/tokens_per_s"] == ([1, 2], [1234.0, 1234.0])
    assert "policy/kl" not in following.columns and "kind" not in following.columns
    assert (following.step, following.steps) == (2, 40)
    assert following.seconds_left() == 76.0  # 38 steps at 2 seconds


def test_a_resumed_run_forgets_what_it_computes_again(run):
    write(run, [1, 2])
    position = run.position()
    write(run, [3, 4, 5])
    following = polled(run.path)
    assert following.step == 5
    run.rewind(position, 2)
    write(run, [3], other=1.0)
    assert following.poll().restarted
    assert following.step == 3 and following.columns["reward/mean"][0] == [1, 2, 3]
    assert following.columns["time/step_s"][0] == [1, 2, 3]


@pytest.mark.parametrize("name", ["missing", "foreign"])
def test_a_folder_that_is_no_run_is_an_error_and_not_a_long_wait(tmp_path, name):
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "notes.txt").write_text("x")
    with pytest.raises(RunError, match="is not a run"):
        watch.watch(tmp_path / name, console=plain_console(), once=True)


# Findings


def test_what_the_run_flags_itself_counts_from_where_it_began(found):
    found.append(KL)
    steps = [10, 20, 30, 40]
    columns = {
        "health/worst": (steps, [2.0, 2.0, 2.0, 2.0]),
        "health/kl_blowup": (steps, [1.0, 2.0, 2.0, 2.0]),  # the diagnosis says more about it
        "health/truncation": (steps, [1.0, 0.0, 1.0, 1.0]),
        "health/stagnation": (steps, [1.0, 1.0, 1.0, 0.0]),  # over
    }
    findings = _following.merged(found, columns)
    assert [(finding.rule, finding.level, finding.steps) for finding in findings] == [
        ("kl_blowup", "error", (25, 30)),
        ("truncation", "warn", (30, 40)),
    ]


def test_a_real_illness_is_found_in_a_real_folder(run):
    write(run, range(1, 61), **{"reward/mean": 0.1, "completion/truncated_fraction": 0.9})
    console = plain_console()
    findings = watch.watch(run.path, console=console, once=True)
    assert "truncation" in {finding.rule for finding in findings}
    assert "truncation" in console.file.getvalue()


def test_looking_for_findings_does_not_eat_the_processor(run, monkeypatch):
    calls = []
    monkeypatch.setattr(diagnosis, "diagnose", lambda *_, **__: calls.append(1) or [])
    following = Following(run.path)
    for step in range(1, 6):
        write(run, [step])
        following.poll()
    assert len(calls) == 1
    following.settle()
    assert len(calls) == 2


# The panel


def test_the_panel_tells_step_curves_cells_and_pace(run, found):
    write(run, range(1, 31))
    run.log({"kind": "eval", "step": 30, "eval/accuracy": 0.75})
    text = shown(polled(run.path))
    for part in ("step 30/40 (75%)", "reward", "▁", "█", "0.8 ", "↑", "held-out", "0.75", "at step 30", "  format"):
        assert part in text
    for part in ("● KL 0.03", "● flat groups 0.25", "no findings", "1,230 tokens/s  20 s left"):
        assert part in text
    assert "truncated" not in text  # it was not logged


def test_cells_take_the_level_of_their_rules(run, found):
    found += [KL, STALL]
    write(run, range(1, 31))
    text = shown(polled(run.path))
    assert "✖ KL 0.03" in text and "● flat groups 0.25" in text
    assert "✖ kl_blowup since step 25: KL is 0.9" in text
    assert "▲ stagnation since step 1: reward [bold]stays[/bold] at 0.2" in text


def test_only_the_findings_that_began_last_are_in_the_panel(run, found):
    found += [Finding(f"rule{step}", "warn", (step, 9), "seen") for step in (5, 1, 4, 2, 3)]
    write(run, [1])
    text = shown(polled(run.path))
    assert [f"rule{step}" in text for step in range(1, 6)] == [False, False, True, True, True]


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_panel_fits_every_terminal(run, found, width):
    found.append(KL)
    write(run, range(1, 31))
    run.log({"kind": "eval", "step": 30, "eval/accuracy": 0.75})
    assert {len(line) for line in shown(polled(run.path), width).splitlines()} == {width}


def test_a_silent_run_is_said_to_be_silent(run, found, monkeypatch):
    write(run, [1])
    following = polled(run.path)
    monkeypatch.setattr(Following, "silent_s", lambda self: 119.0)
    assert "no new row for 1:59 min" in shown(following)
    run.write_summary({"reason": "finished"})
    following.poll()
    assert "finished" in shown(following)


def test_evaluations_far_apart_are_drawn_at_their_steps():
    drawn = watch._over_steps([0, 50, 100], [0.1, 0.5, 0.9], 200, 5)
    assert drawn.tolist() == [0.1, 0.5, 0.9, 0.9, 0.9]  # at steps 0, 50, 100, 150, 200


@pytest.mark.parametrize(
    ("values", "way"),
    [
        ([0.5] * 80 + [0.5 + 0.01 * step for step in range(20)], 1),
        ([0.5] * 80 + [0.5 - 0.01 * step for step in range(20)], -1),
        ([0.01 * step for step in range(80)] + [0.8] * 20, 0),  # where it was before does not count
        ([0.5 + 0.1 * (-1) ** step for step in range(100)], 0),
        ([1.0, float("nan"), 2.0], 0),
        ([], 0),
    ],
)
def test_arrows_follow_the_last_fifth(values, way):
    assert watch.trend(values) == way


# Watching


def test_without_a_terminal_there_is_a_line_every_ten_steps_and_no_escape_code(run, found):
    found.append(STALL)
    write(run, range(1, 24))
    run.log({"kind": "eval", "step": 20, "eval/accuracy": 0.5})
    run.write_summary({"reason": "finished"})
    console = plain_console()
    assert watch.watch(run.path, console=console) == [STALL]
    text = console.file.getvalue()
    lines = text.splitlines()
    assert lines[0] == "step 10/40 reward 0.4 KL 0.01 flat groups 0.25 tokens/s 1,230"
    assert lines[1] == "step 20/40 reward 0.6 accuracy 0.5 KL 0.02 flat groups 0.25 tokens/s 1,230"
    assert lines[2] == "WARN stagnation, steps 1 to 30: reward [bold]stays[/bold] at 0.2"
    assert "\x1b" not in text


def test_it_waits_for_the_first_row_and_ends_with_the_run(tmp_path, found):
    (tmp_path / "r").mkdir()
    writer = None

    def go_on(seconds):
        nonlocal writer
        assert seconds == 2.0
        if writer is None:
            writer = runs.open_run(tmp_path / "r", config=CONFIG)
        elif not (tmp_path / "r" / "metrics.jsonl").read_bytes():
            write(writer, range(1, 11))
        else:
            writer.write_summary({"reason": "finished"})

    console = plain_console()
    watch.watch(tmp_path / "r", console=console, sleep=go_on)
    writer.close()
    lines = console.file.getvalue().splitlines()
    assert [line.partition(" reward")[0] for line in lines] == [
        f"waiting for the first rows of {tmp_path / 'r'}",
        "step 10/40",
        "no findings: the run looks healthy",
    ]


def test_a_resume_is_told_and_its_steps_are_written_again(run, found):
    write(run, range(1, 21))
    position = run.position()
    write(run, range(21, 31))

    def resume(seconds):
        run.rewind(position, 20)
        write(run, range(21, 32), **{"reward/mean": 0.125})
        run.write_summary({"reason": "finished"})

    console = plain_console()
    watch.watch(run.path, console=console, sleep=resume)
    said = [line.partition(" KL")[0] for line in console.file.getvalue().splitlines()]
    first = ["step 10/40 reward 0.4", "step 20/40 reward 0.6", "step 30/40 reward 0.8"]
    again = ["the run was resumed from an earlier step", "step 30/40 reward 0.125"]
    assert said[:5] == first + again


def test_ctrl_c_ends_with_the_table(run, found):
    found += [STALL, KL]
    write(run, [1])

    def interrupt(seconds):
        raise KeyboardInterrupt

    for console in (plain_console(), terminal()):
        assert watch.watch(run.path, console=console, sleep=interrupt) == [STALL, KL]
        text = console.file.getvalue()
        assert "evidence" in text and "Lower the learning rate." in text
        assert text.rindex("stagnation") > text.rindex("kl_blowup")  # the most serious first
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1  # the cursor is back


@pytest.mark.timeout(30)
def test_a_terminal_sees_a_run_grow_that_another_thread_writes(run, found):
    def go_on():
        try:
            for step in range(1, 41):
                write(run, [step])
        finally:  # else the watch would wait for ever
            run.write_summary({"reason": "finished"})

    writer = threading.Thread(target=go_on)
    console = terminal()
    writer.start()
    watch.watch(run.path, console=console, refresh_s=0.005)
    writer.join()
    text = console.file.getvalue()
    assert "step 40/40 (100%)" in text and "finished" in text and "\x1b[" in text


def test_a_look_writes_one_panel_and_returns(run, found):
    write(run, range(1, 31))
    console = terminal()
    watch.watch(run.path, console=console, once=True, sleep=lambda seconds: pytest.fail("it waited"))
    assert console.file.getvalue().count("step 30/40") == 1


SLY = "\x1b]0;owned\x07\n\ud800"


def test_names_of_a_log_cannot_write_to_the_terminal(run, found):
    found.append(Finding(f"rule{SLY}", "error", (1, 10), f"message{SLY}", remedy=f"remedy{SLY}"))
    # A surrogate reaches the names through an escape in the JSON.
    values = {f"reward/part/p{SLY}": 1.0, f"reward/part/p{SLY}/std": 0.1}
    with open(run.path / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.writelines(json.dumps(row(step, **values)) + "\n" for step in range(1, 11))
    for console in (plain_console(), terminal()):
        watch.watch(run.path, console=console, once=True)
        text = console.file.getvalue()
        assert "\x1b]" not in text and "\x07" not in text and "\ud800" not in text
        assert r"\x1b]0;" in text
    assert text.encode()
    assert r"p\x1b]0;owned\x07\n\ud800" in shown(polled(run.path), width=200)


def test_a_long_run_is_written_without_looking_through_it_for_every_line(run, found, monkeypatch):
    write(run, range(1, 101))
    following = polled(run.path)
    looked = []

    class Counted(list):
        def __getitem__(self, index):
            looked.append(index)
            return super().__getitem__(index)

        def __iter__(self):
            pytest.fail("the whole column was read")

    following.columns = {name: (Counted(steps), values) for name, (steps, values) in following.columns.items()}
    assert watch.step_line(row(70), following).endswith("tokens/s 1,230")
    assert 0 < len(looked) <= 8


def test_an_empty_folder_is_waited_for(tmp_path):
    console = terminal()
    assert watch.watch(tmp_path, console=console, once=True) == []
    assert "waiting for the first rows" in console.file.getvalue()


def test_rows_without_a_reward_or_a_plan_are_shown(tmp_path, found):
    with runs.open_run(tmp_path / "r", config={"seed": 0}) as writer:
        writer.log({"kind": "train", "step": 10, "policy/entropy": 1.5})
        writer.log({"kind": "eval", "step": 10})
    console = plain_console()
    watch.watch(tmp_path / "r", console=console, once=True)
    assert console.file.getvalue().splitlines()[0] == "step 10 entropy 1.5"
    assert "● entropy 1.5" in shown(polled(tmp_path / "r"))
    assert json.loads((tmp_path / "r" / "metrics.jsonl").read_text().splitlines()[0])["step"] == 10
