"""CLISC's trainer and its variants: the paper's network and schedule, in two rounds (paper 2.3 and 3.1).

A variant is a short subclass; settings that belong to the labels (prompts, SAM, β) come from `dataset.json`, where
`nnUNetv2_clisc pseudo_label` put them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler

from dataset_conversion.errors import UserError, one_line_errors
from nnunetv2_clisc.training.plans import NetworkSettings, begun_with, clisc_plans
from nnunetv2_clisc.training.rounds import PSEUDO_NOTE, SelfTraining
from nnunetv2_clisc.training.start import NETWORK, fill_with_start, start_record
from pseudo_labeling.precision import has_bfloat16
from pseudo_labeling.run.workspace import flair_channel


class CLISCTrainer(SelfTraining):
    """Round 1 on the pseudo-labels, S3F, round 2 from scratch on the trusted predictions of round 1."""

    network_settings = NetworkSettings()
    epochs = 400  # paper 3.1, each round
    learning_rate = 0.01  # paper 3.1
    mirror_at_inference = True  # nnU-Net's test-time augmentation, wherever this network predicts
    cpu_bfloat16 = False  # on CPUs with bfloat16 instructions
    plot_every = 10  # epochs; drawing progress.png takes seconds
    takes_slices = False  # 2D of volumes too
    channels_last = True  # on CPUs; a network of one number of axes only
    start_from_phantoms = False  # round 1 begins with the embedded network instead of random weights

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),
    ) -> None:
        with one_line_errors():
            begun = self.use_what_the_model_began_with(plans, configuration)
            plans = self.suited_plans(plans, configuration)
            self.check_channels(dataset_json)
            if len(plans["configurations"][configuration]["patch_size"]) == 2:
                self.suit_pictures()
        super().__init__(plans, configuration, fold, dataset_json, device)
        if begun:
            self.print_to_log_file(f"{begun}; for those of this version, move {self.output_folder_base} away")
        self.initial_lr = self.learning_rate
        self.weight_decay = 1e-4  # the public code's; the paper is silent

    def suited_plans(self, plans: dict[str, Any], configuration: str) -> dict[str, Any]:
        """A copy of nnU-Net's plans with this trainer's network, patch and batch size."""
        return clisc_plans(plans, configuration, self.network_settings, slices=self.takes_slices)

    def check_channels(self, dataset_json: Mapping[str, Any]) -> None:
        """Raise where the dataset lacks a channel that the network needs; a U-Net takes any."""

    def use_what_the_model_began_with(self, plans: dict[str, Any], configuration: str) -> str:
        """Set the network and schedule of an earlier version where the model has them, and say so in words."""
        return ""

    def suit_pictures(self) -> None:
        """Set what differs where the cases are pictures and the network is 2D."""

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, PolyLRScheduler]:
        """SGD (paper 3.1) with the public code's momentum, weight decay and polynomial decay."""
        optimizer = torch.optim.SGD(
            self.network.parameters(), self.initial_lr, momentum=0.9, weight_decay=self.weight_decay, nesterov=True
        )
        return optimizer, PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs)

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> tuple[Any, ...]:  # noqa: N802
        """nnU-Net's augmentation; a variant may train with mirroring and predict without."""
        augmentation: tuple[Any, ...] = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        if not self.mirror_at_inference:
            self.inference_allowed_mirroring_axes = None
        return augmentation

    def initialize(self) -> None:
        """nnU-Net's; on a CPU convolutions are faster with the channels last in memory (docs/speed.md)."""
        super().initialize()
        if self.device.type == "cpu" and self.channels_last:
            flat = len(self.configuration_manager.patch_size) == 2
            self.network.to(memory_format=torch.channels_last if flat else torch.channels_last_3d)

    def load_start(self) -> None:
        """Begin with the network that was trained on phantoms, where the variant says so.

        Raises:
            UserError: a user's variant has another network, or none of several channels is FLAIR.
        """
        if not self.start_from_phantoms:
            return
        channel = flair_channel(self.dataset_json, f"{self.fold_data.name}/dataset.json")
        if not fill_with_start(self._plain_network(), channel):
            raise UserError(
                f"{type(self).__name__}: has other channels or convolutions than the network trained on phantoms; "
                "set start_from_phantoms = False in the class"
            )
        self.print_to_log_file(f"CLISC: begins with weights trained on phantoms, SHA-256 {start_record().sha256[:12]}")

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """One step, in bfloat16 where the variant and the CPU have it."""
        with self._cpu_autocast():
            return dict(super().train_step(batch))

    def validation_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """One validation step, likewise."""
        with self._cpu_autocast():
            return dict(super().validation_step(batch))

    def on_epoch_end(self) -> None:
        """nnU-Net's, with fewer drawings of the curves."""
        drawn = self.current_epoch % self.plot_every == 0 or self.current_epoch == self.num_epochs - 1
        with nullcontext() if drawn else _undrawn(self.logger):
            super().on_epoch_end()

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """nnU-Net's; on a CLISC dataset the reference is a pseudo-label, and the log says so."""
        if "clisc" in self.dataset_json:
            self.print_to_log_file(PSEUDO_NOTE)
        with one_line_errors(self.output_folder or ""), self.inference_settings():
            super().perform_actual_validation(save_probabilities)

    def inference_settings(self) -> AbstractContextManager[Any]:
        """Predict in the number format of training.

        The tile stays the training patch: InstanceNorm takes its statistics from the tile, and a network trained on
        96-pixel patches loses half its Dice on whole slices.
        """
        return self._cpu_autocast()

    def _uses_cpu_bfloat16(self) -> bool:
        return self.cpu_bfloat16 and self.device.type == "cpu" and has_bfloat16(self.device)

    def _cpu_autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast("cpu", dtype=torch.bfloat16) if self._uses_cpu_bfloat16() else nullcontext()


class CLISCTrainer_noS3F(CLISCTrainer):  # noqa: N801
    """Ablation: round 2 with every case, relabelled."""

    use_s3f = False


class CLISCTrainer_noSelfTraining(CLISCTrainer):  # noqa: N801
    """Ablation: round 1 only. On a dataset with masks of its own it is the fully supervised baseline."""

    rounds = 1


class Small:
    """Sizes that finish on two CPU cores, and a start that knows phantoms; the method is the same."""

    network_settings = NETWORK
    start_from_phantoms = True
    epochs = 8
    learning_rate = 0.02
    min_iterations = 32
    warm_start = True  # too few steps to learn everything twice
    mirror_at_inference = False
    relabelling_step = 1.0  # a third of the time for a hundredth of Dice on real scans
    cpu_bfloat16 = True

    def use_what_the_model_began_with(self, plans: dict[str, Any], configuration: str) -> str:
        """Version 0.1.0 had another network and schedule; nnU-Net keeps one network for all folds of a model."""
        earlier = NetworkSettings(features=NETWORK.features, patch=NETWORK.patch)
        if not begun_with(earlier, type(self).__name__, plans, configuration):
            return ""
        self.network_settings = earlier
        self.start_from_phantoms, self.epochs, self.learning_rate = False, Scratch.epochs, Scratch.learning_rate
        return "CLISC: this model was begun by version 0.1.0 and goes on with its network and schedule"

    def suit_pictures(self) -> None:
        """The embedded network is 3D and knows brains: pictures begin with random weights, and larger steps."""
        self.start_from_phantoms, self.epochs, self.learning_rate = False, 12, Scratch.learning_rate


class Scratch:
    """Random weights to begin with: four times the epochs, and larger steps."""

    start_from_phantoms = False
    epochs = 30
    learning_rate = 0.05  # a hundredth of the paper's steps must go further each


class CLISCTrainer_small(Small, CLISCTrainer):  # noqa: N801
    """CLISC on two CPU cores."""


class CLISCTrainer_small_noS3F(Small, CLISCTrainer_noS3F):  # noqa: N801
    """Ablation without S3F on two CPU cores."""


class CLISCTrainer_small_noSelfTraining(Small, CLISCTrainer_noSelfTraining):  # noqa: N801
    """Round 1 only on two CPU cores."""


class CLISCTrainer_small_scratch(Scratch, CLISCTrainer_small):  # noqa: N801
    """Ablation on two CPU cores: no phantoms before round 1."""


class CLISCTrainer_small_noSelfTraining_scratch(Scratch, CLISCTrainer_small_noSelfTraining):  # noqa: N801
    """Round 1 only on two CPU cores, no phantoms before it; with masks of its own, plain supervision."""


@contextmanager
def _undrawn(logger: Any) -> Iterator[None]:
    """Let `logger` skip progress.png."""
    logger.plot_progress_png = _draw_nothing
    try:
        yield
    finally:
        del logger.plot_progress_png


def _draw_nothing(folder: str) -> None:
    """Stands in for nnU-Net's plot."""
