"""Damaged scans, masks and predictions; another reader, nibabel, tells what is right."""

from __future__ import annotations

import gzip
import os
import shutil
import struct
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK as sitk

from benchmarks.reliability import mutations
from benchmarks.reliability.damage import Damaged, Wrong
from benchmarks.reliability.mutations import Rng, choice
from dataset_conversion.sources.folder import convert_folder
from nnunetv2_clisc.scoring.evaluation import evaluate_folders
from pseudo_labeling.slices import read_scan

SHAPE = (6, 20, 24)  # (z, y, x) voxels
SPACING = (1.5, 1.25, 4.0)  # x, y, z in mm
ENDINGS = (".nii.gz", ".nii.gz", ".nii", ".mha", ".nrrd")
TOLERANCE = 1e-3


def scan_array(rng: Rng) -> np.ndarray:
    """A small head with a bright lesion, `(z, y, x)` float32."""
    z, y, x = np.indices(SHAPE)
    head = ((y - 10) / 9) ** 2 + ((x - 12) / 10) ** 2 < 1
    lesion = ((y - 8) / 3) ** 2 + ((x - 9) / 3) ** 2 + ((z - 3) / 2) ** 2 < 1
    array: np.ndarray = (300 * head + 300 * (lesion & head) + rng.normal(0, 10, SHAPE)).astype(np.float32)
    return array


def mask_array(shift: int = 0) -> np.ndarray:
    """A block of ones."""
    mask = np.zeros(SHAPE, np.uint8)
    mask[2:5, 5:12, 6 + shift : 14 + shift] = 1
    return mask


def write(path: Path, array: np.ndarray) -> Path:
    """Write `(z, y, x)` on the grid of all test images."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING)
    image.SetOrigin((-14.0, 20.5, -3.0))
    image.SetDirection((-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0))
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path), useCompression=True)
    return path


def damage_image(rng: Rng, path: Path, array: np.ndarray) -> str:
    """Write an image and damage its file; returns what was done."""
    write(path, array)
    data = path.read_bytes()
    nifti = path.name.endswith((".nii", ".nii.gz"))
    note, data = (mutations.damaged_nifti if nifti else mutations.damaged_bytes)(rng, data)
    path.write_bytes(data)
    return f"{path.suffix}: {note}"


def scan(rng: Rng, folder: Path) -> Damaged:
    """A scan through `convert`, and what that wrote through what `pseudo_label` reads it with."""
    dtype = choice(rng, (np.float32, np.int16, np.uint8))
    path = folder / "images" / f"bad{choice(rng, ENDINGS)}"
    what = damage_image(rng, path, scan_array(rng).clip(0, 255).astype(dtype))
    write(folder / "images" / "good.nii.gz", scan_array(rng))
    split = folder / "split.json"
    split.write_text('{"train": ["bad"], "val": ["good"]}')

    def read() -> str:
        raw = nnunet_folders(folder)
        try:
            convert_folder(path.parent, dataset_id=501, name="F", split=split)
        except Exception:
            if left := sorted(str(p.relative_to(raw)) for p in raw.rglob("*") if "Dataset501" in str(p)):
                raise Wrong(f"refused, but left {left[:3]}") from None
            raise
        made = raw / "Dataset501_F" / "imagesTr" / "bad_0000.nii.gz"
        try:
            found = read_scan(made)
        except Exception as error:
            raise Wrong(f"convert accepts what pseudo_label refuses: {type(error).__name__}: {error}") from error
        if not np.isfinite(found.volume).all():
            raise Wrong("voxels that are not finite")
        compare_images(path, sitk.ReadImage(str(made)))
        return "converted"

    command = ["convert", "folder", "--images", str(path.parent), "--split", str(split), "-d", "501", "-n", "F"]
    return Damaged(what, path, read, command)


def mask(rng: Rng, folder: Path) -> Damaged:
    """The mask of a test case through `convert`."""
    path = folder / "labels" / f"t{choice(rng, ENDINGS)}"
    values = choice(rng, (mask_array(), 4 * mask_array(), 255 * mask_array().astype(np.int16)))
    what = damage_image(rng, path, values)
    for name in ("a", "b", "t"):
        write(folder / "images" / f"{name}.nii.gz", scan_array(rng))
    split = folder / "split.json"
    split.write_text('{"train": ["a"], "val": ["b"], "test": ["t"]}')

    def read() -> str:
        raw = nnunet_folders(folder)
        convert_folder(folder / "images", dataset_id=501, name="F", labels=path.parent, split=split)
        made = sitk.ReadImage(str(raw / "Dataset501_F" / "labelsTs" / "t.nii.gz"))
        voxels = sitk.GetArrayFromImage(made)
        if not set(np.unique(voxels)) <= {0, 1} or made.GetSize() != SHAPE[::-1]:
            raise Wrong("not a mask of 0 and 1 on the scan's grid")
        if path.name.endswith((".nii", ".nii.gz")):
            theirs = by_nibabel(path)
            if theirs is not None and not np.array_equal(voxels, np.rint(theirs[0]) > 0):
                raise Wrong("another mask than nibabel reads")
        return "converted"

    command = ["convert", "folder", "--images", str(folder / "images"), "--labels", str(path.parent), "--split",
               str(split), "-d", "501", "-n", "F"]  # fmt: skip
    return Damaged(what, path, read, command)


def prediction(rng: Rng, folder: Path) -> Damaged:
    """A prediction, or now and then the reference, through `evaluate`."""
    bad, good = ("pred", "gt") if rng.random() < 0.8 else ("gt", "pred")
    ending = choice(rng, ENDINGS)
    path = folder / bad / f"case{ending}"
    what = f"{bad}, {damage_image(rng, path, mask_array(1))}"
    write(folder / good / "case.nii.gz", mask_array())

    def read() -> str:
        found = evaluate_folders(folder / "pred", folder / "gt", threads=1).cases["case"]
        theirs = by_nibabel(path) if path.name.endswith((".nii", ".nii.gz")) else None
        voxels = theirs[0] if theirs is not None else sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        first, second = np.rint(voxels) != 0, mask_array() > 0
        total = int(first.sum() + second.sum())
        dice = 2 * int((first & second).sum()) / total if total else 1.0
        if not abs(found["dsc"] - dice) < 1e-6:
            raise Wrong(f"DSC {found['dsc']}, but the files say {dice}")
        return "scored"

    return Damaged(what, path, read, ["evaluate", "--pred", str(folder / "pred"), "--gt", str(folder / "gt")])


def nnunet_folders(folder: Path) -> Path:
    """Fresh nnU-Net folders in the environment; returns `nnUNet_raw`."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir()
        os.environ[name] = str(folder / name)
    return folder / "nnUNet_raw"


def by_nibabel(path: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """Voxels `(z, y, x)` and affine as another reader sees them; None where it cannot, or reads no 3D volume."""
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        offset, slope = struct.unpack_from("<2f", data, 108)
        if not 1e-9 < abs(slope) < float("inf"):  # ITK takes such a slope for none, nibabel only 0 itself
            slope = 1.0
        # the voxels of a file in one piece begin behind header and extension flag, whatever is written there
        data = data[:108] + struct.pack("<2f", max(offset, 352.0), slope) + data[116:]
        image = nibabel.Nifti1Image.from_bytes(data)
        voxels = np.asarray(image.dataobj, dtype=np.float64)
        while voxels.ndim > 3 and voxels.shape[-1] == 1:
            voxels = voxels[..., 0]
        if voxels.ndim != 3:
            return None
        coded = int(image.header["qform_code"]) > 0 or int(image.header["sform_code"]) > 0
        affine = np.asarray(image.affine) if coded else np.full((4, 4), np.nan)
        units = image.header.get_xyzt_units()[0]
        affine[:3] *= {"meter": 1000.0, "micron": 0.001}.get(units, 1.0)
        return voxels.transpose(), affine
    except Exception:  # the oracle is no help with this file
        return None


def compare_images(path: Path, found: sitk.Image) -> None:
    """Raise :class:`Wrong` unless an image has the voxels and the place that its source says."""
    voxels = sitk.GetArrayFromImage(found).astype(np.float64)
    if not path.name.endswith((".nii", ".nii.gz")):
        theirs: np.ndarray = sitk.GetArrayFromImage(sitk.ReadImage(str(path))).astype(np.float64)
        if not np.array_equal(voxels, theirs):
            raise Wrong("other voxels than in the source")
        return
    other = by_nibabel(path)
    if other is None:
        return
    if voxels.shape != other[0].shape:
        raise Wrong(f"shape {voxels.shape}, nibabel reads {other[0].shape}")
    if not np.allclose(voxels, other[0], rtol=1e-4, atol=1e-3):
        raise Wrong("other voxels than nibabel reads")
    if np.isfinite(other[1]).all():
        corners = [(0, 0, 0), tuple(size - 1 for size in found.GetSize())]
        for corner in corners:
            ours = np.array(found.TransformIndexToPhysicalPoint(corner)) * (-1, -1, 1)
            theirs = (other[1] @ (*corner, 1.0))[:3]
            if not np.allclose(ours, theirs, atol=0.1, rtol=TOLERANCE):
                raise Wrong(f"voxel {corner} lies at {ours.round(2)}, nibabel says {theirs.round(2)} (RAS, mm)")
