"""Images of a search: the digits, folders, factories, splits."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import TensorDataset

from hwbench.errors import UsageError
from hwbench.search.data import (
    Data,
    find_picture_shape,
    imported,
    in_memory,
    load_data,
    synthetic,
)


class Tens:
    """Pairs of image and class, one-hot pictures of the class."""

    def __init__(self, count: int = 60, side: int = 8) -> None:
        self.count, self.side = count, side

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        if not 0 <= number < self.count:
            raise IndexError(number)
        return torch.full((3, self.side, self.side), float(number)), number % 4


def pair() -> tuple[Tens, Tens]:
    return Tens(), Tens(20)


def nonsense() -> dict[str, int]:
    return {"a": 1}


@pytest.fixture(scope="module")
def digits() -> Data:
    return load_data("digits")


def numbers(data: Data) -> list[set[int]]:
    return [set(part.numbers) for part in (data.train, data.validation, data.test)]


def test_digits_are_all_there_once_and_scaled(digits: Data) -> None:
    train, validation, test = numbers(digits)
    assert train | validation | test == set(range(1797))
    assert len(train) + len(validation) + len(test) == 1797
    assert digits.classes == 10
    first = digits.train.first(500)
    assert first.shape == (500, 3, 32, 32)
    assert abs(float(first.mean())) < 0.05
    assert abs(float(first.std()) - 1) < 0.05


def test_every_class_has_its_share_in_every_set(digits: Data) -> None:
    assert digits.train.labels is not None
    for part, size in ((digits.train, 1078), (digits.validation, 360), (digits.test, 359)):
        counts = torch.bincount(digits.train.labels[list(part.numbers)], minlength=10)
        assert abs(len(part) - size) <= 1
        assert int(counts.max() - counts.min()) <= 0.02 * 1797


def test_a_seed_gives_the_same_split_and_another_another(digits: Data) -> None:
    assert numbers(load_data("digits")) == numbers(digits)
    assert numbers(load_data("digits", seed=1)) != numbers(digits)


@pytest.mark.parametrize("count", [7, 50])
def test_few_images_are_drawn_evenly_and_leave_the_held_out_alone(digits: Data, count: int) -> None:
    few = load_data("digits", images=count)
    assert len(few.train) == count
    assert set(few.train.numbers) <= set(digits.train.numbers)
    assert numbers(few)[1:] == numbers(digits)[1:]
    assert few.train.labels is not None
    counts = torch.bincount(few.train.labels[list(few.train.numbers)], minlength=10)
    assert int(counts.max() - counts.min()) <= 1 + count // 25


def test_batches_are_every_image_once_with_its_label() -> None:
    images = in_memory(
        torch.arange(10.0)[:, None, None, None].expand(-1, 1, 2, 2), torch.arange(10) * 2
    )
    seen = list(images.batches(4, torch.Generator().manual_seed(0)))
    assert [len(batch) for batch, _ in seen] == [4, 4, 2]
    values = torch.cat([batch[:, 0, 0, 0] for batch, _ in seen])
    labels = torch.cat([label for _, label in seen])
    assert sorted(values.tolist()) == list(range(10))
    assert values.tolist() != list(range(10))
    torch.testing.assert_close(labels, (2 * values).long())
    assert torch.cat([batch for batch, _ in images.batches(3)])[:, 0, 0, 0].tolist() == list(
        range(10)
    )


def write(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (20, 10)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def test_folder_of_classes(tmp_path: Path) -> None:
    for number in range(10):
        write(tmp_path / "red" / f"{number}.png", (255, 0, 0))
        write(tmp_path / "blue" / f"{number}.jpg", (0, 0, 255))
    (tmp_path / "red" / "notes.txt").write_text("no image")
    data = load_data(tmp_path, (3, 16, 16))
    assert (data.classes, [len(part) for part in (data.train, data.validation, data.test)]) == (
        2,
        [12, 4, 4],
    )
    images, labels = next(data.train.batches(12))
    assert images.shape == (12, 3, 16, 16)
    red = images[labels == 1]
    torch.testing.assert_close(red[:, 0], torch.full_like(red[:, 0], (1 - 0.485) / 0.229))
    assert pickle.loads(pickle.dumps(data)).train.numbers == data.train.numbers


def test_folder_with_a_test_set_of_its_own(tmp_path: Path) -> None:
    for part, count in (("train", 10), ("val", 3)):
        for name in "ab":
            for number in range(count):
                write(tmp_path / part / name / f"{number}.png", (9, 9, 9))
    data = load_data(tmp_path, (1, 8, 8))
    assert [len(part) for part in (data.train, data.validation, data.test)] == [15, 5, 6]
    assert data.test.first(1).shape == (1, 1, 8, 8)


def test_large_images_are_cut_from_the_middle(tmp_path: Path) -> None:
    picture = Image.new("RGB", (300, 200), (0, 0, 0))
    picture.paste((255, 255, 255), (140, 90, 160, 110))
    for number in range(12):
        picture.save(tmp_path / f"{number}.png")
    image = load_data(tmp_path, (3, 96, 96)).train.first(1)[0, 0]
    assert image[46:50, 46:50].min() > 1
    assert image[0].max() < 0


def test_images_without_classes_have_no_labels(tmp_path: Path) -> None:
    for number in range(10):
        write(tmp_path / f"{number}.png", (1, 2, 3))
    data = load_data(tmp_path, (3, 8, 8))
    assert (data.train.labels, data.classes) == (None, 0)
    assert next(data.train.batches(2))[1].tolist() == [-1, -1]


def test_factory_of_a_dataset_or_of_two() -> None:
    here = __name__
    one = load_data(f"{here}:Tens", (3, 8, 8))
    assert [len(part) for part in (one.train, one.validation, one.test)] == [36, 12, 12]
    images, labels = next(one.train.batches(36))
    torch.testing.assert_close(labels, images[:, 0, 0, 0].long() % 4)
    two = load_data(f"{here}:pair", (3, 8, 8))
    assert [len(part) for part in (two.train, two.validation, two.test)] == [45, 15, 20]


def test_torch_datasets_work() -> None:
    dataset = TensorDataset(torch.randn(30, 3, 8, 8), torch.arange(30) % 3)
    globals()["made"] = lambda: dataset
    data = load_data(f"{__name__}:made", (3, 8, 8))
    assert data.classes == 3


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nowhere", "no images at 'nowhere'"),
        ("no.such.module:make", "cannot be imported"),
        (f"{__name__}:nonsense", "expected a dataset of"),
        (f"{__name__}:Tens", "are 3x8x8, but the network takes 3x32x32"),
    ],
)
def test_what_is_no_data_is_refused(spec: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_data(spec)


def test_empty_damaged_and_small_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no images in"):
        load_data(tmp_path)
    write(tmp_path / "a" / "0.png", (1, 1, 1))
    with pytest.raises(UsageError, match="too few images"):
        load_data(tmp_path)
    for number in range(10):
        (tmp_path / "a" / f"{number}.png").write_bytes(b"not an image")
    with pytest.raises(UsageError, match=r"\d\.png is no image that can be read"):
        load_data(tmp_path, (3, 8, 8)).train.first(1)


def test_more_images_than_there_are_and_odd_channels_are_refused() -> None:
    with pytest.raises(UsageError, match="99999 images asked for, expected 1 to 1078"):
        load_data("digits", images=99999)
    with pytest.raises(UsageError, match="takes 4 channels"):
        load_data("digits", (4, 8, 8))


def test_synthetic_images_are_smooth_and_seeded() -> None:
    images = synthetic(20, (3, 16, 16)).first(20)
    assert images.shape == (20, 3, 16, 16)
    torch.testing.assert_close(images, synthetic(20, (3, 16, 16)).first(20))
    torch.testing.assert_close(images.std(dim=(2, 3)), torch.ones(20, 3), rtol=1e-4, atol=1e-4)
    steps = (images[..., 1:] - images[..., :-1]).square().mean()
    assert float(steps) < 1.2  # 2 for white noise of this spread


def test_imported_finds_attributes() -> None:
    assert imported("pathlib:Path.cwd")() == Path.cwd()


def test_pictures_of_one_size_tell_the_shape_of_inputs_and_others_do_not(tmp_path: Path) -> None:
    for number in range(4):
        write(tmp_path / "a" / f"{number}.png", (1, 1, 1), (20, 10))
    assert find_picture_shape(tmp_path) == (3, 10, 20)
    Image.new("L", (20, 10)).save(tmp_path / "a" / "grey.png")
    assert find_picture_shape(tmp_path) == (3, 10, 20)
    write(tmp_path / "a" / "other.png", (1, 1, 1), (21, 10))
    assert find_picture_shape(tmp_path) is None
    for number in range(3):
        (tmp_path / "grey").mkdir(exist_ok=True)
        Image.new("L", (6, 5)).save(tmp_path / "grey" / f"{number}.png")
    assert find_picture_shape(tmp_path / "grey") == (1, 5, 6)


def test_other_sources_tell_the_shape_too() -> None:
    assert find_picture_shape("digits") == (1, 8, 8)
    assert find_picture_shape("fashion-mnist") == (1, 28, 28)
    assert find_picture_shape(f"{__name__}:pair") == (3, 8, 8)
    with pytest.raises(UsageError, match="no images at 'nowhere'"):
        find_picture_shape("nowhere")
