"""`hwbench profile model.tflite`: what it shows, and what it refuses in one line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.devices.android.phone_support import on, rig
from tests.devices.android.rig import Rig
from tests.devices.android.tflite_support import SLEEP_S, model, stand_in
from tests.support.cli_support import CommandLine, hwb  # noqa: F401 - a fixture


@pytest.fixture(scope="module")
def phone() -> Iterator[Rig]:
    with rig("amd64") as running:
        yield running


@pytest.fixture
def command(hwb: CommandLine) -> list[str]:
    (hwb.folder / "net.tflite").write_bytes(model())
    return ["profile", "net.tflite", "--benchmark-model", str(stand_in(2024)), "--budget", "3"]


def test_a_profile_is_shown_kept_and_written_as_json(
    phone: Rig, hwb: CommandLine, command: list[str]
) -> None:
    device = f"android:{on(phone.address)}"
    done = hwb(
        *command,
        "--device",
        device,
        "--tflite-flag",
        "use_xnnpack=false",
        "--json",
        "-",
        "--save-log",
        "logs",
    )
    assert (done.code, done.err) == (0, "")
    document = done.json
    assert SLEEP_S < document["median_s"] < 5 * SLEEP_S
    assert document["macs"] == 55296
    assert [row["op"] for row in document["layers"]] == [
        "CONV_2D",
        "AVERAGE_POOL_2D",
        "FULLY_CONNECTED",
        "SOFTMAX",
    ]
    assert document["device"]["details"]["flags"] == "--use_xnnpack=false"
    assert (hwb.folder / "logs" / "layers.log").is_file()
    shown = hwb("store", "show", document["record"]["id"][:12])
    assert shown.code == 0
    assert "TensorFlow Lite benchmark_model" in " ".join(shown.out.split())
    assert "SOFTMAX" in shown.out
    hit = hwb(
        *command, "--device", device, "--no-layers", "--no-save", "--fail-on", "median_s>0.001"
    )
    assert hit.code == 1
    assert "net.tflite on hwbench Rig amd64" in hit.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--device", "cpu"], "measures on phones, not on 'cpu'; try: hwbench profile"),
        (["--batch", "2"], "a .tflite is fixed"),
        (["--isolate"], "process of its own already"),
        (["--tail"], "the mean of several inferences"),
        (["--tflite-flag", "use_gpu"], "expected NAME=VALUE"),
        (["--tflite-flag", "a=1", "--tflite-flag", "--a=2"], "each name once"),
        (["--device", "android:S,speed=9"], "is no option"),
        (["--device", "android", "--benchmark-model", "nowhere"], "no such file: 'nowhere'"),
    ],
)
def test_what_makes_no_sense_is_refused(
    hwb: CommandLine, command: list[str], words: list[str], message: str
) -> None:
    done = hwb(*command, *words)
    assert done.code == 2
    assert message in done.error


def test_its_program_is_asked_for(hwb: CommandLine, command: list[str]) -> None:
    error = hwb(*command[:2], "--device", "android").error
    assert "--benchmark-model FILE" in error
    assert "android:SERIAL,runtime=litert" in error


def test_its_options_are_for_its_models_alone(hwb: CommandLine, command: list[str]) -> None:
    assert "is no .tflite file" in hwb("profile", "big.onnx", *command[2:]).error


def test_a_file_that_is_no_model_is_named(hwb: CommandLine, command: list[str]) -> None:
    Path(hwb.folder / "net.tflite").write_bytes(b"an ONNX file by another name")
    done = hwb(*command, "--device", "android")
    assert done.code == 2
    assert "net.tflite is no TensorFlow Lite model" in done.error
