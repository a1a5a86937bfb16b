"""How pixels become inputs."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from hwbench.errors import SchemaError, UsageError
from hwbench.search.data import Preprocessing, load_data
from hwbench.search.data.preprocessing import mean_and_spread


def to_tensor(picture: Image.Image) -> Tensor:
    """The red channel, halved, in all three."""
    red = torch.tensor(picture.getpixel((0, 0))[0] / 2)
    return red.expand(3, 8, 8)


def to_nothing(picture: Image.Image) -> Image.Image:
    return picture


NUMBER = 5


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(5):
            Image.new("RGB", (8, 8), (200, 100, 50)).save(tmp_path / name / f"{number}.png")
    return tmp_path


@pytest.mark.parametrize(
    ("preprocessing", "expected"),
    [
        (
            None,
            [(200 / 255 - 0.485) / 0.229, (100 / 255 - 0.456) / 0.224, (50 / 255 - 0.406) / 0.225],
        ),
        (Preprocessing(), [200 / 255, 100 / 255, 50 / 255]),
        (Preprocessing((0.5,), (0.5,)), [2 * 200 / 255 - 1, 2 * 100 / 255 - 1, 2 * 50 / 255 - 1]),
        (Preprocessing((104, 117, 123), scale=255), [96, -17, -73]),
        (Preprocessing(transform=f"{__name__}:to_tensor"), [100, 100, 100]),
    ],
)
def test_pixels_are_scaled_and_normalised(
    preprocessing: Preprocessing | None, expected: list[float], folder: Path
) -> None:
    data = load_data(folder, (3, 8, 8), preprocessing=preprocessing)
    image = pickle.loads(pickle.dumps(data.train)).first(1)[0]
    torch.testing.assert_close(image[:, 3, 3], torch.tensor(expected, dtype=torch.float32))
    assert data.preprocessing is not None
    assert Preprocessing.from_dict(data.preprocessing.to_dict()) == data.preprocessing


def test_mean_and_spread_of_pixels_normalise_them() -> None:
    pixels = torch.rand(50, 3, 4, 4) * torch.tensor([0.1, 0.5, 1.0])[:, None, None]
    normal = mean_and_spread(pixels).apply(pixels)
    torch.testing.assert_close(normal.mean(dim=(0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(normal.std(dim=(0, 2, 3)), torch.ones(3))


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"mean": (0.1, 0.2)}, "expected one finite number, or three"),
        ({"mean": (float("nan"),)}, "expected one finite number, or three"),
        ({"std": (0.5, 0.0, 0.5)}, "expected numbers above 0"),
        ({"scale": 0.0}, "expected a number above 0, such as 1 or 255"),
        ({"scale": float("inf")}, "expected a number above 0, such as 1 or 255"),
    ],
)
def test_impossible_numbers_are_refused(numbers: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Preprocessing(**numbers)  # type: ignore[arg-type]
    with pytest.raises(SchemaError):
        Preprocessing.from_dict(Preprocessing().to_dict() | numbers)


def test_three_numbers_for_one_channel_are_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="the network takes 1 channel"):
        load_data(folder, (1, 8, 8), preprocessing=Preprocessing.of_imagenet(3))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("to_nothing", "made a Image of a picture, but the network takes a tensor of 3x8x8"),
        ("NUMBER", "is a int; expected a function"),
        ("nowhere", "cannot be imported"),
    ],
)
def test_transforms_that_make_no_inputs_are_refused(
    function: str, message: str, folder: Path
) -> None:
    asked = Preprocessing(transform=f"{__name__}:{function}")
    with pytest.raises(UsageError, match=message):
        load_data(folder, (3, 8, 8), preprocessing=asked).train.first(1)


def test_factories_normalise_their_images_themselves() -> None:
    with pytest.raises(UsageError, match="makes inputs of its pictures itself"):
        load_data(
            "tests.search.data.test_data_loading:Tens", (3, 8, 8), preprocessing=Preprocessing()
        )
    data = load_data("tests.search.data.test_data_loading:Tens", (3, 8, 8))
    assert data.preprocessing is None
    with pytest.raises(UsageError, match="makes inputs itself"):
        data.preprocessed(Preprocessing())
