"""The study of a GPU runs whole on a machine with torch, numpy, scipy and onnx alone."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
from scipy.special import stdtrit
from scipy.stats import kendalltau, theilslopes

from hwbench import stats
from tests.support.paths import ROOT

PARTS = {"fidelity", "layers", "selftest", "sensitivity", "latencies", "table"}


@pytest.mark.slow
def test_the_study_runs_and_keeps_raw_samples(tmp_path):
    command = [sys.executable, "-m", "tests.devices.nvidia.bare_machine", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    assert {file.name.partition(".")[0] for file in tmp_path.glob("*.json.gz")} == PARTS
    for part in PARTS:
        data = json.loads(gzip.decompress((tmp_path / f"{part}.json.gz").read_bytes()))
        good = [row for row in data["rows"] if "error" not in row]
        assert good, data["rows"]
        assert all(row["raw"] for row in good)
    text = (tmp_path / "README.md").read_text()
    assert all(f"## {part}" in text for part in PARTS)
    if find_spec("triton") is None:  # PyTorch brings it where it is built for CUDA
        assert "pip install triton" in text, "what could not run is said"


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 7, 8, 30, 99, 1000])
def test_t_quantile_is_exact(degrees):
    assert stats.t_quantile(degrees) == pytest.approx(stdtrit(degrees, 0.975), rel=1e-12)


@pytest.mark.parametrize(
    ("degrees", "quantile"), [(1, 12.706), (2, 4.303), (5, 2.571), (10, 2.228), (30, 2.042)]
)
def test_t_quantile_is_that_of_printed_tables(degrees, quantile):
    assert stats.t_quantile(degrees) == pytest.approx(quantile, abs=5e-4)


@pytest.mark.parametrize("count", [4, 5, 8, 33, 34, 60])
@pytest.mark.parametrize("digits", [1, 9])
def test_drift_is_theil_sen_and_kendall(count, digits):
    random, order = np.random.default_rng(count), np.arange(count)
    for slope in (0, 0.05, -0.5):
        values = np.round(20 + slope * order + random.normal(size=count), digits)
        change, p_value = stats.drift(values, order)
        assert change == pytest.approx(
            theilslopes(values, order)[0] * (count - 1) / np.median(values), abs=1e-12
        )
        assert p_value == pytest.approx(kendalltau(order, values).pvalue, rel=1e-9, abs=1e-12)
    assert stats.drift(np.full(count, 3.0), order) == (0.0, 1.0)
