"""Records that the tests of the store keep, and ways to damage them."""

from __future__ import annotations

import io
from dataclasses import replace

import sqlalchemy as sa
from hypothesis import strategies as st

from hwbench.records.device import Conditions, DeviceInfo
from hwbench.records.findings import Finding
from hwbench.records.layer_key import LayerKey
from hwbench.records.measurement import LayerLatency, LayerProfile, Measurement, Settings
from hwbench.records.series import Series
from hwbench.records.tensors import TensorSpec
from hwbench.store import Store, open_store
from hwbench.workflows.sync_store import BATCH

SECONDS = st.floats(min_value=5e-324, max_value=1e300)
"""Any latency that can be stored."""
MEASURED, OTHERS = 10, 2 * BATCH
TOTAL = MEASURED + OTHERS
"""Records of the store that the fixture `source` gives."""


def measurement(**changes: object) -> Measurement:
    """A record with something in every field."""
    key = LayerKey("Conv", ((1, 3, 8, 8),), (1, 4, 8, 8), (("kernel", "3x3"),))
    profile = LayerProfile(
        (
            LayerLatency("conv", "Conv", key, "nchwc16", 1e-4),
            LayerLatency("r", "Reorder", None, "", 2e-5),
        ),
        2e-4,
        1e-6,
        "rest",
    )
    record = Measurement(
        id="0123abc",
        group_id="g",
        model="zoo:resnet18",
        model_sha256="5" * 64,
        inputs=(TensorSpec("x", (1, 3, 8, 8)),),
        batch=1,
        precision="fp32",
        macs=7,
        params=8,
        file_bytes=9,
        peak_memory_bytes=10,
        device=DeviceInfo("cpu", "some CPU", "cpu-1", "onnxruntime 1", (("a", "b"),)),
        settings=Settings(seed=4),
        clock="perf_counter",
        loops=2,
        series=Series((0.1, 0.2, 0.30000000000000004, 0.4), (0, 0, 1, 0), (0, 1, 2, 3)),
        warm_up=Series((1e-300, 0.6), (0, 1)),
        before=Conditions("2024-01-01T00:00:00+00:00", (1e9,), "performance"),
        after=Conditions("2024-01-01T00:01:00+00:00", throttled=True),
        findings=(Finding("drift", "it drifted by 5 %"),),
        profile=profile,
        started_utc="2024-01-01T00:00:00+00:00",
        hwbench_version="0.1.0",
        commit=None,
        complete=True,
    )
    return replace(record, **changes)  # type: ignore[arg-type]


def begun(record: Measurement) -> Measurement:
    """The same without samples, as it is when measuring begins."""
    return replace(record, series=Series(), warm_up=Series())


def change(store: Store, statement: str, **values: object) -> None:
    """Change the database behind the store's back."""
    with store._engine.begin() as connection:
        connection.execute(sa.text(statement), values)


def everything(address: str) -> str:
    """All records of a store as text."""
    written = io.StringIO()
    with open_store(address, create=False) as store:
        store.export(written)
    return written.getvalue()
