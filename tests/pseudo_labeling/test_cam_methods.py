"""Methods of `pytorch_grad_cam` behind our interface: its LayerCAM is ours, and nothing is left behind."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import timm
import torch
from pytorch_grad_cam import GradCAM, LayerCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

from pseudo_labeling.cam import LayerCam, case_cam, mapped_slices
from pseudo_labeling.cam_methods import cam_method, cam_methods
from pseudo_labeling.classifier import IMAGENET_MEAN, IMAGENET_STD, SliceClassifier
from pseudo_labeling.library_cam import LIBRARY, LibraryCam
from pseudo_labeling.settings import CamName, CamSettings

SIZE = 64


@pytest.fixture(scope="module")
def blobs() -> tuple[SliceClassifier, torch.Tensor, np.ndarray]:
    """A network that has learned to find a bright square, slices with one, and where it is."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    network = SliceClassifier(
        timm.create_model("resnet10t", pretrained=False, num_classes=2), IMAGENET_MEAN, IMAGENET_STD
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)

    def batch(count: int, every: bool = False) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
        images = rng.uniform(0, 0.5, (count, 1, SIZE, SIZE)).astype(np.float32)
        masks = np.zeros((count, SIZE, SIZE), bool)
        target = np.ones(count, int) if every else rng.integers(2, size=count)
        for image, mask, with_square in zip(images, masks, target, strict=True):
            if with_square:
                y, x = rng.integers(4, SIZE - 20, 2)
                mask[y : y + 16, x : x + 16] = True
                image[0][mask] += 0.4
        return torch.from_numpy(images), torch.from_numpy(target), masks

    for _ in range(40):
        images, target, _ = batch(16)
        loss = torch.nn.functional.cross_entropy(network(images), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    optimizer.zero_grad()
    images, _, masks = batch(8, every=True)
    return network.eval(), images, masks


@pytest.fixture(scope="module")
def classifier(blobs: tuple[SliceClassifier, torch.Tensor, np.ndarray]) -> SliceClassifier:
    """That network: a random one may speak against a tumour everywhere, and most of its maps are zero."""
    return blobs[0]


@pytest.fixture
def inputs(blobs: tuple[SliceClassifier, torch.Tensor, np.ndarray]) -> Callable[..., torch.Tensor]:
    return lambda count=3: blobs[1][:count].clone()


@pytest.mark.parametrize("layers", [["layer2"], ["layer4"], ["layer2", "layer3"]])
def test_layercam_of_the_library_is_ours(
    classifier: SliceClassifier, inputs: Callable[..., torch.Tensor], layers: list[str]
) -> None:
    ours, probability = LayerCam(classifier, layers).with_probability(inputs())
    theirs, theirs_probability = LibraryCam(LayerCAM, classifier, layers).with_probability(inputs())
    np.testing.assert_allclose(theirs.numpy(), ours.numpy(), atol=1e-5)
    np.testing.assert_allclose(theirs_probability.numpy(), probability.numpy(), atol=1e-6)


def test_map_is_the_librarys_own_up_to_its_range(
    classifier: SliceClassifier, inputs: Callable[..., torch.Tensor]
) -> None:
    maps = LibraryCam(GradCAM, classifier, ["layer3"])(inputs()).numpy()
    model = copy.deepcopy(classifier)
    with GradCAM(model=model, target_layers=[model.backbone.layer3]) as oracle:
        expected = oracle(inputs(), [ClassifierOutputTarget(1)] * 3)
    for ours, theirs in zip(maps, expected, strict=True):  # which it stretches before, not after it enlarges them
        assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.9999


@pytest.mark.parametrize("name", ["layercam", *LIBRARY])
def test_every_method_keeps_to_the_interface(
    classifier: SliceClassifier, inputs: Callable[..., torch.Tensor], name: CamName, capfd: pytest.CaptureFixture[str]
) -> None:
    before = copy.deepcopy(classifier.state_dict())
    chance = np.random.get_state()[1]
    maps, probability = cam_method(CamSettings(("layer4",), method=name), classifier).with_probability(inputs())
    assert maps.shape == (3, SIZE, SIZE)
    assert maps.dtype == torch.float32
    assert float(maps.min()) >= 0
    np.testing.assert_allclose(maps.amax((1, 2)).numpy(), 1, atol=1e-6)
    np.testing.assert_allclose(probability, classifier(inputs()).softmax(1)[:, 1].detach().numpy(), atol=1e-5)
    assert all(torch.equal(value, before[key]) for key, value in classifier.state_dict().items())
    assert all(parameter.grad is None for parameter in classifier.parameters())
    assert not any(module._forward_hooks for module in classifier.modules())
    assert (np.random.get_state()[1] == chance).all()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", ["gradcam", "layercam", "ablationcam", "scorecam"])
def test_a_trained_network_is_looked_into_better_than_by_chance(
    blobs: tuple[SliceClassifier, torch.Tensor, np.ndarray], name: CamName
) -> None:
    network, images, masks = blobs

    def share_inside(method: CamName) -> float:
        maps = cam_method(CamSettings(("layer3",), method=method), network)(images.clone()).numpy()
        return float((maps * masks).sum() / maps.sum())

    assert share_inside(name) > 1.5 * share_inside("randomcam")


def test_randomcam_depends_on_seed_and_slice_only(
    classifier: SliceClassifier, inputs: Callable[..., torch.Tensor]
) -> None:
    def drawn(seed: int, images: torch.Tensor) -> np.ndarray:
        return cam_method(CamSettings(("layer3",), method="randomcam"), classifier, seed)(images.clone()).numpy()

    images = inputs()
    first = drawn(0, images)
    np.random.seed(5)
    drawn(0, inputs(2))
    np.testing.assert_array_equal(drawn(0, images), first)
    assert not np.allclose(drawn(1, images), first)


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("vit_tiny_patch16_224", "gradcam"),
        ("vit_tiny_patch16_224", "ablationcam"),
        ("swin_tiny_patch4_window7_224", "gradcam"),
        ("swin_tiny_patch4_window7_224", "eigencam"),
    ],
)
def test_transformers_too(name: str, method: CamName) -> None:
    torch.manual_seed(3)
    size = 224 if name.startswith("swin") else SIZE
    backbone = timm.create_model(name, pretrained=False, num_classes=2, img_size=size)
    classifier = SliceClassifier(backbone, IMAGENET_MEAN, IMAGENET_STD).eval()
    images = torch.rand(1, 1, size, size, generator=torch.Generator().manual_seed(4))
    maps = cam_method(CamSettings(("auto",), method=method), classifier)(images)
    assert maps.shape == (1, size, size)
    assert float(maps.amax()) == pytest.approx(1)


def test_case_cam_takes_any_method(classifier: SliceClassifier, inputs: Callable[..., torch.Tensor]) -> None:
    slices = (inputs()[:, 0, :50, :60].numpy() * 255).astype(np.uint8)
    method = cam_method(CamSettings(("layer3",), method="gradcam"), classifier)
    maps = case_cam(slices, np.array([1, 0, 1]), SIZE, method, "cpu")
    assert maps.shape == (3, 50, 60)
    assert maps[0].any() or maps[2].any()
    assert not maps[1].any()


@pytest.mark.parametrize("name", ["layercam", "gradcam"])
def test_the_likelier_class_is_explained_where_asked(
    classifier: SliceClassifier, inputs: Callable[..., torch.Tensor], name: CamName
) -> None:
    images = inputs()
    images[1] = 0.2  # without a square
    logits = classifier(images).detach()
    assert logits.argmax(1).tolist() == [1, 0, 1]
    tumour, predicted = (
        cam_method(CamSettings(("layer3",), method=name, target=target), classifier).with_probability(images.clone())
        for target in ("tumour", "predicted")
    )
    for z in (0, 2):
        np.testing.assert_allclose(predicted[0][z], tumour[0][z], atol=1e-5)
    np.testing.assert_allclose(predicted[1], logits.softmax(1).amax(1), atol=1e-5)
    # two logits whose order is turned round: label 0 is now what the second one says
    turned = copy.deepcopy(classifier)
    with torch.no_grad():
        turned.backbone.fc.weight.copy_(classifier.backbone.fc.weight.flip(0))
        turned.backbone.fc.bias.copy_(classifier.backbone.fc.bias.flip(0))
    other = cam_method(CamSettings(("layer3",), method=name), turned)(images.clone())
    np.testing.assert_allclose(predicted[0][1], other[1], atol=1e-5)


def test_several_methods_keep_their_order(classifier: SliceClassifier) -> None:
    settings = CamSettings(("layer3",), method=("gradcam", "layercam"))
    first, second = cam_methods(settings, classifier)
    assert isinstance(first, LibraryCam)
    assert isinstance(second, LayerCam)


def test_all_slices_are_mapped_where_asked() -> None:
    label = np.array([0, 1, 0])
    assert mapped_slices(label, CamSettings()).tolist() == [0, 1, 0]
    assert mapped_slices(label, CamSettings(slices="all")).tolist() == [1, 1, 1]
