"""Settings of trainings as people write them."""

from __future__ import annotations

import pytest

from hwbench.errors import UsageError
from hwbench.search.training import Schedule
from hwbench.search.training_settings import SETTINGS, TrainingSettings


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rate=0.1", TrainingSettings(rate=0.1)),
        (
            "rate=1e-3, schedule=cosine,batch=128,weight-decay=5e-4,shift=4,mirror=yes",
            TrainingSettings(1e-3, "cosine", 128, 5e-4, 4, mirror=True),
        ),
        ("mirror=no", TrainingSettings(mirror=False)),
        (
            'rate=1,augment=torchvision.transforms:RandomResizedCrop(32, scale=(0.5, 1), x="a,b)"),shift=0',
            TrainingSettings(
                1.0,
                shift=0,
                augment='torchvision.transforms:RandomResizedCrop(32, scale=(0.5, 1), x="a,b)")',
            ),
        ),
    ],
)
def test_settings_are_read(text: str, expected: TrainingSettings) -> None:
    assert TrainingSettings.parse(text) == expected
    assert TrainingSettings.parse(str(expected)) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no setting of training; expected NAME=VALUE with one of rate, schedule, batch"),
        ("0.1", "'0.1' is no setting of training"),
        ("speed=3", "'speed=3' is no setting"),
        ("rate=fast", "rate is 'fast', which cannot be read"),
        ("batch=1.5", "batch is '1.5', which cannot be read"),
        ("mirror=perhaps", "mirror is 'perhaps', which cannot be read"),
        ("rate=0", "learning rate of 0 was given; expected one above 0"),
        ("rate=nan", "learning rate of nan"),
        ("schedule=line", "unknown schedule 'line'; expected one of steps, cosine"),
        ("batch=1", "expected at least 2 images"),
        ("weight_decay=-1", "expected 0 or more"),
        ("shift=-1", "expected 0 or more"),
    ],
)
def test_other_settings_are_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TrainingSettings.parse(text)


def test_what_is_not_said_stays_as_usual() -> None:
    usual = Schedule(7, rate=0.3, batch=20, shift=2)
    assert usual.adjusted(TrainingSettings()) == usual
    changed = usual.adjusted(TrainingSettings(schedule="cosine", shift=0, weight_decay=0.0))
    assert (changed.rate, changed.batch, changed.steps) == (0.3, 20, 7)
    assert (changed.curve, changed.shift, changed.weight_decay) == ("cosine", 0, 0.0)
    assert usual.lasting(2, 50).steps == 6
    assert usual.lasting_about(1.5, 50).steps == 4
    assert set(SETTINGS) == set(TrainingSettings.__slots__)
