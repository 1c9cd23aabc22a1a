"""The system calls that a program of a model may not make, as a filter for seccomp(2).

    filter_program("x86_64")        -> bytes of BPF, as prctl(PR_SET_SECCOMP) and `bwrap --seccomp FD` take them

A list of what is refused, not of what is allowed: which calls Python makes depends on its C library. Refused with
EPERM: what holds memory outside a process (where no limit of the process counts it), ways to other processes, keys,
mounts, and every socket but those of AF_UNIX. Calls newer than the table are answered as by an older kernel, with
ENOSYS. The numbers are those of Linux's asm/unistd.h: (x86_64, aarch64), None where there is no such call.
"""

from __future__ import annotations

import errno
import struct

REFUSED: dict[str, tuple[int | None, int | None]] = {
    # memory that outlives its mapping or belongs to no process: System V, message queues, files without a name
    "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195), "shmdt": (67, 197),
    "semget": (64, 190), "semop": (65, 193), "semtimedop": (220, 192), "semctl": (66, 191),
    "msgget": (68, 186), "msgsnd": (69, 189), "msgrcv": (70, 188), "msgctl": (71, 187),
    "mq_open": (240, 180), "mq_unlink": (241, 181), "memfd_create": (319, 279), "memfd_secret": (447, 447),
    "remap_file_pages": (216, 234), "mbind": (237, 235), "set_mempolicy": (238, 237),
    "set_mempolicy_home_node": (450, 450), "migrate_pages": (256, 238), "move_pages": (279, 239),
    # the kernel's own memory, and where most faults of the kernel were
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "io_setup": (206, 0), "io_destroy": (207, 1), "io_submit": (209, 2), "io_cancel": (210, 3),
    "io_getevents": (208, 4), "io_pgetevents": (333, 292), "vmsplice": (278, 75),
    "userfaultfd": (323, 282), "bpf": (321, 280), "perf_event_open": (298, 241), "seccomp": (317, 277),
    "fanotify_init": (300, 262), "fanotify_mark": (301, 263),
    "inotify_init": (253, None), "inotify_init1": (294, 26), "inotify_add_watch": (254, 27),
    # other processes
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "process_madvise": (440, 440), "pidfd_getfd": (438, 438),
    # namespaces and mounts
    "unshare": (272, 97), "setns": (308, 268), "chroot": (161, 51), "pivot_root": (155, 41), "mount": (165, 40),
    "umount2": (166, 39), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    # the machine
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106), "kexec_load": (246, 104),
    "kexec_file_load": (320, 294), "reboot": (169, 142), "swapon": (167, 224), "swapoff": (168, 225), "acct": (163, 89),
    "syslog": (103, 116), "quotactl": (179, 60), "quotactl_fd": (443, 443), "nfsservctl": (180, 42),
    "lookup_dcookie": (212, 18), "sethostname": (170, 161), "setdomainname": (171, 162), "settimeofday": (164, 170),
    "clock_settime": (227, 112), "adjtimex": (159, 171), "clock_adjtime": (305, 266), "vhangup": (153, 58),
    "iopl": (172, None), "ioperm": (173, None), "modify_ldt": (154, None), "personality": (135, 92),
    "uselib": (134, None), "ustat": (136, None), "sysfs": (139, None), "_sysctl": (156, None),
}  # fmt: skip
SOCKET, SOCKETPAIR, CLONE, MMAP = (41, 198), (53, 199), (56, 220), (9, 222)
CLONE3 = 435  # its flags lie in memory, which a filter cannot read; C libraries fall back to clone
LAST_KNOWN = 450
MACHINES = ("x86_64", "aarch64")
AUDIT_ARCH = (0xC000003E, 0xC00000B7)
X32 = 0x40000000  # bit of the numbers of x86_64's other calls

AF_UNIX = 1
NEW_NAMESPACES = 0x7E020000  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
MAP_SHARED_ANONYMOUS = 0x21

ALLOW, REFUSE = 0x7FFF0000, 0x00050000  # SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO
LOAD, EQUAL, ABOVE, ANY_BIT, MASK, RETURN = 0x20, 0x15, 0x25, 0x45, 0x54, 0x06
NUMBER, ARCH, ARGUMENTS = 0, 4, 16  # places in struct seccomp_data, all little-endian here


def filter_program(machine: str) -> bytes:
    """Instructions (struct sock_filter, 8 bytes each) for a machine of `MACHINES`.

    Raises:
        ValueError: another machine; the message names both.
    """
    if machine not in MACHINES:
        raise ValueError(f"the system calls of {' and '.join(MACHINES)} are known, and this machine is {machine}")
    column = MACHINES.index(machine)
    lines = [_line(LOAD, ARCH), *_return_unless(EQUAL, AUDIT_ARCH[column], errno.EPERM), _line(LOAD, NUMBER)]
    if machine == "x86_64":
        lines += _return_if(ANY_BIT, X32, errno.EPERM)
    lines += _return_if(EQUAL, CLONE3, errno.ENOSYS) + _return_if(ABOVE, LAST_KNOWN, errno.ENOSYS)
    for numbers in REFUSED.values():
        if numbers[column] is not None:
            lines += _return_if(EQUAL, numbers[column], errno.EPERM)
    for numbers in (SOCKET, SOCKETPAIR):
        lines += _when(numbers[column], [_argument(0), *_return_unless(EQUAL, AF_UNIX, errno.EPERM)])
    lines += _when(CLONE[column], [_argument(0), *_return_if(ANY_BIT, NEW_NAMESPACES, errno.EPERM)])
    # A shared mapping keeps what was written to it when all but one page is unmapped: no limit counts that.
    shared = [_argument(3), _line(MASK, MAP_SHARED_ANONYMOUS)]
    lines += _when(MMAP[column], [*shared, *_return_if(EQUAL, MAP_SHARED_ANONYMOUS, errno.EPERM)])
    return b"".join([*lines, _line(RETURN, ALLOW)])


def _line(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, if_true, if_false, value)


def _argument(index: int) -> bytes:
    """Load the low half of an argument: families and flags are ints."""
    return _line(LOAD, ARGUMENTS + 8 * index)


def _return_if(test: int, value: int, error: int) -> list[bytes]:
    return [_line(test, value, 0, 1), _line(RETURN, REFUSE | error)]


def _return_unless(test: int, value: int, error: int) -> list[bytes]:
    return [_line(test, value, 1, 0), _line(RETURN, REFUSE | error)]


def _when(number: int, lines: list[bytes]) -> list[bytes]:
    """These lines for the call with this number, which is allowed at their end; others skip them."""
    body = [*lines, _line(RETURN, ALLOW)]
    return [_line(EQUAL, number, 0, len(body)), *body]
