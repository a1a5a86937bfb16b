"""Quality of two networks on the same data."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest

from hwbench.errors import UsageError
from hwbench.records.measurement import Settings
from hwbench.records.outputs import ACCURACY
from hwbench.workflows.likeness import Answers, compare_answers, find_likeness
from tests.measuring.test_agreement import WIDTHS, changed, permute_outputs
from tests.support.models import conv_net, conv_workload

pytestmark = pytest.mark.slow

DATA = """
import numpy as np, onnxruntime, torch
from tests.support.models import conv_net

class Images(torch.utils.data.Dataset):
    def __init__(self):
        random = np.random.default_rng(0)
        self.images = random.standard_normal((60, 3, 16, 16)).astype(np.float32)
        session = onnxruntime.InferenceSession(conv_net((16, 32, 32)))
        outputs = [session.run(None, {"x": image[None]})[0][0] for image in self.images]
        self.targets = [int(output.argmax()) for output in outputs]
        self.targets[0] = 9  # a class that the network never gives, and one wrong answer
    def __len__(self):
        return 60
    def __getitem__(self, number):
        return torch.from_numpy(self.images[number]), self.targets[number]

def share_of_class(network):
    outputs = network(torch.from_numpy(Images().images))
    return (outputs.argmax(1) == int(np.bincount(Images().targets).argmax())).float().tolist()

def constant(network):
    network.eval()
    return 0.5

def fails(network):
    return network.missing()

def not_a_number(network):
    return float("nan")
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "likeness_data.py").write_text(DATA)
    monkeypatch.chdir(tmp_path)
    yield "likeness_data"
    sys.modules.pop("likeness_data", None)


def test_accuracy_of_both_on_the_same_images(module):
    baseline, wrong = conv_workload(WIDTHS), changed(permute_outputs)
    same = find_likeness(baseline, conv_workload(WIDTHS), Settings(), f"{module}:Images").quality
    assert same.measure == ACCURACY
    assert same.samples == 12  # a fifth is held out for the test
    assert same.baseline == same.candidate >= 11 / 12
    assert same.drop == 0
    assert same.drop_ci[0] < 0 < same.drop_ci[1]
    assert same.agreement == 1
    assert "onnxruntime" in same.runtime
    other = find_likeness(baseline, wrong, Settings(), f"{module}:Images")
    assert other.accuracy_drop > 0.5
    assert other.quality.drop_ci[0] > 0.2
    assert other.agreement < 0.5


def test_batches_are_filled_up_and_nothing_of_that_is_counted(module):
    model = onnx.load_from_string(conv_net(WIDTHS))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 5
    five = replace(conv_workload(WIDTHS), artifact=model.SerializeToString(), batch=5)
    five = replace(five, inputs=tuple(replace(s, shape=(5, *s.shape[1:])) for s in five.inputs))
    quality = find_likeness(five, five, Settings(), f"{module}:Images").quality
    assert quality.samples == 12
    assert quality.baseline >= 11 / 12


def test_a_function_of_the_users_gives_an_interval_where_it_gives_samples(module):
    baseline, wrong = conv_workload(WIDTHS), changed(permute_outputs)
    each = find_likeness(baseline, wrong, Settings(), None, f"{module}:share_of_class").quality
    assert each.samples == 60
    assert each.drop_ci[0] <= each.drop <= each.drop_ci[1]
    assert each.measure == f"{module}:share_of_class"
    once = find_likeness(baseline, wrong, Settings(), None, f"{module}:constant").quality
    assert (once.drop, once.drop_ci, once.agreement) == (0, None, None)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("fails", "fails on net: AttributeError"),
        ("not_a_number", "gives no finite number"),
        ("missing", "cannot be imported"),
        ("DATA", "cannot be imported"),
    ],
)
def test_functions_that_do_not_evaluate_are_refused(module, function, said):
    with pytest.raises(UsageError, match=said):
        find_likeness(conv_workload(), conv_workload(), Settings(), None, f"{module}:{function}")


def test_data_without_labels_gives_agreement_alone():
    first = Answers(None, np.array([0, 1, 2, 3]), None)
    second = Answers(None, np.array([0, 1, 2, 4]), None)
    quality = compare_answers(first, second, "images", ACCURACY, "a runtime")
    assert quality.agreement == 0.75
    assert quality.drop is None


def test_intervals_of_values_are_paired():
    random = np.random.default_rng(0)
    shared = random.standard_normal(400)
    first = Answers(shared, None, float(shared.mean()))
    values = shared - 0.1 + 0.01 * random.standard_normal(400)
    second = Answers(values, None, float(values.mean()))
    low, high = compare_answers(first, second, "data", "score", "a runtime").drop_ci
    assert 0.098 < low < 0.1 < high < 0.102
