"""The file: self-contained, small, safe, the same every time.

And what is said where there is nothing to show.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwbench.cli import main
from hwbench.errors import SchemaError, UsageError
from hwbench.records.times import parse_since
from hwbench.report import LIMIT_BYTES, make_report, page
from hwbench.report.contents import read
from hwbench.store import open_store
from tests.report.support import HOSTILE, data_of


def test_one_store_gives_the_same_bytes(url, report):
    assert make_report(store=url).html == report.html


def test_page_is_small(report):
    assert 100_000 < len(report.html.encode()) < LIMIT_BYTES


def test_nothing_is_loaded_from_elsewhere(report):
    scripts = [page.read_vendored(name) for name in page.read_manifest()]
    bare = report.html
    for script in scripts:
        assert script in bare
        bare = bare.replace(script, "")
    bare = bare.replace(json.dumps(data_of(report.html)), "")
    assert not re.search(
        r"https?:|//[a-z]+\.[a-z]+/|@import|\burl\(|\bfetch\(|XMLHttpRequest|\bimport\s*\(|<link|<iframe",
        bare,
    )
    assert not re.findall(r"""\b(?:src|href)\s*=\s*["'](?!#)[^"']""", bare.replace(HOSTILE, ""))
    assert "default-src 'none'" in bare


def test_hostile_names_stay_inside_the_data(report):
    assert "<img" not in report.html
    assert "onerror=" in report.html  # it is there, as text
    data = data_of(report.html)
    titles = [page["title"] for page in data["pages"]]
    assert HOSTILE.replace("\u202e", "\N{REPLACEMENT CHARACTER}") in titles
    assert (
        report.html.count("</script>")
        == report.html.count("<script")
        == 2 + len(page.read_manifest())
    )


@given(
    st.recursive(
        st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8
    )
)
def test_any_text_survives_in_a_script_element(value):
    text = page.escaped_json(value)
    assert json.loads(text) == value
    assert text.isascii()
    assert not set("<>&") & set(text)


def test_vendored_files_are_what_their_manifest_says():
    for name, facts in page.read_manifest().items():
        assert sha256(page.read_vendored(name).encode()).hexdigest() == facts["sha256"]
        assert "</script" not in page.read_vendored(name).lower()
        licence = page._read_asset(facts["licence_file"])
        assert facts["licence"] == "ISC"
        assert "Permission to use, copy, modify" in licence
        assert re.fullmatch(r"\d+\.\d+\.\d+", facts["version"])


def test_a_changed_library_is_refused(monkeypatch):
    name = next(iter(page.read_manifest()))
    monkeypatch.setattr(page, "_read_asset", lambda asked: "alert(1)")
    monkeypatch.setattr(page, "read_manifest", lambda: {name: {"sha256": "0" * 64}})
    with pytest.raises(SchemaError, match="expected 000000"):
        page.read_vendored(name)


def test_empty_store_says_what_to_do(tmp_path, capsys):
    assert (
        main(["report", "--store", str(tmp_path / "empty.db"), "-o", str(tmp_path / "report.html")])
        == 2
    )
    said = capsys.readouterr().err
    assert "nothing to report" in said
    assert "hwbench profile zoo:mobilenet_v1" in said
    assert not (tmp_path / "report.html").exists()


def test_command_writes_the_page(url, report, tmp_path, capsys):
    assert main(["report", "--store", url, "-o", str(tmp_path / "report.html")]) == 0
    assert "comparisons" in capsys.readouterr().out
    assert (tmp_path / "report.html").read_text() == report.html
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert main(["report", "--store", url, "-o", "-"]) == 0
    assert capsys.readouterr().out == report.html
    assert main(["report", "--store", url, "-o", str(tmp_path / "nowhere" / "report.html")]) == 2


def test_since_takes_a_date_or_days(url, capsys):
    assert main(["report", "--store", url, "--since", "7d", "-o", "-"]) == 0
    assert data_of(capsys.readouterr().out)["since"] == "7d"
    assert main(["report", "--store", url, "--since", "2999-01-01", "-o", "-"]) == 2
    assert "give an earlier --since" in capsys.readouterr().err
    assert main(["report", "--store", url, "--since", "yesterday", "-o", "-"]) == 2
    assert "write 2026-03-01, or 7d" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-03-01", datetime(2026, 3, 1, tzinfo=UTC)),
        ("2026-03-01T12:30:00+02:00", datetime(2026, 3, 1, 10, 30, tzinfo=UTC)),
    ],
)
def test_dates_are_read(text, moment):
    assert parse_since(text) == moment


def test_days_count_back_from_now():
    assert abs(datetime.now(UTC) - timedelta(days=7) - parse_since("7d")) < timedelta(minutes=5)
    with pytest.raises(UsageError, match="no date"):
        parse_since("999999d")


def test_since_leaves_out_what_is_older(url, report):
    newest = report.contents.measurements[0].started_utc
    after = (datetime.fromisoformat(newest) + timedelta(seconds=1)).isoformat()
    with open_store(url) as store, pytest.raises(UsageError, match="nothing to report"):
        read(store, after)


def test_a_store_too_large_for_a_page_is_said(url, monkeypatch):
    monkeypatch.setattr("hwbench.report.LIMIT_BYTES", 1000)
    with pytest.raises(UsageError, match="pass a later since"):
        make_report(store=url)


def test_sample_sets_shrink_before_the_page_grows(url, report, monkeypatch):
    monkeypatch.setattr("hwbench.report.LIMIT_BYTES", len(report.html.encode()) - 1)
    smaller = make_report(store=url)
    assert smaller.drawn < report.drawn
    assert len(smaller.html) < len(report.html)


def test_partial_records_are_shown_as_such(url, tmp_path):
    import shutil

    from hwbench.devices.virtual.device import Fault, Virtual
    from hwbench.errors import DeviceLostError
    from hwbench.measuring.sessions import measure
    from hwbench.records.measurement import Settings
    from hwbench.workflows.recording import recording
    from tests.support.models import told

    shutil.copy(url, tmp_path / "store.db")
    workload = told("broken")
    device = Virtual(faults=[Fault("lost", after_rounds=300)], latencies_s={workload.sha256: 0.01})
    with (
        device,
        pytest.raises(DeviceLostError),
        recording(str(tmp_path / "store.db"), save=True, callback=None) as recorder,
    ):
        measure(device, workload, Settings(layers=False), recorder)
    data = data_of(make_report(store=str(tmp_path / "store.db")).html)
    page = next(page for page in data["pages"] if page["title"] == "broken")
    assert "partial" in {code for code, _ in page["findings"]}
