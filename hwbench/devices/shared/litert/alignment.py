"""Which operators of a `.tflite` file the rows of XNNPACK work for.

XNNPACK executes a graph of its own, whose operators have no names: one of the file may become
several (an addition and its clamp), or none (a pad that a convolution does itself). But it keeps
their order. So rows and operators are aligned as two sequences, like texts in a comparison: every
operator with weights has a row of its kind, and what lies between goes to those of the same kind.
The alignment of the highest score is found by dynamic programming (Needleman and Wunsch, "A general
method applicable to the search for similarities in the amino acid sequence of two proteins", 1970).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from hwbench.network.tflite.graph import WEIGHTED, Operator

_CONVOLUTION, _LINEAR = "convolution", "fullyconnected"
_ROWS_OF = {
    "ADD": ("add",),
    "ASSIGN_VARIABLE": ("copy", "slice"),
    "AVERAGE_POOL_2D": ("averagepooling", "globalaveragepooling", "mean", "sum"),
    "BATCH_MATMUL": ("batchmatrixmultiply",),
    "CAST": ("convert",),
    "CONCATENATION": ("copy", "concatenate"),
    "CONV_2D": (_CONVOLUTION, _LINEAR),
    "DEPTHWISE_CONV_2D": (_CONVOLUTION,),
    "DEQUANTIZE": ("convert",),
    "DIV": ("divide",),
    "EXPAND_DIMS": ("staticreshape", "copy"),
    "FULLY_CONNECTED": (_LINEAR, "dynamicfullyconnected"),
    "LOGISTIC": ("sigmoid",),
    "MAX_POOL_2D": ("maxpooling",),
    "MEAN": ("mean", "globalaveragepooling", "sum", "staticmean"),
    "MUL": ("multiply",),
    "NEG": ("negate",),
    "PAD": ("constantpad",),
    "PADV2": ("constantpad",),
    "RELU": ("clamp",),
    "RELU6": ("clamp",),
    "RELU_0_TO_1": ("clamp",),
    "RELU_N1_TO_1": ("clamp",),
    "QUANTIZE": ("convert",),
    "RESHAPE": ("staticreshape", "copy"),
    "RESIZE_BILINEAR": ("resizebilinear",),
    "RSQRT": ("reciprocalsquareroot",),
    "SLICE": ("slice",),
    "SPLIT": ("slice", "copy"),
    "SQRT": ("squareroot",),
    "SQUEEZE": ("staticreshape", "copy"),
    "STRIDED_SLICE": ("slice", "copy"),
    "SUB": ("subtract",),
    "SUM": ("sum",),
    "TRANSPOSE_CONV": ("deconvolution",),
}
"""How names of rows begin, by operator; others are called alike on both sides."""
_MATCH_WEIGHTED, _MATCH = 20.0, 4.0
_HELPER = -1.0
"""A row more for an operator that has one already."""
_STRAY = -6.0
"""A row of an operator with weights where none is: it belongs to nothing."""
_SKIP_WEIGHTED, _SKIP = -20.0, -0.1
"""An operator without a row."""
MAX_CELLS = 4_000_000
"""Rows times operators up to which an alignment is looked for; it takes some seconds."""


def align_rows(tags: Sequence[str], operators: Sequence[Operator]) -> list[Operator | None]:
    """Find the operator that each row of XNNPACK works for.

    Args:
        tags: What the rows are called, in the order of execution.
        operators: The operators that XNNPACK may have run, in the order of the file.

    Returns:
        An operator for each row; None where no operator is found.
    """
    if not operators or len(tags) * len(operators) > MAX_CELLS:
        return [None] * len(tags)
    names = [_row_name(tag) for tag in tags]
    # best[j] is the score of the rows so far, when the first j operators have had their turn.
    best = [0.0]
    for operator in operators:
        best.append(best[-1] + _skip_score(operator))
    choices: list[list[str]] = []
    for name in names:
        is_weighted = name.startswith((_CONVOLUTION, _LINEAR, "deconvolution"))
        extra = _STRAY if is_weighted else _HELPER
        scores = [best[0] + extra]
        row_choices = ["extra"]
        for number, operator in enumerate(operators, 1):
            candidates = [
                (best[number - 1] + _match_score(name, operator), "match"),
                (best[number] + extra, "extra"),
                (scores[number - 1] + _skip_score(operator), "skip"),
            ]
            score, choice = max(candidates, key=lambda candidate: candidate[0])
            scores.append(score)
            row_choices.append(choice)
        best = scores
        choices.append(row_choices)
    return _trace_back(choices, names, operators)


def _trace_back(
    choices: Sequence[Sequence[str]], names: Sequence[str], operators: Sequence[Operator]
) -> list[Operator | None]:
    """Read the best alignment off the choices, from its end."""
    found: list[Operator | None] = [None] * len(names)
    row, number = len(names), len(operators)
    while row > 0:
        choice = choices[row - 1][number]
        if choice == "skip":
            number -= 1
            continue
        row -= 1
        if choice == "match":
            number -= 1
            found[row] = operators[number]
        elif number > 0 and not names[row].startswith((_CONVOLUTION, _LINEAR)):
            found[row] = operators[number - 1]
    return found


def _row_name(tag: str) -> str:
    """Letters of what a row is called, without types, layout and kernel behind it."""
    return re.sub(r"[^a-z0-9]", "", tag.partition("(")[0].lower())


def _match_score(name: str, operator: Operator) -> float:
    prefixes = _ROWS_OF.get(operator.kind, (operator.kind.replace("_", "").lower(),))
    if not name.startswith(prefixes):
        return float("-inf")
    return _MATCH_WEIGHTED if operator.kind in WEIGHTED else _MATCH


def _skip_score(operator: Operator) -> float:
    return _SKIP_WEIGHTED if operator.kind in WEIGHTED else _SKIP
