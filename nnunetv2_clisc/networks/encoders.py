"""SAM's image encoders as the frozen way down of a segmentation network: slices to maps at several strides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from segment_anything.modeling import ImageEncoderViT
from torch import Tensor, nn
from torch.nn import functional as F

from nnunetv2_clisc.networks.adapters import AdaptedBlock, DepthAdapter, ParallelAdapter
from pseudo_labeling.embedded.models import ConvImageEncoder
from pseudo_labeling.weights.mobile_sam import TinyVitEncoder

Kind = Literal["vit_b", "med2d", "vit_t", "embedded", "tiny"]
PATCH = 16  # pixels of a ViT's token, at the published sizes
PREFIX = "image_encoder."  # in a SAM's state dict


@dataclass(frozen=True)
class VitSize:
    """A vision transformer of SAM's kind; which blocks the decoder's skips come from, the coarsest last."""

    width: int
    heads: int
    blocks: int
    global_blocks: tuple[int, ...]
    skips: tuple[int, int, int]
    patch: int = PATCH


VITS: dict[str, VitSize] = {
    "vit_b": VitSize(768, 12, 12, (2, 5, 8, 11), (2, 5, 8)),  # blocks 3, 6 and 9, as in the public code
    "med2d": VitSize(768, 12, 12, (2, 5, 8, 11), (2, 5, 8)),
    "tiny": VitSize(24, 2, 3, (1, 2), (0, 1, 2)),  # knows nothing: for tests
}


@dataclass(frozen=True)
class AdapterSettings:
    """What learns inside an encoder.

    Attributes:
        rank: of low-rank queries and values, in a ViT.
        inside: channels of the parallel adapters.
        depth: whether slices see their neighbours.
    """

    rank: int = 4
    inside: int = 64
    depth: bool = True


class AdaptedVit(nn.Module):
    """SAM's ViT for patches of any size that its tokens tile.

    Args:
        kind: of :data:`VITS`.
        patch: `(y, x)` of the patches, in pixels; positions belong to it.
        adapters: what learns.
    """

    def __init__(self, kind: str, patch: tuple[int, int], adapters: AdapterSettings) -> None:
        super().__init__()
        size = VITS[kind]
        grid = (patch[0] // size.patch, patch[1] // size.patch)
        body = ImageEncoderViT(
            img_size=size.patch * max(grid),
            patch_size=size.patch,
            embed_dim=size.width,
            depth=size.blocks,
            num_heads=size.heads,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=14,
            global_attn_indexes=size.global_blocks,
        )
        body.pos_embed = nn.Parameter(torch.zeros(1, *grid, size.width))
        for number in size.global_blocks:
            attention = body.blocks[number].attn
            for name, edge in (("rel_pos_h", grid[0]), ("rel_pos_w", grid[1])):
                like = getattr(attention, name)
                setattr(attention, name, nn.Parameter(torch.zeros(2 * edge - 1, like.shape[1])))
        body.blocks = nn.ModuleList(
            AdaptedBlock(block, rank=adapters.rank, adapter=adapters.inside, depth=adapters.depth, med=kind == "med2d")
            for block in body.blocks
        )
        self.body: Any = body
        self.skips = size.skips
        out = body.neck[0].out_channels
        self.levels = [(size.width, size.patch)] * 3 + [(out, size.patch)]

    def forward(self, slices: Tensor, depth: int) -> list[Tensor]:
        """Slices `(b * depth, 3, y, x)` to maps `(b * depth, c, h, w)`, as :attr:`levels` says."""
        body = self.body
        x = body.patch_embed(slices) + body.pos_embed
        found = []
        for number, block in enumerate(body.blocks):
            x = block(x, depth)
            if number in self.skips:
                found.append(x.permute(0, 3, 1, 2))
        return [*found, body.neck(x.permute(0, 3, 1, 2))]

    def frozen_from(self, sam: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The frozen tensors by their names here, of a SAM's state dict; positions are fitted to the patch.

        Raises:
            KeyError, ValueError: of another encoder.
        """
        result = {}
        for name, like in self.state_dict().items():
            if not is_frozen(name):
                continue
            there = name.removeprefix("body.").replace(".block.", ".").replace(".med.", ".Adapter.")
            tensor = sam[PREFIX + there].float()
            if name.endswith("pos_embed"):
                tensor = _resized(tensor.permute(0, 3, 1, 2), like.shape[1:3]).permute(0, 2, 3, 1)
            elif "rel_pos" in name and tensor.shape != like.shape:
                tensor = F.interpolate(tensor.T[None], size=like.shape[0], mode="linear")[0].T
            result[name] = tensor
        return result


class AdaptedConvolutions(nn.Module):
    """A convolutional SAM encoder, stage by stage, with adapters after each stage: the embedded one, or a TinyViT.

    Args:
        stages: of the frozen encoder, in their order.
        levels: channels and stride after each.
        adapters: what learns; there is no low rank, since not every stage has attention.
    """

    names: tuple[str, ...]  # of the stages in SAM's encoder

    def __init__(
        self, stages: Sequence[nn.Module], levels: Sequence[tuple[int, int]], adapters: AdapterSettings
    ) -> None:
        super().__init__()
        self.levels = list(levels)
        self.body = nn.ModuleList(stages)
        self.parallel = nn.ModuleList(ParallelAdapter(width, min(adapters.inside, width)) for width, _ in levels)
        self.depth = nn.ModuleList(DepthAdapter(width) for width, _ in levels) if adapters.depth else None

    def forward(self, slices: Tensor, depth: int) -> list[Tensor]:
        """Slices `(b * depth, 3, y, x)` to maps `(b * depth, c, h, w)`, as :attr:`levels` says."""
        found = []
        x = slices
        for number, stage in enumerate(self.body):
            x = stage(x)
            last = x.permute(0, 2, 3, 1)
            added = self.parallel[number](last)
            if self.depth is not None:
                added = added + self.depth[number](last, depth)
            x = x + added.permute(0, 3, 1, 2)
            found.append(x)
        return found

    def frozen_from(self, sam: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The frozen tensors by their names here, of a SAM's state dict.

        Raises:
            KeyError: of another encoder.
        """
        return {name: sam[PREFIX + self._there(name)].clone() for name in self.state_dict() if is_frozen(name)}

    def _there(self, name: str) -> str:
        number, rest = name.removeprefix("body.").split(".", 1)
        return f"{self.names[int(number)]}.{rest}"

    def train(self, mode: bool = True) -> Any:
        """Torch's, but what is frozen stays as it predicts: its batch norms must not follow the patches."""
        super().train(mode)
        self.body.eval()
        return self


class AdaptedEmbedded(AdaptedConvolutions):
    """The embedded SAM's encoder down to stride 16."""

    names = ("stem", "stage4", "stage8", "stage16")

    def __init__(self, adapters: AdapterSettings) -> None:
        whole = ConvImageEncoder()
        stages = [getattr(whole, name) for name in self.names]
        super().__init__(stages, [(24, 2), (48, 4), (96, 8), (160, 16)], adapters)


class AdaptedTinyVit(AdaptedConvolutions):
    """MobileSAM's encoder."""

    names = ("trunk.patch_embed", "trunk.stages.0", "trunk.stages.1", "trunk.stages.2", "trunk.stages.3")

    def __init__(self, adapters: AdapterSettings) -> None:
        trunk: Any = TinyVitEncoder().trunk
        stages = [trunk.patch_embed, *trunk.stages]
        super().__init__(stages, [(64, 4), (64, 4), (128, 8), (160, 16), (320, 16)], adapters)


def build_encoder(kind: Kind, patch: tuple[int, int], adapters: AdapterSettings) -> AdaptedVit | AdaptedConvolutions:
    """An encoder with adapters that do nothing yet; its frozen weights are random.

    Args:
        kind: `vit_b` of SAM or MedSAM, `med2d` of SAM-Med2D with its adapters, `vit_t` of MobileSAM, `embedded`, or
            `tiny`, which knows nothing.
        patch: `(y, x)` in pixels.
        adapters: what learns.
    """
    if kind == "embedded":
        encoder: AdaptedVit | AdaptedConvolutions = AdaptedEmbedded(adapters)
    elif kind == "vit_t":
        encoder = AdaptedTinyVit(adapters)
    else:
        encoder = AdaptedVit(kind, patch, adapters)
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(not is_frozen(name))
    return encoder


def is_frozen(name: str) -> bool:
    """Whether an encoder's tensor of this name is SAM's; the neck of a ViT learns, as in the public code."""
    parts = name.split(".")
    return parts[0] == "body" and not {"low_rank", "parallel", "depth", "neck"} & set(parts)


def multiple_of(kind: Kind) -> int:
    """What the in-plane edges of a patch must be a multiple of, in pixels."""
    if kind == "tiny":
        return VITS["tiny"].patch
    return 32 if kind in ("vit_t", "med2d") else 16


def _resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    if tuple(maps.shape[2:]) == tuple(size):
        return maps
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)
