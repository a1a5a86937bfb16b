"""hwbench table list, export, import."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

import hwbench
from tests.support.cli_support import hwb

pytestmark = pytest.mark.slow

__all__ = ["hwb"]

LOGS = Path(hwbench.__file__).parent / "lookup_tables" / "data" / "pixel1"
FULL = "zoo:mobilenet_v1@32-64-128-128-256-256-512-512-512-512-512-512-1024-1024,classes=1001"
AMC = "zoo:mobilenet_v1@24-48-96-80-192-200-328-352-368-360-328-400-736-752,classes=1001"
HALF = "zoo:mobilenet_v1@16-32-64-64-128-128-256-256-256-256-256-256-512-512,classes=1001"


def logs(name: str) -> list[str]:
    return [str(path) for path in sorted(LOGS.glob(f"{name}_run*.txt"))]


def test_the_shipped_table_is_there_from_the_start(hwb):
    assert hwb("table", "list", "--json", "-").json["tables"][0]["id"] == "pixel1"
    assert "Google Pixel 1" in hwb("table", "show", "pixel1").out
    prediction = hwb("table", "predict", AMC, "--table", "pixel1", "--json", "-").json
    assert prediction["latency_s"] == pytest.approx(0.0684, rel=0.02)


def test_extrapolation_is_asked_for_marked_and_wide(hwb):
    words = ("table", "predict", HALF, "--table", "pixel1")
    refused = hwb(*words)
    assert refused.code == 2
    assert "features.0.conv" in refused.error
    assert "--extrapolate" in refused.error
    assert f"--model {HALF}" in refused.error
    prediction = hwb(*words, "--extrapolate", "--json", "-").json
    low_s, high_s = prediction["latency_ci_s"]
    assert high_s > 1.3 * low_s
    assert sum(layer["from"] == "extrapolated" for layer in prediction["layers"]) > 20
    assert "layers extrapolated" in hwb(*words, "--extrapolate").out


def test_an_unknown_operator_is_named_with_the_command_that_measures_it(hwb):
    assert (
        hwb(
            "table",
            "build",
            "big.onnx",
            "--device",
            "virtual:noise=none",
            "--budget",
            "2",
            "--validation",
            "0",
        ).code
        == 0
    )
    error = hwb("table", "predict", "zoo:resnet20", "--table", "virtual:noise=none").error
    assert "layer conv1 (Conv[" in error
    assert "measure it: hwbench table build zoo:resnet20 --device virtual:noise=none" in error
    error = hwb("table", "predict", "zoo:resnet20", "--table", "pixel1", "--extrapolate").error
    assert "hwbench table import tflite-log FILE --model zoo:resnet20 --name pixel1" in error


def test_logs_become_a_table_network_by_network(hwb):
    name = ("--name", "phone", "--target", "A phone")
    first = hwb(
        "table", "import", "tflite-log", *logs("mobilenet"), "--model", FULL, *name, "--json", "-"
    ).json
    assert (first["name"], len(first["networks"]), first["left_out_error"]) == ("phone", 1, None)
    second = hwb("table", "import", *logs("0.5flops"), "--model", AMC, *name)
    assert "2 networks on A phone" in second.out
    assert "averages_include_warm_up" in second.out
    shown = hwb("table", "show", "phone", "--json", "-").json
    assert len(shown["metadata"]["provenance"]["sources"]) == 2


def test_without_a_name_the_folder_is_it_and_the_shipped_logs_are_not_counted_twice(hwb):
    again = hwb(
        "table", "import", "tflite-log", *logs("mobilenet"), "--model", FULL, "--json", "-"
    ).json
    assert (again["name"], len(again["networks"]), again["entries"]) == ("pixel1", 3, 67)


def test_a_table_travels_as_a_file(hwb):
    written = hwb("table", "export", "pixel1", "--json", "-").json
    assert written["file"] == "pixel1.hwtable"
    assert written["size_bytes"] == (hwb.folder / "pixel1.hwtable").stat().st_size < 4000
    imported = hwb("table", "import", "pixel1.hwtable", "--name", "phone")
    assert imported.code == 0
    assert "hwbench table predict MODEL --table phone" in imported.out
    provenance = hwb("table", "show", "phone", "--json", "-").json["metadata"]["provenance"]
    assert provenance["device"]["target"] == "Google Pixel 1"
    assert provenance["note"].endswith(
        "imported from pixel1.hwtable, where it was the table of pixel1"
    )
    added = hwb("table", "import", *logs("mobilenet"), "--model", FULL, "--name", "phone")
    assert "another --name" in added.error


def test_a_table_of_another_device_is_refused(hwb):
    words = ("--budget", "2", "--validation", "0")
    assert hwb("table", "build", "big.onnx", "--device", "virtual:noise=none", *words).code == 0
    exported = hwb("table", "export", "virtual:noise=none", "--out", "v.hwtable")
    assert exported.code == 0
    assert "hwbench table import v.hwtable" in exported.out
    again = hwb(
        "table", "import", "v.hwtable", "--device", "virtual:noise=none", "--json", "-"
    ).json
    assert again["name"] == "virtual:noise=none"
    for words in (
        ("--device", "virtual:step=4"),
        ("--device", "virtual:noise=none", "--threads", "2"),
    ):
        refused = hwb("table", "import", "v.hwtable", *words)
        assert refused.code == 2
        assert "the table was made for" in refused.error


def test_a_table_is_not_taken_for_that_of_the_device_here(hwb):
    from hwbench.workflows.table_files import export_table
    from tests.lookup_tables.exchange.test_table_imports import at_address

    export_table(at_address("virtual:noise=none"), out="alien.hwtable")
    refused = hwb("table", "import", "alien.hwtable")
    assert "keep this one under another name: hwbench table import" in refused.error
    assert "--name" in refused.error
    assert hwb("table", "import", "alien.hwtable", "--name", "alien").code == 0
    export_table(at_address("android:NOSUCHPHONE"), out="far.hwtable")
    assert hwb("table", "import", "far.hwtable").code == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nosuch.hwtable",), "no such file"),
        (("broken.hwtable",), "no lookup table"),
        (("pickle.pkl",), "a pickle is a program"),
        (("pickle.txt",), "a pickle is a program"),
        (("{log}",), "--model"),
        (("{log}", "--model", "zoo:resnet18"), "does not fit"),
        (("{log}", "--model", FULL, "--name", "cpu"), "is a device here"),
        (("{log}", "--model", FULL, "--name", "a b"), "no name for a table"),
        (("{log}", "--model", FULL, "--threads", "4"), "1 threads, not 4"),
        (("ort-profile", "{log}", "--model", FULL), "holds a tflite-log"),
        (("tflite-log",), "no such file"),
        (("damaged.json", "--model", FULL), "damaged JSON"),
        (("binary.txt", "--model", FULL), "zero bytes"),
    ],
)
def test_impossible_imports(hwb, words, said):
    (hwb.folder / "broken.hwtable").write_bytes(b"broken")
    (hwb.folder / "damaged.json").write_bytes(b"[1, 2")
    (hwb.folder / "binary.txt").write_bytes(b"a\0b")
    for name in ("pickle.pkl", "pickle.txt"):
        (hwb.folder / name).write_bytes(pickle.dumps({"latency": 1.0}))
    outcome = hwb("table", "import", *(word.format(log=logs("mobilenet")[0]) for word in words))
    assert outcome.code == 2
    assert said in outcome.error


def test_impossible_exports(hwb):
    assert "no lookup table" in hwb("table", "export", "cpu").error
    assert hwb("table", "export", "pixel1", "--out", "nosuch/p.hwtable").code == 2
