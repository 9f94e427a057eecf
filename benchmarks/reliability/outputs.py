"""All files of a chain: which of them cannot be read, what they hold, and who wrote them."""

from __future__ import annotations

import csv
import hashlib
import json
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import SimpleITK as sitk
import torch
from PIL import Image

from dataset_conversion.files import PARTIAL
from dataset_conversion.scans.integrity import check_complete

# of nnU-Net itself, below nnUNet_results; all else there is written by our trainers and commands
THEIRS_IN_RESULTS = ("training_log", "progress.png", "debug.json", "dataset.json", "plans.json", "dataset_fingerprint")
# tell of the run and not of its result
LOGS = ("training_log", "progress.png", "debug.json", "training_curve")


def files_below(root: Path) -> Iterator[Path]:
    """Every file, links to files included."""
    return (path for path in sorted(root.rglob("*")) if path.is_file() or path.is_symlink())


def is_temporary(path: Path, root: Path) -> bool:
    """Whether a name says that the file, or a folder it is in, is not finished."""
    return any(part.startswith((PARTIAL, ".")) or part.endswith(".tmp") for part in path.relative_to(root).parts)


def is_ours(path: Path, root: Path) -> bool:
    """Whether our code wrote it, and not stock nnU-Net's preprocessing, prediction or logging."""
    parts = path.relative_to(root).parts
    if parts[0] == "nnUNet_preprocessed":
        return path.name == "splits_final.json"
    if parts[0] == "nnUNet_results":
        return "validation" not in parts and not path.name.startswith(THEIRS_IN_RESULTS)
    return parts[0] != "predictions"


class Reader:
    """Reads whatever a chain writes; what has not changed is not read again."""

    def __init__(self) -> None:
        self._seen: dict[Path, tuple[tuple[int, int], str | None, str]] = {}

    def fault(self, path: Path) -> str | None:
        """Why a file cannot be read; None if it can."""
        return self._look(path)[0]

    def digest(self, path: Path) -> str:
        """SHA-256 of what the file means: of tensors and arrays where the file also holds times and such."""
        return self._look(path)[1]

    def _look(self, path: Path) -> tuple[str | None, str]:
        try:
            status = path.stat()
        except OSError as error:
            return f"{type(error).__name__}: a link to nothing", ""
        stamp = (status.st_mtime_ns, status.st_size)
        if path not in self._seen or self._seen[path][0] != stamp:
            try:
                self._seen[path] = (stamp, None, _digest(read_whole(path)))
            except Exception as error:  # whatever a parser throws at a damaged file
                self._seen[path] = (stamp, f"{type(error).__name__}: {' '.join(str(error).split())[:150]}", "")
        return self._seen[path][1:]


def read_whole(path: Path) -> Any:
    """The content of a file, read to its end; raises where it is cut or damaged."""
    name = path.name
    if name.endswith((".nii.gz", ".nii", ".mha")):
        check_complete(path)
        sitk.ReadImage(str(path))
        return path.read_bytes()
    if name.endswith((".pth", ".pt")):
        content = torch.load(path, map_location="cpu", weights_only=True)
        return content.get("network_weights", content) if isinstance(content, dict) else content
    if name.endswith(".json"):
        return json.loads(path.read_text(encoding="utf-8"))
    if name.endswith(".npz"):
        if zipfile.ZipFile(path).testzip() is not None:
            raise ValueError("a damaged archive")
        with np.load(path) as archive:
            return {key: archive[key] for key in archive.files}
    if name.endswith(".b2nd"):
        return np.asarray(blosc2.open(str(path), mode="r")[:])
    if name.endswith(".pkl"):
        return pickle.loads(path.read_bytes())  # written by this chain
    if name.endswith(".csv"):
        rows = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))
        if not rows or any(len(row) != len(rows[0]) for row in rows):
            raise ValueError("a row of another length than the header")
        return rows
    if name.endswith(".png"):
        with Image.open(path) as picture:
            picture.load()
    return path.read_bytes()


def _digest(content: Any) -> str:
    digest = hashlib.sha256()
    _feed(digest, content)
    return digest.hexdigest()


def _feed(digest: Any, content: Any) -> None:
    if isinstance(content, torch.Tensor):
        _feed(digest, content.detach().contiguous().view(-1).numpy())
    elif isinstance(content, np.ndarray):
        digest.update(f"{content.dtype}{content.shape}".encode())
        digest.update(np.ascontiguousarray(content).tobytes())
    elif isinstance(content, dict):
        for key in sorted(content, key=str):
            digest.update(str(key).encode())
            _feed(digest, content[key])
    elif isinstance(content, (list, tuple)):
        digest.update(f"[{len(content)}".encode())
        for item in content:
            _feed(digest, item)
    elif isinstance(content, bytes):
        digest.update(content)
    else:
        digest.update(repr(content).encode())


def contents(root: Path, reader: Reader) -> dict[str, str]:
    """What all files of a chain hold, by their path below its folder; logs are left out."""
    return {
        str(path.relative_to(root)): reader.digest(path) for path in files_below(root) if not path.name.startswith(LOGS)
    }
