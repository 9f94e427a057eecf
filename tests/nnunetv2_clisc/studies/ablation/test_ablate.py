"""`nnUNetv2_clisc ablate`: sharing, resuming, and a table that says what `evaluate` says."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from dataset_conversion.errors import UserError
from nnunetv2_clisc.scoring.evaluation import evaluate_folders
from nnunetv2_clisc.studies.ablation.ablate import ablate
from nnunetv2_clisc.studies.ablation.networks import branch
from nnunetv2_clisc.studies.ablation.runs import RUNS, chosen_runs
from nnunetv2_clisc.training.s3f import keep_all, kept_cases, load_agreement
from tests.helpers.commands import Run, last_line
from tests.helpers.tiny_nnunet import ENVIRONMENT, NAME, TinyDataset, digest, plan
from tests.helpers.trained_fold import TRAIN, fold_of


@pytest.fixture(scope="module")
def prepared(labelled: Path) -> Path:
    """The labelled dataset, planned and preprocessed."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            patch.setenv(name, str(labelled / name))
        plan(501, ["3d_fullres", "2d"])
    return labelled


@pytest.fixture
def data(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found_by_nnunet: None) -> Path:
    """The environment of that dataset, with results of the test's own; its raw folder."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed"):
        monkeypatch.setenv(name, str(prepared / name))
    (tmp_path / "nnUNet_results").mkdir()
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "nnUNet_results"))
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    return prepared / "nnUNet_raw" / "Dataset501_P"


def times(folder: Path, pattern: str) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in sorted(folder.glob(pattern))}


def table(output: Path) -> dict[str, dict[str, str]]:
    with open(output / "table.csv", newline="") as file:
        return {row["run"]: row for row in csv.DictReader(file)}


# ---- the list


def test_the_list_is_table_2_and_figure_3() -> None:
    assert [run.name for run in chosen_runs(["table2"])] == [
        "raw-cam", "amda-cam", "sam-points", "sam-box", "sam-both", "no-self-training", "no-s3f", "full",
    ]  # fmt: skip
    assert [run.alpha for run in chosen_runs(["alpha"]) if run.stage == "roi"] == [0, 10, 20, 30]
    assert [run.beta for run in chosen_runs(["beta"])] == [0, 10, 20, 30, 40]
    assert chosen_runs([]) == [
        run for run in RUNS if run.group not in ("c2s", "um-sam", "sam-adapter")
    ]  # what the paper has
    assert [run.name for run in chosen_runs(["alpha-10", "full"])] == ["full", "alpha-10-cam", "alpha-10-sam"]
    with pytest.raises(UserError, match="--only alpha-5: no such run; known: table2"):
        chosen_runs(["full", "alpha-5"])


def test_mistakes_end_in_one_line(data: Path, clisc: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert "--only nonsense" in last_line(clisc("ablate", "-d", 501, "-o", out, "--only", "nonsense", ok=False))
    (tmp_path / "empty").mkdir()
    assert "empty" in last_line(clisc("ablate", "-d", 501, "-o", out, "--gt", tmp_path / "empty", ok=False))
    wrong = ["ablate", "-d", 501, "-o", out, "--only", "full", "-device", "cpu", "-tr"]
    assert "-tr Nobody" in last_line(clisc(*wrong, "Nobody", ok=False))
    assert "both rounds and S3F" in last_line(clisc(*wrong, "CLISCTrainer_small_noS3F", ok=False))


# ---- before the network


def test_c2s_changes_one_thing_a_row_and_says_what_the_best_choice_would_be(
    data: Path, tmp_path: Path, scans: Path
) -> None:
    before, out = digest(data), tmp_path / "out"
    names = ("gradcam", "randomcam-cam", "untrained", "box", "one", "mean", "consensus", "oracle")
    only = [f"c2s-{name}" for name in names]
    text = ablate(501, out, only=only, device="cpu", gt=scans / "labels")
    assert digest(data) == before
    rows = table(out)
    assert list(rows)[:2] == ["c2s-gradcam-cam", "c2s-gradcam-sam"]
    assert "no method" in text
    assert "IoU (%)" in text
    score = {name: float(row["dsc_mean"]) for name, row in rows.items()}
    assert score["c2s-oracle"] >= max(score[f"c2s-{name}"] for name in ("mean", "consensus", "one")) - 1e-9
    assert len({row["predictions"] for row in rows.values()}) == len(only) + 1
    # the row with one mask is the dataset's own first pass
    masks = [out / "predictions" / name / "seed_0" / "p05.nii.gz" for name in ("c2s-one", "sam_both_alpha_20")]
    ablate(501, out, only=["sam-both"], device="cpu", gt=scans / "labels")
    np.testing.assert_array_equal(*(sitk.GetArrayFromImage(sitk.ReadImage(str(path))) for path in masks))


@pytest.mark.slow  # a process for each training and prediction, which start others
def test_um_sam_trains_each_combination_of_losses(data: Path, tmp_path: Path, scans: Path) -> None:
    (tmp_path / "trainers" / "distilling.py").write_text(
        "from tests.helpers.tiny_nnunet import QuickDistillation, QuickDistillation_plain\n"
    )

    def run() -> str:
        only = ["um-sam-labels", "um-sam-plain", "um-sam-full"]
        where = {"images": scans / "images", "gt": scans / "labels"}
        return ablate(501, tmp_path / "out", only=only, trainer="QuickDistillation", device="cpu", **where)

    assert "UM-SAM: what each loss earns" in run()
    rows = table(tmp_path / "out")
    assert list(rows) == ["um-sam-labels", "um-sam-plain", "um-sam-full"]
    made = times(tmp_path / "out", "**/checkpoint_final.pth")
    assert len(made) == 2
    evaluation = evaluate_folders(tmp_path / "out/predictions/QuickDistillation/seed_0", scans / "labels")
    assert float(rows["um-sam-full"]["dsc_mean"]) == pytest.approx(evaluation.summary()["dsc"].mean)
    run()
    assert times(tmp_path / "out", "**/checkpoint_final.pth") == made


@pytest.mark.slow  # a process for each training and prediction, which start others
def test_sam_adapter_trains_each_part_on_masks_of_its_own_too(
    both: TinyDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found_by_nnunet: None
) -> None:
    """On a dataset without pseudo-labels, over two seeds; the control shares the network of the whole."""
    (tmp_path / "trainers" / "adapting.py").write_text(
        "from tests.helpers.mirrored_dataset import QuickAdapter, QuickAdapter_unet\n"
    )
    supervised = tmp_path / "preprocessed" / NAME
    supervised.mkdir(parents=True)
    for path in both.preprocessed.iterdir():
        (supervised / path.name).symlink_to(path)
    content = json.loads((both.preprocessed / "dataset.json").read_text())
    del content["clisc"]
    (supervised / "dataset.json").unlink()
    (supervised / "dataset.json").write_text(json.dumps(content))
    monkeypatch.setenv("nnUNet_preprocessed", str(supervised.parent))
    images = tmp_path / "images"
    images.mkdir()
    for path in sorted((both.raw / "imagesTr").glob("case_[45]_*")):
        shutil.copy(path, images)

    def run(*names: str, **more: Any) -> str:
        only = [f"sam-adapter-{name}" for name in names]
        where = {"images": images, "gt": both.raw / "labelsTr", "device": "cpu"}
        return ablate(611, tmp_path / "out", only=only, trainer="QuickAdapter", **where, **more)

    text = run("full", "exchanged", "unet")
    assert "AISCT-SAM: what each part earns" in text
    assert "α" not in text
    made = times(tmp_path / "out", "**/checkpoint_final.pth")
    assert len(made) == 2
    rows = table(tmp_path / "out")
    evaluation = evaluate_folders(
        tmp_path / "out/predictions/QuickAdapter_unet/seed_0", both.raw / "labelsTr", cases=["case_4", "case_5"]
    )
    assert float(rows["sam-adapter-unet"]["dsc_mean"]) == pytest.approx(evaluation.summary()["dsc"].mean)
    exchanged = sorted((tmp_path / "out" / "images_exchanged").iterdir())
    assert [path.name for path in exchanged] == [f"case_{n}_{c:04d}.nii.gz" for n in (4, 5) for c in (0, 1)]
    theirs, ours = (sitk.ReadImage(str(path)) for path in (images / "case_5_0001.nii.gz", exchanged[1]))
    np.testing.assert_allclose(
        *(sitk.GetArrayFromImage(sitk.DICOMOrient(each, "LPS")) for each in (theirs, ours)), atol=1e-3
    )
    assert ours.GetDirection() == sitk.ReadImage(str(exchanged[0])).GetDirection() != theirs.GetDirection()
    run("unet", seeds=2)
    again = times(tmp_path / "out", "**/checkpoint_final.pth")
    assert {path: again[path] for path in made} == made
    assert len(again) == 3
    seeded = json.loads((tmp_path / "out/networks/seed_1/preprocessed" / NAME / "dataset.json").read_text())
    assert seeded["seed"] == 1000
    first, second = (path for path in again if "QuickAdapter_unet__" in str(path))
    assert first.read_bytes() != second.read_bytes()
    (images / "case_5_0001.nii.gz").unlink()
    with pytest.raises(
        UserError, match=r"case_5_0000\.nii\.gz: no channel of a mirrored scan; give what `mirror` wrote"
    ):
        run()


def test_label_runs_share_stages_and_leave_the_dataset_alone(data: Path, tmp_path: Path, scans: Path) -> None:
    before, out = digest(data), tmp_path / "out"
    only = ["raw-cam", "amda-cam", "sam-box", "alpha-10", "alpha-20"]
    ablate(501, out, only=only, device="cpu", gt=scans / "labels")
    assert digest(data) == before

    (variant,) = (out / "labels").glob("*/Dataset501_P")
    assert variant.parent.name == "alpha_10_seed_0"  # 20 is the dataset's own
    mine, theirs = variant / "clisc", data / "clisc"
    for shared in ("slice_labels/*.json", "classifier/raw.pt", "cam_raw/*.npz", "roi_raw/*.nii.gz"):
        expected = {path.relative_to(theirs): at for path, at in times(theirs, shared).items()}
        assert {path.relative_to(mine): at for path, at in times(mine, shared).items()} == expected
        assert expected
    assert (mine / "classifier" / "amda.pt").read_bytes() != (theirs / "classifier" / "amda.pt").read_bytes()

    rows = table(out)
    assert list(rows) == ["raw-cam", "amda-cam", "sam-box", "alpha-10-cam", "alpha-10-sam", "alpha-20-cam", "alpha-20-sam"]  # fmt: skip  # noqa: E501
    assert rows["amda-cam"]["predictions"] == rows["alpha-20-cam"]["predictions"]
    for row in rows.values():
        scores = evaluate_folders(Path(row["predictions"]), scans / "labels", cases=["p05"]).summary()
        assert float(row["dsc_mean"]) == pytest.approx(scores["dsc"].mean)
    quality = evaluate_folders(variant / "labelsTr", scans / "labels", cases=[f"p0{n}" for n in range(5)])
    assert float(rows["alpha-10-sam"]["labels_dsc"]) == pytest.approx(quality.summary()["dsc"].mean)
    assert {"table.md", "table.tex", "table.csv", "summary.json", "alpha.png", "alpha.svg"} <= {
        path.name for path in out.iterdir()
    }
    assert (out / "comparison" / "table.md").is_file()

    done = times(out, "predictions/*/*/*.nii.gz") | times(out, "labels/*/*/clisc/*/*")
    lost = out / "predictions" / "roi_alpha_10" / "seed_0" / "p05.nii.gz"
    lost.unlink()
    text = (out / "table.md").read_text()
    ablate(501, out, only=only, device="cpu", gt=scans / "labels")
    again = times(out, "predictions/*/*/*.nii.gz") | times(out, "labels/*/*/clisc/*/*")
    assert {path for path in done if again[path] != done[path]} == {lost}
    assert (out / "table.md").read_text() == text


# ---- networks


def test_a_branch_goes_on_in_round_2_with_other_cases(
    fold: object,
    tiny: TinyDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = fold_of(tiny.trainer())
    before = digest(source.path)
    agreements = [load_agreement(source.finished_cases, case) for case in TRAIN]
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "branched"))
    trainer = tiny.trainer(continued=True)
    branch(source, trainer.folder, keep_all([a for a in agreements if a]), {"beta": None})
    assert os.stat(trainer.folder.final(1)).st_ino == os.stat(source.final(1)).st_ino
    trainer.run_training()
    assert kept_cases(trainer.folder.s3f) == TRAIN
    assert trainer.folder.read_state() == source.read_state()
    assert trainer.folder.final(2).read_bytes() != source.final(2).read_bytes()
    assert not (trainer.folder.path / "round_1" / "progress.png").exists()
    assert digest(source.path) == before
    finished = trainer.folder.final(2).read_bytes()
    branch(source, trainer.folder, keep_all([a for a in agreements if a]), {"beta": None})
    (aside,) = trainer.folder.path.parent.glob("until_*_fold_0")
    assert (aside / "checkpoint_final.pth").read_bytes() == finished
    assert not trainer.folder.final(2).exists()


@pytest.mark.slow
def test_network_runs_share_round_1_resume_and_repeat(data: Path, tmp_path: Path, scans: Path) -> None:
    out = tmp_path / "out"
    raw, preprocessed = digest(data), digest(Path(os.environ["nnUNet_preprocessed"]))

    def run(*names: str, seeds: int = 1) -> str:
        return ablate(501, out, only=names, trainer="QuickTrainer", device="cpu", gt=scans / "labels", seeds=seeds)

    run("no-self-training", "no-s3f", "full", "beta-20", "beta-40")
    assert (digest(data), digest(Path(os.environ["nnUNet_preprocessed"]))) == (raw, preprocessed)
    assert not any(Path(os.environ["nnUNet_results"]).iterdir())
    networks = out / "networks" / "seed_0"
    trained_rounds = {path.relative_to(networks).parts[0] for path in networks.glob("*/**/round_1/progress.png")}
    assert trained_rounds == {"full"}
    finals = times(networks, "*/**/fold_0/checkpoint_final.pth")
    assert len(finals) == len({path.parts[-5] for path in finals}) > 1
    rows = table(out)
    assert rows["beta-20"]["predictions"] == rows["full"]["predictions"]
    assert rows["no-s3f"]["predictions"] != rows["full"]["predictions"]
    for row in rows.values():
        scores = evaluate_folders(Path(row["predictions"]), scans / "labels", cases=["p05"]).summary()
        assert float(row["dsc_mean"]) == pytest.approx(scores["dsc"].mean)
    similarities = list(networks.glob("full/**/s3f/similarities.csv"))
    assert len(similarities) == 1
    assert (out / "beta.svg").is_file()

    # killed in a variant's round 2: the rest is left alone
    lost = next(path for path in finals if "full" not in path.parts)
    state = lost.with_name("clisc_state.json")
    state.write_text(json.dumps(json.loads(state.read_text()) | {"stage": "round_2"}))
    lost.unlink()
    run("no-s3f", "full", "beta-40")
    again = times(networks, "*/**/fold_0/checkpoint_final.pth")
    assert {path for path in finals if again[path] != finals[path]} == {lost}

    assert "over 2 seeds" in run("full", seeds=2)
    assert times(networks, "*/**/fold_0/checkpoint_final.pth") == again
    seeded = json.loads((out / "networks/seed_1/preprocessed/Dataset501_P/dataset.json").read_text())
    assert seeded["clisc"]["settings"]["seed"] == 1000
    content = json.loads((out / "summary.json").read_text())
    assert content["methods"]["full"]["dsc"]["n"] == 2

    # a finished fold of the user's own is used as it is
    results = Path(os.environ["nnUNet_results"])
    shutil.copytree(networks / "full" / "Dataset501_P", results / "Dataset501_P", symlinks=True)
    other = tmp_path / "other"
    ablate(501, other, only=["full"], trainer="QuickTrainer", device="cpu", gt=scans / "labels")
    assert not (other / "networks").exists()
