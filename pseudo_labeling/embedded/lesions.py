"""Lesions of the phantoms: irregular, of varied contrast, texture and edge, some with a dark core."""

from __future__ import annotations

import numpy as np

from pseudo_labeling.embedded.anatomy import Anatomy
from pseudo_labeling.embedded.fields import Field, ramp

_LEVELS_PER_HEAD_UNIT = 0.62  # a head is about as high from neck to vertex as 1.6 of its half widths
_KINDS = ("homogeneous", "heterogeneous", "graded", "core", "cavity", "faint")
_KIND_SHARES = (0.2, 0.26, 0.14, 0.16, 0.12, 0.12)


class Lesion:
    """One growth of 1-4 lobes around a centre.

    Args:
        rng: source of randomness.
        centre: head coordinates `x, y` and level.
        radius: of the main lobe, in head units.
        planes_per_cell: how fast its texture changes with the level; 0 for single slices.
        kind: one of those below; drawn when not given.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        centre: tuple[float, float, float],
        radius: float,
        planes_per_cell: float = 0.0,
        kind: str | None = None,
    ) -> None:
        uniform = rng.uniform
        self.kind = str(rng.choice(_KINDS, p=_KIND_SHARES)) if kind is None else kind
        if radius < 0.16 and self.kind in ("core", "cavity"):
            self.kind = "heterogeneous"  # small rings would look like spots with a hole
        self.lobes = [(*centre, radius, uniform(0.6, 1.0), uniform(0, np.pi), uniform(0.75, 1.2))]
        for _ in range(int(rng.choice(4, p=(0.45, 0.3, 0.15, 0.1)))):
            angle, away, smaller = uniform(0, 2 * np.pi), radius * uniform(0.5, 1.3), uniform(0.35, 0.9)
            place = (centre[0] + away * np.cos(angle), centre[1] + away * np.sin(angle))
            rise = centre[2] + rng.normal(0, 0.3) * radius * _LEVELS_PER_HEAD_UNIT
            self.lobes.append(
                (*place, rise, radius * smaller, uniform(0.5, 1.0), uniform(0, np.pi), uniform(0.75, 1.2))
            )

        def field(per_radius: float) -> Field:
            cells = int(np.clip(per_radius / radius, 3, 60))
            return Field(rng, cells, max(1, round(cells * planes_per_cell)))

        self.outline = [field(1.3), field(3.5)]
        self.outline_amount = (uniform(0.08, 0.5), uniform(0.02, 0.22))
        self.inside = [field(2.0), field(6.0)]
        self.inside_amount = (uniform(0.1, 0.4), uniform(0.05, 0.25))
        self.edge = float(np.exp(uniform(np.log(0.03), np.log(0.4))))
        self.spares_grey = uniform(0.0, 0.5) * (rng.random() < 0.4)
        self.contrast = (
            uniform(0.16, 0.3) if self.kind == "faint" else float(np.exp(uniform(np.log(0.22), np.log(1.2))))
        )
        self.keeps_texture = uniform(0.1, 0.8)
        self.core_start = uniform(0.25, 0.55)
        self.core_level = uniform(0.05, 0.45) if self.kind == "cavity" else uniform(0.5, 1.15)

    @classmethod
    def in_slice(
        cls,
        rng: np.random.Generator,
        anatomy: Anatomy,
        level: float,
        *,
        centred: bool = False,
        radius_range: tuple[float, float] = (0.08, 0.5),
        planes_per_cell: float = 0.0,
        kind: str | None = None,
    ) -> Lesion:
        """A lesion that reaches the given slice, with its middle there when `centred`."""
        radius = float(np.exp(rng.uniform(*np.log(radius_range))))
        places = np.flatnonzero((anatomy.depth > min(0.03 + 0.3 * radius, 0.08)) & (anatomy.fluid < 0.5))
        if not len(places):
            places = np.array([anatomy.depth.argmax()])
        place = rng.choice(places)
        rise = 0.0 if centred else rng.uniform(-0.75, 0.75) * radius * _LEVELS_PER_HEAD_UNIT
        centre = (float(anatomy.x.flat[place]), float(anatomy.y.flat[place]), level + rise)
        return cls(rng, centre, radius, planes_per_cell, kind)

    def paint(self, anatomy: Anatomy, level: float) -> tuple[np.ndarray, np.ndarray]:
        """The slice with the lesion in it.

        Returns:
            signal `(n, n)` float32, and mask `(n, n)` bool of the whole lesion.
        """
        size = anatomy.signal.shape[0]
        body = np.full(anatomy.signal.shape, -1.0, np.float32)
        for cx, cy, rise, radius, aspect, angle, flat in self.lobes:
            up = (level - rise) / (radius * _LEVELS_PER_HEAD_UNIT * flat)
            if abs(up) > 1.6:
                continue
            cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
            u, v = anatomy.x - np.float32(cx), anatomy.y - np.float32(cy)
            along, across = (u * cos + v * sin) / np.float32(radius), (v * cos - u * sin) / np.float32(radius * aspect)
            body = np.maximum(body, 1 - np.sqrt(along**2 + across**2 + np.float32(up**2)))
        if body.max() <= -0.9:
            return anatomy.signal, np.zeros(body.shape, bool)
        near = ramp(body, -0.8, -0.3)  # no islands far away from the lobes
        wild = self.outline_amount[0] * self.outline[0].at(level, size) + self.outline_amount[1] * self.outline[1].at(
            level, size
        )
        body = body + wild * near - self.spares_grey * anatomy.grey
        room = anatomy.brain * (1 - ramp(anatomy.fluid, 0.75, 0.95))
        mask = (body > 0) & (room > 0.5)
        weight = np.clip(body / np.float32(2 * self.edge) + 0.5, 0, 1) * room

        inside = self.inside_amount[0] * self.inside[0].at(level, size) + self.inside_amount[1] * self.inside[1].at(
            level, size
        )
        gain = np.float32(self.contrast)
        if self.kind in ("heterogeneous", "core", "cavity"):
            gain = np.clip(self.contrast * (1 + inside), 0.1, 1.6)
        elif self.kind == "graded":
            gain = self.contrast * (0.45 + 0.9 * np.clip(body, 0, 1))
        plain = 1 + (anatomy.signal / anatomy.bias - 1) * self.keeps_texture
        plain = np.maximum(plain, 0.75)  # oedema fills the sulci it covers
        lesion = plain + gain
        if self.kind in ("core", "cavity"):
            core = ramp(body + 0.15 * inside, self.core_start, self.core_start + 0.12)
            lesion = lesion * (1 - core) + self.core_level * (1 + 0.3 * inside) * core
        signal = anatomy.signal * (1 - weight) + lesion * anatomy.bias * weight
        return signal.astype(np.float32), mask
