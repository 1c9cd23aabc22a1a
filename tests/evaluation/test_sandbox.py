"""Programs that a model might write, and worse ones: right ones pass, none harms.

The hostile ones run only after the jail has shown that it limits processes: `isolation` tries that first.
"""

import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import pytest

from nvlm_jax.evaluation import sandbox
from tests.evaluation.metrics.scoring_vectors import primary
from tests.evaluation.needs_namespaces import skip_without_namespaces

skip_without_namespaces()

MARK = (1 << 30) + os.getpid()  # a limit of memory by which this process's programs are known from others' tests


@pytest.fixture(autouse=True)
def marked(monkeypatch):
    monkeypatch.setattr(sandbox, "MEMORY", MARK)


CHECK = "\nassert f(2) == 4\n"
HOSTILE = {
    "exits before the asserts": "import sys\nsys.exit(0)",
    "exits at once before the asserts": "import os\nos._exit(0)",
    "exits in the function": "def f(x):\n    raise SystemExit(0)",
    "is killed by its own hand": "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
    "loops": "while True: pass",
    "loops and catches everything": (
        "import signal\nfor n in range(1, 65):\n    try: signal.signal(n, signal.SIG_IGN)\n    except Exception: pass\n"
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass"
    ),
    "sleeps": "import time\ntime.sleep(60)",
    "forks without end": "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
    "starts threads without end": (
        "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(9,)).start()"
    ),
    "starts a program": (
        "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'pass'], check=True)\nopen('/tmp/x', 'w')"
    ),
    "takes all memory": "x = []\nwhile True: x.append(bytearray(1 << 24))",
    "fills the disk": "f = open('/big', 'wb')\nwhile True: f.write(bytes(1 << 20))",
    "fills a file in memory": "import os\nf = os.memfd_create('f')\nwhile True: os.write(f, bytes(1 << 20))",
    "reads users": "print(open('/etc/passwd').read())",
    "reads other processes": "import os\nassert os.listdir('/proc')",
    "reads the host's name": "open('/etc/hostname')",
    "reads this file": f"open({__file__!r})",
    "opens a connection": "import socket\nsocket.create_connection(('1.1.1.1', 53), 1)",
    "opens a connection to this machine": "import socket\nsocket.create_connection(('127.0.0.1', 22), 1)",
    "becomes root": "import os\nos.setuid(0)\nassert os.getuid() == 0",
    "makes namespaces": (
        "import ctypes\nlibc = ctypes.CDLL(None)\nassert libc.unshare(0x10000000) == 0 or libc.unshare(0x20000) == 0"
    ),
    "makes its root writable": (
        "import ctypes\nlibc = ctypes.CDLL(None)\n"
        "assert libc.mount(b'none', b'/', None, ctypes.c_ulong(32 | 4096), None) == 0"
    ),
    "writes nonsense to every file": (
        "import os\nfor n in range(32):\n    try: os.write(n, b'passed')\n    except OSError: pass\nos._exit(0)"
    ),
    "ends with a broken text": "\ud800",
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_program_does_not_pass(name):
    begin = time.monotonic()
    ran = sandbox.run(HOSTILE[name] + CHECK, seconds=1.0)
    assert not ran.passed and ran.reason
    assert time.monotonic() - begin < 1.0 + sandbox.GRACE
    assert not programs_left()


def test_killing_the_parent_kills_nothing_outside():
    mark = os.getpid()
    ran = sandbox.run("import os\nfor pid in (os.getppid(), 1, -1, 0):\n    os.kill(pid, 9)" + CHECK, seconds=1.0)
    assert not ran.passed and os.getpid() == mark
    assert sandbox.run("x = 1").passed


def test_nothing_is_left_on_the_disk():
    with tempfile.TemporaryDirectory() as folder:
        ran = sandbox.run(f"open({folder + '/x'!r}, 'w').write('x')")
        assert not ran.passed and os.listdir(folder) == []


def test_children_end_with_the_program():
    ran = sandbox.run("import os, time\nif os.fork() == 0: time.sleep(50)", seconds=5.0)
    assert ran.passed and not programs_left()


def test_right_and_wrong_programs():
    assert sandbox.run("def f(x): return x * x" + CHECK) == (True, "passed")
    assert sandbox.run("def f(x): return x" + CHECK) == (False, "AssertionError: ")
    assert sandbox.run("raise ValueError('é 日本')").reason == "ValueError: é 日本"
    assert "SyntaxError" in sandbox.run("def f(x) return x").reason
    assert sandbox.run("while True: pass", seconds=0.5).reason == "timed out after 0.5 seconds"
    assert "EOFError" in sandbox.run("input()").reason


@pytest.mark.parametrize(("vector", "expected"), primary("humaneval_exec"))
def test_programs_end_as_in_the_reference(vector, expected):
    program = vector["prompt"] + vector["completion"] + "\n" + vector["test"] + f"\ncheck({vector['entry_point']})"
    assert sandbox.run(program, vector["timeout"]).passed == expected


@pytest.mark.parametrize("seconds", [0, -1, 1000])
def test_seconds_have_bounds(seconds):
    with pytest.raises(ValueError, match="above 0 and at most 120"):
        sandbox.run("x = 1", seconds)


def test_where_nothing_isolates_it_refuses_with_the_reason(monkeypatch):
    sandbox.isolation.cache_clear()
    monkeypatch.setattr(sandbox, "_jail_command", lambda python, seconds, result: [sys.executable, "-c", "1/0"])
    monkeypatch.setattr(sandbox.shutil, "which", lambda name: None)
    with pytest.raises(sandbox.SandboxError, match=r"namespaces: .*ZeroDivisionError.*unprivileged user namespaces"):
        sandbox.run("x = 1")
    monkeypatch.setattr(sandbox.sys, "platform", "darwin")
    with pytest.raises(sandbox.SandboxError, match="this is darwin"):
        sandbox.run("x = 1")
    monkeypatch.undo()
    sandbox.isolation.cache_clear()
    assert sandbox.run("x = 1").passed


def test_a_jail_that_leaks_is_refused(monkeypatch):
    """The trial program looks for what must not be there; Python without a jail shows it all."""
    sandbox.isolation.cache_clear()
    bare = lambda python, seconds, result: [sys.executable, *python]  # noqa: E731
    monkeypatch.setattr(sandbox, "_jail_command", bare)
    monkeypatch.setattr(sandbox.shutil, "which", lambda name: None)
    with pytest.raises(sandbox.SandboxError, match=r"AssertionError: .*sandbox\.py"):
        sandbox.isolation()
    monkeypatch.undo()
    sandbox.isolation.cache_clear()


def programs_left() -> list[int]:
    """Running processes of the jail and in it, zombies left out; waits a moment for those that are ending."""
    for _ in range(50):
        left = []
        for folder in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                command = (folder / "cmdline").read_bytes()
                state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if state != "Z" and str(MARK).encode() in command and int(folder.name) != os.getpid():
                left.append(int(folder.name))
        if not left:
            return []
        time.sleep(0.1)
    return left


def test_a_killed_caller_leaves_no_program_behind():
    """The jail's own clock ends a program whose caller is gone."""
    text = (
        f"from nvlm_jax.evaluation import sandbox; sandbox.MEMORY = {MARK}; "
        "sandbox.run('import time; time.sleep(60)', seconds=1.0)"
    )
    caller = subprocess.Popen([sys.executable, "-c", text], cwd=pathlib.Path(__file__).parents[2])
    time.sleep(1.0)
    caller.send_signal(signal.SIGKILL)
    caller.wait()
    assert not programs_left()
