"""What is on disk: the working folder of a dataset, and which case has been through which stage with which settings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dataset_conversion.files import read_json, sha256_of, write_bytes, write_json
from pseudo_labeling.errors import PseudoLabelError

ENDING = ".nii.gz"
CHANNEL = f"_0000{ENDING}"


def key_of(*parts: Any) -> str:
    """A short key of everything a result depends on; equal keys mean the result need not be made again."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


class Workspace:
    """The folder `clisc` of an nnU-Net raw dataset, with one subfolder a stage.

    A finished piece of work is a small JSON record with the key of all it depends on and the SHA-256 of the files it
    made. The record is written last, so a kill leaves work that is either recorded and whole, or done again.
    """

    def __init__(self, dataset: Path) -> None:
        self.dataset = dataset
        self.root = dataset / "clisc"
        self.images_dir = dataset / "imagesTr"
        self.labels_dir = dataset / "labelsTr"

    def cases(self) -> list[str]:
        """Names of the cases in `imagesTr`, sorted.

        Raises:
            PseudoLabelError: no images.
        """
        found = sorted(p.name[: -len(CHANNEL)] for p in self.images_dir.glob(f"*{CHANNEL}"))
        if not found:
            raise PseudoLabelError(f"{self.images_dir}: no files *{CHANNEL}; make the dataset with `convert` first")
        return found

    @property
    def dataset_json(self) -> Path:
        """nnU-Net's description of the dataset; its entry `clisc` says that the labels are complete."""
        return self.dataset / "dataset.json"

    def image(self, case: str) -> Path:
        """The scan of a case."""
        return self.images_dir / f"{case}{CHANNEL}"

    def label(self, case: str) -> Path:
        """The pseudo-label of a case."""
        return self.labels_dir / f"{case}{ENDING}"

    @property
    def _marker(self) -> Path:
        return self.root / "labels_are_pseudo_labels"

    @property
    def holds_pseudo_labels(self) -> bool:
        """Whether the labels are ours, complete or not."""
        return self._marker.exists()

    @property
    def complete(self) -> bool:
        """Whether the last run was finished and no label has been touched by a run since."""
        return "clisc" in read_json(self.dataset_json)

    def claim_labels(self) -> None:
        """Make sure `labelsTr` is ours to write: a user's masks are never overwritten.

        Raises:
            PseudoLabelError: it holds labels that were there before the first run.
        """
        if not self.holds_pseudo_labels:
            present = sorted(p.name for p in self.labels_dir.glob(f"*{ENDING}"))
            if present:
                raise PseudoLabelError(
                    f"{self.labels_dir / present[0]}: labelsTr holds labels that pseudo_label did not write; "
                    "convert the scans to a dataset of their own, without masks"
                )
            write_bytes(self._marker, b"")
        self.labels_dir.mkdir(exist_ok=True)

    def forget_finished_run(self) -> None:
        """Labels are about to change: until they are complete again, `dataset.json` must not say so."""
        content = read_json(self.dataset_json)
        if content.pop("clisc", None) is not None:
            write_json(self.dataset_json, content)

    def path(self, stage: str, name: str) -> Path:
        """A file of a stage; its folder is made."""
        folder = self.root / stage
        folder.mkdir(parents=True, exist_ok=True)
        return folder / name

    def record(self, stage: str, name: str, key: str) -> dict[str, Any] | None:
        """The record of finished work, or None when it must be (re)done."""
        path = self.root / stage / f"{name}.json"
        try:
            record = json.loads(path.read_text())
        except (OSError, ValueError):
            return None
        if record.get("key") != key:
            return None
        for file, sha256 in record["files"].items():
            made = self.dataset / file
            if not made.exists() or sha256_of(made) != sha256:
                return None
        return dict(record)

    def finish(self, stage: str, name: str, key: str, files: Sequence[Path] = (), **content: Any) -> dict[str, Any]:
        """Record finished work and the files it made."""
        made = {str(f.relative_to(self.dataset)): sha256_of(f) for f in files}
        record = {"key": key, "files": made, **content}
        write_json(self.root / stage / f"{name}.json", record)
        return record
