"""Do depth adapters use neighbours? ``python -m benchmarks.shuffled_slices --model DIR --images DIR --gt DIR -o OUT``.

A trained `SamAdapterTrainer` predicts scans as they are, and with its encoder, and it alone, shown the slices of each
tile in another order: its maps go back to their places, so nothing else of the network changes. Without depth adapters
that makes no difference, with them as much as they rely on the neighbours.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from torch import Tensor

from nnunetv2_clisc.scoring.evaluation import evaluate_folders


def shuffle_slices(encoder: Any, seed: int = 0) -> None:
    """Let an encoder of slices see those of each volume in an order drawn anew for each call."""
    forward, generator = encoder.forward, torch.Generator().manual_seed(seed)

    def shuffled(slices: Tensor, depth: int) -> list[Tensor]:
        order = torch.randperm(depth, generator=generator)
        maps = forward(slices.unflatten(0, (-1, depth))[:, order].flatten(0, 1), depth)
        return [each.unflatten(0, (-1, depth))[:, order.argsort()].flatten(0, 1) for each in maps]

    encoder.forward = shuffled


def main() -> None:
    """Print DSC both ways."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="…/SamAdapterTrainer__nnUNetPlans__3d_fullres")
    parser.add_argument("--images", type=Path, required=True, help="scans with their mirror images")
    parser.add_argument("--gt", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    predictor = nnUNetPredictor(
        device=torch.device(options.device), use_mirroring=False, perform_everything_on_device=False
    )
    predictor.initialize_from_trained_model_folder(str(options.model), (0,), "checkpoint_final.pth")
    for title in ("in order", "shuffled"):
        if title == "shuffled":
            shuffle_slices(predictor.network.encoder)
        output = options.output / title.replace(" ", "_")
        predictor.predict_from_files(
            str(options.images), str(output), num_processes_preprocessing=1, num_processes_segmentation_export=1
        )
        found = evaluate_folders(output, options.gt, name=title).summary()
        dsc, hd95 = found["dsc"], found["hd95_mm"]
        print(f"{title}: DSC {100 * dsc.mean:.1f} ± {100 * dsc.sd:.1f} %, HD95 {hd95.mean:.1f} mm")


if __name__ == "__main__":
    main()
