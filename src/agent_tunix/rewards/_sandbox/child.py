"""Confinement of one process: what it may use, see and leave behind. Standard library only; runs inside the launcher.

A program is started by two forks. The first is its keeper, which enters new namespaces where the system allows it,
waits for the program or for an order to stop, and ends only when nothing that the program started is alive. The second
gives up every privilege, sets its limits and runs the program.

What holds depends on who runs it:

- root with the right to make namespaces: a network without interfaces, own process numbers, own files, and a user
  number that nothing else has;
- a normal user where user namespaces are allowed: the same, with the same user number;
- root in a container that forbids namespaces: an own user number, so that files and processes of others are out of
  reach by their permissions;
- otherwise: the killing of everything that descends from the program, which can read and write what its user can.

Limits of resources hold in every case. Where there are no namespaces on Linux, a filter of system calls takes away
sockets, signals to others and the tracing of others.

See namespaces(7), user_namespaces(7), capabilities(7), setrlimit(2), prctl(2) and seccomp(2) of the Linux manual pages.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import resource
import select
import signal
import struct
import sys
import time

_LIBC = ctypes.CDLL(None, use_errno=True)
_LINUX = sys.platform == "linux"

_NEW_FILES, _NEW_USER = 0x00020000, 0x10000000
# With host name, IPC, process numbers and network.
_NEW_ALL = _NEW_FILES | 0x04000000 | 0x08000000 | 0x20000000 | 0x40000000
_READ_ONLY, _NO_SUID, _NO_DEVICES, _REMOUNT, _BIND, _RECURSIVE, _PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
_DETACH = 2
_DEATH_SIGNAL, _DUMPABLE, _NO_NEW_PRIVILEGES, _SUBREAPER = 1, 4, 38, 36
_CAPABILITY_VERSION = 0x20080522

# Of each machine: its number as the kernel gives it to filters; prlimit64; and io_uring_setup, kill, pidfd_getfd,
# pidfd_send_signal, process_vm_readv, process_vm_writev, ptrace, rt_sigqueueinfo, rt_tgsigqueueinfo, socket, tgkill,
# tkill, unshare.
_SYSTEM_CALLS = {
    "x86_64": (0xC000003E, 302, (425, 62, 438, 424, 310, 311, 101, 129, 297, 41, 234, 200, 272)),
    "aarch64": (0xC00000B7, 261, (425, 129, 438, 424, 270, 271, 117, 138, 240, 198, 131, 130, 97)),
}
_SECCOMP, _FILTER_MODE, _ALLOW, _NOT_PERMITTED = 22, 2, 0x7FFF0000, 0x00050001

# Above every range that distributions and container engines hand out: https://systemd.io/UIDS-GIDS/
_FIRST_PRIVATE_UID = 1_879_048_192


class Box:
    """A running program, held by its keeper.

    Attributes:
      report: What confines it, by name.
    """

    def __init__(self, keeper, control, report):
        self.keeper, self.control, self.report, self.ended = keeper, control, report, False

    def wait(self, deadline):
        """Whether the program ends by itself with status 0, and all it started with it, before a time."""
        while time.monotonic() < deadline:
            ended, status = os.waitpid(self.keeper, os.WNOHANG)
            if ended:
                self.ended = True
                return status == 0
            time.sleep(0.0005)
        return False

    def stop(self):
        """Kills the program and all it started, and waits until they are gone."""
        os.close(self.control)
        if not self.ended:
            os.waitpid(self.keeper, 0)


def start(work, descriptors, folder, limits):
    """Starts a function in a confined process.

    Args:
      work: `() -> None`; its process ends with status 0 when it returns.
      descriptors: Files that the process gets as its descriptors 0, 1, 2, ...; it gets no others.
      folder: An empty folder on this machine; the process sees it as its own, or gets another one in its place.
      limits: `memory_mb`, `file_mb`, `processes` and `cpu_s`.

    Returns:
      The box, once everything is in place and `work` is about to begin.

    Raises:
      OSError: The confinement could not be set up.
    """
    control_read, control = os.pipe()
    setup, setup_write = os.pipe()
    keeper = os.fork()
    if keeper == 0:
        _guarded(setup_write, lambda: _keep(work, descriptors, folder, limits, control_read, setup_write))
    os.close(control_read)
    os.close(setup_write)
    with open(setup, encoding="utf-8") as file:
        message = file.read()
    answer = json.loads(message) if message else {"error": "the process ended before it was set up"}
    if "error" in answer:
        os.close(control)
        os.waitpid(keeper, 0)
        raise OSError(answer["error"])
    return Box(keeper, control, answer)


def hide():
    """Keeps other processes of the same user from reading the memory and the files of this one."""
    _prctl(_DUMPABLE, 0)


def limit_memory(memory_mb):
    """Limits the memory that this process can be made to use."""
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (memory_mb << 20, memory_mb << 20))


def _guarded(setup, act):
    """Runs a function in a forked process, which never returns from here, and tells why it could not be set up."""
    try:
        act()
    except BaseException as error:  # Nothing may unwind into the frames of the parent process.
        with contextlib.suppress(OSError):
            os.write(setup, json.dumps({"error": f"{type(error).__name__}: {error}"}).encode())
    os._exit(1)


# --- The keeper -------------------------------------------------------------------------------------------------------


def _keep(work, descriptors, folder, limits, control, setup):
    """Starts the program in its namespaces, and clears up after it."""
    os.setsid()
    _prctl(_SUBREAPER, 1)
    uid = _private_uid()
    _prctl(_DUMPABLE, 1)  # What is hidden cannot write its own maps of user numbers.
    report = _isolate(folder, limits)
    hide()
    report["separate_user"] = uid is not None
    if not report["own_files"] and uid is not None:
        os.chown(folder, uid, uid)
    program = os.fork()
    if program == 0:
        _guarded(setup, lambda: _become(work, descriptors, folder, limits, uid, report, setup))
    _keep_only({1, control})
    status = _wait(program, control)
    _kill_all(program, uid, report)
    os._exit(0 if status == 0 else 1)


def _wait(program, control):
    """The exit status of the program, or None where the other end of `control` was closed first."""
    poll, tick = select.poll(), 1000
    poll.register(control, select.POLLIN)
    try:
        poll.register(os.pidfd_open(program), select.POLLIN)
    except (AttributeError, OSError):  # Linux before 5.3, other systems
        tick = 10
    while True:
        ready = {descriptor for descriptor, _ in poll.poll(tick)}
        ended, status = os.waitpid(program, os.WNOHANG)
        if ended:
            return status
        if control in ready:
            return None


def _kill_all(program, uid, report):
    """Kills the program and everything it started, and waits for the end of all of it."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(program, signal.SIGKILL)  # The first process of a process namespace takes all others along.
    if not report["own_processes"]:
        _kill_strays(program, uid)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)


def _kill_strays(program, uid, patience_s=10.0):
    """Kills what a program started, where no process namespace does."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(program, signal.SIGKILL)
        if uid is not None:
            _kill_user(uid)
        for stray in _descendants(os.getpid()):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(stray, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.002)


def _kill_user(uid):
    """Kills all processes of a user at once, which no fork can outrun."""
    killer = os.fork()
    if killer == 0:
        try:
            os.setresuid(uid, uid, uid)
            os.kill(-1, signal.SIGKILL)
        finally:
            os._exit(0)
    os.waitpid(killer, 0)


def _descendants(ancestor):
    """Process numbers of the children of a process and of their children, from /proc."""
    parents = {}
    for name in filter(str.isdigit, os.listdir("/proc") if os.path.isdir("/proc") else ()):
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
            parents.setdefault(int(file.read().rpartition(b")")[2].split()[1]), []).append(int(name))
    found, open_ends = [], [ancestor]
    while open_ends:
        children = parents.get(open_ends.pop(), [])
        found += children
        open_ends += children
    return found


# --- Namespaces -------------------------------------------------------------------------------------------------------


def _isolate(folder, limits):
    """Enters new namespaces and replaces the file system, where the system allows it; what was achieved."""
    # A process that was cut off from its folder must still find it: namespaces come first, files second.
    isolated = _LINUX and _unshare()
    own_files = False
    if isolated:
        with contextlib.suppress(OSError):
            _replace_files(folder, limits["file_mb"])
            own_files = True
    return {"no_network": isolated, "no_signals": isolated, "own_processes": isolated, "own_files": own_files}


def _unshare():
    """Enters new namespaces, through a new user namespace for anyone but root; whether that worked."""
    if os.geteuid() == 0:
        return _LIBC.unshare(_NEW_ALL) == 0
    uid, gid = os.geteuid(), os.getegid()
    if _LIBC.unshare(_NEW_ALL | _NEW_USER) != 0:
        return False
    for file, line in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{file}", "w") as out:
            out.write(line)
    return True


def _replace_files(folder, file_mb):
    """Makes a new root of shared libraries and the standard library, read-only, with an empty /tmp in memory."""
    _mount("none", "/", None, _RECURSIVE | _PRIVATE)
    _mount("tmpfs", folder, "tmpfs", _NO_SUID | _NO_DEVICES, "size=1m,mode=755")
    for path in _visible():
        _show(path, folder)
    for name in ("tmp", "dev/shm"):
        os.makedirs(f"{folder}/{name}", exist_ok=True)
        _mount("tmpfs", f"{folder}/{name}", "tmpfs", _NO_SUID | _NO_DEVICES, f"size={file_mb}m,nr_inodes=4k,mode=1777")
    _mount("none", folder, None, _REMOUNT | _BIND | _READ_ONLY | _NO_SUID | _NO_DEVICES)
    os.chdir(folder)
    _checked(_LIBC.pivot_root(b".", b"."), "pivot_root")
    _checked(_LIBC.umount2(b".", _DETACH), "umount2")
    os.chdir("/tmp")


def _visible():
    """Paths of the old root that stay visible."""
    own = [os.path.dirname(os.path.dirname(os.path.realpath(os.__file__)))]
    shared = ["/usr/lib", "/usr/lib64", "/lib", "/lib64", "/etc/ld.so.cache", "/usr/share/zoneinfo"]
    devices = ["/dev/null", "/dev/zero", "/dev/urandom", "/dev/random"]
    return [*shared, *(path for path in own if not path.startswith("/usr/lib")), *devices]


def _show(path, root):
    """Makes a path of the old root visible in a new one, read-only."""
    target = root + path
    if os.path.lexists(target) or not os.path.lexists(path):
        return
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.islink(path):
        os.symlink(os.readlink(path), target)
        return
    if os.path.isdir(path):
        os.mkdir(target)
    else:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY))
    _mount(path, target, None, _BIND | _RECURSIVE)
    if not path.startswith("/dev/"):
        # In a user namespace, flags of the mount that is shown may not be taken away.
        kept = os.statvfs(target).f_flag & (_NO_SUID | _NO_DEVICES | 8 | 1024 | 2048)
        _mount("none", target, None, _REMOUNT | _BIND | _READ_ONLY | kept)


def _mount(source, target, kind, flags, options=None):
    texts = [None if text is None else text.encode() for text in (source, target, kind, options)]
    result = _LIBC.mount(texts[0], texts[1], texts[2], ctypes.c_ulong(flags), texts[3])
    _checked(result, f"mount of {target}")


def _checked(result, what):
    if result != 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


# --- The program's process --------------------------------------------------------------------------------------------


def _become(work, descriptors, folder, limits, uid, report, setup):
    """Gives up what the program must not have, and runs it."""
    os.setsid()
    setup = _place(descriptors, setup)
    library = _open_library() if uid is not None and not report["own_files"] else []
    if not report["own_files"]:
        os.chdir(folder)
    os.environ.update(TMPDIR=os.getcwd(), HOME=os.getcwd())
    _limit(limits, _allowed_processes(limits["processes"], uid, report))
    _drop(uid, report)
    if not report["own_processes"]:
        filtered = _filter_calls()
        report.update(no_network=filtered, no_signals=filtered or uid is not None)
    _reach_library(library)
    os.write(setup, json.dumps(report).encode())
    os.close(setup)
    work()
    os._exit(0)


def _place(descriptors, setup):
    """Puts files at the descriptors 0, 1, 2, ... and closes all others but `setup`, whose new number it returns."""
    high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 64) for descriptor in (*descriptors, setup)]
    for number, descriptor in enumerate(high):
        os.dup2(descriptor, number)
    os.closerange(len(high), 4096)
    return len(descriptors)


def _keep_only(kept):
    """Closes all descriptors but some."""
    for descriptor in range(max(kept) + 1):
        if descriptor not in kept:
            with contextlib.suppress(OSError):
                os.close(descriptor)
    os.closerange(max(kept) + 1, 4096)


def _limit(limits, processes):
    """Sets the limits that the kernel enforces on each process."""
    mebibyte = 1 << 20
    for name, value in (
        ("RLIMIT_CORE", 0),
        ("RLIMIT_FSIZE", limits["file_mb"] * mebibyte),
        ("RLIMIT_NOFILE", 64),
        ("RLIMIT_CPU", limits["cpu_s"]),
        ("RLIMIT_NPROC", processes),
        ("RLIMIT_AS", limits["memory_mb"] * mebibyte),
    ):
        # Not every system knows, or lets one lower, each of them; the wall clock binds everywhere.
        with contextlib.suppress(AttributeError, ValueError, OSError):
            resource.setrlimit(getattr(resource, name), (value, value))
    # Going over a limit of size or time is then an error or an end, with no handler that could ask for more.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)


def _allowed_processes(processes, uid, report):
    """The limit on processes as the kernel counts them: all that a user runs, except in a user namespace of its own."""
    release = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2] if part.isdigit())
    if uid is not None:
        return processes
    if report["own_processes"] and release >= (5, 14):
        return processes + 1
    mine = 0
    for name in filter(str.isdigit, os.listdir("/proc") if os.path.isdir("/proc") else ()):
        with contextlib.suppress(OSError):
            if os.stat(f"/proc/{name}").st_uid == os.getuid():
                mine += len(os.listdir(f"/proc/{name}/task"))
    return processes + max(mine, 64)


def _private_uid():
    """A user number that no other process has, where this process may take one."""
    if os.geteuid() != 0:
        return None
    # In a container of its own user range, the high numbers do not exist.
    for uid in (_FIRST_PRIVATE_UID + os.getpid(), 10_000 + os.getpid() % 50_000):
        if _can_become(uid):
            return uid
    return None


def _can_become(uid):
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1] == 0


def _drop(uid, report):
    """Gives up user, groups and capabilities, and the way to get them back."""
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    elif report["own_processes"]:
        header, none = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0), (ctypes.c_uint32 * 6)()
        _checked(_LIBC.capset(header, none), "capset")
    _prctl(_NO_NEW_PRIVILEGES, 1)
    _prctl(_DEATH_SIGNAL, signal.SIGKILL)


def _filter_calls():
    """Takes away system calls that reach beyond this process, as a classic BPF program; whether that worked."""
    if not _LINUX or os.uname().machine not in _SYSTEM_CALLS:
        return False
    machine, limit_call, forbidden = _SYSTEM_CALLS[os.uname().machine]
    load, equal, at_least, give = 0x20, 0x15, 0x35, 0x06
    ending = [(give, 0, 0, _NOT_PERMITTED), (give, 0, 0, _ALLOW)]
    # Limits may be set and read for oneself: process number 0 in the first argument.
    own_limits = [(equal, 0, 3, limit_call), (load, 0, 0, 16), (equal, 1, 0, 0), *ending]
    deny = len(forbidden)
    checks = [(equal, deny - index + 2, 0, number) for index, number in enumerate(forbidden)]
    # System calls of 32-bit programs have other numbers, those of the x32 kind have high ones.
    head = [(load, 0, 0, 4), (equal, 0, deny + 5, machine), (load, 0, 0, 0), (at_least, deny + 3, 0, 0x40000000)]
    code = b"".join(struct.pack("HBBI", *line) for line in (*head, *checks, *own_limits))
    buffer = ctypes.create_string_buffer(code, len(code))
    program = ctypes.create_string_buffer(struct.pack("HP", len(code) // 8, ctypes.addressof(buffer)))
    return _LIBC.prctl(_SECCOMP, ctypes.c_ulong(_FILTER_MODE), program, 0, 0) == 0


def _prctl(option, value):
    if _LINUX:
        _LIBC.prctl(option, ctypes.c_ulong(value), 0, 0, 0)


def _open_library():
    """The folders of the standard library, opened while they can be."""
    return [(path, os.open(path, os.O_RDONLY)) for path in sys.path if os.path.isdir(path)]


def _reach_library(library):
    """Makes the standard library importable by a user who may not walk to it, as in a home folder of root."""
    if library and not os.access(os.__file__, os.R_OK):
        _prctl(_DUMPABLE, 1)  # A change of user hides /proc/self from oneself.
        moved = {path: f"/proc/self/fd/{descriptor}" for path, descriptor in library}
        sys.path[:] = [moved.get(path, path) for path in sys.path]
        for module in list(sys.modules.values()):
            for index, path in enumerate(getattr(module, "__path__", [])):
                parent, _, name = path.rpartition("/")
                module.__path__[index] = f"{moved.get(parent, parent)}/{name}"
    if not any(os.access(f"{path}/os.py", os.R_OK) for path in sys.path):
        raise OSError(f"a confined program cannot read the standard library at {os.path.dirname(os.__file__)}")
