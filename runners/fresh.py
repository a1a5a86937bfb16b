"""hwbench on a bare machine: what README and the tutorial say, in a Debian that has nothing else.

python -m runners.fresh trixie

debootstrap makes a minimal Debian in build/fresh/SUITE. It gets what README asks for (Python, git,
make) and a clone of the last commit; then README's commands and all commands of the tutorial are
run in it, as root, in namespaces that end with this program. Where Debian's packages and Python's
come from, this computer's own settings of apt and pip say. Needs root, debootstrap, util-linux and
10 GB; nothing of hwbench, and no package of Python. What was downloaded is kept in
build/fresh/downloads for the next time, the Debian only after a failure.
"""

from __future__ import annotations

import argparse
import ast
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "fresh"
SUITES = {"bookworm": "3.11", "trixie": "3.13", "forky": "3.14"}
"""Debian's releases, and the Python that each comes with; forky is still being made."""
SCRIPT = "/usr/share/debootstrap/scripts/sid"
"""How debootstrap makes any of them; older versions of it have none of the newest's name."""
OFFICIAL = "http://deb.debian.org/debian"
REQUIRED = "python3 python3-venv git make"
"""What README asks for; Debian leaves `venv` out of its Python."""
HOSTS = Path("/host")
"""Where files of this computer lie in the Debian, as settings of pip name them."""
SETTINGS = ("http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR")
"""Variables that say how the network is reached; those of pip come on top."""
NAMESPACES = """
root=$1; shift
mount --make-rprivate /
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount --rbind /sys "$root/sys"
while [ "$1" != -- ]; do mount --bind "$1" "$root$2"; shift 2; done
shift
exec chroot "$root" "$@"
"""
"""Mounts of a namespace of its own, so that nothing of it is left when its processes are gone."""
LONGEST_S = 2 * 3600.0
"""A step that takes longer hangs."""
TAIL_LINES = 30


@dataclass
class Settings:
    """What the Debian takes over from this computer.

    Attributes:
        variables: Environment variables.
        folders: Folders of this computer that they name, and where they are in the Debian.
        files: Files of this computer that they name, and where they are in the Debian.
    """

    variables: dict[str, str] = field(default_factory=dict)
    folders: dict[Path, Path] = field(default_factory=dict)
    files: dict[Path, Path] = field(default_factory=dict)

    def add(self, name: str, value: str) -> None:
        """Take over a variable; what it names of this computer's files comes along."""
        self.variables[name] = " ".join(map(self._bring, value.split()))

    def _bring(self, word: str) -> str:
        scheme = "file://" if word.startswith("file://") else ""
        path = Path(word.removeprefix(scheme))
        if not path.is_absolute() or not path.exists():
            return word
        inside = HOSTS / path.relative_to("/")
        if path.is_file():
            self.files[path] = inside
        elif scheme:  # an index links to files beside it
            self.folders[path.parent] = inside.parent
        else:
            self.folders[path] = inside
        return f"{scheme}{inside}"


class StepError(Exception):
    """A step failed."""


def read_settings() -> Settings:
    """How this computer reaches the package indexes."""
    settings = Settings()
    for name, value in os.environ.items():
        if name.lower() in SETTINGS or name in SETTINGS:
            settings.add(name, value)
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    )
    for line in listed.stdout.splitlines():  # those of the environment come last, and win
        key, _, value = line.partition("=")
        name = key.rpartition(".")[2]
        settings.add(f"PIP_{name.upper().replace('-', '_')}", str(ast.literal_eval(value)))
    return settings


def find_mirror() -> str:
    """The mirror of Debian that this computer's apt uses, if it is a Debian."""
    found = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(ORIGIN) $(REPO_URI)"],
        capture_output=True,
        text=True,
        check=False,
    )
    for line in found.stdout.splitlines():
        origin, _, address = line.partition(" ")
        if origin == "Debian" and "security" not in address:
            return address
    return OFFICIAL


def find_network_settings() -> str:
    """What this computer's apt says of proxies and the like, as lines of a configuration."""
    found = subprocess.run(
        ["apt-config", "dump", "Acquire"], capture_output=True, text=True, check=False
    )
    return "".join(
        f"{line}\n" for line in found.stdout.splitlines() if line.startswith("Acquire::http")
    )


class Machine:
    """A bare Debian in a folder.

    Args:
        suite: Name of the release.
        mirror: Where its packages are.
    """

    def __init__(self, suite: str, mirror: str) -> None:
        self.suite, self.mirror = suite, mirror
        self.folder, self.log = BUILD / suite, BUILD / f"{suite}.log"
        self.settings = read_settings()
        downloads = BUILD / "downloads"
        downloads.mkdir(parents=True, exist_ok=True)
        self.settings.add("PIP_CACHE_DIR", str(downloads))
        self.log.write_text("")

    def make(self) -> None:
        """Make it, with a clone of the last commit."""
        if f" {self.folder}/" in Path("/proc/self/mounts").read_text():
            raise StepError(f"something is mounted in {self.folder}; unmount it first")
        if self.folder.exists():
            shutil.rmtree(self.folder)
        base = ["debootstrap", "--variant=minbase", self.suite, str(self.folder), self.mirror]
        self.step("a bare Debian", [*base, SCRIPT])
        (self.folder / "etc/apt/apt.conf.d/90host").write_text(find_network_settings())
        for path, inside in self.settings.files.items():
            there = self.folder / inside.relative_to("/")
            there.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, there)
        for inside in self.settings.folders.values():
            (self.folder / inside.relative_to("/")).mkdir(parents=True, exist_ok=True)
        clone = ["git", "clone", "-q", "--no-hardlinks", str(ROOT)]
        self.step("a clone of the last commit", [*clone, str(self.folder / "root/hwbench")])

    def run(self, title: str, command: str) -> None:
        """Run a command in it, as root, in the clone.

        Raises:
            StepError: It fails.
        """
        mounts: list[str] = []
        for path, inside in self.settings.folders.items():
            mounts += [str(path), str(inside)]
        namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec"]
        variables = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
            "LANG": "C.UTF-8",
            **self.settings.variables,
        }
        environment = ["env", "-i", *(f"{name}={value}" for name, value in variables.items())]
        shell = ["sh", "-ec", f"cd /root/hwbench\n{command}"]
        here = [*namespaces, NAMESPACES, "sh", str(self.folder), *mounts, "--"]
        self.step(title, [*here, *environment, *shell])

    def step(self, title: str, command: list[str]) -> None:
        """Run a command of this computer; what it prints goes to the log.

        Raises:
            StepError: It fails.
        """
        print(f"{self.suite}: {title} ...", flush=True)
        begun = time.monotonic()
        with self.log.open("a") as log:
            log.write(f"\n--- {title}\n")
            log.flush()
            try:
                done = subprocess.run(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    timeout=LONGEST_S,
                    check=False,
                )
                ending = f"exit code {done.returncode}"
            except subprocess.TimeoutExpired:
                ending = f"not over within {LONGEST_S:.0f} s"
        if ending != "exit code 0":
            lines = self.log.read_text(errors="replace").splitlines()[-TAIL_LINES:]
            raise StepError("\n".join([*lines, f"{self.suite}: {title}: {ending}"]))
        print(f"{self.suite}: {title}: {time.monotonic() - begun:.0f} s", flush=True)


def check(machine: Machine, tests: str) -> None:
    """Make a machine and do with it what a stranger would.

    Raises:
        StepError: Something of it fails.
    """
    machine.make()
    install = f"apt-get -qq update; apt-get -qq install -y --no-install-recommends {REQUIRED}"
    machine.run("what README asks for", f"export DEBIAN_FRONTEND=noninteractive; {install}")
    version = SUITES[machine.suite]
    machine.run(f"Python {version}", f"python3 --version | grep -F 'Python {version}.'")
    machine.run("make demo", "make demo")
    # Libraries of Python that wrap one of the system's are installed here without it.
    machine.run("without libusb", "! ldconfig -p | grep -q libusb-1.0")
    tutorial = ".venv/bin/python -m pytest -q tests/docs/test_tutorial.py"
    machine.run("every command of the tutorial", tutorial)
    log = "hwbench/lookup_tables/data/pixel1/mobilenet_run1.txt"
    model = "--model zoo:mobilenet_v1,classes=1001 --name phone"
    machine.run("a table of a log", f".venv/bin/hwbench table import tflite-log {log} {model}")
    machine.run(f"make {tests}", f"make {tests}")


def main() -> int:
    """Check one release; 0 if all works."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("--tests", choices=("test", "quick"), default="test")
    parser.add_argument("--mirror", help=f"of Debian; that of this computer, or {OFFICIAL}")
    arguments = parser.parse_args()
    for program in ("debootstrap", "unshare", "git"):
        if shutil.which(program) is None:
            print(f"{program} is missing: apt install debootstrap util-linux git", file=sys.stderr)
            return 2
    if os.geteuid() != 0:
        print("only root can make a Debian and enter it: sudo make fresh", file=sys.stderr)
        return 2
    changed = subprocess.run(
        ["git", "-C", str(ROOT), "status", "--porcelain", "-uno"],
        capture_output=True,
        check=False,
    ).stdout
    if changed:
        print("changes that are not committed are left out", flush=True)
    # The step at hand ends with this program: `subprocess.run` ends what it waits for.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _frame: sys.exit(128 + number))
    machine = Machine(arguments.suite, arguments.mirror or find_mirror())
    try:
        check(machine, arguments.tests)
    except StepError as error:
        print(f"{error}\nall of it: {machine.log}; the machine: {machine.folder}", file=sys.stderr)
        return 1
    with suppress(OSError):
        shutil.rmtree(machine.folder)
    print(f"{arguments.suite}: hwbench works on a bare machine with Python {SUITES[machine.suite]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
