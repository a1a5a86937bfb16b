"""Walls around a process that runs what a model file says: Linux's own, without any privilege.

The process raises them around itself, and cannot take them down again. Landlock
(https://docs.kernel.org/userspace-api/landlock.html) bounds what it may write to: one folder. A
filter of system calls (seccomp, https://docs.kernel.org/userspace-api/seccomp_filter.html) refuses
the network, other processes, and the administration of the machine, which root would be allowed.
Reading stays possible: nothing that is read has a way out but the workload.

Older kernels and some containers have only one of them or none. `raise_walls` says which is
missing.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446

_WRITE_FILE = 1 << 1
_WRITES = 0b1_1111_1111_0010
"""Landlock's rights to write a file, and to remove or make anything (its first version)."""
_EXECUTE = 1 << 0
_REFER, _TRUNCATE = 1 << 13, 1 << 14
"""Rights that came with its second and third version."""
_ALL_TCP = 0b11
_ALL_SCOPES = 0b11

_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
"""The number that a filter knows an architecture by, and its column in the tables below."""

_REFUSED_CALLS = {
    # Network and what does the work of other calls
    "socket": (41, 198), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    # Other programs and processes
    "execve": (59, 221), "execveat": (322, 281), "fork": (57, None), "vfork": (58, None),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "tkill": (200, 130), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424), "pidfd_open": (434, 434), "pidfd_getfd": (438, 438),
    "setpriority": (141, 140), "kcmp": (312, 272),
    # Limits of this process
    "setrlimit": (160, 164),
    # What Landlock leaves open: owners, modes and times of files
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452),
    "chown": (92, None), "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54),
    "utime": (132, None), "utimes": (235, None), "futimesat": (261, None), "utimensat": (280, 88),
    "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7), "removexattr": (197, 14),
    "lremovexattr": (198, 15), "fremovexattr": (199, 16), "truncate": (76, 45),
    # Administration
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51),
    "unshare": (272, 97), "setns": (308, 268), "open_tree": (428, 428), "move_mount": (429, 429),
    "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433),
    "mount_setattr": (442, 442), "swapon": (167, 224), "swapoff": (168, 225), "reboot": (169, 142),
    "sethostname": (170, 161), "setdomainname": (171, 162), "settimeofday": (164, 170),
    "clock_settime": (227, 112), "adjtimex": (159, 171), "clock_adjtime": (305, 266),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "acct": (163, 89),
    "quotactl": (179, 60), "bpf": (321, 280), "perf_event_open": (298, 241),
    "userfaultfd": (323, 282), "add_key": (248, 217), "request_key": (249, 218),
    "keyctl": (250, 219), "ioperm": (173, None), "iopl": (172, None), "mknod": (133, None),
    "mknodat": (259, 33), "open_by_handle_at": (304, 265), "syslog": (103, 116),
}  # fmt: skip
"""System calls that no reader of a model needs, by their numbers on each architecture."""
_CLONE, _CLONE3 = (56, 220), (435, 435)
_SIGNALS = ((62, 129), (234, 131))
"""`kill` and `tgkill`."""
_PRLIMIT = (302, 261)
_CLONE_THREAD = 0x10000

_LOAD, _EQUAL, _AT_LEAST, _HAS_BITS, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16
"""Where a filter finds the facts of a call (struct seccomp_data), in bytes."""


def raise_walls(folder: Path) -> tuple[str, ...]:
    """Keep this process from writing outside a folder, from the network and other processes.

    Only the thread that calls is kept, and those that it starts; this is for a fresh fork.

    Args:
        folder: The only folder that may be written to.

    Returns:
        What could not be closed off: `files` and `network`; empty if all is.
    """
    if sys.platform != "linux":
        return ("files", "network")
    missing = []
    library = ctypes.CDLL(None, use_errno=True)
    library.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if not _confine_writes(library, folder):
        missing.append("files")
    if not _filter_calls(library):
        missing.append("network")
    return tuple(missing)


def _confine_writes(library: ctypes.CDLL, folder: Path) -> bool:
    """Raise Landlock's wall; tell whether the kernel has it."""
    library.syscall.restype = ctypes.c_long
    version = library.syscall(ctypes.c_long(_LANDLOCK_CREATE), None, ctypes.c_size_t(0), 1)
    if version < 1:
        return False
    rights = _WRITES
    if version >= 2:
        rights |= _REFER
    if version >= 3:
        rights |= _TRUNCATE
    tcp = _ALL_TCP if version >= 4 else 0
    scopes = _ALL_SCOPES if version >= 6 else 0
    size = 8
    if version >= 4:
        size = 16
    if version >= 6:
        size = 24
    attributes = struct.pack("=QQQ", rights | _EXECUTE, tcp, scopes)[:size]
    rules = library.syscall(ctypes.c_long(_LANDLOCK_CREATE), attributes, ctypes.c_size_t(size), 0)
    if rules < 0:
        return False
    try:
        file_rights = _WRITE_FILE | (rights & _TRUNCATE)
        for path, allowed in ((folder, rights), (Path(os.devnull), file_rights)):
            with _open_path(path) as descriptor:
                rule = struct.pack("=Qi", allowed, descriptor)
                if library.syscall(ctypes.c_long(_LANDLOCK_ADD), rules, 1, rule, 0) != 0:
                    return False
        return bool(library.syscall(ctypes.c_long(_LANDLOCK_RESTRICT), rules, 0) == 0)
    finally:
        os.close(rules)


@contextmanager
def _open_path(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _filter_calls(library: ctypes.CDLL) -> bool:
    """Raise the filter of system calls; tell whether the kernel has it for this architecture."""
    known = _ARCHITECTURES.get(platform.machine())
    if known is None or struct.calcsize("P") != 8:
        return False
    program = b"".join(_make_filter(*known, os.getpid()))
    code = ctypes.create_string_buffer(program, len(program))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))

    filters = Program(len(program) // 8, ctypes.addressof(code))
    return bool(
        library.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(filters), 0, 0) == 0
    )


def _make_filter(architecture: int, column: int, process: int) -> Iterator[bytes]:
    """Make the instructions of the filter, one after the other.

    A jump counts the instructions that it skips, where its condition holds and where it does not.

    Args:
        architecture: What the kernel calls this one.
        column: Its column in the tables of numbers.
        process: The number of this process, which may send itself signals.
    """
    refuse = _instruct(_RETURN, _ERRNO | errno.EPERM)
    allow = _instruct(_RETURN, _ALLOW)
    yield _instruct(_LOAD, _ARCHITECTURE_AT)
    yield _instruct(_EQUAL, architecture, 1, 0)
    yield refuse  # a call by the table of another architecture
    yield _instruct(_LOAD, _NUMBER_AT)
    yield _instruct(_AT_LEAST, 0x40000000, 0, 1)
    yield refuse  # x32
    yield from _answer([_CLONE3[column]], _instruct(_RETURN, _ERRNO | errno.ENOSYS))
    yield from _answer((row[column] for row in _REFUSED_CALLS.values()), refuse)
    # Threads, but no processes. The C library asks `clone` where there is no `clone3`.
    yield _instruct(_EQUAL, _CLONE[column], 0, 4)
    yield _instruct(_LOAD, _ARGUMENTS_AT)
    yield _instruct(_HAS_BITS, _CLONE_THREAD, 0, 1)
    yield allow
    yield refuse
    for row in _SIGNALS:
        yield _instruct(_EQUAL, row[column], 0, 4)
        yield _instruct(_LOAD, _ARGUMENTS_AT)
        yield _instruct(_EQUAL, process, 0, 1)
        yield allow
        yield refuse
    # Limits may be read, not set: the third argument, of 64 bits, points to new ones.
    yield _instruct(_EQUAL, _PRLIMIT[column], 0, 6)
    yield _instruct(_LOAD, _ARGUMENTS_AT + 2 * 8)
    yield _instruct(_EQUAL, 0, 0, 3)
    yield _instruct(_LOAD, _ARGUMENTS_AT + 2 * 8 + 4)
    yield _instruct(_EQUAL, 0, 0, 1)
    yield allow
    yield refuse
    yield allow


def _answer(numbers: Iterable[int | None], answer: bytes) -> Iterator[bytes]:
    """Give one answer to calls of these numbers."""
    for number in numbers:
        if number is not None:
            yield _instruct(_EQUAL, number, 0, 1)
            yield answer


def _instruct(code: int, value: int, skip_if: int = 0, skip_else: int = 0) -> bytes:
    """Encode one instruction of the filter (struct sock_filter)."""
    return struct.pack("=HBBI", code, skip_if, skip_else, value)
