"""The main job on made-up scans, through the installed commands, with a table of what each stage earns."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from tqdm import tqdm

from nnunetv2_clisc.demos.steps import CLISC, Demo, write_case, write_split
from nnunetv2_clisc.scoring.stage_table import stage_table
from nnunetv2_clisc.training.plans import architecture
from nnunetv2_clisc.training.start import NETWORK
from pseudo_labeling.embedded.phantoms import Protocol, phantom_volume
from pseudo_labeling.precision import bfloat16_autocast

TRAINING, VALIDATION, TEST = 28, 2, 16  # cases
SHAPE, SPACING_MM = (16, 160, 160), (1.2, 1.2, 7.5)  # (z, y, x) voxels; x, y, z
SMALLEST_ML = 5  # a lesion of a few voxels shows nothing
# of white matter; more than the embedded weights have seen (9 %), so that SAM errs about as it does on real scans
NOISE = 0.18
# Thick slices are often taken in two passes, every second one first. Here the second pass has less signal and the head
# moves in between: no embedded network has seen that, so the 3D start knows these scans no better than real ones
SECOND_PASS_SIGNAL, MOVED_MM = 0.6, 7
DATASET, NAME = 901, "Phantoms"
TRAINER = "CLISCTrainer_small"
# 2 mm instead of the scans' 1.2 mm, as docs/results.md does on CPUs: a patch then shows the whole head
PLANS, SPACING_PLANNED = "nnUNetPlans_coarse", ("7.5", "2", "2")

PATCH = (16, 96, 96)  # what the plans of these scans come to
# on two cores: what starting commands and reading files take, and the rest in steps of training; 5.0 min were taken
# where 5 were announced (AVX-512), and 12.0 where 13 were (AVX2)
SECONDS_OF_ITS_OWN, STEPS_IN_ALL = 150, 1500


def make_phantoms(
    folder: Path,
    seed: int,
    *,
    training: int = TRAINING,
    validation: int = VALIDATION,
    test: int = TEST,
    shape: tuple[int, int, int] = SHAPE,
) -> None:
    """Write phantom scans, their true masks and a split, as a user's folder would look.

    Args:
        folder: gets `images/`, `labels/` and `split.json`.
        seed: of all chance.
        training, validation, test: numbers of cases.
        shape: `(z, y, x)` of a scan, in voxels; its size in mm is always the same.
    """
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    cases = [f"phantom_{number:02d}" for number in range(training + validation + test)]
    protocol = Protocol.draw(np.random.default_rng(seed), stripped=False, noise=NOISE)
    spacing = [mm * usual / here for mm, usual, here in zip(SPACING_MM, SHAPE[::-1], shape[::-1], strict=True)]
    smallest = SMALLEST_ML * 1000 / np.prod(spacing)  # voxels
    for number, case in enumerate(tqdm(cases, desc="phantoms", unit="case")):
        rng = np.random.default_rng([seed, number])
        while True:
            volume, mask = phantom_volume(rng, shape, stripped=False, protocol=protocol)
            if mask.sum() >= smallest:
                break
        volume, mask = taken_in_two_passes(volume, mask, spacing[0], rng)
        write_case(folder, case, volume, mask, spacing)
    write_split(folder, cases, training, validation)


def taken_in_two_passes(
    volume: np.ndarray, mask: np.ndarray, pixel_mm: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Scan and mask `(z, y, x)` with every second slice darker and moved in its plane; which and where to is drawn."""
    second = np.s_[int(rng.integers(2)) :: 2]
    angle = rng.uniform(0, 2 * np.pi)
    move = [round(MOVED_MM / pixel_mm * part) for part in (np.sin(angle), np.cos(angle))]
    volume, mask = volume.copy(), mask.copy()
    # an edge that comes in at the other side holds air only
    volume[second] = np.roll(volume[second] * np.float32(SECOND_PASS_SIGNAL), move, (1, 2))
    mask[second] = np.roll(mask[second], move, (1, 2))
    return volume, mask


def run_demo(output: Path, *, device: str = "cpu", seed: int = 0) -> None:
    """Phantoms, convert, pseudo_label, plan, train both rounds, predict, evaluate; each step the command a user types.

    Args:
        output: folder for everything; must not exist or hold an earlier demo, which is replaced.
        device: `cpu` or `cuda`.
        seed: of phantoms and labelling.

    Raises:
        UserError: the folder holds something else, or a step failed.
    """
    demo = Demo(output, DATASET, NAME, device)
    if device == "cpu":
        print(f"expected on this machine: {expected_minutes():.0f} min", flush=True)
    scans = demo.here / "scans"
    with demo.timed("phantoms"):
        make_phantoms(scans, seed)
    # the scans that were labelled, so that the table compares all stages on the same cases, and scans never seen before
    predicted = {
        (images, round_): demo.here / f"predictions_{round_}_{images}"
        for images in ("imagesTr", "imagesTs")
        for round_ in ("round_1", "round_2")
    }
    new_scans = str(demo.raw / "imagesTs")
    first_pass, simulated = demo.here / "first_pass_imagesTs", demo.here / "simulated_imagesTs"
    final = predicted["imagesTs", "round_2"]
    plans = ("-p", PLANS)
    earlier = {"round_1": ("-chk", "round_1/checkpoint_final.pth"), "round_2": ()}
    demo.run(
        [
            demo.convert("folder", scans, "labels"),
            demo.pseudo_label(seed),
            demo.plan("3d_fullres", "-overwrite_target_spacing", *SPACING_PLANNED, "-overwrite_plans_name", PLANS),
            demo.train("3d_fullres", TRAINER, *plans),
            *(
                demo.predict("3d_fullres", TRAINER, images, folder, *plans, *earlier[round_])
                for (images, round_), folder in predicted.items()
            ),
            demo.first_pass(first_pass),
            [CLISC, "baseline", "simulated", "--images", new_scans, "-o", str(simulated), "-device", device],
            [CLISC, "evaluate", "--pred", str(final), "--gt", str(demo.raw / "labelsTs")],
        ]
    )
    rows = [
        f"round 1={predicted['imagesTr', 'round_1']}",
        f"round 2={predicted['imagesTr', 'round_2']}",
        f"new scans, phantoms only={simulated}",
        f"new scans, SAM={first_pass}",
        f"new scans, round 1={predicted['imagesTs', 'round_1']}",
        f"new scans, round 2={final}",
    ]
    print("\n" + stage_table(DATASET, scans / "labels", rows))
    print(f"\noverlays of the pseudo-labels: {demo.raw / 'clisc' / 'overlays'}")
    fold = demo.results / f"{TRAINER}__{PLANS}__3d_fullres" / "fold_0"
    print(f"cases dropped between the rounds, with overlays: {fold / 's3f'}")
    print(f"predictions: {final}")
    demo.report_times()


def expected_minutes() -> float:
    """How long the demo takes on this CPU, judged by a step of its training."""
    return (SECONDS_OF_ITS_OWN + STEPS_IN_ALL * seconds_a_step()) / 60


def seconds_a_step() -> float:
    """Seconds of forward and backward pass of the demo's network on two of its patches, on the CPU."""
    made = architecture(NETWORK, PATCH)
    network = get_network_from_plans(
        made["network_class_name"], made["arch_kwargs"], made["_kw_requires_import"], 1, 2, deep_supervision=True
    ).to(memory_format=torch.channels_last_3d)
    patches = torch.randn(2, 1, *PATCH)
    seconds = []
    for _ in range(4):  # the first one prepares
        start = time.monotonic()
        with bfloat16_autocast(torch.device("cpu")):
            outputs = network(patches)
        sum(output.float().square().mean() for output in outputs).backward()
        seconds.append(time.monotonic() - start)
    return min(seconds)
