"""Files appear under their name when they are complete, and nothing is written through a link."""

from __future__ import annotations

import pytest

from hwbench.records.whole_files import whole_file


def test_it_appears_when_it_is_complete(tmp_path):
    target = tmp_path / "page.html"
    target.write_text("old")
    with whole_file(target) as file:
        file.write(b"new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
def test_after_an_error_nothing_has_changed(tmp_path, error):
    target = tmp_path / "page.html"
    target.write_text("old")

    def write_half():
        with whole_file(target) as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        write_half()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("left", ["a file", "a link", "a link to nothing"])
def test_what_lies_in_the_way_is_replaced_and_not_written_through(tmp_path, left):
    precious, part = tmp_path / "precious", tmp_path / "page.html.part"
    precious.write_text("all of it")
    if left == "a file":
        part.write_text("half of an earlier page, longer than the new one")
    else:
        part.symlink_to(precious if left == "a link" else tmp_path / "nothing")
    with whole_file(tmp_path / "page.html") as file:
        file.write(b"new")
    assert (tmp_path / "page.html").read_text() == "new"
    assert not (tmp_path / "page.html").is_symlink()
    assert precious.read_text() == "all of it"
    assert not (tmp_path / "nothing").exists()
    assert not part.exists()
