"""Ceilings of a device: what is measured, how far layers are from them, and what cannot be."""

from __future__ import annotations

from dataclasses import replace

import pytest

import hwbench
from hwbench.devices.virtual import device as virtual
from hwbench.devices.virtual.device import LAW, Virtual
from hwbench.errors import SchemaError, UsageError
from hwbench.measuring.comparing import compare_measured
from hwbench.measuring.sessions import measure, measure_interleaved
from hwbench.records.ceilings import (
    Bandwidth,
    Ceiling,
    Ceilings,
    choose_ceilings,
    count_bytes,
)
from hwbench.records.codec import to_plain
from hwbench.records.layer_key import LayerKey
from hwbench.records.measurement import LayerLatency, Settings
from hwbench.stats import Verdict
from hwbench.store import open_store
from hwbench.workflows.ceilings import (
    find_ceilings,
    measure_ceilings,
    parse_ceilings,
    read_ceilings,
)
from hwbench.workflows.recording import recording
from tests.render.test_render_views import CPU
from tests.support.models import conv_workload

CONV = LayerKey.parse(
    "Conv[1x64x56x56->1x64x56x56]{group=1,kernel=3x3,pads=1.1.1.1,strides=1x1}@fp32"
)
RELU = LayerKey.parse("Relu[1x64x56x56->1x64x56x56]{}@fp32")
QUICK = Settings(budget_s=3.0)


def ceilings(**changes) -> Ceilings:
    """100 GMAC/s; 80 GB/s in caches, 20 beyond 1 MB."""
    bandwidths = (Bandwidth(10_000, 40e9), Bandwidth(100_000, 80e9), Bandwidth(1_000_000, 20e9))
    one = Ceiling("fp32", 100e9, CONV, bandwidths)
    return replace(Ceilings(CPU, 1, (one,), "2026-03-01T09:00:00+00:00", "0.1.0"), **changes)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> str:
    """A store with the ceilings of the virtual device."""
    url = str(tmp_path_factory.mktemp("ceilings") / "store.db")
    measure_ceilings("virtual", budget_s=6, store=url)
    return url


@pytest.mark.slow
def test_the_ceilings_of_a_known_law_are_found(store):
    with hwbench.open_device("virtual") as device:
        info = device.info()
    with open_store(store) as opened:
        found, damaged = read_ceilings(opened, info, 1)
    assert damaged is None
    for precision, factor in (("fp32", 1), ("fp16", 2), ("int8", 4)):
        rate = found.find(precision).macs_per_s
        # The shortest of many rounds is a little below the law, and a layer has a cost of its own.
        assert 0.9 < rate / (factor * LAW.macs_per_s) < 1.12
    assert 0.9 < found.find("fp32").bytes_per_s / LAW.bytes_per_s < 1.12
    assert found.left_out == ("bf16 is not run here",)


@pytest.mark.slow
def test_the_probes_reach_what_no_layer_of_a_network_is_faster_than(tmp_path, monkeypatch):
    """A runtime may be at its best with few or many places, with 1x1 or 3x3 kernels.

    Each time some convolutions are computed a third faster than everything else, and none of a
    network stands above the ceiling.
    """
    law = virtual.Law.layer_s
    network = hwbench.load_workload("zoo:mobilenet_v1")
    for kernel, size in (("1x1", 7), ("1x1", 56), ("3x3", 7), ("3x3", 56)):

        def layer_s(self, key, kernel=kernel, size=size):
            is_best = dict(key.attrs).get("kernel") == kernel and key.output[-1] == size
            return law(self, key) / (1.33 if is_best else 1)

        monkeypatch.setattr(virtual.Law, "layer_s", layer_s)
        url = str(tmp_path / f"{kernel}-{size}.db")
        known = measure_ceilings("virtual", budget_s=30, store=url)
        assert known.find("fp32").macs_per_s > LAW.macs_per_s
        with Virtual() as device:
            record = measure(device, network, replace(QUICK, min_sessions=2))
        shares = [known.bound(layer).share for layer in record.profile.layers if layer.key]
        assert max(shares) < 1.05


@pytest.mark.slow
def test_what_disturbed_the_best_layer_does_not_lower_the_ceiling():
    """A neighbour takes a third of the time for seconds on end."""
    rates = []
    for seed in range(4):
        found = measure_ceilings(f"virtual:noise=bimodal,seed={seed}", budget_s=12, save=False)
        rates.append(found.find("fp32").macs_per_s / LAW.macs_per_s)
    assert min(rates) > 0.9


@pytest.mark.slow
def test_bf16_is_measured_where_it_runs(monkeypatch):
    sizes = {**virtual._ELEMENT_BYTES, "bf16": 2}
    monkeypatch.setattr(virtual, "_ELEMENT_BYTES", sizes)
    monkeypatch.setattr(Virtual, "precisions", frozenset(sizes))
    found = measure_ceilings("virtual", budget_s=8, save=False)
    assert [ceiling.precision for ceiling in found.ceilings] == ["fp32", "fp16", "bf16", "int8"]
    assert found.find("bf16").best.precision == "bf16"
    assert 0.9 < found.find("bf16").macs_per_s / (2 * LAW.macs_per_s) < 1.12
    assert found.left_out == ()


@pytest.mark.slow
def test_a_precision_that_a_runtime_has_no_kernels_for_is_said(monkeypatch):
    found = measure_ceilings("cpu", budget_s=1, save=False)
    assert found.find("fp32") is not None
    assert found.find("bf16") is None
    (said,) = [text for text in found.left_out if text.startswith("bf16")]
    assert said.startswith("bf16 is not run here: ")


def test_the_nearer_ceiling_binds():
    known = ceilings()
    compute = known.bound(LayerLatency("conv", "Conv", CONV, "x", 2 * CONV.macs / 100e9))
    assert (compute.binds, compute.share) == ("compute", pytest.approx(0.5))
    assert compute.macs_per_s == pytest.approx(50e9)
    moved = count_bytes(RELU)
    memory = known.bound(LayerLatency("relu", "Relu", RELU, "x", 4 * moved / 20e9))
    assert (memory.binds, memory.share) == ("memory", pytest.approx(0.25))
    assert memory.macs_per_byte == 0


def test_bandwidth_is_that_of_as_many_bytes_or_more():
    (ceiling,) = ceilings().ceilings
    assert ceiling.bytes_per_s == 80e9
    assert ceiling.bandwidth_for(1) == 80e9  # a small layer mostly measures its fixed cost
    assert ceiling.bandwidth_for(50_000) == 80e9
    assert ceiling.bandwidth_for(999_999) == 80e9
    assert ceiling.bandwidth_for(1_000_000) == 20e9
    assert ceiling.bandwidth_for(10**12) == 20e9


def test_bytes_are_those_of_activations_and_weights_in_their_precision():
    assert count_bytes(RELU) == 2 * 64 * 56 * 56 * 4
    assert count_bytes(CONV) == (2 * 64 * 56 * 56 + 64 * 64 * 9) * 4
    assert count_bytes(replace(CONV, precision="int8")) == count_bytes(CONV) // 4


@pytest.mark.parametrize(
    "layer",
    [
        LayerLatency("reorder", "Reorder", None, "reorder", 1e-3),
        LayerLatency("conv", "Conv", CONV, "x", 1e-3, is_bound=True),
        LayerLatency("conv", "Conv", CONV, "x", 0.0),
        LayerLatency("conv", "Conv", replace(CONV, precision="fp16"), "x", 1e-3),
    ],
)
def test_what_is_not_known_has_no_share(layer):
    assert ceilings().bound(layer) is None


def test_ceilings_of_another_machine_runtime_or_number_of_threads_are_not_used():
    old, new = ceilings(), ceilings(created_utc="2026-03-02T09:00:00+00:00")
    assert choose_ceilings([new, old], CPU, 1) is new
    assert choose_ceilings([old], CPU, 2) is None
    assert choose_ceilings([old], replace(CPU, target_id="other"), 1) is None
    assert choose_ceilings([old], replace(CPU, runtime="onnxruntime 1.0"), 1) is None
    assert choose_ceilings([], CPU, 1) is None


def planted(workload, latency_s: float) -> Virtual:
    return Virtual(latencies_s={workload.sha256: latency_s})


@pytest.mark.slow
def test_an_impossible_latency_is_caught_and_no_verdict_rests_on_it(store):
    fast, plain = conv_workload((64, 64)), conv_workload((64, 65))
    settings = replace(QUICK, layers=False)
    least_s = fast.macs / LAW.macs_per_s
    device = planted(fast, 0.1 * least_s)
    with device, recording(store, save=True, callback=None) as recorder:
        records = measure_interleaved(device, [plain, fast], settings, recorder)
    comparison = compare_measured(*records)
    assert comparison.findings[0].code == "impossible"
    assert comparison.verdict is Verdict.UNRESOLVED
    assert comparison.speedup > 5
    with open_store(store) as opened:
        kept = opened.get(records[1].id)
    assert kept.findings[0].code == "impossible"
    assert "impossible" not in {finding.code for finding in records[0].findings}


@pytest.mark.slow
def test_a_latency_above_the_ceilings_is_possible(store):
    workload = conv_workload((64, 64))
    device = planted(workload, 1.1 * workload.macs / LAW.macs_per_s)
    with device, recording(store, save=True, callback=None) as recorder:
        record = measure(device, workload, replace(QUICK, layers=False), recorder)
    assert "impossible" not in {finding.code for finding in record.findings}


@pytest.mark.slow
def test_an_impossible_candidate_of_a_loop_is_an_outcome(store, monkeypatch):
    big, small = conv_workload((64, 64), name="big"), conv_workload((64, 63), name="small")
    law = type(LAW).network_s

    def plant(self, keys):
        return 1e-9 if any(63 in key.output for key in keys) else law(self, keys)

    monkeypatch.setattr(type(LAW), "network_s", plant)
    with hwbench.meter("virtual", baseline=big, store=store) as meter:
        reading = meter(small, budget_s=1)
    assert "needs at its best" in str(reading.error)


@pytest.mark.slow
def test_without_a_store_nothing_is_known(store, tmp_path):
    with Virtual() as device:
        record = measure(device, conv_workload(), replace(QUICK, layers=False))
    assert find_ceilings(str(tmp_path / "none.db"), record) is None
    assert not (tmp_path / "none.db").exists()
    assert find_ceilings(store, record) is not None


def test_a_store_that_is_away_costs_no_result():
    with Virtual() as device:
        record = measure(device, conv_workload(), replace(QUICK, budget_s=1.0, layers=False))
    assert find_ceilings("postgresql://nobody@127.0.0.1:1/none", record) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data["ceilings"][0].update(macs_per_s=0.0),
        lambda data: data["ceilings"][0].update(bandwidths=[]),
        lambda data: data["ceilings"][0]["bandwidths"][0].update(bytes_per_s=-1.0),
        lambda data: data.pop("threads"),
    ],
)
def test_damaged_ceilings_are_refused_and_left_out(damage, tmp_path):
    data = to_plain(ceilings())
    assert parse_ceilings(data) == ceilings()
    damage(data)
    with pytest.raises(SchemaError):
        parse_ceilings(data)
    with open_store(str(tmp_path / "store.db")) as opened:
        damaged = opened.save_record("ceilings", data)
        known, finding = read_ceilings(opened, CPU, 1)
        assert known is None
        assert finding.code == "ceilings_damaged"
        assert damaged[:12] in finding.text
        assert "Measure the ceilings of cpu again" in finding.text
        opened.save_record("ceilings", to_plain(ceilings()))
        assert read_ceilings(opened, CPU, 1) == (ceilings(), None)


@pytest.mark.slow
@pytest.mark.parametrize("save", [True, False])
def test_a_measurement_says_that_ceilings_could_not_be_read(save, tmp_path):
    url = str(tmp_path / "store.db")
    settings = replace(QUICK, budget_s=1.0, layers=False)
    with Virtual() as device, open_store(url) as opened:
        data = to_plain(ceilings(device=device.info()))
        data["ceilings"][0]["macs_per_s"] = 0.0
        opened.save_record("ceilings", data)
        with recording(url, save=save, callback=None) as recorder:
            records = measure_interleaved(device, [conv_workload()] * 2, settings, recorder)
    codes = [finding.code for finding in compare_measured(*records).findings]
    assert codes.count("ceilings_damaged") == 1


@pytest.mark.slow
def test_an_impossible_latency_is_caught_where_nothing_is_kept(store):
    workload = conv_workload((64, 64))
    device = planted(workload, 0.1 * workload.macs / LAW.macs_per_s)
    with device, recording(store, save=False, callback=None) as recorder:
        record = measure(device, workload, replace(QUICK, layers=False), recorder)
    assert record.findings[0].code == "impossible"
    with open_store(store) as opened, pytest.raises(UsageError):
        opened.get(record.id)


@pytest.mark.slow
def test_where_there_is_no_store_none_is_made(tmp_path):
    url = str(tmp_path / "none.db")
    with Virtual() as device, recording(url, save=False, callback=None) as recorder:
        record = measure(device, conv_workload(), replace(QUICK, layers=False), recorder)
    assert not (tmp_path / "none.db").exists()
    assert "ceilings_damaged" not in {finding.code for finding in record.findings}


@pytest.mark.slow
def test_what_keeps_nothing_looks_up_ceilings_too(tmp_path):
    """Whatever measures: here a device can hardly do anything, so that no latency can be."""
    url = str(tmp_path / "store.db")
    with Virtual() as device, open_store(url) as opened:
        weak = ceilings(device=device.info())
        (one,) = weak.ceilings
        opened.save_record(
            "ceilings", to_plain(replace(weak, ceilings=(replace(one, macs_per_s=1.0),)))
        )
    network, settings = "zoo:plain20@0.25", replace(QUICK, budget_s=1.0, layers=False)
    kept_nowhere = {"settings": settings, "store": url, "save": False}
    matrix = hwbench.measure_matrix([network, "zoo:plain20"], devices=["virtual"], **kept_nowhere)
    for cell in matrix.cells:
        assert "impossible" in {finding.code for finding in cell.record.findings}
    with hwbench.meter("virtual", baseline="zoo:plain20", **kept_nowhere) as meter:
        assert "less than" in str(meter(network, budget_s=1).error)
    record = hwbench.profile(network, device="virtual", **kept_nowhere)
    assert "impossible" in {finding.code for finding in record.findings}
