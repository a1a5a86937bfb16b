"""What all phones of a kind share: Google's adbd and a small userland, unpacked from Debian 13's
packages; nothing is installed.

The packages' adbd is Google's, 34.0.5. Debian compiles authorisation off: one instruction of the
program switches it on again. It is built once for each machine and state of these files, in
`$HWBENCH_RIG` or the user's cache, by one process at a time; a build that was killed leaves nothing
that the next one would trust.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

PIECES = Path(__file__).parent / "rig"
"""Sources of what Debian does not have."""
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_PACKAGES = (PIECES / "packages.txt").read_text().split()
_TOYS = (PIECES / "toys.txt").read_text().split()
"""Names that Android links to toybox, and that Debian's toybox has."""
_KEPT = 2
"""Finished builds of a kind that stay; an older one may belong to another checkout."""
_BUILD_TIMEOUT_S = 300.0


class RigError(Exception):
    """A phone-like peer could not be built or started."""


@dataclass(frozen=True)
class Kind:
    """What differs between the two kinds of phones.

    Attributes:
        triplet: Debian's name of the architecture's libraries.
        compiler: Makes the shim.
        packages: On the host, for the programs it needs beyond a plain Debian.
        loader: Where the kernel looks for the C library's loader.
        authorise: SHA-256 of Debian's adbd, and the offset, old and new bytes of the instruction
            which stores `auth_required`.
    """

    triplet: str
    compiler: str
    packages: tuple[str, ...]
    loader: str
    authorise: tuple[str, int, str, str]


KINDS = {
    "amd64": Kind(
        "x86_64-linux-gnu",
        "g++",
        ("g++",),
        "lib64/ld-linux-x86-64.so.2",
        ("12e64931", 0x3ADAD, "c60000", "c60001"),
    ),
    "arm64": Kind(
        "aarch64-linux-gnu",
        "aarch64-linux-gnu-g++",
        ("g++-aarch64-linux-gnu", "qemu-user-static"),
        "lib/ld-linux-aarch64.so.1",
        ("3dee0a5b", 0x3AEA8, "1f010039", "1f2003d5"),
    ),
}


def rig_folder() -> Path:
    """Where everything of the phones lies: `$HWBENCH_RIG`, or `hwbench/rig` in the user's cache."""
    import platformdirs

    named = os.environ.get("HWBENCH_RIG")
    return Path(named).resolve() if named else Path(platformdirs.user_cache_dir("hwbench")) / "rig"


def built(arch: str) -> Path:
    """The shared part of a phone of this kind, built now if it is not there yet: folders `usr` and
    `system`.

    Raises:
        RigError: It cannot be built; says which step failed, and why.
    """
    folder = rig_folder() / "builds"
    folder.mkdir(parents=True, exist_ok=True)
    finished = folder / f"{arch}-{_identity(arch)}"
    with _lock(folder / f"{arch}.lock"):
        if not finished.is_dir():
            for left in folder.glob(f".{arch}-*"):  # of a build that was killed
                shutil.rmtree(left)
            with tempfile.TemporaryDirectory(dir=folder, prefix=f".{arch}-") as scratch:
                _build(arch, Path(scratch), time.monotonic() + _BUILD_TIMEOUT_S).rename(finished)
            for old in sorted(
                folder.glob(f"{arch}-*"), key=lambda path: path.stat().st_mtime, reverse=True
            )[_KEPT:]:
                shutil.rmtree(old)
    return finished


def _identity(arch: str) -> str:
    digest = sha256(repr((KINDS[arch], _PACKAGES, _TOYS)).encode())
    for piece in sorted([Path(__file__), PIECES / "adbd_shim.cpp", *(PIECES / "bin").iterdir()]):
        digest.update(piece.name.encode() + b"\0" + piece.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    deadline = time.monotonic() + _BUILD_TIMEOUT_S
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise RigError(
                        f"another process has been building for {_BUILD_TIMEOUT_S:.0f} s ({path})"
                    ) from None
                time.sleep(0.1)
        yield


def _build(arch: str, scratch: Path, deadline: float) -> Path:
    kind, phone = KINDS[arch], scratch / "phone"
    (phone / "usr").mkdir(parents=True)
    for name in ("bin", "lib", "sbin", "lib64"):
        (phone / "usr" / name).mkdir()
        (phone / name).symlink_to(
            f"usr/{name}"
        )  # packages that still unpack to /lib end up in /usr/lib
    for package in _download(arch, scratch, deadline):
        _call(
            ["dpkg-deb", "--fsys-tarfile", package],
            deadline,
            pipe_to=["tar", "-x", "--keep-directory-symlink", "-C", phone],
        )
    for name in ("doc", "man", "locale", "lintian"):
        shutil.rmtree(phone / "usr/share" / name, ignore_errors=True)
    _authorise(phone / "usr/lib/android-sdk/platform-tools/adbd", kind, phone / "usr/sbin/adbd")
    shim = [
        "-O2",
        "-Wall",
        "-Wextra",
        "-std=c++17",
        "-shared",
        "-fPIC",
        "-o",
        phone / "usr/lib/adbd_shim.so",
    ]
    _call([kind.compiler, *shim, PIECES / "adbd_shim.cpp", "-ldl"], deadline)
    loader = phone / "usr" / kind.loader
    if not loader.exists():
        loader.symlink_to(f"../lib/{kind.triplet}/{loader.name}")
    _furnish(phone)
    return phone


def _furnish(phone: Path) -> None:
    for toy in _TOYS:
        if not (phone / "usr/bin" / toy).exists():
            (phone / "usr/bin" / toy).symlink_to("toybox")
    (phone / "usr/bin/sh").symlink_to("mksh")
    commands = phone / "system/bin"
    commands.mkdir(parents=True)
    (commands / "sh").symlink_to("/usr/bin/mksh")
    for script in (PIECES / "bin").iterdir():
        shutil.copyfile(script, commands / script.name)
        (commands / script.name).chmod(0o755)
    phone.chmod(0o755)


def _download(arch: str, scratch: Path, deadline: float) -> list[Path]:
    apt, packages = scratch / "apt", scratch / "packages"
    for folder in (
        "state/lists/partial",
        "cache/archives/partial",
        "etc/preferences.d",
        "etc/sources.list.d",
    ):
        (apt / folder).mkdir(parents=True)
    packages.mkdir()
    (apt / "state/status").touch()
    (apt / "etc/sources.list").write_text(f"deb [signed-by={KEYRING}] {_mirror()} trixie main\n")
    settings = {
        "Dir::State": apt / "state",
        "Dir::State::status": apt / "state/status",
        "Dir::Cache": apt / "cache",
        "Dir::Etc": apt / "etc",
        "APT::Architecture": arch,
        "APT::Architectures": arch,
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
        "Acquire::http::Timeout": "20",
    }
    (apt / "apt.conf").write_text("".join(f'{key} "{value}";\n' for key, value in settings.items()))
    _call(["apt-get", "-qq", "update"], deadline, apt=apt)
    _call(["apt-get", "-qq", "download", *_PACKAGES], deadline, apt=apt, cwd=packages)
    return sorted(packages.glob("*.deb"))


def _mirror() -> str:
    """This machine's own Debian mirror, if it is a Debian that names one."""
    with contextlib.suppress(OSError):
        for line in Path("/etc/apt/sources.list.d/debian.sources").read_text().splitlines():
            if line.startswith("URIs:") and "security" not in line:
                return line.split()[1]
    return "http://deb.debian.org/debian"


def _authorise(adbd: Path, kind: Kind, target: Path) -> None:
    program = bytearray(adbd.read_bytes())
    digest, offset, old, new = (
        kind.authorise[0],
        kind.authorise[1],
        *map(bytes.fromhex, kind.authorise[2:]),
    )
    found = sha256(program).hexdigest()
    if not found.startswith(digest) or program[offset : offset + len(old)] != old:
        raise RigError(
            f"Debian's adbd has changed (SHA-256 {found[:8]}, expected {digest}); find"
            " `auth_required = false` anew"
        )
    program[offset : offset + len(new)] = new
    target.write_bytes(program)
    target.chmod(0o755)


def _call(
    argv: Sequence[str | Path],
    deadline: float,
    *,
    apt: Path | None = None,
    cwd: Path | None = None,
    pipe_to: Sequence[str | Path] = (),
) -> None:
    environment = (
        os.environ | {"LC_ALL": "C"} | ({"APT_CONFIG": str(apt / "apt.conf")} if apt else {})
    )
    try:
        done = subprocess.run(
            argv,
            capture_output=True,
            timeout=max(0.1, deadline - time.monotonic()),
            env=environment,
            cwd=cwd,
        )
        if pipe_to and done.returncode == 0:
            left_s = max(0.1, deadline - time.monotonic())
            done = subprocess.run(pipe_to, input=done.stdout, capture_output=True, timeout=left_s)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RigError(f"building a phone: {error}") from error
    if done.returncode != 0:
        tail = " ".join(done.stderr.decode("utf-8", "replace").split())[-500:]
        raise RigError(
            f"building a phone: {' '.join(map(str, argv))} failed ({done.returncode}): {tail}"
        )
