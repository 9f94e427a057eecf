"""Figures as the public code saves them: cut to their content, which makes matplotlib draw them twice."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
from pytorch_grad_cam.utils.image import show_cam_on_image

from pseudo_labeling.prompts import Prompt

matplotlib.use("Agg")


def save_mask_figure(image: np.ndarray, mask: np.ndarray, prompt: Prompt, path: Path) -> None:
    """Slice, mask and prompts on 10 x 10 inches, as a JPEG."""
    from matplotlib import pyplot

    pyplot.figure(figsize=(10, 10))
    pyplot.imshow(image, cmap="gray")
    pyplot.imshow(mask[..., None] * np.array([0.1, 0.6, 1.0, 0.6]))
    if prompt.points is not None:
        pyplot.scatter(*prompt.points.T, marker="*", s=375)
    if prompt.box is not None:
        x0, y0, x1, y1 = prompt.box
        pyplot.gca().add_patch(pyplot.Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False))
    pyplot.axis("off")
    pyplot.savefig(path.with_suffix(".jpg"), bbox_inches="tight", pad_inches=0)
    pyplot.close()


def save_cam_figure(image: np.ndarray, cam: np.ndarray, path: Path) -> None:
    """A map over its slice, and the slice, beside each other on 10 x 5 inches, as a PNG.

    The public code draws the ground truth over the second; there is none here.
    """
    from matplotlib import pyplot

    grey = np.repeat((image.astype(np.float32) / 255)[..., None], 3, axis=2)
    figure = pyplot.figure(figsize=(10, 5), frameon=False)
    for number, picture in enumerate((show_cam_on_image(grey, cam, use_rgb=True), grey), start=1):
        axes = figure.add_subplot(1, 2, number)
        axes.axis("off")
        axes.imshow(picture)
    figure.subplots_adjust(hspace=0, wspace=0)
    figure.savefig(path.with_suffix(".png"), bbox_inches="tight", pad_inches=0)
    pyplot.close(figure)
