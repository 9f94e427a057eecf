"""Fused attention against segment_anything's own block."""

from __future__ import annotations

import copy

import pytest
import torch
from segment_anything.modeling.image_encoder import Attention

from pseudo_labeling.embedded.models import build_embedded_sam
from pseudo_labeling.sam import attention as sam_attention
from pseudo_labeling.sam.attention import FusedAttention, fuse_attention


def block(size: tuple[int, int], relative: bool = True) -> Attention:
    torch.manual_seed(3)
    made = Attention(48, num_heads=3, use_rel_pos=relative, input_size=size).eval()
    for name, parameter in made.named_parameters():
        if "rel_pos" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    return made


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("size", [(7, 7), (6, 10)])
@torch.inference_mode()
def test_equals_the_original_block(size: tuple[int, int], relative: bool) -> None:
    original = block(size, relative)
    fused = copy.deepcopy(original)
    assert fuse_attention(fused) == 1
    tokens = torch.randn(2, *size, 48)
    torch.testing.assert_close(fused(tokens), original(tokens), rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_table_of_another_size_is_interpolated_as_in_the_original() -> None:
    original = block((5, 5))
    fused = copy.deepcopy(original)
    fuse_attention(fused)
    tokens = torch.randn(1, 8, 8, 48)
    torch.testing.assert_close(fused(tokens), original(tokens), rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_mask_made_in_parts_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    original = block((9, 6))
    fused = copy.deepcopy(original)
    fuse_attention(fused)
    tokens = torch.randn(2, 9, 6, 48)
    for size in (0, 2 * 3 * 6 * 54 * 4 * 4):  # a row of queries at a time; four rows, of nine
        monkeypatch.setattr(sam_attention, "MASK_BYTES", size)
        torch.testing.assert_close(fused(tokens), original(tokens), rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_relative_position_matters() -> None:
    tokens = torch.randn(1, 7, 7, 48)
    made = block((7, 7))
    fuse_attention(made)
    before = made(tokens)
    torch.nn.init.zeros_(made.rel_pos_h)
    assert (made(tokens) - before).abs().max() > 1e-2


def test_weights_keep_their_names_and_other_encoders_stay() -> None:
    made = block((7, 7))
    names = list(made.state_dict())
    fuse_attention(made)
    assert isinstance(made, FusedAttention)
    assert list(made.state_dict()) == names
    assert fuse_attention(build_embedded_sam().image_encoder) == 0
