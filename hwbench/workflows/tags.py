"""`hwbench store tag`: models kept under a name, to be measured again beside later ones."""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from hwbench.errors import Call, HwbenchError, SchemaError, UsageError, WorkloadError
from hwbench.network.intake import ModelOptions, load_workload
from hwbench.network.workload import ONNX, Workload
from hwbench.records.codec import from_plain, to_plain
from hwbench.records.scratch import scratch_folder
from hwbench.records.tensors import TensorSpec
from hwbench.store import DamagedRecord, open_store, read_as

if TYPE_CHECKING:
    from torch import nn

RECORD = "tagged_model"
"""Kind of the store's record that holds a model and its tag."""
_TAG = re.compile(r"[\w][\w./-]{0,99}")


def tag_model(
    tag: str,
    model: str | Path | nn.Module,
    *,
    store: str | None = None,
    **options: Unpack[ModelOptions],
) -> Workload:
    """Keep a copy of a model under a name; a tag that exists is moved to it.

    Args:
        tag: The name: letters, digits, `.`, `_`, `-` and `/`.
        model: What `hwbench.profile` takes.
        store: SQLAlchemy URL of the store; None for `$HWBENCH_STORE` or the user's data folder.
        options: How the model is read, see `load_workload`.

    Returns:
        What is kept.

    Raises:
        UsageError: The tag is no such name, or values of inputs were given, which are not kept.
        HwbenchError: The model cannot be read.
    """
    if not _TAG.fullmatch(tag):
        raise UsageError(
            f"{tag!r} is no name for a tag; expected letters, digits, '.', '_', '-' and '/'"
        )
    workload = load_workload(model, **options)
    if workload.values:
        raise UsageError(f"values of inputs are not kept, so {workload.name} cannot be tagged")
    if workload.weights is not None:
        raise WorkloadError(
            f"{workload.name} keeps over 2 GiB of weights, which are not kept in a store; give its"
            " path wherever it is measured"
        )
    with open_store(store) as opened:
        opened.save_record(RECORD, {"tag": tag, **_to_plain(workload)})
    return workload


def load_tagged(tag: str, *, store: str | None = None) -> Workload:
    """The model that was tagged last with a name.

    Args:
        tag: The name.
        store: SQLAlchemy URL of the store; None for `$HWBENCH_STORE` or the user's data folder.

    Raises:
        UsageError: There is no such tag.
        SchemaError: The record is damaged.
    """
    with open_store(store) as opened:
        damaged: list[DamagedRecord] = []
        records = opened.records(RECORD, damaged=damaged)
        ids = {str(data.get("tag")): record_id for record_id, data in records.items()}
        if tag not in ids:
            known = f"known: {', '.join(ids)}" if ids else "there are none yet"
            if damaged:
                known += f"; {len(damaged)} of these records are damaged and left out"
            raise UsageError(
                f"no tag {tag!r} in {opened.url}; {known}",
                Call("tag_model", {"tag": tag, "model": None}, purpose="make it"),
            )
        what = f"{RECORD} {ids[tag]} in {opened.url}"
        workload = read_as(_from_plain, records[ids[tag]], what)
    _check_artifact(workload, what)
    return replace(workload, name=f"{workload.name} ({tag})")


def _check_artifact(workload: Workload, what: str) -> None:
    """Read the model as files of strangers are read, within their limits.

    A store may be shared, and the digest in a record is of whoever wrote the record.

    Raises:
        SchemaError: It is damaged, or not safe to load.
    """
    with scratch_folder() as folder:
        path = folder / "model.onnx"
        path.write_bytes(workload.artifact)
        try:
            load_workload(path)
        except HwbenchError as error:
            text = error.message.replace(str(path), workload.name)
            raise SchemaError(f"{what} is not read: {text}") from error


def _to_plain(workload: Workload) -> dict[str, Any]:
    """A workload as plain JSON types."""
    return {
        "model": workload.name,
        "sha256": workload.sha256,
        "artifact": b64encode(workload.artifact).decode("ascii"),
        "inputs": [to_plain(spec) for spec in workload.inputs],
        "batch": workload.batch,
        "precision": workload.precision,
        "macs": workload.macs,
        "params": workload.params,
        "file_bytes": workload.file_bytes,
        "format": workload.format,
    }


def _from_plain(data: Mapping[str, Any]) -> Workload:
    """The workload of `_to_plain`'s form.

    Raises:
        SchemaError: It is damaged.
    """
    workload = Workload(
        name=str(data["model"]),
        artifact=b64decode(data["artifact"], validate=True),
        inputs=tuple(from_plain(TensorSpec, spec, "input") for spec in data["inputs"]),
        batch=int(data["batch"]),
        precision=str(data["precision"]),
        macs=None if data["macs"] is None else int(data["macs"]),
        params=int(data["params"]),
        file_bytes=int(data["file_bytes"]),
        format=str(data.get("format", ONNX)),
    )
    if workload.sha256 != data["sha256"]:
        raise SchemaError("the model is not the one that was tagged")
    return workload
