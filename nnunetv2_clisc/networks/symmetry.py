"""Differences between a volume and its mirrored self, at every scale of a decoder (AISCT-SAM's self-prompt)."""

from __future__ import annotations

from collections.abc import Sequence

from dynamic_network_architectures.building_blocks.simple_conv_blocks import StackedConvBlocks
from torch import Tensor, nn

IN_PLANE = (1, 2, 2)  # depth is never pooled


def conv_block(inside: int, out: int, convolutions: int = 1) -> StackedConvBlocks:
    """3 x 3 x 3 convolutions, each with batch norm and a leaky ReLU.

    Not instance norm as in the public code: with statistics of its own, a tile without a lesion showed one anyway.
    """
    return StackedConvBlocks(
        convolutions,
        nn.Conv3d,
        inside,
        out,
        3,
        1,
        conv_bias=True,
        norm_op=nn.BatchNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
    )


class SymmetricDifferences(nn.Module):
    """One network for both, and what it makes of the scan minus what it makes of the mirrored scan.

    Plain convolutions where the public code has ScConv.

    Args:
        widths: channels of the decoder at strides 2, 4, … in plane.
        convolutions: of each stage.
    """

    def __init__(self, widths: Sequence[int], convolutions: int = 2) -> None:
        super().__init__()
        inside = (1, *widths[:-1])
        self.stages = nn.ModuleList(conv_block(a, b, convolutions) for a, b in zip(inside, widths, strict=True))
        self.pool = nn.MaxPool3d(IN_PLANE)

    def forward(self, scan: Tensor, mirrored: Tensor) -> list[Tensor]:
        """Both `(b, 1, z, y, x)` to differences `(b, c, z, y / s, x / s)` at strides 2, 4, …"""
        differences = []
        for stage in self.stages:
            scan, mirrored = self.pool(stage(scan)), self.pool(stage(mirrored))
            differences.append(scan - mirrored)
        return differences
