"""Runs a Python program that a model wrote, where it can harm nothing.

    sandbox.run("assert 1 + 1 == 2", seconds=3)     -> Ran(passed=True, reason="passed")

The program gets a process of its own in new namespaces (`jail`, or bubblewrap where only that may make them): no
network, no other process in sight, a file system of Python's own libraries that nothing can be written to, no system
call that `seccomp` refuses, and limits on memory, CPU time, wall time and processes. Memory is limited twice: each
process has a limit of its own that it cannot pass, and all together are measured while they run and ended above the
same limit. Where one of these is not to be had, `isolation` refuses with the reason.

It passed if it ran to its end: the interpreter then hands back a secret that only then is read. `sys.exit(0)` and
`os._exit(0)` in the middle do not pass. What no test inside the tested process can stop is a program that knows this
file and reads the secret itself; it fools the score, and still harms nothing.
"""

from __future__ import annotations

import functools
import json
import os
import pathlib
import platform
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import IO, NamedTuple

from nvlm_jax.evaluation import jail, process_memory, seccomp

MEMORY = 1 << 30  # bytes: of address space of a process, and of memory of all processes of a program
PROCESSES = 4  # with the jail's own, where they share the user
GRACE = 20.0  # seconds to build the jail on a loaded machine
LIMIT_SECONDS = 120.0
OF_THE_JAIL = 64 << 20  # bytes that its own processes may hold beside them
MEASURE_EVERY = 0.02  # seconds; three processes fill some 50 MB in that time
TOO_MUCH_MEMORY = 125

# Runs first in the jail, before a line of the program: limits, then the program, then the secret. `-` is the failure.
DRIVER = """
import os, resource, sys
def main(memory, processes, seconds, result, secret):
    cpu = int(seconds) + 1
    for name, value in (("AS", memory), ("NPROC", processes), ("CPU", cpu), ("FSIZE", 0), ("NOFILE", 32), ("CORE", 0),
                        ("MEMLOCK", 0), ("MSGQUEUE", 0), ("SIGPENDING", 256)):
        resource.setrlimit(getattr(resource, "RLIMIT_" + name), (value, value))
    with open(0, "rb", closefd=False) as file:
        text = file.read().decode()
    reading, writing = os.pipe()
    os.close(writing)
    os.dup2(reading, 0)
    os.close(reading)
    try:
        exec(compile(text, "program", "exec"), {})
    except BaseException as error:
        os.write(result, ("-" + type(error).__name__ + ": " + str(error)[:300]).encode("utf-8", "replace"))
    else:
        os.write(result, os.read(secret, 64))
    os._exit(0)
main(*map(int, sys.argv[1:]))
"""


class SandboxError(RuntimeError):
    """No way to isolate a program here; the message says why and what would help."""


class Ran(NamedTuple):
    """How a program ended."""

    passed: bool
    reason: str  # passed, timed out, or what was raised


class Descriptors(NamedTuple):
    """Open files that a way to isolate is given."""

    result: int  # the program's; no other process may keep it
    filter: int  # the system calls refused


class Isolation(NamedTuple):
    """A way to isolate: its name, and the command that runs Python's arguments in it."""

    name: str
    command: Callable[[list[str], float, Descriptors], list[str]]


def run(program: str, seconds: float = 3.0) -> Ran:
    """Run a program to its end, at most so many seconds of wall time.

    Raises:
        SandboxError: nothing here can isolate it.
        ValueError: not 0 < seconds <= 120.
    """
    if not 0 < seconds <= LIMIT_SECONDS:
        raise ValueError(f"seconds: {seconds}; above 0 and at most {LIMIT_SECONDS:g}")
    return _run_in(isolation(), program, seconds)


@functools.cache
def isolation() -> Isolation:
    """The first way that a trial program passes in, and cannot look out of.

    Raises:
        SandboxError: there is none.
    """
    if not sys.platform.startswith("linux"):
        raise SandboxError(f"it takes the namespaces of Linux, and this is {sys.platform}")
    try:
        seccomp.filter_program(_machine())
    except ValueError as error:
        raise SandboxError(str(error)) from None
    try:
        process_memory.check()
    except OSError as error:
        raise SandboxError(f"memory of a program's processes cannot be measured: {error}; mount /proc") from None
    ways = [Isolation("namespaces", _jail_command)]
    if (bubblewrap := shutil.which("bwrap")) and os.getuid() != 0:  # root in its namespace has no limit of processes
        ways.append(Isolation("bubblewrap", functools.partial(_bubblewrap_command, bubblewrap)))
    reasons = []
    for way in ways:
        ran = _run_in(way, _TRIAL, 10.0)
        if ran.passed:
            return way
        reasons.append(f"{way.name}: {ran.reason}")
    raise SandboxError(
        "; ".join(reasons) + ". Allow unprivileged user namespaces (sysctl kernel.unprivileged_userns_clone=1, or "
        "kernel.apparmor_restrict_unprivileged_userns=0; in a container: its seccomp profile), or install bubblewrap; "
        "PR_SET_SECCOMP takes a kernel built with CONFIG_SECCOMP_FILTER"
    )


# What must hold in any jail: nothing of the host is there, nothing can be written, there is no way out.
_TRIAL = f"""
import ctypes, errno, os, resource, socket
for path in ({str(pathlib.Path(__file__).absolute())!r}, "/etc/passwd", "/proc/self", "/home"):
    assert not os.path.exists(path), path
try:
    open("/file", "w")
except OSError:
    pass
else:
    raise AssertionError("a file could be written")
try:
    socket.create_connection(("1.1.1.1", 53), 1)
except OSError:
    pass
else:
    raise AssertionError("a connection could be made")
assert os.getuid() != 0 and resource.getrlimit(resource.RLIMIT_NPROC)[0] <= {PROCESSES}
libc = ctypes.CDLL(None, use_errno=True)
for call, arguments in (("shmget", (0, 4096, 0o1600)), ("unshare", (0,)), ("socket", (40, 1, 0))):
    assert getattr(libc, call)(*arguments) < 0 and ctypes.get_errno() == errno.EPERM, call + " is not refused"
"""


def _run_in(way: Isolation, program: str, seconds: float) -> Ran:
    secret = secrets.token_bytes(32)
    result, held = os.pipe(), os.pipe()
    os.write(held[1], secret)
    os.close(held[1])
    numbers = [str(n) for n in (MEMORY, PROCESSES, max(1, round(seconds)), result[1], held[0])]
    python = ["-I", "-S", "-B", "-c", DRIVER, *numbers]
    try:
        with _file_of(program.encode("utf-8", "surrogatepass")) as source, _file_of(_filter()) as rules:
            given = Descriptors(result[1], rules.fileno())
            begin = time.monotonic()
            status, errors = _wait(way.command(python, seconds, given), source, (*given, held[0]), seconds)
        os.close(result[1])
        result = (result[0],)
        os.set_blocking(result[0], False)
        try:
            answer = os.read(result[0], 4096)
        except BlockingIOError:  # someone still holds the other end: it never finished
            answer = b""
    finally:
        for descriptor in (*result, held[0]):
            os.close(descriptor)
    if status == TOO_MUCH_MEMORY:
        return Ran(False, f"its processes took more than {MEMORY >> 20} MiB of memory together")
    if answer == secret and status == 0:
        return Ran(True, "passed")
    if answer.startswith(b"-"):
        return Ran(False, answer[1:].decode("utf-8", "replace"))
    if status == jail.TIMED_OUT or (status and time.monotonic() - begin >= seconds):
        return Ran(False, f"timed out after {seconds:g} seconds")
    return Ran(False, errors or f"ended before its tests did (status {status})")


def _wait(command: Sequence[str], source, descriptors: tuple[int, ...], seconds: float) -> tuple[int, str]:
    """Exit status and error text of a command.

    Its whole process group is killed when it takes too long, or its processes too much memory together.
    """
    process = subprocess.Popen(
        command, stdin=source, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, pass_fds=descriptors,
        start_new_session=True, env={}, cwd="/",
    )  # fmt: skip
    deadline = time.monotonic() + seconds + GRACE
    try:
        while True:
            try:
                errors = process.communicate(timeout=MEASURE_EVERY)[1]
                break
            except subprocess.TimeoutExpired:
                if process_memory.of_tree(process.pid, MEMORY + OF_THE_JAIL) > MEMORY + OF_THE_JAIL:
                    return TOO_MUCH_MEMORY, ""
                if time.monotonic() >= deadline:
                    return jail.TIMED_OUT, ""
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    return process.returncode, errors.decode("utf-8", "replace").strip().rpartition("\n")[2][:500]


def _file_of(content: bytes) -> IO[bytes]:
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    file.write(content)
    file.seek(0)
    return file


@functools.cache
def _filter() -> bytes:
    return seccomp.filter_program(_machine())


def _machine() -> str:
    """`platform.machine()`, or its 32-bit half where this Python is built for it."""
    return platform.machine() if sys.maxsize > 1 << 32 else f"{platform.machine()} with a 32-bit Python"


def _jail_command(python: list[str], seconds: float, given: Descriptors) -> list[str]:
    interpreter = _interpreter()
    settings = {
        "seconds": seconds,
        "result": given.result,
        "filter": given.filter,
        "command": [interpreter, *python],
        "libraries": _libraries(),
    }
    return [interpreter, "-I", "-S", jail.__file__, json.dumps(settings)]


def _bubblewrap_command(bubblewrap: str, python: list[str], seconds: float, given: Descriptors) -> list[str]:
    binds: list[str] = []
    for path in _libraries():
        if os.path.islink(path):
            binds += ["--symlink", os.readlink(path), path]
        else:
            binds += ["--ro-bind", path, path]
    # `timeout` stands outside: bubblewrap has no limit of its own, and all inside dies with it.
    limit = ["timeout", "--signal=KILL", "--foreground", f"{seconds:g}"] if shutil.which("timeout") else []
    inside = [_interpreter(), *python]
    flags = ["--unshare-all", "--die-with-parent", "--new-session", "--clearenv", "--chdir", "/", "--cap-drop", "ALL"]
    flags += ["--seccomp", str(given.filter)]
    return [*limit, bubblewrap, *binds, *flags, "--remount-ro", "/", *inside]


@functools.cache
def _interpreter() -> str:
    """The real file behind this Python, out of any virtual environment."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


@functools.cache
def _libraries() -> list[str]:
    """Directories, and links to some, that an interpreter needs to start; none lies in another."""
    wanted = [sys.base_prefix, str(pathlib.Path(_interpreter()).parent.parent)]
    wanted += ["/usr/lib", "/usr/lib32", "/usr/lib64", "/lib", "/lib32", "/lib64", "/nix/store"]
    present = sorted({path for path in wanted if os.path.isdir(path) and path != "/"})
    return [path for path in present if not any(path.startswith(other + "/") for other in present)]
