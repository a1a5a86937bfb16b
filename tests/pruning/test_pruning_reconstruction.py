"""Reconstruction and correction of normalization: exact where that is possible, else closer."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from hwbench.errors import UsageError
from hwbench.network import zoo
from hwbench.pruning import CalibrationStatistics, Prunable
from tests.support.prunable_nets import Efficient, Stack, Vision, lively


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def repeated(x: Tensor) -> Tensor:
    """Channels 0 to 2 again as 3 to 5: what is lost with these can be made up for exactly."""
    return torch.cat([x, 2 * x], 1)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "window",
    [
        {"kernel_size": 1},
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 3, "stride": 2},
        {"kernel_size": (3, 1), "padding": "same"},
        {"kernel_size": 3, "dilation": 2, "padding": 2, "padding_mode": "reflect"},
    ],
)
def test_convolution_makes_up_for_channels_that_repeat_others(
    window: dict[str, object], bias: bool
) -> None:
    conv = nn.Conv2d(6, 5, bias=bias, **window)
    x = repeated(noise(40, 3, 9, 8))
    kept = torch.tensor([0, 1, 2])
    calibration = CalibrationStatistics(nn.Sequential(conv), ["0"], [x[:20], x[20:]])
    smaller = nn.Conv2d(3, 5, bias=bias, **window)
    smaller.weight.data = calibration.refit("0", conv, kept, None)
    if bias:
        smaller.bias.data = conv.bias.data
    fresh = repeated(noise(2, 3, 9, 8, seed=1))
    torch.testing.assert_close(smaller(fresh[:, :3]), conv(fresh), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shape", [(60, 3), (20, 7, 3)])
def test_linear_layer_makes_up_for_inputs_that_repeat_others(shape: tuple[int, ...]) -> None:
    linear = nn.Linear(6, 4)
    x = noise(*shape)
    x = torch.cat([x, -x], -1)
    kept = torch.tensor([3, 4, 5])
    weight = CalibrationStatistics(nn.Sequential(linear), ["0"], [x]).refit(
        "0", linear, kept, torch.tensor([0, 2])
    )
    got = nn.functional.linear(x[..., 3:], weight, linear.bias[[0, 2]])
    torch.testing.assert_close(got, linear(x)[..., [0, 2]], rtol=1e-3, atol=1e-3)


def test_it_is_the_least_squares_solution_without_the_bias() -> None:
    linear = nn.Linear(6, 4)
    x = noise(200, 6) @ noise(6, 6, seed=1) + 1
    kept = torch.tensor([0, 2, 5])
    weight = CalibrationStatistics(nn.Sequential(linear), ["0"], [x]).refit("0", linear, kept, None)
    target = (linear(x) - linear.bias).detach()
    expected = torch.linalg.lstsq(x[:, kept].double(), target.double()).solution.T.float()
    torch.testing.assert_close(weight, expected, rtol=1e-2, atol=1e-3)


def test_fewer_samples_than_inputs_are_fitted_too_and_stay_near_the_weights() -> None:
    linear = nn.Linear(50, 4)
    x = noise(8, 50)
    kept = torch.arange(40)
    weight = CalibrationStatistics(nn.Sequential(linear), ["0"], [x]).refit("0", linear, kept, None)
    target = linear(x) - linear.bias
    torch.testing.assert_close(x[:, kept] @ weight.T, target, rtol=1e-2, atol=1e-2)
    inherited, target = linear.weight[:, kept].detach(), target.detach()
    assert float((weight - inherited).norm()) < float(
        (torch.linalg.pinv(x[:, kept]) @ target).T.sub(inherited).norm()
    )


@pytest.mark.parametrize(
    ("name", "size"),
    [("plain20", 16), ("mobilenet_v1@0.25,classes=10", 32), ("resnet18@0.125,classes=10", 32)],
)
def test_reconstructed_network_is_closer_to_the_original(name: str, size: int) -> None:
    module = lively(zoo.build(name))
    whole = Prunable(module, (noise(1, 3, size, size),))
    calibration, fresh = (
        whole.calibrate([noise(100, 3, size, size)]),
        noise(50, 3, size, size, seed=9),
    )
    with torch.no_grad():
        wanted = module(fresh)
        for share in (0.75, 0.5):
            widths = [max(1, int(share * width)) for width in whole.structure.widths]
            inherited, fitted = (
                whole.slim(widths, calibration=given).module(fresh) for given in (None, calibration)
            )
            assert float((fitted - wanted).norm()) < 0.8 * float((inherited - wanted).norm())


@pytest.mark.parametrize("build", [Efficient, Vision, Stack])
def test_reconstruction_alone_helps_other_classifiers(build: type[nn.Module]) -> None:
    torch.manual_seed(0)
    module = lively(build())
    whole = Prunable(module, (noise(1, 3, 16, 16),))
    calibration, fresh = (
        whole.calibrate([noise(100, 3, 16, 16)], renormalized=0),
        noise(50, 3, 16, 16, seed=9),
    )
    widths = [max(1, 2 * width // 3) for width in whole.structure.widths]

    def off(given: CalibrationStatistics | None) -> float:
        outputs = [net(fresh) for net in (whole.slim(widths, calibration=given).module, module)]
        first, second = (out["logits"] if isinstance(out, dict) else out for out in outputs)
        return float((first - second).norm())

    with torch.no_grad():
        assert off(calibration) < off(None)


def test_images_and_a_calibration_made_of_them_give_the_same() -> None:
    whole = Prunable(lively(zoo.build("plain20")), (noise(1, 3, 16, 16),))
    widths = [width // 2 for width in whole.structure.widths]
    images = noise(20, 3, 16, 16)
    one, other = (
        whole.slim(widths, calibration=[images]),
        whole.slim(widths, calibration=whole.calibrate([images])),
    )
    torch.testing.assert_close(one.module.state_dict(), other.module.state_dict(), rtol=0, atol=0)
    assert one.recipe.refitted
    assert not whole.slim(widths).recipe.refitted


def test_calibration_leaves_modes_and_weights_alone() -> None:
    module = zoo.build("resnet20").train()
    module.bn1.eval()
    before = copy.deepcopy(module.state_dict())
    CalibrationStatistics(module, ["conv1", "layer1.0.conv1"], [noise(4, 3, 8, 8)])
    assert module.training
    assert not module.bn1.training
    torch.testing.assert_close(module.state_dict(), before, rtol=0, atol=0)
    assert not any(part._forward_pre_hooks for part in module.modules())


def test_normalization_of_a_trained_network_is_measured_anew() -> None:
    """Statistics of the very images are replaced by those of what arrives in the pruned network."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 6, 3),
        nn.BatchNorm2d(6, momentum=None),
        nn.Flatten(),
        nn.Linear(96, 4),
    )
    x = 2 * noise(64, 3, 8, 8) + 1
    module(x)
    module.eval()
    whole = Prunable(module, (x[:1],))
    pruned = whole.slim([4, 5], calibration=[x[:32], x[32:]]).module
    arrives = pruned[:3](x).detach()
    torch.testing.assert_close(
        pruned[3].running_mean, arrives.mean((0, 2, 3)), rtol=1e-3, atol=1e-3
    )
    torch.testing.assert_close(pruned[3].running_var, arrives.var((0, 2, 3)), rtol=2e-3, atol=0)


def test_normalization_of_an_untrained_network_gives_what_it_gave() -> None:
    """Statistics of other images: what leaves the normalization keeps the original's spread."""
    torch.manual_seed(0)
    features = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.BatchNorm2d(6))
    module = lively(nn.Sequential(*features, nn.Flatten(), nn.Linear(96, 4)))
    x = 2 * noise(64, 3, 8, 8) + 1
    pruned = Prunable(module, (x[:1],)).slim([3, 5], calibration=[x])
    stays = list(next(group.kept for group in pruned.recipe.groups if group.width == 6))
    with torch.no_grad():
        leaves, left = pruned.module[:4](x), module[:4](x)[:, stays]
    torch.testing.assert_close(leaves.mean((0, 2, 3)), left.mean((0, 2, 3)), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(leaves.std((0, 2, 3)), left.std((0, 2, 3)), rtol=1e-3, atol=1e-3)
    assert float(left.mean((0, 2, 3)).abs().max()) > 0.1


def test_normalization_of_an_unpruned_network_stays() -> None:
    module = lively(zoo.build("plain20"))
    whole = Prunable(module, (noise(1, 3, 16, 16),))
    same = whole.slim(whole.structure.widths, calibration=[noise(8, 3, 16, 16)])
    torch.testing.assert_close(same.module.state_dict(), module.state_dict(), rtol=1e-4, atol=1e-5)


def test_no_images_are_refused() -> None:
    with pytest.raises(UsageError, match="no calibration images"):
        Prunable(lively(zoo.build("plain20")), (noise(1, 3, 8, 8),)).calibrate([])
