"""CLIP, SAM and ImageNet weights as models ready to use: the embedded ones, the published ones, or a file.

What a file holds is judged by the names and shapes of its tensors, never by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import timm
import torch
import torchvision
from open_clip.model import build_model_from_openai_state_dict
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from segment_anything import sam_model_registry
from segment_anything.modeling import Sam
from torch import nn

from dataset_conversion.errors import UserError
from pseudo_labeling.embedded.models import (
    build_embedded_clip,
    build_embedded_sam,
    embedded_clip_preprocess,
    embedded_clip_tokenizer,
)
from pseudo_labeling.weights.checkpoints import read_state_dict
from pseudo_labeling.weights.files import locate
from pseudo_labeling.weights.mobile_sam import build_mobile_sam, is_mobile_sam, with_timm_names

# Width of the image encoder of the published SAMs (MedSAM's is a ViT-B) -> key of segment_anything's builder table.
SAM_WIDTHS = {768: "vit_b", 1024: "vit_l", 1280: "vit_h"}
OPENAI_VOCABULARY = 49408  # tokens of CLIP's byte-pair encoding

Tokenizer = Callable[[list[str]], torch.Tensor]
Preprocess = Callable[[Image.Image], torch.Tensor]


@dataclass(frozen=True)
class ClipBundle:
    """A CLIP in evaluation mode with what its inputs must go through.

    Attributes:
        model: fp32, on the device asked for.
        tokenizer: list of n texts to `(n, context)` int64.
        preprocess: PIL image, of any size, to `(3, image_size, image_size)` float32.
        image_size: pixels.
        name: what the weights are, for the record.
        sha256: of the file.
    """

    model: open_clip.CLIP
    tokenizer: Tokenizer
    preprocess: Preprocess
    image_size: int
    name: str
    sha256: str


@dataclass(frozen=True)
class SamBundle:
    """A SAM in evaluation mode, fp32, on the device asked for; name and SHA-256 of its file."""

    model: Sam
    name: str
    sha256: str


def load_clip(spec: str, device: torch.device | str = "cpu") -> ClipBundle:
    """Load a CLIP (paper 2.1.1).

    Args:
        spec: `embedded`, `paper`, a name of `weights.WEIGHTS`, or a file: OpenAI's archive of a CLIP ViT, a state dict
            or safetensors in that layout (`open_clip` writes the same), or the embedded model's.
        device: where the model goes.

    Raises:
        UserError: file missing, damaged, of another model, or holding pickled code.
    """
    path, record = locate("clip", spec)
    state = read_state_dict(path)
    check_finite({name: tensor for name, tensor in state.items() if not name.endswith("attn_mask")}, path)
    tokenizer: Tokenizer
    preprocess: Preprocess
    if "visual.conv1.weight" in state and "text_projection" in state:
        model = _openai_clip(state, path)
        tokenizer = open_clip.SimpleTokenizer(context_length=model.context_length)
        preprocess = image_transform_v2(PreprocessCfg(size=model.visual.image_size), is_train=False)
    else:
        model = _filled(build_embedded_clip, state, path, "CLIP (an OpenAI ViT or the embedded one)")
        tokenizer, preprocess = embedded_clip_tokenizer, embedded_clip_preprocess()
    model = model.float().to(device).eval()
    size = int(model.visual.image_size[0])
    return ClipBundle(model, tokenizer, preprocess, size, record.name, record.sha256)


def load_sam(spec: str, device: torch.device | str = "cpu") -> SamBundle:
    """Load a SAM (paper 2.2).

    Args:
        spec: `embedded`, `paper`, a name of `weights.WEIGHTS`, or a file in the official layout of ViT-B, -L or -H
            (MedSAM's is one) or of MobileSAM, or in the embedded model's.
        device: where the model goes.

    Raises:
        UserError: file missing, damaged, of another model, or holding pickled code.
    """
    path, record = locate("sam", spec)
    state = read_state_dict(path)
    check_finite(state, path)
    kind = published_sam(state)
    if kind == "vit_t":
        model: Sam = _filled(build_mobile_sam, with_timm_names(state), path, "MobileSAM")
    elif kind:
        model = _filled(sam_model_registry[kind], state, path, f"SAM {kind}")
    else:
        model = _filled(build_embedded_sam, state, path, "SAM (vit_b, vit_l, vit_h, MobileSAM or the embedded one)")
    return SamBundle(model=model.to(device).eval(), name=record.name, sha256=record.sha256)


def published_sam(state: Mapping[str, torch.Tensor]) -> str | None:
    """`vit_b`, `vit_l` or `vit_h` by the width of the image encoder, `vit_t` for MobileSAM's; None for any other."""
    if is_mobile_sam(state):
        return "vit_t"
    patches = state.get("image_encoder.patch_embed.proj.weight")
    return SAM_WIDTHS.get(int(patches.shape[0])) if patches is not None and patches.ndim == 4 else None


def load_resnet50_state(spec: str) -> dict[str, torch.Tensor] | None:
    """Read the ImageNet weights the slice classifier starts from (paper 3.1).

    Args:
        spec: `paper`, a name of `weights.WEIGHTS`, or a file in torchvision's layout; `none` or `embedded` (the package
            carries no ImageNet weights) to start at random.

    Returns:
        State dict of torchvision's ResNet50 with its head of 1000 classes, or None.

    Raises:
        UserError: file missing, damaged, of another model, or holding pickled code.
    """
    if spec in ("none", "embedded"):
        return None
    path, _ = locate("resnet50", spec)
    state = read_state_dict(path)
    check_finite(state, path)
    with torch.device("meta"):
        skeleton = torchvision.models.resnet50(weights=None)
    _compare(skeleton.state_dict(), state, path, "torchvision ResNet50")
    return state


def load_dino(spec: str, device: torch.device | str = "cpu") -> nn.Module:
    """Load DINO's ViT-S/8, whose features tell segments apart (UM-SAM 2.1).

    Args:
        spec: a file in the layout of the published `dino_deitsmall8_pretrain.pth`, which is timm's too.
        device: where the model goes.

    Raises:
        UserError: no file given, or one that is missing, damaged, of another model, or holds pickled code.
    """
    if spec == "none":
        raise UserError(
            "--dino-weights: settings.segments.features is 'dino', which needs a file of its ViT-S/8 "
            "(dino_deitsmall8_pretrain.pth); give one, or --set segments.features=clip"
        )
    path, _ = locate("dino", spec)
    state = read_state_dict(path)
    check_finite(state, path)
    network: nn.Module = _filled(_empty_dino, state, path, "DINO ViT-S/8")
    return network.to(device).eval()


def _empty_dino() -> nn.Module:
    network: nn.Module = timm.create_model("vit_small_patch8_224.dino", pretrained=False, num_classes=0)
    return network


def load_backbone_state(backbone: str, spec: str) -> dict[str, torch.Tensor] | None:
    """Read the weights that the slice classifier's network starts from.

    Args:
        backbone: its name; `auto` may turn out to be a ResNet50.
        spec: as of :func:`load_resnet50_state`; for another network a file of its own weights, or `none`.

    Returns:
        The file's state dict, which only the network itself can judge, or None.

    Raises:
        UserError: file missing, damaged or holding pickled code; the published ResNet50 for another network.
    """
    if backbone in ("auto", "resnet50"):
        return load_resnet50_state(spec)
    if spec in ("none", "embedded"):
        return None
    if not Path(spec).is_file():
        raise UserError(
            f"--classifier-weights {spec}: is a ResNet50, and settings.classifier.backbone is '{backbone}'; give a "
            "file of that network's weights, or none"
        )
    path, _ = locate("resnet50", spec)
    state = read_state_dict(path)
    check_finite(state, path)
    return state


def _openai_clip(state: Mapping[str, torch.Tensor], path: Path) -> open_clip.CLIP:
    """A CLIP with a vision transformer, QuickGELU and OpenAI's vocabulary, of the size the shapes tell."""
    # A scripted CLIP may also carry its causal masks, which the model makes itself.
    state = {name: tensor for name, tensor in state.items() if not name.endswith("attn_mask")}
    try:
        with torch.random.fork_rng(devices=[]):  # building draws random weights that are overwritten at once
            model: open_clip.CLIP = build_model_from_openai_state_dict(dict(state), cast_dtype=torch.float32)
        # open_clip's builder goes through fp16: exact for OpenAI's own file, not for a model tuned in fp32.
        model = model.float()
        model.load_state_dict(state, strict=False)
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        detail = " ".join(str(error).split())[:160]
        raise UserError(f"{path}: not the weights of an OpenAI CLIP ViT ({detail}); give another file") from error
    if model.vocab_size != OPENAI_VOCABULARY:
        raise UserError(f"{path}: a CLIP with {model.vocab_size} tokens; only OpenAI's vocabulary is known")
    return model


def _filled(build: Callable[[], Any], state: Mapping[str, torch.Tensor], path: Path, title: str) -> Any:
    """The model `build` makes, with these weights."""
    with torch.random.fork_rng(devices=[]):
        with torch.device("meta"):
            skeleton = build().state_dict()
        _compare(skeleton, state, path, title)
        model = build()
    model.load_state_dict(state)
    return model


def check_finite(state: Mapping[str, torch.Tensor], path: Path) -> None:
    """Raise where a weight is NaN or infinite: every mask would be empty, and nothing would say why."""
    for name, tensor in state.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise UserError(f"{path}: {name} holds NaN or infinity; the file is damaged, get it again")


def _compare(expected: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor], path: Path, title: str) -> None:
    """Raise one line that says what is wrong when names or shapes differ."""
    # Counters of batch normalisation are younger than the published ResNets; torch fills them in.
    missing = [name for name in expected if name not in state and not name.endswith("num_batches_tracked")]
    extra = [name for name in state if name not in expected]
    shapes = [
        f"{name} is {tuple(state[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]
    faults = [
        f"{len(names)} {what} ({names[0]}{', ...' if len(names) > 1 else ''})"
        for what, names in (("tensors missing", missing), ("unknown", extra), ("of another shape", shapes))
        if names
    ]
    if faults:
        raise UserError(f"{path}: not the weights of a {title}: {', '.join(faults)}; give another file")
