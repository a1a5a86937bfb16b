"""A driver in a package of its own: installed, found by its entry point, held to the contract.

The package is `docs/examples/hwbench-reference`, which people copy.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hwbench.devices import drivers, open_device
from hwbench.devices.base import Device, ProfilesLayers
from hwbench.devices.contract import DeviceContract
from hwbench.devices.ort.cpu import CpuOrt
from hwbench.errors import DeviceUnavailableError, UsageError
from hwbench.network.workload import Workload
from hwbench.records.measurement import Settings
from tests.support.models import conv_workload

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "hwbench-reference"
PUBLIC = (
    "hwbench.devices.base",
    "hwbench.devices.shared",
    "hwbench.errors",
    "hwbench.network",
    "hwbench.records",
)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package as pip installs it, beside the environment that the tests run in."""
    place = tmp_path_factory.mktemp("outside")
    source = shutil.copytree(EXAMPLE, place / "source")
    options = ["-q", "--no-deps", "--no-index", "--no-build-isolation", "--target"]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, str(place / "installed"), str(source)],
        check=True,
        timeout=120,
    )
    return place / "installed"


class TestReference(DeviceContract):
    @pytest.fixture(autouse=True)
    def _on_the_path(self, installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.syspath_prepend(str(installed))

    def make_device(self) -> Device:
        return open_device("reference")

    def make_workload(self) -> Workload:
        return conv_workload((4,), size=8)

    def make_slow_workload(self) -> Workload | None:
        return conv_workload((32, 32), size=32, name="slow")

    def test_it_is_listed_and_has_layers(self) -> None:
        assert "reference" in drivers()
        assert isinstance(self.make_device(), ProfilesLayers)

    def test_it_excludes_other_runtimes_on_this_processor(self, device: Device) -> None:
        assert device.usable
        with pytest.raises(DeviceUnavailableError, match="in use by process"):
            CpuOrt().open()

    def test_what_it_cannot_do_is_refused(self, device: Device) -> None:
        with pytest.raises(UsageError, match="takes no address"):
            open_device("reference:1")
        for settings in (Settings(isolate=True), Settings(threads=4096)):
            with pytest.raises(UsageError):
                device.prepare(self.make_workload(), settings)
        assert device.usable


def test_it_is_one_short_file_that_imports_public_names_alone() -> None:
    (module,) = EXAMPLE.glob("*.py")
    text = module.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    imports = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]
    ours = [node for node in imports if (node.module or "").startswith("hwbench")]
    assert ours
    for node in ours:
        assert f"{node.module}.".startswith(tuple(f"{room}." for room in PUBLIC))
        names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
        assert not [name for name in names if name.startswith("_")]


def test_a_network_is_measured_with_layers(installed: Path, tmp_path: Path) -> None:
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join((str(installed), str(ROOT))),
        "XDG_DATA_HOME": str(tmp_path / "data"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    argv = ["profile", "zoo:resnet20", "--device", "reference", "--budget", "10", "--json", "-"]
    done = subprocess.run(
        [sys.executable, "-m", "hwbench", *argv],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["device"]["runtime"].startswith("onnx.reference ")
    assert {"conv1", "layer1.0.conv1", "fc"} <= {layer["name"] for layer in document["layers"]}
