"""Networks of random weights: speed does not depend on what a network knows."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import nn

from benchmarks.speed.data import phantom
from benchmarks.speed.encoder import random_vit_b
from pseudo_labeling.settings import SliceLabelSettings
from pseudo_labeling.slices import window_volume
from pseudo_labeling.weights.files import WeightSpecs

SHAPE, SMALL_SHAPE = (16, 240, 240), (8, 64, 64)  # of a scan, (z, y, x) voxels


def slices(count: int, small: bool) -> tuple[np.ndarray, np.ndarray]:
    """So many windowed slices `(z, y, x)` uint8 of phantoms, and their lesions, bool."""
    shape = SMALL_SHAPE if small else SHAPE
    made = [phantom(number, shape) for number in range(-(-count // shape[0]))]
    images = np.concatenate([window_volume(volume) for volume, _ in made])
    return images[:count], np.concatenate([mask for _, mask in made])[:count]


def sam_of_random_weights(small: bool, device: str) -> Sam:
    """A ViT-B; small: one of two layers for images of 128 pixels."""
    if not small:
        return random_vit_b(device)
    torch.manual_seed(0)
    side, width = 128, 32
    encoder = ImageEncoderViT(
        depth=2, embed_dim=64, img_size=side, norm_layer=partial(nn.LayerNorm, eps=1e-6), num_heads=2, patch_size=8,
        use_rel_pos=True, global_attn_indexes=(1,), window_size=7, out_chans=width,
    )  # fmt: skip
    prompts = PromptEncoder(width, (side // 8, side // 8), (side, side), mask_in_chans=4)
    two_way = TwoWayTransformer(depth=1, embedding_dim=width, mlp_dim=width, num_heads=2)
    return Sam(encoder, prompts, MaskDecoder(transformer_dim=width, transformer=two_way)).to(device).eval()


def random_weights(folder: Path, small: bool) -> WeightSpecs:
    """Files of a CLIP ViT-B/32 and a SAM ViT-B; small: of a tiny CLIP in the same layout, and the embedded SAM.

    A random CLIP takes nearly all slices for one class. Its image tower is turned round where that is *normal*, so that
    Otsu's threshold finds slices of both classes in a scan: else there is nothing for a classifier to learn.
    """
    import open_clip  # here, so that the encoder is measured where it is missing
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    from pseudo_labeling.slice_labels import encode_prompts, log_odds, tumour_probability
    from pseudo_labeling.weights.models import OPENAI_VOCABULARY, load_clip

    torch.manual_seed(0)
    if small:
        vision = CLIPVisionCfg(layers=1, width=64, patch_size=32, image_size=64)
        text = CLIPTextCfg(width=64, heads=1, layers=1, vocab_size=OPENAI_VOCABULARY)
        clip = CLIP(embed_dim=64, vision_cfg=vision, text_cfg=text, quick_gelu=True)
    else:
        clip = open_clip.create_model("ViT-B-32-quickgelu", pretrained=None)
    file = folder / "clip.pt"
    state = clip.state_dict()
    torch.save(state, file)
    bundle = load_clip(str(file))
    images, _ = slices(8, small)
    probability = tumour_probability(images, bundle, encode_prompts(bundle, SliceLabelSettings(), "cpu"), "cpu")
    if np.median(log_odds(probability)) < 0:
        state["visual.proj"] = -state["visual.proj"]
        torch.save(state, file)
    sam = "embedded"
    if not small:
        sam = str(folder / "sam.pth")
        torch.save(random_vit_b("cpu").state_dict(), sam)
    return WeightSpecs(str(file), sam, "none")
