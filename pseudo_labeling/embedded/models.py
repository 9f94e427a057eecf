"""Architectures of the embedded CLIP and SAM: the classes of open_clip and segment_anything in small sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import open_clip
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from pseudo_labeling.embedded.captions import CONTEXT_LENGTH, VOCABULARY_SIZE, embedded_clip_tokenizer

__all__ = [
    "CLIP_IMAGE_SIZE",
    "SAM_IMAGE_SIZE",
    "SAM_STRIDE",
    "build_embedded_clip",
    "build_embedded_sam",
    "embedded_clip_preprocess",
    "embedded_clip_tokenizer",
]

CLIP_IMAGE_SIZE = 160
CLIP_MEAN, CLIP_STD = (0.25, 0.25, 0.25), (0.25, 0.25, 0.25)
SAM_IMAGE_SIZE = 256
_SAM_DIM = 128
SAM_STRIDE = 8


def build_embedded_clip() -> CLIP:
    """A CLIP with a ResNet-10 image tower and a two-layer text tower, randomly initialised.

    `model.visual.trunk` is a timm ResNet with `layer1` to `layer4`; it takes any input size.
    """
    vision = CLIPVisionCfg(
        timm_model_name="resnet10t", timm_pool="avgmax", timm_proj="linear", image_size=CLIP_IMAGE_SIZE
    )
    text = CLIPTextCfg(context_length=CONTEXT_LENGTH, vocab_size=VOCABULARY_SIZE, width=128, heads=4, layers=2)
    model = CLIP(embed_dim=128, vision_cfg=vision, text_cfg=text, init_logit_scale=2.3)  # e^2.3 = 10
    model.visual.image_mean, model.visual.image_std = CLIP_MEAN, CLIP_STD
    return model


def embedded_clip_preprocess() -> Callable[[Any], Tensor]:
    """PIL image to `(3, 160, 160)` float32; slices that are not square are padded with black."""
    return open_clip.image_transform(
        CLIP_IMAGE_SIZE, is_train=False, mean=CLIP_MEAN, std=CLIP_STD, resize_mode="longest", fill_color=0
    )


class _Block(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut."""

    def __init__(self, inside: int, out: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inside, out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(inplace=True),
            nn.Conv2d(out, out, 3, 1, 1, bias=False),
            nn.BatchNorm2d(out),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inside != out:
            self.shortcut = nn.Sequential(
                nn.AvgPool2d(stride) if stride > 1 else nn.Identity(),
                nn.Conv2d(inside, out, 1, bias=False),
                nn.BatchNorm2d(out),
            )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


class ConvImageEncoder(nn.Module):
    """Convolutional image encoder that stands where SAM has its ViT.

    A plain small ViT learned the box, not the image, from as many phantoms. Coarse levels (strides 16 and 32) bring
    context into the stride 8 map; the strides 2 and 4 are folded into its channels and bring the exact outline.
    """

    def __init__(self, img_size: int = SAM_IMAGE_SIZE, out_chans: int = _SAM_DIM) -> None:
        super().__init__()
        self.img_size = img_size  # read by SamPredictor and Sam
        widths = (24, 48, 96, 160, 224)
        self.stem = nn.Sequential(
            nn.Conv2d(3, widths[0], 5, 2, 2, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU(inplace=True)
        )
        self.stage4 = _Block(widths[0], widths[1], 2)
        self.stage8 = nn.Sequential(_Block(widths[1], widths[2], 2), _Block(widths[2], widths[2]))
        self.stage16 = nn.Sequential(_Block(widths[2], widths[3], 2), _Block(widths[3], widths[3]))
        self.stage32 = nn.Sequential(_Block(widths[3], widths[4], 2), _Block(widths[4], widths[4]))
        self.lateral = nn.ModuleList(nn.Conv2d(width, out_chans, 1) for width in widths[2:])
        self.smooth16, self.smooth8 = _Block(out_chans, out_chans), _Block(out_chans, out_chans)
        self.fine4, self.fine2 = nn.Conv2d(widths[1], 24, 1), nn.Conv2d(widths[0], 8, 1)
        self.join = nn.Sequential(
            nn.Conv2d(out_chans + 24 * 4 + 8 * 16, out_chans, 1, bias=False),
            nn.BatchNorm2d(out_chans),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_chans, out_chans, 3, 1, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """`(n, 3, 256, 256)` normalised image to `(n, 128, 32, 32)` embedding."""
        at2 = self.stem(x)
        at4 = self.stage4(at2)
        at8 = self.stage8(at4)
        at16 = self.stage16(at8)
        at32 = self.stage32(at16)
        top = self.lateral[2](at32)
        top = top + top.mean((2, 3), keepdim=True)
        mid = self.smooth16(self.lateral[1](at16) + F.interpolate(top, scale_factor=2.0))
        low = self.smooth8(self.lateral[0](at8) + F.interpolate(mid, scale_factor=2.0))
        fine = [F.pixel_unshuffle(self.fine4(at4), 2), F.pixel_unshuffle(self.fine2(at2), 4)]
        return self.join(torch.cat([low, *fine], 1))


def build_embedded_sam() -> Sam:
    """A SAM for 256 x 256 images with a convolutional encoder, randomly initialised; works with `SamPredictor`."""
    side = SAM_IMAGE_SIZE // SAM_STRIDE
    return Sam(
        image_encoder=ConvImageEncoder(),
        prompt_encoder=PromptEncoder(
            embed_dim=_SAM_DIM,
            image_embedding_size=(side, side),
            input_image_size=(SAM_IMAGE_SIZE, SAM_IMAGE_SIZE),
            mask_in_chans=16,
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=2, embedding_dim=_SAM_DIM, mlp_dim=384, num_heads=4),
            transformer_dim=_SAM_DIM,
            iou_head_depth=3,
            iou_head_hidden_dim=128,
        ),
        pixel_mean=[50.0, 50.0, 50.0],
        pixel_std=[60.0, 60.0, 60.0],
    ).eval()
