"""Joining ONNX Runtime's executed nodes to layers, and reading its profile."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwbench.devices.base import LayerRow
from hwbench.devices.shared.ort.executed_graph import ExecutedNode
from hwbench.devices.shared.ort.layers import join_profile, layout_findings
from hwbench.devices.shared.ort.origins import find_origins
from hwbench.devices.shared.ort.profile import ProfiledRuns, read_profile
from hwbench.errors import OutputParseError
from hwbench.network.graph import layers, load
from hwbench.network.graph.view import GraphView
from hwbench.records.layer_key import LayerKey
from tests.support.models import conv_net

BLOCKED = "com.microsoft.nchwc"
EXECUTED = [
    ExecutedNode("r0_nchwc", "Conv", BLOCKED, ("x", "w0"), ("token0",)),
    ExecutedNode("r1_nchwc", "Conv", BLOCKED, ("token0", "w1"), ("token1",)),
    ExecutedNode("ReorderOutput", "ReorderOutput", BLOCKED, ("token1",), ("r1",)),
    ExecutedNode("pool", "GlobalAveragePool", "", ("r1",), ("pooled",)),
    ExecutedNode("flatten", "Flatten", "", ("pooled",), ("flat",)),
    ExecutedNode("fc", "Gemm", "", ("flat", "fc.weight", "fc.bias"), ("y",)),
]


def joined(executed=EXECUTED, widths=(16, 32)):
    view = GraphView(load(conv_net(widths)))
    parts = layers(view)
    runs = ProfiledRuns(
        (1e-3, 1e-3),
        {node.name: ((i + 1) * 1e-6, (i + 2) * 1e-6) for i, node in enumerate(executed)},
    )
    return join_profile(find_origins(executed, view, parts), parts, runs, block=16)


def test_every_layer_has_one_row_and_inserted_nodes_have_their_own():
    rows = joined()
    assert [row.name for row in rows] == [
        "features.0.conv",
        "features.1.conv",
        "features.1.conv/ReorderOutput",
        "pool",
        "flatten",
        "fc",
    ]
    assert [row.implementation for row in rows[:3]] == ["nchwc16", "nchwc16", "reorder"]
    assert rows[2].key is None
    assert all(row.key is not None for row in rows if row.implementation != "reorder")
    assert rows[1].samples_s == (2e-6, 3e-6)


def test_a_layer_that_the_runtime_runs_in_two_nodes_is_one_row():
    split = [
        ExecutedNode("features.0.conv", "Conv", "", ("x", "w"), ("c0",)),
        ExecutedNode("features.0.relu", "Relu", "", ("c0",), ("r0",)),
        *EXECUTED[1:],
    ]
    first = joined(split)[0]
    assert (first.name, first.nodes, first.implementation) == ("features.0.conv", 2, "nchw")
    assert first.samples_s == pytest.approx((3e-6, 5e-6))


def test_a_layer_that_disappears_into_its_reader_keeps_its_name_if_it_is_the_heavier():
    """The runtime may fuse more than expected: pooling and flattening in one node that writes the
    flattened tensor.
    """
    fused = [*EXECUTED[:3], ExecutedNode("both", "Fused", "", ("r1",), ("flat",)), EXECUTED[5]]
    rows = joined(fused)
    assert len([row for row in rows if row.name in {"pool", "flatten"}]) == 1
    assert len(rows) == 5


def test_plain_convolutions_and_many_reorders_are_findings():
    plain = [ExecutedNode("features.0.conv", "Conv", "", ("x", "w"), ("r0",)), *EXECUTED[1:]]
    codes = {finding.code: finding.text for finding in layout_findings(joined(plain), 16)}
    assert (
        "1 of 2 convolutions run outside the blocked layout (features.0.conv)"
        in codes["unblocked_layers"]
    )
    assert layout_findings(joined(), 16) == ()


def test_a_renamed_node_that_writes_a_new_tensor_is_joined_by_its_name():
    """Quantised convolutions write tensors that the original graph does not have."""
    renamed = [
        ExecutedNode("features.0.conv_token_57", "QLinearConv", "com.microsoft", ("q",), ("new",)),
        *EXECUTED[1:],
    ]
    first = joined(renamed)[0]
    assert (first.name, first.implementation) == ("features.0.conv", "QLinearConv")


def test_quantised_layers_in_float_kernels_are_a_finding():
    key = LayerKey("Conv", ((1, 3, 8, 8),), (1, 4, 8, 8), (), "int8")
    rows = [
        LayerRow(name, "Conv", key, how, (1e-6,))
        for name, how in (("a", "nchw"), ("b", "QLinearConv"), ("c", "nchwc16"))
    ]
    (finding,) = layout_findings(rows, 16)
    assert finding.code == "fall_back"
    assert "2 of 3 quantised layers run in fp32 (a, c)" in finding.text


def event(name: str, ts: int, dur: int, cat: str = "Node") -> dict[str, object]:
    return {"name": name, "ts": ts, "dur": dur, "cat": cat}


def profile(runs: int = 3) -> list[dict[str, object]]:
    events = [event("model_loading", 0, 5, "Session")]
    for number in range(runs):
        start = 100 * (number + 1)
        events += [
            event("a_kernel_time", start + 1, 10 + number),
            event("b_kernel_time", start + 20, 5),
        ]
        events.append(event("model_run", start, 50, "Session"))
    return events


def test_profile_is_split_into_inferences_and_warm_up_is_skipped():
    seen = read_profile(profile(), last=2)
    assert seen.whole_s == pytest.approx((50e-6, 50e-6))
    assert seen.nodes_s["a"] == pytest.approx((11e-6, 12e-6))


def test_inferences_that_differ_in_nodes_are_refused():
    with pytest.raises(OutputParseError, match="differ"):
        read_profile(
            [e for e in profile() if not (e["name"] == "b_kernel_time" and e["ts"] == 320)], last=3
        )


def test_nodes_without_a_name_of_their_own_are_told_apart():
    """Functions that the runtime inlines leave several nodes of one name, or of none."""
    events = []
    for start in (0, 100):
        events += [event("a_kernel_time", start + 1, 3), event("a_kernel_time", start + 5, 4)]
        events.append(event("model_run", start, 50, "Session"))
    seen = read_profile(events)
    assert list(seen.nodes_s) == ["a", "a (2)"]
    assert seen.nodes_s["a (2)"] == pytest.approx((4e-6, 4e-6))


def test_nodes_inside_a_branch_or_loop_are_in_its_time_alone():
    """Even where the next node begins in the microsecond in which the branch ends."""
    events = []
    for start in (0, 100):
        inside = [event("x_kernel_time", start + 2, 3), event("y_kernel_time", start + 5, 4)]
        around = event("if_kernel_time", start + 2, 8) | {"args": {"op_name": "If"}}
        after = event("z_kernel_time", start + 10, 0)
        events += [event("w_kernel_time", start + 1, 1), *inside, around, after]
        events.append(event("model_run", start, 50, "Session"))
    seen = read_profile(events)
    assert list(seen.nodes_s) == ["w", "if", "z"]
    assert seen.entries == {"if": 3}
    assert seen.entries_count == 5
    calm = seen.take_off_bodies(1e-6)
    assert calm.nodes_s["if"] == pytest.approx([time_s - 2e-6 for time_s in seen.nodes_s["if"]])
    others = seen.nodes_s.keys() - {"if"}
    assert all(calm.nodes_s[name] == seen.nodes_s[name] for name in others)
    assert set(seen.take_off_bodies(1.0).nodes_s["if"]) == {0.0}


def test_too_few_inferences_are_refused():
    with pytest.raises(OutputParseError):
        read_profile(profile(1), last=2)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["name", "ts", "dur", "cat", "x"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(json_values)
def test_any_other_json_is_refused_in_one_way(value):
    with pytest.raises(OutputParseError):
        read_profile(value, last=1)
