"""What is on disk: the working folder of a dataset, and which case has been through which stage with which settings."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from dataset_conversion.errors import UserError
from dataset_conversion.files import read_object, sha256_of, write_bytes, write_json
from dataset_conversion.scans.integrity import check_fetched
from dataset_conversion.scans.picture import COLOURS, is_picture
from pseudo_labeling.settings import described

ENDING = ".nii.gz"
_FLAIR = re.compile(r"flair|\bt2f\b", re.IGNORECASE)  # t2f: what BraTS calls it since 2023


def key_of(*parts: Any) -> str:
    """A short key of everything a result depends on; equal keys mean the result need not be made again."""
    text = json.dumps(parts, sort_keys=True, default=described)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def chance_of(seed: int, case: str) -> int:
    """A seed of a case's own, so that no case depends on those before it."""
    return int(key_of(seed, case)[:8], 16)


def flair_channel(dataset_json: Mapping[str, Any], where: Path | str) -> int:
    """Number of the FLAIR channel by the names in a dataset.json; 0 where there is only one channel, or a picture's.

    Raises:
        UserError: several channels, and not exactly one of them is called FLAIR.
    """
    names = dataset_json.get("channel_names")
    if not isinstance(names, dict) or len(names) < 2 or is_picture(list(names.values())):
        return 0
    flair = [number for number, name in names.items() if _FLAIR.search(str(name))]
    if len(flair) != 1 or not str(flair[0]).isdigit():
        listed = ", ".join(f"{number}: {name}" for number, name in names.items())
        raise UserError(
            f"{where}: has {len(names)} channels ({listed}) and {len(flair)} of them are called FLAIR; "
            "name the one to label FLAIR in channel_names, or convert the FLAIR scans alone"
        )
    return int(flair[0])


def shows_pictures(dataset_json: Mapping[str, Any]) -> bool:
    """Whether a dataset.json is one of pictures in colour."""
    names = dataset_json.get("channel_names")
    return isinstance(names, dict) and is_picture(list(names.values()))


class Workspace:
    """The folder `clisc` of an nnU-Net raw dataset, with one subfolder a stage.

    A finished piece of work is a small JSON record with the key of all it depends on and the SHA-256 of the files it
    made. The record is written last, so a kill leaves work that is either recorded and whole, or done again.
    """

    def __init__(self, dataset: Path, redo: Collection[str] = ()) -> None:
        """Args: dataset: the folder; redo: names of work to make anew although a person has changed its file."""
        self.dataset = dataset
        self.redo = frozenset(redo)
        self.root = dataset / "clisc"
        self.images_dir = dataset / "imagesTr"
        self.labels_dir = dataset / "labelsTr"

    def cases(self) -> list[str]:
        """Names of the cases in `imagesTr`, sorted.

        Raises:
            UserError: no images; a link whose file is not on this machine.
        """
        ending = self._image_ending
        files = [path for path in self.images_dir.glob(f"*{ending}") if not path.name.startswith(".")]
        if not files:
            raise UserError(f"{self.images_dir}: no files *{ending}; make the dataset with `convert` first")
        for path in files:
            check_fetched(path)
        return sorted(path.name[: -len(ending)] for path in files)

    @cached_property
    def channel(self) -> int:
        """Number of the FLAIR channel, see :func:`flair_channel`."""
        return flair_channel(read_object(self.dataset_json), self.dataset_json) if self.dataset_json.is_file() else 0

    @cached_property
    def pictures(self) -> bool:
        """Whether the cases are pictures in colour, one slice each."""
        return self.dataset_json.is_file() and shows_pictures(read_object(self.dataset_json))

    @property
    def _image_ending(self) -> str:
        return f"_{self.channel:04d}{ENDING}"

    @property
    def dataset_json(self) -> Path:
        """nnU-Net's description of the dataset; its entry `clisc` says that the labels are complete."""
        return self.dataset / "dataset.json"

    def image(self, case: str) -> Path:
        """The scan of a case; of a picture its first channel."""
        return self.images_dir / f"{case}{self._image_ending}"

    def shown(self, case: str) -> list[Path]:
        """The files that the stages see of a case: its scan, or all channels of a picture."""
        channels = range(len(COLOURS)) if self.pictures else (self.channel,)
        return [self.images_dir / f"{case}_{channel:04d}{ENDING}" for channel in channels]

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
        return isinstance(read_object(self.dataset_json).get("clisc"), dict)

    def claim_labels(self) -> None:
        """Make sure `labelsTr` is ours to write: a user's masks are never overwritten.

        Raises:
            UserError: it holds labels that were there before the first run.
        """
        if not self.holds_pseudo_labels:
            present = sorted(p.name for p in self.labels_dir.glob(f"*{ENDING}"))
            if present:
                raise UserError(
                    f"{self.labels_dir / present[0]}: labelsTr holds labels that pseudo_label did not write; "
                    "convert the scans to a dataset of their own, without masks"
                )
            write_bytes(self._marker, b"")
        self.labels_dir.mkdir(exist_ok=True)

    def forget_finished_run(self) -> None:
        """Labels are about to change: until they are complete again, `dataset.json` must not say so."""
        content = read_object(self.dataset_json)
        if "clisc" in content:
            del content["clisc"]
            write_json(self.dataset_json, content)

    def path(self, stage: str, name: str) -> Path:
        """A file of a stage; its folder is made."""
        folder = self.root / stage
        folder.mkdir(parents=True, exist_ok=True)
        return folder / name

    def record(self, stage: str, name: str, key: str) -> dict[str, Any] | None:
        """The record of finished work, or None when it must be (re)done."""
        record = self._stored(stage, name)
        if record is None or record.get("key") != key:
            return None
        for file, sha256 in record["files"].items():
            made = self.dataset / file
            if not made.exists() or sha256_of(made) != sha256:
                return None
        return record

    def slice_record(self, case: str) -> dict[str, Any]:
        """What the first stage recorded of a case's slices; empty where nothing is."""
        records = (self._record(stage, case) for stage in ("slice_labels", "image_labels", "segments"))
        return next((read_object(path) for path in records if path.is_file()), {})

    def changed_by_hand(self, stage: str, name: str) -> dict[str, Any] | None:
        """The record of work of one file that a person has changed since, with that file's SHA-256 of now.

        A file with another SHA-256 than what is recorded or announced was not written by us: it is kept and used,
        whatever the settings, unless its name is to be made anew (`redo`).
        """
        record = self._stored(stage, name)
        if record is None or name in self.redo or len(record["files"]) != 1:
            return None
        file = next(iter(record["files"]))
        if not (self.dataset / file).is_file():
            return None
        found = sha256_of(self.dataset / file)
        if found in (record["files"][file], record.get("announced")):
            return None
        return record | {"files": {file: found}, "by_hand": True}

    def announce(self, stage: str, name: str, temporary: Path) -> None:
        """Note the SHA-256 of the file that is about to replace the recorded one.

        Without it, a kill between the replacement and the new record would leave a file that looks changed by a person.
        """
        record = self._stored(stage, name)
        if record is not None:
            write_json(self._record(stage, name), record | {"key": None, "announced": sha256_of(temporary)})

    def finish(self, stage: str, name: str, key: str, files: Sequence[Path] = (), **content: Any) -> dict[str, Any]:
        """Record finished work and the files it made."""
        made = {str(f.relative_to(self.dataset)): sha256_of(f) for f in files}
        record = {"key": key, "files": made, **content}
        write_json(self._record(stage, name), record)
        return record

    def _record(self, stage: str, name: str) -> Path:
        return self.root / stage / f"{name}.json"

    def _stored(self, stage: str, name: str) -> dict[str, Any] | None:
        """A record as it is on disk; None where there is none that can be read."""
        try:
            record = json.loads(self._record(stage, name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return record if isinstance(record, dict) and isinstance(record.get("files"), dict) else None
