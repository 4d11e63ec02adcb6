"""Programs graded by tests: what is right, what is wrong, and what tries to get out or to get credit for nothing."""

import functools
import json
import math
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_tunix import rewards
from agent_tunix.rewards._code import SandboxError, program_of, sandbox_report
from agent_tunix.rewards._sandbox import sandbox, tester

# A minute, since the default of five seconds is for machines that do nothing else.
passes_tests = functools.partial(rewards.passes_tests, timeout_s=60.0)

ADD = "def add(a, b):\n    return a + b\n"
WRONG_FOR_NEGATIVES = "def add(a, b):\n    return abs(a) + abs(b)\n"
ADD_TESTS = "assert add(1, 2) == 3\nassert add(-1, 1) == 0\nassert add(2, 2) == 4\nassert add(-1, -1) == -2"
CHECK = "def check(candidate):\n    for a in range(3):\n        assert candidate(a, 1) == a + 1\n"
SUM_PAIRS = [{"input": "1 2\n", "output": "3\n"}, {"input": "5 5", "output": "10"}]
READ_AND_ADD = "a, b = map(int, input().split())\nprint(a + b)\n"

if not sys.platform.startswith(("linux", "darwin")):
    pytest.skip("the sandbox needs fork", allow_module_level=True)


def confined(*names):
    """Skips a test where the system does not offer what it is about."""
    missing = [name for name in names if not sandbox_report()[name]]
    if missing:
        pytest.skip(f"programs have no {', '.join(missing)} on this system")


# --- Right, wrong and in between --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("program", "all_or_nothing", "fraction"),
    [
        (ADD, 1.0, 1.0),
        (WRONG_FOR_NEGATIVES, 0.0, 0.5),  # 3 and 4 are right, 2 for 0 and 2 for -2 are wrong.
        ("def add(a, b)\n    return a + b", 0.0, 0.0),
        ("def sub(a, b):\n    return a + b", 0.0, 0.0),
        ("def add(a, b):\n    raise ValueError(a)", 0.0, 0.0),
        ("", 0.0, 0.0),
        (ADD + "raise SystemExit", 0.0, 0.0),
        ("add = int.__add__", 1.0, 1.0),
    ],
)
def test_credit_is_for_asserts_that_hold(program, all_or_nothing, fraction):
    assert passes_tests(program, ADD_TESTS) == all_or_nothing
    assert passes_tests(program, ADD_TESTS, credit="fraction") == fraction


@pytest.mark.parametrize(
    "tests",
    [
        ADD_TESTS,
        ADD_TESTS.split("\n"),
        json.dumps(ADD_TESTS.split("\n")),
        np.array(ADD_TESTS.split("\n"), dtype=object),
    ],
    ids=["text", "list", "json", "array"],
)
def test_tests_may_be_one_text_or_many(tests):
    assert passes_tests(ADD, tests) == 1.0
    assert passes_tests(WRONG_FOR_NEGATIVES, tests, credit="fraction") == 0.5


def test_answers_that_arrive_together_are_all_read():
    reader, writer = os.pipe()
    os.write(writer, b'{"ready": {}}\n{"passed": 1}\n{"cut')
    os.close(writer)
    answers, soon = sandbox._Answers(reader), time.monotonic() + 10
    assert [answers.next(soon) for _ in range(3)] == [{"ready": {}}, {"passed": 1}, None]
    os.close(reader)


def test_check_functions_get_the_entry_point():
    assert passes_tests(ADD, CHECK, "add") == 1.0
    assert passes_tests(ADD, CHECK + "check(add)\n") == 1.0
    assert passes_tests("def add(a, b):\n    return 2", CHECK, "add", credit="fraction") == pytest.approx(1 / 3)
    assert passes_tests("def max(a, b):\n    return a + b", CHECK, "max") == 1.0  # not Python's own max


def test_scripts_are_compared_by_what_they_write():
    assert passes_tests(READ_AND_ADD, SUM_PAIRS) == 1.0
    assert passes_tests("print(3)", SUM_PAIRS) == 0.0
    assert passes_tests("print('3  \\n\\n')", SUM_PAIRS, credit="fraction") == 0.5
    assert passes_tests("print(3)\nraise SystemExit(1)", SUM_PAIRS, credit="fraction") == 0.0
    table = {"inputs": ["1 2\n", "5 5"], "outputs": ["3\n", "10"]}
    assert passes_tests(READ_AND_ADD, table) == passes_tests(READ_AND_ADD, json.dumps(table)) == 1.0
    assert passes_tests("if __name__ == '__main__':\n    " + READ_AND_ADD.replace("\n", "\n    "), SUM_PAIRS) == 1.0


def test_values_keep_their_type_and_value_on_the_way():
    values = (
        "[None, True, 0, -1, 2**70, -(16**3000), 0.1, -0.0, float('inf'), 2j, 'é\\ud800\\x00', b'\\xff', [1, [2]], "
        "(1,), (), {1: 'a', (1, 2): [3]}, {1, 2}, frozenset({'x'}), range(3), {}, set()]"
    )
    tests = f"sent = {values}\nback = same(sent)\nassert back == sent\nassert repr(back) == repr(sent)"
    assert passes_tests("def same(x):\n    return x", tests) == 1.0
    assert passes_tests("def nan():\n    return float('nan')", "x = nan()\nassert x != x") == 1.0


def test_subclasses_of_plain_values_arrive_as_plain_values():
    program = "import collections as c\nP = c.namedtuple('P', 'x y')\ndef f(kind):\n    return eval(kind)"
    tests = "assert f('P(1, 2)') == (1, 2)\nassert f('c.Counter(\"aab\")') == {'a': 2, 'b': 1}"
    assert passes_tests(program, tests) == 1.0


def test_methods_of_the_programs_objects_can_be_called():
    program = "class Stack:\n    def __init__(self): self.items = []\n    def push(self, x): self.items.append(x)\n"
    tests = "s = Stack()\ns.push(3)\nassert s.items == [3]"
    assert passes_tests(program, tests) == 1.0


def test_exceptions_arrive_as_pythons_own():
    tests = "try:\n    f(-1)\n    assert False\nexcept ValueError as error:\n    assert 'negative' in str(error)"
    program = "class Negative(ValueError):\n    pass\ndef f(x):\n    raise Negative('negative')"
    assert passes_tests(program, tests) == 1.0
    assert passes_tests("def f(x):\n    raise KeyError('negative')", tests) == 0.0


def test_modules_of_the_standard_library_are_there():
    program = (
        "import collections.abc, dataclasses, decimal, heapq, itertools, json, math, random, re, sqlite3, statistics\n"
        "import asyncio, bisect, datetime, functools, string, tempfile, typing, zoneinfo, hashlib, unicodedata\n"
        "@dataclasses.dataclass\nclass P:\n    x: int\n"
        "def f():\n    return [P(1).x, str(decimal.Decimal('0.1') * 3), hashlib.sha256(b'').hexdigest()[:4]]"
    )
    assert passes_tests(program, "assert f() == [1, '0.3', 'e3b0']") == 1.0


def test_every_kind_of_call_takes_a_list_of_tests_as_one_value():
    tests = [["assert add(1, 2) == 3"], ["assert add(1, 2) == 4", "assert add(1, 1) == 2"]]
    np.testing.assert_array_equal(passes_tests([ADD, ADD], tests), [1.0, 0.0])
    np.testing.assert_array_equal(passes_tests([ADD, ADD], tests, credit="fraction"), [1.0, 0.5])
    np.testing.assert_array_equal(passes_tests([ADD, "x"], "assert add(1, 2) == 3"), [1.0, 0.0])
    columns = {"prompts": ["p", "p"], "completions": [ADD, ADD], "tests": tests, "entry_point": ["add", "add"]}
    assert passes_tests(**columns) == [1.0, 0.0]
    assert rewards.passes_tests.each(ADD, tests[0]) == 1.0


def test_calls_from_many_threads_do_not_touch_each_other():
    grades = {}

    def grade(index):
        program = f"def f():\n    return {index % 3}"
        grades[index] = passes_tests(program, "assert f() == 1", timeout_s=30.0)

    threads = [threading.Thread(target=grade, args=(index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert grades == {index: float(index % 3 == 1) for index in range(6)}


# --- Where the program stands -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("response", "program"),
    [
        ("x = 1", "x = 1"),
        ("So:\n```python\nx = 1\n```\nDone.", "x = 1"),
        ("```python\nx = 1\n```\n```python\nx = 2\n```\n```text\nx = 3\n```", "x = 2"),
        ("```\nx = 1\n```\n```py\nx = 2\n```\n```\nx = 3\n```", "x = 2"),
        ("```\nx = 1\n```", "x = 1"),
        ("```json\n{}\n```<answer>x = 4</answer>", "x = 4"),
        ("```json\n{}\n```\n<answer>x = 4</answer>", "x = 4"),
        ("````python\n```\nx = 1\n````", "```\nx = 1"),
        ("```Python title='a'\nx = 1", "x = 1"),
        ("<answer>x = 1</answer> then <answer>x = 2</answer>", "x = 2"),
        ("<answer>```python\nx = 1\n```</answer>", "x = 1"),
        ("x = '</answer>'", "x = '</answer>'"),
    ],
)
def test_the_last_python_block_is_the_program(response, program):
    assert program_of(response) == program


@given(st.text(alphabet="`~py \n<answer>/x", max_size=200))
def test_any_text_holds_a_program(response):
    assert program_of(response) in response


@pytest.mark.parametrize("unit", ["```", "```python\n", "<answer>", "</answer>", "`", "\n", "```\n\n"])
def test_a_program_is_found_in_linear_time(unit):
    response = unit * (1_000_000 // len(unit))
    start = time.process_time()
    program_of(response)
    assert time.process_time() - start < 5  # measured at most 0.1 s; anything but linear takes minutes


# --- Tests that cannot be run -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tests", "reason"),
    [
        ("assert add(1, 2 == 3", "not Python"),
        ("add(1, 2)", "no assert"),
        ("assert 1 + 1 == 2", "call nothing"),
        ("assert sum([1]) == 1", "call nothing"),
        (CHECK, "entry_point"),
        ("assert add(lambda: 1, 2) == 3", "function to the program"),
        ("assert math.isclose(add(1, 2), 3)", "do not import"),
        ("assert add", "only call it"),
        ([], "give Python text"),
        (7, "give Python text"),
        ([{"input": 1, "output": 2}], "are texts"),
        ({"inputs": ["1"], "outputs": ["1"], "fn_name": "f"}, "give Python text"),
    ],
)
def test_tests_that_test_nothing_are_an_error_and_never_a_grade(tests, reason):
    with pytest.raises(ValueError, match=reason):
        passes_tests(ADD, tests)


def test_unknown_credit_is_refused():
    with pytest.raises(ValueError, match="all, fraction"):
        passes_tests(ADD, ADD_TESTS, credit="most")


def test_a_sandbox_that_cannot_start_is_an_error_and_never_a_zero(monkeypatch):
    monkeypatch.setattr(sandbox.sys, "_base_executable", "/bin/false")
    with pytest.raises(SandboxError, match="did not start"):
        passes_tests(ADD, ADD_TESTS)


# --- Programs that want credit for nothing ----------------------------------------------------------------------------

SWINDLES = {
    "exits": "import os; os._exit(0)",
    "exits when called": "import os\ndef add(a, b): os._exit(0)",
    "sys.exit": "import sys; sys.exit(0)",
    "exits at exit": "import atexit, os; atexit.register(os._exit, 0)",
    "equals everything": "class A(int):\n  __eq__ = lambda s, o: True\n  __hash__ = None\nadd = lambda a, b: A(7)",
    "object that equals everything": "class A:\n  __eq__ = lambda s, o: True\nadd = lambda a, b: A()",
    "patched builtins": "import builtins\nbuiltins.AssertionError = builtins.Exception = builtins.isinstance = None",
    "patched all": "import builtins\nfor n in ('all', 'len', 'abs', 'compile', 'exec'):\n  setattr(builtins, n, print)",
    "patched json": "import json, sys\njson.dumps = lambda *a, **k: '{\"value\": 7}'\nadd = lambda a, b: 3",
    "shadowed names": "def check(f): pass\ndef assert_(x): pass\nabs = len = lambda x: 3\nadd = lambda a, b: 7",
    "prints a verdict": 'print(\'{"passed": 4, "failed": 0, "asserts": 4}\', flush=True)\nadd = lambda a, b: 7',
    "writes to every descriptor": (
        'import os\nfor n in range(64):\n  try: os.write(n, b\'{"passed": 4, "failed": 0, "asserts": 4}\\n\')\n'
        "  except OSError: pass\nos._exit(0)"
    ),
    "sends rubbish": "import os\nos.write(4, b'\\xff' * 100)\nadd = lambda a, b: 7",
    "sends a huge length": "import os\nos.write(4, b'\\xff\\xff\\xff\\xff' + b'[' * 1000)\nadd = lambda a, b: 7",
    "sends a deep nest": "import os\nb = b'{\"value\": ' + b'[' * 50000\nos.write(4, len(b).to_bytes(4, 'big') + b)",
    "sends odd tags": (
        "import os\nfor b in (b'{\"value\": {\"i\": []}}', b'{\"value\": {}}', b'[]', b'{\"raised\": 3}', b'3'):\n"
        "  os.write(4, len(b).to_bytes(4, 'big') + b)"
    ),
    "raises what the tests raise": "def add(a, b): raise AssertionError",
    "raises BaseException": "def add(a, b): raise KeyboardInterrupt",
    "raises generator exit": "def add(a, b): raise GeneratorExit",
    "frames": (
        "import sys\ndef add(a, b):\n  f = sys._getframe()\n  while f:\n    for v in list(f.f_locals.values()) + "
        "list(f.f_globals.values()):\n      if ' '.join(['assert', 'add']) in str(v): return 3\n"
        "    f = f.f_back\n  return 7"
    ),
}


@pytest.mark.parametrize("program", SWINDLES.values(), ids=SWINDLES)
def test_nothing_but_right_answers_earns_credit(program):
    assert passes_tests(program, ADD_TESTS, credit="fraction", timeout_s=10.0) == 0.0


SEARCHES = {
    # Each returns True where it finds a trace of the secret that only the tests hold.
    "memory": "import gc\ndef look(_):\n  return any(''.join(['tr', 'easure']) in repr(o) for o in gc.get_objects())",
    "own memory map": (
        "turn = bytes([*range(1, 256), 0])\n"
        "def look(x):\n  try: maps, memory = list(open('/proc/self/maps')), open('/proc/self/mem', 'rb', 0)\n"
        "  except OSError: return False\n  found = False\n  for line in maps:\n"
        "    if 'heap' not in line: continue\n    lo, hi = (int(n, 16) for n in line.split()[0].split('-'))\n"
        "    memory.seek(lo)\n    found |= b'usfbtvsf' in memory.read(hi - lo).translate(turn)\n  return found"
    ),
    "other processes": (
        "import glob, os\ndef look(x):\n  for path in glob.glob('/proc/[0-9]*/*') + glob.glob('/proc/[0-9]*/fd/*'):\n"
        "    if path.rpartition('/')[2] not in ('environ', 'cmdline') and '/fd/' not in path: continue\n"
        "    try: n = os.open(path, os.O_NONBLOCK)\n    except OSError: continue\n"
        "    try: text = os.pread(n, 1 << 20, 0)\n    except OSError: text = b''\n    os.close(n)\n"
        "    if b''.join([b'tr', b'easure']) in text: return True\n  return False"
    ),
    "descriptors": (
        "import os\ndef look(x):\n  for n in list(range(3)) + list(range(5, 64)):\n"
        "    try: text = os.read(n, 100000)\n    except OSError: continue\n"
        "    if b'easure' in text: return True\n  return False"
    ),
}


@pytest.mark.parametrize("program", SEARCHES.values(), ids=SEARCHES)
def test_the_program_cannot_find_its_tests(program):
    tests = "secret = 'trea' + 'sure', 'treasure'\nassert look(1) is False"
    assert passes_tests(program, tests, timeout_s=20.0) == 1.0


def test_expected_outputs_are_not_in_the_process_that_writes_them():
    program = "import gc\nprint(any(''.join(['tr', 'easure']) in repr(o)[:5000] for o in gc.get_objects()))"
    assert passes_tests(program, [{"input": "", "output": "treasure"}]) == 0.0
    assert passes_tests(program, [{"input": "", "output": "False"}, {"input": "", "output": "treasure"}]) == 0.0
    pairs = [{"input": "", "output": "False"}, {"input": "", "output": "treasure"}]
    assert passes_tests(program, pairs, credit="fraction") == 0.5


# --- Programs that want too much --------------------------------------------------------------------------------------

GREEDY = {
    "endless loop at load": "while True: pass",
    "endless loop": "def add(a, b):\n  while True: pass",
    "sleep": "import time\ndef add(a, b): time.sleep(1000)",
    "endless loop that catches all": (
        "import signal\nfor n in range(1, 65):\n  try: signal.signal(n, signal.SIG_IGN)\n"
        "  except (OSError, ValueError): pass\n"
        "while True:\n  try:\n    while True: pass\n  except BaseException: pass"
    ),
    "recursion": "def add(a, b): return add(a, b)",
    "deep recursion": "import sys\nsys.setrecursionlimit(10**9)\ndef add(a, b): return add(a, b)",
    "deeply nested text": "x = " + "(" * 100_000,
    "deeply nested unary": "x = " + "-" * 100_000 + "1",
    "null bytes and surrogates": "x = '\0\ud800'",
    "memory": "x = bytearray(1 << 40)",
    "memory in steps": "x = []\nwhile True: x.append(bytearray(1 << 24))",
    "memory when called": "def add(a, b): return [0] * (1 << 34)",
    "large file": "f = open('x', 'wb')\nfor _ in range(1000): f.write(bytes(1 << 20)); f.flush()",
    "many files": "for n in range(10**6): open(str(n), 'w').close()\nadd = lambda a, b: 7",
    "many descriptors": "import os\nwhile True: os.dup(0)",
    "many threads": "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(100,)).start()",
    "large number": "def add(a, b): return 9 ** 9 ** 9",
    "a million digits": "def add(a, b): return 10 ** 1_000_000",
    "large answer": "def add(a, b): return 'x' * 100_000_000",
    "cyclic answer": "x = []\nx.append(x)\ndef add(a, b): return x",
    "large output": "import sys\nwhile True: sys.stdout.write('x' * 100_000)",
    "large error": "def add(a, b): raise ValueError('x' * 100_000_000)",
    "crash": "import ctypes\nctypes.string_at(0)",
}


@pytest.mark.parametrize("program", GREEDY.values(), ids=GREEDY)
def test_a_program_that_wants_too_much_gets_nothing_in_time(program):
    start = time.perf_counter()
    assert passes_tests(program, ADD_TESTS, timeout_s=1.0) == 0.0
    assert time.perf_counter() - start < 15.0  # A second for it; the rest for a busy machine.


def test_what_held_before_the_time_was_up_counts():
    program = "def f(x):\n  while x > 1: pass\n  return x"
    tests = "assert f(0) == 0\nassert f(1) == 1\nassert f(2) == 2\nassert f(0) == 0"
    assert passes_tests(program, tests, credit="fraction", timeout_s=1.0) == 0.5


def test_a_value_that_stalls_the_tests_costs_no_more_than_the_time():
    tests = "assert add(1, 2) == 3\nwhile add(1, 1) == 2:\n    pass\nwhile True:\n    pass"
    start = time.perf_counter()
    assert passes_tests(ADD, tests, timeout_s=0.5) == 0.0
    assert time.perf_counter() - start < 15.0


@pytest.mark.parametrize(
    "program",
    ["while True: print('x' * 100000)", "import os\nos.close(1)\nwhile True: pass", "import time; time.sleep(1000)"],
    ids=["output", "closed output", "sleep"],
)
def test_scripts_are_ended_too(program):
    start = time.perf_counter()
    assert passes_tests(program, SUM_PAIRS, credit="fraction", timeout_s=1.0) == 0.0
    assert time.perf_counter() - start < 15.0


def _running(mark):
    """Processes whose command line or name holds a mark."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "comm").read_text():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


NAME = "import ctypes\nctypes.CDLL(None).prctl(15, b'{mark}', 0, 0, 0)\n"  # PR_SET_NAME

ESCAPES = {
    "fork bomb": "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass",
    "daemon": (
        "import os, time\nif os.fork() == 0:\n  os.setsid()\n  if os.fork() == 0: time.sleep(1000)\n  os._exit(0)\n"
        + ADD
    ),
    "daemon without a parent's wish": (
        "import ctypes, os, time\nif os.fork() == 0:\n  os.setsid()\n  ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)\n"
        "  time.sleep(1000)\nos._exit(0)"
    ),
}


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize("program", ESCAPES.values(), ids=ESCAPES)
def test_no_process_survives(program):
    mark = f"esc{os.getpid() % 100000}"
    grade = passes_tests(NAME.format(mark=mark) + program, ADD_TESTS, timeout_s=1.0, processes=4)
    assert grade == float(program.endswith(ADD))
    assert _running(mark) == []


def test_no_launcher_and_no_folder_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(sandbox.tempfile, "tempdir", str(tmp_path))
    program = "import os\nos.makedirs('a/b')\nopen('a/b/c', 'w').close()\nos.chmod('a/b', 0)\nos.chmod('a', 0)\n"
    tmp_path.chmod(0o755)
    assert passes_tests(program + ADD, ADD_TESTS) == 1.0
    assert passes_tests("while True: pass", ADD_TESTS, timeout_s=0.5) == 0.0
    assert list(tmp_path.iterdir()) == []


# --- What a program can reach -----------------------------------------------------------------------------------------


def answered(program, call="f()", **settings):
    """Whether a function of a program returns True."""
    return passes_tests(program, f"assert {call} is True", **settings) == 1.0


def test_the_environment_and_the_arguments_tell_nothing(monkeypatch):
    monkeypatch.setenv("SECRET_KEY", "xyz")
    program = "import os, sys\ndef f(): return 'SECRET_KEY' not in os.environ and len(os.environ) < 8"
    assert answered(program)


def test_other_packages_are_not_there():
    program = (
        "def f():\n  try: import numpy\n  except ImportError: pass\n  else: return False\n"
        "  try: import agent_tunix\n  except ImportError: return True"
    )
    assert answered(program)


def test_its_own_folder_is_empty_and_can_be_written():
    program = (
        "import os\ndef f():\n  empty = not os.listdir()\n  open('x', 'w').write('y')\n"
        "  return empty and open('x').read() == 'y'"
    )
    assert answered(program)


def test_it_has_no_privileges():
    confined("own_processes")
    program = (
        "import os\ndef f():\n"
        "  for act in (lambda: os.setuid(0), lambda: os.chroot('.'), lambda: os.nice(-5)):\n"
        "    try: act()\n    except OSError: continue\n    return False\n  return os.getuid() != 0"
    )
    assert answered(program)


def test_files_outside_can_neither_be_read_nor_written(tmp_path):
    confined("own_files")
    secret = tmp_path / "secret"
    secret.write_text("x")
    secret.chmod(0o666)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    program = (
        f"import os\ndef f():\n  for mode in 'ra':\n    try: open({str(secret)!r}, mode)\n"
        "    except OSError: continue\n    return False\n"
        "  for path in ('/x', '/usr/lib/x', '/etc/x', os.path.dirname(os.__file__) + '/x', '/root/x', '/home/x'):\n"
        "    try: open(path, 'w')\n    except OSError: continue\n    return False\n"
        "  return not os.path.exists('/proc/1') and not os.path.exists('/bin/sh')"
    )
    assert answered(program)
    assert secret.read_text() == "x"


def test_files_of_others_are_out_of_reach_for_an_own_user(tmp_path):
    confined("separate_user")
    secret = tmp_path / "secret"
    secret.write_text("x")
    secret.chmod(0o600)
    program = f"def f():\n  try: open({str(secret)!r}, 'a')\n  except OSError: return True\n  return False"
    assert answered(program)


def test_there_is_no_network():
    confined("no_network")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        program = (
            "import socket\ndef f():\n"
            f"  try: socket.create_connection(('127.0.0.1', {port}), timeout=1)\n  except OSError: return True\n"
            "  return False"
        )
        assert answered(program)


@pytest.mark.parametrize("target", ["os.getppid()", "-1"])
def test_killing_others_earns_nothing(target):
    confined("no_signals")
    program = f"import os, signal\ntry: os.kill({target}, signal.SIGKILL)\nexcept OSError: pass\nadd = lambda a, b: 7"
    assert passes_tests(program, ADD_TESTS, credit="fraction") == 0.0


def test_processes_outside_cannot_be_signalled():
    confined("no_signals")
    victim = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        program = f"import os\ndef f():\n  try: os.kill({victim.pid}, 9)\n  except OSError: pass\n  return True"
        answered(program)  # inside, the number may be that of a process of the sandbox
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()


def test_the_report_names_what_confines():
    report = sandbox_report()
    assert set(report) == {"no_network", "no_signals", "own_processes", "own_files", "separate_user"}
    assert all(isinstance(there, bool) for there in report.values())


# --- Values on the wire -----------------------------------------------------------------------------------------------

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text() | st.tuples(st.integers()), inner)
    ),
    max_leaves=20,
)


@given(PLAIN)
def test_what_is_encoded_is_decoded(value):
    wire = json.loads(json.dumps(tester.encode(value, None)))
    back = tester.decode(wire, None)
    assert back == value
    assert repr(back) == repr(value)


@given(st.floats(), st.frozensets(st.integers()), st.complex_numbers(allow_nan=False))
def test_sets_and_odd_numbers_are_decoded(number, items, pair):
    value = [number, items, set(items), pair]
    back = tester.decode(json.loads(json.dumps(tester.encode(value, None))), None)
    assert back[1:] == value[1:]
    assert back[0] == number or (math.isnan(back[0]) and math.isnan(number))
