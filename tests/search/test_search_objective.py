"""What candidates are worth: the weight they keep, or the quality of their networks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hwbench.errors import MeasurementError, UsageError
from hwbench.network.graph import load
from hwbench.network.intake import load_workload
from hwbench.network.structure import Structure
from hwbench.search.base import Candidate, Outcome
from hwbench.search.objective import KeptWeight, NetworkQuality, Prices


def chain() -> tuple[nn.Module, Structure]:
    """Two layers of known weights: 4 channels of weight 1, 2, 3 and 4, made and read."""
    module = nn.Sequential(nn.Conv2d(1, 4, 1, bias=False), nn.Conv2d(4, 2, 1, bias=False))
    with torch.no_grad():
        module[0].weight.copy_(torch.tensor([1.0, -3.0, 2.0, 4.0]).view(4, 1, 1, 1))
        module[1].weight.copy_(
            torch.tensor([1.0, 3.0, 2.0, -4.0]).view(1, 4, 1, 1).expand(2, 4, 1, 1)
        )
    model = load(load_workload(module, example_inputs=torch.ones(1, 1, 2, 2)).onnx)
    return module, Structure.from_model(model)


def test_kept_weight_is_the_share_of_the_heaviest_channels():
    module, structure = chain()
    objective = KeptWeight(module, Prices(structure))
    found = [objective.evaluate(Candidate(0, (width,))).quality for width in (1, 2, 3, 4)]
    assert found == pytest.approx([0.4, 0.7, 0.9, 1.0])
    assert objective.original().quality == 1
    with pytest.raises(UsageError, match="need images; pass data="):
        objective.evaluate(Candidate(0, dropped=("a",)))


def test_a_quality_that_is_no_share_is_refused():
    module, structure = chain()
    objective = NetworkQuality(
        Prices(structure),
        module,
        lambda _: type("Pruned", (), {"module": module})(),
        lambda _: 50.0,
        name="score",
    )
    with pytest.raises(
        UsageError, match=r"the score of candidate 3 is 50\.0; expected a number from 0 to 1"
    ):
        objective.evaluate(Candidate(3, (2,)))


@pytest.mark.parametrize("numbers", [(float("nan"), 1.0), (0.5, float("inf"))])
def test_outcomes_hold_no_stand_in_numbers(numbers):
    with pytest.raises(MeasurementError, match="finite"):
        Outcome(*numbers, 1, 1, 1)
