"""Attention of SAM's ViT through PyTorch's fused kernels, with its decomposed relative position as additive mask."""

from __future__ import annotations

import torch
from segment_anything.modeling.image_encoder import Attention, get_rel_pos
from torch import nn
from torch.nn import functional as F

MASK_BYTES = (
    2**28
)  # the mask of a global layer has 12 x 4096 x 4096 numbers a slice: it is made for some queries a time


class FusedAttention(Attention):
    """`segment_anything`'s attention block with the same result, without the whole matrix of attention weights."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(b, h, w, c)` tokens to the same shape."""
        return self.mixed(self.qkv(x))

    def mixed(self, qkv: torch.Tensor) -> torch.Tensor:
        """Queries, keys and values `(b, h, w, 3 c)` to tokens `(b, h, w, c)`."""
        b, h, w = qkv.shape[:3]
        q, k, v = qkv.reshape(b, h * w, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)  # (b, heads, h * w, -1)
        if not self.use_rel_pos:
            found = F.scaled_dot_product_attention(q, k, v)
        else:
            grid = q.reshape(b, self.num_heads, h, w, -1)
            by_row = torch.einsum("bnhwc,hkc->bnhwk", grid, get_rel_pos(h, h, self.rel_pos_h))
            by_column = torch.einsum("bnhwc,wkc->bnhwk", grid, get_rel_pos(w, w, self.rel_pos_w))
            rows = max(1, MASK_BYTES // (b * self.num_heads * w * h * w * q.element_size()))
            parts = []
            for start in range(0, h, rows):
                part = slice(start, start + rows)
                mask = by_row[:, :, part, :, :, None] + by_column[:, :, part, :, None, :]
                queries = grid[:, :, part].flatten(2, 3)
                mask = mask.reshape(b, self.num_heads, -1, h * w).to(queries.dtype)
                parts.append(F.scaled_dot_product_attention(queries, k, v, attn_mask=mask))
            found = parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
        mixed: torch.Tensor = self.proj(found.transpose(1, 2).reshape(b, h, w, -1))
        return mixed


def fuse_attention(encoder: nn.Module) -> int:
    """Let every attention block of an image encoder compute as :class:`FusedAttention`.

    Weights, names and hooks stay; an encoder without such blocks stays as it is.

    Returns:
        Number of blocks that now do.
    """
    blocks = [module for module in encoder.modules() if isinstance(module, Attention)]
    for block in blocks:
        block.__class__ = FusedAttention
    return len(blocks)
