"""A segmentation network of volumes whose way down is SAM's frozen image encoder (AISCT-SAM's `AIS_SAM`).

nnU-Net builds it from the plans, so stock prediction does too, wherever this package can be imported.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dataset_conversion.errors import UserError
from nnunetv2_clisc.networks.encoders import AdapterSettings, Kind, build_encoder, is_frozen, multiple_of
from nnunetv2_clisc.networks.frozen import frozen_tensors
from nnunetv2_clisc.networks.symmetry import IN_PLANE, SymmetricDifferences, conv_block
from pseudo_labeling.precision import has_bfloat16

STRIDES = (2, 4, 8, 16)  # in plane, of the decoder's skips; depth is never pooled


class SamAdapterNet(nn.Module):
    """SAM's encoder slice by slice with adapters, differences to the mirrored scan at each scale, a 3D decoder.

    Nothing here reads a file: the frozen weights come from a checkpoint, or from :meth:`load_frozen`.

    Args:
        input_channels: of the dataset; the first is the scan, the second the mirrored scan.
        num_classes: channels of the logits.
        encoder: kind of SAM's encoder.
        weights: which file the frozen weights come from, as for `--sam-weights`, and its SHA-256.
        patch: `(z, y, x)` that the network is trained and asked with; z may be any.
        widths: channels of the decoder at strides 1, 2, 4, 8 and 16.
        convolutions: of each stage of the decoder and of the differences.
        rank, adapter, depth: see :class:`AdapterSettings`.
        symmetric: whether the mirrored scan is looked at.
        deep_supervision: nnU-Net's argument; there is one output.
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        encoder: Kind,
        weights: Mapping[str, str],
        patch: Sequence[int],
        widths: Sequence[int] = (16, 32, 64, 128, 256),
        convolutions: int = 2,
        rank: int = 4,
        adapter: int = 64,
        depth: bool = True,
        symmetric: bool = True,
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        edge = multiple_of(encoder)
        if patch[1] % edge or patch[2] % edge:
            raise UserError(
                f"plans.json: patch {list(patch)} cannot be tiled by the encoder {encoder}; its last two edges must be "
                f"multiples of {edge}"
            )
        if symmetric and input_channels < 2:
            raise UserError("dataset.json: has one channel, and this network compares a scan with its mirrored self")
        self.kind, self.weights = encoder, dict(weights)
        self.symmetric = symmetric
        self.keeps_frozen = True  # whether `state_dict` holds what can be had from the weight file
        self.encoder = build_encoder(encoder, (patch[1], patch[2]), AdapterSettings(rank, adapter, depth))
        self.lifts = nn.ModuleList(self._lifts(self.encoder.levels, widths))
        self.differences = SymmetricDifferences(widths[1:], convolutions) if symmetric else None
        self.finest = conv_block(1, widths[0])
        self.ups = nn.ModuleList(
            nn.ConvTranspose3d(coarse, fine, IN_PLANE, IN_PLANE) for fine, coarse in itertools.pairwise(widths)
        )
        self.joins: nn.ModuleList = nn.ModuleList(conv_block(2 * fine, fine, convolutions) for fine in widths[:-1])
        self.head = nn.Conv3d(widths[0], num_classes, 1)
        self.register_state_dict_post_hook(_without_frozen)

    def forward(self, x: Tensor) -> Tensor:
        """Patches `(b, c, z, y, x)` to logits `(b, classes, z, y, x)`."""
        scan, depth = x[:, :1], x.shape[2]
        skips = self._lifted(scan, depth)
        if self.differences is not None:
            mirrored = x[:, 1:2]
            skips = [a + b for a, b in zip(skips, self.differences(scan, mirrored), strict=True)]
            skips = [self.finest(scan - mirrored), *skips]
        else:
            skips = [self.finest(scan), *skips]
        found = skips[-1]
        for skip, up, join in zip(skips[-2::-1], self.ups[::-1], self.joins[::-1], strict=True):
            found = join(torch.cat([up(found), skip], 1))
        logits: Tensor = self.head(found)
        return logits

    def _lifted(self, scan: Tensor, depth: int) -> list[Tensor]:
        """The encoder's maps as the decoder's skips `(b, c, z, y / s, x / s)` at strides 2, 4, 8 and 16."""
        device = scan.device
        # float16 overflows in SAM's encoder, and both the trainer and nnU-Net's predictor ask for it on a GPU
        bfloat16 = torch.is_autocast_enabled(device.type) and has_bfloat16(device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bfloat16):
            slices = scan.float().transpose(1, 2).flatten(0, 1).expand(-1, 3, -1, -1)
            maps = self.encoder(slices, depth)
        volumes = [each.float().unflatten(0, (-1, depth)).transpose(1, 2) for each in maps]
        return [lift(volumes[number]) for number, lift in zip(self.sources, self.lifts, strict=True)]

    def _lifts(self, levels: Sequence[tuple[int, int]], widths: Sequence[int]) -> list[nn.Module]:
        """What brings the encoder's maps to the decoder's widths and strides; where several fit, the last one.

        Of a ViT all maps have one stride: its blocks are lifted in their order, the earlier the finer.
        """
        strides = [stride for _, stride in levels]
        if len(set(strides)) == 1:
            self.sources = list(range(len(levels)))
        else:
            coarsest_finer = [[n for n, s in enumerate(strides) if s <= wanted] for wanted in STRIDES]
            self.sources = [fitting[-1] if fitting else 0 for fitting in coarsest_finer]
        lifts: list[nn.Module] = []
        for number, wanted, width in zip(self.sources, STRIDES, widths[1:], strict=True):
            channels, stride = levels[number]
            layers: list[nn.Module] = []
            while stride > wanted:
                layers += [nn.ConvTranspose3d(channels, width, IN_PLANE, IN_PLANE), nn.LeakyReLU(inplace=True)]
                channels, stride = width, stride // 2
            lifts.append(nn.Sequential(*layers, nn.Conv3d(channels, width, 1)))
        return lifts

    @torch.no_grad()
    def load_frozen(self) -> None:
        """Take over the frozen weights from the file that the plans name.

        Raises:
            UserError: the file is missing, damaged, or another one.
        """
        own = self.encoder.state_dict()  # refers to the tensors themselves
        for name, tensor in frozen_tensors(self.encoder, self.kind, self.weights).items():
            own[name.removeprefix("encoder.")].copy_(tensor)

    def frozen_names(self) -> list[str]:
        """Tensors that never learn, by their names in the state dict."""
        return [f"encoder.{name}" for name in self.encoder.state_dict() if is_frozen(name)]

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Torch's; frozen weights that a checkpoint leaves out come from the file that they were taken from.

        Raises:
            UserError: that file is not there, or is another one.
        """
        missing = [name for name in self.frozen_names() if name not in state_dict]
        if missing:
            state_dict = {**state_dict, **frozen_tensors(self.encoder, self.kind, self.weights)}
        return super().load_state_dict(state_dict, strict, assign)


def _without_frozen(module: Any, state: dict[str, Any], prefix: str, _metadata: Any) -> None:
    """Leave out of a state dict what the weight file holds, where the network is told to."""
    if not module.keeps_frozen:
        for name in module.frozen_names():
            state.pop(prefix + name, None)
