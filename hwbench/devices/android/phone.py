"""A phone or board as an instrument: its runtime, its models, its settings and its state, through one connection.

Everything of hwbench's lies in one folder there: `bundle/` (the runner and its runtime), `models/`
(by SHA-256, bounded), `run/` (of this connection) and `restore/` (what settings were before they
were changed, written down before the change, so that whoever connects next restores them after a
kill).
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Self
from uuid import uuid4

from hwbench.devices.android import phone_facts as facts
from hwbench.devices.android.adb.client import Adb, connect
from hwbench.devices.android.bundle import Bundle, build_bundle, last_ndk_bundle, self_test
from hwbench.devices.shared.address import choice, read_address
from hwbench.devices.shared.lock import DeviceLock
from hwbench.devices.shared.runner.process import RunnerProcess
from hwbench.errors import DeviceLostError, DeviceUnavailableError, HwbenchError
from hwbench.network.workload import Workload

HOME = PurePosixPath("/data/local/tmp/hwbench")
"""The one place on a phone from which the shell may execute files.

Made on other Linux systems too.
"""
MODELS_BYTES = 1 << 30
"""Most that models take there, but for the one in use."""
PUSH_S = 600.0
"""Seconds that the largest file of a bundle, 23 MB, may take: enough for 40 kB/s."""
OPTIONS = {
    "cluster": choice("big", "middle", "little", "all"),
    "mode": choice("burst", "sustained"),
    "build": choice("linux", "android"),
}
_log = logging.getLogger(__name__)

_FOLDERS = """
home=$1
give_back() {
  for note in "$home"/restore/*; do
    [ -f "$note" ] || continue
    read -r old <"$note"
    case ${note##*/} in
      stay_on_while_plugged_in)
        if [ "$old" = null ]; then settings delete global stay_on_while_plugged_in
        else settings put global stay_on_while_plugged_in "$old"; fi ;;
      fixed_performance) cmd power set-fixed-performance-mode-enabled "$old" ;;
    esac >/dev/null 2>&1 && rm -f "$note"
  done
}
"""
_BEGIN = (
    facts.PART
    + _FOLDERS
    + """
mkdir -p "$home/bundle" "$home/models" "$home/restore" || exit
give_back
rm -rf "$home/run"; mkdir -p "$home/run/$2" || exit
note() { echo "$2" >"$home/restore/.$1" && mv -f "$home/restore/.$1" "$home/restore/$1"; }
case $(settings get global stay_on_while_plugged_in 2>/dev/null) in
  0) note stay_on_while_plugged_in 0 && settings put global stay_on_while_plugged_in 7 ;;
  null) note stay_on_while_plugged_in null && settings put global stay_on_while_plugged_in 7 ;;
esac
if [ "$3" = sustained ]; then
  note fixed_performance false
  cmd power set-fixed-performance-mode-enabled true 2>&1 || { why=$?; give_back; exit $why; }
fi
part cpus; cd /sys/devices/system/cpu && show cpu[0-9]*/cpufreq/scaling_max_freq
exit 0
"""
)
"""Folders, old settings back, then new ones: $1 hwbench's folder, $2 the connection's token, $3 the mode. Prints the caps."""
_END = _FOLDERS + '\ngive_back\nrm -rf "$home/run"\n'
_ERASE = (
    _FOLDERS
    + '\ngive_back\nfor note in "$home"/restore/*; do [ ! -f "$note" ] || { echo "$note"; exit 1;'
    ' }; done\nrm -rf "$home"\n'
)
_MAKE_ROOM = (
    'cd "$1/bundle" && for old in *; do [ "$old" = "$2" ] || rm -rf "$old"; done; mkdir -p "$2"'
)


@dataclass(frozen=True, slots=True)
class Address:
    """What follows `android:`: `[SERIAL|HOST:PORT][,cluster=NAME][,mode=NAME][,build=NAME]`.

    Attributes:
        place: Serial, HOST:PORT, or empty if there is only one phone.
        cluster: The CPUs to measure on: `big`, `middle`, `little` or `all`.
        mode: `burst`, as the phone is, or `sustained`: in Android's fixed performance mode, at
            clocks it can hold.
        build: `linux`, ONNX Runtime's own build for Linux, or `android`, the one set up from an
            AAR.
    """

    place: str = ""
    cluster: str = "big"
    mode: str = "burst"
    build: str = "linux"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an address.

        Raises:
            UsageError: An option is unknown, or has no such value.
        """
        place, options = read_address("android", text, OPTIONS)
        return cls(place, **options)


class Phone:
    """An opened phone: locked for others, its settings as a measurement needs them, its runtime in place.

    Args:
        address: Which, and which part of it.

    Raises:
        UsageError: Several phones and none is named, or it has no such cluster.
        DeviceUnavailableError: There is none, it is not ready, in use, or its system does not run
            the bundle.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self.adb: Adb = connect(address.place)
        self._lock: DeviceLock | None = None
        self._began = False
        try:
            self.identity = facts.identity(self.adb.script(facts.IDENTITY, str(HOME)).stdout)
            self.cluster = self.identity.cluster(address.cluster)
            lock = DeviceLock(f"android:{self.identity.serial or self.adb.serial}")
            lock.acquire()
            self._lock = lock
            self.bundle = self._find_bundle()
            self._begin()
            self._install()
        except BaseException:
            self.close()
            raise
        self._models = {
            PurePosixPath(name): size
            for name, size in self.identity.files.items()
            if name.startswith("models/")
        }

    @property
    def folder(self) -> PurePosixPath:
        """For files in passing; removed at the end."""
        return HOME / "run" / self._token

    def close(self) -> None:
        """Restore what was changed, remove what is in passing, hang up.

        What fails is done at the next connection.
        """
        if self._began:
            self._began = False
            with suppress(HwbenchError):
                self.adb.script(_END, str(HOME), timeout_s=10.0)
        self.adb.close()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def state(self) -> facts.State:
        """How it is now; one round trip."""
        return facts.state(self.adb.script(facts.STATE).stdout)

    def runner(self) -> RunnerProcess:
        """A new process of the runner, its library open; it ends with its stream.

        Raises:
            DeviceUnavailableError: It does not run there; with the cause.
        """
        home = str(self._home_of(self.bundle))
        try:
            runner = RunnerProcess(
                self.adb.start(self.bundle.loader, env=self.bundle.env, cwd=home)
            )
            runner.library(self.bundle.library)
        except DeviceLostError:
            self._test()  # says why, if the bundle is to blame
            raise
        return runner

    def place(self, runner: RunnerProcess, workload: Workload) -> PurePosixPath:
        """Where a model file lies on the phone; sent through the runner if it was not there."""
        name = PurePosixPath("models") / f"{workload.sha256}.onnx"
        size = len(workload.onnx)
        if self._models.get(name) != size:
            self._models.pop(name, None)
            while self._models and sum(self._models.values()) + size > MODELS_BYTES:
                oldest = next(iter(self._models))
                runner.delete(HOME / oldest)
                del self._models[oldest]
            runner.put(workload.onnx, HOME / name)
        self._models[name] = self._models.pop(name, size)  # used last
        return HOME / name

    def _find_bundle(self) -> Bundle:
        if self.address.build == "linux":
            return build_bundle(self.identity.machine, progress=_log.info)
        bundle = last_ndk_bundle()
        if bundle is None:
            raise DeviceUnavailableError(
                "build=android needs Android's own build of ONNX Runtime: hwbench devices setup"
                " android --aar FILE --ndk FOLDER"
            )
        return bundle

    def _begin(self) -> None:
        self._token = uuid4().hex
        self._began = True
        done = self.adb.script(_BEGIN, str(HOME), self._token, self.address.mode, check=False)
        if done.code:
            said = " ".join((done.stdout + done.stderr).decode("utf-8", "replace").split())[-300:]
            raise DeviceUnavailableError(
                f"{self.adb.serial} cannot be made ready in {HOME} (mode {self.address.mode}):"
                f" {said or done.code}; measure with mode=burst, or make the folder writable for"
                " the shell"
            )
        self.caps_hz = facts.caps_hz(done.stdout)

    def _install(self) -> None:
        """Put the bundle there, but for what is there already, and see it run once."""
        bundle, home = self.bundle, self._home_of(self.bundle)
        there = self.identity.files
        missing = [
            file
            for file in bundle.files
            if there.get(f"bundle/{bundle.digest}/{file.name}") != file.bytes
        ]
        if not missing and f"bundle/{bundle.digest}/tested" in there:
            return
        _log.info(
            "putting %s on %s (%.0f MB)",
            bundle.runtime,
            self.adb.serial,
            sum(file.bytes for file in missing) / 1e6,
        )
        self.adb.script(_MAKE_ROOM, str(HOME), bundle.digest)
        for file in missing:
            self.adb.push(
                bundle.folder / file.name, str(home / file.name), mode=file.mode, timeout_s=PUSH_S
            )
        self._test()
        self.adb.script('echo tested >"$1"', str(home / "tested"))

    def _test(self) -> None:
        home = str(self._home_of(self.bundle))
        self_test(
            self.bundle,
            lambda argv, env, stdin: self.adb.run(
                argv, env=env, cwd=home, stdin=stdin, timeout_s=120.0, check=False
            ),
        )

    @staticmethod
    def _home_of(bundle: Bundle) -> PurePosixPath:
        return HOME / "bundle" / bundle.digest


def erase(address: Address) -> None:
    """Restore a phone's settings and remove everything that hwbench ever put there.

    Raises:
        DeviceUnavailableError: It is in use by another process.
        DeviceCommandError: A setting cannot be restored; nothing is removed then, so that it can be
            tried again.
    """
    with connect(address.place) as adb:
        identity = facts.identity(adb.script(facts.IDENTITY, str(HOME)).stdout)
        with DeviceLock(f"android:{identity.serial or adb.serial}"):
            adb.script(_ERASE, str(HOME), timeout_s=60.0)
