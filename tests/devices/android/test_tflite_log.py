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
