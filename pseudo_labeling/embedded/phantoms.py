"""Procedural FLAIR head phantoms: axial slices and volumes with known lesions.

Everything is drawn from a random generator; no scan, mask or atlas is used. A head is a function of `(level, y, x)`:
`level` runs from 0 (face and neck) over the skull base (0.15-0.35), basal cisterns (0.35-0.45), lateral ventricles
(0.45-0.8) to the vertex (1.0). In the plane, head units put the scalp of the widest level near the unit circle, with
`y < 0` anterior (the face looks up). Shapes are ellipses seen through a smooth random warp; textures are smooth fields.

Ranges (uniform unless said otherwise; intensities relative to white matter = 1), chosen by looking at unlabelled FLAIR
slices, with and without skull:

- head half width 0.56-0.84 of the half frame (0.42-0.7 without skull), length/width 1.12-1.38, in-plane turn sd 5
  degrees;
- grey matter 1.02-1.4, cerebellum, temporal lobes and brain stem 0.85-1.2, cerebrospinal fluid 0.05-0.4, scalp fat
  1.4-3.6, bone 0.03-0.3, skull-base clutter 0-3;
- lesions: radius 0.08-0.5 head units (log-uniform), 1-4 lobes, contrast +0.16 to +1.2, sharp to diffuse edge,
  homogeneous, heterogeneous, graded, with dark core (necrosis, cyst, cavity) or faint;
- look-alikes in *every* slice, lesion or not: periventricular caps, small white-matter spots, choroid plexus, bright
  cortex, coil shading, bright rims left over by skull stripping;
- coil bias up to ±40 %, blur sd 0.3-1.4 px (up to 3.5 px at the vertex, where slices cut obliquely) and Rician noise
  sd 0.6-9 % at 256 px.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pseudo_labeling.embedded.anatomy import TISSUE_CONTRASTS, Head
from pseudo_labeling.embedded.fields import blur, ramp
from pseudo_labeling.embedded.lesions import Lesion

_SMALLEST_SHARE = 0.02  # of a phantom picture
_MINIMUM_AREA = 30  # pixels of a 256 x 256 slice: fewer would not be called a lesion on one slice


@dataclass(frozen=True)
class Phantom:
    """One slice and its twin: the same anatomy, blur and noise with and without the lesion.

    Attributes:
        image: `(n, n)` uint8, windowed as :func:`pseudo_labeling.slices.window_volume` does.
        twin: `(n, n)` uint8, the same without the lesion; equal to `image` when there is none.
        mask: `(n, n)` bool, the whole lesion with its core.
        level: 0 (neck) to 1 (vertex).
        stripped: whether skull and scalp were removed (air = 0).
    """

    image: np.ndarray
    twin: np.ndarray
    mask: np.ndarray
    level: float
    stripped: bool


@dataclass(frozen=True)
class _Camera:
    """How a scanner and the 8-bit window see a head; one for all slices of a case."""

    blur: float  # sd in pixels of a 256 px frame
    noise: float  # sd relative to white matter
    vertex_blur: float  # the same, in the last slices, which cut the skull obliquely
    grain: float  # sd in pixels by which the noise is correlated
    white: float  # 8-bit value of white matter

    @classmethod
    def draw(cls, rng: np.random.Generator, stripped: bool) -> _Camera:
        white = rng.uniform(95, 185) if stripped else rng.uniform(48, 135)
        noise = np.exp(rng.uniform(np.log(0.006), np.log(0.09)))
        vertex_blur = rng.uniform(0.0, 3.5) * (rng.random() < 0.5)
        return cls(rng.uniform(0.3, 1.4), noise, vertex_blur, float(rng.choice([0.0, 0.6, 0.9])), white)

    def noises(self, rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Two independent noise images in relative units: real and imaginary channel."""
        real, imaginary = rng.standard_normal((2, size, size), dtype=np.float32) * np.float32(self.noise)
        if self.grain:
            real, imaginary = (blur(n, self.grain) * (2 * self.grain * 1.2) for n in (real, imaginary))
        return real, imaginary

    def shoot(
        self, signal: np.ndarray, noises: tuple[np.ndarray, np.ndarray], inside: np.ndarray | None, level: float
    ) -> np.ndarray:
        """Relative signal to relative magnitude image; outside of `inside` (skull-stripped) it is exactly 0."""
        oblique = self.vertex_blur * float(ramp(np.float32(level), 0.8, 0.95))
        seen = blur(signal, np.hypot(self.blur, oblique) * signal.shape[0] / 256)
        seen = np.sqrt((seen + noises[0]) ** 2 + noises[1] ** 2)
        return seen if inside is None else seen * inside


@dataclass(frozen=True)
class Protocol:
    """What the scans of one data set have in common: scanner, sequence and kind of tumour; heads and lesions differ.

    A network can learn from a dozen cases of one protocol; slices for the embedded weights come from all of them.

    Attributes:
        camera: blur, noise and window.
        tissues: attributes of :class:`~pseudo_labeling.embedded.anatomy.Head` that the sequence decides.
        contrast: of the lesions against white matter.
        kind: of the lesions, without a dark core.
        radius_range: of the lesions' main lobes, in head units.
    """

    camera: _Camera
    tissues: dict[str, float]
    contrast: float
    kind: str
    radius_range: tuple[float, float] = (0.26, 0.45)

    @classmethod
    def draw(cls, rng: np.random.Generator, *, stripped: bool, noise: float | None = None) -> Protocol:
        """Draw one; its lesions are never faint.

        Args:
            rng: source of randomness.
            stripped: without skull.
            noise: sd relative to white matter, where it is not to be drawn.
        """
        head = Head(rng, stripped=stripped)
        tissues = {name: float(getattr(head, name)) for name in TISSUE_CONTRASTS}
        kind = str(rng.choice(("homogeneous", "heterogeneous", "graded")))
        camera = _Camera.draw(rng, stripped)
        if noise is not None:
            camera = replace(camera, noise=noise)
        return cls(camera, tissues, float(rng.uniform(0.5, 1.0)), kind)

    def dress(self, head: Head, rng: np.random.Generator) -> Head:
        """Give a head the tissue contrasts of this protocol, within some per cent."""
        for name, value in self.tissues.items():
            setattr(head, name, value * float(np.exp(rng.normal(0, 0.03))))
        return head


def phantom_slice(
    rng: np.random.Generator,
    *,
    size: int = 256,
    lesion: bool = True,
    stripped: bool | None = None,
    kind: str | None = None,
) -> Phantom:
    """Draw one slice.

    Args:
        rng: source of randomness; the same state gives the same slice.
        size: pixels along each edge.
        lesion: put a lesion in (then `mask` is not empty).
        stripped: without skull; drawn (35 %) when not given.
        kind: of the lesion, which is then neither small nor of little contrast; drawn when not given.
    """
    stripped = bool(rng.random() < 0.35) if stripped is None else stripped
    while True:
        level = float(rng.uniform(0.17, 0.95) if lesion else rng.uniform(0.1 if stripped else 0.0, 1.0))
        head = Head(rng, stripped=stripped)
        anatomy = head.slice(level, size)
        camera = _Camera.draw(rng, stripped)
        noises = camera.noises(rng, size)
        inside = anatomy.brain > 0.5 if stripped else None
        if inside is not None:
            inside |= anatomy.leftover > 0.5
        twin = _window(camera.shoot(anatomy.signal, noises, inside, level), camera)
        if not lesion:
            return Phantom(twin, twin, np.zeros((size, size), bool), level, stripped)
        if kind is None:
            growth = Lesion.in_slice(rng, anatomy, level)
        else:
            growth = Lesion.in_slice(rng, anatomy, level, centred=True, radius_range=(0.25, 0.45), kind=kind)
            growth.contrast = max(growth.contrast, 0.6)
        signal, mask = growth.paint(anatomy, level)
        if mask.sum() >= _MINIMUM_AREA * (size / 256) ** 2:
            return Phantom(_window(camera.shoot(signal, noises, inside, level), camera), twin, mask, level, stripped)


def phantom_picture(rng: np.random.Generator, *, size: int = 160, sign: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Draw one picture in colours: every one shows a lesion, and the label says of which kind it is.

    As in dermoscopy, where all pictures show a mole and a few of them a melanoma; what is drawn is a head.

    Args:
        rng: source of randomness.
        size: pixels along each edge.
        sign: whether the lesion has a dark hole, which is what the label is about.

    Returns:
        picture `(n, n, 3)` uint8, and mask `(n, n)` bool of the whole lesion with its hole.
    """
    while True:
        phantom = phantom_slice(rng, size=size, stripped=False, kind="cavity" if sign else "homogeneous")
        if phantom.mask.mean() >= _SMALLEST_SHARE:
            break
    grey = phantom.image.astype(np.float32) / 255
    # dark red over skin to pale: light of all colours gets brighter with the grey value, red first and blue last
    exponents = np.array([0.75, 1.05, 1.35]) * np.exp(rng.normal(0, 0.08, 3))
    picture = np.rint(255 * grey[..., None] ** exponents).astype(np.uint8)
    return picture, phantom.mask


def phantom_volume(
    rng: np.random.Generator,
    shape: tuple[int, int, int] = (24, 128, 128),
    *,
    lesion: bool = True,
    stripped: bool | None = None,
    protocol: Protocol | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one case whose slices belong together.

    Args:
        rng: source of randomness.
        shape: `(z, y, x)`, z from neck to vertex; y and x may differ, the head is drawn in the larger square.
        lesion: put one lesion of several slices in.
        stripped: without skull; drawn (35 %) when not given.
        protocol: of the data set the case belongs to; drawn with the case when not given.

    Returns:
        volume `(z, y, x)` float32 in arbitrary scanner units, and mask `(z, y, x)` bool.
    """
    stripped = bool(rng.random() < 0.35) if stripped is None else stripped
    depth, height, width = shape
    size = max(height, width)
    top, left = (size - height) // 2, (size - width) // 2
    crop = np.s_[top : top + height, left : left + width]
    while True:
        head = Head(rng, stripped=stripped, planes_per_cell=0.6)
        camera = _Camera.draw(rng, stripped)
        if protocol is not None:
            head, camera = protocol.dress(head, rng), protocol.camera
        levels = np.linspace(rng.uniform(0.08, 0.2), rng.uniform(0.9, 0.99), depth)
        growth = None
        if lesion:
            level = float(rng.uniform(0.42, 0.78))
            radii = protocol.radius_range if protocol is not None else (0.2, 0.45)
            growth = Lesion.in_slice(
                rng, head.slice(level, size), level, centred=True, radius_range=radii, planes_per_cell=0.6
            )
            if protocol is not None:
                growth.kind, growth.contrast = protocol.kind, protocol.contrast * float(np.exp(rng.normal(0, 0.15)))
        volume, masks = [], []
        for level in levels:
            anatomy = head.slice(float(level), size)
            signal, mask = anatomy.signal, np.zeros((size, size), bool)
            if growth is not None:
                signal, mask = growth.paint(anatomy, float(level))
            inside = (anatomy.brain > 0.5) | (anatomy.leftover > 0.5) if stripped else None
            volume.append(camera.shoot(signal, camera.noises(rng, size), inside, float(level))[crop])
            masks.append(mask[crop])
        stack = np.stack(masks)
        if not lesion or stack.any((1, 2)).sum() >= max(2, round(0.15 * depth)):
            return (np.stack(volume) * np.float32(rng.uniform(150, 600))).astype(np.float32), stack


def _window(seen: np.ndarray, camera: _Camera) -> np.ndarray:
    return np.clip(np.rint(seen * camera.white), 0, 255).astype(np.uint8)
