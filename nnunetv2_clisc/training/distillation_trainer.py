"""UM-SAM's trainer: a 2D U-Net learns from pseudo-labels and from SAM's features (UM-SAM 2.2).

The paper keeps SAM's features of whole slices on disk. Here SAM looks at the patch that the network sees, since random
crops and rotations would leave stored features on another grid. SAM is no part of the network: checkpoints stay stock
U-Nets, which `nnUNetv2_predict` and `export_stock` take.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from batchgenerators.utilities.file_and_folder_operations import load_pickle
from segment_anything.modeling import Sam
from torch import Tensor, nn
from torch.nn import functional as F

from dataset_conversion.errors import UserError
from nnunetv2_clisc.training.distillation import contrast_loss, feature_loss, prototypes
from nnunetv2_clisc.training.plans import NetworkSettings
from nnunetv2_clisc.training.trainer import CLISCTrainer
from pseudo_labeling.embedded.models import ConvImageEncoder
from pseudo_labeling.run.workspace import flair_channel, shows_pictures
from pseudo_labeling.settings import DistillationSettings
from pseudo_labeling.weights.models import load_sam

CROPPED = "shape_after_cropping_and_before_resampling"  # of a case, in what nnU-Net's preprocessing knows of it
DARKEST, BRIGHTEST = 0.005, 0.995  # quantiles of a patch that become 0 and 255


class Teacher:
    """SAM's image encoder, frozen, on the patches that a network is trained on.

    No module of the network's, so that neither its parameters nor its checkpoints hold it.

    Args:
        sam: on the device of training.
        channels: of the patch that SAM is shown: one, or a picture's three.
    """

    def __init__(self, sam: Sam, channels: Sequence[int]) -> None:
        self.sam = sam.requires_grad_(False).eval()
        self.channels = list(channels)

    @property
    def width(self) -> int:
        """Number of features of a place."""
        return int(self.sam.prompt_encoder.embed_dim)

    @torch.no_grad()
    def __call__(self, patches: Tensor) -> Tensor:
        """Features of patches, of their own extent without padding.

        Args:
            patches: `(b, c, y, x)` of any range.

        Returns:
            `(b, d, h, w)` float32.
        """
        shown = patches[:, self.channels].float()
        size = int(self.sam.image_encoder.img_size)
        scale = size / max(shown.shape[2:])
        edges = [round(edge * scale) for edge in shown.shape[2:]]
        with torch.autocast(patches.device.type, enabled=False):  # float16 overflows in SAM's encoder
            grey = F.interpolate(eight_bit(shown), size=edges, mode="bilinear", antialias=True).expand(-1, 3, -1, -1)
            features: Tensor = self.sam.image_encoder(self.sam.preprocess(grey))
            if isinstance(self.sam.image_encoder, ConvImageEncoder):  # the published ones end in this
                features = F.layer_norm(features.permute(0, 2, 3, 1), features.shape[1:2]).permute(0, 3, 1, 2)
        height, width = (-(-edge * features.shape[-1] // size) for edge in edges)
        return features[..., :height, :width].float()


def eight_bit(patches: Tensor) -> Tensor:
    """Patches `(b, c, y, x)` of any range as the 0 to 255 that SAM expects, each by quantiles of its own."""
    flat = patches.flatten(1)
    ends = torch.quantile(flat, torch.tensor([DARKEST, BRIGHTEST], device=flat.device, dtype=flat.dtype), dim=1)
    low, high = (end.view(-1, 1, 1, 1) for end in ends)
    return (((patches - low) / (high - low).clamp_min(1e-6)).clamp(0, 1) * 255).round()


class DistillingLoss(nn.Module):
    """nnU-Net's loss of the pseudo-labels, and how far the network's features are from SAM's (UM-SAM, Eq. 9).

    Args:
        labels: nnU-Net's loss, with deep supervision where the network has it.
        settings: weights of the other two losses; one that is 0 is not computed.
    """

    def __init__(self, labels: nn.Module, settings: DistillationSettings) -> None:
        super().__init__()
        self.labels = labels
        self.settings = settings
        self.bottleneck: Tensor | None = None  # of the network's last forward pass
        self.teacher: Tensor | None = None  # SAM's features of the same patches

    def forward(self, output: Any, target: Any) -> Tensor:
        """The loss of one step; arguments as of nnU-Net's."""
        loss: Tensor = self.labels(output, target)
        if self.bottleneck is None or self.teacher is None:
            return loss
        logits = output[0] if isinstance(output, list | tuple) else output
        with torch.autocast(logits.device.type, enabled=False):
            probability = logits.float().softmax(1)
            student, teacher = prototypes(self.bottleneck, probability), prototypes(self.teacher, probability)
            if self.settings.feature:
                loss = loss + self.settings.feature * feature_loss(student, teacher)
            if self.settings.contrast:
                loss = loss + self.settings.contrast * contrast_loss(student, teacher, self.settings.temperature)
        return loss


class DistillationTrainer(CLISCTrainer):
    """UM-SAM's network: labels, class-level features and class-level contrast (triple distillation), in one round.

    Learns from the labels of any route; λ and τ are the dataset's settings (`distillation`), the teacher is the SAM
    that made its labels. For configuration `2d`, of volumes and of pictures.
    """

    network_settings = NetworkSettings(patch_2d=(256, 256), batch_size_2d=32)  # paper 3.1
    takes_slices = True
    rounds = 1
    epochs = 200  # paper 3.1
    min_iterations = 100
    weight_decay_2d = 5e-4  # paper 3.1
    share_of_slices = 0.0  # that an epoch sees at least; nnU-Net's own 2D epoch is as long for any data
    use_feature_loss = True
    use_contrast_loss = True

    def samples_of_epoch(self, cases: Sequence[str]) -> int:
        """One pass over the cases, or over a share of their slices where the variant says so."""
        share = self.share_of_slices
        if not share:
            return super().samples_of_epoch(cases)
        folder = Path(self.preprocessed_dataset_folder)
        slices = sum(load_pickle(str(folder / f"{case}.pkl"))[CROPPED][0] for case in cases)
        return math.ceil(share * slices)

    def initialize(self) -> None:
        """nnU-Net's, and the teacher beside it."""
        self.weight_decay = self.weight_decay_2d  # before the optimiser is made
        super().initialize()
        self.teacher: Teacher | None = None
        if not isinstance(self.loss, DistillingLoss) or not self._distils():
            return
        self.teacher = self._build_teacher()
        loss = self.loss
        network: Any = self._plain_network()

        def keep(_module: nn.Module, _inputs: Any, skips: Sequence[Tensor]) -> None:
            loss.bottleneck = skips[-1]

        network.encoder.register_forward_hook(keep)  # before the first pass, so that a compiled network has it too

    def _build_loss(self) -> nn.Module:
        settings = self.fold_data.settings.distillation
        asked = DistillationSettings(
            feature=settings.feature if self.use_feature_loss else 0.0,
            contrast=settings.contrast if self.use_contrast_loss else 0.0,
            temperature=settings.temperature,
        )
        return DistillingLoss(super()._build_loss(), asked)

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """One step; the teacher sees the augmented patch."""
        self._ask_teacher(batch)
        return super().train_step(batch)

    def validation_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """One validation step, likewise."""
        self._ask_teacher(batch)
        return super().validation_step(batch)

    def _ask_teacher(self, batch: dict[str, Any]) -> None:
        if self.teacher is not None:
            self.loss.teacher = self.teacher(batch["data"].to(self.device, non_blocking=True))

    def _distils(self) -> bool:
        return bool(self.loss.settings.feature or self.loss.settings.contrast)

    def _build_teacher(self) -> Teacher:
        """The SAM that made the labels.

        Raises:
            UserError: the network's bottleneck is not as wide as SAM's features, so their distance means nothing.
        """
        if shows_pictures(self.dataset_json):
            channels = [0, 1, 2]
        else:
            channels = [flair_channel(self.dataset_json, f"{self.fold_data.name}/dataset.json")]
        spec = self.fold_data.sam_spec
        teacher = Teacher(load_sam(spec, self.device).model, channels)
        width = self.network_settings.features[-1]
        if teacher.width != width:
            fitting = "DistillationTrainer_small" if teacher.width == SMALL.features[-1] else "DistillationTrainer"
            raise UserError(
                f"-tr {type(self).__name__}: its network has {width} features at the bottleneck and the teacher "
                f"({spec}) {teacher.width}; train with {fitting}, or set network_settings in the class"
            )
        return teacher


class DistillationTrainer_noFeature(DistillationTrainer):  # noqa: N801
    """Ablation: labels and contrast."""

    use_feature_loss = False


class DistillationTrainer_noContrast(DistillationTrainer):  # noqa: N801
    """Ablation: labels and features."""

    use_contrast_loss = False


class DistillationTrainer_plain(DistillationTrainer):  # noqa: N801
    """Ablation: labels alone (the paper's L_plkd), the same network and schedule."""

    use_feature_loss = use_contrast_loss = False


SMALL = NetworkSettings(features=(8, 16, 32, 64, 128), patch_2d=(128, 128), batch_size_2d=4)


class SmallDistillation:
    """Sizes that finish on two CPU cores, and fit the embedded SAM's width."""

    network_settings = SMALL
    epochs = 12
    min_iterations = 50
    share_of_slices = 0.25  # phantoms are learned in 600 steps; scans need more (docs/results.md)
    learning_rate = 0.05  # a hundredth of the paper's steps must go further each
    mirror_at_inference = False
    cpu_bfloat16 = True


class DistillationTrainer_small(SmallDistillation, DistillationTrainer):  # noqa: N801
    """UM-SAM on two CPU cores."""


class DistillationTrainer_small_noFeature(SmallDistillation, DistillationTrainer_noFeature):  # noqa: N801
    """Labels and contrast on two CPU cores."""


class DistillationTrainer_small_noContrast(SmallDistillation, DistillationTrainer_noContrast):  # noqa: N801
    """Labels and features on two CPU cores."""


class DistillationTrainer_small_plain(SmallDistillation, DistillationTrainer_plain):  # noqa: N801
    """Labels alone on two CPU cores."""
