"""`hw_benchmark` beside pytest-benchmark: its table, files, comparisons and switches hold device
seconds; and without it.
"""

from __future__ import annotations

import json
from importlib.util import find_spec

import pytest

from hwbench.store import open_store

pytest_plugins = ("pytester",)
ONE = """
def test_net(hw_benchmark):
    record = hw_benchmark("net.onnx")
    assert 1e-5 < record.median_s < 1e-2
"""
SAVE = ("--benchmark-save", "base")
GATE = (
    "--benchmark-compare",
    "--benchmark-compare-fail",
    "median:5%",
    "-W",
    "ignore:Benchmark machine_info is different",
)
"""Another seed is another address, so pytest-benchmark warns of another device."""


def saved(suite):
    """The only benchmark of the only saved run."""
    (path,) = suite.folder.glob(".benchmarks/*/*.json")
    (found,) = json.loads(path.read_text())["benchmarks"]
    return found


def test_table_and_saved_file_hold_the_samples_of_the_device(suite):
    suite.tests(ONE)
    result = suite.run(*SAVE, "--benchmark-save-data", "--benchmark-columns", "median,rounds")
    result.assert_outcomes(passed=1)
    (kept,) = suite.kept()
    with open_store(str(suite.store)) as opened:
        record = opened.get(kept)
    found = saved(suite)
    assert found["stats"]["data"] == list(record.series.samples_s)
    assert found["stats"]["rounds"] == len(record.series.samples_s)
    assert found["extra_info"]["hwbench"]["record"] == record.id
    assert found["extra_info"]["hwbench"]["median_s"] == record.median_s
    assert found["options"]["timer"] == "device_seconds"
    result.stdout.fnmatch_lines([f"test_net * {len(record.series.samples_s)}*"])
    result.stdout.fnmatch_lines([f"  net.onnx: 2.* ms (95 % interval * to *); record {kept[:12]}"])


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(("net", "regressed"), [("slower", True), ("twin", False)])
def test_compare_fail_sees_a_planted_regression_and_nothing_else(suite, seed, net, regressed):
    suite.tests(ONE)
    suite.run(*SAVE, device=f"virtual:seed={seed}").assert_outcomes(passed=1)
    suite.put(net, "net")
    result = suite.run(*GATE, device=f"virtual:seed={seed + 100}")
    assert (result.ret != 0) is regressed
    output = result.stdout.str() + result.stderr.str()
    assert "test_latency.py ." in output  # the test itself passes in any case
    assert ("Performance has regressed" in output) is regressed
    assert "test_net (NOW)" in output
    assert "hwbench on virtual" in output


def test_a_run_on_another_device_is_pointed_out(suite):
    suite.tests(ONE)
    suite.run(*SAVE, device="virtual:seed=1").assert_outcomes(passed=1)
    result = suite.run(
        "--benchmark-compare", "-W", "default", device="virtual:seed=1,step=8", apart=True
    )
    assert "machine_info is different" in result.stdout.str() + result.stderr.str()


@pytest.mark.skipif(
    find_spec("pygal") is None, reason="needs pygal: pip install pytest-benchmark[histogram]"
)
def test_histogram_is_drawn(suite):
    suite.tests(ONE)
    suite.run("--benchmark-histogram", "picture", "-W", "default", apart=True).assert_outcomes(
        passed=1
    )
    (picture,) = suite.folder.glob("picture*.svg")
    assert "test_net" in picture.read_text()


def test_markers_of_the_user_still_count(suite):
    suite.tests('import pytest\n@pytest.mark.benchmark(group="small", timer=len)' + ONE)
    suite.run(*SAVE).assert_outcomes(passed=1)
    assert saved(suite)["group"] == "small"
    assert saved(suite)["options"]["timer"] == "device_seconds"


def test_order_of_arguments_does_not_matter(suite):
    suite.tests(ONE.replace("(hw_benchmark)", "(benchmark, hw_benchmark)"))
    suite.run(*SAVE).assert_outcomes(passed=1)
    assert saved(suite)["options"]["timer"] == "device_seconds"


def test_parametrized_tests_and_fixtures_in_between(suite):
    suite.tests("""
        import pytest

        @pytest.fixture
        def latency_s(hw_benchmark):
            return lambda model: hw_benchmark(model).median_s

        @pytest.mark.parametrize("model", ["net.onnx", "slower.onnx"])
        def test(latency_s, model):
            assert latency_s(model) > 0
        """)
    result = suite.run()
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(
        [
            "test_latency.py::test[[]net.onnx[]]",
            "  net.onnx: *",
            "test_latency.py::test[[]slower.onnx[]]",
        ]
    )


def test_disabled_benchmarks_only_see_that_the_workload_runs(suite):
    suite.tests(ONE)
    result = suite.run("--benchmark-disable")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["  net.onnx: *; not kept"])
    assert not suite.kept()
    (suite.folder / "net.onnx").write_bytes(b"no network")
    suite.run("--benchmark-disable").assert_outcomes(failed=1)


def test_skipped_benchmarks_do_not_open_the_device(suite):
    suite.tests(ONE)
    suite.run("--benchmark-skip", device="virtual:fault=open").assert_outcomes(skipped=1)
    suite.run(device="virtual:fault=open").assert_outcomes(errors=1)


def test_only_benchmarks(suite):
    suite.tests(ONE + "\ndef test_other(): pass\n")
    suite.run("--benchmark-only").assert_outcomes(passed=1, skipped=1)


def test_profiling_the_host_asks_for_more_rounds_than_there_are_samples(suite):
    suite.tests(ONE)
    suite.run("--benchmark-cprofile", "cumtime").assert_outcomes(passed=1)


def test_without_pytest_benchmark(suite):
    suite.tests(ONE)
    result = suite.run("-p", "no:benchmark")
    result.assert_outcomes(passed=1)
    (kept,) = suite.kept()
    result.stdout.fnmatch_lines([f"  net.onnx: 2.* ms (95 % interval * to *); record {kept[:12]}"])


@pytest.mark.parametrize("other", [(), ("-p", "no:benchmark")])
def test_a_second_workload_is_refused(suite, other):
    suite.tests(
        'def test(hw_benchmark):\n    hw_benchmark("net.onnx")\n    hw_benchmark("twin.onnx")\n'
    )
    result = suite.run(*other)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*UsageError: hw_benchmark has measured net.onnx in this test already*parametrize*"]
    )
    assert len(suite.kept()) == 1


def test_a_timer_that_came_too_late_is_refused(suite):
    suite.tests('def test(request):\n    request.getfixturevalue("hw_benchmark")("net.onnx")\n')
    result = suite.run("-W", "default")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*hw_benchmark must be an argument of the test*"])


def test_properties_reach_junit(suite):
    suite.tests(ONE)
    suite.run("--junitxml", "report.xml").assert_outcomes(passed=1)
    assert f"record {suite.kept()[0][:12]}" in (suite.folder / "report.xml").read_text()
