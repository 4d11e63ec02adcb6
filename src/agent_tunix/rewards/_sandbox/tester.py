"""The launcher of the code sandbox: runs tests, or standard input, against a program in a process of its own.

It is started with standard library only, reads what to do from descriptor 0 and answers on descriptor 1. The program
never shares a process with the tests. Names that the tests use and Python does not know stand for functions of the
program: a call is sent as plain values to the program's process and answered with plain values, which are compared
here. So nothing the program does to its own interpreter (patched builtins, objects that equal everything, exits, a
search through frames and memory) reaches the tests, and no expected value reaches the program.
"""

import builtins
import contextlib
import json
import os
import select
import struct
import sys
import time

_SMALL = 1 << 53  # Integers beyond it travel in hexadecimal, whose conversion is linear.
_MAX_MESSAGE = 4_000_000
_MAX_OUTPUT = 8_000_000
_PLAIN: tuple[type, ...] = (int, float, complex, str, bytes, bytearray, list, tuple, dict, set, frozenset)
_PASSED, _FAILED, _ANY = "\0passed", "\0failed", "\0Exception"  # No program text can spell these names.


class Unsupported(BaseException):
    """The tests ask for something that a test cannot do here; not the program's fault."""


class ProgramError(Exception):
    """The program raised an exception of its own kind, ended, or took too long."""


# --- Plain values as text ---------------------------------------------------------------------------------------------


def encode(value, refer):
    """Makes JSON of a plain value; anything else becomes what `refer` makes of it."""
    kind = type(value)
    if value is None or kind in (bool, str, float):
        return value
    if kind is int:
        return value if -_SMALL < value < _SMALL else {"i": format(value, "x")}
    if kind is list:
        return [encode(item, refer) for item in value]
    if kind in (tuple, set, frozenset):
        return {kind.__name__[0]: [encode(item, refer) for item in value]}
    if kind is dict:
        return {"d": [[encode(key, refer), encode(item, refer)] for key, item in value.items()]}
    if kind in (bytes, bytearray):
        return {"b": value.hex()}
    if kind is complex:
        return {"c": [value.real, value.imag]}
    if kind is range:
        return {"r": [value.start, value.stop, value.step]}
    for base in _PLAIN:  # A named tuple is a tuple, a Counter is a dictionary, and so on.
        if isinstance(value, base):
            return encode(base(value), refer)
    return refer(value)


_DECODERS = {
    "i": lambda digits, _: int(digits, 16),
    "t": lambda items, look_up: tuple(decode(item, look_up) for item in items),
    "s": lambda items, look_up: {decode(item, look_up) for item in items},
    "f": lambda items, look_up: frozenset(decode(item, look_up) for item in items),
    "d": lambda pairs, look_up: {decode(key, look_up): decode(item, look_up) for key, item in pairs},
    "b": lambda digits, _: bytes.fromhex(digits),
    "c": lambda parts, _: complex(*parts),
    "r": lambda parts, _: range(*parts),
    "h": lambda handle, look_up: look_up(handle),
}


def decode(data, look_up):
    """The value of what `encode` made; `look_up` finds what a handle stands for."""
    if type(data) is list:
        return [decode(item, look_up) for item in data]
    if type(data) is dict:
        ((tag, content),) = data.items()
        return _DECODERS[tag](content, look_up)
    return data


def send(descriptor, message, deadline=None):
    """Writes one message, JSON text, whole."""
    body = message.encode()
    view = memoryview(struct.pack("!I", len(body)) + body)
    while view:
        _await(descriptor, select.POLLOUT, deadline)
        view = view[os.write(descriptor, view[:4096]) :]  # A pipe that is ready takes that much without blocking.


def receive(descriptor, deadline=None, cap=1 << 31):
    """Reads one message; EOFError where there is none left."""
    (length,) = struct.unpack("!I", _read(descriptor, 4, deadline))
    if length > cap:
        raise ProgramError(f"an answer of {length} bytes; {cap} are allowed")
    return json.loads(_read(descriptor, length, deadline))


def _read(descriptor, count, deadline):
    chunks = []
    while count:
        _await(descriptor, select.POLLIN, deadline)
        chunks.append(os.read(descriptor, min(count, 1 << 20)))
        if not chunks[-1]:
            raise EOFError
        count -= len(chunks[-1])
    return b"".join(chunks)


def _await(descriptor, event, deadline):
    """Waits until a descriptor is ready."""
    if deadline is None:
        return
    poll = select.poll()
    poll.register(descriptor, event)
    if not poll.poll(max(0.0, deadline - time.monotonic()) * 1e3):
        raise TimeoutError("the program takes too long")


# --- In the process of the program ------------------------------------------------------------------------------------


def serve(program, requests, answers):
    """Loads a program and answers calls of its functions until there are no more."""
    module = _module("solution")
    objects = []

    def refer(value):
        objects.append(value)
        return {"h": len(objects) - 1}

    def look_up(handle):
        return objects[handle] if isinstance(handle, int) else module.__dict__[handle]

    send(answers, _attempt(lambda: exec(compile(program, "solution.py", "exec", dont_inherit=True), module.__dict__)))
    while True:
        try:
            target, attribute, *arguments = receive(requests)
        except EOFError:
            return
        send(answers, _attempt(lambda: encode(_ask(look_up, target, attribute, arguments), refer)))  # noqa: B023


def _ask(look_up, target, attribute, arguments):
    """A call, or an attribute, of a function or object of the program."""
    try:
        found = look_up(target)
    except KeyError:
        raise NameError(f"name {target!r} is not defined") from None
    if attribute is not None:
        found = getattr(found, attribute)
    if not arguments:
        return found
    positional, named = arguments
    return found(*decode(positional, look_up), **decode(named, look_up))  # pyright: ignore[reportCallIssue]


def _attempt(act):
    """The answer to a request: a value, or the builtin kind and the message of what was raised."""
    try:
        answer = json.dumps({"value": act()})
        if len(answer) > _MAX_MESSAGE:
            raise ValueError("the value is too large")
        return answer
    except BaseException as error:  # Also SystemExit: to end is no answer.
        kinds = [kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins"]
        try:
            message = str(error)[:1000]
        except BaseException:  # An exception class of the program
            message = ""
        return json.dumps({"raised": kinds[0], "message": message})


def run_program(program):
    """Runs a program as a script on its standard streams, and ends the process."""
    module = _module("__main__")
    sys.stdin = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
    sys.argv = ["solution.py"]
    status = 0
    try:
        exec(compile(program, "solution.py", "exec", dont_inherit=True), module.__dict__)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        status = 1
    if "threading" in sys.modules:
        sys.modules["threading"]._shutdown()
    with contextlib.suppress(BaseException):
        sys.stdout.flush()
    os._exit(status & 0xFF)


def _module(name):
    module = type(sys)(name)
    sys.modules[name] = module  # Dataclasses and pickle look there for the module of a class.
    return module


# --- In the process of the tests --------------------------------------------------------------------------------------


class Link:
    """The tests' end of the connection to a program.

    Attributes:
      calls: How many calls the tests have made.
    """

    def __init__(self, requests, answers, deadline):
        self.requests, self.answers, self.deadline, self.calls, self.broken = requests, answers, deadline, 0, None

    def loaded(self):
        """Whether the program came to the end of its text without an exception."""
        try:
            return "value" in self._answer()
        except ProgramError:
            return False

    def ask(self, target, attribute, *arguments):
        """Sends a request and returns or raises its answer."""
        if self.broken:
            raise ProgramError(self.broken)
        encoded = [encode(part, _handle_of) for part in arguments]
        try:
            send(self.requests, json.dumps([target, attribute, *encoded]), self.deadline)
        except (OSError, TimeoutError) as error:
            self.broken = str(error) or "the program has ended"
            raise ProgramError(self.broken) from None
        answer = self._answer()
        if "value" in answer:
            return decode(answer["value"], lambda handle: Remote(self, handle))
        raise _exception(answer)

    def _answer(self):
        """The next message; after one that is none, the connection is of no more use."""
        try:
            answer = receive(self.answers, self.deadline, 2 * _MAX_MESSAGE)
            if type(answer) is dict and ("value" in answer or type(answer.get("raised")) is str):
                return answer
            self.broken = "the program sent something that is no answer"
        except Exception as error:  # What the program wrote may be wrong in any way.
            self.broken = f"{type(error).__name__}: {error}"
        raise ProgramError(self.broken)


def _exception(answer):
    """The exception that an answer tells of, as one of Python's own."""
    kind = getattr(builtins, answer["raised"], None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        with contextlib.suppress(TypeError):
            return kind(str(answer.get("message")))
    return ProgramError(f"{answer['raised']}: {answer.get('message')}")


def _handle_of(value):
    if type(value) is Remote:
        return {"h": object.__getattribute__(value, "_handle")}
    if type(value) is Name:
        return {"h": value.name}
    raise Unsupported(f"the tests pass a {type(value).__name__} to the program; only plain values can be passed")


class Name:
    """A function or class of the program, by its name in the program's text."""

    def __init__(self, link, name):
        self.link, self.name = link, name

    def __call__(self, *positional, **named):
        self.link.calls += 1
        return self.link.ask(self.name, None, list(positional), named)

    def __getattr__(self, attribute):
        # An answer of the program's own `math` or `sorted` would let it judge itself.
        raise Unsupported(f"the tests use `{self.name}.{attribute}` and do not import or define `{self.name}`")

    def _refuse(self, *_):
        raise Unsupported(f"the tests use `{self.name}` of the program as a value; they can only call it")

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __bool__ = __iter__ = __len__ = __getitem__ = _refuse
    __hash__ = object.__hash__


def _refuse(self, *_):
    raise TypeError("the program returned an object; only plain values can be compared")


class Remote:
    """An object that lives in the program: its methods can be called, and it equals nothing."""

    __slots__ = ("_handle", "_link")
    __hash__ = __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse
    __bool__ = __len__ = __iter__ = __contains__ = __getitem__ = __str__ = __repr__ = _refuse

    def __init__(self, link, handle):
        self._link, self._handle = link, handle

    def __getattr__(self, attribute):
        return self._link.ask(self._handle, attribute)

    def __call__(self, *positional, **named):
        self._link.calls += 1
        return self._link.ask(self._handle, None, list(positional), named)


def run_tests(source, entry_point, link, stop_early):
    """Runs the statements of tests one by one, and counts what came of their asserts.

    Args:
      source: Python text with assert statements, anywhere.
      entry_point: What `check` is called with, where the tests define it and do not call it; or None.
      link: The connection to the program.
      stop_early: Whether to end at the first failure.

    Returns:
      How many asserts were `passed` and `failed` (statements that raise count as failed), and how many `asserts` the
      text has.
    """
    import ast

    tree = ast.parse(source)
    tree.body += _missing_call(ast, tree, entry_point)
    asserts = sum(isinstance(node, ast.Assert) for node in ast.walk(tree))
    if not asserts:
        raise Unsupported("the tests hold no assert statement")
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} - set(dir(builtins))
    names = {name: Name(link, name) for name in used | {entry_point or "check"}}
    count = {"passed": 0, "failed": 0, "asserts": asserts}

    def passed():
        count["passed"] += 1

    def failed():
        count["failed"] += 1
        if stop_early:
            raise _Stop

    namespace = {**names, "__name__": "tests", _PASSED: passed, _FAILED: failed, _ANY: Exception}
    with contextlib.suppress(_Stop):
        for statement in _counted(ast, tree).body:
            try:
                exec(compile(ast.Module([statement], []), "tests", "exec", dont_inherit=True), namespace)
            except (_Stop, Unsupported):
                raise
            except BaseException:
                failed()
    if not link.calls:
        raise Unsupported("the tests call nothing of the program")
    return count


class _Stop(BaseException):
    """The outcome is known."""


def _missing_call(ast, tree, entry_point):
    """`check(entry_point)`, the last line that HumanEval leaves to the runner."""
    defines = any(isinstance(node, ast.FunctionDef) and node.name == "check" for node in tree.body)
    calls = any(isinstance(node, ast.Name) and node.id == "check" for node in ast.walk(tree))
    if not defines or calls:
        return []
    if entry_point is None:
        raise Unsupported("the tests define `check` and never call it; pass the name it is for as entry_point")
    return ast.parse(f"check({entry_point})").body


def _counted(ast, tree):
    """Makes every assert count as passed or failed, and the statements after it run either way."""

    def call(name):
        return ast.Expr(ast.Call(ast.Name(name, ast.Load()), [], []))

    class Counting(ast.NodeTransformer):
        def visit_Assert(self, node):
            handler = ast.ExceptHandler(ast.Name(_ANY, ast.Load()), None, [call(_FAILED)])
            return ast.Try([node], [handler], [call(_PASSED)], [])

    return ast.fix_missing_locations(Counting().visit(tree))


# --- The launcher -----------------------------------------------------------------------------------------------------


def main(child):
    """Reads one request from descriptor 0 and writes messages to descriptor 1, one JSON value a line.

    Args:
      child: The module `child`; the folder of both is on no path that the program could import from.
    """
    child.hide()
    answers = os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    try:
        request = receive(0)
        verdict = {"calls": _test_calls, "streams": _test_streams}[request["kind"]](child, request, answers, nothing)
    except Unsupported as error:
        verdict = {"unsupported": str(error)}
    except SyntaxError as error:
        verdict = {"unsupported": f"the tests are not Python: {error}"}
    except Exception as error:
        verdict = {"broken": f"{type(error).__name__}: {error}"}
    _say(answers, verdict)
    os._exit(0)


def _say(descriptor, message):
    view = memoryview(json.dumps(message).encode() + b"\n")
    while view:
        view = view[os.write(descriptor, view) :]


def _test_calls(child, request, answers, nothing):
    """Lets tests call a program."""
    program_reads, requests = os.pipe()
    replies, program_writes = os.pipe()
    program = request["program"]
    descriptors = [nothing, nothing, nothing, program_reads, program_writes]
    box = child.start(lambda: serve(program, 3, 4), descriptors, request["folder"], request["limits"])
    os.close(program_reads)
    os.close(program_writes)
    child.limit_memory(request["limits"]["memory_mb"] + 512)
    _say(answers, {"ready": box.report})
    link = Link(requests, replies, time.monotonic() + request["timeout_s"])
    tests = receive(0)  # Only now: the program's process began as a copy of this one.
    os.dup2(nothing, 1)
    try:
        if not link.loaded():
            return {"passed": 0, "failed": 1, "asserts": 1}
        return run_tests(tests["source"], tests["entry_point"], link, tests["stop_early"])
    finally:
        box.stop()


def _test_streams(child, request, answers, nothing):
    """Runs a program once for every standard input, and collects what it writes."""
    outputs, spent = [], 0.0
    for index, given in enumerate(request["inputs"]):
        stdin = _file_of(given, f"{request['folder']}/stdin")
        output, program_writes = os.pipe()
        descriptors = [stdin, program_writes, nothing]
        box = child.start(lambda: run_program(request["program"]), descriptors, request["folder"], request["limits"])
        os.close(program_writes)
        os.close(stdin)
        if index == 0:
            _say(answers, {"ready": box.report})
        began = time.monotonic()
        text = _collect(output, began + request["timeout_s"] - spent)
        ended = box.wait(began + request["timeout_s"] - spent) if text is not None else False
        box.stop()
        os.close(output)
        outputs.append(text if ended else None)
        spent += time.monotonic() - began
        if spent > request["timeout_s"]:
            break
    return {"outputs": outputs}


def _file_of(text, path):
    """A descriptor that reads a text, of a file without a name."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    os.unlink(path)
    view = memoryview(text.encode("utf-8", "surrogateescape"))
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _collect(descriptor, deadline):
    """All text that comes from a descriptor, or None where it is too much or comes too late."""
    chunks, count = [], 0
    while count <= _MAX_OUTPUT:
        try:
            _await(descriptor, select.POLLIN, deadline)
        except TimeoutError:
            return None
        chunks.append(os.read(descriptor, 1 << 16))
        if not chunks[-1]:
            return b"".join(chunks).decode("utf-8", "replace")
        count += len(chunks[-1])
    return None
