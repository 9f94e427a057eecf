"""Many prompts on one image to masks; `segment_anything`'s own decoder copies the image for each prompt."""

from __future__ import annotations

from typing import Any

import torch
from segment_anything import SamPredictor
from segment_anything.modeling import Sam
from segment_anything.modeling.mask_decoder import MaskDecoder
from segment_anything.modeling.transformer import Attention, TwoWayTransformer
from torch.nn import functional as F


class OneImagePredictor(SamPredictor):
    """`SamPredictor` for many prompts on its image: the same masks, to rounding, with less to compute and to move.

    What the first layer of SAM's decoder makes of the image is the same for every prompt and computed once; the
    positions are added after the projections, not before each; channels stay last until the masks are there.

    Args:
        sam: on its device.
        one_mask: give SAM's single mask of each prompt, whatever is asked for: for a SAM whose three masks of an
            ambiguous prompt were never trained.
    """

    def __init__(self, sam: Sam, *, one_mask: bool = False) -> None:
        super().__init__(sam)
        self.one_mask = one_mask

    @torch.no_grad()
    def predict_torch(
        self,
        point_coords: torch.Tensor | None,
        point_labels: torch.Tensor | None,
        boxes: torch.Tensor | None = None,
        mask_input: torch.Tensor | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """As `SamPredictor.predict_torch`; prompts with a mask of their own are left to it."""
        multimask_output = multimask_output and not self.one_mask
        if mask_input is not None:
            given: Any = super().predict_torch(
                point_coords, point_labels, boxes, mask_input, multimask_output, return_logits
            )
            return given  # type: ignore[no-any-return]
        sam = self.model
        points = None if point_coords is None or point_labels is None else (point_coords, point_labels)
        sparse, dense = sam.prompt_encoder(points=points, boxes=boxes, masks=None)
        numbers = range(1, sam.mask_decoder.num_mask_tokens) if multimask_output else range(1)
        image = (self.features + dense[:1])[0]
        low_resolution, quality = decode_one_image(
            sam.mask_decoder, image, sam.prompt_encoder.get_dense_pe()[0], sparse, list(numbers)
        )
        masks = sam.postprocess_masks(low_resolution, self.input_size, self.original_size)
        return (masks if return_logits else masks > sam.mask_threshold), quality, low_resolution


def decode_one_image(
    decoder: MaskDecoder, image: torch.Tensor, position: torch.Tensor, sparse: torch.Tensor, numbers: list[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """`MaskDecoder.predict_masks` for prompts that share their image.

    Args:
        decoder: SAM's.
        image: `(c, h, w)` embedding, that of "no mask" added.
        position: `(c, h, w)`, the image's positional encoding.
        sparse: `(n, t, c)` embeddings of the prompts.
        numbers: `m` of the decoder's masks that are wanted.

    Returns:
        Logits `(n, m, 4 h, 4 w)` and SAM's own estimates of their IoU `(n, m)`.
    """
    own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens = torch.cat([own.expand(len(sparse), -1, -1), sparse], dim=1)
    h, w = image.shape[-2:]
    found, seen = _two_ways(decoder.transformer, image.flatten(1).T, position.flatten(1).T, tokens)
    weights = torch.stack([decoder.output_hypernetworks_mlps[i](found[:, 1 + i]) for i in numbers], dim=2)
    quality: torch.Tensor = decoder.iou_prediction_head(found[:, 0])[:, numbers]
    return _upscaled(decoder, seen, weights, h, w), quality


def _two_ways(
    transformer: TwoWayTransformer, image: torch.Tensor, position: torch.Tensor, tokens: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """SAM's two-way transformer; image and position `(l, c)`, tokens `(n, t, c)` to `(n, t, c)` and `(n, l, c)`."""
    queries, keys = tokens, image[None]
    for layer in transformer.layers:
        if layer.skip_first_layer_pe:
            queries = layer.self_attn(q=queries, k=queries, v=queries)
        else:
            placed = queries + tokens
            queries = queries + layer.self_attn(q=placed, k=placed, v=queries)
        queries = layer.norm1(queries)
        to_image, to_tokens = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token
        queries = layer.norm2(queries + _tokens_to_image(to_image, queries + tokens, keys, position))
        queries = layer.norm3(queries + layer.mlp(queries))
        keys = layer.norm4(keys + _image_to_tokens(to_tokens, keys, position, queries + tokens, queries))
    last = transformer.final_attn_token_to_image
    queries = queries + _tokens_to_image(last, queries + tokens, keys, position)
    return transformer.norm_final_attn(queries), keys


def _tokens_to_image(
    attention: Attention, asking: torch.Tensor, image: torch.Tensor, position: torch.Tensor
) -> torch.Tensor:
    """Tokens `(n, t, c)` attend to an image `(n or 1, l, c)`."""
    n, t, _ = asking.shape
    q = attention.q_proj(asking)
    k = F.linear(image, attention.k_proj.weight) + attention.k_proj(position)
    v = attention.v_proj(image)
    if len(image) == 1:  # the same keys for all prompts: their tokens are one long row of queries
        q = q.reshape(1, n * t, -1)
    return attention.out_proj(_attend(q, k, v, attention.num_heads).reshape(n, t, -1))


def _image_to_tokens(
    attention: Attention, image: torch.Tensor, position: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
) -> torch.Tensor:
    """An image `(n or 1, l, c)` attends to tokens `(n, t, c)`."""
    q = F.linear(image, attention.q_proj.weight) + attention.q_proj(position)
    k, v = attention.k_proj(keys), attention.v_proj(values)
    return attention.out_proj(_attend(q.expand(len(k), -1, -1), k, v, attention.num_heads))


def _attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int) -> torch.Tensor:
    """Attention `(b, i, c)` of queries `(b, i, c)` to keys and values `(b, j, c)`."""
    split = [each.unflatten(-1, (heads, -1)).transpose(1, 2) for each in (q, k, v)]
    return F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)


def _upscaled(decoder: MaskDecoder, seen: torch.Tensor, weights: torch.Tensor, h: int, w: int) -> torch.Tensor:
    """Logits `(n, m, 4 h, 4 w)` of the image that each prompt has seen, `(n, h w, c)`, and weights `(n, c, m)`.

    SAM's two transposed convolutions double the grid with a stride as wide as their kernel: products of each place's
    channels with a matrix.
    """
    first, norm, activation, second, _ = decoder.output_upscaling
    seen = _doubled(first, seen)
    seen = F.layer_norm(seen, norm.weight.shape, norm.weight, norm.bias, norm.eps)
    seen = activation(_doubled(second, activation(seen)))
    n = len(seen)
    logits = seen.reshape(n, -1, seen.shape[-1]) @ weights
    fine = logits.reshape(n, h, w, 2, 2, 2, 2, -1)  # row and column, each halved twice
    return fine.permute(0, 7, 1, 3, 5, 2, 4, 6).reshape(n, -1, 4 * h, 4 * w)


def _doubled(convolution: torch.nn.ConvTranspose2d, seen: torch.Tensor) -> torch.Tensor:
    """Places `(..., c)` to the four `(..., 2, 2, c')` that a transposed convolution makes of each."""
    matrix = convolution.weight.permute(2, 3, 1, 0).flatten(0, 2)
    bias = None if convolution.bias is None else convolution.bias.repeat(4)
    return F.linear(seen, matrix, bias).unflatten(-1, (2, 2, -1))
