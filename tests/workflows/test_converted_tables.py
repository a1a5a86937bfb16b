"""Tables and searches where a device runs networks in another format than they are read in."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import hwbench
from hwbench.devices import open_device
from hwbench.errors import MissingEntryError, UnsupportedLayerError, UsageError
from hwbench.lookup_tables.structure_latency import ConvertedLatency
from hwbench.network.intake import load_workload, to_tflite
from hwbench.network.prunable import PrunableNetwork
from hwbench.network.run_outputs import NetworkRunner
from hwbench.network.tflite import describe
from hwbench.records.measurement import Settings
from hwbench.workflows.build_table import build_table, validate_table
from hwbench.workflows.meter import DeviceMeter
from hwbench.workflows.search.plan import Limit, Plan
from hwbench.workflows.search.run import run_search
from tests.support.tflite import convert_by_hand, depthwise_network

pytest.importorskip("ai_edge_litert", reason="needs ai-edge-litert")
EXAMPLE = (torch.zeros(1, 3, 16, 16),)
SETTINGS = Settings(budget_s=3.0)


class Residual(nn.Module):
    """Three convolutions, the second with a skip beside it: another layer after conversion."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.inner = nn.Conv2d(32, 48, 3, padding=1)
        self.outer = nn.Conv2d(48, 32, 3, padding=1)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.outer(torch.relu(self.inner(x))))
        return self.head(x.mean((2, 3)))


def residual() -> nn.Module:
    torch.manual_seed(0)
    return Residual().eval()


@pytest.fixture
def conversions(monkeypatch, tmp_path) -> list[int]:
    """Sizes of the networks that were converted, which a test does by hand."""
    done: list[int] = []

    def convert(workload) -> bytes:
        done.append(workload.params)
        return convert_by_hand(workload)

    monkeypatch.setattr(to_tflite, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(to_tflite, "version", lambda _: "0.10.0")
    monkeypatch.setattr(to_tflite, "_run_converter", convert)
    return done


def test_the_cut_file_computes_what_the_cut_graph_computes(tmp_path):
    """The same channels stay: versions of both formats agree in their outputs."""
    original = PrunableNetwork(load_workload(residual(), example_inputs=EXAMPLE))
    converted = PrunableNetwork(describe(convert_by_hand(original.workload), "net"))
    structure = converted.structure.with_groups_of(original.structure)
    assert structure.groups == original.structure.groups
    image = np.random.default_rng(0).uniform(-1, 1, (1, 3, 16, 16)).astype(np.float32)
    order = [structure.widths.index(width) for width in converted.structure.widths]
    assert sorted(order) == list(range(len(order)))
    for widths in ([32, 48], [20, 13], [1, 48], [7, 1]):
        in_file = [widths[place] for place in order]
        version = converted.version(in_file)
        with NetworkRunner(tmp_path) as runner:
            (expected,) = runner.run(original.version(widths), [image], 60)
            (found,) = runner.run(version, [to_tflite.channels_last(image)], 60)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        assert structure.keys(widths) == converted.keys(in_file)


def test_networks_of_other_groups_are_not_taken_for_one_another():
    original = PrunableNetwork(load_workload(residual(), example_inputs=EXAMPLE))
    other = PrunableNetwork(depthwise_network())
    with pytest.raises(UnsupportedLayerError, match="channels of stem belong together with others"):
        other.structure.with_groups_of(original.structure)


def test_a_table_takes_one_conversion_and_answers_for_the_original(conversions, tmp_path):
    store, model = str(tmp_path / "store.db"), residual()
    given = {"example_inputs": EXAMPLE}
    built = build_table(
        model, device="litert", settings=SETTINGS, store=store, validation=2, **given
    )
    assert len(conversions) == 1
    assert built.validation is not None
    assert len(built.validation.trials) == 2
    keys = [key.op for key in built.table.entries]
    assert "Add" in keys  # a layer of the converted network alone
    prediction = hwbench.predict(model, table="litert", store=store, **given)
    assert prediction.latency_s > 0
    assert {"stem", "inner", "outer", "head"} <= set(prediction.names)
    again = validate_table(
        model, device="litert", settings=SETTINGS, networks=1, store=store, **given
    )
    assert again.table.grades
    asked = Plan.of("knapsack", Limit("latency", share=0.8), tune="none")
    blocks = Plan.of("practise", Limit("latency", share=0.8), tune="none")
    with pytest.raises(UsageError, match="practise drops blocks, and the table litert knows other"):
        run_search(model, blocks, table=built.table, example_inputs=EXAMPLE, save=False)
    result = run_search(
        model,
        asked,
        device="litert",
        table=built.table,
        example_inputs=EXAMPLE,
        settings=Settings(budget_s=2.0, layers=False),
        save=False,
    )
    assert result.best is not None
    assert result.best.outcome.latency_s <= 0.8 * prediction.latency_s * 1.001


def test_latencies_are_asked_by_keys_of_the_original(conversions, tmp_path):
    original = PrunableNetwork(load_workload(residual(), example_inputs=EXAMPLE))
    converted = PrunableNetwork(describe(convert_by_hand(original.workload), "net"))
    table = build_table(
        residual(),
        device="litert",
        settings=SETTINGS,
        save=False,
        validation=0,
        example_inputs=EXAMPLE,
    ).table
    structure = converted.structure.with_groups_of(original.structure)
    source = ConvertedLatency(table, structure, original.structure)
    widths = np.array([[24, 32], original.structure.widths])
    by_widths = source.predict_widths(widths)
    for row, latency_s in zip(widths, by_widths, strict=True):
        by_keys = source.predict(original.keys(row))
        assert by_keys.latency_s == pytest.approx(latency_s)
    with pytest.raises(MissingEntryError, match="are no version of the network"):
        source.predict(converted.keys(converted.structure.widths))
    assert len(conversions) == 1


def test_a_file_is_a_network_of_its_own(tmp_path):
    """A `.tflite` file needs no converter; its channel step is found with files of one layer."""
    path = tmp_path / "net.tflite"
    workload = depthwise_network(16)
    path.write_bytes(workload.artifact)
    built = build_table(
        str(path), device="litert", widths=4, settings=SETTINGS, save=False, validation=1
    )
    prediction = hwbench.predict(str(path), table=built.table)
    assert [layer.origin for layer in prediction.layers] == ["measured"] * 7
    with open_device("litert") as device:
        assert DeviceMeter(device, "litert").channel_step(workload, Settings()) >= 1
