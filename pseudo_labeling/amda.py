"""Adaptive masking-based data augmentation: hide what the classifier likes best (paper 2.1.2)."""

from __future__ import annotations

import numpy as np

from pseudo_labeling.settings import AmdaSettings
from pseudo_labeling.slice_labels import HEAD_LEVEL
from pseudo_labeling.slices import grey


def discriminative_region(cam: np.ndarray, roi: np.ndarray, alpha: float) -> np.ndarray:
    """The `alpha` per cent of each slice's ROI where its CAM is highest: `M = Q > T_alpha`.

    The share is taken of the ROI. Of the whole slice it would hide far more than the tumour.

    Args:
        cam: `(z, y, x)` in [0, 1].
        roi: `(z, y, x)` bool.
        alpha: per cent in [0, 100].

    Returns:
        `(z, y, x)` bool.
    """
    region = np.zeros(cam.shape, dtype=bool)
    if alpha <= 0:
        return region
    for z in np.flatnonzero(roi.any(axis=(1, 2))):
        values = cam[z].astype(np.float32)
        threshold = np.percentile(values[roi[z]], 100 - alpha)
        region[z] = roi[z] & (values >= threshold)
    return region


class AmdaAugmentation:
    """Masks part of the samples of an epoch: tumour slices at their own region, normal slices at a random one.

    A normal slice borrows the region of a random tumour slice, shifted at random onto the head, so that the shape and
    size of a hole say nothing about the class.
    """

    def __init__(self, regions: np.ndarray, labels: np.ndarray, settings: AmdaSettings) -> None:
        """Args: regions `(n, s, s)` bool, one a sample; labels `(n,)`; settings."""
        self.regions = regions
        self.labels = labels
        self.settings = settings
        self._donors = np.flatnonzero(regions.any(axis=(1, 2)))

    def __call__(self, images: np.ndarray, samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Mask a batch.

        Args:
            images: `(b, s, s)` or, of pictures, `(b, s, s, 3)` uint8.
            samples: `(b,)` indices of the samples in the training set.
            rng: source of all chance.

        Returns:
            A copy of the images.
        """
        images, bright = images.copy(), grey(images)
        for row, sample in enumerate(samples):
            if len(self._donors) == 0 or rng.random() >= self.settings.masked_fraction:
                continue
            region = self.regions[sample]
            if self.labels[sample] == 0:
                region = self._borrowed(bright[row], rng)
            images[row][region] = self._fill(bright[row])
        return images

    def _borrowed(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        region = self.regions[rng.choice(self._donors)]
        head = np.argwhere(image > HEAD_LEVEL)
        if len(head) == 0:
            return region
        centre = np.argwhere(region).mean(axis=0)
        dy, dx = (int(v) for v in np.rint(head[rng.integers(len(head))] - centre))
        return np.roll(region, (dy, dx), axis=(0, 1))

    def _fill(self, image: np.ndarray) -> int:
        if self.settings.fill == "zero":
            return 0
        head = image[image > HEAD_LEVEL]
        return int(np.median(head)) if head.size else 0
