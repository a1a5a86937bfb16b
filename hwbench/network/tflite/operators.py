"""The operators of TensorFlow Lite: their names, and how ONNX calls those that it has too.

Source: `BuiltinOperator` of TensorFlow Lite's schema, version 3 (tensorflow/lite/schema/schema.fbs,
Apache-2.0).
"""

from __future__ import annotations

NAMES = (
    "ADD", "AVERAGE_POOL_2D", "CONCATENATION", "CONV_2D", "DEPTHWISE_CONV_2D", "DEPTH_TO_SPACE",
    "DEQUANTIZE", "EMBEDDING_LOOKUP", "FLOOR", "FULLY_CONNECTED", "HASHTABLE_LOOKUP",
    "L2_NORMALIZATION", "L2_POOL_2D", "LOCAL_RESPONSE_NORMALIZATION", "LOGISTIC",
    "LSH_PROJECTION", "LSTM", "MAX_POOL_2D", "MUL", "RELU", "RELU_N1_TO_1", "RELU6", "RESHAPE",
    "RESIZE_BILINEAR", "RNN", "SOFTMAX", "SPACE_TO_DEPTH", "SVDF", "TANH", "CONCAT_EMBEDDINGS",
    "SKIP_GRAM", "CALL", "CUSTOM", "EMBEDDING_LOOKUP_SPARSE", "PAD",
    "UNIDIRECTIONAL_SEQUENCE_RNN", "GATHER", "BATCH_TO_SPACE_ND", "SPACE_TO_BATCH_ND",
    "TRANSPOSE", "MEAN", "SUB", "DIV", "SQUEEZE", "UNIDIRECTIONAL_SEQUENCE_LSTM",
    "STRIDED_SLICE", "BIDIRECTIONAL_SEQUENCE_RNN", "EXP", "TOPK_V2", "SPLIT", "LOG_SOFTMAX",
    "DELEGATE", "BIDIRECTIONAL_SEQUENCE_LSTM", "CAST", "PRELU", "MAXIMUM", "ARG_MAX", "MINIMUM",
    "LESS", "NEG", "PADV2", "GREATER", "GREATER_EQUAL", "LESS_EQUAL", "SELECT", "SLICE", "SIN",
    "TRANSPOSE_CONV", "SPARSE_TO_DENSE", "TILE", "EXPAND_DIMS", "EQUAL", "NOT_EQUAL", "LOG",
    "SUM", "SQRT", "RSQRT", "SHAPE", "POW", "ARG_MIN", "FAKE_QUANT", "REDUCE_PROD",
    "REDUCE_MAX", "PACK", "LOGICAL_OR", "ONE_HOT", "LOGICAL_AND", "LOGICAL_NOT", "UNPACK",
    "REDUCE_MIN", "FLOOR_DIV", "REDUCE_ANY", "SQUARE", "ZEROS_LIKE", "FILL", "FLOOR_MOD",
    "RANGE", "RESIZE_NEAREST_NEIGHBOR", "LEAKY_RELU", "SQUARED_DIFFERENCE", "MIRROR_PAD", "ABS",
    "SPLIT_V", "UNIQUE", "CEIL", "REVERSE_V2", "ADD_N", "GATHER_ND", "COS", "WHERE", "RANK",
    "ELU", "REVERSE_SEQUENCE", "MATRIX_DIAG", "QUANTIZE", "MATRIX_SET_DIAG", "ROUND",
    "HARD_SWISH", "IF", "WHILE", "NON_MAX_SUPPRESSION_V4", "NON_MAX_SUPPRESSION_V5",
    "SCATTER_ND", "SELECT_V2", "DENSIFY", "SEGMENT_SUM", "BATCH_MATMUL",
    "PLACEHOLDER_FOR_GREATER_OP_CODES", "CUMSUM", "CALL_ONCE", "BROADCAST_TO", "RFFT2D",
    "CONV_3D", "IMAG", "REAL", "COMPLEX_ABS", "HASHTABLE", "HASHTABLE_FIND", "HASHTABLE_IMPORT",
    "HASHTABLE_SIZE", "REDUCE_ALL", "CONV_3D_TRANSPOSE", "VAR_HANDLE", "READ_VARIABLE",
    "ASSIGN_VARIABLE", "BROADCAST_ARGS", "RANDOM_STANDARD_NORMAL", "BUCKETIZE",
    "RANDOM_UNIFORM", "MULTINOMIAL", "GELU", "DYNAMIC_UPDATE_SLICE", "RELU_0_TO_1",
    "UNSORTED_SEGMENT_PROD", "UNSORTED_SEGMENT_MAX", "UNSORTED_SEGMENT_SUM", "ATAN2",
    "UNSORTED_SEGMENT_MIN", "SIGN", "BITCAST", "BITWISE_XOR", "RIGHT_SHIFT",
)  # fmt: skip
"""Names by number; later ones are those of StableHLO, which are kept for converters."""
ONNX_NAMES = {
    "ADD": "Add", "ARG_MAX": "ArgMax", "ARG_MIN": "ArgMin", "AVERAGE_POOL_2D": "AveragePool",
    "BATCH_MATMUL": "MatMul", "BROADCAST_TO": "Expand", "CONCATENATION": "Concat",
    "CONV_2D": "Conv", "DEPTHWISE_CONV_2D": "Conv", "DEQUANTIZE": "DequantizeLinear",
    "EXPAND_DIMS": "Reshape", "FULLY_CONNECTED": "Linear", "LOGISTIC": "Sigmoid",
    "MAXIMUM": "Max", "MAX_POOL_2D": "MaxPool", "MEAN": "ReduceMean", "MINIMUM": "Min",
    "MIRROR_PAD": "Pad", "PACK": "Concat", "PADV2": "Pad", "PRELU": "PRelu",
    "QUANTIZE": "QuantizeLinear", "RELU6": "Clip", "RELU_0_TO_1": "Clip", "RELU_N1_TO_1": "Clip",
    "RESIZE_BILINEAR": "Resize", "RESIZE_NEAREST_NEIGHBOR": "Resize", "SELECT": "Where",
    "SELECT_V2": "Where", "SPLIT_V": "Split", "SQUEEZE": "Reshape", "STRIDED_SLICE": "Slice",
    "SUM": "ReduceSum", "TOPK_V2": "TopK", "TRANSPOSE_CONV": "ConvTranspose", "UNPACK": "Split",
}  # fmt: skip
"""ONNX's names of operators that the words of their own name do not give."""


def operator_name(code: int) -> str:
    """Name an operator by its number; numbers that are not known stay numbers."""
    return NAMES[code] if 0 <= code < len(NAMES) else f"OPERATOR_{code}"


def onnx_name(name: str) -> str:
    """Name an operator as ONNX does, or in ONNX's way of writing (`HARD_SWISH`: `HardSwish`)."""
    return ONNX_NAMES.get(name) or "".join(word.capitalize() for word in name.split("_"))
