"""The adb connection as its users see it, against the Python adbd."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from hwbench.devices.android.adb.client import Adb, connect
from hwbench.devices.shared.runner.process import RunnerProcess, build_runner
from hwbench.errors import (
    DeviceCommandError,
    DeviceLostError,
    DeviceTimeoutError,
    DeviceUnavailableError,
    OutputParseError,
    UsageError,
)
from tests.devices.android.pyadbd import PyAdbd
from tests.devices.android.pyadbd_support import soon


def test_a_command_has_its_output_its_errors_and_its_status_apart(adb: Adb) -> None:
    done = adb.run(["sh", "-c", "echo out; echo err >&2; exit 7"], check=False)
    assert (done.code, done.stdout, done.stderr) == (7, b"out\n", b"err\n")
    assert adb.run(["sh", "-c", "kill -9 $$"], check=False).code == 128 + 9


def test_a_command_gets_input_environment_and_folder(adb: Adb, tmp_path: Path) -> None:
    stdin = os.urandom(3 << 20)
    assert adb.run(["cat"], stdin=stdin).stdout == stdin
    folder = tmp_path / "it's a folder"
    folder.mkdir()
    done = adb.run(["sh", "-c", 'pwd; echo "$A"'], env={"A": "two words; $HOME"}, cwd=str(folder))
    assert done.text == f"{folder}\ntwo words; $HOME\n"


def test_input_that_nobody_reads_does_not_stop_a_command(adb: Adb) -> None:
    assert adb.run(["echo", "done"], stdin=bytes(3 << 20)).text == "done\n"


def test_a_failure_carries_the_command_its_status_and_its_last_words(adb: Adb) -> None:
    with pytest.raises(
        DeviceCommandError, match=r"sh on 127.* failed with status 3: no such thing"
    ) as caught:
        adb.run(["sh", "-c", "echo no such thing >&2; exit 3"])
    assert caught.value.argv[0] == "sh"
    assert (caught.value.code, caught.value.output_tail) == (3, "no such thing\n")


def test_arguments_reach_a_script_as_they_are(adb: Adb, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    hostile = f"'; touch {mark}; $(touch {mark}) `touch {mark}`\n"
    assert adb.script('printf %s "$2$1"', hostile, "-n ").text == f"-n {hostile}"
    assert not mark.exists()


def test_a_command_that_takes_too_long_is_ended(adb: Adb, adbd: PyAdbd) -> None:
    started = time.monotonic()
    with pytest.raises(DeviceTimeoutError):
        adb.run(["sleep", "60"], timeout_s=0.3)
    assert time.monotonic() - started < 30, "it was waited for"
    assert soon(lambda: not adbd.running())
    assert adb.run(["echo", "next"]).text == "next\n"


def test_output_without_end_is_not_kept(adb: Adb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hwbench.devices.android.adb.shell.MAX_OUTPUT_BYTES", 1 << 20)
    with pytest.raises(OutputParseError, match="printed more than"):
        adb.run(["cat", "/dev/zero"])


def test_a_conversation(adb: Adb, adbd: PyAdbd) -> None:
    process = adb.start(
        ["sh", "-c", 'while read line; do echo "got $line"; done; echo bye >&2; exit 5']
    )
    for word in (b"one", b"two"):
        process.send(word + b"\n", 1)
        assert process.receive(2) == b"got " + word + b"\n"
    assert adb.run(["echo", "beside it"]).text == "beside it\n"
    with pytest.raises(DeviceTimeoutError):
        process.receive(0.1)
    assert process.close(2.0) == process.close() == "exit status 5; bye"


def test_closing_a_conversation_ends_a_program_that_would_not(adb: Adb, adbd: PyAdbd) -> None:
    process = adb.start(["sleep", "60"])
    assert soon(adbd.running)
    assert process.close(0.1) == "ended by force; no message"
    assert soon(lambda: not adbd.running())


def test_hanging_up_ends_what_runs(adb: Adb, adbd: PyAdbd) -> None:
    process = adb.start(["sleep", "60"])
    assert soon(adbd.running)
    adb.close()
    assert soon(lambda: not adbd.running())
    with pytest.raises(DeviceLostError):
        process.receive(1)
    assert "closed" in process.close(1.0)


def test_the_native_runner_talks_over_it(adb: Adb) -> None:
    with RunnerProcess(adb.start([str(build_runner())])) as runner:
        assert runner.memory() > 0
        runner.configure(threads=1)


def test_much_output_of_one_stream_waits_while_another_is_read(adb: Adb) -> None:
    flood = adb.start(["sh", "-c", "head -c 50000000 /dev/zero; echo end"])
    assert adb.run(["echo", "beside"]).text == "beside\n"
    received = 0
    while data := flood.receive(5):
        received += len(data)
    assert received == 50_000_004
    assert flood.close() == "exit status 0; no message"


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 3_000_001])
def test_push_and_pull_of_all_sizes(adb: Adb, tmp_path: Path, size: int) -> None:
    data, file, remote = os.urandom(size), tmp_path / "local", str(tmp_path / "new folder/remote")
    file.write_bytes(data)
    seen: list[tuple[int, int]] = []
    adb.push(file, remote, mode=0o755, progress=lambda sent, total: seen.append((sent, total)))
    assert Path(remote).read_bytes() == adb.pull(remote, limit_bytes=size) == data
    found = adb.stat(remote)
    assert found is not None
    assert (found.size_bytes, found.mode) == (size, 0o100755)
    assert abs(found.modified_s - time.time()) < 60
    assert not size or seen[-1] == (size, size)
    assert [path.name for path in Path(remote).parent.iterdir()] == ["remote"]


def test_push_replaces_a_file_only_by_a_whole_one(adb: Adb, tmp_path: Path) -> None:
    remote = tmp_path / "remote"
    adb.push(b"old", str(remote))
    with pytest.raises(UsageError, match="cannot read"):
        adb.push(tmp_path / "missing", str(remote))
    assert remote.read_bytes() == b"old"
    adb.push(b"new", str(remote))
    assert remote.read_bytes() == b"new"


def test_what_is_not_there(adb: Adb, tmp_path: Path) -> None:
    assert adb.stat(str(tmp_path / "nothing")) is None
    assert adb.stat("/etc/passwd/nothing") is None
    with pytest.raises(DeviceCommandError, match="No such file"):
        adb.pull(str(tmp_path / "nothing"), limit_bytes=1)


def test_a_file_larger_than_expected_is_not_taken(adb: Adb, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(100_001))
    with pytest.raises(OutputParseError, match="larger than the 100000 bytes"):
        adb.pull(str(tmp_path / "large"), limit_bytes=100_000)


@pytest.mark.parametrize("remote", ["relative", "/a\0b", f"/{'x' * 2000}"])
def test_paths_that_no_phone_takes(adb: Adb, remote: str) -> None:
    for action in (
        lambda: adb.stat(remote),
        lambda: adb.pull(remote, limit_bytes=1),
        lambda: adb.push(b"", remote),
    ):
        with pytest.raises(UsageError, match="is no path on a phone"):
            action()


def test_every_service_counts_as_a_trip(adb: Adb, adbd: PyAdbd, tmp_path: Path) -> None:
    adb.run(["true"])
    adb.push(b"x", str(tmp_path / "x"))
    adb.stat(str(tmp_path / "x"))
    assert adb.trips == len(adbd.opened) == 4


def test_a_phone_older_than_android_7_is_refused(alone: None) -> None:
    with (
        PyAdbd(features="cmd,stat_v2") as old,
        pytest.raises(DeviceUnavailableError, match="Android 7 or later"),
    ):
        connect(old.address)


def test_a_phone_without_the_newer_stat(alone: None, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"123")
    with PyAdbd(features="shell_v2") as old, connect(old.address) as adb:
        found = adb.stat(str(tmp_path / "file"))
        assert found is not None
        assert found.size_bytes == 3
        assert adb.stat(str(tmp_path / "nothing")) is None


def test_a_phone_that_went_away_and_came_back(adb: Adb, adbd: PyAdbd) -> None:
    process = adb.start(["sleep", "60"])
    adbd.stop()
    with pytest.raises(DeviceLostError):
        process.receive(5)
    with pytest.raises(DeviceLostError):
        adb.run(["true"])
    adbd.start()
    assert adb.run(["echo", "back"]).text == "back\n"
