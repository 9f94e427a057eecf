"""3D TIFF: the pages of a file are a volume's slices; how large a voxel is, TIFF does not say."""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from PIL import Image, ImageSequence

from dataset_conversion.errors import UserError
from dataset_conversion.scans.geometry import check_edges

EXTENSIONS = (".tif", ".tiff")
_MODES = ("1", "L", "I", "F", "I;16", "I;16L", "I;16B")  # one number a pixel
_SERIES = re.compile(r"^(?:channels|frames)=(?:[2-9]|\d{2,})", re.MULTILINE)  # in the description ImageJ writes


def read_stack(path: Path, spacing: Sequence[float] | None = None) -> sitk.Image:
    """Read a multi-page TIFF: page 1 is the lowest axial slice, rows run to the back, columns to the patient's left.

    Args:
        spacing: edges of a voxel in mm, z first; by default what the file of the same name with `.json` says in its
            list `spacing`, as nnU-Net writes it beside TIFF files.

    Raises:
        UserError: unreadable, not a stack of pages of one size with one number a pixel, or of unknown spacing.
    """
    pages: list[np.ndarray] = []
    try:
        with Image.open(path) as image:
            if found := _SERIES.search(str(getattr(image, "tag_v2", {}).get(270, ""))):
                raise UserError(f"{path}: an ImageJ stack with {found[0]}; give one volume a file")
            for page in ImageSequence.Iterator(image):
                if page.mode not in _MODES:
                    raise UserError(f"{path}: pixel mode {page.mode}; give a stack with one number a pixel")
                pages.append(np.asarray(page))
    except (OSError, SyntaxError, TypeError, ValueError, EOFError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: cannot be read as a TIFF stack; fetch it again or leave this case out") from error
    if len(pages) != _page_count(path):
        raise UserError(f"{path}: the file is truncated or damaged; fetch it again or leave this case out")
    if len(pages) < 2 or len({page.shape for page in pages}) != 1:
        raise UserError(
            f"{path}: has {len(pages)} page(s); give one file a case with two or more pages of one size, its slices"
        )
    edges = _stored_spacing(path) if spacing is None else tuple(map(float, spacing))
    stack = np.stack(pages)
    image3d = sitk.GetImageFromArray(stack.astype(np.uint8) if stack.dtype == bool else stack)
    check_edges(edges, path)
    image3d.SetSpacing(edges[::-1])
    return image3d


def _page_count(path: Path) -> int:
    """Pages by the chain of directories that a TIFF is, -1 where it breaks: Pillow takes a break for the end."""
    data = path.read_bytes()
    order = "<" if data[:2] == b"II" else ">"
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    counted, entry, linked = ("Q", 20, "Q") if big else ("H", 12, "I")
    found: set[int] = set()
    try:
        position = struct.unpack_from(order + linked, data, 8 if big else 4)[0]
        while position:
            if position in found:
                return -1
            found.add(position)
            entries = struct.unpack_from(order + counted, data, position)[0]
            position = struct.unpack_from(order + linked, data, position + struct.calcsize(counted) + entry * entries)[
                0
            ]
    except struct.error:
        return -1
    return len(found)


def _stored_spacing(path: Path) -> tuple[float, ...]:
    beside = path.with_name(path.name[: -len(path.suffix)].removesuffix("_0000") + ".json")
    try:
        edges = tuple(float(edge) for edge in json.loads(beside.read_text(encoding="utf-8"))["spacing"])
        if len(edges) != 3 or not all(map(math.isfinite, edges)):
            raise ValueError
    except FileNotFoundError as error:
        raise UserError(
            f"{path}: TIFF does not say how large a voxel is; give --spacing Z Y X in mm, or beside it {beside.name} "
            'with {"spacing": [Z, Y, X]}'
        ) from error
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f'{beside}: not {{"spacing": [Z, Y, X]}} in mm; mend it or give --spacing') from error
    return edges
