"""Where the rounds of a fold live on disk, which stage they are in, and the training files of round 2."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.preprocessing.cropping.cropping import create_nonzero_mask
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from dataset_conversion.errors import UserError, free_space
from dataset_conversion.files import remove_partial, sync, whole, write_json

STAGES = ("round_1", "s3f", "round_2", "done")
OUTSIDE = -1  # nnU-Net's label for voxels outside the scan's nonzero region
ROUNDS = ("round_1", "s3f", "round_2")  # folders of a fold
# names that earlier versions gave to files they were writing
OLD_PARTIAL = re.compile(r"checkpoint_\w+\.pth\.\d+\.tmp|tmp-\d+-.+|\.\d+\..+")


@dataclass(frozen=True)
class State:
    """What a fold is doing; `origin` tells which data and plans it was begun with."""

    stage: str
    origin: str

    @property
    def finished(self) -> bool:
        return self.stage == "done"


@dataclass(frozen=True)
class FoldFolder:
    """The output folder of one fold.

    The last round writes where nnU-Net does, the round before into a folder of its own, so `checkpoint_final.pth` of
    the fold appears only when everything is done.
    """

    path: Path
    rounds: int

    @property
    def s3f(self) -> Path:
        return self.path / "s3f"

    @property
    def finished_cases(self) -> Path:
        return self.s3f / "cases"

    @property
    def training_files(self) -> Path:
        """Preprocessed training cases of round 2."""
        return self.path / "round_2" / "preprocessed"

    def round(self, number: int) -> Path:
        return self.path if number == self.rounds else self.path / f"round_{number}"

    def final(self, number: int) -> Path:
        return self.round(number) / "checkpoint_final.pth"

    def prediction(self, case: str, ending: str) -> Path:
        return self.s3f / "predictions" / f"{case}{ending}"

    def sam_mask(self, case: str, ending: str) -> Path:
        return self.s3f / "sam" / f"{case}{ending}"

    def picture(self, case: str) -> Path:
        return self.s3f / "dropped" / f"{case}.png"

    def read_state(self) -> State | None:
        """The state on disk, None for a fold that was never begun."""
        path = self.path / "clisc_state.json"
        if not path.is_file():
            return None
        try:
            values = json.loads(path.read_text())
            state = State(values["stage"], values["origin"])
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise UserError(
                f"{path}: not a state written by a CLISC trainer; delete it to train anew (models in the fold are then "
                "moved aside)"
            ) from error
        if state.stage not in STAGES:
            raise UserError(f"{path}: unknown stage '{state.stage}'; delete it to train anew")
        return state

    def write_state(self, state: State) -> None:
        number = {"round_1": 1, "s3f": 1}.get(state.stage, self.rounds)
        content = {**asdict(state), "round": number, "rounds": self.rounds}
        write_json(self.path / "clisc_state.json", content, sort_keys=True)

    @property
    def holds_work(self) -> bool:
        """Whether there is anything that took a computer long: a model, or cases that S3F has been through."""
        return any(self.path.rglob("checkpoint_*.pth")) or any(self.finished_cases.glob("*.json"))

    def make_room(self, keep: Sequence[str] = ()) -> Path | None:
        """Make the fold empty for a new training; what an earlier one left there is moved aside, never deleted.

        The folder is renamed as a whole, so after a kill it is either where it was or aside. Its new name begins with
        `until_`: nnU-Net takes every folder that begins with `fold_` for a fold.

        Args:
            keep: names in the folder that belong to the new training.

        Returns:
            Where the earlier training is now; None where there was nothing worth keeping.
        """
        aside = None
        if self.holds_work:
            aside = set_aside(self.path, self.path / "clisc_state.json")
            self.path.mkdir(exist_ok=True)  # another rank may have made it
            for name in keep:
                if (aside / name).exists():
                    os.replace(aside / name, self.path / name)
        (self.path / "clisc_state.json").unlink(missing_ok=True)
        for name in ROUNDS:
            shutil.rmtree(self.path / name, ignore_errors=True)
        return aside

    def remove_partial(self) -> None:
        """Remove what killed processes were writing; nobody may be writing there now."""
        remove_partial(self.path)
        for path in self.path.rglob("*"):
            if OLD_PARTIAL.fullmatch(path.name) and path.is_file():
                path.unlink(missing_ok=True)


def set_aside(folder: Path, dated_by: Path) -> Path:
    """Rename a folder after the time when a file in it was last changed, its own where there is no such file.

    Returns:
        Where it is now, e.g. `until_2026-11-28T0615_fold_0` beside it.
    """
    changed = (dated_by if dated_by.exists() else folder).stat().st_mtime
    date = time.strftime("%Y-%m-%dT%H%M", time.localtime(changed))
    number, target = 1, folder.with_name(f"until_{date}_{folder.name}")
    while target.exists():
        number += 1
        target = folder.with_name(f"until_{date}_{number}_{folder.name}")
    folder.rename(target)
    sync(folder.parent)
    return target


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """As :func:`whole`, for the writers of torch and Blosc, which call a full disk a RuntimeError.

    Raises:
        UserError: it could not be written.
    """
    try:
        with whole(path) as temporary:
            yield temporary
    except RuntimeError as error:
        if "CUDA" in str(error):  # of the GPU that the tensors are on
            raise
        words = " ".join(str(error).split())[:100]
        raise UserError(
            f"{path}: could not be written whole ({words}; {free_space(path)}); make room and run the same command "
            "again"
        ) from error


def origin_of(*parts: Any) -> str:
    """SHA-256 of what a run depends on; plain JSON types."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def newest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint to resume from, in nnU-Net's own order; None when training had not come that far."""
    paths = (folder / f"checkpoint_{name}.pth" for name in ("final", "latest", "best"))
    return next((path for path in paths if path.is_file()), None)


def write_training_case(
    source: Path,
    target: Path,
    case: str,
    seg: np.ndarray,
    labels: Sequence[int],
    patch: Sequence[int],
) -> None:
    """Write one case of round 2: the same image, new labels, new foreground locations.

    The image is linked, never copied where links work, and the folder it comes from is not touched. The locations are
    drawn as nnU-Net's preprocessing draws them; with the old ones, oversampling would follow the old labels.

    Args:
        source: folder of the preprocessed dataset.
        target: folder of round 2's cases; a temporary file goes beside it.
        case: name of the case.
        seg: `(1, z, y, x)` int16 on the preprocessed grid.
        labels: the foreground labels.
        patch: `(z, y, x)` training patch in voxels, which decides the file's block size.
    """
    target.mkdir(parents=True, exist_ok=True)
    _link(source / f"{case}.b2nd", target / f"{case}.b2nd")

    blocks, chunks = comp_blosc2_params(seg.shape, tuple(patch), seg.itemsize)
    with written_whole(target / f"{case}_seg.b2nd") as temporary:
        stem = str(temporary).removesuffix(".b2nd")  # nnU-Net adds the ending
        nnUNetDatasetBlosc2.save_seg(np.ascontiguousarray(seg), stem, chunks_seg=chunks, blocks_seg=blocks)

    with open(source / f"{case}.pkl", "rb") as file:
        properties = pickle.load(file)  # written by nnU-Net's preprocessing on this machine
    properties["class_locations"] = DefaultPreprocessor._sample_foreground_locations(seg, list(labels))
    with whole(target / f"{case}.pkl") as temporary, temporary.open("wb") as file:
        pickle.dump(properties, file)


def outside_mask(
    images: Sequence[Path],
    properties: dict[str, Any],
    plans: PlansManager,
    configuration: ConfigurationManager,
    shape: Sequence[int],
) -> np.ndarray | None:
    """Voxels that preprocessing marks as outside the scan, found from the scan alone.

    nnU-Net keeps them at zero during augmentation where it normalised inside a mask; nothing else reads the mark.

    Args:
        images: the raw scan, one file a channel.
        properties: of the preprocessed case.
        plans: the plans.
        configuration: the configuration that was preprocessed.
        shape: `(z, y, x)` of the preprocessed case.

    Returns:
        `(1, z, y, x)` bool on the preprocessed grid, or None where no channel needs it.
    """
    if not any(configuration.use_mask_for_norm):
        return None
    data, _ = plans.image_reader_writer_class().read_images([str(path) for path in images])
    data = data.transpose([0, *(axis + 1 for axis in plans.transpose_forward)])
    box = tuple(slice(low, high) for low, high in properties["bbox_used_for_cropping"])
    outside = np.where(create_nonzero_mask(data)[box], 0, OUTSIDE).astype(np.int8)[None]
    spacing = [properties["spacing"][axis] for axis in plans.transpose_forward]
    return np.asarray(configuration.resampling_fn_seg(outside, list(shape), spacing, configuration.spacing)) < 0


def _link(source: Path, target: Path) -> None:
    if target.exists() or target.is_symlink():
        target.unlink()
    for make in (os.symlink, os.link, shutil.copyfile):
        try:
            make(source.resolve(), target)
            return
        except OSError:
            if make is shutil.copyfile:
                raise
