"""Pictures (PNG, JPEG, TIFF) as volumes of one slice, colour kept, and masks drawn on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from PIL import Image, ImageOps

from dataset_conversion.errors import UserError

EXTENSIONS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
COLOURS = ("R", "G", "B")  # names of the channels; by them the stages know that a case is a picture
THICKNESS = 10.0  # mm of the one slice: nnU-Net looks along the axis of the largest spacing last; 1 ml is 100 pixels
MASK_VALUES = 20  # a file with more grey values than that is no mask; a JPEG's borders have dozens
_ORIENTATION = 274  # EXIF: how the stored rows and columns are to be turned
_REFUSED = {"CMYK": "CMYK", "LAB": "Lab", "HSV": "HSV", "YCbCr": "YCbCr"}


def read_picture(path: Path, max_edge: int | None = None) -> sitk.Image:
    """A picture as viewers show it, turned as its EXIF says: one slice of three values (R, G, B) a pixel.

    Args:
        path: of a file.
        max_edge: pixels of the longer side above which it is made smaller, each pixel the mean of those it covers.

    Returns:
        Size `(x, y, 1)`, uint8; an edge of 1 stands for a pixel.

    Raises:
        UserError: unreadable, other than 8 bit, not RGB or grey, with transparent parts, or one pixel wide.
    """
    shown = ImageOps.exif_transpose(_opened(path))
    if shown.mode in _REFUSED or shown.mode.startswith(("I", "F")):
        found = _REFUSED.get(shown.mode, "16 bit or more")
        raise UserError(f"{path}: is {found}; save it as 8-bit RGB or grey")
    if shown.has_transparency_data:
        opacity = shown.convert("RGBA").getchannel("A").getextrema()[0]
        if opacity != 255:
            raise UserError(f"{path}: has transparent parts; save it without an alpha channel, on one background")
    if min(shown.size) < 2:
        raise UserError(f"{path}: only one pixel wide or high {shown.size}; leave it out")
    colour = shown.convert("RGB")
    if max_edge is not None and max(colour.size) > max_edge:
        colour = colour.resize(reduced(colour.size, max_edge), Image.Resampling.BOX)
    return _slice(np.asarray(colour), vector=True)


def read_picture_mask(path: Path, picture: Path, max_edge: int | None = None) -> sitk.Image:
    """A mask that was drawn on a picture, turned and made smaller as that is, so that both stay together.

    Args:
        path: of the mask: grey, with few values, such as 0 and 255.
        picture: the file it belongs to.
        max_edge: as for :func:`read_picture`.

    Returns:
        Size `(x, y, 1)`, uint8.

    Raises:
        UserError: unreadable, no mask, of another size than the picture, or it cannot be told how it is turned.
    """
    mask = _opened(path)
    stored = _opened(picture)
    turned = stored.getexif().get(_ORIENTATION, 1) != 1
    shown_size = ImageOps.exif_transpose(stored).size
    if mask.getexif().get(_ORIENTATION, 1) != 1:
        mask = ImageOps.exif_transpose(mask)
    elif turned and stored.size == shown_size == mask.size:
        raise UserError(
            f"{picture}: is stored turned (EXIF) and its mask {path.name} is not: on which of both it was drawn cannot "
            "be told; save the picture as it is shown"
        )
    elif turned and mask.size == stored.size:  # drawn on the rows and columns as they are stored
        mask.getexif()[_ORIENTATION] = stored.getexif()[_ORIENTATION]
        mask = ImageOps.exif_transpose(mask)
    if mask.size != shown_size:
        raise UserError(f"{path}: {mask.size} pixels, but {picture} has {shown_size}; give the mask of this picture")
    values = _grey(mask, path)
    if max_edge is not None and max(shown_size) > max_edge:
        small = Image.fromarray(values).resize(reduced(shown_size, max_edge), Image.Resampling.NEAREST)
        values = np.asarray(small)
    return _slice(values)


def picture_size(path: Path) -> tuple[int, int]:
    """Width and height of a picture as it is shown.

    Raises:
        UserError: unreadable.
    """
    width, height = ImageOps.exif_transpose(_opened(path)).size
    return width, height


def reduced(size: tuple[int, int], max_edge: int) -> tuple[int, int]:
    """A size whose longer side is `max_edge`, of the same proportions; no side below 2."""
    scale = max_edge / max(size)
    width, height = (max(round(side * scale), 2) for side in size)
    return width, height


def _opened(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            if getattr(image, "n_frames", 1) != 1:
                raise UserError(f"{path}: has {image.n_frames} pages; give one picture a file")  # type: ignore[attr-defined]
            image.load()
            return image
    except (OSError, SyntaxError, ValueError, TypeError, Image.DecompressionBombError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: cannot be read as a picture ({error}); fetch it again or leave it out") from error


def _grey(mask: Image.Image, path: Path) -> np.ndarray:
    """The values of a mask, `(y, x)` uint8; colours count only where the three are alike."""
    values = np.asarray(mask.convert("RGB") if mask.mode in ("P", "RGBA", "LA", "PA") else mask)
    if values.ndim == 3:
        if np.ptp(values, axis=2).any():
            raise UserError(f"{path}: is in colours; give a mask in grey, 0 outside")
        values = values[..., 0]
    found = np.unique(values)
    if len(found) > MASK_VALUES or found[0] < 0:
        raise UserError(f"{path}: has {len(found)} different values, no mask's; give a PNG with 0 and 255, no JPEG")
    return (values > 0).astype(np.uint8) if values.dtype != np.uint8 else values


def _slice(values: np.ndarray, *, vector: bool = False) -> sitk.Image:
    image = sitk.GetImageFromArray(np.ascontiguousarray(values)[None], isVector=vector)
    image.SetSpacing((1.0, 1.0, THICKNESS))
    return image


def is_picture(channel_names: Sequence[str]) -> bool:
    """Whether channels of these names are a picture's."""
    return tuple(channel_names) == COLOURS
