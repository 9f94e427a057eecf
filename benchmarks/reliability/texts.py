"""Damaged slice labels, settings, splits and records."""

from __future__ import annotations

import json
import re
from pathlib import Path

from benchmarks.reliability import mutations
from benchmarks.reliability.damage import Damaged, Wrong
from benchmarks.reliability.images import nnunet_folders, scan_array, write
from benchmarks.reliability.mutations import Rng, choice
from dataset_conversion.files import write_json
from dataset_conversion.sources.folder import convert_folder
from nnunetv2_clisc.running.labelling import resolve_settings
from nnunetv2_clisc.training.fold import STAGES, FoldFolder, State
from nnunetv2_clisc.training.s3f import Agreement, kept_cases, load_agreement, save_agreement
from pseudo_labeling.presets import PRESETS
from pseudo_labeling.run.workspace import Workspace
from pseudo_labeling.settings import Settings
from pseudo_labeling.slice_labels import read_image_labels


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
                isinstance(agreement.predicted_voxels, int)
                and isinstance(agreement.similarity, (int, float, type(None)))
                and agreement.case == "a"
                and 0 <= (agreement.similarity or 0) <= 1
            ):
                raise Wrong(f"the record is {agreement!r}")
            return "done again" if agreement is None else "taken"
        if kind == "state":
            state = FoldFolder(folder, 2).read_state()
            if state is None or state.stage not in STAGES:  # another origin begins anew
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
