"""The inner half of `sandbox`: a script that shuts itself into namespaces of Linux and runs one program there.

    python -I -S jail.py SETTINGS     (fd 0: the program; SETTINGS names others)

    outer            writes the id maps of the new user namespace, waits
      builder        makes a root of read-only libraries in a mount namespace without network, then pivots into it
        init         PID 1 of the new PID namespace: waits for the program, at most its seconds; when it ends, the
          program    kernel kills whatever is left in the namespace

The program's user is nobody (or, without privileges, the caller's own behind a map), has no capability and can gain
none, sees neither /home nor /proc nor /dev, can write nowhere, and makes no system call that the filter refuses. This
script imports nothing of the project.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
import time

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_BIND, MS_REC, MS_PRIVATE, MS_NOSUID, MS_NODEV = 4096, 16384, 1 << 18, 2, 4
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
SYS_MOUNT_SETATTR, AT_RECURSIVE = 442, 0x8000  # the number is the same on every architecture
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV = 1, 2, 4
NOBODY = 65534
TIMED_OUT = 124

libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: object) -> None:
    """A function of libc that answers 0; OSError with its name otherwise."""
    if getattr(libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        what = "prctl(PR_SET_SECCOMP)" if name == "prctl" and arguments[0] == PR_SET_SECCOMP else name
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    texts = [text.encode() if text is not None else None for text in (source, target, kind, options)]
    call("mount", *texts[:3], ctypes.c_ulong(flags), texts[3])


def main() -> None:
    settings = json.loads(sys.argv[1])
    ready, mapped = os.pipe(), os.pipe()
    builder = os.fork()
    if builder == 0:
        run_guarded(build, settings, ready, mapped)
    os.close(ready[1])
    if os.read(ready[0], 1):
        map_ids(builder)
        os.write(mapped[1], b"1")
    os._exit(os.waitstatus_to_exitcode(os.waitpid(builder, 0)[1]) & 0xFF)


def run_guarded(step, *arguments: object) -> None:
    """Run a step of a forked process; its error goes to stderr as one line. Never returns."""
    try:
        step(*arguments)
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
    os._exit(70)


def map_ids(pid: int) -> None:
    """Root keeps itself for building and gets nobody as 1; another user becomes 1."""
    if os.getuid() == 0:
        users = groups = f"0 0 1\n1 {NOBODY} 1\n"
    else:
        users, groups = f"1 {os.getuid()} 1\n", f"1 {os.getgid()} 1\n"
        write(f"/proc/{pid}/setgroups", "deny")
    write(f"/proc/{pid}/gid_map", groups)
    write(f"/proc/{pid}/uid_map", users)


def write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def build(settings: dict, ready: tuple[int, int], mapped: tuple[int, int]) -> None:
    """In the new namespaces: the root, then init."""
    die_with_parent()
    kinds = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS
    call("unshare", kinds)
    os.write(ready[1], b"1")
    os.close(mapped[1])
    if not os.read(mapped[0], 1):
        raise OSError("the id maps could not be written")
    with contextlib.suppress(OSError):  # a second lock only: the root below cannot be left
        write("/proc/sys/user/max_user_namespaces", "0")  # of this namespace: none inside it
    make_root(settings["libraries"])
    init = os.fork()
    if init == 0:
        run_guarded(be_init, settings)
    os._exit(os.waitstatus_to_exitcode(os.waitpid(init, 0)[1]) & 0xFF)


def make_root(libraries: list[str]) -> None:
    """Make a small file system of these directories the root, read-only, and let go of the old one."""
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    places = [place for place in ("/mnt", "/media", "/srv", "/tmp", "/proc") if os.path.isdir(place)]
    root = next(place for place in places if not any((path + "/").startswith(place + "/") for path in libraries))
    mount("none", root, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
    for path in libraries:
        place = root + path
        os.makedirs(os.path.dirname(place), exist_ok=True)
        if os.path.islink(path):
            os.symlink(os.readlink(path), place)
        else:
            os.makedirs(place)
            mount(path, place, None, MS_BIND | MS_REC)
    os.chdir(root)
    call("pivot_root", b".", b".")
    call("umount2", b".", MNT_DETACH)
    os.chdir("/")
    attributes = (ctypes.c_uint64 * 4)(MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, 0, 0, 0)
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    call("syscall", ctypes.c_long(SYS_MOUNT_SETATTR), -100, b"/", AT_RECURSIVE, ctypes.byref(attributes), size)


def be_init(settings: dict) -> None:
    """Run the program and wait for it; exit with its status, or TIMED_OUT."""
    die_with_parent()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    deadline = time.monotonic() + settings["seconds"]
    program = os.fork()
    if program == 0:
        run_guarded(become_program, settings)
    os.close(settings["result"])
    while True:
        done, status = os.waitpid(-1, os.WNOHANG)
        if done == program:
            os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
        left = deadline - time.monotonic()
        if left <= 0:
            os._exit(TIMED_OUT)
        if done == 0:
            signal.sigtimedwait({signal.SIGCHLD}, left)


def become_program(settings: dict) -> None:
    """Give up every privilege and start a fresh interpreter: the capabilities of a user that is not 0 end there."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    if os.getuid() == 0:
        os.setgroups([])
        os.setresgid(1, 1, 1)
        os.setresuid(1, 1, 1)
    call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    filter_calls(settings["filter"])
    errors = os.dup(2)  # closed by exec
    os.dup2(1, 2)
    try:
        os.execve(settings["command"][0], settings["command"], {})
    except OSError as error:
        os.write(errors, f"{settings['command'][0]}: {error}\n".encode())
        os._exit(70)


class FilterProgram(ctypes.Structure):
    """struct sock_fprog"""

    _fields_ = (("length", ctypes.c_ushort), ("lines", ctypes.c_char_p))


def filter_calls(descriptor: int) -> None:
    """Refuse, from here on, the system calls that the filter in this open file refuses; then close the file."""
    with open(descriptor, "rb") as file:
        lines = file.read()
    program = FilterProgram(len(lines) // 8, lines)
    call("prctl", PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0)


def die_with_parent() -> None:
    call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


if __name__ == "__main__":
    main()
