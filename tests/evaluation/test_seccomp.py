"""The sandbox's filter of system calls: refused where it is run, and for both machines by a reading of the filter.

Also memory that no limit of one process counts: each way to take more than the limit is refused or ended.
"""

import errno
import os
import platform
import struct
import subprocess
import sys

import pytest

from nvlm_jax.evaluation import process_memory, sandbox, seccomp
from tests.evaluation.needs_namespaces import skip_without_namespaces

skip_without_namespaces()

CALLS = """
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
def error_of(number, *arguments):
    ctypes.set_errno(0)
    answer = libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments))
    return ctypes.get_errno() if answer < 0 else 0
"""
# Numbers of asm/unistd.h, written here again: x86_64, aarch64.
NUMBERS = {
    "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218), "io_uring_setup": (425, 425),
    "userfaultfd": (323, 282), "bpf": (321, 280), "perf_event_open": (298, 241), "ptrace": (101, 117),
    "shmget": (29, 194), "shmat": (30, 196), "semget": (64, 190), "msgget": (68, 186), "mq_open": (240, 180),
    "memfd_create": (319, 279), "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40),
    "process_vm_readv": (310, 270), "pidfd_getfd": (438, 438), "open_by_handle_at": (304, 265),
}  # fmt: skip
FAMILIES = {"AF_INET": 2, "AF_AX25": 3, "AF_INET6": 10, "AF_NETLINK": 16, "AF_PACKET": 17, "AF_RDS": 21, "AF_CAN": 29,
            "AF_TIPC": 30, "AF_BLUETOOTH": 31, "AF_ALG": 38, "AF_NFC": 39, "AF_VSOCK": 40, "AF_QIPCRTR": 42,
            "AF_XDP": 44}  # fmt: skip
HERE = seccomp.MACHINES.index(platform.machine())


@pytest.mark.parametrize("name", NUMBERS)
def test_a_call_is_refused_to_the_program(name):
    ran = sandbox.run(CALLS + f"assert error_of({NUMBERS[name][HERE]}, 0, 4096, 0o1600) == errno.EPERM")
    assert ran.passed, ran.reason


def test_every_call_of_the_table_is_refused_to_the_program():
    numbers = {name: pair[HERE] for name, pair in seccomp.REFUSED.items() if pair[HERE] is not None}
    text = f"left = [name for name, n in {numbers}.items() if error_of(n, -1, -1, -1, -1) != errno.EPERM]\n"
    ran = sandbox.run(CALLS + text + "assert not left, left", seconds=10.0)
    assert ran.passed, ran.reason
    assert all(seccomp.REFUSED[name] == pair for name, pair in NUMBERS.items())


def test_sockets_are_of_the_process_alone():
    text = f"""
import socket
for family in {list(FAMILIES.values())}:
    for kind in (1, 2, 3, 5):
        try:
            socket.socket(family, kind)
        except PermissionError:
            continue
        raise AssertionError(family)
one, other = socket.socketpair()
one.send(b"x")
assert other.recv(1) == b"x"
"""
    ran = sandbox.run(text, seconds=10.0)
    assert ran.passed, ran.reason


def test_clone_makes_no_namespace_and_clone3_is_unknown():
    clone = seccomp.CLONE[HERE]
    unknown = "assert error_of(435, 0, 0) == errno.ENOSYS\n"
    ran = sandbox.run(CALLS + unknown + f"assert error_of({clone}, 0x10000011, 0, 0, 0, 0) == errno.EPERM")
    assert ran.passed, ran.reason


def test_the_other_numbers_of_x86_64_are_refused():
    if platform.machine() != "x86_64":
        pytest.skip("x32 is x86_64's")
    ran = sandbox.run(CALLS + "assert error_of(0x40000000 + 39) == errno.EPERM")
    assert ran.passed, ran.reason


MEMORY = {
    "System V shared memory": (
        "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "n = libc.shmget(0, ctypes.c_size_t(3 << 30), 0o1600)\n"
        "if n < 0: raise OSError(ctypes.get_errno(), 'shmget')",
        "PermissionError",
    ),
    "POSIX shared memory": (
        "from multiprocessing import shared_memory\nshared_memory.SharedMemory(create=True, size=3 << 30)",
        "FileNotFoundError",
    ),
    "a file of its own in /dev/shm": ("open('/dev/shm/x', 'wb')", "FileNotFoundError"),
    "a file without a name": ("import os\nos.memfd_create('x')", "PermissionError"),
    "shared pages whose mapping shrinks": (
        "import mmap\nm = mmap.mmap(-1, 256 << 20)\nfor n in range(0, 256 << 20, 4096): m[n] = 1",
        "PermissionError",
    ),
    "System V messages": (
        "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "if libc.msgget(0, 0o1600) < 0: raise OSError(ctypes.get_errno(), 'msgget')",
        "PermissionError",
    ),
    "one process": ("x = [bytearray(b'1') * (64 << 20) for _ in range(20)]", "MemoryError"),
    "several processes": (
        "import os, time\nos.fork()\nos.fork()\nx = [bytearray(b'1') * (16 << 20) for _ in range(48)]\ntime.sleep(20)",
        "its processes took more than 1024 MiB of memory together",
    ),
}


@pytest.mark.parametrize("way", MEMORY)
def test_no_way_takes_more_memory_than_the_limit(way):
    program, reason = MEMORY[way]
    ran = sandbox.run(program, seconds=20.0)
    assert not ran.passed and reason in ran.reason, ran.reason


def test_pages_that_a_fork_shares_count_once():
    """700 MB that three processes see: 2.1 GB if each were charged for all of it."""
    text = """
import os, time
x = bytearray(b'1') * (700 << 20)
children = [os.fork()]
if children[0]: children.append(os.fork())
time.sleep(0.3)
if 0 in children: os._exit(0)
for child in children: os.waitpid(child, 0)
"""
    ran = sandbox.run(text, seconds=20.0)
    assert ran.passed, ran.reason


ORDINARY = {
    "threads": "import threading\nt = threading.Thread(target=print)\nt.start()\nt.join()",
    "a child": "import os\npid = os.fork()\nif not pid: os._exit(3)\nassert os.waitpid(pid, 0)[1] >> 8 == 3",
    "another program": (
        "import subprocess, sys\nran = subprocess.run([sys.executable, '-I', '-S', '-c', 'print(6 * 7)'], "
        "capture_output=True)\nassert ran.stdout == b'42\\n', ran"
    ),
    "an event loop": "import asyncio\nasync def f(): await asyncio.sleep(0); return 3\nassert asyncio.run(f()) == 3",
    "pools": (
        "from concurrent.futures import ThreadPoolExecutor as T\n"
        "with T(2) as pool: assert sum(pool.map(abs, [-1, -2])) == 3"
    ),
    "a clock and an alarm": (
        "import signal, time\nsignal.signal(signal.SIGALRM, lambda *_: None)\nsignal.setitimer(0, 0.01)\n"
        "time.sleep(0.05)"
    ),
    "private pages": "import mmap\nm = mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\nm[0] = 1",
    "hashes and numbers": (
        "import hashlib, math, random, re, decimal, fractions, itertools, collections, statistics, datetime, uuid\n"
        "assert hashlib.md5(b'').hexdigest()[:4] == 'd41d' and random.random() < 1 and uuid.uuid4()"
    ),
    "half its memory": "x = bytearray(b'1') * (512 << 20)",
}


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_programs_pass(name):
    ran = sandbox.run(ORDINARY[name], seconds=10.0)
    assert ran.passed, ran.reason


def verdict(machine: str, number: int, *arguments: int, arch: int | None = None) -> int:
    """What the filter answers: 0 allows, else the error; a reading of its instructions as the kernel runs them."""
    column = seccomp.MACHINES.index(machine)
    arch = seccomp.AUDIT_ARCH[column] if arch is None else arch
    data = struct.pack("<IIQ6Q", number, arch, 0, *(*arguments, 0, 0, 0, 0, 0, 0)[:6])
    lines = list(struct.iter_unpack("<HBBI", seccomp.filter_program(machine)))
    at = value = 0
    while True:
        code, if_true, if_false, k = lines[at]
        at += 1
        if code == 0x20:
            (value,) = struct.unpack_from("<I", data, k)
        elif code == 0x54:
            value &= k
        elif code == 0x06:
            return 0 if k == 0x7FFF0000 else k & 0xFFFF
        else:
            at += if_true if {0x15: value == k, 0x25: value > k, 0x45: bool(value & k)}[code] else if_false


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_of_a_machine(machine):
    column = ["x86_64", "aarch64"].index(machine)
    for numbers in NUMBERS.values():
        assert verdict(machine, numbers[column]) == errno.EPERM
    socket, mmap, clone = ((41, 198), (9, 222), (56, 220))
    for family in FAMILIES.values():
        assert verdict(machine, socket[column], family, 1) == errno.EPERM
    assert verdict(machine, socket[column], 1, 1) == 0
    assert verdict(machine, mmap[column], 0, 4096, 3, 0x21) == errno.EPERM
    assert verdict(machine, mmap[column], 0, 4096, 3, 0x22) == verdict(machine, mmap[column], 0, 4096, 3, 0x01) == 0
    assert verdict(machine, clone[column], 0x1200011) == 0  # fork
    assert verdict(machine, clone[column], 0x3D0F00) == 0  # a thread
    assert verdict(machine, clone[column], 0x20000 | 17) == errno.EPERM
    assert verdict(machine, 451) == verdict(machine, 435) == errno.ENOSYS
    for number in ((0, 63), (1, 64), (59, 221), (257, 56), (202, 98)):  # read, write, execve, openat, futex
        assert verdict(machine, number[column]) == 0
        assert verdict(machine, number[column], arch=0x40000003) == errno.EPERM  # 32-bit calls of either machine
    assert verdict("x86_64", 0x40000000 | 39) == errno.EPERM


def test_where_the_kernel_filters_no_calls_it_refuses(monkeypatch):
    refusals = {
        b"": r"PR_SET_SECCOMP\): Invalid argument.*CONFIG_SECCOMP_FILTER",
        struct.pack("<HBBI", 6, 0, 0, 0x7FFF0000): "shmget is not refused",
    }
    monkeypatch.setattr(sandbox.shutil, "which", lambda name: None)
    for lines, message in refusals.items():
        monkeypatch.setattr(sandbox, "_filter", lambda lines=lines: lines)
        sandbox.isolation.cache_clear()
        with pytest.raises(sandbox.SandboxError, match=message):
            sandbox.run("x = 1")
    monkeypatch.undo()
    sandbox.isolation.cache_clear()


def test_an_unknown_machine_and_an_unreadable_proc_are_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(sandbox.platform, "machine", lambda: "riscv64")
    sandbox.isolation.cache_clear()
    with pytest.raises(sandbox.SandboxError, match="x86_64 and aarch64 are known, and this machine is riscv64"):
        sandbox.run("x = 1")
    monkeypatch.undo()
    monkeypatch.setattr(process_memory, "PROC", tmp_path)
    sandbox.isolation.cache_clear()
    with pytest.raises(sandbox.SandboxError, match=r"memory of .* cannot be measured: .*self/status.*; mount /proc"):
        sandbox.run("x = 1")
    monkeypatch.undo()
    sandbox.isolation.cache_clear()


def test_bubblewrap_is_given_the_filter():
    given = sandbox.Descriptors(result=7, filter=9)
    command = sandbox._bubblewrap_command("/usr/bin/bwrap", ["-c", "pass"], 1.0, given)
    assert command[command.index("--seccomp") + 1] == "9"


def test_memory_of_a_tree_is_its_processes_together():
    text = "x = bytearray(b'1') * (64 << 20); print(flush=True); input()"
    before = process_memory.of_tree(os.getpid(), 1 << 40)
    with subprocess.Popen([sys.executable, "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        assert child.pid in process_memory.tree(os.getpid())
        assert child.pid in process_memory._children_by_scan()(os.getpid())
        assert 64 << 20 < process_memory.of_tree(child.pid, 0) < 100 << 20  # pages, each in its share
        assert process_memory.of_tree(os.getpid(), 1 << 40) - before > 60 << 20
        child.stdin.close()
    assert process_memory.of_tree(child.pid, 0) == 0
