"""An nnU-Net trainer whose checkpoints survive a kill, and are read without running what may hide in them."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, cast

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from dataset_conversion.errors import UserError, one_line_errors
from nnunetv2_clisc.training.checkpoints import plain_values, read_checkpoint
from nnunetv2_clisc.training.fold import written_whole


class SafeCheckpoints(nnUNetTrainer):
    """Writes a checkpoint whole or not at all, with tensors and plain values only, and loads nothing else."""

    # nnU-Net sets these; it does not say of what type they are
    network: Any
    optimizer: Any
    was_initialized: bool
    _best_ema: float | None
    output_folder: Any

    def save_checkpoint(self, filename: str) -> None:
        """Write a checkpoint whole or not at all, with plain numbers, so that it loads with `weights_only=True`."""
        if self.local_rank != 0 or self.disable_checkpointing:
            super().save_checkpoint(filename)
            return
        if Path(filename).name == "checkpoint_latest.pth":
            self._save_if_best()
        self.logger.local_logger.my_fantastic_logging = plain_values(self.logger.get_checkpoint())
        self._best_ema = plain_values(self._best_ema)
        with written_whole(Path(filename)) as temporary:
            super().save_checkpoint(str(temporary))

    def _save_if_best(self) -> None:
        """Write `checkpoint_best.pth` before `checkpoint_latest.pth` says that an epoch is done, where it is the best.

        nnU-Net writes it afterwards, so a kill between the two would lose the best network for good.
        """
        epochs = self.logger.get_checkpoint()["ema_fg_dice"]
        if epochs and (self._best_ema is None or epochs[-1] > self._best_ema):
            self._best_ema = epochs[-1]
            self.save_checkpoint(str(Path(self.output_folder, "checkpoint_best.pth")))

    def load_checkpoint(
        self,
        checkpoint: str | dict[str, Any] | None = None,
        *,
        filename_or_checkpoint: str | dict[str, Any] | None = None,
    ) -> None:
        """Load a checkpoint of this trainer, once it is known to hold nothing but tensors and plain values.

        Args:
            checkpoint: a file, or what was read from one.
            filename_or_checkpoint: the same under the name that nnU-Net gives it up to 2.8.
        """
        source = filename_or_checkpoint if checkpoint is None else checkpoint
        if source is None:
            raise TypeError("load_checkpoint: needs a file or its content")
        with one_line_errors():
            content = source if isinstance(source, dict) else read_checkpoint(source)
            place = "checkpoint" if isinstance(source, dict) else str(source)
            if (found := content["trainer_name"]) != self.__class__.__name__:
                raise UserError(f"{place}: a checkpoint of {found}; use -tr {found}")
            try:
                self._restore(content)
            except RuntimeError as error:
                if "state_dict" not in str(error):  # torch's word where it is given another network's weights
                    raise
                if self._is_to_train_anew():
                    return
                raise UserError(
                    f"{place}: its network is not the one that plans and trainer describe now; run nnUNetv2_train "
                    "without --c to train anew, or restore the plans it was trained with"
                ) from error

    def _is_to_train_anew(self) -> bool:
        """Whether the network loaded is about to be replaced, so that one of other plans may stay where it is."""
        return False

    def _restore(self, content: dict[str, Any]) -> None:
        """Have nnU-Net take over the content that was checked, never what the file holds a moment later."""
        if "filename_or_checkpoint" not in inspect.signature(super().load_checkpoint).parameters:
            super().load_checkpoint(content)
            return
        # nnU-Net up to 2.8 fails on a dict (https://github.com/MIC-DKFZ/nnUNet/pull/3047), and would open the file
        # a second time, then with code in it
        if not self.was_initialized:
            self.initialize()
        self._plain_network().load_state_dict(content["network_weights"])
        self.optimizer.load_state_dict(content["optimizer_state"])
        if self.grad_scaler is not None and content["grad_scaler_state"] is not None:
            self.grad_scaler.load_state_dict(content["grad_scaler_state"])
        self.logger.load_checkpoint(content["logging"])
        self.my_init_kwargs = content["init_args"]
        self.current_epoch, self._best_ema = content["current_epoch"], content["_best_ema"]
        if "inference_allowed_mirroring_axes" in content:
            self.inference_allowed_mirroring_axes = content["inference_allowed_mirroring_axes"]

    def _plain_network(self) -> torch.nn.Module:
        """The network without what DDP and torch.compile put around it."""
        network = self.network.module if self.is_ddp else self.network
        return cast(torch.nn.Module, getattr(network, "_orig_mod", network))
