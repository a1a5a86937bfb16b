"""Random bytes and mutations of good files: a workload or one HwbenchError, never another
exception, a crash or a mark.
"""

import io
import zipfile
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwbench.errors import HwbenchError
from hwbench.network.intake import archives, load_workload, pickles
from tests.support.saved_models import TinyNet, plain, save

STARTS = (
    b"",
    b"PK\x03\x04",
    b"PK\x05\x06",
    b"\x80\x02",
    b"\x80\x04",
    b"\x08\x0a",
    b"\x08\x0a:\x20",
)


@cache
def good(how):
    with TemporaryDirectory() as folder:
        path = Path(folder) / "m"
        if how == "legacy":
            torch.save(TinyNet().state_dict(), path, _use_new_zipfile_serialization=False)
            return path.read_bytes()
        return save(TinyNet() if how == "legacy_onnx" else plain(), how, path).read_bytes()


@st.composite
def mutated(draw, data):
    """`data` with a few bytes replaced, removed or put in, or cut short."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(changed) - 1)))
        kind = draw(st.sampled_from(["replace", "remove", "insert", "cut"]))
        if kind == "replace":
            changed[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
        elif kind == "remove":
            del changed[at : at + draw(st.integers(1, 16))]
        elif kind == "insert":
            changed[at:at] = draw(st.binary(min_size=1, max_size=8))
        else:
            del changed[at:]
    return bytes(changed)


@st.composite
def mutated_member(draw, how):
    """An archive in good order in which one member that torch interprets was mutated."""
    with zipfile.ZipFile(io.BytesIO(good(how))) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    chosen = draw(
        st.sampled_from(
            [
                name
                for name in content
                if name.endswith((".pkl", ".py", ".json", "version", "archive_format"))
            ]
        )
    )
    content[chosen] = draw(mutated(content[chosen]))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def load(data, loader=load_workload):
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt"
        path.write_bytes(data)
        try:
            loader(path)
        except HwbenchError as error:
            assert error.exit_code == 2
            assert len(str(error).splitlines()) == 1
        assert list(Path(folder).iterdir()) == [path]


def quick(examples):
    return settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))


@quick(150)
@given(st.sampled_from(STARTS), st.binary(min_size=1, max_size=200))
def test_random_bytes(start, data):
    load(start + data)


@quick(120)
@given(st.data())
def test_mutated_onnx(data):
    load(data.draw(mutated(good("legacy_onnx"))))


@quick(200)
@given(st.data())
def test_mutated_archives_before_torch_sees_them(data):
    how = data.draw(st.sampled_from(["program", "traced", "module", "state_dict", "legacy"]))
    change = (
        mutated(good(how)) if how == "legacy" or data.draw(st.booleans()) else mutated_member(how)
    )
    load(data.draw(change), archives.inspect)


@pytest.mark.slow
@quick(8)
@given(st.data())
def test_mutated_archives_through_torch(data):
    how = data.draw(st.sampled_from(["program", "traced", "module", "legacy"]))
    load(data.draw(mutated(good(how)) if how == "legacy" else mutated_member(how)))


@quick(300)
@given(st.binary(max_size=120))
def test_the_pickle_scanner_and_the_shape_reader_take_anything(data):
    assert isinstance(pickles.read_traced_inputs(b"\x80\x02" + data), tuple)


@quick(200)
@given(st.data())
def test_mutated_traced_inputs_are_shapes_or_nothing(data):
    with zipfile.ZipFile(io.BytesIO(good("traced"))) as archive:
        original = archive.read(
            next(name for name in archive.namelist() if name.endswith("traced_inputs.pkl"))
        )
    assert pickles.read_traced_inputs(original)[0].shape == (1, 3, 16, 16)
    for spec in pickles.read_traced_inputs(data.draw(mutated(original))):
        assert all(isinstance(size, int) for size in spec.shape)
