"""Networks that read ids of tokens are searched as those of images are."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from hwbench.errors import UsageError
from hwbench.search.limit import Limit
from hwbench.search.training_settings import TrainingSettings
from hwbench.workflows.search.plan import Plan
from hwbench.workflows.search.run import run_search

VOCABULARY, LENGTH, CLASSES = 20, 6, 3
IDS = "ids=1x6:int64"
HERE = __name__


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(VOCABULARY, 16)
        self.hidden, self.out = nn.Linear(16, 24), nn.Linear(24, CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(torch.relu(self.hidden(self.table(ids))).mean(1))


def texts() -> TensorDataset:
    """The class of a text is that of its first token, which it begins and ends with."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(VOCABULARY, (90, LENGTH), generator=generator)
    ids[:, -1] = ids[:, 0]
    return TensorDataset(ids, ids[:, 0] % CLASSES)


def unknown_texts() -> TensorDataset:
    ids, labels = texts().tensors
    return TensorDataset(ids + 1, labels)


def longer_texts() -> TensorDataset:
    ids, labels = texts().tensors
    return TensorDataset(torch.cat([ids, ids], 1), labels)


def fractions() -> TensorDataset:
    ids, labels = texts().tensors
    return TensorDataset(ids.float(), labels)


def words() -> nn.Module:
    torch.manual_seed(0)
    return Words().eval()


def search(method: str, **more):
    given = {"accept_untrained": True, **more}
    out = given.pop("out", None)
    plan = Plan.of(method, Limit("macs", share=0.6), **given)
    return run_search(words(), plan, inputs=[IDS], out=out, save=False, device="virtual")


@pytest.mark.parametrize(("method", "size"), [("amc", 6), ("knapsack", 6), ("abcpruner", 6)])
def test_a_network_of_ids_is_searched_and_tuned(method, size, tmp_path):
    result = search(method, trials=size, data=f"{HERE}:texts", tune_epochs=1, out=tmp_path, step=4)
    assert not [trial for trial in result.trials if trial.error]
    assert 0 < result.best.outcome.macs <= 0.6 * result.original.macs
    program = torch.export.load(next(tmp_path.rglob("network.pt2")))
    answer = program.module()(torch.full((1, LENGTH), VOCABULARY - 1))
    assert answer.shape == (1, CLASSES)
    facts = json.loads(next(tmp_path.rglob("network.json")).read_text())
    assert (facts["shape"], facts["dtype"]) == ([LENGTH], "int64")


@pytest.mark.parametrize("importance", ["activations", "taylor"])
def test_ids_tell_which_channels_matter(importance):
    result = search(
        "amc", trials=4, data=f"{HERE}:texts", importance=importance, tune="none", step=4
    )
    assert not [trial for trial in result.trials if trial.error]


def test_without_texts_structure_alone_decides():
    result = search("abcpruner", trials=4, step=4)
    assert not [trial for trial in result.trials if trial.error]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("unknown_texts", r"ids from \d+ to 20, but the network knows 0 to 19"),
        ("longer_texts", "are 12, but the network takes 6"),
        ("fractions", "holds torch.float32, but the network takes ids"),
    ],
)
def test_texts_that_do_not_fit_are_refused(data, message):
    with pytest.raises(UsageError, match=message):
        search("amc", trials=4, data=f"{HERE}:{data}")


def test_pictures_are_no_texts():
    with pytest.raises(UsageError, match="digits holds pictures, but the network takes 6 of int64"):
        search("amc", trials=4, data="digits")


def test_texts_are_neither_shifted_nor_mirrored():
    with pytest.raises(UsageError, match="are no images, which alone can be shifted"):
        search(
            "amc",
            trials=4,
            data=f"{HERE}:texts",
            trial_epochs=1,
            trial_with=TrainingSettings(mirror=True),
        )
