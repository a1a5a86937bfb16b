"""Zoo networks are exported once and then come from the cache, unless that is damaged."""

import subprocess
import sys

import pytest

from hwbench.errors import UsageError
from hwbench.network import zoo
from hwbench.network.intake import load_workload

SPEC = "zoo:resnet20@0.25"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name: str(tmp_path / name))
    return tmp_path / "hwbench" / "onnx"


def test_the_second_time_comes_from_the_cache(cache, monkeypatch):
    first = load_workload(SPEC)
    assert len(list(cache.iterdir())) == 1
    monkeypatch.setattr(zoo, "build", lambda *_: pytest.fail("exported again"))
    assert load_workload(SPEC) == first


def test_other_shapes_batches_and_seeds_are_other_entries(cache):
    shapes = {
        load_workload(SPEC, **options).inputs[0].shape
        for options in ({}, {"batch": 2}, {"inputs": ["1x3x48x48"]}, {"seed": 1})
    }
    assert shapes == {(1, 3, 32, 32), (2, 3, 32, 32), (1, 3, 48, 48)}
    assert len(list(cache.iterdir())) == 4


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1], lambda data: b"", lambda data: data[:40] + b"\0" + data[41:]]
)
def test_a_damaged_cache_is_not_believed(cache, damage):
    first = load_workload(SPEC)
    (entry,) = cache.iterdir()
    good = entry.read_bytes()
    entry.write_bytes(damage(good))
    assert load_workload(SPEC) == first
    assert entry.read_bytes() == good


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(cache):
    cache.parent.mkdir(parents=True)
    cache.write_text("a file where the folder should be")
    assert load_workload(SPEC).batch == 1


def test_an_unknown_network_lists_the_known_ones():
    with pytest.raises(UsageError, match="resnet18, resnet20"):
        load_workload("zoo:resnet19")


def test_a_cached_network_needs_no_torch(tmp_path):
    code = f"""
import sys, platformdirs
platformdirs.user_cache_dir = lambda name: {str(tmp_path)!r}
from hwbench.network.intake import load_workload
load_workload({SPEC!r})
print("torch" in sys.modules)
"""
    seen = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
        )
        for _ in range(2)
    ]
    assert [done.stdout.strip() for done in seen] == ["True", "False"]
    assert [done.stderr for done in seen] == ["", ""]
