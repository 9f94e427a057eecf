"""AISCT-SAM's trainer: SAM's frozen encoder with adapters, in nnU-Net's training, on scans with a mirrored channel.

Learns from masks, or with :class:`CLISCTrainer_SamAdapter` from pseudo-labels in CLISC's two rounds.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from dataset_conversion.errors import UserError
from dataset_conversion.scans.mirror import CHANNEL
from nnunetv2_clisc.networks.encoders import Kind, multiple_of
from nnunetv2_clisc.networks.frozen import NOTHING, encoder_of
from nnunetv2_clisc.networks.sam_adapter import SamAdapterNet
from nnunetv2_clisc.training.trainer import (
    CLISCTrainer,
    CLISCTrainer_noSelfTraining,
    CLISCTrainer_small_noSelfTraining_scratch,
)
from pseudo_labeling.weights.files import paper_available

CLASS = f"{SamAdapterNet.__module__}.{SamAdapterNet.__qualname__}"
# names or files of SAM weights as for --sam-weights; for who has no class of their own
SAM_VARIABLE = "CLISC_ADAPTED_SAM"


@dataclass(frozen=True)
class AdapterPlans:
    """Network and patch; the patch is an upper limit, in voxels of the resampled scans (README: 20 x 256 x 256)."""

    patch: tuple[int, int, int] = (20, 256, 256)
    batch_size: int = 2
    widths: tuple[int, int, int, int, int] = (16, 32, 64, 128, 256)
    convolutions: int = 2  # of each stage of decoder and differences
    rank: int = 4
    adapter: int = 64


def sam_plans(
    plans: dict[str, Any],
    configuration: str,
    settings: AdapterPlans,
    *,
    encoder: Kind,
    weights: Mapping[str, str],
    depth: bool,
    symmetric: bool,
) -> dict[str, Any]:
    """Copy `plans` with this network, patch and batch size in one configuration.

    Args:
        plans: as written by `nnUNetv2_plan_and_preprocess`.
        configuration: `3d_fullres` or another 3D one without a previous stage.
        settings: sizes.
        encoder, weights: kind of the encoder, and the file its frozen weights come from.
        depth: whether slices see their neighbours inside the encoder.
        symmetric: whether the mirrored channel is looked at.

    Raises:
        UserError: the configuration is unknown, 2D or a cascade's second stage.
    """
    plans = deepcopy(plans)
    if configuration not in plans["configurations"]:
        known = ", ".join(plans["configurations"])
        raise UserError(f"configuration '{configuration}': not in the plans, which have {known}; use 3d_fullres")
    planned = PlansManager(deepcopy(plans)).get_configuration(configuration)
    if len(planned.patch_size) == 2 or planned.previous_stage_name is not None:
        raise UserError(f"configuration '{configuration}': this trainer learns volumes; use 3d_fullres")
    edge = multiple_of(encoder)
    median = planned.median_image_size_in_voxels
    in_plane = [
        max(edge, min(limit // edge, -(-int(size) // edge)) * edge)
        for limit, size in zip(settings.patch[1:], median[1:], strict=True)
    ]
    patch = [min(settings.patch[0], int(median[0])), *in_plane]
    changed = plans["configurations"][configuration]
    changed["patch_size"] = patch
    changed["batch_size"] = settings.batch_size
    changed["architecture"] = {
        "network_class_name": CLASS,
        "arch_kwargs": {
            "encoder": encoder,
            "weights": dict(weights),
            "patch": patch,
            "widths": list(settings.widths),
            "convolutions": settings.convolutions,
            "rank": settings.rank,
            "adapter": settings.adapter,
            "depth": depth,
            "symmetric": symmetric,
        },
        "_kw_requires_import": [],
    }
    return plans


def synchronised(transforms: ComposeTransforms) -> ComposeTransforms:
    """Let nnU-Net's augmentation do the same to all channels: what it does to one alone looks like an asymmetry.

    How often a channel is changed stays as it is: a transform that picks half of the channels is done half as often.
    """
    for outer in transforms.transforms:
        inner: Any = getattr(outer, "transform", None)
        if isinstance(outer, RandomTransform) and hasattr(inner, "synchronize_channels"):
            inner.synchronize_channels = True
            outer.apply_probability *= inner.p_per_channel
            inner.p_per_channel = 1
    return transforms


class SamAdapter:
    """What a CLISC trainer needs to train a :class:`SamAdapterNet` instead of a U-Net; goes before it as a base."""

    adapter_plans = AdapterPlans()
    sam_weights = ""  # as for --sam-weights; by default the published ViT-B where it has been downloaded
    pretrained_encoder = True  # False: the frozen encoder stays random, a control
    see_depth = True
    see_mirror = True
    channels_last = False  # of all modules alike; see `with_channels_last`

    epochs = 500  # public code, each round
    min_iterations = 250  # public code
    learning_rate = 1e-4  # public code
    adapter_decay = 3e-5  # public code

    network: Any
    device: torch.device
    enable_deep_supervision: bool
    initial_lr: float
    num_epochs: int
    was_initialized: bool

    def suited_plans(self, plans: dict[str, Any], configuration: str) -> dict[str, Any]:
        """Plans with this network; its encoder is that of the SAM that the class, or the environment, names."""
        spec = os.environ.get(SAM_VARIABLE) or self.sam_weights or ("paper" if paper_available() else "embedded")
        kind, weights = encoder_of(spec)
        if not self.pretrained_encoder:
            weights = {"spec": NOTHING, "sha256": NOTHING}
        return sam_plans(
            plans,
            configuration,
            self.adapter_plans,
            encoder=kind,
            weights=weights,
            depth=self.see_depth,
            symmetric=self.see_mirror,
        )

    def check_channels(self, dataset_json: Mapping[str, Any]) -> None:
        """Raise where the dataset has no mirrored channel and this network looks at one."""
        names = [str(name) for _, name in sorted((dataset_json.get("channel_names") or {"0": ""}).items())]
        mirrored = len(names) == 2 and (names[1] == CHANNEL or names[0] == names[1])
        if self.see_mirror and not mirrored:
            raise UserError(
                f"dataset.json: its channels are {', '.join(names)}, and {type(self).__name__} compares a scan with "
                f"its mirrored self; convert with --mirrored, or train with SamAdapterTrainer_noMirror"
            )

    def initialize(self) -> None:
        """nnU-Net's, then the frozen weights from their file; a checkpoint or -pretrained_weights may follow."""
        self.enable_deep_supervision = False
        super().initialize()  # type: ignore[misc]
        network = self._plain_network()  # type: ignore[attr-defined]
        if self.device.type == "cpu":
            with_channels_last(network)
        if network.weights["spec"] != NOTHING:
            network.load_frozen()
            self.print_to_log_file(  # type: ignore[attr-defined]
                f"CLISC: frozen encoder {network.kind} of {network.weights['spec']}, SHA-256 "
                f"{network.weights['sha256'][:12]}; {count(network, learns=True):,} of {count(network):,} numbers learn"
            )

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, PolyLRScheduler]:
        """AdamW with polynomial decay (public code) for what learns."""
        learning = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(learning, self.initial_lr, weight_decay=self.adapter_decay)
        return optimizer, PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs)

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """There is one output, and no decoder of nnU-Net's to tell."""

    @staticmethod
    def get_training_transforms(*args: Any, **kwargs: Any) -> Any:
        """nnU-Net's, the same for both channels."""
        return synchronised(CLISCTrainer.get_training_transforms(*args, **kwargs))

    def save_checkpoint(self, filename: str) -> None:
        """The final checkpoint holds all and can be taken along; others leave out what the weight file holds."""
        network = self._plain_network()  # type: ignore[attr-defined]
        before = network.keeps_frozen  # one checkpoint is written while another one is
        network.keeps_frozen = filename.endswith("checkpoint_final.pth") or network.weights["spec"] == NOTHING
        try:
            super().save_checkpoint(filename)  # type: ignore[misc]
        finally:
            network.keeps_frozen = before


def with_channels_last(network: torch.nn.Module) -> None:
    """Keep the channels of 2D and of 3D convolutions last in memory, which is faster on a CPU."""
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            module.to(memory_format=torch.channels_last)
        elif isinstance(module, torch.nn.Conv3d | torch.nn.ConvTranspose3d):
            module.to(memory_format=torch.channels_last_3d)


def count(network: torch.nn.Module, *, learns: bool = False) -> int:
    """How many numbers a network has, or how many of them learn."""
    return sum(each.numel() for each in network.parameters() if each.requires_grad or not learns)


class CLISCTrainer_SamAdapter(SamAdapter, CLISCTrainer):  # noqa: N801
    """CLISC's two rounds with S3F on SAM's encoder with adapters: labels without masks meet SAM's features."""


class SamAdapterTrainer(CLISCTrainer_SamAdapter):
    """AISCT-SAM: one round, on masks of its own or on pseudo-labels."""

    rounds = 1


class SamAdapterTrainer_noMirror(SamAdapterTrainer):  # noqa: N801
    """Ablation: the mirrored channel, where there is one, is not looked at."""

    see_mirror = False


class SamAdapterTrainer_noDepth(SamAdapterTrainer):  # noqa: N801
    """Ablation: slices do not see their neighbours inside the encoder."""

    see_depth = False


class SamAdapterTrainer_random(SamAdapterTrainer):  # noqa: N801
    """Control: the frozen encoder is random."""

    pretrained_encoder = False


class SamAdapterTrainer_unet(CLISCTrainer_noSelfTraining):  # noqa: N801
    """Control: a U-Net of random weights that makes as many steps."""

    epochs = SamAdapter.epochs
    min_iterations = SamAdapter.min_iterations


class SmallAdapter:
    """Sizes that finish on two CPU cores, with the embedded SAM's encoder."""

    adapter_plans = AdapterPlans(patch=(16, 96, 96), widths=(8, 16, 32, 64, 128), convolutions=1)
    sam_weights = "embedded"
    epochs = 10
    min_iterations = 32
    learning_rate = 1e-3  # a hundredth of the published steps must go further each
    mirror_at_inference = False
    relabelling_step = 1.0
    warm_start = True
    cpu_bfloat16 = True


class SamAdapterTrainer_small(SmallAdapter, SamAdapterTrainer):  # noqa: N801
    """AISCT-SAM on two CPU cores."""


class SamAdapterTrainer_small_noMirror(SmallAdapter, SamAdapterTrainer_noMirror):  # noqa: N801
    """Without the mirrored channel on two CPU cores."""


class SamAdapterTrainer_small_noDepth(SmallAdapter, SamAdapterTrainer_noDepth):  # noqa: N801
    """Without depth adapters on two CPU cores."""


class SamAdapterTrainer_small_random(SmallAdapter, SamAdapterTrainer_random):  # noqa: N801
    """Control on two CPU cores: the frozen encoder is random."""


class SamAdapterTrainer_small_unet(CLISCTrainer_small_noSelfTraining_scratch):  # noqa: N801
    """Control on two CPU cores: a U-Net of random weights that makes as many steps."""

    epochs = SmallAdapter.epochs


class CLISCTrainer_SamAdapter_small(SmallAdapter, CLISCTrainer_SamAdapter):  # noqa: N801
    """CLISC's two rounds on SAM's encoder on two CPU cores."""
