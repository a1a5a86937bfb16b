"""Tables of what other tools measured: the shipped one, merging, adding up, and joins that are
refused.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import numpy as np
import onnx
import pytest

from hwbench.devices.nvidia.trtexec import LayerTime, TrtexecLayer, TrtLayers, TrtProfile
from hwbench.errors import MissingEntryError, SchemaError, UsageError
from hwbench.lookup_tables import LookupTable
from hwbench.lookup_tables.exchange import foreign_files, ofa_yaml
from hwbench.lookup_tables.exchange.foreign_files import ProfiledRuns
from hwbench.lookup_tables.exchange.foreign_network import ForeignEntry, ForeignNetwork
from hwbench.lookup_tables.exchange.foreign_reader import read_network
from hwbench.lookup_tables.exchange.foreign_table import LONE_SD, table_of
from hwbench.lookup_tables.exchange.join_by_name import join_rows, ort_rows, trt_rows
from hwbench.lookup_tables.exchange.shipped import PIXEL1, pixel1, pixel1_networks
from hwbench.lookup_tables.repository import add_networks, find_table, list_tables, save_table
from hwbench.lookup_tables.structure_latency import StructureLatency
from hwbench.network.graph import Layer, layers, load
from hwbench.network.intake import load_workload
from hwbench.network.structure import Structure
from hwbench.records.layer_key import LayerKey
from hwbench.records.prediction import LatencySource
from hwbench.store import open_store
from tests.support.onnx_nets import Net

KEY = LayerKey.parse("Conv[1x16x8x8->1x32x8x8]{group=1,kernel=1x1}@fp32")
WIDE = LayerKey.parse("Conv[1x32x8x8->1x32x8x8]{group=1,kernel=1x1}@fp32")


@cache
def logged() -> Structure:
    return Structure.from_model(load(load_workload(next(iter(PIXEL1))).onnx))


def network(
    *entries: ForeignEntry, whole_s: float | None = None, **changes: object
) -> ForeignNetwork:
    count = sum(entry.calls for entry in entries)
    found = ForeignNetwork(
        "net", "tflite-log", ("a.txt",), entries, count, whole_s, "Phone", "TensorFlow Lite", 1
    )
    return replace(found, **changes)


def at_address(address: str) -> LookupTable:
    """The shipped table, as if it were of the device at an address."""
    made = pixel1().provenance
    device = replace(made.device, address=address, details=())
    return replace(
        pixel1(), metadata=replace(pixel1().metadata, provenance=replace(made, device=device))
    )


def test_the_shipped_table_answers_searches_without_a_phone():
    source = StructureLatency(pixel1(), logged())
    assert isinstance(source, LatencySource)
    measured = [network.whole_s for network in pixel1_networks()]
    widths = [
        list(map(int, model.partition("@")[2].partition(",")[0].split("-"))) for model in PIXEL1
    ]
    np.testing.assert_allclose(source.predict_widths(np.array(widths)), measured, rtol=0.01)
    assert "mit-han-lab/amc-models (MIT" in pixel1().provenance.note


def test_the_shipped_table_reaches_every_width_when_it_may_extrapolate():
    full = np.array(logged().widths)
    rng = np.random.default_rng(0)
    wide = np.minimum(
        full,
        np.maximum(8, (full * rng.uniform(0.2, 1, (500, len(full))) / 8).round().astype(int) * 8),
    )
    latency_s = StructureLatency(pixel1().extrapolating(), logged()).predict_widths(wide)
    assert 0.005 < latency_s.min() < latency_s.max() < 0.125
    with pytest.raises(MissingEntryError, match="extrapolate=True"):
        StructureLatency(pixel1(), logged()).predict_widths(wide)


def test_extrapolated_layers_are_marked_and_doubt_grows_with_the_distance():
    table = pixel1().extrapolating()
    widths = [
        [max(8, int(share * width / 8) * 8) for width in logged().widths]
        for share in (1.0, 0.5, 0.25)
    ]
    ends = [table.predict(logged().keys(one)) for one in widths]
    spans = [math.log(high / low) for low, high in (one.ci_s for one in ends)]
    assert spans[0] < spans[1] < spans[2]
    assert spans[2] > math.log(2)
    assert not ends[0].extrapolated
    parts = table.layers(logged().keys(widths[2]))
    outside = [part for part in parts if part.extrapolated]
    assert tuple(part.key for part in outside) == ends[2].extrapolated
    assert len(outside) > 25
    assert min(part.sd for part in outside) > 0.05


@pytest.mark.parametrize("left_out", range(3))
def test_two_networks_predict_the_third_within_5_percent(left_out):
    known = list(pixel1_networks())
    asked = known.pop(left_out)
    prediction = table_of(known, "two").extrapolating().predict(asked.keys)
    assert prediction.latency_s == pytest.approx(asked.whole_s, rel=0.05)
    assert prediction.ci_s[0] < asked.whole_s < prediction.ci_s[1]


def test_what_kinds_have_in_common_is_what_makes_the_largest_network_predictable():
    asked, *known = pixel1_networks()
    table = table_of(known, "two").extrapolating()
    alone = table_of(known, "two").extrapolating()
    vars(alone)["surfaces"] = {
        family: type(s)(alone.families[family], s.step) for family, s in alone.surfaces.items()
    }
    errors = [abs(one.predict(asked.keys).latency_s / asked.whole_s - 1) for one in (table, alone)]
    assert errors[0] < 0.5 * errors[1]


def test_a_pointwise_convolution_of_one_pixel_is_a_linear_layer():
    net = Net(1, 16, 1, 1)
    out = net.conv("x", "head", 10, 1, bn=False)
    net.flatten(out, 1, 10)
    layer, *_ = layers(net.model("t1"))
    dense = Net(1, 16)
    (twin,) = layers(dense.model(dense.linear("x", "fc", 16, 10)))
    assert layer.key == twin.key
    assert layer.op == "Linear"
    assert {entry.key.op for entry in pixel1_networks()[0].entries} >= {"Linear", "Softmax"}


def test_samples_of_one_layer_are_merged_over_logs_and_networks():
    one = network(ForeignEntry(KEY, (1.0e-3, 1.2e-3), 1), ForeignEntry(WIDE, (2e-3,), 1))
    other = network(ForeignEntry(KEY, (1.1e-3, 1.3e-3, 1.1e-3, 1.3e-3), 2), files=("b.txt",))
    table = table_of([one, other], "phone")
    merged, lone = table.entries[KEY], table.entries[WIDE]
    assert merged.latency_s == pytest.approx(1.15e-3)
    assert merged.samples == 4
    assert 0.03 < merged.sd < 0.08
    assert (lone.samples, lone.sd) == (1, LONE_SD)
    assert table.provenance.note == "read from a.txt, b.txt"


def test_the_whole_network_is_what_layers_add_up_to():
    layers_s = (ForeignEntry(KEY, (1e-3,), 2), ForeignEntry(WIDE, (2e-3,), 1))
    slower, faster = (
        table_of([network(*layers_s, whole_s=whole_s)], "phone") for whole_s in (4.3e-3, 3.6e-3)
    )
    assert slower.calibration.per_layer_s == pytest.approx(1e-4)
    for table, whole_s in ((slower, 4.3e-3), (faster, 3.6e-3)):
        assert table.predict([KEY, KEY, WIDE]).latency_s == pytest.approx(whole_s, rel=0.02)
        assert table.calibration.networks == 0
    assert pixel1().calibration.networks == 3
    assert 0.02 < pixel1().calibration.shared_sd < 0.05


@pytest.mark.parametrize(
    "change", [{"threads": 4}, {"target": "Other phone"}, {"runtime": "ONNX Runtime"}]
)
def test_what_was_measured_otherwise_is_not_mixed(change):
    found = network(ForeignEntry(KEY, (1e-3,), 1))
    with pytest.raises(UsageError, match="pass another name"):
        table_of([found, replace(found, **change)], "phone")


def test_networks_of_one_name_add_up_in_the_store(tmp_path):
    first, second, third = pixel1_networks()
    with open_store(str(tmp_path / "store.db")) as store:
        assert find_table(store, "pixel1") == pixel1()
        assert list(list_tables(store)) == ["pixel1"]
        for found, count in ((first, 1), (second, 2), (second, 2), (third, 3)):
            table = add_networks(store, "phone", [found])
            save_table(store, table)
            assert len(table.provenance.sources) == count
        assert table.entries == pixel1().entries
        assert find_table(store, "phone") == table
        assert "pixel1" in list_tables(store)
        added = replace(third, model="mine", files=("mine.txt",))
        table = add_networks(store, "pixel1", [third, added])
        save_table(store, table)
        assert [source.model for source in table.provenance.sources] == [*PIXEL1, "mine"]
        assert "(MIT licence" in table.provenance.note
        assert "pixel1" not in list_tables(store)
    with pytest.raises(SchemaError, match="pass another name"):
        ForeignNetwork.from_dict({"entries": 3})


def test_a_whole_table_takes_no_networks(tmp_path):
    with open_store(str(tmp_path / "store.db")) as store:
        save_table(store, at_address("phone"))
        with pytest.raises(UsageError, match="pass another name"):
            add_networks(store, "phone", pixel1_networks()[:1])


@cache
def graph() -> onnx.ModelProto:
    net = Net(1, 3, 8, 8)
    out = net.conv("x", "stem", 8, act="Relu")
    out = net.conv(out, "body", 8, group=0, act="Relu")
    return net.model(net.head(out))


def small() -> tuple[Layer, ...]:
    return tuple(layers(graph()))


def test_rows_of_tensorrt_go_to_layers_by_the_nodes_in_their_names():
    stem, body, pool, *_ = small()
    rows = [
        "Reformatting CopyNode for x",
        " + ".join(stem.nodes),
        " + ".join(body.nodes),
        "__myl_1",
        "fc",
    ]
    profile = TrtProfile(
        "p.json", 10, tuple(LayerTime(name, 1e-3 * (i + 1), None) for i, name in enumerate(rows))
    )
    engine = TrtLayers("l.json", (TrtexecLayer("__myl_1", "kgen", pool.nodes),), ())
    found = {entry.key: entry for entry in join_rows(trt_rows(profile, engine), graph(), "p.json")}
    assert [found[layer.key].median_s for layer in (stem, body, pool)] == pytest.approx(
        [2e-3, 3e-3, 4e-3]
    )
    assert found[small()[-1].key].median_s == pytest.approx(5e-3)
    assert [key.op for key, entry in found.items() if entry.median_s == 0] == ["Reshape"]
    with pytest.raises(UsageError, match=r"'__myl_1' of p\.json is of no layer"):
        join_rows(trt_rows(profile, None), graph(), "p.json")
    both = replace(profile, layers=(LayerTime(f"{stem.name} + {body.name}", 1e-3, None),))
    with pytest.raises(UsageError, match=r"stands for the layers stem\.conv, body\.conv"):
        join_rows(trt_rows(both, None), graph(), "p.json")
    with pytest.raises(UsageError, match=r"no row for layer body\.conv"):
        join_rows(trt_rows(replace(profile, layers=profile.layers[:2]), None), graph(), "p.json")


def test_rows_of_onnx_runtime_go_to_layers_by_name_or_tensor():
    stem, body, pool, flat, fc = small()
    inner = next(node.output[0] for node in graph().graph.node if node.name == "stem.bn")
    names = [f"{inner}_nchwc", "ReorderOutput", f"fused {body.name}", pool.name, flat.name, fc.name]
    nodes_s = {name: (9.0, 1e-6 * (i + 1), 1e-6 * (i + 1)) for i, name in enumerate(names)}
    runs = ProfiledRuns((9.0, 3e-5, 3e-5), nodes_s, {"ReorderOutput": "ReorderOutput"})
    found = {entry.key: entry.median_s for entry in join_rows(ort_rows(runs, "p"), graph(), "p")}
    assert [found[layer.key] for layer in (stem, body, pool, flat, fc)] == pytest.approx(
        [1e-6, 3e-6, 4e-6, 5e-6, 6e-6]
    )
    with pytest.raises(UsageError, match="cold inference alone"):
        ort_rows(runs.select_runs([0]), "p")


def test_rows_of_once_for_all_that_do_not_say_what_a_layer_is_are_counted():
    text = (
        "Logits-input:1x1x1536-output:1000: {mean: 0.65}\n"
        "AvgPool2D-input:5x5x1152-output:1x1x1152: {mean: 0.01}\n"
        "Conv-input:160x160x3-output:80x80x24: {mean: 0.5}\n"
        "Logits-input:7x7x1280-output:1000: {mean: 0.7}\n"
    )
    found, findings = read_network([("t", ofa_yaml.parse(text))], None, target="Phone", threads=1)
    assert [str(entry.key) for entry in found.entries] == [
        "Linear[1x1536->1x1000]{}@fp32",
        "GlobalAveragePool[1x1152x5x5->1x1152x1x1]{}@fp32",
    ]
    assert found.entries[0].median_s == pytest.approx(0.65e-3)
    assert ["2 of 4 rows" in one.text for one in findings if one.code == "not_mapped"] == [True]
    with pytest.raises(UsageError, match="threads="):
        read_network([("t", ofa_yaml.parse(text))], None, target="Phone", threads=None)
    with pytest.raises(UsageError, match="nothing to import"):
        read_network([("t", ofa_yaml.parse(text.splitlines()[2]))], None, target="Phone", threads=1)


def test_layers_that_are_not_the_whole_are_pointed_out():
    text = "\n".join(f"{name}: {{mean: 1}}" for name in ("Logits-input:1x1x8-output:8",))
    assert not [
        one
        for one in read_network([("t", ofa_yaml.parse(text))], None, target="", threads=1)[1]
        if one.code == "unclosed"
    ]
    stem, body, pool, flat, fc = small()
    rows = {layer.name: (1e-6, 1e-6) for layer in (stem, body, pool, flat, fc)}
    for whole_s, said in ((5e-6, []), (9e-6, ["unclosed"])):
        runs = ProfiledRuns((1.0, whole_s), rows, {})
        workload = replace(load_workload("zoo:resnet20"), artifact=graph().SerializeToString())
        _, findings = read_network([("p", runs)], workload, target="", threads=1)
        assert [one.code for one in findings] == said


def test_files_that_do_not_belong_together_are_refused():
    profile = foreign_files.parse('[{"count": 1}, {"name": "a", "averageMs": 1.0}]', "p.json")
    times = foreign_files.parse('[{"computeMs": 1.0}]', "t.json")
    log = foreign_files.parse("INFO: count=1 first=5 curr=5 min=5 max=5 avg=5 std=0\n", "log.txt")
    with pytest.raises(UsageError, match="several formats"):
        read_network([("p.json", profile), ("log.txt", log)], None, target="", threads=1)
    workload = load_workload("zoo:resnet20")
    with pytest.raises(UsageError, match="--exportProfile"):
        read_network([("t.json", times)], workload, target="", threads=1)
    with pytest.raises(UsageError, match="model="):
        read_network([("p.json", profile)], None, target="", threads=1)
