"""The frozen weights of an adapted encoder, from a SAM's file."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from dataset_conversion.errors import UserError
from nnunetv2_clisc.networks.encoders import AdaptedConvolutions, AdaptedVit, Kind
from pseudo_labeling.weights.checkpoints import read_state_dict
from pseudo_labeling.weights.files import locate
from pseudo_labeling.weights.mobile_sam import with_timm_names
from pseudo_labeling.weights.models import check_finite, published_sam

NOTHING = "none"  # as a file: the encoder stays random, which is a control
MED2D = "image_encoder.blocks.0.Adapter.norm.weight"  # a tensor that only SAM-Med2D's files have


def encoder_of(spec: str) -> tuple[Kind, dict[str, str]]:
    """Which encoder a SAM's file has, and what the plans say of the file: `spec` and `sha256`.

    Args:
        spec: as for `--sam-weights`: `embedded`, `paper`, a known name or a file; also one of SAM-Med2D.

    Raises:
        UserError: the file is missing, damaged, or of an encoder that cannot be adapted.
    """
    path, record = locate("sam", spec)
    state = read_state_dict(path)
    facts = {"spec": spec, "sha256": record.sha256}
    if MED2D in state:
        return "med2d", facts
    kind = published_sam(state)
    if kind is None and "image_encoder.stem.0.weight" in state:
        return "embedded", facts
    if kind == "vit_b":
        return "vit_b", facts
    if kind == "vit_t":
        return "vit_t", facts
    raise UserError(
        f"{path}: is {'a SAM ' + kind if kind else 'no SAM that is known here'}; an adapted encoder is that of a SAM "
        "ViT-B, MedSAM, SAM-Med2D, MobileSAM or the embedded one"
    )


def frozen_tensors(
    encoder: AdaptedVit | AdaptedConvolutions, kind: Kind, weights: Mapping[str, str]
) -> dict[str, Tensor]:
    """The encoder's frozen tensors by their names in the network, read from the file that the plans name.

    Raises:
        UserError: the file is missing, damaged, or not the one that the plans name.
    """
    spec, wanted = weights["spec"], weights["sha256"]
    if spec == NOTHING:
        raise UserError("the checkpoint lacks the frozen encoder, and its plans name no file of it; train again")
    path, record = locate("sam", spec)
    if record.sha256 != wanted:
        raise UserError(
            f"{path}: is not the file that this network was made from (SHA-256 {wanted[:12]}…, found "
            f"{record.sha256[:12]}…); put that one there"
        )
    state = read_state_dict(path)
    try:
        found = encoder.frozen_from(with_timm_names(state) if kind == "vit_t" else state)
    except (KeyError, ValueError, RuntimeError) as error:
        raise UserError(f"{path}: lacks {error} of the encoder {kind}; the file is damaged, get it again") from error
    check_finite(found, path)
    return {f"encoder.{name}": tensor for name, tensor in found.items()}
