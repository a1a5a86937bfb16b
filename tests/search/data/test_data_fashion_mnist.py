"""Fashion-MNIST from Debian's package, or from a folder."""

from __future__ import annotations

import gzip
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hwbench.errors import SchemaError, UsageError
from hwbench.search.data import Preprocessing, fashion_mnist, load_data
from tests.support.idx_files import idx_bytes, write_part


def made(count: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Pictures whose every pixel is ten times their class."""
    labels = np.arange(count, dtype=np.uint8) % 10
    return np.repeat(labels * 10, 28 * 28).reshape(count, 28, 28), labels


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_part(tmp_path / "fashion", "train", *made(60))
    write_part(tmp_path / "fashion", "t10k", *made(20))
    return tmp_path / "fashion"


def test_a_folder_is_split_and_scaled_to_the_network(folder: Path) -> None:
    data = load_data(f"fashion-mnist:{folder}", (3, 32, 32))
    assert [len(part) for part in (data.train, data.validation, data.test)] == [45, 15, 20]
    assert (data.classes, data.names[9]) == (10, "ankle boot")
    images, labels = next(data.train.batches(45))
    assert images.shape == (45, 3, 32, 32)
    mean, std = made(60)[0].mean() / 255, made(60)[0].std() / 255
    expected = ((labels * 10 / 255 - mean) / std)[:, None, None, None].expand_as(images)
    torch.testing.assert_close(images, expected.float(), rtol=0, atol=1e-5)


def test_other_processes_get_the_folder_not_the_pixels(folder: Path) -> None:
    data = load_data(f"fashion-mnist:{folder}", (1, 28, 28))
    written = pickle.dumps(data.test.read)
    assert len(written) < 2000
    torch.testing.assert_close(pickle.loads(written)(3), data.test.read(3))


def test_pictures_can_be_normalised_otherwise(folder: Path) -> None:
    data = load_data(f"fashion-mnist:{folder}", (1, 28, 28), preprocessing=Preprocessing())
    assert float(data.test.read(7)[0, 0, 0]) == pytest.approx(70 / 255)
    bytes_ = data.preprocessed(Preprocessing(scale=255.0))
    assert float(bytes_.test.read(7)[0, 0, 0]) == pytest.approx(70)


def test_missing_files_name_debians_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fashion_mnist, "FOLDER", tmp_path / "nowhere")
    with pytest.raises(UsageError, match="apt-get install dataset-fashion-mnist") as raised:
        load_data("fashion-mnist")
    assert "data='fashion-mnist:FOLDER'" in str(raised.value)
    with pytest.raises(UsageError, match=r"there is no folder .*here; .*dataset-fashion-mnist"):
        load_data(f"fashion-mnist:{tmp_path / 'here'}")
    with pytest.raises(UsageError, match="holds no train-images-idx3-ubyte"):
        load_data(f"fashion-mnist:{tmp_path}")


def test_files_that_do_not_belong_together_are_refused(folder: Path) -> None:
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(made(50)[1])))
    with pytest.raises(SchemaError, match="50 classes up to 9 for 60 pictures"):
        load_data(f"fashion-mnist:{folder}")


def test_other_sizes_and_classes_are_refused(tmp_path: Path) -> None:
    pixels, labels = made(20)
    write_part(tmp_path / "small", "train", pixels[:, :20], labels)
    with pytest.raises(SchemaError, match="are 20x28; expected 28x28"):
        load_data(f"fashion-mnist:{tmp_path / 'small'}")
    write_part(tmp_path / "many", "train", pixels, labels + 20)
    with pytest.raises(SchemaError, match="20 classes up to 29"):
        load_data(f"fashion-mnist:{tmp_path / 'many'}")


@pytest.mark.skipif(
    not fashion_mnist.FOLDER.is_dir(), reason="apt-get install dataset-fashion-mnist"
)
def test_debians_files_are_all_there() -> None:
    data = load_data("fashion-mnist", (1, 28, 28))
    assert [len(part) for part in (data.train, data.validation, data.test)] == [55000, 5000, 10000]
    assert data.test.labels is not None
    assert torch.bincount(data.test.labels).tolist() == [1000] * 10
    assert data.preprocessing is not None
    # As published by its authors, and used all over.
    assert data.preprocessing.mean[0] == pytest.approx(0.2860, abs=1e-4)
    assert data.preprocessing.std[0] == pytest.approx(0.3530, abs=1e-4)
