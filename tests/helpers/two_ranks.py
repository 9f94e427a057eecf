"""Two training processes on the CPU, for the tests; nnU-Net itself offers several processes on GPUs only."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as nnunet_module
from torch import distributed as dist
from torch import multiprocessing
from torch.distributed import distributed_c10d
from torch.nn.parallel import DistributedDataParallel

from nnunetv2_clisc.training import relabel
from nnunetv2_clisc.training.fold import State
from nnunetv2_clisc.training.s3f import Segment
from tests.helpers.mirrored_dataset import QuickAdapter
from tests.helpers.tiny_nnunet import QuickDistillation, QuickTrainer, TinyDataset, by_brightness

IMPATIENCE, OTHERWISE = timedelta(seconds=1), timedelta(minutes=30)  # how long torch's own collectives wait


class RankTrainer(QuickTrainer):
    """Notes how many cases and which stages its rank went through; in S3F, rank 1 is late or dies.

    While it is late, torch's own collectives would give up, as NCCL's do after ten minutes.
    """

    def __init__(self, plans: Any, configuration: str, fold: int, dataset_json: Any, device: Any = None) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.device, self.grad_scaler = torch.device("cpu"), None
        self.stages: list[str] = []
        self.segmented = 0

    def _advance(self, state: State) -> State:
        state = super()._advance(state)
        distributed_c10d._set_pg_timeout(OTHERWISE)
        self.stages.append(state.stage)
        return state

    def build_segmenter(self) -> Segment:
        distributed_c10d._set_pg_timeout(IMPATIENCE)

        def segment(images: np.ndarray, roi: np.ndarray, pixel_mm: float) -> np.ndarray:
            self.segmented += 1
            if self.local_rank == 1:
                if os.environ.get("RANK_1") == "dies":
                    os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(2 * IMPATIENCE.total_seconds())
            return by_brightness(images, roi, pixel_mm)

        return segment


RankTrainer.__name__ = "QuickTrainer"  # the same output folder


def rank_main(rank: int, root: str, meeting: str) -> None:
    """What nnU-Net's `run_ddp` does, with gloo."""
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    torch.set_num_threads(1)
    nnunet_module.DDP = lambda network, device_ids: DistributedDataParallel(network)
    trainer = TinyDataset(Path(root)).trainer(RankTrainer)
    assert isinstance(trainer, RankTrainer)
    drawn: list[str] = []
    draw_case = relabel.draw_case
    relabel.draw_case = lambda path, *rest: (drawn.append(path.stem), draw_case(path, *rest))
    trainer.run_training()
    weights = float(np.sum([tensor.double().sum() for tensor in trainer.network.state_dict().values()]))
    found = {"cases": trainer.segmented, "drawn": drawn, "stages": trainer.stages, "weights": weights}
    (trainer.folder.path / f"rank_{rank}.json").write_text(json.dumps(found))
    trainer.perform_actual_validation()
    dist.destroy_process_group()


def variant_main(rank: int, root: str, meeting: str, kind: type[Any], configuration: str) -> None:
    """The same for a trainer of one round."""
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    torch.set_num_threads(1)
    nnunet_module.DDP = lambda network, device_ids: DistributedDataParallel(network)
    torch.nn.SyncBatchNorm.convert_sync_batchnorm = lambda network: network  # GPUs only; frozen norms need none
    trainer: Any = TinyDataset(Path(root)).trainer(kind, configuration=configuration)
    trainer.run_training()
    weights = float(np.sum([tensor.double().sum() for tensor in trainer.network.state_dict().values()]))
    losses = trainer.logger.local_logger.my_fantastic_logging["train_losses"]
    taught = getattr(trainer.loss, "teacher", None) is not None
    found = {"weights": weights, "taught": taught, "losses": [float(x) for x in losses]}
    (trainer.folder.path / f"rank_{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


class OnCpu:
    """On the CPU, where nnU-Net's own would take a GPU for each rank."""

    def __init__(self, plans: Any, configuration: str, fold: int, dataset_json: Any, device: Any = None) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)  # type: ignore[call-arg]
        self.device, self.grad_scaler = torch.device("cpu"), None


class RankDistillation(OnCpu, QuickDistillation):
    """UM-SAM."""


class RankAdapter(OnCpu, QuickAdapter):
    """AISCT-SAM."""


RankDistillation.__name__ = "QuickDistillation"
RankAdapter.__name__ = "QuickAdapter"


def main(root: str) -> None:
    """Run both ranks and wait for them."""
    _spawn(root, join=True)


def distilling(root: str) -> None:
    """Both ranks of a distillation."""
    _spawn_variant(root, RankDistillation, "2d")


def adapting(root: str) -> None:
    """Both ranks of a training of adapters."""
    _spawn_variant(root, RankAdapter, "3d_fullres")


def _spawn_variant(root: str, kind: type[Any], configuration: str) -> None:
    meeting = os.path.join(tempfile.mkdtemp(), "meeting")
    multiprocessing.spawn(variant_main, args=(root, meeting, kind, configuration), nprocs=2, join=True)


def exit_codes(root: str) -> list[int]:
    """Run both ranks without anybody who ends one when the other dies."""
    context = _spawn(root, join=False)
    for process in context.processes:
        process.join()
    return [process.exitcode for process in context.processes]


def _spawn(root: str, join: bool) -> Any:
    meeting = os.path.join(tempfile.mkdtemp(), "meeting")
    return multiprocessing.spawn(rank_main, args=(root, meeting), nprocs=2, join=join)
