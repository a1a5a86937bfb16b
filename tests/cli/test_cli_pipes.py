"""A pipe in place of a file is refused at once: opening it would wait for whoever writes into it."""

from __future__ import annotations

import os

import pytest

from tests.support.cli_support import hwb

__all__ = ["hwb"]

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names"),
    pytest.mark.timeout(60),
]
VIRTUAL = ("--device", "virtual", "--budget", "1")


@pytest.mark.parametrize(
    "words",
    [
        *(
            ("profile", f"pipe.{ending}", *VIRTUAL)
            for ending in ("onnx", "pt", "pt2", "safetensors", "tflite", "bin")
        ),
        ("compare", "big.onnx", "pipe.onnx", *VIRTUAL),
        ("matrix", "big.onnx", "pipe.onnx", *VIRTUAL),
        ("profile", "big.onnx", "--inputs", "pipe.npz", *VIRTUAL),
        ("profile", "pipe.tflite", "--device", "android", "--benchmark-model", "pipe.bin"),
        ("quantize", "pipe.onnx", "--data", "digits", *VIRTUAL),
        ("search", "pipe.onnx", "--macs", "0.5", "--device", "virtual"),
        ("table", "import", "pipe.hwtable"),
        ("table", "import", "tflite-log", "pipe.txt", "--model", "big.onnx", "--name", "phone"),
        ("table", "predict", "pipe.onnx", "--table", "pixel1"),
        ("table", "predict", "big.onnx", "--table", "pipe.hwtable"),
    ],
)
def test_a_pipe_is_refused_at_once(words, hwb):
    for word in words:
        if word.startswith("pipe."):
            os.mkfifo(word)
    outcome = hwb(*words)
    assert outcome.code == 2
    assert "regular file" in outcome.err + outcome.out
