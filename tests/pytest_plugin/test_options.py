"""Options: on the command line, in the ini file, wrong.

And what the plugin costs runs that do not use it.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from hwbench.store import open_store
from tests.test_architecture import HEAVY

pytest_plugins = ("pytester",)
ONE = 'def test(hw_benchmark): hw_benchmark("net.onnx")'


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("budget", "soon", "seconds"),
        ("budget", "-1", "seconds"),
        ("budget", "inf", "seconds"),
        ("min-effect", "0", "1% or 0.01"),
        ("min-effect", "150%", "1% or 0.01"),
        ("threads", "0", "a whole number"),
        ("threads", "1.5", "a whole number"),
        ("unresolved", "pass", "xfail or fail"),
        ("wait", "0", "seconds"),
    ],
)
def test_wrong_values_end_the_run(suite, name, text, expected):
    suite.tests("def test_other(): pass")
    on_line = suite.run(f"--hwbench-{name}={text}")
    suite.ini(f"hwbench_{name.replace('-', '_')} = {text}")
    in_file = suite.run()
    for result, said in (
        (on_line, f"--hwbench-{name}"),
        (in_file, f"hwbench_{name.replace('-', '_')}"),
    ):
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines([f"*{said}: '{text}' where {expected} was expected (*)"])


def test_the_ini_file_is_used_and_the_command_line_wins(suite):
    suite.tests(ONE)
    suite.ini(
        "hwbench_device = virtual:seed=5",
        "hwbench_budget = 7",
        "hwbench_threads = 2",
        "hwbench_min_effect = 3%",
    )
    result = suite.run("--hwbench-budget", "4", device=None)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["hwbench: device virtual:seed=5"])
    with open_store(str(suite.store)) as opened:
        record = opened.get(suite.kept()[0])
    assert record.device.address == "virtual:seed=5"
    assert (record.settings.budget_s, record.settings.threads, record.settings.min_effect) == (
        4.0,
        2,
        0.03,
    )


def test_the_smallest_effect_decides(suite):
    suite.tests('def test(assert_faster): assert_faster("net.onnx", "slower.onnx", at_least=1)')
    suite.run().assert_outcomes(failed=1)
    suite.run("--hwbench-min-effect", "20%").assert_outcomes(passed=1)


def test_records_go_where_they_are_asked_to(suite):
    suite.tests(ONE)
    result = suite.run("--hwbench-store", "here.db")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["samples and layers: hwbench store show RECORD --store here.db"])
    assert not suite.kept()
    with open_store(str(suite.folder / "here.db")) as opened:
        assert len(opened.list()) == 1


def test_settings_of_a_call_win(suite):
    suite.tests("""
        from hwbench import Settings

        def test(hw_benchmark):
            assert hw_benchmark("net.onnx", settings=Settings(budget_s=3, layers=False)).profile is None
        """)
    suite.run("--hwbench-budget", "4").assert_outcomes(passed=1)
    with open_store(str(suite.store)) as opened:
        assert opened.get(suite.kept()[0]).settings.budget_s == 3


def test_runs_that_do_not_measure_load_and_say_nothing(suite):
    suite.pytester.makeconftest(f"""
        import sys

        def pytest_unconfigure():
            loaded = [name for name in {(*HEAVY, "numpy", "hwbench.measuring.sessions", "hwbench.devices")!r} if name in sys.modules]
            sys.stderr.write(f"loaded {{loaded}}")
        """)
    suite.tests("def test_other(): pass")
    result = suite.run(device=None, apart=True)
    result.assert_outcomes(passed=1)
    result.stderr.fnmatch_lines([r"loaded [[][]]"])
    assert "hwbench on" not in result.stdout.str()
    assert "hwbench:" not in result.stdout.str()


def test_the_entry_point_can_be_switched_off(suite):
    suite.tests(ONE)
    result = suite.run("-p", "no:hwbench", device=None)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*fixture 'hw_benchmark' not found"])


def test_importing_the_plugin_loads_nothing_heavy():
    code = (
        f"import hwbench.pytest_plugin, sys; print([m for m in {(*HEAVY, 'numpy')!r} if m in"
        " sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert found.stdout.strip() == "[]"
