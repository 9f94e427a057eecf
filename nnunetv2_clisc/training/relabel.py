"""From round 1 to round 2: predict every training case, ask SAM about it, write the new labels and the table.

Network and SAM work in one thread, since autocast, CUDA's device and its memory belong to a thread. What needs neither
(reading, resampling to the scan's grid, new labels and locations) is done in others meanwhile, a few cases at a time.
"""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import blosc2
import numpy as np
import torch
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import distributed as dist
from tqdm import tqdm

from dataset_conversion.errors import UserError
from dataset_conversion.files import sha256_of
from dataset_conversion.scans.volumes import write_image_with
from nnunetv2_clisc.training.fold import OUTSIDE, FoldFolder, outside_mask, write_training_case
from nnunetv2_clisc.training.fold_data import FoldData
from nnunetv2_clisc.training.s3f import (
    Agreement,
    Decision,
    Segment,
    compare_case,
    decide,
    draw_case,
    keep_all,
    load_agreement,
    read_case,
    save_agreement,
    write_results,
)
from pseudo_labeling.ahead import made_ahead
from pseudo_labeling.roi import Region, large_components
from pseudo_labeling.run.failures import CaseFailures
from pseudo_labeling.sam.segmenter import SamSegmenter
from pseudo_labeling.slices import AHEAD_VOXELS
from pseudo_labeling.weights.models import load_sam

LABELLERS = 3  # cases resampled at once beside an accelerator; nnU-Net's own number. A CPU has no time to spare
PATIENCE = timedelta(days=365)  # of a rank that waits for another one

Given = TypeVar("Given")
Made = TypeVar("Made")
Preprocessed = tuple[torch.Tensor, dict[str, Any]]
"""A case's images or logits `(c, z, y, x)` on the preprocessed grid, and its properties as nnU-Net has them."""


def first_pass_sam(data: FoldData, device: torch.device) -> Segment:
    """SAM with the weights and prompts that made the pseudo-labels."""
    sam = load_sam(data.sam_spec, device)
    if sam.sha256 != data.dataset_json["clisc"]["weights"]["sam"].get("sha256"):
        data.log(f"CLISC: WARNING, {sam.name} is not the file that made the pseudo-labels")
    settings = data.settings
    segmenter = SamSegmenter(sam.model, settings.sam, device)

    def segment(images: np.ndarray, roi: np.ndarray, pixel_mm: float) -> np.ndarray:
        return segmenter.segment(images, [Region(roi)], settings.prompts, pixel_mm).mask

    return segment


def predictor_of(trainer: nnUNetTrainer, tile_step: float) -> nnUNetPredictor:
    """Predicts with the network and the settings that a trainer has now.

    Args:
        trainer: any trainer of nnU-Net, initialised.
        tile_step: between the tiles, as a share of the patch.
    """
    predictor = nnUNetPredictor(tile_step_size=tile_step, device=trainer.device, allow_tqdm=False)
    predictor.manual_initialization(
        trainer.network.module if trainer.is_ddp else trainer.network,
        trainer.plans_manager,
        trainer.configuration_manager,
        None,
        trainer.dataset_json,
        trainer.__class__.__name__,
        trainer.inference_allowed_mirroring_axes,
    )
    return predictor


@dataclass(frozen=True)
class Ranks:
    """The processes that train one network together, and which of them this is.

    They wait for each other in a group of their own: NCCL gives up after ten minutes, and one share of the cases, or
    what rank 0 does alone, may take longer than another. Gloo waits, but notices at once when a process is gone.
    """

    rank: int = 0
    world: int = 1
    group: Any = None  # of torch.distributed

    @classmethod
    def of_training(cls) -> Ranks:
        """Those of the training that this process takes part in; every rank must call it once."""
        return cls(dist.get_rank(), dist.get_world_size(), dist.new_group(backend="gloo", timeout=PATIENCE))

    def barrier(self) -> None:
        """Wait for the others, however long.

        Raises:
            UserError: one of them has ended.
        """
        if self.group is None:
            return
        try:
            dist.barrier(self.group)
        except RuntimeError as error:
            raise UserError(
                f"rank {self.rank}: another process of this training has ended, and said why if it could; mend that "
                "and run the same command again, what is done is kept"
            ) from error


class Relabelling:
    """The stage between the rounds, for one fold; every finished case stays on disk and is not done again.

    Labels are not read, neither pseudo nor manual ones: the new labels come from the scans and the network alone.

    Args:
        data: of the fold.
        folder: output of the fold.
        predictor: with the network of round 1.
        segment: SAM, or None to keep every case (no S3F).
        ranks: who shares the cases.
    """

    def __init__(
        self, data: FoldData, folder: FoldFolder, predictor: nnUNetPredictor, segment: Segment | None, ranks: Ranks
    ) -> None:
        self.data, self.folder = data, folder
        self.predictor, self.segment, self.ranks = predictor, segment, ranks
        self.settings = data.settings
        self.patch = data.plans.get_configuration(data.configuration_name).patch_size  # the one of training

    def run(self, cases: Sequence[str]) -> None:
        """Relabel the cases, shared among the ranks; rank 0 writes the table.

        Args:
            cases: the fold's training cases, in the same order on every rank.
        """
        todo = [case for case in cases if load_agreement(self.folder.finished_cases, case) is None]
        self.ranks.barrier()  # no rank may finish a case before all have made the same list
        if len(todo) < len(cases):
            self.data.log(f"CLISC: {len(cases) - len(todo)} of {len(cases)} cases are done already")
        self.relabel(todo[self.ranks.rank :: self.ranks.world])
        self.ranks.barrier()
        self._finish([self._finished(case) for case in cases])

    def relabel(self, cases: Sequence[str], failures: CaseFailures | None = None) -> None:
        """Relabel those of the cases that are not done; other processes may do other cases of the fold meanwhile.

        Args:
            cases: any of the fold's training cases.
            failures: keeps what goes wrong with a case; without it the first mistake ends the pass.
        """
        for name in ("predictions", "sam", "dropped"):
            (self.folder.s3f / name).mkdir(parents=True, exist_ok=True)
        todo = [case for case in cases if load_agreement(self.folder.finished_cases, case) is None]
        bar = tqdm(total=len(todo), desc="relabelling", unit="case", disable=self.ranks.rank != 0)
        with bar, _reproducible():
            for _, group in groupby(todo, lambda case: self._fits_beside_others(case) or case):
                for _ in self._relabelled(list(group), failures):
                    bar.update()
        compute_gaussian.cache_clear()

    def _relabelled(self, cases: Sequence[str], failures: CaseFailures | None) -> Iterator[str]:
        """Do the cases and name each that is done; one is read and a few are labelled while another is predicted."""
        begun = ((case, self.data.cases_folder) for case in cases)
        with closing(made_ahead(begun, _step(read_preprocessed, failures))) as read:
            predicted = map(_step(self._predict, failures), read)
            labelled = made_ahead(predicted, _step(self._label, failures), self._labellers + 1, self._labellers)
            with closing(labelled):
                for case, _ in map(_step(self._finish_case, failures), labelled):
                    yield case

    @property
    def _labellers(self) -> int:
        return 1 if self.predictor.device.type == "cpu" else LABELLERS

    def _fits_beside_others(self, case: str) -> bool:
        """Whether the labellers together take no more memory than one large scan does."""
        try:
            shape = _open_preprocessed(case, self.data.cases_folder).shape
            scan = _properties(case, self.data.cases_folder)["shape_before_cropping"]
        except Exception:
            return False  # reading it in its turn will say why
        return max(math.prod(shape), math.prod(scan)) * self._labellers <= AHEAD_VOXELS

    def _predict(self, case: str, given: Preprocessed) -> Preprocessed:
        images, properties = given
        return self.predictor.predict_sliding_window_return_logits(images).cpu(), properties

    def _label(self, case: str, given: Preprocessed) -> Callable[[], Agreement]:
        """Write a case's new labels on both grids, and return the question to SAM."""
        logits, properties = given
        remove_islands(logits, self.settings.s3f.keep_fraction)
        self._write_training_case(case, logits, properties)
        prediction = self.folder.prediction(case, self.data.ending)
        voxels = self._write_prediction(prediction, logits, properties)
        if self.segment is None:
            return partial(Agreement, case, voxels)
        shown = read_case(self.data.shown(case), prediction, self.settings.window)
        return partial(compare_case, case, shown, self.folder.sam_mask(case, self.data.ending), self.segment)

    def _finish_case(self, case: str, ask: Callable[[], Agreement]) -> str:
        save_agreement(self.folder.finished_cases, ask())
        return case

    def _write_training_case(self, case: str, logits: torch.Tensor, properties: dict[str, Any]) -> None:
        data = self.data
        seg = np.asarray(data.labels.convert_logits_to_segmentation(logits)).astype(np.int16)[None]
        if any(data.configuration.use_mask_for_norm):
            outside = outside_mask(data.raw_scans(case), properties, data.plans, data.configuration, seg.shape[1:])
            seg[(seg == 0) & outside] = OUTSIDE
        labels = data.labels.foreground_labels
        write_training_case(data.cases_folder, self.folder.training_files, case, seg, labels, self.patch)

    def _write_prediction(self, path: Path, logits: torch.Tensor, properties: dict[str, Any]) -> int:
        data = self.data
        seg = convert_predicted_logits_to_segmentation_with_correct_shape(
            logits, data.plans, data.configuration, data.labels, properties, num_threads_torch=torch.get_num_threads()
        )
        writer = data.plans.image_reader_writer_class()
        write_image_with(lambda temporary: writer.write_seg(seg, str(temporary), properties), path)
        return int((seg > 0).sum())

    def _finished(self, case: str) -> Agreement:
        agreement = load_agreement(self.folder.finished_cases, case)
        if agreement is None:
            raise RuntimeError(f"{self.folder.finished_cases}: {case} was not finished by its rank")
        return agreement

    def _finish(self, agreements: Sequence[Agreement]) -> None:
        """Decide, draw the dropped cases, shared among the ranks, and write the table last: all is then complete."""
        summary: dict[str, Any] = {"s3f": self.segment is not None, "round_1": self._checkpoint_sha256()}
        if self.segment is None:
            decisions = keep_all(agreements)
        else:
            threshold, decisions = decide(agreements, self.settings.s3f.beta)
            wanted = self.settings.to_dict()
            summary |= {"beta": self.settings.s3f.beta, "threshold": threshold}
            summary |= {"settings": {name: wanted[name] for name in ("window", "prompts", "sam", "s3f")}}
            summary |= {"sam": self.data.dataset_json["clisc"].get("weights", {}).get("sam")}
            for decision in [d for d in decisions if not d.kept][self.ranks.rank :: self.ranks.world]:
                self._draw(decision)
        self.ranks.barrier()
        if self.ranks.rank == 0:
            write_results(self.folder.s3f, decisions, json.loads(json.dumps(summary)))
            kept = sum(d.kept for d in decisions)
            self.data.log(f"CLISC: {kept} of {len(decisions)} training cases go into round 2")

    def _draw(self, decision: Decision) -> None:
        case = decision.agreement.case
        draw_case(
            self.folder.picture(case),
            decision,
            self.data.shown(case),
            self.folder.prediction(case, self.data.ending),
            self.folder.sam_mask(case, self.data.ending),
            self.settings.window,
            self.settings.prompts,
        )

    def _checkpoint_sha256(self) -> str | None:
        path = self.folder.final(1)
        return sha256_of(path) if path.is_file() else None


def read_preprocessed(case: str, folder: Path) -> Preprocessed:
    """A case as nnU-Net's preprocessing left it: images `(c, z, y, x)` and properties."""
    return torch.from_numpy(_open_preprocessed(case, folder)[:]), _properties(case, folder)


def _open_preprocessed(case: str, folder: Path) -> blosc2.NDArray:
    return blosc2.open(urlpath=str(folder / f"{case}.b2nd"), mode="r", dparams={"nthreads": 1})


def _properties(case: str, folder: Path) -> dict[str, Any]:
    with open(folder / f"{case}.pkl", "rb") as file:
        return dict(pickle.load(file))  # written by nnU-Net's preprocessing on this machine


@torch.inference_mode()  # else the predictor's own logits could not be written to
def remove_islands(logits: torch.Tensor, keep_fraction: float) -> None:
    """Turn small 3D components of a predicted foreground into background, in place.

    Done on the logits, so that the label on the resampled grid and the one on the scan's grid lose the same islands.

    Args:
        logits: `(2, z, y, x)`, background first.
        keep_fraction: share of the largest component's voxels below which a component goes.
    """
    foreground = (logits[1] > logits[0]).numpy()
    islands = torch.from_numpy(foreground & ~large_components(foreground, keep_fraction))
    logits[1, islands] = logits[0, islands] - 1


def _step(
    work: Callable[[str, Given], Made], failures: CaseFailures | None
) -> Callable[[tuple[str, Given | None]], tuple[str, Made | None]]:
    """A piece of work on a case and what the step before made of it; nothing is made where a step failed."""

    def run(item: tuple[str, Given | None]) -> tuple[str, Made | None]:
        case, given = item
        with failures.of(case) if failures is not None else nullcontext():
            return case, None if given is None else work(case, given)
        return case, None

    return run


@contextmanager
def _reproducible() -> Iterator[None]:
    """Let cuDNN choose the same algorithms every time, so that a checkpoint gives one table only."""
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before
