"""Model files of other frameworks, named for what they are, with what to do about them."""

from __future__ import annotations

from collections.abc import Iterable

_EXPORT = "give the network that it was made from, as .onnx, .pt2 or .pt"
_TFLITE = (
    "a TensorFlow Lite model, which is measured and compared as it is, and not changed; for all"
    f" else, {_EXPORT}"
)
_ENGINE = (
    "a TensorRT engine, built for one GPU and one version; give the .onnx that it was built from,"
    " which the device tensorrt builds anew"
)
_ORT = "an .ort model of ONNX Runtime; give the .onnx that it was made from"
_KERAS = "a file of Keras; export the network to ONNX (with tf2onnx)"
_HDF = "an HDF5 file (.h5), as Keras writes; export the network to ONNX (with tf2onnx)"
_TAR = "a tar archive; unpack it and give the model in it"
_GZIP = "compressed by gzip; unpack it and give the model in it"
_LFS = "a pointer of Git LFS, not the model; fetch the model with git lfs pull"
_NUMPY = "of NumPy, not a model; its arrays can be given as values of inputs"
_MARKS = (
    (4, b"TFL3", _TFLITE),
    (4, b"ORTM", _ORT),
    (4, b"ET12", f"an ExecuTorch program; {_EXPORT}"),
    (0, b"ftrt", _ENGINE),
    (0, b"ptrt", _ENGINE),
    (0, b"\x89HDF", _HDF),
    (0, b"GGUF", f"a GGUF file of llama.cpp; {_EXPORT}"),
    (0, b"\x93NUMPY", _NUMPY),
    (257, b"ustar", _TAR),
    (0, b"\x1f\x8b", _GZIP),
    (0, b"7767517", f"a parameter file of ncnn; {_EXPORT}"),
    (0, b"version https://git-lfs", _LFS),
)
"""Where in a file which bytes stand, and what it then is."""


def describe(start: bytes) -> str:
    """Say what a file is by its first 512 bytes; empty if it is none of another framework."""
    for offset, mark, text in _MARKS:
        if start[offset : offset + len(mark)] == mark:
            return text
    beginning = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    if beginning.startswith((b"<?xml", b"<net")) and b"<net" in start:
        return f"a network of OpenVINO (.xml, its weights in a .bin); {_EXPORT}"
    if beginning.lower().startswith((b"<!doctype html", b"<html")):
        return "a page of HTML, not a model; download the file itself"
    if beginning.startswith(b"<?xml"):
        return "an XML file; expected .onnx, .pt2 or .pt"
    return ""


def describe_archive(members: Iterable[str]) -> str:
    """Say what a zip archive is by the names in it; empty if it is none of another framework."""
    names = set(members)
    if any(name.endswith(".npy") for name in names):
        return _NUMPY
    if "model.weights.h5" in names:
        return _KERAS
    return ""
