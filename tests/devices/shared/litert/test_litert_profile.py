"""What LiteRT's profiler tells: how it is read, and whose work a row is."""

from __future__ import annotations

import json

import pytest

from hwbench.devices.shared.litert.alignment import align_rows
from hwbench.devices.shared.litert.layers import join_profile
from hwbench.devices.shared.litert.profile import Row, limit_short_rows, read_profile
from hwbench.errors import OutputParseError
from hwbench.network.tflite.graph import TfliteGraph
from tests.support.tflite import depthwise_network, half_network

CONV = "Convolution (NHWC, F32) IGEMM"
DEPTHWISE = "Convolution (NHWC, F32) DWConv"
POINT = "Fully Connected (NC, F32) GEMM"
XNNPACK_ROWS = (
    CONV, DEPTHWISE, POINT, "Add (ND)", "Clamp (NC)", "Sum (ND) Reduce2", POINT, "Softmax (NC, F32)"
)  # fmt: skip
"""How LiteRT 2.3.0 runs the small network: the pad and the first activation are in a kernel."""


def lines(*inferences: list[list[object]]) -> bytes:
    return "".join(json.dumps(inference) + "\n" for inference in inferences).encode()


def entry(tag: str, kind: int, index: int, microseconds: int, subgraph: int = 0) -> list[object]:
    return [tag, kind, index, subgraph, microseconds]


def rows_of(*tags: str) -> list[Row]:
    return [Row(tag, None, (10e-6, 20e-6)) for tag in tags]


def test_operators_are_told_from_what_surrounds_them_and_the_first_inference_is_left_out() -> None:
    inference = [
        entry("LiteRT::Run[buffer registration]", 1, 0, 9),
        entry("Invoke", 1, 0, 100),
        entry(CONV, 8, 0, 60),
        entry("WHILE", 2, 4, 20),
        entry("ADD", 2, 0, 19, subgraph=1),
        entry("Invoke", 32, 2**64 - 1, 1),
    ]
    first = [entry("AllocateTensors", 1, 0, 138718), *inference]
    conv, loop = read_profile(lines(first, inference, inference), 2)
    assert (conv.tag, conv.index, loop.index) == (CONV, None, 4)
    assert conv.samples_s == pytest.approx((60.5e-6, 60.5e-6))  # cut off, so half of one is missing
    assert loop.samples_s == pytest.approx((20e-6, 20e-6))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]\n",
        b"\xff\xfe\n" * 2,
        lines([["a"]], [["a"]]),
        lines([entry("ADD", 2, 0, -1)], [entry("ADD", 2, 0, -1)]),
        b'[["ADD",2,0,0,NaN]]\n' * 2,
        lines([[1, 2, 0, 0, 5]], [[1, 2, 0, 0, 5]]),
        lines([entry("ADD", 2, 0, 5)], [entry("MUL", 2, 0, 5)]),
        b"[" * 100_000 + b"\n" + b"[" * 100_000 + b"\n",
    ],
)
def test_what_is_no_profile_is_refused(data: bytes) -> None:
    with pytest.raises(OutputParseError) as refused:
        read_profile(data, 2)
    assert len(str(refused.value).splitlines()) == 1


def test_rows_too_short_for_the_profiler_do_not_add_up_to_more_than_there_was_time_for() -> None:
    short, long = Row("Add (ND)", None, (0.5e-6,) * 3), Row(CONV, None, (9.5e-6,) * 3)
    own = Row("RESHAPE", 3, (0.0,) * 3)
    roomy = limit_short_rows([long, short, short, own], 20e-6)
    assert roomy == (long, short, short, own)
    tight = limit_short_rows([long, short, short, own], 9.9e-6)
    assert tight[1].samples_s == pytest.approx((0.2e-6,) * 3)
    assert limit_short_rows([long, short], 9e-6)[1].samples_s == (0.0,) * 3


def test_every_row_of_xnnpack_finds_its_layer() -> None:
    workload = depthwise_network()
    rows, findings = join_profile(rows_of(*XNNPACK_ROWS), workload)
    assert [row.name for row in rows] == [
        "stem", "block/depthwise", "block/project", "block/add", "pool", "fc", "probs"
    ]  # fmt: skip
    assert findings == ()
    add = rows[3]
    assert add.samples_s == pytest.approx((20e-6, 40e-6))  # with its clamp
    assert [row.implementation for row in rows[:4]] == [
        "F32 IGEMM", "F32 DWConv", "F32 GEMM", "XNNPACK"
    ]  # fmt: skip


def test_rows_of_its_own_kernels_are_joined_by_their_number() -> None:
    workload = depthwise_network()
    graph = TfliteGraph(workload.artifact, workload.name)
    own = [Row(found.kind, found.index, (1e-6,)) for found in graph.operators]
    rows, findings = join_profile([*own, Row("TfLiteXNNPackDelegate", 99, (5e-6,))], workload)
    assert [row.name for row in rows] == [
        "stem", "block/depthwise", "block/project", "block/add", "pool", "fc", "probs"
    ]  # fmt: skip
    assert rows[0].nodes == 3
    assert {row.implementation for row in rows} == {"TFLite"}
    assert findings == ()


def test_a_fall_back_is_told_with_its_share_of_the_work() -> None:
    workload = depthwise_network()
    tags = [tag for tag in XNNPACK_ROWS if tag != "Sum (ND) Reduce2"]
    rows = [*rows_of(*tags), Row("MEAN", 7, (1e-6, 1e-6))]
    _, (finding,) = join_profile(rows, workload)
    assert finding.code == "partly_delegated"
    assert "1 of 10 operators (MEAN)" in finding.text
    assert "0.0% of the multiply-accumulates" in finding.text


def test_conversions_of_constants_are_part_of_the_layer_that_reads_them() -> None:
    workload = half_network()
    rows, findings = join_profile(
        [Row("DEQUANTIZE", 0, (1e-6,)), Row(CONV, None, (9e-6,))], workload
    )
    assert [(row.name, row.op, row.nodes) for row in rows] == [("conv", "Conv", 2)]
    assert rows[0].implementation == "F32 IGEMM"
    assert findings == ()


def test_where_xnnpack_was_not_asked_for_nothing_fell_back() -> None:
    rows = [Row("DEQUANTIZE", 0, (0.0,)), Row("CONV_2D", 1, (9e-6,))]
    assert join_profile(rows, half_network())[1] == ()


def test_what_belongs_to_no_layer_is_told() -> None:
    rows, findings = join_profile(rows_of(CONV, *XNNPACK_ROWS), depthwise_network())
    assert len([row for row in rows if row.key is None]) == 1
    assert "layers_unknown" in {finding.code for finding in findings}


def test_rows_are_aligned_in_order_whatever_lies_between() -> None:
    graph = TfliteGraph(depthwise_network().artifact, "net")
    tags = ["Transpose (ND, X32) Transpose", *XNNPACK_ROWS, "Copy (NC, X32)"]
    found = align_rows(tags, graph.operators)
    names = [None if operator is None else operator.kind for operator in found]
    assert names[1:4] == ["CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D"]
    assert names[4:-1] == ["ADD", "RELU", "MEAN", "FULLY_CONNECTED", "SOFTMAX"]
    assert align_rows(tags, []) == [None] * len(tags)
