"""A phone or board as an instrument: its runtime, models, settings and state, in one connection.

Everything of hwbench's lies in one folder there: `bundle/` (the runner and its runtime), `models/`
(by SHA-256, of bounded size), `run/` (of this connection) and `restore/` (the former values of
settings, written down before they are changed, so that whoever connects next restores them after a
kill).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Self
from uuid import uuid4

from hwbench.devices.android import phone_facts as facts
from hwbench.devices.android.adb.client import Adb, connect
from hwbench.devices.android.bundle import Bundle, build_bundle, last_ndk_bundle, self_test
from hwbench.devices.android.bundle_runtimes import LITERT, ORT, RUNTIMES, Runtime
from hwbench.devices.shared.address import choice, read_address
from hwbench.devices.shared.litert.library import DELEGATE, KERNELS
from hwbench.devices.shared.lock import DeviceLock
from hwbench.devices.shared.runner.process import RunnerProcess
from hwbench.errors import (
    Argument,
    DeviceLostError,
    DeviceUnavailableError,
    HwbenchError,
    UsageError,
)
from hwbench.network.workload import Workload
from hwbench.records.device import DeviceInfo

HOME = PurePosixPath("/data/local/tmp/hwbench")
"""Hwbench's folder, in the one place on a phone from which the shell may execute files.

It is made on other Linux systems too.
"""
MODELS_BYTES = 1 << 30
"""Most bytes that models take there, but for the one in use."""
PUSH_S = 600.0
"""Seconds that sending the largest file of a bundle, 23 MB, may take: enough for 40 kB/s."""
OPTIONS = {
    "cluster": choice("big", "middle", "little", "all"),
    "mode": choice("burst", "sustained"),
    "build": choice("linux", "android"),
    "runtime": choice(*RUNTIMES),
    "kernels": KERNELS,
}
_log = logging.getLogger(__name__)

_RESTORE_SCRIPT = """
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
_BEGIN_SCRIPT = (
    facts.PART_SCRIPT
    + _RESTORE_SCRIPT
    + """
mkdir -p "$home/bundle" "$home/models" "$home/restore" || exit
if [ "$4" = alone ]; then
  give_back
  rm -rf "$home/run"
else
  mode=burst; [ ! -f "$home/restore/fixed_performance" ] || mode=sustained
  [ "$3" = "$mode" ] || { echo "it is measured in mode=$mode at the same time"; exit 1; }
fi
mkdir -p "$home/run/$2" || exit
note() { echo "$2" >"$home/restore/.$1" && mv -f "$home/restore/.$1" "$home/restore/$1"; }
case $(settings get global stay_on_while_plugged_in 2>/dev/null) in
  0) note stay_on_while_plugged_in 0 && settings put global stay_on_while_plugged_in 7 ;;
  null) note stay_on_while_plugged_in null && settings put global stay_on_while_plugged_in 7 ;;
esac
if [ "$3" = sustained ] && [ "$4" = alone ]; then
  note fixed_performance false
  cmd power set-fixed-performance-mode-enabled true 2>&1 || { why=$?; give_back; exit $why; }
fi
part cpus; cd /sys/devices/system/cpu && show cpu[0-9]*/cpufreq/scaling_max_freq
exit 0
"""
)
"""Makes the folders, restores old settings, then makes new ones, and prints the caps of clocks.

$1 is hwbench's folder, $2 the token of the connection, $3 the mode, $4 `alone`, or `beside` another
connection of the same process, to which settings and other files belong.
"""
_END_SCRIPT = (
    _RESTORE_SCRIPT
    + """
if [ "$3" = beside ]; then rm -rf "$home/run/$2"; exit; fi
give_back
rm -rf "$home/run"
"""
)
_ERASE_SCRIPT = (
    _RESTORE_SCRIPT
    + '\ngive_back\nfor note in "$home"/restore/*; do [ ! -f "$note" ] || { echo "$note"; exit 1;'
    ' }; done\nrm -rf "$home"\n'
)
_MAKE_ROOM_SCRIPT = (
    'cd "$1/bundle" && for old in "$3"-*; do [ "$old" = "$2" ] || rm -rf -- "$old"; done; mkdir -p'
    ' "$2"'
)
"""Removes the other bundles of a kind ($3); those of other runtimes stay."""


@dataclass(frozen=True, slots=True)
class PhoneAddress:
    """What follows `android:`: `[SERIAL|HOST:PORT][,OPTION=VALUE]...`.

    Attributes:
        place: The serial, HOST:PORT, or empty if there is only one phone.
        cluster: The CPUs to measure on: `big`, `middle`, `little` or `all`.
        mode: `burst`, as the phone is, or `sustained`: in Android's fixed performance mode, at
            clocks it can hold.
        build: `linux`, the runtime's own build for Linux, or `android`, the one set up from an AAR.
        runtime: `onnxruntime` or `litert`.
        kernels: What LiteRT runs networks with: `delegate`, XNNPACK's kernels where it has any, or
            `builtin`, TensorFlow Lite's own alone.
    """

    place: str = ""
    cluster: str = "big"
    mode: str = "burst"
    build: str = "linux"
    runtime: str = ORT.name
    kernels: str = DELEGATE

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an address.

        Raises:
            UsageError: An option is unknown, has no such value, or is another runtime's.
        """
        place, options = read_address("android", text, OPTIONS)
        if "kernels" in options and options.get("runtime") != LITERT.name:
            raise UsageError(
                f"kernels={options['kernels']} in 'android:{text}' chooses between kernels of"
                " LiteRT; add runtime=litert"
            )
        return cls(place, **options)


class Phone:
    """An opened phone.

    It is locked for others, its settings are as a measurement needs them, and its runtime is in
    place.

    Args:
        address: The phone, and the part of it to measure on.
        locked: Targets that other devices of this measurement have locked. If the phone is among
            them, it is shared: its settings stay as the other one made them.

    Attributes:
        address: The phone, and the part of it to measure on.
        target: The name that the phone is locked by.
        adb: The connection.
        identity: What the phone is.
        cluster: The CPUs to measure on.
        bundle: The runner and runtime on it.
        caps_hz: The highest frequency that each CPU might run at when the phone was opened.

    Raises:
        UsageError: Several phones are in sight and none is named, or it has no such cluster.
        DeviceUnavailableError: There is no phone, it is not ready or in use, or its system does not
            run the bundle.
    """

    def __init__(self, address: PhoneAddress, locked: Collection[str] = ()) -> None:
        self.address = address
        self.adb: Adb = connect(address.place)
        self._lock: DeviceLock | None = None
        self._began = False
        try:
            self.identity = facts.parse_identity(
                self.adb.script(facts.IDENTITY_SCRIPT, str(HOME)).stdout
            )
            self.cluster = self.identity.cluster(address.cluster)
            self.target = f"android:{self.identity.serial or self.adb.serial}"
            self._sharing = "beside" if self.target in locked else "alone"
            if self.target not in locked:
                lock = DeviceLock(self.target)
                lock.acquire()
                self._lock = lock
            self.bundle = self._find_bundle()
            self._begin()
            self._install_bundle()
        except BaseException:
            self.close()
            raise
        # The sizes of the models on the phone, in the order of their last use.
        self._models: dict[PurePosixPath, int] = {}
        for name, size in self.identity.files.items():
            if name.startswith("models/"):
                self._models[PurePosixPath(name)] = size

    @property
    def folder(self) -> PurePosixPath:
        """The folder for temporary files, which is removed at the end."""
        return HOME / "run" / self._token

    def close(self) -> None:
        """Restore settings, remove temporary files, and hang up.

        What fails is done at the next connection.
        """
        if self._began:
            self._began = False
            with suppress(HwbenchError):
                self.adb.script(_END_SCRIPT, str(HOME), self._token, self._sharing, timeout_s=10.0)
        self.adb.close()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def describe(self, name: str, runtime: str, details: Mapping[str, str]) -> DeviceInfo:
        """Make the record of the phone and of the part of it that is measured on.

        Args:
            name: The address that the user gave, with the driver's name.
            runtime: The runtime and its version.
            details: What the driver adds to the facts of the phone.
        """
        identity, cluster = self.identity, self.cluster
        cpus = " ".join(map(str, cluster.cpus))
        facts_of_phone = {
            "serial": identity.serial or self.adb.serial,
            "android": identity.android,
            "build": identity.build,
            "kernel": identity.kernel,
            "cores": identity.cores,
            "cluster": f"{cluster.name} ({cpus})",
            "mode": self.address.mode,
            "isa": identity.features,
        }
        target = (identity.model, identity.soc, f"{cluster.name} cluster")
        target_id = (
            identity.model,
            identity.soc,
            identity.machine,
            identity.cores,
            f"{cluster.name} {cpus}",
            self.address.mode,
        )
        all_details = {**facts_of_phone, **details}
        return DeviceInfo(
            address=name,
            target=", ".join(filter(None, target)),
            target_id="|".join(target_id),
            runtime=runtime,
            details=tuple((name, value) for name, value in all_details.items() if value),
        )

    def choose_cores(self, threads: int) -> tuple[int, ...]:
        """Choose the CPUs that so many threads run on: the fastest of the cluster.

        Raises:
            UsageError: The cluster has fewer.
        """
        cpus = self.cluster.cpus
        if not 1 <= threads <= len(cpus):
            others = ", ".join(
                f"{cluster.name} {len(cluster.cpus)}" for cluster in self.identity.clusters.values()
            )
            raise UsageError(
                f"{threads} threads are wanted where the {self.cluster.name} cluster has"
                f" {len(cpus)} cores online ({others}); name another cluster"
                f" (android:{self.adb.serial},cluster=NAME)",
                Argument("threads", len(cpus)),
            )
        return cpus[-threads:]

    def read_state(self) -> facts.PhoneState:
        """Read how the phone is now, in one round trip."""
        return facts.parse_state(self.adb.script(facts.STATE_SCRIPT).stdout)

    def start_runner(self) -> RunnerProcess:
        """Start a process of the runner and open its library; it ends with its stream.

        Raises:
            DeviceUnavailableError: The runner does not run there; the message has the cause.
        """
        home = str(self._bundle_folder)
        try:
            runner = RunnerProcess(
                self.adb.start(self.bundle.loader, env=self.bundle.env, cwd=home)
            )
            runner.library(self.bundle.library)
        except DeviceLostError:
            self._test_bundle()  # says why, if the bundle is to blame
            raise
        return runner

    def send_model(self, runner: RunnerProcess, workload: Workload) -> PurePosixPath:
        """Send a model through the runner, unless it is on the phone already.

        Args:
            runner: A running runner.
            workload: The model.

        Returns:
            The path of the model on the phone.
        """
        return self._send_file(
            f"{workload.sha256}.{workload.format}", workload.artifact, runner.put, runner.delete
        )

    def _send_file(
        self,
        file: str,
        data: bytes,
        put: Callable[[bytes, PurePosixPath], None],
        delete: Callable[[PurePosixPath], None],
    ) -> PurePosixPath:
        """Send the file of a model, unless it is on the phone already.

        Models used longest ago are removed to make room.

        Args:
            file: The name of the file, by which it is known again.
            data: Its contents.
            put: Writes a file on the phone.
            delete: Removes one there.

        Returns:
            The path of the model on the phone.
        """
        name, size = PurePosixPath("models") / file, len(data)
        if self._models.get(name) != size:
            self._models.pop(name, None)
            while self._models and sum(self._models.values()) + size > MODELS_BYTES:
                oldest = next(iter(self._models))
                delete(HOME / oldest)
                del self._models[oldest]
            put(data, HOME / name)
        self._models[name] = self._models.pop(name, size)  # moves it to the end: used last
        return HOME / name

    def _find_bundle(self) -> Bundle:
        runtime: Runtime = RUNTIMES[self.address.runtime]
        if self.address.build == "linux":
            return build_bundle(self.identity.machine, runtime, progress=_log.info)
        bundle = last_ndk_bundle(runtime)
        if bundle is None:
            raise DeviceUnavailableError(
                f"build=android needs Android's own build of {runtime.title}, which was not set up",
                runtime.android_build,
            )
        return bundle

    def _begin(self) -> None:
        """Make the folders, and make settings what a measurement needs."""
        self._token = uuid4().hex
        self._began = True
        completed = self.adb.script(
            _BEGIN_SCRIPT,
            str(HOME),
            self._token,
            self.address.mode,
            self._sharing,
            check=False,
        )
        if completed.code:
            output = (completed.stdout + completed.stderr).decode("utf-8", "replace")
            reason = " ".join(output.split())[-300:] or completed.code
            raise DeviceUnavailableError(
                f"{self.adb.serial} cannot be made ready in {HOME} (mode {self.address.mode}):"
                f" {reason}; measure with mode=burst (on both sides of a comparison), or make the"
                " folder writable for the shell"
            )
        self.caps_hz = facts.parse_caps_hz(completed.stdout)

    def _install_bundle(self) -> None:
        """Put the bundle on the phone, but for what is there already, and see it run once.

        The file `tested` is written last: where it lies, all files were sent and the bundle ran.
        """
        bundle, folder = self.bundle, self._bundle_folder
        sizes = self.identity.files
        prefix = f"bundle/{bundle.name}"
        missing = [
            file for file in bundle.files if sizes.get(f"{prefix}/{file.name}") != file.bytes
        ]
        if not missing and f"{prefix}/tested" in sizes:
            return
        _log.info(
            "putting %s on %s (%.0f MB)",
            bundle.runtime,
            self.adb.serial,
            sum(file.bytes for file in missing) / 1e6,
        )
        self._make_room()
        for file in missing:
            remote = str(folder / file.name)
            self.adb.push(bundle.folder / file.name, remote, mode=file.mode, timeout_s=PUSH_S)
        self._test_bundle()
        self.adb.script('echo tested >"$1"', str(folder / "tested"))

    def _make_room(self) -> None:
        """Make the folder of the bundle, and remove the former one unless it may be in use."""
        kind = self.bundle.kind if self._sharing == "alone" else ""
        self.adb.script(_MAKE_ROOM_SCRIPT, str(HOME), self.bundle.name, kind)

    def _test_bundle(self) -> None:
        home = str(self._bundle_folder)
        self_test(
            self.bundle,
            lambda argv, env, stdin: self.adb.run(
                argv, env=env, cwd=home, stdin=stdin, timeout_s=120.0, check=False
            ),
        )

    @property
    def _bundle_folder(self) -> PurePosixPath:
        return HOME / "bundle" / self.bundle.name


def erase(address: PhoneAddress) -> None:
    """Restore a phone's settings and remove everything that hwbench ever put there.

    Args:
        address: The phone.

    Raises:
        DeviceUnavailableError: The phone is in use by another process.
        DeviceCommandError: A setting cannot be restored; nothing is removed then, so that it can be
            tried again.
    """
    with connect(address.place) as adb:
        identity = facts.parse_identity(adb.script(facts.IDENTITY_SCRIPT, str(HOME)).stdout)
        with DeviceLock(f"android:{identity.serial or adb.serial}"):
            adb.script(_ERASE_SCRIPT, str(HOME), timeout_s=60.0)
