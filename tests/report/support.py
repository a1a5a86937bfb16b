"""A store that workflows filled on the simulated device, and the page made of it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import onnx

from hwbench.devices.virtual.device import Virtual
from hwbench.devices.virtual.noise import SessionOffset, White
from hwbench.measuring.sessions import measure
from hwbench.network.graph import count, load
from hwbench.network.workload import Workload
from hwbench.records.device import DeviceInfo
from hwbench.records.measurement import Settings
from hwbench.records.tensors import TensorSpec
from hwbench.workflows.build_table import build_table
from hwbench.workflows.ceilings import measure_ceilings
from hwbench.workflows.compare import compare
from hwbench.workflows.profile import profile
from hwbench.workflows.recording import recording
from hwbench.workflows.search.plan import Limit, Plan
from hwbench.workflows.search.run import run_search
from tests.support.models import conv_net
from tests.support.tiny_net import DEVICE, example, table, tiny

HOSTILE = "</script><img src=x onerror=\"document.title='taken'\"><!--\u202e&amp;"
QUICK = Settings(budget_s=3.0)
VIRTUAL = "virtual:seed=3"


def fill(folder: Path) -> str:
    """Measurements, comparisons, a table and searches; returns the address of the store."""
    url = str(folder / "store.db")
    big, odd = folder / "big.onnx", folder / "odd.onnx"
    big.write_bytes(conv_net((64,) * 8))
    odd.write_bytes(conv_net((49,) * 8))
    for settings in (QUICK, Settings(budget_s=3.0, seed=1)):
        profile(str(big), device=VIRTUAL, settings=settings, store=url)
    profile(str(odd), device="virtual:seed=4", settings=QUICK, store=url)
    hot, load = "virtual:noise=white+throttling", Settings(budget_s=3.0, sustain_s=60.0)
    profile(str(odd), device=hot, settings=load, store=url)
    compare(str(big), str(odd), device=VIRTUAL, settings=QUICK, store=url)
    compare(str(big), str(big), device="virtual:noise=white+spikes", settings=QUICK, store=url)
    measure_ceilings(VIRTUAL, budget_s=0.5, store=url)
    build_table(str(big), device=VIRTUAL, settings=QUICK, validation=6, store=url)
    plans = (
        Plan("amc", Limit("latency", share=0.7), trials=12),
        Plan.of("practise", Limit("latency", share=0.8), adaptor_steps=2, images=16, tune="none"),
    )
    for plan in plans:
        run_search(
            tiny(),
            plan,
            device=DEVICE,
            table=table(),
            settings=Settings(budget_s=1.0, layers=False),
            example_inputs=example(),
            store=url,
        )
    measure_hostile(url)
    return url


class _Hostile(Virtual):
    """Says something nasty about itself."""

    def _info(self) -> DeviceInfo:
        return DeviceInfo(HOSTILE, HOSTILE, HOSTILE, HOSTILE, ((HOSTILE, HOSTILE),))


def measure_hostile(url: str) -> None:
    """A model, layers and a device whose names try to become part of the page."""
    model = onnx.load_from_string(conv_net())
    for node in model.graph.node:
        node.name = f"{HOSTILE}{node.name}"
    data = model.SerializeToString()
    counts = count(load(data))
    spec = TensorSpec(HOSTILE, (1, 3, 16, 16))
    workload = Workload(HOSTILE, data, (spec,), 1, "fp32", counts.macs, counts.params, len(data))
    with (
        _Hostile(noise=(White(), SessionOffset())) as device,
        recording(url, save=True, callback=None) as recorder,
    ):
        measure(device, workload, QUICK, recorder)


def data_of(html: str) -> dict[str, Any]:
    """The data inside a page."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


def page_of(data: dict[str, Any], start: str) -> dict[str, Any]:
    """The first page whose address begins so."""
    return next(page for page in data["pages"] if page["id"].startswith(start))


def figure_of(page: dict[str, Any], title: str) -> dict[str, Any]:
    """A figure of a page."""
    return next(figure for figure in page["figures"] if figure["title"] == title)
