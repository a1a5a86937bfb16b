"""Rows of a profile of ONNX Runtime, joined to the layers by the graph that it executes.

ONNX Runtime fuses and splits nodes, and calls what it makes by names that say little
(`gemm_input_reshape`). The ONNX Runtime that is installed here makes the same of the same model, so
it is asked which graph that is; `hwbench.devices.shared.ort.origins` finds out what each node of it
works for. Names of the model tell the rest, where the profile is of another version.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hwbench.devices.ort.python_engine import create_session, session_options
from hwbench.devices.shared.ort.executed_graph import executed_nodes
from hwbench.devices.shared.ort.layers import match_entries
from hwbench.devices.shared.ort.origins import CONVERSIONS, NodeOrigin, find_origins
from hwbench.devices.shared.ort.profile import ProfiledRuns
from hwbench.errors import WorkloadError
from hwbench.lookup_tables.exchange.join_by_name import Row, ort_rows
from hwbench.network.graph import layers
from hwbench.network.graph.view import GraphView
from hwbench.records.scratch import scratch_folder
from hwbench.user_folders import cache_folder

if TYPE_CHECKING:
    from onnx import ModelProto

_NUMBER = re.compile(r"(_token_\d+| \(\d+\))+$")
"""What tells nodes apart that the runtime called the same, and entries of equal names."""


def rename_as_in_file(model: ModelProto, node_names: Mapping[str, str]) -> ModelProto:
    """Copy a model, its nodes called as in the file that it was read from.

    Args:
        model: The model, every node with a name of its own.
        node_names: Its nodes by the names that the file has for them.
    """
    renamed = type(model)()
    renamed.CopyFrom(model)
    taken = {node.name for node in model.graph.node}
    own: dict[str, str] = {}
    for name, node in node_names.items():
        own.setdefault(node, name)
    # A name may be that of one node in the file and of another one here, so all are freed first.
    taken -= own.keys()
    for node in renamed.graph.node:
        name = own.get(node.name, "")
        if name and name not in taken:
            taken.add(name)
            node.name = name
    return renamed


def find_executed(model: ModelProto, nameless: Sequence[str]) -> tuple[NodeOrigin, ...]:
    """Find what ONNX Runtime executes for a model, and the layers that each node works for.

    Args:
        model: The model, every node with a name of its own.
        nameless: Names of nodes that have none in the file.

    Returns:
        The nodes in order; none if the runtime that is installed refuses the model.
    """
    bare = type(model)()
    bare.CopyFrom(model)
    for node in bare.graph.node:
        if node.name in nameless:
            node.name = ""
    options = session_options((0,))
    with scratch_folder(cache_folder()) as folder:
        path = Path(folder) / "graph.onnx"
        options.optimized_model_filepath = str(path)
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_file_name", "graph.weights"
        )
        try:
            create_session(bare.SerializeToString(), options)
        except WorkloadError:
            return ()
        executed = executed_nodes(path.read_bytes())
    view = GraphView(model)
    return find_origins(executed, view, layers(view))


def explain_rows(
    runs: ProfiledRuns, source: str, origins: Sequence[NodeOrigin], names: Mapping[str, str]
) -> list[Row]:
    """Rows of a profile, with the layers that each works for as far as the executed graph tells.

    Args:
        runs: The profile.
        source: Name of the file for messages.
        origins: What the runtime executes.
        names: What names of the file stand for by themselves.

    Raises:
        UsageError: It holds the first inference only.
    """
    matched = _match(origins, runs)
    executed = {origin.node.name for origin in origins}
    rows = []
    for row in ort_rows(runs, source):
        origin = matched.get(row.name)
        # A node without a name is matched by order, so one that is found by its name comes first.
        if origin is not None and (row.name in executed or row.name not in names):
            rows.append(replace(row, serves=origin.serves))
        elif row.name not in names and runs.ops.get(row.name) in CONVERSIONS:
            rows.append(replace(row, serves=()))  # inserted, by another version
        else:
            rows.append(row)
    return rows


def _match(origins: Sequence[NodeOrigin], runs: ProfiledRuns) -> dict[str, NodeOrigin]:
    """Match the entries of a profile to the nodes that the runtime executes here.

    The runtime numbers what it makes, so where one version makes more than the other numbers
    differ. Nodes that are called the same but for these follow each other in the same order.
    """
    known = set(origins)
    matched = {}
    strangers = defaultdict(list)
    for entry, origin in match_entries(origins, runs):
        if origin in known:
            matched[entry] = origin
        else:
            strangers[runs.ops.get(entry, ""), _NUMBER.sub("", entry)].append(entry)
    left = defaultdict(list)
    for origin in origins:
        if origin not in matched.values():
            left[origin.node.op, _NUMBER.sub("", origin.node.name)].append(origin)
    for kind, entries in strangers.items():
        if len(entries) == len(left[kind]):
            matched.update(zip(entries, left[kind], strict=True))
    return matched
