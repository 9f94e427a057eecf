"""The normal head of the phantoms: outlines, tissues, ventricles, skull, clutter and look-alikes of lesions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pseudo_labeling.embedded.fields import Field, ramp

# attributes of a Head that the sequence decides, not the person
TISSUE_CONTRASTS = (
    "grey_level",
    "fluid_level",
    "basal_grey",
    "insula",
    "cerebellum",
    "brainstem",
    "mottle_amount",
    "vertex_mottle",
    "shading_amount",
    "rim_shading",
    "plexus",
    "spot_level",
    "scalp_level",
    "skin_level",
    "bone_level",
    "marrow",
    "clutter_gain",
    "eye_level",
)


@dataclass(frozen=True)
class Anatomy:
    """One rendered slice; every array is `(n, n)` float32.

    Attributes:
        signal: relative intensity (white matter = 1), coil shading included.
        bias: the coil shading alone.
        brain: 1 inside the brain's outline.
        fluid: 1 in ventricles, cisterns and fissures.
        grey: 1 in grey matter.
        depth: approximate distance from the brain's surface in head units, negative outside.
        leftover: 1 where skull stripping left something that is not brain.
        x, y: head coordinates of each pixel after the warp.
    """

    signal: np.ndarray
    bias: np.ndarray
    brain: np.ndarray
    fluid: np.ndarray
    grey: np.ndarray
    depth: np.ndarray
    leftover: np.ndarray
    x: np.ndarray
    y: np.ndarray


def _grown(level: float, start: float, stop: float) -> float:
    return float(ramp(np.float32(level), start, stop))


def _ellipse(
    x: np.ndarray, y: np.ndarray, cx: float, cy: float, rx: float, ry: float, angle: float = 0.0
) -> np.ndarray:
    """Approximate distance to the rim of an ellipse, positive inside; radii must be positive."""
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    u, v = x - np.float32(cx), y - np.float32(cy)
    rho = np.sqrt(((u * cos + v * sin) / np.float32(rx)) ** 2 + ((v * cos - u * sin) / np.float32(ry)) ** 2)
    return (1 - rho) * np.float32(min(rx, ry))


class Head:
    """One random head.

    Args:
        rng: source of randomness.
        stripped: skull and scalp removed.
        planes_per_cell: how fast textures change with the level; 0 for single slices.
    """

    def __init__(self, rng: np.random.Generator, *, stripped: bool, planes_per_cell: float = 0.0) -> None:
        self.stripped = stripped
        uniform = rng.uniform
        self.half_width = uniform(0.42, 0.7) if stripped else uniform(0.56, 0.84)
        self.half_length = min(self.half_width * uniform(1.12, 1.38), 0.98)
        self.shift = rng.normal(0, 0.04, 2)
        self.turn = rng.normal(0, np.deg2rad(5))

        def field(cells: int) -> Field:
            return Field(rng, cells, max(1, round(cells * planes_per_cell)))

        self.warp = [field(4), field(4), field(11), field(11)]
        self.warp_amount = (uniform(0.015, 0.05), uniform(0.004, 0.014))
        self.folds = field(int(rng.integers(18, 38)))
        self.fine_folds = field(int(rng.integers(34, 48)))
        self.texture = [field(int(rng.integers(8, 20))), field(int(rng.integers(40, 70)))]
        self.texture_amount = (uniform(0.0, 0.06), uniform(0.0, 0.05))
        self.mottle = field(int(rng.integers(4, 9)))
        self.mottle_amount = uniform(0.0, 0.05)
        self.vertex_mottle = uniform(0.0, 0.2)  # partial volume of gyri and fissures in the last slices
        self.cerebellum = uniform(0.88, 1.2)
        self.folia = uniform(0.0, 0.1)
        self.folia_count = uniform(30, 60)
        self.temporal = uniform(0.85, 1.2, 2)  # lobes lie close to the coil, or to air that weakens the signal
        self.brainstem = uniform(0.9, 1.2)
        self.clutter = [field(int(rng.integers(12, 20))), field(int(rng.integers(24, 44))), field(8)]
        self.shading = Field(rng, 2)
        self.shading_amount = uniform(0.0, 0.12) if stripped else uniform(0.0, 0.2)
        self.rim_shading = uniform(-0.05, 0.3)  # surface coils: the cortex under the coil is brighter
        self.thickness = field(5)

        self.grey_level = uniform(1.02, 1.22) if rng.random() < 0.7 else uniform(1.1, 1.4)
        self.grey_width = uniform(0.02, 0.06)
        self.fluid_level = uniform(0.05, 0.4)
        self.sulcus_width = uniform(0.03, 0.4) * rng.choice([0.4, 1.0])
        self.sulcus_reach = uniform(0.12, 0.4)
        self.fissure = uniform(0.005, 0.022)
        self.ventricle = uniform(0.5, 1.7)
        self.ventricle_sides = uniform(0.75, 1.25, 2)
        self.basal_grey = uniform(1.0, 1.16)
        self.cap = (uniform(0.02, 0.07), uniform(0.0, 0.45) * (rng.random() < 0.6))
        self.plexus = uniform(0.3, 1.5) * (rng.random() < 0.4)
        self.spot_level = uniform(0.15, 0.7)
        self.spots = rng.uniform(-0.6, 0.6, (int(rng.integers(0, 7)) if rng.random() < 0.35 else 0, 3))
        self.insula = uniform(0.0, 0.18)

        self.scalp_level = uniform(1.4, 3.6)
        self.scalp_width = uniform(0.03, 0.1)
        self.skin_level = uniform(0.6, 1.2)
        self.bone_level = uniform(0.03, 0.3)
        self.marrow = uniform(0.4, 1.6) * (rng.random() < 0.5)
        self.clutter_gain = uniform(0.7, 2.0)
        self.eye_level = uniform(0.05, 0.5)
        self.eye_radius = uniform(0.14, 0.19)
        self.sinus = uniform(0.08, 0.22)
        self.air_level = uniform(0.0, 0.04)
        self.leftover_level = uniform(0.0, 0.5)
        self.leftover_bright = uniform(0.2, 1.1) * (rng.random() < 0.7)
        self.cut = [uniform(0.55, 1.1) if rng.random() < 0.15 else 2.0 for _ in range(2)]  # field of view ends

    def slice(self, level: float, size: int) -> Anatomy:
        """Render the axial slice at `level` with `size` x `size` pixels."""
        x, y = self._coordinates(level, size)
        soft = np.float32(2.0 / size / self.half_width)
        depth = self._depth(level, x, y)
        brain = np.clip(depth / soft + 0.5, 0, 1)
        folds = np.abs(self.folds.at(level, size))
        fine = np.abs(self.fine_folds.at(level, size))
        outer = 1 - ramp(depth, self.sulcus_reach * 0.4, self.sulcus_reach)
        cerebrum = _grown(level, 0.2, 0.38)
        sulcus = (
            outer * (1 - ramp(folds, self.sulcus_width * 0.6, self.sulcus_width * 1.3 + 0.02)) * (0.3 + 0.7 * cerebrum)
        )
        near_fold = 1 - ramp(np.minimum(folds, fine + 0.3), 0.35, 0.75)
        grey = np.maximum(1 - ramp(depth, self.grey_width, self.grey_width * 2.2), outer * near_fold)
        fluid, ventricle = self._fluid(level, x, y, soft)
        fluid = np.maximum(fluid, sulcus * 0.85)

        tissue = 1 + (self.grey_level - 1) * grey
        deep = np.maximum(
            _ellipse(x, y, -0.22, -0.02, 0.13, 0.24, 0.35), _ellipse(x, y, 0.22, -0.02, 0.13, 0.24, -0.35)
        )
        tissue = tissue + (self.basal_grey - 1) * _grown(level, 0.38, 0.46) * (1 - _grown(level, 0.62, 0.7)) * ramp(
            deep, 0.0, 0.05
        )
        insula = np.exp(-(((np.abs(x) - 0.5) / 0.06) ** 2) - (((y + 0.05) / 0.22) ** 2))
        tissue += self.insula * insula * _grown(level, 0.36, 0.45) * (1 - _grown(level, 0.6, 0.7))
        tissue += self.texture_amount[0] * self.texture[0].at(level, size)
        tissue += self.texture_amount[1] * self.texture[1].at(level, size)
        mottle = self.mottle_amount + self.vertex_mottle * _grown(level, 0.82, 0.95)
        tissue += mottle * self.mottle.at(level, size)
        if level < 0.42:
            tissue = tissue * self._base_tissue(level, x, y)
        cap_width, cap_gain = self.cap
        if cap_gain:
            tips = 0.4 + np.float32(0.6) * ramp(np.abs(y), 0.12, 0.3)
            tissue += cap_gain * tips * np.clip(1 + ventricle / cap_width, 0, 1)
        for u, v, w in self.spots:
            near = np.float32(1.5) if abs(w * 0.8 + 0.6 - level) < 0.12 else np.float32(0)
            if near:
                radius = 0.012 + 0.03 * abs(u * v)
                tissue += self.spot_level * np.exp(-((x - u) ** 2 + (y - v) ** 2) / np.float32(radius**2))
        tissue = tissue * (1 - fluid) + self.fluid_level * fluid
        if self.plexus and 0.48 < level < 0.66:
            for side in (-1, 1):
                tissue += self.plexus * ramp(_ellipse(x, y, side * 0.3, 0.34, 0.035, 0.06), 0.0, 0.03)

        bias = 1 + np.float32(self.shading_amount) * self.shading.at(level, size)
        bias = np.clip(bias + self.rim_shading * np.clip(x * x + y * y - 0.25, 0, 1), 0.5, 1.7).astype(np.float32)
        around, leftover = self._around(level, x, y, depth, soft, size)
        signal = (tissue * brain + around * (1 - brain)) * bias
        return Anatomy(signal.astype(np.float32), bias, brain, fluid, grey, depth, leftover, x, y)

    def _base_tissue(self, level: float, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Gain of cerebellum (with folia), temporal lobes and brain stem below the cisterns."""
        behind = ramp(y, 0.12, 0.25) * (1 - ramp(np.abs(x), 0.5, 0.62))
        folia = self.folia * np.sin(self.folia_count * np.sqrt(x * x + (y - 0.1) ** 2))
        gain = 1 + behind * (self.cerebellum - 1 + folia)
        for side, lobe in zip((-1, 1), self.temporal, strict=True):
            gain += (lobe - 1) * ramp(side * x, 0.2, 0.4) * (1 - behind)
        gain += (self.brainstem - 1) * ramp(_ellipse(x, y, 0.0, 0.1, 0.18, 0.18), 0.0, 0.06)
        return 1 + (gain - 1) * (1 - _grown(level, 0.32, 0.42))

    def _coordinates(self, level: float, size: int) -> tuple[np.ndarray, np.ndarray]:
        axis = ((np.arange(size, dtype=np.float32) + 0.5) / size) * 2 - 1
        u, v = axis[None, :] - np.float32(self.shift[0]), axis[:, None] - np.float32(self.shift[1])
        cos, sin = np.float32(np.cos(self.turn)), np.float32(np.sin(self.turn))
        coarse, fine = self.warp_amount
        x = (u * cos + v * sin) / np.float32(self.half_width)
        y = (v * cos - u * sin) / np.float32(self.half_length)
        x = x + coarse * self.warp[0].at(level, size) + fine * self.warp[2].at(level, size)
        y = y + coarse * self.warp[1].at(level, size) + fine * self.warp[3].at(level, size)
        return x.astype(np.float32), y.astype(np.float32)

    def _depth(self, level: float, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Distance to the brain's surface: posterior fossa, temporal and frontal lobes merge into the cerebrum."""
        reach = 0.98 if self.stripped else 0.86
        cap = np.sqrt(max(1 - ((level - 0.5) / 0.475) ** 3, 0)) if level > 0.5 else 1.0
        parts = [(0.0, 0.0, reach * cap, reach * cap * 1.0, _grown(level, 0.27, 0.44))]
        if level < 0.5:
            parts += [
                (0.0, 0.42, 0.6, 0.43, _grown(level, 0.08, 0.22)),
                (-0.5, -0.1, 0.3, 0.38, _grown(level, 0.16, 0.3)),
                (0.5, -0.1, 0.3, 0.38, _grown(level, 0.16, 0.3)),
                (0.0, 0.08, 0.2, 0.22, _grown(level, 0.1, 0.2)),
                (0.0, -0.45, 0.5, 0.4, _grown(level, 0.25, 0.38)),
            ]
        depth = np.full(x.shape, -1.0, np.float32)
        for cx, cy, rx, ry, grown in parts:
            if rx * grown > 0.03:
                depth = np.maximum(depth, _ellipse(x, y, cx, cy, rx * grown, ry * grown))
        for sign, cut in zip((-1, 1), self.cut, strict=True):
            if cut < 1.2 and self.stripped:
                depth = np.minimum(depth, cut - sign * y)
        return depth

    def _fluid(self, level: float, x: np.ndarray, y: np.ndarray, soft: float) -> tuple[np.ndarray, np.ndarray]:
        """Share of fluid, and the distance to the lateral ventricles (positive inside)."""
        distance = np.full(x.shape, -1.0, np.float32)
        size = self.ventricle
        for side, gain in zip((-1, 1), self.ventricle_sides, strict=True):
            w = size * gain
            horns = _grown(level, 0.42, 0.5) * (1 - _grown(level, 0.62, 0.72))
            body = _grown(level, 0.56, 0.64) * (1 - _grown(level, 0.72, 0.8))
            temporal = _grown(level, 0.32, 0.37) * (1 - _grown(level, 0.44, 0.5))
            for cx, cy, rx, ry, angle, share in (
                (0.11, -0.27, 0.05, 0.15, 0.3, horns),
                (0.29, 0.36, 0.055, 0.17, -0.35, horns),
                (0.13, 0.0, 0.055, 0.42, 0.05, body),
                (0.42, 0.08, 0.03, 0.12, -0.4, temporal),
            ):
                if share > 0.2:
                    part = _ellipse(x, y, side * cx, cy, rx * w * share, ry * (0.6 + 0.4 * w) * share, -side * angle)
                    distance = np.maximum(distance, part)
        others = np.full(x.shape, -1.0, np.float32)
        third = _grown(level, 0.4, 0.46) * (1 - _grown(level, 0.54, 0.6))
        fourth = _grown(level, 0.17, 0.22) * (1 - _grown(level, 0.28, 0.34))
        cistern = _grown(level, 0.3, 0.36) * (1 - _grown(level, 0.42, 0.48))
        for cx, cy, rx, ry, share in (
            (0.0, 0.02, 0.02 * size, 0.12, third),
            (0.0, 0.22, 0.07, 0.06 * size, fourth),
            (0.0, -0.14, 0.15, 0.06 * size, cistern),
            (-0.17, 0.06, 0.025 * size, 0.14, cistern),
            (0.17, 0.06, 0.025 * size, 0.14, cistern),
            (0.0, 0.24, 0.12, 0.03 * size, cistern),
        ):
            if share > 0.2:
                others = np.maximum(others, _ellipse(x, y, cx, cy, rx * share, ry * share))
        middle = self.fissure - np.abs(x)
        if level < 0.72:  # below the corpus callosum's roof the fissure is open in front and behind only
            middle = np.where((np.abs(y) > 0.45) & (level > 0.33), middle, np.float32(-1))
        sylvian = 0.5 * self.fissure - np.abs(y + 0.06 + 0.3 * (np.abs(x) - 0.6))
        sylvian = np.where((np.abs(x) > 0.52) & (0.36 < level < 0.6), sylvian, np.float32(-1))
        joined = np.maximum(np.maximum(distance, others), np.maximum(middle, sylvian))
        return np.clip(joined / soft + 0.5, 0, 1), distance

    def _around(
        self, level: float, x: np.ndarray, y: np.ndarray, depth: np.ndarray, soft: float, size: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """What lies outside of the brain: skull, scalp, face; or what skull stripping left of them."""
        base = 1 - _grown(level, 0.3, 0.46)
        blobs, grains, patches = (f.at(level, size) for f in self.clutter)
        mixed = np.clip(0.55 + 0.55 * blobs + 0.45 * grains, 0, None) * self.clutter_gain
        mixed = np.where(grains + 0.6 * blobs > 1.1, mixed + self.scalp_level * 0.5, mixed)
        if self.stripped:
            near = ramp(depth, -0.12 * base - 0.03, -0.01) * ramp(patches, 0.0, 0.5) * max(base, 0.12)
            leftover = (near > 0.4).astype(np.float32)
            bright = np.where(grains > 0.2, self.leftover_bright * 1.6, self.leftover_level)
            return leftover * np.where(blobs > 0.2, bright, self.leftover_level * 0.6), leftover
        outline = np.sqrt(max(1 - ((level - 0.5) / 0.5) ** 3, 0)) if level > 0.5 else 1.0
        head = _ellipse(x, y, 0.0, 0.0, max(outline, 0.02), max(outline, 0.02))
        if level < 0.35:  # nose and cheeks
            head = np.maximum(head, _ellipse(x, y, 0.0, -0.92, 0.14, 0.2))
        width = self.scalp_width * np.clip(1 + 0.35 * self.thickness.at(level, size), 0.3, 2)
        inner: np.ndarray = np.full(x.shape, self.bone_level, np.float32)
        if self.marrow:
            inner = inner + self.marrow * np.exp(
                -(((head - 0.5 * (width + head + np.clip(-depth, 0, 1))) / 0.012) ** 2)
            )
        inner = inner * (1 - base) + base * mixed
        if base > 0.2:
            for side in (-1, 1):
                globe = _ellipse(x, y, side * 0.34, -0.68, self.eye_radius, self.eye_radius * 1.1)
                if 0.16 < level < 0.4:
                    fat = ramp(globe, -0.1, -0.03)
                    inner = inner * (1 - fat) + fat * np.where(globe > 0, self.eye_level, self.scalp_level * 0.8)
            air = ramp(_ellipse(x, y, 0.0, -0.62, self.sinus, 0.26), -0.02, 0.04)
            inner = inner * (1 - air) + air * (0.1 + 0.5 * np.clip(grains - 0.5, 0, 1))
        scalp = np.where(head < 0.015, self.skin_level, self.scalp_level).astype(np.float32)
        share = np.clip((width - head) / soft + 0.5, 0, 1)
        inner = inner * (1 - share) + scalp * share
        body = np.clip(head / soft + 0.5, 0, 1)
        return inner * body + self.air_level * (1 - body), np.zeros_like(depth)
