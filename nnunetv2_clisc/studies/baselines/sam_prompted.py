"""SAM prompted from given masks: the paper's row *SAM with true prompts*, and the way to test any SAM weights."""

from __future__ import annotations

import dataclasses
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from dataset_conversion.errors import UserError
from dataset_conversion.files import check_output, remove_partial, write_json
from dataset_conversion.scans.volumes import list_volumes, read_image
from nnunetv2_clisc.environment import usable_device
from nnunetv2_clisc.scoring.masks import image_of, read_mask, turned_to
from nnunetv2_clisc.studies.baselines.folder import refuse_strangers
from pseudo_labeling.prompts import prompts_from_roi
from pseudo_labeling.run.failures import CaseFailures
from pseudo_labeling.run.workspace import ENDING
from pseudo_labeling.sam.segmenter import SamSegmenter
from pseudo_labeling.settings import PromptSettings
from pseudo_labeling.slices import axial_slices, read_scan, write_mask
from pseudo_labeling.weights.files import identify, paper_available
from pseudo_labeling.weights.models import load_sam

SUMMARY = "sam_prompted.json"


def sam_prompted(
    images: Path,
    prompts_from: Path,
    output: Path,
    *,
    sam_weights: str | None = None,
    prompting: PromptSettings = PromptSettings(),
    blank_image: bool = False,
    device: str | None = None,
) -> list[Path]:
    """Prompt SAM once in every slice where a mask is not empty, and write what it answers.

    Nothing else of the pipeline takes part: one pass, no clean-up, no CAM. With `blank_image` SAM sees a black slice,
    so the difference to the true slice is what it owes to the image rather than to the shape of the prompt.

    Args:
        images: folder of scans, `CASE.nii.gz` or `CASE_0000.nii.gz` (or another format that `convert folder` reads).
        prompts_from: folder of masks on the scans' grids; scans without a mask are left out.
        output: folder that gets `CASE.nii.gz` in the scans' geometry, and `sam_prompted.json` with the settings, whose
            entry `complete` says whether all masks are there.
        sam_weights: `embedded`, `paper`, a known name or a file; by default `paper` where present, else `embedded`.
        prompting: kind of prompts, kind of points, margin in mm.
        device: `cpu` or `cuda`.

    Returns:
        The files written, one a case.

    Raises:
        UserError: whatever the user can mend, in one line; of cases that fail only
            after the others are done.
    """
    scans, masks = list_volumes(images), list_volumes(prompts_from)
    if unknown := sorted(masks.keys() - scans.keys()):
        raise UserError(
            f"--prompts-from {masks[unknown[0]]}: {images} has no scan of that name; give masks of its scans"
        )
    check_output(output, {"--images": images, "--prompts-from": prompts_from})
    if not (output / SUMMARY).is_file():
        refuse_strangers(output)
    spec = sam_weights or ("paper" if paper_available() else "embedded")
    where = usable_device(device)
    record = identify("sam", spec)
    segmenter = SamSegmenter(load_sam(spec, torch.device(where)).model, device=where)
    facts = {"prompts": dataclasses.asdict(prompting), "blank_image": blank_image, "sam": dataclasses.asdict(record)}
    summary = output / SUMMARY
    remove_partial(output)  # of a run that was killed
    write_json(summary, {"complete": False, **facts})
    written, failures = [], CaseFailures()
    for case, mask_file in tqdm(sorted(masks.items()), desc="SAM", unit="case"):
        with failures.of(case):
            target = output / f"{case}{ENDING}"
            target.unlink(missing_ok=True)  # a case that fails now must not keep the mask of another run
            given = turned_to(read_image(scans[case]), scans[case], read_image(mask_file), mask_file)
            given = image_of(read_mask(given, mask_file, "any").voxels, given)
            scan = read_scan(scans[case])
            slices = axial_slices(scan, name=case)
            prompts = prompts_from_roi(scan.squares(scan.stack_from_image(given)), slices, prompting, scan.pixel_mm)
            shown = np.zeros_like(slices) if blank_image else slices
            write_mask(scan, segmenter.masks(shown, prompts), target)
            written.append(target)
    failures.check("sam_prompted", len(masks))
    packages = ("nnunetv2-clisc", "torch", "segment-anything")
    versions = {name: version(name) for name in packages}
    write_json(summary, {"complete": True, **facts, "cases": len(written), "versions": versions})
    return written
