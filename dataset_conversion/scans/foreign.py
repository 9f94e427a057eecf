"""Scans in formats that are not read here, and which program turns them into NIfTI."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

_DCM2NIIX = "convert them with `dcm2niix -z y -o NIFTI_FOLDER {folder}`"
_NIB = "convert each with `nib-convert {name} NAME.nii.gz` (nibabel comes with nnU-Net)"
_ANALYZE = _NIB + " and look whether left and right are as they were, which Analyze does not store"
_BY_ENDING = {
    ".dcm": ("DICOM", _DCM2NIIX),
    ".ima": ("DICOM", _DCM2NIIX),
    ".par": ("Philips PAR/REC", _DCM2NIIX),
    ".rec": ("Philips PAR/REC", _DCM2NIIX),
    ".hdr": ("Analyze or a NIfTI pair", _ANALYZE),
    ".img": ("Analyze or a NIfTI pair", _ANALYZE),
    ".mgz": ("FreeSurfer", _NIB),
    ".mgh": ("FreeSurfer", _NIB),
    ".mnc": ("MINC", _NIB),
    ".brik": ("AFNI", "convert each with `3dAFNItoNIFTI {name}`"),
    ".head": ("AFNI", "convert each with `3dAFNItoNIFTI {name}`"),
    ".mhd": ("MetaImage in two files", "write each as one file, .mha"),
    ".nhdr": ("NRRD in two files", "write each as one file, .nrrd"),
}
_LOOKED_AT = 2000  # entries of a folder: the first files say what it is


def foreign_files(folder: Path) -> tuple[Path, str, str] | None:
    """The first scan of another format in a folder or the folders in it, what it is, and what to do; None without."""
    for file in islice(_files(folder), _LOOKED_AT):
        found = _BY_ENDING.get(file.suffix.lower())
        if found is None and _is_dicom(file):  # scanners name them by number, with or without dots
            found = _BY_ENDING[".dcm"]
        if found is not None:
            kind, cure = found
            return file, kind, cure.format(name=file.name, folder=folder)
    return None


def _files(folder: Path) -> Iterator[Path]:
    entries = _entries(folder.iterdir())
    yield from (entry for entry in entries if entry.is_file())
    for sub in (entry for entry in entries if entry.is_dir()):
        yield from (entry for entry in _entries(islice(sub.iterdir(), _LOOKED_AT)) if entry.is_file())


def _entries(found: Iterable[Path]) -> list[Path]:
    return sorted(entry for entry in found if not entry.name.startswith("."))


def _is_dicom(file: Path) -> bool:
    try:
        with file.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False
