"""The zoo's networks have the published sizes.

Convention: multiply-accumulates of convolutions and linear layers, batch 1.
"""

import pytest
import torch
from torch import nn

from hwbench.errors import UsageError
from hwbench.network import zoo

AMC_HALF = "mobilenet_v1@24-48-96-80-192-200-328-352-368-360-328-400-736-752"


def macs(module: nn.Module, shape: tuple[int, ...]) -> int:
    """Counted by hooks on the running network, independently of hwbench's own counting.

    Meta tensors compute nothing.
    """
    total = 0

    def count(layer: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        nonlocal total
        total += output.numel() * layer.weight[0].numel()

    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    module.to("meta")(torch.empty(shape, device="meta"))
    return total


@pytest.mark.parametrize(
    ("spec", "mega_macs", "mega_params", "source"),
    [
        (
            "mobilenet_v1",
            568.7,
            4.23,
            "Howard et al. 2017, table 8 (569, 4.2); conv + fc counted exactly",
        ),
        ("mobilenet_v1@0.75", 325.4, 2.59, "Howard et al. 2017, table 6 (325, 2.6)"),
        (AMC_HALF, 293.9, 2.41, "AMC's published 50 % FLOPs widths"),
        ("mobilenet_v2", 300.8, 3.50, "Sandler et al. 2018, table 4 (300, 3.4)"),
        ("mobilenet_v2@0.75", 209.1, 2.64, "Sandler et al. 2018, appendix (209, 2.6)"),
        (
            "resnet18",
            1814.1,
            11.69,
            "He et al. 2015 (1.8 G); 1.82 G where batch norm and pooling are counted too",
        ),
        ("resnet34", 3663.8, 21.80, "He et al. 2015 (3.6 G)"),
        ("resnet50", 4089.2, 25.56, "4.1 G with the stride in the 3x3 convolution"),
        ("vgg16", 15470.3, 138.36, "Simonyan and Zisserman 2014, table 2 (138 M); 15.5 G"),
        ("resnet20", 40.6, 0.27, "He et al. 2015, table 6 (0.27 M)"),
        (
            "resnet56",
            125.5,
            0.85,
            "He et al. 2015, table 6 (0.85 M); 125.5 M in ABCPruner's tables",
        ),
        ("plain20", 40.6, 0.27, "ResNet-20 without shortcuts, which have no parameters"),
    ],
)
def test_macs_and_parameters_are_the_published_ones(spec, mega_macs, mega_params, source):
    with torch.device("meta"):
        network, widths, classes = zoo.parse(spec)
        module = network.builder(widths, classes)
    assert sum(parameter.numel() for parameter in module.parameters()) / 1e6 == pytest.approx(
        mega_params, abs=0.005
    ), source
    assert macs(module.eval(), zoo.input_shape(spec)) / 1e6 == pytest.approx(mega_macs, abs=0.05), (
        source
    )


def test_every_network_of_the_table_builds_and_runs_at_its_default_shape():
    for name in zoo.NETWORKS:
        module = zoo.build(f"{name}@0.1,classes=7")
        assert not module.training
        with torch.no_grad():
            out = module(torch.randn(zoo.input_shape(name)))
        assert out.shape == (1, 7)
        assert torch.isfinite(out).all()
        assert out.abs().max() > 1e-3, "activations fade, which would make denormals"


def test_same_seed_same_weights_and_the_global_random_state_is_untouched():
    before = torch.random.get_rng_state()
    one, two, three = (zoo.build("resnet20", seed=seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not torch.equal(one["conv1.weight"], three["conv1.weight"])


def test_module_paths_are_readable():
    paths = dict(zoo.build("mobilenet_v1@0.25").named_modules())
    assert isinstance(paths["features.3.depthwise.conv"], nn.Conv2d)
    paths = dict(zoo.build("mobilenet_v2@0.25").named_modules())
    assert {"features.3.expand.conv", "features.3.depthwise.bn", "features.3.project.conv"} <= set(
        paths
    )
    assert "layer2.0.downsample" in dict(zoo.build("resnet20").named_modules())


@pytest.mark.parametrize(
    ("spec", "widths"),
    [
        ("mobilenet_v1@0.75", (24, 48, 96, 96, 192, 192, *[384] * 6, 768, 768)),
        ("mobilenet_v1@0.1", (8, 8, 12, 12, 25, 25, *[51] * 6, 102, 102)),  # truncated, at least 8
        (
            "mobilenet_v2@0.35",
            (16, 8, 8, 8, 16, 16, 16, *[24] * 4, *[32] * 3, *[56] * 3, 112, 1280),
        ),
        (
            "mobilenet_v2@1.4",
            (48, 24, 32, 32, 48, 48, 48, *[88] * 4, *[136] * 3, *[224] * 3, 448, 1792),
        ),
        ("resnet18@0.5", (32, 64, 128, 256)),
    ],
)
def test_width_multipliers_round_as_in_the_papers_code(spec, widths):
    assert zoo.parse(spec)[1] == widths


def test_options_and_per_layer_widths():
    module = zoo.build(f"{AMC_HALF},classes=10")
    assert module.features[0].conv.out_channels == 24
    assert module.features[13].pointwise.conv.out_channels == 752
    assert module.classifier.out_features == 10
    assert zoo.input_shape("plain20") == (1, 3, 32, 32)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("resnet19", "resnet18, resnet20"),
        ("", "one of mobilenet_v1"),
        ("mobilenet_v1@0.5.5", "not a number"),
        ("mobilenet_v1@0", "above 0"),
        ("mobilenet_v1@24-48", "expected 14 whole numbers, of conv1 and the 13 point-wise"),
        ("resnet18@0-64-128-256", "at least 1"),
        ("resnet18,classes=0", "at least 1"),
        ("resnet18,color=red", "NAME[@WIDTH]"),
    ],
)
def test_a_wrong_name_says_what_is_expected(spec, says):
    with pytest.raises(UsageError) as caught:
        zoo.build(spec)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
