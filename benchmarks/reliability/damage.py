"""The kinds of damaged input: how one is made, what reads it, and what a right result of it would be."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK as sitk
import torch
from safetensors.torch import save

from benchmarks.reliability import mutations
from benchmarks.reliability.mutations import Rng, choice
from dataset_conversion.files import write_json
from dataset_conversion.folder import convert_folder
from nnunetv2_clisc.evaluation import evaluate_folders
from nnunetv2_clisc.fold import FoldFolder, State
from nnunetv2_clisc.labelling import resolve_settings
from nnunetv2_clisc.plans import read_checkpoint
from nnunetv2_clisc.s3f import Agreement, kept_cases, load_agreement, save_agreement
from pseudo_labeling.checkpoints import read_state_dict
from pseudo_labeling.embedded.models import build_embedded_clip, build_embedded_sam
from pseudo_labeling.models import load_clip, load_sam
from pseudo_labeling.settings import PRESETS, Settings
from pseudo_labeling.slice_labels import read_image_labels
from pseudo_labeling.slices import read_scan
from pseudo_labeling.training_files import load_state
from pseudo_labeling.workspace import Workspace

SHAPE = (6, 20, 24)  # (z, y, x) voxels
SPACING = (1.5, 1.25, 4.0)  # x, y, z in mm
ENDINGS = (".nii.gz", ".nii.gz", ".nii", ".mha", ".nrrd")
TOLERANCE = 1e-3
Read = Callable[[], str]


class Wrong(Exception):
    """A result that is not what the file says."""


@dataclass
class Damaged:
    """A damaged input in a folder of its own.

    Attributes:
        what: was done to it.
        path: the file; an error must name it, its folder's flag or its case.
        read: reads it as the package does; returns what is right about the result, raises :class:`Wrong` where nothing is.
        command: arguments of the installed command that reads it, empty where there is none.
        names: an error may also name one of these.
    """

    what: str
    path: Path
    read: Read
    command: list[str] = field(default_factory=list)
    names: tuple[str, ...] = ()
    marker: Path | None = None


def scan_array(rng: Rng) -> np.ndarray:
    """A small head with a bright lesion, `(z, y, x)` float32."""
    z, y, x = np.indices(SHAPE)
    head = ((y - 10) / 9) ** 2 + ((x - 12) / 10) ** 2 < 1
    lesion = ((y - 8) / 3) ** 2 + ((x - 9) / 3) ** 2 + ((z - 3) / 2) ** 2 < 1
    array: np.ndarray = (300 * head + 300 * (lesion & head) + rng.normal(0, 10, SHAPE)).astype(np.float32)
    return array


def mask_array(shift: int = 0) -> np.ndarray:
    """A block of ones."""
    mask = np.zeros(SHAPE, np.uint8)
    mask[2:5, 5:12, 6 + shift : 14 + shift] = 1
    return mask


def write(path: Path, array: np.ndarray) -> Path:
    """Write `(z, y, x)` on the grid of all test images."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING)
    image.SetOrigin((-14.0, 20.5, -3.0))
    image.SetDirection((-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0))
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path), useCompression=True)
    return path


def damage_image(rng: Rng, path: Path, array: np.ndarray) -> str:
    """Write an image and damage its file; returns what was done."""
    write(path, array)
    data = path.read_bytes()
    nifti = path.name.endswith((".nii", ".nii.gz"))
    note, data = (mutations.damaged_nifti if nifti else mutations.damaged_bytes)(rng, data)
    path.write_bytes(data)
    return f"{path.suffix}: {note}"


# ------------------------------------------------------------------------------------------------------------- images


def scan(rng: Rng, folder: Path) -> Damaged:
    """A scan through `convert`, and what that wrote through what `pseudo_label` reads it with."""
    dtype = choice(rng, (np.float32, np.int16, np.uint8))
    path = folder / "images" / f"bad{choice(rng, ENDINGS)}"
    what = damage_image(rng, path, scan_array(rng).clip(0, 255).astype(dtype))
    write(folder / "images" / "good.nii.gz", scan_array(rng))
    split = folder / "split.json"
    split.write_text('{"train": ["bad"], "val": ["good"]}')

    def read() -> str:
        raw = nnunet_folders(folder)
        try:
            convert_folder(path.parent, dataset_id=501, name="F", split=split)
        except Exception:
            if left := sorted(str(p.relative_to(raw)) for p in raw.rglob("*") if "Dataset501" in str(p)):
                raise Wrong(f"refused, but left {left[:3]}") from None
            raise
        made = raw / "Dataset501_F" / "imagesTr" / "bad_0000.nii.gz"
        try:
            found = read_scan(made)
        except Exception as error:
            raise Wrong(f"convert accepts what pseudo_label refuses: {type(error).__name__}: {error}") from error
        if not np.isfinite(found.volume).all():
            raise Wrong("voxels that are not finite")
        compare_images(path, sitk.ReadImage(str(made)))
        return "converted"

    command = ["convert", "folder", "--images", str(path.parent), "--split", str(split), "-d", "501", "-n", "F"]
    return Damaged(what, path, read, command)


def mask(rng: Rng, folder: Path) -> Damaged:
    """The mask of a test case through `convert`."""
    path = folder / "labels" / f"t{choice(rng, ENDINGS)}"
    values = choice(rng, (mask_array(), 4 * mask_array(), 255 * mask_array().astype(np.int16)))
    what = damage_image(rng, path, values)
    for name in ("a", "b", "t"):
        write(folder / "images" / f"{name}.nii.gz", scan_array(rng))
    split = folder / "split.json"
    split.write_text('{"train": ["a"], "val": ["b"], "test": ["t"]}')

    def read() -> str:
        raw = nnunet_folders(folder)
        convert_folder(folder / "images", dataset_id=501, name="F", labels=path.parent, split=split)
        made = sitk.ReadImage(str(raw / "Dataset501_F" / "labelsTs" / "t.nii.gz"))
        voxels = sitk.GetArrayFromImage(made)
        if not set(np.unique(voxels)) <= {0, 1} or made.GetSize() != SHAPE[::-1]:
            raise Wrong("not a mask of 0 and 1 on the scan's grid")
        if path.name.endswith((".nii", ".nii.gz")):
            theirs = by_nibabel(path)
            if theirs is not None and not np.array_equal(voxels, theirs[0] > 0):
                raise Wrong("another mask than nibabel reads")
        return "converted"

    command = ["convert", "folder", "--images", str(folder / "images"), "--labels", str(path.parent), "--split",
               str(split), "-d", "501", "-n", "F"]  # fmt: skip
    return Damaged(what, path, read, command)


def prediction(rng: Rng, folder: Path) -> Damaged:
    """A prediction, or now and then the reference, through `evaluate`."""
    bad, good = ("pred", "gt") if rng.random() < 0.8 else ("gt", "pred")
    ending = choice(rng, ENDINGS)
    path = folder / bad / f"case{ending}"
    what = f"{bad}, {damage_image(rng, path, mask_array(1))}"
    write(folder / good / "case.nii.gz", mask_array())

    def read() -> str:
        found = evaluate_folders(folder / "pred", folder / "gt", threads=1).cases["case"]
        theirs = by_nibabel(path) if path.name.endswith((".nii", ".nii.gz")) else None
        voxels = theirs[0] if theirs is not None else sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        first, second = voxels != 0, mask_array() > 0
        total = int(first.sum() + second.sum())
        dice = 2 * int((first & second).sum()) / total if total else 1.0
        if not abs(found["dsc"] - dice) < 1e-6:
            raise Wrong(f"DSC {found['dsc']}, but the files say {dice}")
        return "scored"

    return Damaged(what, path, read, ["evaluate", "--pred", str(folder / "pred"), "--gt", str(folder / "gt")])


def nnunet_folders(folder: Path) -> Path:
    """Fresh nnU-Net folders in the environment; returns `nnUNet_raw`."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir()
        os.environ[name] = str(folder / name)
    return folder / "nnUNet_raw"


def by_nibabel(path: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """Voxels `(z, y, x)` and affine as another reader sees them; None where it cannot, or reads no 3D volume."""
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            import gzip

            data = gzip.decompress(data)
        image = nibabel.Nifti1Image.from_bytes(data)
        voxels = np.asarray(image.dataobj, dtype=np.float64)
        while voxels.ndim > 3 and voxels.shape[-1] == 1:
            voxels = voxels[..., 0]
        if voxels.ndim != 3:
            return None
        coded = int(image.header["qform_code"]) > 0 or int(image.header["sform_code"]) > 0
        affine = np.asarray(image.affine) if coded else np.full((4, 4), np.nan)
        units = image.header.get_xyzt_units()[0]
        affine[:3] *= {"meter": 1000.0, "micron": 0.001}.get(units, 1.0)
        return voxels.transpose(), affine
    except Exception:  # the oracle is no help with this file
        return None


def compare_images(path: Path, found: sitk.Image) -> None:
    """Raise :class:`Wrong` unless an image has the voxels and the place that its source says."""
    voxels = sitk.GetArrayFromImage(found).astype(np.float64)
    if not path.name.endswith((".nii", ".nii.gz")):
        theirs: np.ndarray = sitk.GetArrayFromImage(sitk.ReadImage(str(path))).astype(np.float64)
        if not np.array_equal(voxels, theirs):
            raise Wrong("other voxels than in the source")
        return
    other = by_nibabel(path)
    if other is None:
        return
    if voxels.shape != other[0].shape:
        raise Wrong(f"shape {voxels.shape}, nibabel reads {other[0].shape}")
    if not np.allclose(voxels, other[0], rtol=1e-4, atol=1e-3):
        raise Wrong("other voxels than nibabel reads")
    if np.isfinite(other[1]).all():
        corners = [(0, 0, 0), tuple(size - 1 for size in found.GetSize())]
        for corner in corners:
            ours = np.array(found.TransformIndexToPhysicalPoint(corner)) * (-1, -1, 1)
            theirs = (other[1] @ (*corner, 1.0))[:3]
            if not np.allclose(ours, theirs, atol=0.1, rtol=TOLERANCE):
                raise Wrong(f"voxel {corner} lies at {ours.round(2)}, nibabel says {theirs.round(2)} (RAS, mm)")


# ------------------------------------------------------------------------------------------------------------- texts


def slice_labels(rng: Rng, folder: Path) -> Damaged:
    """A table of slice labels."""
    depths = {"a": 4, "b": 5}
    rows = [(case, z, int(z in (1, 2))) for case, depth in depths.items() for z in range(depth)]
    text = "case,slice,label\n" + "".join(f"{case},{z},{label}\n" for case, z, label in rows)
    what, data = mutations.damaged_csv(rng, text)
    path = folder / "labels.csv"
    path.write_bytes(data)

    def read() -> str:
        found = read_image_labels(path, depths)
        if {case: len(labels) for case, labels in found.items()} != depths:
            raise Wrong("not all slices have a label")
        told = re.findall(r"^\W*(a|b)\W*,\W*(\d+)\W*,\W*(\d+)\W*$", path.read_text("utf-8-sig"), re.M)
        if told and {(c, int(z), int(v)) for c, z, v in told} != {
            (case, z, int(v)) for case, labels in found.items() for z, v in enumerate(labels)
        }:
            raise Wrong("other labels than the table says")
        return "read"

    return Damaged(what, path, read)


def settings(rng: Rng, folder: Path) -> Damaged:
    """A file for `--settings`."""
    full = Settings().merged(PRESETS[choice(rng, sorted(PRESETS))]).to_dict()
    content = json.loads(json.dumps(full)) if rng.random() < 0.5 else {
        group: full[group] for group in (choice(rng, [k for k in full if k != "seed"]),)
    }  # fmt: skip
    what, data = mutations.damaged_json(rng, content)
    path = folder / "settings.json"
    path.write_bytes(data)

    def read() -> str:
        found = resolve_settings("embedded", path, [], 0)
        check_settings(found)
        return "valid"

    command = ["pseudo_label", "-d", "501", "--settings", str(path), "--weights", "embedded", "-device", "cpu"]
    return Damaged(what, path, read, command, names=("settings",))


def check_settings(found: Settings) -> None:
    """Raise :class:`Wrong` unless settings have the types of the defaults and survive the way to JSON and back."""
    text = json.dumps(found.to_dict(), allow_nan=True)
    if "NaN" in text or "Infinity" in text:
        raise Wrong("a setting is not finite")
    if Settings.from_dict(json.loads(text)) != found:
        raise Wrong("settings change on the way to JSON and back")
    for group, values in Settings().to_dict().items():
        now = found.to_dict()[group]
        for name, default in values.items() if isinstance(values, dict) else ():
            if type(default) is int and type(now[name]) is not int:
                raise Wrong(f"{group}.{name} = {now[name]!r} is no int")
            if type(default) is float and type(now[name]) is not float:
                raise Wrong(f"{group}.{name} = {now[name]!r} is no float: two keys for one value")


def split_file(rng: Rng, folder: Path) -> Damaged:
    """A file for `--split`."""
    names = ["a", "b", "c"]
    for name in names:
        write(folder / "images" / f"{name}.nii.gz", scan_array(rng))
    what, data = mutations.damaged_json(rng, {"train": ["a"], "val": ["b"], "test": ["c"]})
    path = folder / "split.json"
    path.write_bytes(data)

    def read() -> str:
        raw = nnunet_folders(folder)
        convert_folder(folder / "images", dataset_id=501, name="F", split=path)
        dataset = raw / "Dataset501_F"
        folds = json.loads((dataset / "splits_final.json").read_text())
        cases = {p.name[:-12] for p in (dataset / "imagesTr").iterdir()}
        if set(folds[0]["train"]) | set(folds[0]["val"]) != cases or not folds[0]["train"] or not folds[0]["val"]:
            raise Wrong("the split and the scans do not match")
        return "converted"

    command = ["convert", "folder", "--images", str(folder / "images"), "--split", str(path), "-d", "501", "-n", "F"]
    return Damaged(what, path, read, command)


def record(rng: Rng, folder: Path) -> Damaged:
    """A record of ours that a kill, a disk or a person has damaged."""
    kind = choice(rng, ("case", "agreement", "state", "kept", "dataset"))
    dataset = folder / "Dataset501_F"
    (dataset / "labelsTr").mkdir(parents=True)
    files = Workspace(dataset)
    if kind == "case":
        files.label("a").write_bytes(b"label")
        files.finish("masks", "a", "k", [files.label("a")], mask_voxels=3)
        path = dataset / "clisc" / "masks" / "a.json"
    elif kind == "agreement":
        save_agreement(folder, Agreement("a", 10, 12, 0.5))
        path = folder / "a.json"
    elif kind == "state":
        FoldFolder(folder, 2).write_state(State("s3f", "0" * 64))
        path = folder / "clisc_state.json"
    elif kind == "kept":
        path = folder / "summary.json"
        write_json(path, {"kept": ["a", "b"], "dropped": []})
    else:
        path = files.dataset_json
        write_json(path, {"labels": {"background": 0, "tumour": 1}, "clisc": {"seed": 0}})
    note, data = mutations.damaged_json(rng, json.loads(path.read_text()))
    path.write_bytes(data)

    def read() -> str:
        if kind == "case":
            found = files.record("masks", "a", "k")
            if found is not None and not (isinstance(found, dict) and found.get("key") == "k"):
                raise Wrong(f"the record is {found!r}")
            return "done again" if found is None else "taken"
        if kind == "agreement":
            agreement = load_agreement(folder, "a")
            if agreement is not None and not (
                isinstance(agreement.predicted_voxels, int) and isinstance(agreement.similarity, (int, float, type(None)))
                and agreement.case == "a" and 0 <= (agreement.similarity or 0) <= 1
            ):
                raise Wrong(f"the record is {agreement!r}")
            return "done again" if agreement is None else "taken"
        if kind == "state":
            state = FoldFolder(folder, 2).read_state()
            if state is None or not isinstance(state.origin, str):
                raise Wrong(f"the state is {state!r}")
            return "taken"
        if kind == "kept":
            kept = kept_cases(folder)
            if not kept or not all(isinstance(case, str) and case for case in kept):
                raise Wrong(f"kept are {kept!r}")
            return "taken"
        complete = files.complete
        files.forget_finished_run()
        if complete and files.complete:
            raise Wrong("the entry clisc is still there")
        return "read"

    return Damaged(f"{kind}: {note}", path, read)


# ------------------------------------------------------------------------------------------------------- checkpoints


def weights(rng: Rng, folder: Path) -> Damaged:
    """A small state dict through the reader of all weight files."""
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    state: dict[str, Any] = {f"layer{i}.weight": torch.randn(6, 5, generator=generator) for i in range(4)}
    state["steps"] = torch.tensor(7)
    safetensors = bool(rng.random() < 0.4)
    path = folder / choice(rng, ("model.pt", "model.pth", "model.safetensors"))
    what, data, marker = damage_checkpoint(rng, folder, state, save if safetensors else mutations.saved)
    path.write_bytes(data)

    def read() -> str:
        found = read_state_dict(path)
        for name, tensor in found.items():
            if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
                raise Wrong(f"{name!r} is {type(tensor).__name__}")
        return "read"

    return Damaged(f"{'safetensors' if safetensors else 'torch'}: {what}", path, read, marker=marker)


def network(rng: Rng, folder: Path) -> Damaged:
    """A whole CLIP or SAM, built from the file."""
    kind = choice(rng, ("clip", "sam"))
    state = (build_embedded_clip() if kind == "clip" else build_embedded_sam()).state_dict()
    path = folder / f"{kind}.pt"
    what, data, marker = damage_checkpoint(rng, folder, state, choice(rng, (save_contiguous, mutations.saved)))
    path.write_bytes(data)

    def read() -> str:
        model = load_clip(str(path)).model if kind == "clip" else load_sam(str(path)).model
        bad = [n for n, t in model.state_dict().items() if t.is_floating_point() and not torch.isfinite(t).all()]
        if bad:
            raise Wrong(f"loaded with values that are not finite in {bad[0]}")
        if {n: t.shape for n, t in model.state_dict().items()} != {n: t.shape for n, t in state.items()}:
            raise Wrong("loaded with other shapes")
        return "loaded"

    command = ["sam_prompted", "--sam-weights", str(path)] if False else []
    return Damaged(f"{kind}: {what}", path, read, command, marker=marker)


def training_checkpoint(rng: Rng, folder: Path) -> Damaged:
    """A checkpoint of a trainer, or the state of an interrupted classifier training."""
    if rng.random() < 0.6:
        state: dict[str, Any] = {
            "network_weights": {f"layer{i}.weight": torch.randn(4, 3) for i in range(3)},
            "optimizer_state": {"state": {0: {"momentum_buffer": torch.zeros(4, 3)}}, "param_groups": [{"lr": 0.01}]},
            "grad_scaler_state": None,
            "logging": {"train_losses": [0.5, 0.25]},
            "_best_ema": 0.5,
            "current_epoch": 2,
            "init_args": {"configuration": "3d_fullres", "fold": 0},
            "trainer_name": "CLISCTrainer",
            "inference_allowed_mirroring_axes": (0, 1, 2),
        }
        path = folder / "checkpoint_latest.pth"
        what, data, marker = damage_checkpoint(rng, folder, state, mutations.saved)

        def read() -> str:
            found = read_checkpoint(path)
            if not isinstance(found["trainer_name"], str) or not isinstance(found["network_weights"], dict):
                raise Wrong("accepted without a name of the trainer or weights")
            return "read"
    else:
        model = {"fc.weight": torch.randn(2, 3), "fc.bias": torch.zeros(2)}
        inner = {"epoch": 1, "best_loss": 0.5, "best_epoch": 1, "history": [], "model": model, "optimizer": {},
                 "best_model": model}  # fmt: skip
        path = folder / "raw_partial.pt"
        state = {"key": "k", "state": inner, "network_weights": model}  # the last only tells what to damage
        what, data, marker = damage_checkpoint(rng, folder, state, _without_weights)
        data = data if data else b""

        def read() -> str:
            found = load_state(path, "k")
            if found is not None and not isinstance(found.epoch, int):
                raise Wrong(f"epoch is {found.epoch!r}")
            return "begun anew" if found is None else "resumed"

    path.write_bytes(data)
    return Damaged(what, path, read, marker=marker)


def damage_checkpoint(
    rng: Rng, folder: Path, state: dict[str, Any], make: Callable[[Any], bytes]
) -> tuple[str, bytes, Path]:
    """Damage a checkpoint; also returns the file that hidden code would make."""
    marker = folder / "code_has_run"
    what, data = mutations.damaged_checkpoint(rng, state, make, str(marker))
    return what, data, marker


def save_contiguous(state: dict[str, torch.Tensor]) -> bytes:
    """Safetensors of any state dict."""
    return save({name: tensor.contiguous().clone() for name, tensor in state.items()})


def _without_weights(state: dict[str, Any]) -> bytes:
    return mutations.saved({key: value for key, value in state.items() if key != "network_weights"})


KINDS: dict[str, tuple[float, Callable[[Rng, Path], Damaged]]] = {
    "scan": (0.28, scan),
    "mask": (0.10, mask),
    "prediction": (0.12, prediction),
    "slice labels (CSV)": (0.10, slice_labels),
    "settings (JSON)": (0.12, settings),
    "split (JSON)": (0.04, split_file),
    "record (JSON)": (0.08, record),
    "weights": (0.07, weights),
    "network": (0.04, network),
    "training checkpoint": (0.05, training_checkpoint),
}
