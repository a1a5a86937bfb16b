"""What the first layer of a network says about its input."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hwbench.errors import Argument, UsageError
from hwbench.network.intake.checkpoints import find_first_layer
from hwbench.network.intake.input_texts import InputRequest
from hwbench.records.findings import Finding

SIZES = (28, 32, 48, 64, 84, 96, 112, 128, 160, 192, 224, 227, 240, 256, 299, 320, 384, 448, 512)
"""Sides of images that networks are commonly trained for, the smallest first."""
EXAMPLE = "1x3x224x224"


def example_shape(tensors: Mapping[str, Any]) -> str:
    """Write an input that a network with these weights could take, for a message.

    Channels and features are those of the first layer, sizes of images are only usual ones.

    Args:
        tensors: The weights by name, in the order of the file; empty if nothing is known of them.
    """
    first = find_first_layer(tensors)
    if first is None:
        return EXAMPLE
    name, tensor = first
    shape = tensor.shape
    example = EXAMPLE
    if name.rpartition(".")[2].startswith("weight_ih_l"):
        example = f"1x16x{shape[1]}"
    elif len(shape) == 2 and _is_embedding(name, shape):
        example = f"1x128:int64[0,{shape[0]}]"
    elif len(shape) == 2:
        example = f"1x{shape[1]}"
    elif len(shape) == 3:
        example = f"1x{shape[1]}x256"
    elif len(shape) == 4:
        side = 32 if shape[1] == 1 else 224
        example = f"1x{shape[1]}x{side}x{side}"
    elif len(shape) == 5:
        example = f"1x{shape[1]}x16x112x112"
    return example


def is_linear(name: str, tensor: Any) -> bool:
    """Tell whether a weight is that of a linear layer, which says all of its input."""
    shape = tuple(tensor.shape)
    leaf = name.rpartition(".")[2]
    return len(shape) == 2 and not leaf.startswith("weight_ih") and not _is_embedding(name, shape)


def _is_embedding(name: str, shape: tuple[int, ...]) -> bool:
    """Tell by its name whether a matrix is a table of embeddings."""
    words = ("emb", "wte", "vocab", "token")
    return any(word in name.lower() for word in words) and shape[0] > 1


def is_fixed(tensors: Mapping[str, Any]) -> bool:
    """Tell whether the weights leave only one input possible, which `guess_input` then finds.

    That is so if the first layer is linear, or if a linear layer takes more than the channels of
    the convolution before it: a feature map is flattened there.
    """
    first = find_first_layer(tensors)
    if first is None or is_linear(*first):
        return first is not None and not _has_sequences(tensors)
    channels = 0
    for name, tensor in tensors.items():
        if len(tensor.shape) == 4:
            channels = tensor.shape[0]
        elif is_linear(name, tensor):
            return bool(tensor.shape[1] != channels)
    return False


def missing_shape(
    name: str, tensors: Mapping[str, Any], arguments: Sequence[str] = ()
) -> UsageError:
    """Make the error for a network whose input is not known.

    Args:
        name: The name of the model.
        tensors: Its weights, as far as they are known.
        arguments: The names of its inputs, as far as they are known.
    """
    first = find_first_layer(tensors)
    because = ""
    if first is not None:
        sizes = "x".join(map(str, first[1].shape))
        because = f" (its first layer, {first[0].rpartition('.')[0][:60]}, is {sizes})"
    if len(arguments) > 1:
        # What is known of the first layer may be about any of them.
        texts = tuple(f"{argument}=SHAPE" for argument in arguments)
        return UsageError(
            f"{name} takes the inputs {', '.join(arguments)} and does not say their"
            f" shapes{because}",
            Argument("inputs", texts, purpose="give all of them"),
        )
    return UsageError(
        f"{name} does not say the shape of its input{because}",
        Argument("inputs", example_shape(tensors), purpose="give it"),
    )


def guess_input(
    tensors: Mapping[str, Any], runs_on: Callable[[InputRequest], bool]
) -> tuple[InputRequest, Finding] | None:
    """Find the input of a network where only one is possible.

    A first convolution says the channels, and the size of images is known if just one of the usual
    ones runs, as where a linear layer follows a flattened map. A first linear layer says the
    features, if the network has no layer that works along a sequence.

    Args:
        tensors: The weights by name, in order.
        runs_on: Tells whether the network runs on an input.

    Returns:
        The input, and the finding that says so; None if several are possible, or none.
    """
    first = find_first_layer(tensors)
    if first is None:
        return None
    name, tensor = first
    shape = tuple(tensor.shape)
    if is_linear(name, tensor):
        possible = [InputRequest("", (1, shape[1]))]
        because = "its first layer is linear"
        if _has_sequences(tensors):
            return None
    elif len(shape) == 4:
        possible = [InputRequest("", (1, shape[1], side, side)) for side in SIZES]
        because = "of the usual sizes only this one runs"
    else:
        return None
    found = None
    for request in possible:
        if runs_on(request):
            if found is not None:
                return None
            found = request
    if found is None:
        return None
    text = f"the input {found} was not given but guessed: {because}"
    return found, Finding("input_guessed", text)


def _has_sequences(tensors: Mapping[str, Any]) -> bool:
    """Tell whether a network has layers that are usual along sequences: attention, recurrence."""
    words = ("attn", "attention", "qkv", "in_proj", "_ih_l", "emb", "token")
    return any(word in name.lower() for name in tensors for word in words)
