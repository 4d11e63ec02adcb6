"""Where graders run: order, failures kept apart, real kills, retries, and nothing left behind."""

import asyncio
import copy
import functools
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cloudpickle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_tunix import rewards
from agent_tunix.errors import RewardError
from agent_tunix.rewards._calls.pool import ProcessPool, UnpicklableError, _Run
from agent_tunix.rewards._calls.running import Results, on_failure_policy, run
from agent_tunix.types import Outcome

# Workers need not import this module, and with it jax, to have a function of it.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

RUNNERS = {
    "inline": rewards.inline,
    "threads": rewards.threads(3),
    "processes": rewards.processes(2),
    "asynchronous": rewards.asynchronous(4),
}
HANGS = {
    "loop": "while True: pass",
    "regular expression, which keeps the interpreter's lock": "import re; re.match('(a+)+b', 'a' * 60)",
    "sleep": "import time; time.sleep(60)",
    "deaf to signals": "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)",
    "own alarm": "import signal, time; signal.alarm(0); time.sleep(60)",
}


def calls_of(*arguments):
    return [((argument,), {}) for argument in arguments]


@pytest.fixture(scope="module")
def pool():
    made = ProcessPool(2, timeout_s=1.0)
    yield made
    made.close()


def moody(number):
    """Fails, abstains, or gives its argument."""
    if number % 3 == 0:
        raise ValueError(f"no {number}")
    return None if number % 3 == 1 else number


def is_running(process):
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def ends_soon(process, seconds=5.0):
    limit = time.monotonic() + seconds
    while is_running(process) and time.monotonic() < limit:
        time.sleep(0.02)
    return not is_running(process)


# --- All runners ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("runner", RUNNERS.values(), ids=RUNNERS)
def test_values_keep_their_order_and_failures_are_not_abstentions(runner):
    results = runner(moody, calls_of(0, 1, 2, 3, 5))
    assert results.values == [None, None, 2, None, 5]
    assert results.problems == {0: (Outcome.FAILED, "ValueError: no 0"), 3: (Outcome.FAILED, "ValueError: no 3")}
    assert len(results.seconds) == 5 and all(0 <= seconds < 1 for seconds in results.seconds)


@pytest.mark.parametrize("runner", RUNNERS.values(), ids=RUNNERS)
def test_keyword_arguments_arrive(runner):
    assert runner(lambda text, *, factor: len(text) * factor, [(("abc",), {"factor": 2})]).values == [6]


@pytest.mark.parametrize("runner", RUNNERS.values(), ids=RUNNERS)
def test_no_calls_have_no_results(runner):
    assert runner(moody, []) == Results([], {}, [])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 20), max_size=40), st.sampled_from(sorted(RUNNERS.keys() - {"inline"})))
def test_every_place_gives_what_inline_gives(numbers, place):
    expected, got = rewards.inline(moody, calls_of(*numbers)), RUNNERS[place](moody, calls_of(*numbers))
    assert (got.values, got.problems) == (expected.values, expected.problems)


@pytest.mark.parametrize("place", ["threads", "asynchronous"])
def test_calls_wait_at_the_same_time(place):
    runner = rewards.threads(8) if place == "threads" else rewards.asynchronous(8)
    before = time.monotonic()
    results = runner(lambda _: time.sleep(1), calls_of(*range(8)))
    assert time.monotonic() - before < 7.5  # one after the other: 8
    assert results.problems == {}


@pytest.mark.parametrize("place", ["threads", "processes", "asynchronous"])
def test_a_late_call_times_out_and_its_neighbours_have_values(place):
    runner = getattr(rewards, place)(2, timeout_s=0.4)

    def slow(number):
        if number == 1:
            time.sleep(8)
        return number

    before = time.monotonic()
    results = runner(slow, calls_of(*range(6)))
    assert time.monotonic() - before < 7.5
    assert results.values == [0, None, 2, 3, 4, 5]
    assert results.problems == {1: (Outcome.TIMED_OUT, "no result within 0.4 s")}
    assert results.seconds[1] == pytest.approx(0.4, abs=0.5)


@pytest.mark.parametrize("place", ["threads", "processes", "asynchronous"])
def test_a_grader_that_exits_has_failed(place):
    results = getattr(rewards, place)(2)(sys.exit, calls_of(3, 4))
    assert results.problems == {0: (Outcome.FAILED, "SystemExit: 3"), 1: (Outcome.FAILED, "SystemExit: 4")}


@pytest.mark.parametrize("place", ["threads", "processes", "asynchronous"])
def test_runners_can_be_copied_and_pickled(place):
    runner = getattr(rewards, place)(2, timeout_s=20.0)
    for same in (copy.deepcopy(runner), pickle.loads(pickle.dumps(runner))):
        assert same(len, calls_of("abc")).values == [3]


@pytest.mark.parametrize(
    ("place", "setting"),
    [("threads", {"workers": 0}), ("threads", {"timeout_s": 0}), ("processes", {"workers": -1}),
     ("processes", {"timeout_s": -1.0}), ("processes", {"memory_mb": 0}), ("asynchronous", {"concurrency": 0})],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(place, setting):
    ((name, value),) = setting.items()
    with pytest.raises(ValueError, match=f"{name} is {value}; give a positive number"):
        getattr(rewards, place)(**setting)


@pytest.mark.parametrize("place", ["threads", "asynchronous"])
def test_the_interpreter_does_not_wait_for_a_hung_call(place):
    code = f"""
import time
from agent_tunix import rewards
print(rewards.{place}(2, timeout_s=0.2)(time.sleep, [((60,), dict())]).problems[0][0].name)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert (done.stdout, done.stderr) == ("TIMED_OUT\n", "")


# --- Coroutines -------------------------------------------------------------------------------------------------------


async def judged(number):
    await asyncio.sleep(0.2)
    return moody(number)


def test_coroutines_run_at_the_same_time():
    before = time.monotonic()
    results = rewards.asynchronous(64)(judged, calls_of(*[2] * 64))
    assert time.monotonic() - before < 12  # one after the other: 12.8
    assert results.values == [2] * 64


def test_no_more_coroutines_at_a_time_than_asked_for():
    running, most = 0, 0

    async def counted(_):
        nonlocal running, most
        running, most = running + 1, max(most, running + 1)
        await asyncio.sleep(0.01)
        running -= 1

    rewards.asynchronous(3)(counted, calls_of(*range(12)))
    assert most == 3


def test_coroutines_run_from_inside_a_running_loop():
    async def notebook_cell():
        return rewards.asynchronous(4)(judged, calls_of(0, 2))

    assert asyncio.run(notebook_cell()).values == [None, 2]


def test_clients_that_belong_to_a_loop_can_be_kept_between_batches():
    loops = set()

    async def loop_of(_):
        loops.add(asyncio.get_running_loop())

    runner = rewards.asynchronous(4)
    runner(loop_of, calls_of(1, 2))
    runner(loop_of, calls_of(3))
    assert len(loops) == 1


class Judge:
    async def __call__(self, number):
        return await judged(number)


@pytest.mark.parametrize("function", [Judge(), lambda number: judged(number), functools.partial(judged)])
def test_whatever_returns_a_coroutine_is_awaited(function):
    assert rewards.asynchronous()(function, calls_of(2, 5)).values == [2, 5]


def test_a_coroutine_that_ignores_its_cancellation_times_out():
    async def stubborn(number):
        while number:
            try:
                await asyncio.sleep(5)
                break
            except asyncio.CancelledError:
                continue
        return number

    before = time.monotonic()
    results = rewards.asynchronous(timeout_s=0.2)(stubborn, calls_of(0, 1))
    assert time.monotonic() - before < 4.5
    assert results.problems == {1: (Outcome.TIMED_OUT, "no result within 0.2 s")}
    time.sleep(5.1)  # It ends before the loop does.


def test_a_coroutine_that_cancels_itself_has_failed():
    async def cancels(_):
        raise asyncio.CancelledError

    assert rewards.asynchronous()(cancels, calls_of(0)).problems == {0: (Outcome.FAILED, "CancelledError: ")}


def test_a_blocked_loop_is_given_up_and_replaced(monkeypatch):
    monkeypatch.setattr("agent_tunix.rewards._calls.waiting._BLOCKED_S", 0.3)

    async def blocks(number):
        time.sleep(1.5 * number)
        return number

    runner = rewards.asynchronous(1, timeout_s=0.2)
    results = runner(blocks, calls_of(0, 1))
    assert results.values == [0, None]
    assert "the event loop is blocked" in results.problems[1][1]
    assert runner(blocks, calls_of(0)).values == [0]


# --- Policies ---------------------------------------------------------------------------------------------------------


def flaky(failures):
    """A grader whose first `failures` calls of each argument fail."""
    tries = {}

    def grade(number):
        tries[number] = tries.get(number, 0) + 1
        if tries[number] <= failures * (number % 2):
            raise OSError("busy")
        return number

    return grade, tries


def test_only_failed_calls_are_tried_again():
    grade, tries = flaky(failures=2)
    results = run(rewards.inline, grade, calls_of(0, 1, 2, 3), rewards.retry(2))
    assert results.values == [0, 1, 2, 3] and results.problems == {}
    assert tries == {0: 1, 1: 3, 2: 1, 3: 3}


def test_retries_end():
    grade, tries = flaky(failures=9)
    results = run(rewards.inline, grade, calls_of(0, 1), rewards.retry(2))
    assert results.problems == {1: (Outcome.FAILED, "OSError: busy")} and tries == {0: 1, 1: 3}


def test_seconds_of_all_attempts_add_up():
    attempts = iter([Results([None, 1.0], {0: (Outcome.TIMED_OUT, "late")}, [2.0, 0.5]), Results([3.0], {}, [0.25])])
    results = run(lambda *_: next(attempts), len, calls_of("a", "b"), rewards.retry(5))
    assert results == Results([3.0, 1.0], {}, [2.25, 0.5])


def test_raise_names_the_call_and_the_reason():
    with pytest.raises(RewardError, match="grader call 1 of 3 failed: OSError: busy; mend the grader"):
        run(rewards.inline, flaky(failures=9)[0], calls_of(0, 1, 2), rewards.retry(1, then="raise"))
    assert run(rewards.inline, flaky(failures=1)[0], calls_of(1), rewards.retry(1, then="raise")).values == [1]


def test_policies_are_words_or_retries():
    assert on_failure_policy("abstain") == (0, "abstain") and on_failure_policy("raise") == (0, "raise")
    assert on_failure_policy(rewards.retry(3)) == (3, "abstain")
    with pytest.raises(ValueError, match=r"unknown on_failure `zero`.*abstain, raise.*retry\(times\)"):
        on_failure_policy("zero")
    with pytest.raises(ValueError, match="`zero`"):
        rewards.retry(1, then="zero")
    with pytest.raises(ValueError, match="-1 times; give 0 or more"):
        rewards.retry(-1)


# --- Processes: what travels ------------------------------------------------------------------------------------------


def test_a_thousand_calls_keep_their_order(pool):
    results = pool.run(lambda number: number**2, calls_of(*range(1000)))
    assert [result.value for result in results] == [number**2 for number in range(1000)]


def test_both_workers_work(pool):
    def where(_):
        time.sleep(0.05)
        return os.getpid()

    processes = {result.value for result in pool.run(where, calls_of(*range(12)))}
    assert len(processes) == 2 and os.getpid() not in processes


def test_a_function_is_loaded_once_and_workers_are_reused(pool):
    class Counter:
        def __init__(self):
            self.seen = 0

        def __call__(self, _):
            self.seen += 1
            return self.seen, os.getpid()

    counter, one = Counter(), ProcessPool(1)
    values = [result.value for _ in range(2) for result in one.run(counter, calls_of(0, 0))]
    one.close()
    assert [seen for seen, _ in values] == [1, 2, 3, 4] and len({process for _, process in values}) == 1
    assert counter.seen == 0


def test_large_arguments_and_values_cross_at_the_same_time(pool):
    text = "x" * 5_000_000
    results = pool.run(lambda given: given + "y", calls_of(*[text] * 6))
    assert [len(result.value) for result in results] == [5_000_001] * 6


def test_functions_and_classes_of_scripts_travel(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("""
from agent_tunix.rewards._calls.pool import ProcessPool
class Text:
    def __init__(self, text): self.text = text
FACTOR = 2
def size(text): return FACTOR * len(text.text)
print("once")
print([result.value for result in ProcessPool(2, timeout_s=20).run(size, [((Text("abc"),), {})] * 3)])
""")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == ("once\n[6, 6, 6]\n", "")


def test_modules_that_the_parent_can_import_can_be_imported(tmp_path, monkeypatch):
    (tmp_path / "graders_of_a_user.py").write_text("def size(text):\n    return len(text)\n")
    monkeypatch.syspath_prepend(tmp_path)
    import graders_of_a_user

    made = ProcessPool(1)
    assert made.run(graders_of_a_user.size, calls_of("abc"))[0].value == 3
    made.close()


def test_workers_import_jax_only_where_the_function_does(pool):
    assert pool.run(lambda _: "jax" in sys.modules, calls_of(0))[0].value is False
    assert pool.run(rewards.exact_answer, [(("#### 4", "4"), {})])[0].value == 1.0
    assert pool.run(lambda _: "jax" in sys.modules, calls_of(0))[0].value is False


def test_workers_leave_the_accelerator_alone(pool):
    assert pool.run(os.getenv, calls_of("JAX_PLATFORMS"))[0].value == "cpu"


def test_what_cannot_be_pickled_fails_alone(pool):
    results = pool.run(lambda given: threading.Lock() if given == "lock" else given, calls_of("a", "lock", "b"))
    assert [result.value for result in results] == ["a", None, "b"]
    assert results[1].status == "failed" and "returned cannot be pickled" in results[1].reason
    results = pool.run(lambda given: given, calls_of("a", threading.Lock(), "b"))
    assert [result.status for result in results] == ["graded", "failed", "graded"]
    assert "arguments cannot be pickled" in results[1].reason


def test_a_function_that_no_worker_can_load_fails_every_call(pool):
    class Unloadable:
        def __reduce__(self):
            return eval, ("1 / 0",)

    results = pool.run(Unloadable(), calls_of(1, 2))
    assert {(result.status, result.reason) for result in results} == {
        ("failed", "the function cannot be loaded in a worker process; ZeroDivisionError: division by zero")
    }
    assert pool.run(len, calls_of("abc"))[0].value == 3


def test_a_function_that_kills_its_worker_while_it_is_loaded_fails_every_call(pool):
    class Deadly:
        def __reduce__(self):
            return os._exit, (7,)

    assert {result.reason for result in pool.run(Deadly(), calls_of(1, 2))} == {
        "the function cannot be loaded in a worker process, which ended with exit status 7"
    }


def test_an_unpicklable_function_runs_here_with_one_warning(caplog):
    lock, runner = threading.Lock(), rewards.processes(1)

    def grade(text):
        with lock:
            return len(text), os.getpid()

    with pytest.raises(UnpicklableError, match=r"cannot be sent to a worker process; TypeError: .*lock"):
        ProcessPool(1).run(grade, calls_of("a"))
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert runner(grade, calls_of("abc")).values == [(3, os.getpid())]
        assert len(caplog.records) == 1
        assert "runs in this process instead, where no timeout can end it" in caplog.text
        runner(lambda text: lock and len(text), calls_of("abc"))
    assert len(caplog.records) == 2


def test_reasons_can_be_written_and_stay_short(pool):
    def fails(text):
        raise ValueError(text)

    class Mute(Exception):
        def __str__(self):
            raise RuntimeError

    def mute(_):
        raise Mute

    surrogate, long = (result.reason for result in pool.run(fails, calls_of("\ud800", "x" * 10_000)))
    assert surrogate == "ValueError: \\ud800" and len(long) == 200
    assert pool.run(mute, calls_of(0))[0].reason == "Mute"


# --- Processes: what ends ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", HANGS.values(), ids=HANGS)
def test_a_hang_is_killed_in_time_and_its_neighbours_have_values(how):
    made = ProcessPool(2, timeout_s=0.5)
    made.run(len, calls_of("a", "b"))

    def grade(number):
        if number == 5:
            exec(how)
        return number

    before = time.monotonic()
    results = made.run(grade, calls_of(*range(20)))
    assert time.monotonic() - before < 60  # the call itself would never end
    assert [result.value for result in results] == [None if number == 5 else number for number in range(20)]
    assert results[5].status == "timed_out" and results[5].reason == "no result within 0.5 s"
    assert 0.5 <= results[5].seconds <= 1.0
    made.close()


def test_loading_a_function_is_not_timed():
    class Heavy:
        def __reduce__(self):
            return (lambda: time.sleep(0.6) or len), ()

    made = ProcessPool(1, timeout_s=0.3)
    assert made.run(Heavy(), calls_of("abc"))[0].value == 3
    made.close()


def test_a_stalled_parent_kills_nobody(monkeypatch):
    made = ProcessPool(1, timeout_s=0.3)
    made.run(len, calls_of("abc"))

    def stalled(batch, worker, check=_Run._check):
        time.sleep(0.5)  # The result has come in meanwhile, and nobody has read it.
        check(batch, worker)

    monkeypatch.setattr(_Run, "_patience", lambda _: 0.0)
    monkeypatch.setattr(_Run, "_check", stalled)
    assert [result.status for result in made.run(len, calls_of("a", "b"))] == ["graded"] * 2
    made.close()


@pytest.mark.parametrize(
    ("how", "ending"),
    [
        ("os._exit(3)", "ended with exit status 3"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "was killed by SIGSEGV"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "was killed by SIGKILL"),
    ],
)
def test_a_worker_that_dies_fails_one_call(pool, how, ending):
    def grade(number):
        if number == 2:
            exec(how, {"os": os, "signal": signal})
        return number

    results = pool.run(grade, calls_of(*range(6)))
    assert [result.value for result in results] == [0, 1, None, 3, 4, 5]
    assert (results[2].status, results[2].reason) == ("failed", f"the worker process {ending} in this call")


def test_a_death_is_noticed_though_a_child_holds_the_pipe():
    made = ProcessPool(1)

    def grade(_):
        if os.fork() == 0:
            time.sleep(30)
        os._exit(4)

    before = time.monotonic()
    assert made.run(grade, calls_of(0))[0].reason == "the worker process ended with exit status 4 in this call"
    assert time.monotonic() - before < 29
    made.close()


def test_a_fork_that_comes_back_answers_nothing(pool):
    assert [result.value for result in pool.run(lambda number: os.fork() * 0 + number, calls_of(1, 2, 3))] == [1, 2, 3]


def test_prints_and_reads_disturb_nothing(pool, capfd):
    def chatty(text):
        sys.stdout.write(f"to standard output {text}\n")
        os.write(1, b"raw\n")
        subprocess.run(["echo", "from a child"], check=True)
        return input()

    results = pool.run(chatty, calls_of("a", "b"))
    assert [result.reason for result in results] == ["EOFError: EOF when reading a line"] * 2
    assert capfd.readouterr().out == ""


def test_memory_beyond_the_limit_fails_the_call():
    made = ProcessPool(1, memory_mb=200)

    def grade(megabytes):
        return len(bytearray(megabytes * 2**20)), os.getpid()

    small, large, after = made.run(grade, calls_of(100, 400, 100))
    assert small.value[0] == after.value[0] == 100 * 2**20
    assert (large.status, large.reason) == ("failed", "MemoryError: ")
    assert small.value[1] == after.value[1]
    made.close()


def test_children_of_a_killed_call_die_with_it(tmp_path):
    made = ProcessPool(1, timeout_s=0.5)

    def grade(path):
        Path(path).write_text(str(subprocess.Popen(["sleep", "60"]).pid))
        time.sleep(60)

    assert made.run(grade, calls_of(str(tmp_path / "child")))[0].status == "timed_out"
    assert ends_soon(int((tmp_path / "child").read_text()))
    made.close()


def test_threads_share_a_pool(pool):
    found = {}

    def batch(start):
        numbers = range(start, start + 50)
        found[start] = [result.value for result in pool.run(lambda number: -number, calls_of(*numbers))]

    threads = [threading.Thread(target=batch, args=(100 * index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {start: [-number for number in range(start, start + 50)] for start in range(0, 600, 100)}


def test_nothing_is_started_before_it_is_needed_and_nothing_runs_after():
    made = ProcessPool(2)
    assert not any(worker.is_started for worker in made._all)
    process = made.run(lambda _: os.getpid(), calls_of(0))[0].value
    assert sum(worker.is_started for worker in made._all) == 1 and is_running(process)
    made.close()
    assert not is_running(process)
    again = made.run(lambda _: os.getpid(), calls_of(0))[0].value
    assert again != process
    del made
    assert ends_soon(again)


def test_an_interrupted_run_leaves_no_call_running():
    made = ProcessPool(1)
    made.run(len, calls_of("a"))

    def interrupted(*_):
        raise KeyboardInterrupt

    signal.signal(signal.SIGALRM, interrupted)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(KeyboardInterrupt):
            made.run(lambda _: time.sleep(60), calls_of(0))
    finally:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
    assert not any(worker.is_started for worker in made._all)
    assert made.run(len, calls_of("abc"))[0].value == 3
    made.close()


@pytest.mark.parametrize("timeout_s", [None, 600.0])
@pytest.mark.parametrize("how", list(HANGS.values())[:3], ids=list(HANGS)[:3])
def test_workers_end_with_a_parent_that_was_killed(tmp_path, how, timeout_s):
    path = tmp_path / "worker"
    code = f"""
import os
from agent_tunix.rewards._calls.pool import ProcessPool
def grade(_):
    with open({str(path)!r}, "w") as file: file.write(f"{{os.getpid()}}.")
    exec({how!r})
ProcessPool(1, timeout_s={timeout_s}).run(grade, [((0,), {{}})])
"""
    parent = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    limit = time.monotonic() + 20
    while not (path.exists() and path.read_text().endswith(".")) and time.monotonic() < limit:
        time.sleep(0.02)
    time.sleep(0.1)
    worker = int(path.read_text().rstrip("."))
    assert is_running(worker)
    parent.kill()
    parent.wait()
    assert ends_soon(worker)


def test_a_grader_that_hangs_on_one_completion_grades_the_others():
    exact_answer = rewards.exact_answer  # Imported while the function is loaded, which is not timed.

    def grade(completion, answer):
        while completion == "hang":
            pass
        return exact_answer(completion, answer)

    results = rewards.processes(2, timeout_s=1.0)(
        grade, [((text, "4"), {}) for text in ("#### 4", "#### 5", "hang", "4")]
    )
    assert results.values == [1.0, 0.0, None, 0.0]
    assert results.problems == {2: (Outcome.TIMED_OUT, "no result within 1 s")}
    assert results.seconds[2] == pytest.approx(1.0, abs=0.5)
