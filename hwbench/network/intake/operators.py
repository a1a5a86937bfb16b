"""The operators that a file of torch may use.

TorchScript and exported programs run natively in their reader. Most operators of torch check their
arguments and write only into their own results; some are given sizes, strides or addresses and
believe them (`as_strided`, `_reinterpret_tensor`, `set_`, `native_batch_norm`), and others reach
files, processes or devices. So only those listed here run: what networks are made of and torch's
exporters to ONNX understand, each of which checks its arguments or at least writes into results of
its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hwbench.errors import UnsafeModelError

_TENSOR_OPERATORS = frozenset(
    """
    abs absolute acos acosh adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
    adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d add addbmm addcdiv addcmul addmm
    addmv addr affine_grid_generator alias all allclose alpha_dropout amax amin aminmax angle any
    arange arccos arcsin arctan argmax argmin argsort asin asinh atan atan2 atanh atleast_1d
    atleast_2d atleast_3d avg_pool1d avg_pool2d avg_pool3d baddbmm batch_norm bernoulli bilinear
    bitwise_and bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift bitwise_xor
    blackman_window block_diag bmm broadcast_tensors broadcast_to bucketize cat cdist ceil celu
    channel_shuffle chunk clamp clamp_max clamp_min clip clone col2im complex concat concatenate
    conj conj_physical constant_pad_nd contiguous conv1d conv2d conv3d conv_tbc conv_transpose1d
    conv_transpose2d conv_transpose3d convolution copy cos cosh cosine_similarity cpu cross
    cross_entropy_loss cummax cummin cumprod cumsum deg2rad dequantize det detach diag diag_embed
    diagonal diagonal_copy diff div divide dot double dropout einsum elu embedding embedding_bag
    embedding_renorm empty empty_like eq equal erf erfc exp exp2 expand expand_as expm1 eye
    fake_quantize_per_channel_affine fake_quantize_per_tensor_affine feature_alpha_dropout
    feature_dropout fft_fft fft_fft2 fft_fftn fft_fftshift fft_ifft fft_ifft2 fft_ifftn
    fft_ifftshift fft_irfft fft_irfft2 fft_irfftn fft_rfft fft_rfft2 fft_rfftn fill flatten flip
    fliplr flipud float floor floor_divide fmod frac frobenius_norm full full_like gather ge gelu
    get_pool_ceil_padding glu greater greater_equal grid_sampler grid_sampler_2d grid_sampler_3d
    group_norm gru gru_cell gt half hamming_window hann_window hardshrink hardsigmoid hardswish
    hardtanh heaviside huber_loss im2col index index_add index_copy index_fill index_put
    index_select instance_norm int inverse is_floating_point is_nonzero is_same_size isclose
    isfinite isinf isnan isneginf isposinf istft item kl_div l1_loss layer_norm le leaky_relu lerp
    less less_equal lift lift_fresh lift_fresh_copy linalg_cross linalg_det linalg_inv
    linalg_matrix_norm linalg_norm linalg_vector_norm linear linspace log log10 log1p log2
    log_sigmoid log_softmax logaddexp logaddexp2 logcumsumexp logdet logical_and logical_not
    logical_or logical_xor logit logspace logsumexp long lstm lstm_cell lt mH mT masked_fill
    masked_scatter masked_select matmul matrix_H max max_pool1d max_pool1d_with_indices max_pool2d
    max_pool2d_with_indices max_pool3d max_pool3d_with_indices maximum mean median meshgrid min
    minimum mish mm moveaxis movedim mse_loss mul multinomial multiply mv nan_to_num narrow
    native_channel_shuffle native_dropout native_group_norm native_layer_norm ne neg negative
    new_empty new_full new_ones new_zeros nll_loss nll_loss_forward nonzero nonzero_numpy norm
    normal normal_functional normalize not_equal numel numpy_T one_hot ones ones_like outer pad
    pairwise_distance permute pixel_shuffle pixel_unshuffle polar positive pow prelu prod
    quantize_per_tensor rad2deg rand rand_like randint randint_like randn randn_like randperm range
    ravel real reciprocal reflection_pad1d reflection_pad2d reflection_pad3d relu relu6 remainder
    repeat repeat_interleave replication_pad1d replication_pad2d replication_pad3d requires_grad
    reshape reshape_as resolve_conj resolve_neg rms_norm rnn_relu rnn_relu_cell rnn_tanh
    rnn_tanh_cell roll rot90 round rrelu rsqrt rsub scalar_tensor scaled_dot_product_attention
    scatter scatter_add scatter_reduce searchsorted select select_copy select_scatter selu sigmoid
    sign signbit silu sin sinc sinh size slice slice_copy slice_scatter smooth_l1_loss softmax
    softmin softplus softshrink sort special_erf special_erfc special_expm1 special_log_softmax
    special_sinc special_softmax split split_copy split_with_sizes split_with_sizes_copy sqrt square
    squeeze squeeze_copy stack std std_mean stft storage_offset stride sub subtract sum sum_to_size
    sym_is_contiguous sym_numel sym_size sym_storage_offset sym_stride t take take_along_dim tan
    tanh tanhshrink tensor_split tensordot threshold tile to topk trace transpose transpose_copy
    tril tril_indices triu triu_indices true_divide trunc type_as unbind unbind_copy unflatten
    unfold uniform unique_consecutive unique_dim unsafe_chunk unsafe_split unsafe_split_with_sizes
    unsqueeze unsqueeze_copy upsample_bicubic2d upsample_bilinear2d upsample_linear1d
    upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_trilinear3d vander var
    var_mean vdot view view_as view_as_complex view_as_complex_copy view_as_real view_as_real_copy
    view_copy vstack hstack dstack where xlogy zero zeros zeros_like
    __and__ __interpolate __lshift__ __or__ __rshift__ __upsample __upsample_bilinear
    __upsample_nearest __xor__ _adaptive_avg_pool2d _adaptive_avg_pool3d _assert_async
    _assert_scalar _assert_tensor_metadata _cast_Double _cast_Float _cast_Half _cast_Int _cast_Long
    _conj _convolution _convolution_mode _dim_arange _fused_rms_norm _local_scalar_dense
    _log_softmax _native_batch_norm_legit_no_training _native_multi_head_attention
    _nested_tensor_from_mask _nested_tensor_from_mask_left_aligned to_padded_tensor
    _transformer_encoder_layer_fwd _pack_padded_sequence _pad_circular _pad_enum
    _pad_packed_sequence _prelu_kernel _reshape_from_tensor _safe_softmax
    _scaled_dot_product_attention_math _scaled_dot_product_flash_attention_for_cpu _shape_as_tensor
    _softmax _to_copy _unique _unique2 _unsafe_index _unsafe_index_put _unsafe_view
    _upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_nearest_exact1d
    _upsample_nearest_exact2d _upsample_nearest_exact3d _weight_norm sym_constrain_range
    sym_constrain_range_for_size
    """.split()  # noqa: SIM905 - a list of words
)
"""Operators of the namespace `aten`; those that work in place end with `_` as well."""

_QUANTISERS = frozenset(
    {
        "quantize_per_tensor", "dequantize_per_tensor", "quantize_per_channel",
        "dequantize_per_channel",
    }
)  # fmt: skip
"""Operators of the namespace `quantized_decomposed`, written in Python upon those of `aten`."""

_VALUE_OPERATORS = frozenset(
    """
    Bool BoolImplicit Complex ComplexImplicit Float FloatImplicit Int IntImplicit ScalarImplicit
    Delete __contains__ __delitem__ __derive_index __getitem__ __is__ __isnot__ __not__
    __range_length _assert_int_or_pair _get_tracing_state _infer_size _list_to_tensor _set_item
    _tensor_to_list append as_tensor backward_dropout bool ceildiv clear copysign count degrees
    device dict dim endswith extend fabs factorial find fmod floordiv format gamma gcd get
    get_device has_torch_function hash index insert is_autocast_cpu_enabled is_autocast_enabled
    is_coalesced is_complex is_contiguous is_cuda is_grad_enabled is_pinned is_quantized
    is_scripting
    isalpha isdigit islower isspace isupper items join keys ldexp len lgamma list lower
    mathremainder modf ord percentFormat pop popitem radians remove replace requires_grad_ reverse
    rstrip lstrip setdefault set_grad_enabled sorted split startswith str strip tensor update upper
    values warn
    """.split()  # noqa: SIM905 - a list of words
)
"""Operators of `aten` on the numbers, texts, lists and dictionaries of TorchScript."""

_STATEMENTS = frozenset(
    """
    BroadcastSizes CallFunction CallMethod Constant ConstantChunk CreateObject DictConstruct Enter
    EnumName EnumValue Exit GetAttr If ListConstruct ListUnpack Loop NumToTensor RaiseException
    SetAttr StringIndex TupleConstruct TupleIndex TupleSlice TupleUnpack TypeCheck Uninitialized
    abs convert_element_type data device dtype grad is_cpu is_cuda is_meta is_mkldnn is_mps
    is_nested is_quantized is_sparse is_xla isinstance itemsize layout max min name ndim
    requires_grad shape tolist type unchecked_cast unchecked_unwrap_optional
    """.split()  # noqa: SIM905 - a list of words
)
"""Nodes of the namespace `prim`: statements and properties of TorchScript."""

_FOREIGN_CLASSES = "__torch__.torch.classes"
"""What the types of classes written in C++ begin with."""


def check_script(unit: Any, name: str) -> None:
    """Check every function and method of a TorchScript file before any of them runs.

    Args:
        unit: The `torch._C.CompilationUnit` that the file was loaded into.
        name: The name of the file, for messages.

    Raises:
        UnsafeModelError: One of them uses an operator that is not listed, or a class of C++.
    """
    for function in unit.get_functions():
        for node in _iterate_nodes(function.graph):
            kind = node.kind()
            namespace, _, operator = kind.partition("::")
            check_call(namespace, operator, name)
            for value in (*node.inputs(), *node.outputs()):
                if _FOREIGN_CLASSES in value.type().annotation_str:
                    _refuse(name, value.type().annotation_str)


def check_program(program: Any, name: str) -> None:
    """Check every operator of an exported program before any of them runs.

    Args:
        program: The `torch.export.ExportedProgram`.
        name: The name of the file, for messages.

    Raises:
        UnsafeModelError: It uses an operator that is not listed.
    """
    for module in program.graph_module.modules():
        graph = getattr(module, "graph", None)
        for node in getattr(graph, "nodes", ()):
            schema = getattr(node.target, "_schema", None)
            if node.op != "call_function" or schema is None:
                continue  # of Python's own functions `archives` let only arithmetic through
            namespace, _, operator = schema.name.partition("::")
            if not is_allowed_operator(namespace, operator):
                _refuse(name, str(node.target))


def check_call(namespace: str, operator: str, name: str) -> None:
    """Check one operator or statement of TorchScript.

    Args:
        namespace: `aten` for operators of torch itself, `prim` for statements.
        operator: Its name without an overload.
        name: The name of the file, for messages.

    Raises:
        UnsafeModelError: It is not listed.
    """
    if namespace == "prim":
        is_allowed = operator in _STATEMENTS
    else:
        is_allowed = is_allowed_operator(namespace, operator) or (
            namespace == "aten" and operator in _VALUE_OPERATORS
        )
    if not is_allowed:
        _refuse(name, f"{namespace}::{operator}")


def is_allowed_operator(namespace: str, operator: str) -> bool:
    """Tell whether an operator on tensors may run.

    Args:
        namespace: `aten` for those of torch itself.
        operator: Its name without an overload; it may end with `_`, for working in place.
    """
    if namespace == "quantized_decomposed":
        return operator in _QUANTISERS
    if namespace != "aten":
        return False
    if operator in _TENSOR_OPERATORS:
        return True
    return not operator.endswith("__") and operator.removesuffix("_") in _TENSOR_OPERATORS


def _iterate_nodes(block: Any) -> Iterator[Any]:
    """Walk over the nodes of a graph and of the blocks within them."""
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from _iterate_nodes(inner)


def _refuse(name: str, kind: str) -> None:
    raise UnsafeModelError(
        f"{name} uses {kind[:80]!r}, which is not one of the tensor operators that a file may use;"
        " export the model anew without it"
    )
