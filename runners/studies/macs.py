"""Multiply-accumulates of 40 networks of other people, against two independent counters.

It needs timm, torchvision, transformers and fvcore, which hwbench itself does not use. Weights are
random. `torch.utils.flop_counter` counts what torch dispatches, fvcore what it traces.
"""

from __future__ import annotations

import argparse
import csv
import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from hwbench.errors import HwbenchError
from hwbench.network.intake import load_workload
from runners.studies._results import RESULTS, save_study

JOURNAL = RESULTS / "macs" / "networks.csv"
"""One row a network; a study that was stopped goes on from it."""
WITHIN = 0.01
"""Difference that counts as agreement."""
TORCHVISION = (
    "alexnet", "vgg11_bn", "resnet18", "resnext50_32x4d", "densenet121", "googlenet",
    "mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2_x1_0", "squeezenet1_1", "mnasnet1_0",
    "efficientnet_b0", "regnet_y_400mf", "convnext_tiny", "vit_b_32", "swin_t",
)  # fmt: skip
SEGMENTATION = ("lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large")
TIMM = (
    "resnet10t", "mobilevit_xxs", "deit_tiny_patch16_224", "mixer_s32_224", "gmlp_ti16_224",
    "ghostnet_100", "repvgg_a0", "dla34", "hrnet_w18_small", "levit_128s", "poolformer_s12",
    "pvt_v2_b0", "cait_xxs24_224", "xcit_nano_12_p16_224", "edgenext_xx_small", "ese_vovnet19b_dw",
)  # fmt: skip
TRANSFORMERS = ("Bert", "DistilBert", "GPT2", "Albert", "Electra", "Roberta")
_PRODUCTS = frozenset({"addmm", "baddbmm", "bmm", "conv", "einsum", "linear", "matmul"})
"""Operators of fvcore that multiply and accumulate; the others it counts by element."""
_ANY_SIDE = frozenset(TORCHVISION) - {"alexnet", "vit_b_32", "swin_t"}
"""Networks that take images of any size, of which small ones are counted sooner."""

Build = Callable[[], tuple[nn.Module, tuple[torch.Tensor, ...]]]


class _FirstOutput(nn.Module):
    """A network of transformers that gives a tensor."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, ids: torch.Tensor) -> Any:
        return self.network(ids, return_dict=False)[0]


def _list_networks() -> dict[str, Build]:
    networks: dict[str, Build] = {}
    for name in TORCHVISION:
        networks[f"torchvision {name}"] = partial(
            _build_torchvision, name, 96 if name in _ANY_SIDE else 224
        )
    for name in SEGMENTATION:
        networks[f"torchvision {name}"] = partial(_build_segmentation, name)
    for name in TIMM:
        networks[f"timm {name}"] = partial(_build_timm, name)
    for name in TRANSFORMERS:
        networks[f"transformers {name}Model"] = partial(_build_transformer, name)
    return networks


def _build_torchvision(name: str, side: int) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    from torchvision import models

    options: dict[str, Any] = {"weights": None}
    if name == "googlenet":
        options |= {"aux_logits": False, "init_weights": False}
    return models.get_model(name, **options), (torch.rand(1, 3, side, side),)


class _Out(nn.Module):
    """The map of classes of a segmentation network, which gives a dictionary."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> Any:
        return self.network(image)["out"]


def _build_segmentation(name: str) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    from torchvision import models

    network = models.get_model(name, weights=None, weights_backbone=None)
    return _Out(network), (torch.rand(1, 3, 128, 128),)


def _build_timm(name: str) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    import timm
    from timm.layers import set_fused_attn

    set_fused_attn(enable=False)  # fvcore does not know the fused operator
    network = timm.create_model(name, pretrained=False)
    return network, (torch.rand(1, *network.default_cfg["input_size"]),)


def _build_transformer(name: str) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    import transformers

    config = getattr(transformers, f"{name}Config")()
    for field in ("num_hidden_layers", "n_layers", "n_layer"):
        if hasattr(config, field):
            setattr(config, field, 2)
    config._attn_implementation = "eager"  # noqa: SLF001 - the documented way to set it in a config
    network = getattr(transformers, f"{name}Model")(config)
    return _FirstOutput(network), (torch.randint(0, 1000, (1, 64)),)


def _count_attention(inputs: list[Any], outputs: list[Any]) -> dict[str, int]:
    """Count the two products of a fused attention, which fvcore does not know."""
    del outputs
    query, key, value = (entry.type().sizes() for entry in inputs[:3])
    return {"bmm": math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])}


def count_by_torch(network: nn.Module, inputs: tuple[torch.Tensor, ...]) -> int:
    """Multiply-accumulates as torch counts them: half of its operations."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network(*inputs)
    return counter.get_total_flops() // 2


def count_by_fvcore(network: nn.Module, inputs: tuple[torch.Tensor, ...]) -> int:
    """Multiply-accumulates as fvcore counts them, which calls them operations."""
    from fvcore.nn import FlopCountAnalysis

    analysis = FlopCountAnalysis(network, inputs)
    analysis.unsupported_ops_warnings(enabled=False)
    analysis.uncalled_modules_warnings(enabled=False)
    analysis.set_op_handle("aten::scaled_dot_product_attention", _count_attention)
    by_operator = analysis.by_operator()
    return int(sum(by_operator[name] for name in _PRODUCTS))


def _count(build: Build) -> tuple[str, str, str, str]:
    """Count one network in three ways."""
    torch.manual_seed(0)
    network, inputs = build()
    network.eval().requires_grad_(requires_grad=False)
    try:
        workload = load_workload(network, example_inputs=inputs)
    except HwbenchError as error:
        return "", "", "", " ".join(str(error).split())
    params = sum(parameter.numel() for parameter in network.parameters())
    ours = "" if workload.macs is None else str(workload.macs)
    by_torch, by_fvcore = count_by_torch(network, inputs), count_by_fvcore(network, inputs)
    return ours, str(by_torch), str(by_fvcore), f"{workload.params} of {params} parameters"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="text that the names of networks must hold")
    only = parser.parse_args().only
    warnings.simplefilter("ignore")
    torch.backends.mha.set_fastpath_enabled(False)  # one operator of which torch counts nothing
    JOURNAL.parent.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[str]] = {}
    if JOURNAL.exists():
        with JOURNAL.open(newline="") as file:
            rows = {row[0]: row for row in csv.reader(file) if len(row) == 5}
    for name, build in _list_networks().items():
        if name in rows or only not in name:
            continue
        rows[name] = [name, *_count(build)]
        print(*rows[name], sep=" | ", flush=True)
        with JOURNAL.open("a", newline="") as file:
            csv.writer(file).writerow(rows[name])
    _save(list(rows.values()))


def _save(rows: list[list[str]]) -> None:
    table = []
    agreed = 0
    for name, ours, by_torch, by_fvcore, note in rows:
        ratios = [int(ours) / int(other) for other in (by_torch, by_fvcore) if ours and int(other)]
        is_close = len(ratios) == 2 and all(abs(ratio - 1) <= WITHIN for ratio in ratios)
        agreed += is_close
        table.append(
            {
                "network": name,
                "hwbench": ours or note,
                "over torch": f"{ratios[0]:.4f}" if ratios else "",
                "over fvcore": f"{ratios[1]:.4f}" if len(ratios) > 1 else "",
                "within 1 %": "yes" if is_close else "no",
            }
        )
    save_study(
        "macs",
        question="Are the multiply-accumulates of networks of other people counted right?",
        rows=table,
        command="python -m runners.studies.macs",
        answer=f"{agreed} of {len(rows)} networks agree with both counters within 1 %.",
        notes="Counted by hwbench on the exported ONNX model, by `torch.utils.flop_counter` (half"
        " of its operations) and by fvcore on the module. Of fvcore's operators those that multiply"
        " matrices or convolve are taken.",
    )


if __name__ == "__main__":
    main()
