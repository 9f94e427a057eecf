"""SAM with true prompts beside its controls: ``python -m benchmarks.sam_true_prompts --images DIR --masks DIR``.

For each box margin, mean volume Dice over the cases of: SAM, SAM shown a black image, and Otsu's threshold inside the
same box. A tight true box leaks the answer, so no number of SAM means anything without the other two beside it.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

import numpy as np
from skimage.filters import threshold_otsu

from nnunetv2_clisc.scoring.evaluation import evaluate_folders
from nnunetv2_clisc.studies.baselines.sam_prompted import sam_prompted
from pseudo_labeling.prompts import bounding_box
from pseudo_labeling.settings import PromptSettings
from pseudo_labeling.slices import axial_slices, read_scan, write_mask

MARGINS = (0, 10, 20)


def otsu_in_boxes(images: Path, masks: Path, output: Path, margin: int) -> None:
    """Write, for each mask, what Otsu's threshold calls bright inside the box around each of its slices."""
    output.mkdir()
    for file in sorted(masks.glob("*.nii.gz")):
        scan = read_scan(images / file.name)
        slices, mask = axial_slices(scan), scan.read_mask(file, "give masks of these scans")
        called = np.zeros_like(mask)
        for z in np.flatnonzero(mask.any((1, 2))):
            x0, y0, x1, y1 = bounding_box(mask[z], round(margin / scan.pixel_mm)).astype(int)
            part = slices[z, y0 : y1 + 1, x0 : x1 + 1]
            called[z, y0 : y1 + 1, x0 : x1 + 1] = part > threshold_otsu(part) if np.ptp(part) else True
        write_mask(scan, called, output / file.name)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--masks", type=Path, required=True)
    parser.add_argument("--cases", nargs="*", help="only these (default: every mask)")
    parser.add_argument("--weights", default="embedded")
    options = parser.parse_args()
    print(f"{'margin':>8}{'SAM':>8}{'blank':>8}{'Otsu':>8}")
    with tempfile.TemporaryDirectory() as folder:
        masks = Path(folder) / "masks"
        masks.mkdir()
        for file in sorted(options.masks.glob("*.nii.gz")):
            if not options.cases or file.name.removesuffix(".nii.gz") in options.cases:
                shutil.copy(file, masks)
        for margin in MARGINS:
            row = []
            for method in ("sam", "blank", "otsu"):
                output = Path(folder) / f"{method}_{margin}"
                if method == "otsu":
                    otsu_in_boxes(options.images, masks, output, margin)
                else:
                    sam_prompted(
                        options.images,
                        masks,
                        output,
                        sam_weights=options.weights,
                        prompting=PromptSettings(margin=margin),
                        blank_image=method == "blank",
                        device="cpu",
                    )
                row.append(evaluate_folders(output, masks).summary()["dsc"].mean)
            print(f"{margin:>6} mm" + "".join(f"{value:>8.3f}" for value in row), flush=True)


if __name__ == "__main__":
    main()
