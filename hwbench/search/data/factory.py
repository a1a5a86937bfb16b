"""Datasets of the user's own code: `package.module:factory`."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hwbench.errors import UsageError

Shape = tuple[int, ...]


def make_datasets(text: str) -> tuple[Any, Any | None]:
    """Call a factory of datasets.

    Args:
        text: `package.module:factory` that makes a torch dataset of (image tensor, class) pairs, or
            a pair of them.

    Returns:
        The dataset to train on and the one to test with; None where there is one dataset alone.

    Raises:
        UsageError: It cannot be imported.
    """
    made = imported(text)()
    if isinstance(made, (tuple, list)) and len(made) == 2 and hasattr(made[0], "__getitem__"):
        return made[0], made[1]
    return made, None


def find_shape(dataset: Any, text: str) -> Shape:
    """Shape of the images of a dataset.

    Args:
        dataset: What the factory made.
        text: The factory.

    Raises:
        UsageError: It is no dataset of images.
    """
    try:
        _, (image, _) = len(dataset), dataset[0]
        return tuple(map(int, image.shape))
    except (TypeError, ValueError, AttributeError, IndexError, KeyError) as error:
        raise UsageError(
            f"{text} made a {type(dataset).__name__}; expected a dataset of (image tensor, class)"
            f" pairs ({error})"
        ) from error


def read_labels(dataset: Any) -> Tensor:
    """Classes of all images of a dataset, int64; from its attribute `targets` where it has one."""
    targets = getattr(dataset, "targets", None)
    if targets is None:
        targets = [dataset[number][1] for number in range(len(dataset))]
    return torch.as_tensor([int(target) for target in targets])


class DatasetReader:
    """Reads inputs of a torch dataset: images, or ids of tokens.

    Args:
        dataset: The dataset.
        dtype: What the network takes: a floating-point type for images, else one of whole numbers.
        vocabulary: How many ids the network knows; None where nothing tells.
    """

    def __init__(
        self, dataset: Any, dtype: torch.dtype = torch.float32, vocabulary: int | None = None
    ) -> None:
        self.dataset, self.dtype, self.vocabulary = dataset, dtype, vocabulary

    def __call__(self, number: int) -> Tensor:
        """One input, without its batch dimension: an image (c, h, w) or ids (l,).

        Raises:
            UsageError: The network takes ids and this holds other numbers.
        """
        values: Tensor = self.dataset[number][0]
        if self.dtype.is_floating_point:
            return values.to(self.dtype)
        if values.dtype.is_floating_point:
            raise UsageError(
                f"input {number} of {type(self.dataset).__name__} holds {values.dtype}, but the"
                f" network takes ids ({self.dtype}); make them whole numbers in the factory"
            )
        self._check_ids(values, number)
        return values.to(self.dtype)

    def _check_ids(self, ids: Tensor, number: int) -> None:
        if self.vocabulary is None or not ids.numel():
            return
        least, most = int(ids.min()), int(ids.max())
        if least < 0 or most >= self.vocabulary:
            raise UsageError(
                f"input {number} of {type(self.dataset).__name__} holds ids from {least} to {most},"
                f" but the network knows 0 to {self.vocabulary - 1}; number them so in the factory"
            )


def imported(text: str) -> Any:
    """What `package.module:name` is; the current folder is searched last.

    Raises:
        UsageError: It does not import.
    """
    where, _, attribute = text.partition(":")
    here = str(Path.cwd())
    is_new = here not in sys.path
    if is_new:
        sys.path.append(here)
    try:
        found = import_module(where)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError, SyntaxError) as error:
        raise UsageError(
            f"{text} cannot be imported: {error}; expected package.module:name"
        ) from error
    finally:
        if is_new:
            sys.path.remove(here)
    return found
