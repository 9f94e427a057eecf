"""LayerCAM against pytorch_grad_cam."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from pytorch_grad_cam import LayerCAM as OracleLayerCam
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

from dataset_conversion.errors import UserError
from pseudo_labeling import precision
from pseudo_labeling.cam import LayerCam, case_cam
from pseudo_labeling.classifier import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    SliceClassifier,
    classifier_input,
    classifier_slices,
)

SIZE = 96


@pytest.fixture
def classifier() -> SliceClassifier:
    torch.manual_seed(1)
    backbone = timm.create_model("resnet10t", pretrained=False, num_classes=2)
    return SliceClassifier(backbone, IMAGENET_MEAN, IMAGENET_STD).eval()


@pytest.fixture
def inputs() -> torch.Tensor:
    return torch.rand(3, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("layer", ["layer2", "layer3", "layer4"])
def test_equals_pytorch_grad_cam(classifier: SliceClassifier, inputs: torch.Tensor, layer: str) -> None:
    ours = LayerCam(classifier, [layer])(inputs.clone()).numpy()
    with OracleLayerCam(model=classifier, target_layers=[getattr(classifier.backbone, layer)]) as oracle:
        targets = [ClassifierOutputTarget(1)] * len(inputs)
        raw = oracle.forward(inputs.clone(), targets)
        activation = oracle.activations_and_grads.activations[0].numpy()
        gradient = oracle.activations_and_grads.gradients[0].numpy()
    # the oracle's own recipe up to its rescaling of the range, which subtracts each map's minimum
    weighted = np.maximum((np.maximum(gradient, 0) * activation).sum(axis=1), 0)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(weighted / weighted.max(axis=(1, 2), keepdims=True))[:, None], (SIZE, SIZE), mode="bilinear"
    )[:, 0].numpy()
    expected /= expected.max(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(ours, expected, atol=1e-5)
    # and the whole of it, where no resizing blurs the comparison: same range, same map
    scaled = (ours - ours.min(axis=(1, 2), keepdims=True)) / np.ptp(ours, axis=(1, 2), keepdims=True)
    assert np.corrcoef(scaled.ravel(), raw.ravel())[0, 1] > 0.999


def test_low_resolution_map_equals_the_oracle_exactly(classifier: SliceClassifier, inputs: torch.Tensor) -> None:
    with OracleLayerCam(model=classifier, target_layers=[classifier.backbone.layer3]) as oracle:
        oracle.forward(inputs.clone(), [ClassifierOutputTarget(1)] * len(inputs))
        expected = oracle.get_cam_image(
            inputs,
            classifier.backbone.layer3,
            None,
            oracle.activations_and_grads.activations[0].numpy(),
            oracle.activations_and_grads.gradients[0].numpy(),
            False,
        )
    stripped = LayerCam(classifier, ["layer3"])
    maps: list[torch.Tensor] = []
    original = torch.nn.functional.interpolate

    def spy(x: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        maps.append(x)
        return original(x, *args, **kwargs)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "interpolate", spy)
        stripped(inputs.clone())
    low = maps[0][:, 0].numpy()
    expected = np.maximum(expected, 0)
    np.testing.assert_allclose(low, expected / expected.max(axis=(1, 2), keepdims=True), atol=1e-5)


def test_fused_map_is_bounded_and_zero_where_a_layer_is(classifier: SliceClassifier, inputs: torch.Tensor) -> None:
    two, three, both = (
        LayerCam(classifier, names)(inputs.clone()) for names in (["layer2"], ["layer3"], ["layer2", "layer3"])
    )
    assert float(both.min()) >= 0
    np.testing.assert_allclose(both.amax(dim=(1, 2)).numpy(), 1, atol=1e-6)
    product = (two * three).sqrt()
    np.testing.assert_allclose(both.numpy(), (product / product.amax(dim=(1, 2), keepdim=True)).numpy(), atol=1e-4)


def test_hooks_are_gone_afterwards(classifier: SliceClassifier, inputs: torch.Tensor) -> None:
    LayerCam(classifier, ["layer2"])(inputs)
    assert not any(module._forward_hooks for module in classifier.modules())


def test_unknown_layer_is_named(classifier: SliceClassifier) -> None:
    with pytest.raises(UserError, match="layer9"):
        LayerCam(classifier, ["layer9"])


def slices_of(count: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (count, 70, 60)).astype(np.uint8)


def test_case_maps_only_tumour_slices_and_equals_one_by_one(classifier: SliceClassifier) -> None:
    cam = LayerCam(classifier, ["layer3"])
    slices = slices_of(3)
    maps = case_cam(slices, np.array([1, 0, 1]), SIZE, cam, "cpu")
    assert maps.shape == (3, 70, 60)
    assert not maps[1].any()
    alone = case_cam(slices[2:], np.array([1]), SIZE, cam, "cpu")
    np.testing.assert_allclose(maps[2], alone[0], atol=2e-3)  # float16


def test_weighted_maps_peak_at_the_classifiers_probability(
    classifier: SliceClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "has_bfloat16", lambda _device: False)
    cam = LayerCam(classifier, ["layer3"])
    slices, label = slices_of(3), np.ones(3, int)
    plain, weighted = (case_cam(slices, label, SIZE, cam, "cpu", weighted=w) for w in (False, True))
    with torch.no_grad():
        probability = classifier(classifier_input(classifier_slices(slices, SIZE))).softmax(1)[:, 1].numpy()
    np.testing.assert_allclose(weighted, plain * probability[:, None, None], atol=2e-3)


def test_bfloat16_gives_nearly_the_same_maps(classifier: SliceClassifier, monkeypatch: pytest.MonkeyPatch) -> None:
    cam = LayerCam(classifier, ["layer1", "layer2", "layer3"])
    found = []
    for fast in (False, True):
        monkeypatch.setattr(precision, "has_bfloat16", lambda _device, fast=fast: fast)
        found.append(case_cam(slices_of(4), np.ones(4), SIZE, cam, "cpu").astype(np.float32))
    assert not np.array_equal(*found)
    assert np.corrcoef(found[0].ravel(), found[1].ravel())[0, 1] > 0.995
