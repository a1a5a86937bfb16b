"""Logs of TensorFlow Lite's benchmark_model, old and new, as text and as CSV."""

from __future__ import annotations

import pytest

from hwbench.devices.android import tflite_log
from hwbench.devices.android.tflite_log import Operator, Runs
from hwbench.errors import OutputParseError
from hwbench.lookup_tables.exchange import foreign_files
from hwbench.lookup_tables.exchange.foreign_files import TfliteLog
from tests.support.paths import DATA, ROOT

NEW = (DATA / "tflite_2024.txt").read_text()
PIXEL1 = ROOT / "hwbench" / "lookup_tables" / "data" / "pixel1"
OLD = (PIXEL1 / "mobilenet_run1.txt").read_text()


def codes(log: TfliteLog) -> dict[str, str]:
    return {finding.code: finding.text for finding in log.findings}


def operators_s(log: TfliteLog) -> float:
    """The operators' seconds of one inference; those below the log's resolution are left out."""
    return sum(row.mean_s * row.calls for row in log.operators if row.mean_s is not None)


def test_old_form_keeps_warm_up_and_timed_runs_apart():
    log = tflite_log.parse(OLD)
    assert log.warm_up == Runs(0.123679, 100, 0.135716, 0.117861, 0.16337, 0.005429)
    assert log.timed == Runs(0.123162, 200, 0.12919, 0.117812, 0.152764, 0.003455)
    assert log.profiled is not None
    assert log.profiled.count == 300
    assert dict(log.parameters)["Num threads"] == "1"
    assert dict(log.parameters)["Graph"].endswith("mobilenet_v1_1.0_224.tflite")


def test_old_form_says_that_operators_include_the_warm_up():
    log = tflite_log.parse(OLD)
    assert log.includes_warm_up
    assert "100 warm-up runs" in codes(log)["averages_include_warm_up"]
    assert not tflite_log.parse(NEW).includes_warm_up


def test_rows_of_the_old_form_are_in_execution_order():
    rows = tflite_log.parse(OLD).operators
    assert len(rows) == 31
    assert rows[0] == Operator(
        "CONV_2D", "MobilenetV1/MobilenetV1/Conv2d_0/Relu6", pytest.approx(4.245e-3), 1
    )
    assert [row.kind for row in rows[-4:]] == ["AVERAGE_POOL_2D", "CONV_2D", "SQUEEZE", "SOFTMAX"]


def test_operators_of_every_pixel_1_log_sum_to_its_end_to_end_latency():
    logs = [foreign_files.read(path) for path in PIXEL1.glob("*_run*.txt")]
    assert len(logs) == 9
    for log in logs:
        assert operators_s(log) == pytest.approx(log.profiled.mean_s, rel=0.005)


def test_new_form_leaves_the_initialization_out():
    log = foreign_files.read(DATA / "tflite_2024.txt")
    assert isinstance(log, TfliteLog)
    assert [row.kind for row in log.operators[:3]] == ["CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D"]
    assert log.operators[1] == Operator(
        "DEPTHWISE_CONV_2D", "net/dw1/Relu6;net/dw1/bn", pytest.approx(148e-6), 1
    )
    assert (log.warm_up.count, log.timed.count, log.profiled.count) == (589, 1176, 1176)
    assert log.timed.median_s == 845e-6
    assert log.profiled.mean_s == 841e-6


def test_a_row_shown_as_0_is_below_the_resolution_and_not_a_latency():
    log = tflite_log.parse(NEW)
    assert [row.mean_s for row in log.operators if row.kind == "RESHAPE"] == [None]
    assert "net/squeeze" in codes(log)["below_resolution"]


def test_a_flag_that_the_tool_did_not_know_is_a_finding():
    assert "--use_turbo=true" in codes(tflite_log.parse(NEW))["unknown_flags"]
    assert "unknown_flags" not in codes(tflite_log.parse(OLD))


def test_csv_holds_operators_alone_with_more_digits():
    log = foreign_files.read(DATA / "tflite_profile.csv")
    assert isinstance(log, TfliteLog)
    assert (log.warm_up, log.timed) == (None, None)
    assert log.operators[0].mean_s == pytest.approx(398.43e-6)
    assert [row.kind for row in log.operators] == [
        row.kind for row in tflite_log.parse(NEW).operators
    ]
    assert operators_s(log) == pytest.approx(log.profiled.mean_s, rel=0.005)


def test_logcat_prefixes_change_nothing():
    prefixed = "\n".join(
        f"07-14 13:14:52.097 22838 22838 I tflite  : {line}" for line in NEW.splitlines()
    )
    assert tflite_log.parse(prefixed) == tflite_log.parse(NEW)


def test_a_log_aligned_with_spaces_instead_of_tabs_is_read():
    """As copied from a terminal; a node type may then reach beyond its column."""
    table = "\n".join(
        [
            "Operator-wise Profiling Info for Regular Benchmark Runs:",
            "============================== Run Order ==============================",
            (
                "            [node type]  [first]  [avg ms]      [%]    [cdf%]  [mem KB] [times"
                " called] [Name]"
            ),
            (
                "    TfLiteNnapiDelegate    3.826     4.011  97.189%   97.189%     0.000         1 "
                "     []:64"
            ),
            (
                "RESIZE_NEAREST_NEIGHBOR    0.052     0.058   2.811%  100.000%     0.000         2 "
                "     []:38"
            ),
        ]
    )
    log = tflite_log.parse(table)
    assert [(row.kind, row.name, row.calls) for row in log.operators] == [
        ("TfLiteNnapiDelegate", "", 1),
        ("RESIZE_NEAREST_NEIGHBOR", "", 2),
    ]
    assert operators_s(log) == pytest.approx(4.127e-3)
    assert "TfLiteNnapiDelegate" in codes(log)["delegated"]


def test_the_summary_alone_is_enough():
    log = tflite_log.parse(
        "Inference timings in us: Init: 25558, First inference: 9992420, Warmup (avg): 9.99242e+06,"
        " Inference (avg): 8459.69"
    )
    assert (log.warm_up, log.timed, log.operators) == (
        Runs(9.99242),
        Runs(pytest.approx(8459.69e-6)),
        (),
    )


def test_runs_that_all_took_the_same_are_told_by_the_last():
    assert tflite_log.parse("count=5 curr=33(all same)\n").timed == Runs(33e-6, 5)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("avg=845.5", "avg=nan", "expected a time"),
        ("avg=845.5", "avg=0", "time above 0"),
        ("avg=845.5", "avg=-3", "expected a time"),
        ("0.398\t 47", "0,398\t 47", "expected a time"),
        ("0.398\t 47", "-0.398\t 47", "expected a time"),
        ("0.398\t 47", " 47", "7 cells"),
        ("        1\t[net/conv0/Relu6]:0", "      one\t[net/conv0/Relu6]:0", "whole number"),
        ("7 nodes observed", "8 nodes observed", "7 of 8 operators"),
        ("INFO: Initialized", "STARTING!\nINFO: Initialized", "several executions"),
        ("count=589", "count=1 curr=3\ncount=589", "3 phases"),
        ("[avg ms]", "[average]", "no header"),
    ],
)
def test_damage_is_an_error_and_never_a_latency(old, new, message):
    assert old in NEW
    with pytest.raises(OutputParseError, match=message):
        tflite_log.parse(NEW.replace(old, new))


def test_a_log_cut_off_in_its_table_is_refused():
    cut = OLD[: OLD.index("Conv2d_7_pointwise")]
    with pytest.raises(OutputParseError, match="cut off"):
        tflite_log.parse(cut)
    with pytest.raises(OutputParseError, match="no timings"):
        tflite_log.parse(OLD[: OLD.index("native : benchmark_tflite_model.cc:440")], "x.txt")


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        (
            (
                "INFO: Explicitly applied GPU delegate, and the model graph will be completely"
                " executed by the delegate."
            ),
            "delegate",
            "completely executed",
        ),
        (
            (
                "Explicitly applied NNAPI delegate, and the model graph will be partially executed"
                " by the delegate w/ 44 kernels."
            ),
            "partly_delegated",
            "partially executed by the delegate w/ 44",
        ),
        (
            (
                "Though EXTERNAL delegate is explicitly applied, the model graph will not be"
                " executed by the delegate."
            ),
            "not_delegated",
            "EXTERNAL",
        ),
        (
            (
                "VERBOSE: Replacing 30 out of 31 node(s) with delegate (TfLiteXNNPackDelegate)"
                " node, yielding 2 partitions."
            ),
            "partly_delegated",
            "TfLiteXNNPackDelegate took 30 of 31",
        ),
        ("INFO: Created TensorFlow Lite XNNPACK delegate for CPU.", "xnnpack", "by itself"),
    ],
)
def test_who_computed_is_a_finding(line: str, code: str, words: str):
    assert (
        words
        in codes(
            tflite_log.parse(NEW.replace("Initialized session", f"{line}\nInitialized session", 1))
        )[code]
    )


def test_a_delegate_that_was_asked_for_did_not_come_by_itself():
    lines = (
        "INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\nVERBOSE: Replacing 31 out of 31"
        " node(s) with delegate (TfLiteXNNPackDelegate) node, yielding 1 partitions.\nINFO:"
        " Explicitly applied XNNPACK delegate, and the model graph will be completely executed by"
        " the delegate.\n"
    )
    found = codes(tflite_log.parse(lines + NEW))
    assert {"xnnpack", "partly_delegated"}.isdisjoint(found)
    assert "completely" in found["delegate"]
    assert {"delegate", "xnnpack"}.isdisjoint(codes(tflite_log.parse(NEW)))


def test_cells_that_hold_commas_are_read_by_their_columns():
    """XNNPACK's operators do (`Convolution (NHWC, F32) IGEMM`)."""
    log = foreign_files.read(DATA / "tflite_xnnpack_2026.csv")
    assert isinstance(log, TfliteLog)
    assert [row.kind for row in log.operators] == [
        "Transpose (ND, X32) Transpose",
        "Convolution (NHWC, F32) IGEMM",
        "Convolution (NHWC, F32) DWConv",
        "Fully Connected (NC, F32) GEMM",
        "Sum (ND) Reduce2",
    ]
    assert log.operators[1].mean_s == pytest.approx(61.86e-6)
    assert operators_s(log) == pytest.approx(log.profiled.mean_s)
    assert not log.findings


def test_a_number_with_a_comma_is_no_further_cell():
    text = (DATA / "tflite_xnnpack_2026.csv").read_text()
    with pytest.raises(OutputParseError, match="12 cells"):
        tflite_log.parse(text.replace("0.058, 0.06186, 12.4995%", "0,058, 0,06186, 12,4995%"))


@pytest.mark.parametrize(
    ("file", "rows", "runs", "whole_s"),
    [("litert_2026.txt", 64, 30, 341.239e-3 / 30), ("tflite_wasm_2023.txt", 3, 10, 4.2699e-3)],
)
def test_a_table_over_all_inferences_is_brought_to_one(file, rows, runs, whole_s):
    log = foreign_files.read(DATA / file)
    assert isinstance(log, TfliteLog)
    assert [row.calls for row in log.operators] == [1] * rows
    assert log.profiled == Runs(pytest.approx(whole_s), runs)
    assert operators_s(log) == pytest.approx(whole_s, rel=1e-3)
    assert f"all {runs} inferences" in codes(log)["summed_runs"]


def test_an_operator_of_the_first_inference_alone_keeps_its_share():
    text = (DATA / "litert_2026.txt").read_text()
    once = text.replace(
        "0.059%    35.643%      0.000             30", "0.059%    35.643%      0.000              1"
    )
    row = tflite_log.parse(once).operators[9]
    assert (row.calls, row.mean_s) == (1, pytest.approx(7e-6 / 30))


def test_operators_that_were_really_called_often_stay_so():
    """As where the spread of latencies shows that the table tells inferences apart."""
    text = (DATA / "tflite_xnnpack_2026.csv").read_text().replace("%, 0, 1, ", "%, 0, 3, ")
    log = tflite_log.parse(text)
    assert {row.calls for row in log.operators} == {3}
    assert "summed_runs" not in codes(log)


def test_operators_of_litert_are_called_as_xnnpack_calls_them():
    log = tflite_log.parse((DATA / "litert_2026.txt").read_text())
    assert (log.operators[0].kind, log.operators[0].name) == ("Convolution (NHWC, F32) IGEMM", "")
    assert log.operators[62].kind == "Mean (ND) Reduce2"
    assert "delegated" not in codes(log)


def with_one_delegate() -> str:
    """A log of a network that one delegate executed whole, its operators in any order."""
    text = (DATA / "tflite_wasm_2023.txt").read_text()
    lines = [line for line in text.splitlines() if "]:5" not in line and "]:2" not in line]
    text = "\n".join(lines).replace(":0]", "]").replace("3 nodes observed", "1 nodes observed", 1)
    text = text.replace(" 74.934%", "100.000%", 1)
    return text.replace(
        "Delegate/Fully Connected (NC, F32) GEMM:0", "Delegate/Fully Connected (NC, F32) GEMM:2"
    )


def test_the_table_of_a_delegate_takes_the_place_of_its_row():
    log = tflite_log.parse(with_one_delegate())
    assert [row.kind for row in log.operators] == [
        "Transpose (ND, X32)",
        "Convolution (NHWC, F32) IGEMM",
        "Fully Connected (NC, F32) GEMM",
    ]
    assert "TfLiteXNNPackDelegate" in codes(log)["delegate_rows"]
    assert {"more_tables", "delegated"}.isdisjoint(codes(log))


def test_two_delegates_share_a_table_that_tells_neither():
    log = foreign_files.read(DATA / "tflite_wasm_2023.txt")
    assert isinstance(log, TfliteLog)
    assert {"more_tables", "delegated"} <= set(codes(log))


PREFIXES = {
    "GitHub Actions": "2026-11-30T12:{i:02d}:56.1234567Z ",
    "a container": "bench-1  | ",
    "Jenkins": "[2026-11-30T12:{i:02d}:01.123Z] ",
    "syslog": "Nov 30 12:{i:02d}:56 runner bench[4711]: ",
    "seconds of a kernel": "[{i:5d}.123456] ",
    "an indentation": "    ",
    "a logger": "I tflite : ",
    "a terminal's colours": "\x1b[0m\x1b[36m",
}


@pytest.mark.parametrize("prefix", PREFIXES.values(), ids=PREFIXES)
@pytest.mark.parametrize(
    "file", ["tflite_2024.txt", "tflite_xnnpack_2026.csv", "litert_2026.txt", "pixel1"]
)
def test_what_other_programs_put_before_lines_changes_nothing(prefix, file):
    text = OLD if file == "pixel1" else (DATA / file).read_text()
    lines = [prefix.format(i=i % 60) + line for i, line in enumerate(text.splitlines())]
    assert tflite_log.parse("\n".join(map(str.rstrip, lines))) == tflite_log.parse(text)
