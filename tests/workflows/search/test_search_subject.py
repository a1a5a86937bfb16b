"""An original that was trained once is not trained again, unless what was kept of it is damaged."""

import base64
import io
import logging

import pytest
import torch
from torch import nn

from hwbench.search.data import Data, in_memory
from hwbench.store import open_store
from hwbench.workflows.search import subject
from hwbench.workflows.search.plan import Limit, Plan

ASKED = Plan("amc", Limit("macs", share=0.5), train_epochs=1)


IMAGES = Data(*["images", *[in_memory(torch.ones(8, 3), torch.ones(8))] * 3, 2])


def encode(value) -> str:
    written = io.BytesIO()
    torch.save(value, written)
    return base64.b64encode(written.getvalue()).decode()


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Trains one network by way of a store; counts how often it really was."""
    counts = []

    def run_tuning(tuning, *, forget):
        counts.append(1)
        nn.init.constant_(tuning._module.weight, len(counts))

    monkeypatch.setattr("hwbench.search.tuning.Tuning.run", run_tuning)

    def run(change=None):
        path = tmp_path / "store.db"
        if change is not None:
            with open_store(str(path)) as store:
                (record,) = store.records(subject.RECORD).values()
            path = tmp_path / "damaged.db"
            with open_store(str(path)) as store:
                store.save_record(subject.RECORD, record | change)
        torch.manual_seed(0)
        module = nn.Linear(3, 2)
        with open_store(str(path)) as store:
            subject.train_original(module, IMAGES, ASKED, store, "net")
            kept = len(store.records(subject.RECORD))
        return len(counts), float(module.weight.detach()[0, 0]), kept

    return run


def test_weights_are_kept(train):
    assert train() == (1, 1.0, 1)
    assert train() == (1, 1.0, 1)


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ("not base64!", "damaged"),
        (base64.b64encode(b"no weights").decode(), "cannot be read"),
        (encode({"weight": torch.zeros(3)})[:400], "damaged"),
        (encode([1, 2]), "holds no weights"),
        (encode({"weight": torch.zeros(5, 5)}), "another network"),
        (7, "damaged"),
    ],
)
def test_damaged_weights_are_left_out_and_said(state, says, train, caplog):
    train()
    with caplog.at_level(logging.WARNING):
        assert train({"state": state}) == (2, 2.0, 2)
    assert says in caplog.text
    assert "trained again" in caplog.text
