"""What learns inside a frozen image encoder (AISCT-SAM): low-rank attention, parallel and depth adapters.

Every adapter's last layer is zero at first, so that a network begins as the encoder it was made from.
"""

from __future__ import annotations

import torch
from segment_anything.modeling.image_encoder import Block, window_partition, window_unpartition
from torch import Tensor, nn
from torch.nn import functional as F

from pseudo_labeling.sam.attention import FusedAttention

DEPTH_WIDTH = 128  # channels inside a depth adapter, as in the public code


class DepthAdapter(nn.Module):
    """What neighbouring slices show: a 3 x 3 x 3 filter of each channel between two projections.

    Args:
        width: channels.
        inside: channels in between.
    """

    def __init__(self, width: int, inside: int = DEPTH_WIDTH) -> None:
        super().__init__()
        inside = min(inside, width)
        self.norm = nn.LayerNorm(width)
        self.down = nn.Conv3d(width, inside, 1)
        self.filter = nn.Conv3d(inside, inside, 3, padding=1, groups=inside)
        self.mix = nn.Conv3d(inside, inside, 1)
        self.up = _zero(nn.Conv3d(inside, width, 1))

    def forward(self, x: Tensor, depth: int) -> Tensor:
        """Slices `(b * depth, h, w, c)`, those of a volume one after another, to what is added to them."""
        volumes = self.norm(x).unflatten(0, (-1, depth)).permute(0, 4, 1, 2, 3)
        found = F.relu(self.mix(self.filter(F.relu(self.down(volumes)))))
        added: Tensor = self.up(found).permute(0, 2, 3, 4, 1).flatten(0, 1)
        return added


class ParallelAdapter(nn.Module):
    """A bottleneck beside a block's MLP or convolutions, weighed by a learned number.

    Args:
        width: channels.
        inside: channels in between.
    """

    def __init__(self, width: int, inside: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, inside)
        self.up = _zero(nn.Linear(inside, width))
        nn.init.xavier_uniform_(self.down.weight)
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        """`(…, c)` to what is added to it."""
        added: Tensor = self.weight * self.up(F.relu(self.down(x)))
        return added


class LowRank(nn.Module):
    """What is added to queries and values of a frozen attention: a product of two thin matrices, weighed per slice.

    Args:
        width: channels of the tokens.
        rank: of each product.
    """

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, 2 * rank, bias=False)
        self.up = nn.ModuleList(_zero(nn.Linear(rank, width, bias=False)) for _ in range(2))
        self.gate = nn.Linear(width, 1)
        nn.init.kaiming_uniform_(self.down.weight, a=5**0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens `(n, h, w, c)` to `(n, h, w, 3 c)`, added to queries, keys (nothing) and values."""
        gate = torch.sigmoid(self.gate(x)).mean((1, 2), keepdim=True)
        q, v = (up(low) for up, low in zip(self.up, self.down(x).chunk(2, -1), strict=True))
        return gate * torch.cat([q, torch.zeros_like(q), v], -1)


class AdaptedAttention(FusedAttention):
    """SAM's attention, its queries, keys and values moved by what a :class:`LowRank` says."""

    def forward(self, x: Tensor) -> Tensor:
        """Tokens and what is added to their projections, `(n, h, w, c + 3 c)`, to `(n, h, w, c)`."""
        width = x.shape[-1] // 4
        return self.mixed(self.qkv(x[..., :width]) + x[..., width:])


class MedAdapter(nn.Module):
    """SAM-Med2D's own adapter, frozen as it was trained: a gate of channels, then a detour over half the resolution.

    Args:
        width: channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = width // 4
        self.channel = nn.Sequential(
            nn.Linear(width, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, width, bias=False), nn.Sigmoid()
        )
        self.spatial = nn.Sequential(
            nn.Conv2d(width, width, 3, 2, 1, bias=False),
            nn.ReLU(),
            nn.ConvTranspose2d(width, width, 4, 2, 1, bias=False),
            nn.ReLU(),
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """`(n, h, w, c)` to what is added to it."""
        gated = x * self.channel(x.mean((1, 2)))[:, None, None]
        found: Tensor = self.norm(x + self.spatial(gated.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        return found


class AdaptedBlock(nn.Module):
    """A frozen block of SAM's ViT with its adapters.

    Args:
        block: of the encoder; its attention is taken over.
        rank: of the low-rank queries and values.
        adapter: channels inside the parallel adapter.
        depth: whether neighbouring slices are seen.
        med: whether SAM-Med2D's adapter is there, beside the MLP as it was trained.
    """

    def __init__(self, block: Block, *, rank: int, adapter: int, depth: bool, med: bool) -> None:
        super().__init__()
        width = int(block.norm1.normalized_shape[0])
        block.attn.__class__ = AdaptedAttention
        self.block = block
        self.med = MedAdapter(width) if med else None
        self.low_rank = LowRank(width, rank)
        self.parallel = ParallelAdapter(width, adapter)
        self.depth = DepthAdapter(width) if depth else None

    def forward(self, x: Tensor, depth: int) -> Tensor:
        """Tokens of slices `(b * depth, h, w, c)` to the same shape."""
        block = self.block
        beside = 0 if self.depth is None else self.depth(x, depth)
        normed = block.norm1(x)
        asked = torch.cat([normed, self.low_rank(normed)], -1)
        if block.window_size > 0:
            size = (x.shape[1], x.shape[2])
            windows, padded = window_partition(asked, block.window_size)
            attended = window_unpartition(block.attn(windows), block.window_size, padded, size)
        else:
            attended = block.attn(asked)
        x = x + attended
        normed = block.norm2(x)
        x = x + block.mlp(normed) + self.parallel(normed) + beside
        return x if self.med is None else x + self.med(normed)


def _zero(layer: nn.Module) -> nn.Module:
    """The layer with nothing in it."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
