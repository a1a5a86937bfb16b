"""The examples of the page about loops run one after the other, as a reader would type them."""

from __future__ import annotations

import pytest

from tests.docs.pages import blocks


def test_every_example_runs(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("HWBENCH_STORE", str(tmp_path / "store.db"))
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for number, code in enumerate(blocks("loops.md", "python")):
        exec(compile(code, f"docs/loops.md, example {number}", "exec", dont_inherit=True), names)
    assert names["prediction"].latency_s == pytest.approx(0.0722, rel=0.02)
    assert "Google Pixel 1" in capsys.readouterr().out
