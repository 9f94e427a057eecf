"""Models out of files in the published layouts, made here from random weights, give what their source gives."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import torchvision
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from PIL import Image
from safetensors.torch import save_file
from segment_anything import sam_model_registry
from segment_anything.modeling import Sam

from dataset_conversion.errors import UserError
from dataset_conversion.files import sha256_of
from pseudo_labeling.embedded.models import build_embedded_clip, build_embedded_sam, embedded_clip_preprocess
from pseudo_labeling.weights import files
from pseudo_labeling.weights.models import load_clip, load_resnet50_state, load_sam, published_sam

TEXTS = ["a slice with a tumour", "a normal slice"]


@pytest.fixture
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (240, 200, 3), dtype=np.uint8))


def refusal(load: Callable[[str], Any], path: Path) -> str:
    with pytest.raises(UserError) as caught:
        load(str(path))
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert len(message) < 400 + len(str(path))
    return message


# ---------------------------------------------------------------------------------------------------------------- CLIP


def small_clip() -> CLIP:
    """OpenAI's layout in a small size, with weights that fp16 cannot hold."""
    torch.manual_seed(1)
    vision = CLIPVisionCfg(layers=1, width=64, patch_size=32, image_size=64)
    text = CLIPTextCfg(context_length=77, vocab_size=49408, width=64, heads=1, layers=1)
    return CLIP(32, vision_cfg=vision, text_cfg=text, quick_gelu=True).eval()


def openai_archive(model: CLIP, path: Path) -> None:
    """A traced program with OpenAI's names, three extra buffers and half-precision weights."""
    for name, value in (("input_resolution", 224), ("context_length", 77), ("vocab_size", 49408)):
        if hasattr(model, name):
            delattr(model, name)
        model.register_buffer(name, torch.tensor(value))
    calls = {"encode_image": (torch.ones(1, 3, 224, 224),), "encode_text": (torch.ones(1, 77, dtype=torch.long),)}
    program = torch.jit.trace_module(model, calls, check_trace=False)
    for parameter in program.parameters():
        parameter.data = parameter.data.half()
    torch.jit.save(program, path)
    model.float()  # the program shares its weights


def assert_same_clip(path: Path, source: CLIP, picture: Image.Image, image_size: int) -> None:
    """The loaded model gives the source's features for the source's own inputs."""
    found = load_clip(str(path))
    transform = open_clip.image_transform(image_size, is_train=False)
    tokens = open_clip.get_tokenizer("ViT-B-32-quickgelu")(TEXTS)
    assert found.image_size == image_size
    assert (found.name, found.sha256) == (path.name, sha256_of(path))
    assert torch.equal(found.tokenizer(TEXTS), tokens)
    image = found.preprocess(picture)
    assert torch.equal(image, transform(picture))
    assert not found.model.training
    assert {parameter.dtype for parameter in found.model.parameters()} == {torch.float32}
    expected = source.state_dict()
    assert set(found.model.state_dict()) <= set(expected)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.model.state_dict().items())
    with torch.inference_mode():
        for found_features, features in (
            (found.model.encode_image(image[None]), source.encode_image(image[None])),
            (found.model.encode_text(tokens), source.encode_text(tokens)),
        ):
            torch.testing.assert_close(found_features, features, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_openai_archive_of_vit_b32_gives_its_source_model(tmp_path: Path, picture: Image.Image) -> None:
    torch.manual_seed(0)
    source = open_clip.create_model("ViT-B-32-quickgelu", pretrained=None).eval()
    source.load_state_dict({name: tensor.half() for name, tensor in source.state_dict().items()})
    openai_archive(source, tmp_path / "clip.pt")
    assert_same_clip(tmp_path / "clip.pt", source, picture, 224)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_clip_state_dict_keeps_full_precision(tmp_path: Path, picture: Image.Image, suffix: str) -> None:
    source = small_clip()
    path = tmp_path / f"tuned.{suffix}"
    if suffix == "pt":
        torch.save({"state_dict": source.state_dict()}, path)
    else:
        save_file(source.state_dict(), path)
    assert_same_clip(path, source, picture, 64)


def test_text_tower_of_another_vocabulary_is_refused(tmp_path: Path) -> None:
    state = small_clip().state_dict()
    state["token_embedding.weight"] = state["token_embedding.weight"][:1000]
    torch.save(state, tmp_path / "odd.pt")
    assert "1000 tokens" in refusal(load_clip, tmp_path / "odd.pt")


@pytest.mark.parametrize("name", ["ln_final.weight", "visual.proj", "transformer.resblocks.0.ln_1.bias"])
def test_incomplete_clip_names_what_is_missing(tmp_path: Path, name: str) -> None:
    state = small_clip().state_dict()
    del state[name]
    torch.save(state, tmp_path / "odd.pt")
    assert "not the weights of an OpenAI CLIP ViT" in refusal(load_clip, tmp_path / "odd.pt")


# ----------------------------------------------------------------------------------------------------------------- SAM


@pytest.fixture(scope="module")
def sam_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Sam, Path]]:
    """A random SAM ViT-B, saved as the published one is: a bare state dict."""
    torch.manual_seed(2)
    model = sam_model_registry["vit_b"]()
    for tensor in (*model.image_encoder.parameters(), model.image_encoder.pos_embed):
        if not tensor.any():  # relative positions start at zero: a loader that forgot them would go unseen
            torch.nn.init.normal_(tensor, std=0.02)
    path = tmp_path_factory.mktemp("sam") / "any_name.pth"
    torch.save(model.state_dict(), path)
    yield model, path
    path.unlink()


def test_official_sam_vit_b_gives_its_source_model(sam_file: tuple[Sam, Path]) -> None:
    source, path = sam_file
    found = load_sam(str(path))
    assert (found.name, found.sha256) == ("any_name.pth", sha256_of(path))
    assert not found.model.training
    state = found.model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in source.state_dict().items())
    assert torch.equal(found.model.pixel_mean, source.pixel_mean)
    generator = torch.Generator().manual_seed(0)
    window = torch.randn(1, 14, 14, 768, generator=generator)
    embedding = torch.randn(1, 256, 64, 64, generator=generator)
    box = torch.tensor([[100.0, 120.0, 600.0, 700.0]])
    points = torch.tensor([[[300.0, 400.0]]]), torch.ones(1, 1)
    results = []
    for model in (source, found.model):
        with torch.inference_mode():
            block = model.image_encoder.blocks[0](window)
            neck = model.image_encoder.neck(torch.nn.functional.interpolate(window.permute(0, 3, 1, 2), 4))
            sparse, dense = model.prompt_encoder(points=points, boxes=box, masks=None)
            masks, quality = model.mask_decoder(embedding, model.prompt_encoder.get_dense_pe(), sparse, dense, False)
        results.append((block, neck, sparse, dense, masks, quality))
    torch.testing.assert_close(results[1], results[0], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_whole_sam_vit_b_gives_its_source_masks(sam_file: tuple[Sam, Path]) -> None:
    source, path = sam_file
    image = torch.randint(0, 256, (3, 256, 256), generator=torch.Generator().manual_seed(0)).float()
    image = torch.nn.functional.interpolate(image[None], 1024)[0]
    batch = [{"image": image, "original_size": (256, 256), "boxes": torch.tensor([[100.0, 120.0, 600.0, 700.0]])}]
    with torch.inference_mode():
        expected, found = (model(batch, False)[0] for model in (source, load_sam(str(path)).model))
    torch.testing.assert_close(found["low_res_logits"], expected["low_res_logits"], rtol=1e-4, atol=1e-4)
    assert torch.equal(found["masks"], expected["masks"])


@pytest.mark.parametrize("kind", ["vit_b", "vit_l", "vit_h"])
def test_published_sams_are_told_apart_by_shape(kind: str) -> None:
    with torch.device("meta"):
        state = sam_model_registry[kind]().state_dict()
    assert published_sam(state) == kind


def test_embedded_sam_is_no_published_one() -> None:
    assert published_sam(build_embedded_sam().state_dict()) is None


def hollow(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The names and shapes of a state dict in next to no bytes."""
    return {name: torch.zeros(()).expand(tensor.shape) for name, tensor in state.items()}


def test_sam_of_another_image_size_names_the_shape(sam_file: tuple[Sam, Path], tmp_path: Path) -> None:
    state = hollow(sam_file[0].state_dict())
    state["image_encoder.pos_embed"] = torch.zeros(1, 16, 16, 768)
    torch.save(state, tmp_path / "odd.pth")
    message = refusal(load_sam, tmp_path / "odd.pth")
    assert "image_encoder.pos_embed is (1, 16, 16, 768) instead of (1, 64, 64, 768)" in message


# -------------------------------------------------------------------------------------------------- ResNet50, embedded


def test_resnet50_state_gives_its_source_model(tmp_path: Path) -> None:
    source, found = (torchvision.models.resnet50(weights=None).eval() for _ in range(2))
    # the published file is older than the counters of batch normalisation
    state = {name: tensor for name, tensor in source.state_dict().items() if not name.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "net.pth")
    loaded = load_resnet50_state(str(tmp_path / "net.pth"))
    assert loaded is not None
    found.load_state_dict(loaded)
    with torch.inference_mode():
        image = torch.randn(1, 3, 64, 64)
        torch.testing.assert_close(found(image), source(image), rtol=0, atol=1e-5)


def test_another_resnet_is_refused(tmp_path: Path) -> None:
    with torch.device("meta"):
        state = torchvision.models.resnet18(weights=None).state_dict()
    torch.save(hollow(state), tmp_path / "net.pth")
    assert "not the weights of a torchvision ResNet50" in refusal(load_resnet50_state, tmp_path / "net.pth")


@pytest.mark.parametrize("spec", ["none", "embedded"])
def test_no_imagenet_weights_are_none(spec: str) -> None:
    assert load_resnet50_state(spec) is None


@pytest.fixture
def embedded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Random models where the package has its trained ones."""
    torch.manual_seed(4)
    table = {}
    for role, model in (("clip", build_embedded_clip()), ("sam", build_embedded_sam())):
        path = tmp_path / f"{role}.safetensors"
        save_file({name: t.half() if t.is_floating_point() else t for name, t in model.state_dict().items()}, path)
        table[role] = {"file": path.name, "sha256": sha256_of(path)}
    (tmp_path / "weights.json").write_text(json.dumps(table))
    monkeypatch.setattr(files, "EMBEDDED_DIR", tmp_path)
    return tmp_path


@pytest.mark.parametrize("by_path", [False, True])
def test_embedded_models_load(embedded: Path, picture: Image.Image, by_path: bool) -> None:
    torch.manual_seed(4)
    sources = {"clip": build_embedded_clip().eval(), "sam": build_embedded_sam()}
    specs = {role: str(embedded / f"{role}.safetensors") if by_path else "embedded" for role in sources}
    clip, sam = load_clip(specs["clip"]), load_sam(specs["sam"])
    for role, model in (("clip", clip.model), ("sam", sam.model)):
        state = model.state_dict()
        for name, tensor in sources[role].state_dict().items():
            assert torch.equal(state[name], tensor.half().float() if tensor.is_floating_point() else tensor)
    image = clip.preprocess(picture)
    assert torch.equal(image, embedded_clip_preprocess()(picture))
    assert image.shape == (3, clip.image_size, clip.image_size)
    with torch.inference_mode():
        assert clip.model(image[None], clip.tokenizer(TEXTS))[0].shape[0] == 1
    assert clip.name == ("clip.safetensors" if by_path else "embedded clip")


def test_models_are_not_taken_for_one_another(embedded: Path, sam_file: tuple[Sam, Path], tmp_path: Path) -> None:
    sam = tmp_path / "sam.pth"
    torch.save(hollow(sam_file[0].state_dict()), sam)
    assert "not the weights of a SAM" in refusal(load_sam, embedded / "clip.safetensors")
    assert "not the weights of a CLIP" in refusal(load_clip, sam)
    assert "not the weights of a CLIP" in refusal(load_clip, embedded / "sam.safetensors")
    assert "not the weights of a torchvision ResNet50" in refusal(load_resnet50_state, sam)


def test_loading_leaves_the_random_numbers_alone(embedded: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_clip("embedded")
    load_sam("embedded")
    assert torch.equal(torch.rand(3), expected)
