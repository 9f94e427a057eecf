"""The panels of a report: one slice each, with CAM, ROI, prompts, masks; small PNGs with a palette of their own."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from pseudo_labeling.prompts import Prompt
from pseudo_labeling.slice_labels import HEAD_LEVEL

EDGE = 240  # pixels of a panel's longer side
COLOURS = 88  # of the palette; few enough for small files, too many to see in greys
# Okabe and Ito: told apart with any colour vision
INK = {
    "black": (0, 0, 0),
    "blue": (86, 180, 233),
    "orange": (230, 159, 0),
    "pink": (224, 140, 190),
    "white": (255,) * 3,
}
SPECK = 3  # pixels; what is thinner than twice that is no head
MARGIN = 4  # pixels of the slice around the head


@dataclass(frozen=True)
class Panel:
    """A picture with its words.

    Attributes:
        title: above the column.
        alt: what is to be seen, for readers who cannot see it.
        uri: the PNG.
        width, height: in pixels.
    """

    title: str
    alt: str
    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class Line:
    """A mask drawn as an outline; the reference is dashed."""

    mask: np.ndarray
    colour: str
    dashed: bool = False


@dataclass(frozen=True)
class View:
    """Which part of the slices of a case is shown and how large.

    Attributes:
        box: `y0, y1, x0, x1` in pixels of the slice, the upper ones excluded.
        size: `(height, width)` of the panel in pixels, at the true aspect.
    """

    box: tuple[int, int, int, int]
    size: tuple[int, int]

    def crop(self, array: np.ndarray) -> np.ndarray:
        y0, y1, x0, x1 = self.box
        return array[y0:y1, x0:x1]

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Where the centre of a pixel of the slice lies in the panel."""
        y0, y1, x0, x1 = self.box
        return (x + 0.5 - x0) * self.size[1] / (x1 - x0), (y + 0.5 - y0) * self.size[0] / (y1 - y0)


def view_of(
    images: np.ndarray, spacing: tuple[float, float], boxes: Sequence[np.ndarray] = (), edge: int = EDGE
) -> View:
    """The part around the head in all slices of a case, the same for all its panels; specks of noise do not count.

    Args:
        images: `(z, y, x)` uint8.
        spacing: `(y, x)` mm.
        boxes: `(4,)` `x0, y0, x1, y1` each, to be seen whole.
        edge: pixels of the panel's longer side.
    """
    flat = ndimage.generate_binary_structure(2, 1)[None]
    opened = ndimage.binary_opening(images > HEAD_LEVEL, flat, iterations=SPECK)
    head: np.ndarray = np.asarray(opened.any(axis=0))
    if not head.any():
        head = np.ones_like(head)
    rows, columns = (
        [*np.flatnonzero(head.any(axis=axis)), *(place for box in boxes for place in box[first::2])]
        for axis, first in ((1, 1), (0, 0))
    )
    (y0, y1), (x0, x1) = (
        (max(int(min(side)) - MARGIN, 0), min(int(max(side)) + 1 + MARGIN, length))
        for side, length in zip((rows, columns), head.shape, strict=True)
    )
    height, width = (y1 - y0) * spacing[0], (x1 - x0) * spacing[1]
    scale = edge / max(height, width)
    return View((y0, y1, x0, x1), (max(round(height * scale), 1), max(round(width * scale), 1)))


def whole_view(shape: tuple[int, ...], edge: int = EDGE) -> View:
    """All of a picture of `(y, x)` pixels."""
    height, width = shape
    scale = edge / max(height, width)
    return View((0, height, 0, width), (max(round(height * scale), 1), max(round(width * scale), 1)))


def draw(
    title: str,
    alt: str,
    image: np.ndarray,
    view: View,
    *,
    heat: np.ndarray | None = None,
    lines: Sequence[Line] = (),
    prompt: Prompt | None = None,
) -> Panel:
    """One panel.

    Args:
        title, alt: words.
        image: `(y, x)` or, in colours, `(y, x, 3)` uint8.
        view: what is shown.
        heat: `(y, x)` in [0, 1], laid over the slice; the more, the less of the slice is seen.
        lines: outlines, `(y, x)` bool each.
        prompt: box and points in orange; background points as crosses.
    """
    shown = Image.fromarray(view.crop(image)).resize(view.size[::-1], Image.Resampling.BICUBIC)
    if heat is not None:
        return Panel(title, alt, _uri(_heated(shown, view.crop(heat), view)), view.size[1], view.size[0])
    levels, palette = _few_colours(shown)
    names = list(INK)
    for line in lines:
        outline = _outline(view.crop(line.mask), view)
        if line.dashed:
            y, x = np.indices(outline.shape)
            outline &= (x + y) // 5 % 2 == 0
        halo = ndimage.binary_dilation(outline, iterations=1)
        levels[halo] = COLOURS + names.index("black")
        levels[outline] = COLOURS + names.index(line.colour)
    picture = Image.fromarray(levels)
    picture.putpalette(palette + bytes(value for colour in INK.values() for value in colour))
    if prompt is not None:
        _draw_prompt(ImageDraw.Draw(picture), prompt, view, COLOURS + names.index("orange"))
    return Panel(title, alt, _uri(picture), view.size[1], view.size[0])


def slices_to_show(masks: dict[str, np.ndarray | None], most: int) -> list[tuple[int, str]]:
    """The slices in which the named masks are largest, from foot to head, with the reason in words.

    Args:
        masks: `(z, y, x)` bool by name, the most interesting first; None or empty ones have no say.
        most: how many slices at most.
    """
    found: dict[int, list[str]] = {}
    for name, mask in masks.items():
        if mask is not None and mask.any():
            z = int(mask.sum(axis=(1, 2)).argmax())
            if z in found or len(found) < most:
                found.setdefault(z, []).append(name)
    return [(z, "largest " + ", ".join(found[z])) for z in sorted(found)]


def _outline(mask: np.ndarray, view: View) -> np.ndarray:
    """The border of an enlarged mask, two pixels wide, inside it."""
    enlarged = Image.fromarray(mask.astype(np.uint8) * 255).resize(view.size[::-1], Image.Resampling.BILINEAR)
    inside = np.asarray(enlarged) > 127
    border: np.ndarray = inside & ~ndimage.binary_erosion(inside, iterations=2, border_value=1)
    return border


def _heated(shown: Image.Image, heat: np.ndarray, view: View) -> Image.Image:
    large = Image.fromarray(heat.astype(np.float32)).resize(view.size[::-1], Image.Resampling.BILINEAR)
    amount = np.clip(np.asarray(large), 0, 1)
    colour = matplotlib.colormaps["inferno"](0.15 + 0.85 * amount)[..., :3] * 255
    share = (0.75 * np.sqrt(amount))[..., None]
    mixed = (1 - share) * np.asarray(shown.convert("RGB")) + share * colour
    return Image.fromarray(mixed.round().astype(np.uint8)).quantize(COLOURS, dither=Image.Dither.NONE)


def _draw_prompt(pen: ImageDraw.ImageDraw, prompt: Prompt, view: View, ink: int) -> None:
    if prompt.box is not None:
        x0, y0, x1, y1 = (float(edge) for edge in prompt.box)
        pen.rectangle((*view.place(x0, y0), *view.place(x1, y1)), outline=ink, width=2)
    if prompt.points is not None and prompt.point_labels is not None:
        for (x, y), label in zip(prompt.points, prompt.point_labels, strict=True):
            px, py = view.place(float(x), float(y))
            if label == 1:
                pen.ellipse((px - 4, py - 4, px + 4, py + 4), fill=ink, outline=COLOURS)
            else:
                pen.line((px - 4, py - 4, px + 4, py + 4), fill=ink, width=2)
                pen.line((px - 4, py + 4, px + 4, py - 4), fill=ink, width=2)


def _few_colours(shown: Image.Image) -> tuple[np.ndarray, bytes]:
    """A picture as numbers `(y, x)` of `COLOURS` colours, and those: greys of a scan, a picture's own otherwise."""
    if shown.mode == "L":
        greys = np.repeat(np.linspace(0, 255, COLOURS).round().astype(np.uint8), 3)
        return (np.asarray(shown).astype(np.uint16) * (COLOURS - 1) // 255).astype(np.uint8), greys.tobytes()
    few = shown.quantize(COLOURS, dither=Image.Dither.NONE)
    palette = bytes(few.getpalette() or ())[: 3 * COLOURS]
    return np.array(few), palette.ljust(3 * COLOURS, b"\0")


def _uri(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
