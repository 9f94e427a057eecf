"""MobileSAM (Zhang et al., arXiv:2306.14289): SAM's prompt encoder and decoder behind a TinyViT, which timm has."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import timm
import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from segment_anything.modeling.common import LayerNorm2d
from torch import nn

IMAGE_SIZE, STRIDE, WIDTH = 1024, 16, 256
UNUSED = re.compile(r"image_encoder\.(norm_)?head\.")  # of the network it was distilled into: a classifier's
# where timm calls a part otherwise than MobileSAM's file does; patterns are tried in this order
_NAMES = (
    (r"^image_encoder\.(?!neck)", "image_encoder.trunk."),
    (r"patch_embed\.seq\.0\.", "patch_embed.conv1."),
    (r"patch_embed\.seq\.2\.", "patch_embed.conv2."),
    (r"\.layers\.(\d)\.downsample\.", lambda found: f".stages.{int(found[1]) + 1}.downsample."),
    (r"trunk\.layers\.", "trunk.stages."),
    (r"\.c\.weight$", ".conv.weight"),
)


class TinyVitEncoder(nn.Module):
    """MobileSAM's image encoder: TinyViT-5M whose last stage keeps the resolution, and SAM's neck."""

    img_size = IMAGE_SIZE
    trunk: Any  # timm does not say what its networks have

    def __init__(self) -> None:
        super().__init__()
        self.trunk = timm.create_model("tiny_vit_5m_224", pretrained=False, num_classes=0)
        self.trunk.head = nn.Identity()
        self.trunk.stages[-1].downsample.conv2.conv.stride = (1, 1)
        width = self.trunk.feature_info[-1]["num_chs"]
        self.neck = nn.Sequential(
            nn.Conv2d(width, WIDTH, 1, bias=False),
            LayerNorm2d(WIDTH),
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False),
            LayerNorm2d(WIDTH),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(n, 3, 1024, 1024)` normalised image to `(n, 256, 64, 64)` embedding."""
        embedding: torch.Tensor = self.neck(self.trunk.forward_features(x))
        return embedding


def build_mobile_sam() -> Sam:
    """MobileSAM, randomly initialised; works with `SamPredictor`."""
    side = IMAGE_SIZE // STRIDE
    return Sam(
        image_encoder=TinyVitEncoder(),
        prompt_encoder=PromptEncoder(
            embed_dim=WIDTH,
            image_embedding_size=(side, side),
            input_image_size=(IMAGE_SIZE, IMAGE_SIZE),
            mask_in_chans=16,
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=2, embedding_dim=WIDTH, mlp_dim=2048, num_heads=8),
            transformer_dim=WIDTH,
            iou_head_depth=3,
            iou_head_hidden_dim=256,
        ),
        pixel_mean=[123.675, 116.28, 103.53],
        pixel_std=[58.395, 57.12, 57.375],
    ).eval()


def is_mobile_sam(state: Mapping[str, torch.Tensor]) -> bool:
    """Whether a state dict has the layout of MobileSAM's file."""
    return "image_encoder.patch_embed.seq.0.c.weight" in state


def with_timm_names(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """MobileSAM's tensors by the names they have in :func:`build_mobile_sam`, without those it does not use."""
    renamed = {}
    for name, tensor in state.items():
        if UNUSED.match(name) or name.endswith("attention_bias_idxs"):
            continue
        for pattern, replacement in _NAMES:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    return renamed
