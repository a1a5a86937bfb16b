"""The first process of a phone: mounts, adbd as the user `shell`, and the framework that answers
its dialog.

Run by `rig.Rig` inside fresh mount and process namespaces: `init.py ROOT SYSTEM CPUINFO DIALOG`. It
ends when adbd does, or at the end of its standard input, which comes even if the test is killed;
the kernel then ends all that runs in the phone and takes its mounts away.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

SHELL_UID = 2000
"""Of Android's user `shell` (system/core, android_filesystem_config.h)."""
DEVICES = {
    "null": (1, 3),
    "zero": (1, 5),
    "full": (1, 7),
    "random": (1, 8),
    "urandom": (1, 9),
    "tty": (5, 0),
}


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, timeout=30)


def mount_all(root: Path, system: Path, cpuinfo: str) -> None:
    """`system` is read-only and shared by all phones of its kind: no phone changes it."""
    for name in ("usr", "system"):
        mount("--bind", "-o", "ro", f"{system}/{name}", f"{root}/{name}")
    mount("-t", "proc", "proc", f"{root}/proc")
    if cpuinfo:
        mount("--bind", cpuinfo, f"{root}/proc/cpuinfo")
    mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", f"{root}/dev")
    for name, (major, minor) in DEVICES.items():
        os.mknod(root / "dev" / name, stat.S_IFCHR | 0o666, os.makedev(major, minor))
    (root / "dev/pts").mkdir()
    (root / "dev/socket").mkdir()
    mount("-t", "devpts", "-o", "newinstance,ptmxmode=0666,mode=620", "devpts", f"{root}/dev/pts")
    (root / "dev/ptmx").symlink_to("pts/ptmx")


def become_adbd(control: socket.socket) -> NoReturn:
    os.chroot(".")
    os.setgroups([])
    os.setgid(SHELL_UID)
    os.setuid(SHELL_UID)
    os.set_inheritable(control.fileno(), True)
    environment = {
        "PATH": "/system/bin:/usr/bin:/usr/sbin",
        "HOME": "/data/local/tmp",
        "TMPDIR": "/data/local/tmp",
        "QEMU_CPU": "cortex-a76",
        "ADBD_PROPS": "/etc/properties",
        "LD_PRELOAD": "/usr/lib/adbd_shim.so",
        "ANDROID_SOCKET_adbd": str(control.fileno()),
    }
    os.execve("/usr/sbin/adbd", ["/usr/sbin/adbd"], environment)


def serve(dialog: Path, framework: socket.socket) -> None:
    """Answer adbd's questions until standard input ends: `PK` + key asks whether to trust it, with
    `OK` or `NO`.

    Like a dialog on a screen, a question stays until it is answered, whoever asked it; adbd waits
    with the next one.
    """
    asked = False
    while True:
        ready, _, _ = select.select([sys.stdin, framework], [], [], 0.05 if asked else None)
        if sys.stdin in ready:
            return
        if framework in ready:
            message = framework.recv(1 << 14)
            if not message:
                return
            asked = asked or message.startswith(b"PK")
        answer = {"allow": b"OK", "deny": b"NO"}.get(dialog.read_text())
        if asked and answer:
            framework.send(answer)
            asked = False


def main() -> None:
    root, system, cpuinfo, dialog = (
        Path(sys.argv[1]),
        Path(sys.argv[2]),
        sys.argv[3],
        Path(sys.argv[4]),
    )
    os.umask(0)
    mount_all(root, system, cpuinfo)
    os.chdir(root)  # the paths of sockets must be short
    control, framework = (socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2))
    control.bind("dev/socket/adbd")
    control.listen(1)
    framework.connect("dev/socket/adbd")
    adbd = os.fork()
    if adbd == 0:
        become_adbd(control)
    control.close()

    def reap(*_: object) -> None:
        ended = -1
        while ended:  # the first process inherits every orphan
            ended = os.waitpid(-1, os.WNOHANG)[0]
            if ended == adbd:
                os._exit(1)

    signal.signal(signal.SIGCHLD, reap)
    reap()  # what ended before
    serve(dialog, framework)


if __name__ == "__main__":
    main()
