"""Slices to SAM's image embeddings: in batches, in the number format that is fast there, each slice once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from segment_anything.modeling import ImageEncoderViT, Sam
from segment_anything.utils.transforms import ResizeLongestSide

from dataset_conversion.errors import UserError
from pseudo_labeling.ahead import made_ahead
from pseudo_labeling.precision import has_bfloat16
from pseudo_labeling.sam.attention import fuse_attention
from pseudo_labeling.settings import SamSettings

BATCH = {"cpu": 4, "cuda": 16}  # slices; an embedding of the published ViT-B is 4 MB, its activations far more
KEPT_BYTES = 2**29  # of embeddings between two passes over a volume: 1024 of the embedded SAM, 128 of a ViT-B


class SliceEncoder:
    """The image encoder of a SAM over grey slices.

    Args:
        model: on `device`; attention blocks of its encoder are replaced by faster ones with the same result.
        settings: precision, equalisation, compilation.
        device: where to compute.

    Raises:
        UserError: a precision that would give wrong masks.
    """

    def __init__(self, model: Sam, settings: SamSettings, device: torch.device) -> None:
        self.model = model
        self.settings = settings
        self.device = device
        self.batch = BATCH.get(device.type, 4)
        self.bfloat16 = uses_bfloat16(model, settings.precision, device)
        fuse_attention(model.image_encoder)
        model.image_encoder.to(memory_format=torch.channels_last)  # convolutions on a CPU: 1.45 times as fast
        self._encoder = torch.compile(model.image_encoder) if settings.compile else model.image_encoder
        self._resize = ResizeLongestSide(model.image_encoder.img_size)

    def inputs(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        """Slices at SAM's size, as `SamPredictor` resizes them; on the CPU, so that a thread can do it ahead.

        Args:
            images: `(y, x)` or `(y, x, 3)` uint8 each.

        Returns:
            `(n, 1, h, w)` or `(n, 3, h, w)` uint8, the longer of h and w being SAM's image size.
        """
        if self.settings.equalise:
            images = [np.asarray(ImageOps.equalize(Image.fromarray(image))) for image in images]
        found = torch.from_numpy(np.stack([self._resize.apply_image(image) for image in images]))
        return found[:, None] if found.ndim == 3 else found.permute(0, 3, 1, 2)

    @torch.inference_mode()
    def encode(self, inputs: torch.Tensor) -> torch.Tensor:
        """`(n, 1 or 3, h, w)` uint8 from :meth:`inputs` to `(n, c, h / stride, w / stride)` float32 on the device."""
        colour = inputs.to(self.device).expand(-1, 3, -1, -1).float()
        with autocast(self.device, self.bfloat16):
            prepared = self.model.preprocess(colour).to(memory_format=torch.channels_last)
            found: torch.Tensor = self._encoder(prepared)
        return found.float()


class SliceEmbeddings:
    """Embeddings of the slices of one volume; those made first are kept for a second pass, as far as memory allows.

    Args:
        encoder: makes them.
        images: `(z, y, x)` or `(z, y, x, 3)` uint8.
        keep_bytes: memory for embeddings already made; 0 keeps none.
    """

    def __init__(self, encoder: SliceEncoder, images: np.ndarray, keep_bytes: int = 0) -> None:
        self.encoder = encoder
        self.images = images
        self._free = keep_bytes
        self._kept: dict[int, torch.Tensor] = {}

    def batches(self, numbers: Sequence[int]) -> Iterator[tuple[Sequence[int], torch.Tensor]]:
        """Embeddings of some slices, a batch at a time, the next batch being resized meanwhile.

        Args:
            numbers: slices, none of them twice.

        Yields:
            Up to `encoder.batch` slice numbers and their embeddings `(n, c, h, w)`.
        """
        step = self.encoder.batch
        batches = [numbers[start : start + step] for start in range(0, len(numbers), step)]
        missing = [[z for z in batch if z not in self._kept] for batch in batches]
        for batch, new, inputs in zip(batches, missing, made_ahead(missing, self._inputs), strict=True):
            found = {z: self._kept[z] for z in batch if z not in new}
            if inputs is not None:
                embeddings = self.encoder.encode(inputs)
                found |= zip(new, embeddings, strict=True)
                if embeddings.nbytes <= self._free:
                    self._free -= embeddings.nbytes
                    self._kept |= zip(new, embeddings, strict=True)
            yield batch, torch.stack([found[z] for z in batch])

    def _inputs(self, numbers: Sequence[int]) -> torch.Tensor | None:
        return self.encoder.inputs([self.images[z] for z in numbers]) if numbers else None


def uses_bfloat16(model: Sam, precision: str, device: torch.device) -> bool:
    """Whether the encoder computes in bfloat16.

    `auto` does so for a ViT where the device has it: a ViT-B is limited by its matrix products. The small convolutional
    encoder of the embedded SAM stays in float32, so that its masks are the same on every machine.

    Raises:
        UserError: float16, which overflows in SAM's encoder, or no known format.
    """
    if precision not in ("auto", "fp32", "bf16"):
        why = "float16 overflows in SAM's encoder and gives wrong masks" if precision == "fp16" else "no such format"
        raise UserError(f"settings.sam.precision: '{precision}' is refused ({why}); give auto, fp32 or bf16")
    if precision == "auto":
        return isinstance(model.image_encoder, ImageEncoderViT) and has_bfloat16(device)
    return precision == "bf16"


def autocast(device: torch.device, bfloat16: bool) -> AbstractContextManager[Any]:
    """Compute in bfloat16, or in float32 whatever format the caller computes in."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=bfloat16)
