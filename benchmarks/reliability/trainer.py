"""A CLISC trainer for killing: seconds instead of hours, a checkpoint after every epoch, the same chance every time."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

from nnunetv2_clisc.training.plans import NetworkSettings
from nnunetv2_clisc.training.trainer import CLISCTrainer_small


class ReliabilityTrainer(CLISCTrainer_small):
    """Both rounds of a few epochs.

    nnU-Net's augmentation is random from run to run. Here the chance of an epoch comes from its number, so a training
    that was killed and resumed must end with the very network of one that was not.
    """

    network_settings = NetworkSettings(features=(4, 8, 8), patch=(16, 32, 32))
    start_from_phantoms = False
    epochs = 4
    min_iterations = 6
    cpu_bfloat16 = False

    def __init__(self, plans: Any, configuration: str, fold: int, dataset_json: Any, device: Any = None) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device or torch.device("cpu"))
        self.save_every = 1

    def on_epoch_start(self) -> None:
        """nnU-Net's, with this epoch's own chance."""
        seed = 1000 * self.round + self.current_epoch
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        super().on_epoch_start()
