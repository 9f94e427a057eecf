"""Two rounds with S3F between them: what is on disk, resuming, ranks, and that no mask is read."""

from __future__ import annotations

import csv
import json
import os
import pickle
import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_clisc.fold import FoldFolder, outside_mask, write_training_case
from nnunetv2_clisc.rounds import SelfTraining
from nnunetv2_clisc.trainer import CLISCTrainer, CLISCTrainer_noS3F, CLISCTrainer_small_noS3F
from nnunetv2_clisc.trainer import CLISCTrainer_small_noSelfTraining as OneRound
from tests.tiny_nnunet import CASES, CLISC_ENTRY, NAME, Quick, QuickTrainer, TinyDataset, digest, lesion, python

TRAIN, VAL = CASES[:5], CASES[5:]


class QuickNoS3F(Quick, CLISCTrainer_small_noS3F):
    """Round 2 with every case."""

    def build_segmenter(self) -> Any:
        raise AssertionError("SAM is not asked without S3F")


class QuickOneRound(Quick, OneRound):
    """Round 1 only."""


def fold_of(trainer: SelfTraining) -> FoldFolder:
    return trainer.folder


def rows(folder: FoldFolder) -> list[dict[str, str]]:
    with (folder.s3f / "similarities.csv").open() as file:
        return list(csv.DictReader(file))


def seg_of(folder: Path, case: str) -> np.ndarray:
    return np.asarray(blosc2.open(str(folder / f"{case}_seg.b2nd"))[:])


def properties_of(folder: Path, case: str) -> dict[str, Any]:
    with (folder / f"{case}.pkl").open("rb") as file:
        return dict(pickle.load(file))


@pytest.fixture(scope="module")
def trained(planned: TinyDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results folder of one uninterrupted run; tests copy it."""
    results = tmp_path_factory.mktemp("trained") / "results"
    with pytest.MonkeyPatch.context() as patch:
        for name, folder in (("raw", "raw"), ("preprocessed", "preprocessed")):
            patch.setenv(f"nnUNet_{name}", str(planned.root / folder))
        patch.setenv("nnUNet_results", str(results))
        patch.setenv("nnUNet_n_proc_DA", "0")
        trainer = planned.trainer()
        trainer.run_training()
    return results


@pytest.fixture
def fold(trained: Path, tiny: TinyDataset) -> FoldFolder:
    """That run, copied into the test's own results folder."""
    shutil.copytree(trained, os.environ["nnUNet_results"], symlinks=True)
    return fold_of(tiny.trainer())


def back_to(folder: FoldFolder, stage: str, forget: Sequence[str] = ()) -> None:
    """Rewind a finished fold to a stage, as if it had been killed there."""
    state = json.loads((folder.path / "clisc_state.json").read_text())
    (folder.path / "clisc_state.json").write_text(json.dumps(state | {"stage": stage}))
    for name in forget:
        shutil.rmtree(folder.path / name, ignore_errors=True)
        (folder.path / name).unlink(missing_ok=True)


# ---- what a run leaves behind


def test_two_rounds_leave_both_models_and_curves(fold: FoldFolder) -> None:
    assert json.loads((fold.path / "clisc_state.json").read_text())["stage"] == "done"
    for folder in (fold.path, fold.path / "round_1"):
        assert {"checkpoint_final.pth", "checkpoint_best.pth", "progress.png"} <= {p.name for p in folder.iterdir()}
        assert not (folder / "checkpoint_latest.pth").exists()
    first, second = (torch.load(fold.final(number), weights_only=True)["network_weights"] for number in (1, 2))
    assert any(not torch.equal(first[name], second[name]) for name in first)
    assert not list(fold.path.rglob("*.tmp"))
    assert not list(fold.path.rglob("tmp-*"))


def test_table_follows_the_percentile_and_the_masks_on_disk(fold: FoldFolder, tiny: TinyDataset) -> None:
    table = rows(fold)
    assert [row["case"] for row in table] == TRAIN
    similarities = [float(row["similarity"]) for row in table]
    threshold = np.percentile(similarities, CLISC_ENTRY["settings"]["s3f"]["beta"])  # type: ignore[index]
    for row in table:
        predicted, sam = (
            sitk.GetArrayFromImage(sitk.ReadImage(str(path))) > 0
            for path in (fold.prediction(row["case"], ".nii.gz"), fold.sam_mask(row["case"], ".nii.gz"))
        )
        assert (int(row["predicted_voxels"]), int(row["sam_voxels"])) == (predicted.sum(), sam.sum())
        dice = 2 * (predicted & sam).sum() / (predicted.sum() + sam.sum())
        assert float(row["similarity"]) == pytest.approx(dice, abs=1e-6)
        assert row["kept"] == str(int(dice >= threshold - 1e-6))
        scan = sitk.ReadImage(str(tiny.raw / "imagesTr" / f"{row['case']}_0000.nii.gz"))
        assert sitk.ReadImage(str(fold.prediction(row["case"], ".nii.gz"))).GetDirection() == scan.GetDirection()
    dropped = [row["case"] for row in table if row["kept"] == "0"]
    assert dropped
    assert sorted(p.stem for p in (fold.s3f / "dropped").iterdir()) == dropped
    summary = json.loads((fold.s3f / "summary.json").read_text())
    assert (summary["beta"], summary["dropped"]) == (30.0, dropped)
    assert summary["settings"]["prompts"]["kind"] == "both"


def test_round_2_trains_on_kept_predictions_with_their_own_locations(fold: FoldFolder, tiny: TinyDataset) -> None:
    original = tiny.preprocessed / "nnUNetPlans_3d_fullres"
    for case in TRAIN:
        new, old = seg_of(fold.training_files, case), seg_of(original, case)
        assert new.shape == old.shape
        assert new.dtype == old.dtype
        assert (fold.training_files / f"{case}.b2nd").read_bytes() == (original / f"{case}.b2nd").read_bytes()
        locations = properties_of(fold.training_files, case)["class_locations"]
        assert list(locations) == [1]
        np.testing.assert_array_equal(
            np.unique(locations[1], axis=0), np.argwhere(new == 1) if (new == 1).sum() < 10000 else locations[1]
        )
        # the grid is the scan's own here, so the exported prediction, cropped, is the new label
        exported = sitk.GetArrayFromImage(sitk.ReadImage(str(fold.prediction(case, ".nii.gz"))))
        box = tuple(slice(*edge) for edge in properties_of(original, case)["bbox_used_for_cropping"])
        np.testing.assert_array_equal(exported[box], new[0] == 1)
    trainer = tiny.trainer()
    trainer.initialize()
    trainer.round = 2
    train, val = trainer.get_tr_and_val_datasets()
    assert train.identifiers == [row["case"] for row in rows(fold) if row["kept"] == "1"]
    assert Path(train.source_folder) == fold.training_files
    assert (val.identifiers, Path(val.source_folder)) == (VAL, original)
    trainer.round = 1
    assert trainer.get_tr_and_val_datasets()[0].identifiers == TRAIN


def test_new_labels_are_what_nnunet_predicts_with_round_1(
    fold: FoldFolder, tiny: TinyDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "extension").mkdir()
    (tmp_path / "extension" / "mine.py").write_text("from tests.tiny_nnunet import QuickTrainer\n")
    monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path / "extension"))
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(fold.path.parent), (0,), "round_1/checkpoint_final.pth")
    for case in TRAIN:
        scan = str(tiny.raw / "imagesTr" / f"{case}_0000.nii.gz")
        (expected,) = predictor.predict_from_files_sequential([[scan]], None)
        found = sitk.GetArrayFromImage(sitk.ReadImage(str(fold.prediction(case, ".nii.gz"))))
        assert found.any()
        np.testing.assert_array_equal(found, expected)


def test_final_validation_scores_the_validation_cases(fold: FoldFolder, tiny: TinyDataset) -> None:
    trainer = tiny.trainer()
    trainer.load_checkpoint(str(fold.final(2)))
    trainer.perform_actual_validation()
    summary = json.loads((fold.path / "validation" / "summary.json").read_text())
    assert [Path(row["prediction_file"]).name for row in summary["metric_per_case"]] == [f"{VAL[0]}.nii.gz"]


# ---- settings of a variant


def test_epoch_is_one_pass_over_the_cases_of_the_round(
    fold: FoldFolder, tiny: TinyDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Counting(QuickTrainer):
        min_iterations = 1
        warm_start = False  # nothing is trained here that round 2 could go on from

    trainer = tiny.trainer(Counting)
    counts = []
    monkeypatch.setattr(nnUNetTrainer, "run_training", lambda self: None)
    shutil.copytree(fold.s3f, trainer.folder.s3f)
    for number in (1, 2):
        trainer._train_round(number)
        counts.append((trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch))
    kept = sum(row["kept"] == "1" for row in rows(fold))
    assert counts == [(3, 1), (-(-kept // 2), 1)]


class StandingStill(QuickTrainer):
    """Round 2 with a learning rate of zero ends with the weights that it began with."""

    def configure_optimizers(self) -> Any:
        self.initial_lr = 0.0 if self.round == 2 else self.learning_rate
        return super().configure_optimizers()


class StandingStillFromScratch(StandingStill):
    """The same, as the paper's settings have it."""

    warm_start = False


@pytest.mark.parametrize("kind", [StandingStill, StandingStillFromScratch])
def test_round_2_begins_where_it_should(kind: type[StandingStill], fold: FoldFolder, tiny: TinyDataset) -> None:
    trainer = tiny.trainer(kind)
    for name in ("round_1", "s3f", "round_2/preprocessed"):
        shutil.copytree(fold.path / name, fold_of(trainer).path / name, symlinks=True)
    trainer._train_round(2)
    weights = [torch.load(fold_of(trainer).final(number), weights_only=True)["network_weights"] for number in (1, 2)]
    same = all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert same == kind.warm_start


def test_without_s3f_every_case_is_relabelled_and_kept(tiny: TinyDataset) -> None:
    trainer = tiny.trainer(QuickNoS3F)
    trainer.run_training()
    folder = fold_of(trainer)
    assert [(row["kept"], row["similarity"]) for row in rows(folder)] == [("1", "")] * 5
    assert folder.final(2).is_file()


def test_without_self_training_round_1_is_the_model_and_needs_no_pseudo_labels(tiny: TinyDataset) -> None:
    trainer = tiny.trainer(QuickOneRound, clisc=None)
    trainer.run_training()
    names = {path.name for path in fold_of(trainer).path.iterdir()}
    assert "checkpoint_final.pth" in names
    assert not {"round_1", "s3f", "round_2"} & names


def test_fold_all_trains_on_every_case(tiny: TinyDataset) -> None:
    trainer = tiny.trainer(fold="all")
    trainer.run_training()
    assert [row["case"] for row in rows(fold_of(trainer))] == CASES
    assert fold_of(trainer).final(2).is_file()


# ---- resuming


def test_killed_in_every_stage_the_same_command_finishes(tiny: TinyDataset) -> None:
    """SIGKILL in round 1, in S3F and in round 2; what was done before is not done again."""
    code = (
        "from tests.tiny_nnunet import DyingTrainer, TinyDataset; from pathlib import Path; "
        f"TinyDataset(Path({str(tiny.root)!r})).trainer(DyingTrainer).run_training()"
    )
    folder = FoldFolder(
        Path(os.environ["nnUNet_results"]) / NAME / "DyingTrainer__nnUNetPlans__3d_fullres" / "fold_0", 2
    )

    assert python(code, DIE="round_1 1").returncode == -signal.SIGKILL
    assert not folder.final(1).exists()

    killed = python(code, DIE="s3f 3")
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    assert "resuming this fold in stage round_1" in killed.stdout
    assert "checkpoint_latest.pth found, 2 epochs are done" in killed.stdout
    finished = {path.name: path.stat().st_mtime_ns for path in folder.finished_cases.glob("*.json")}
    assert len(finished) == 2
    assert not (folder.s3f / "similarities.csv").exists()

    killed = python(code, DIE="round_2 0")
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    assert "2 of 5 cases are done already" in killed.stdout
    now = {path.name: path.stat().st_mtime_ns for path in folder.finished_cases.glob("*.json")}
    assert {name: now[name] for name in finished} == finished
    assert len(now) == 5
    assert not folder.final(2).exists()
    table, labels = rows(folder), digest(folder.training_files)

    done = python(code)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "checkpoint_latest.pth found, 1 epochs are done" in done.stdout
    assert folder.final(2).is_file()

    # the interrupted S3F made what an uninterrupted one makes
    back_to(folder, "s3f", forget=["s3f", "round_2", "checkpoint_final.pth", "checkpoint_best.pth"])
    assert python(code, DIE="round_2 0").returncode == -signal.SIGKILL
    assert (rows(folder), digest(folder.training_files)) == (table, labels)


def test_finished_fold_is_left_alone_with_c_and_trained_anew_without(fold: FoldFolder, tiny: TinyDataset) -> None:
    before = digest(fold.path)
    trainer = tiny.trainer(continued=True)
    trainer.run_training()
    assert trainer.was_initialized
    assert {k: v for k, v in digest(fold.path).items() if "training_log" not in k} == {
        k: v for k, v in before.items() if "training_log" not in k
    }
    tiny.trainer()._enter()
    assert fold.read_state().stage == "round_1"  # type: ignore[union-attr]
    assert not list(fold.path.rglob("checkpoint_*.pth"))
    assert not fold.s3f.exists()


def test_changed_data_begin_anew_or_stop_with_c(fold: FoldFolder, tiny: TinyDataset) -> None:
    back_to(fold, "s3f")
    changed = {"clisc": CLISC_ENTRY | {"seed": 5}}
    with pytest.raises(SystemExit, match=r"error: .*cannot continue"):
        tiny.trainer(continued=True, **changed).run_training()
    assert fold.final(1).is_file()
    tiny.trainer(**changed)._enter()
    assert fold.read_state().stage == "round_1"  # type: ignore[union-attr]
    assert not fold.final(1).exists()


def test_round_cut_off_while_its_checkpoint_was_written_resumes(fold: FoldFolder, tiny: TinyDataset) -> None:
    """A half-written file has a temporary name, so the checkpoint before it is found."""
    back_to(fold, "round_1", forget=["s3f", "round_2", "checkpoint_final.pth"])
    final = fold.final(1)
    (final.parent / "checkpoint_latest.pth.123.tmp").write_bytes(final.read_bytes()[:100])
    final.unlink()
    trainer = tiny.trainer()
    trainer._advance(trainer._enter())
    assert final.is_file()
    assert fold.read_state().stage == "s3f"  # type: ignore[union-attr]


# ---- label-free, reproducible, shared


def s3f_again(folder: FoldFolder, tiny: TinyDataset, change: Callable[[SelfTraining], None] | None = None) -> Any:
    back_to(folder, "s3f", forget=["s3f", "round_2"])
    trainer = tiny.trainer()
    trainer._split = (list(TRAIN), list(VAL))
    if change:
        change(trainer)
    trainer._relabel()
    return digest(folder.s3f), digest(folder.training_files)


def test_s3f_gives_the_same_bytes_whatever_the_masks_are(
    fold: FoldFolder, tiny: TinyDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Masks present, absent and replaced by noise, from one round-1 checkpoint."""
    expected = s3f_again(fold, tiny)
    for case in ("absent", "noise"):
        root = tmp_path / case
        for name in ("raw", "preprocessed"):
            shutil.copytree(tiny.root / name, root / name)
            monkeypatch.setenv(f"nnUNet_{name}", str(root / name))
        masks = [root / "raw" / NAME / "labelsTr", root / "preprocessed" / NAME / "gt_segmentations"]
        segs = sorted((root / "preprocessed" / NAME).rglob("*_seg.b2nd"))
        assert len(segs) == 6
        rng = np.random.default_rng(1)
        for path in [*(file for folder in masks for file in folder.iterdir()), *segs]:
            if case == "absent":
                path.unlink()
            elif path.suffix == ".gz":
                image = sitk.ReadImage(str(path))
                noise = sitk.GetImageFromArray(rng.integers(0, 2, image.GetSize()[::-1], dtype=np.uint8))
                noise.CopyInformation(image)
                sitk.WriteImage(noise, str(path))
            else:
                shape = seg_of(path.parent, path.name.removesuffix("_seg.b2nd")).shape
                path.unlink()
                blosc2.asarray(rng.integers(0, 2, shape, dtype=np.int16), urlpath=str(path))
        for pkl in (root / "preprocessed" / NAME).rglob("*.pkl"):
            values = pickle.loads(pkl.read_bytes())
            pkl.write_bytes(pickle.dumps(values | {"class_locations": {1: []}}))
        assert s3f_again(fold, tiny) == expected


def test_two_ranks_share_s3f_and_train_together(fold: FoldFolder, tiny: TinyDataset) -> None:
    """The whole of S3F and round 2 in two processes (gloo, CPU) gives the table that one process gives."""
    expected = digest(fold.s3f), digest(fold.training_files)
    back_to(fold, "s3f", forget=["s3f", "round_2", "checkpoint_final.pth", "checkpoint_best.pth"])
    result = python(f"from tests.two_ranks import main; main({str(tiny.root)!r})")
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-3000:]
    assert (digest(fold.s3f), digest(fold.training_files)) == expected
    by_rank = [json.loads((fold.path / f"rank_{rank}.json").read_text()) for rank in (0, 1)]
    assert [found["cases"] for found in by_rank] == [3, 2]
    assert by_rank[0]["stages"] == by_rank[1]["stages"] == ["round_2", "done"]
    assert by_rank[0]["weights"] == by_rank[1]["weights"]
    assert fold.final(2).is_file()


# ---- bad input, before any training


@pytest.mark.parametrize("kind", [CLISCTrainer, CLISCTrainer_noS3F])
def test_dataset_without_pseudo_labels_is_refused(tiny: TinyDataset, kind: type[CLISCTrainer]) -> None:
    with pytest.raises(SystemExit, match=r"error: .*no 'clisc' entry; run nnUNetv2_clisc pseudo_label -d 611"):
        tiny.trainer(kind, clisc=None).run_training()


def test_sam_that_is_not_there_is_found_before_training(tiny: TinyDataset) -> None:
    entry = CLISC_ENTRY | {"weights": {"sam": {"spec": "/no/such/sam.pth"}}}
    with pytest.raises(SystemExit, match=r"error: /no/such/sam\.pth"):
        tiny.trainer(CLISCTrainer, clisc=entry).run_training()
    with pytest.raises(SystemExit, match=r"error: .*does not name the SAM"):
        tiny.trainer(CLISCTrainer, clisc={"settings": {}}).run_training()


def test_missing_scan_or_raw_folder_is_found_before_training(
    tiny: TinyDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tmp_path / "raw"
    shutil.copytree(tiny.root / "raw", raw)
    monkeypatch.setenv("nnUNet_raw", str(raw))
    (raw / NAME / "imagesTr" / f"{CASES[2]}_0000.nii.gz").unlink()
    with pytest.raises(SystemExit, match=rf"error: .*{CASES[2]}_0000\.nii\.gz: the scan is missing"):
        tiny.trainer().run_training()
    monkeypatch.delenv("nnUNet_raw")
    with pytest.raises(SystemExit, match="error: nnUNet_raw: not set"):
        tiny.trainer().run_training()


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"train": ["stranger"], "val": VAL}, "case 'stranger' is not preprocessed"),
        ({"train": [], "val": VAL}, "at least one training and one validation case"),
        ({"train": TRAIN, "val": []}, "at least one training and one validation case"),
    ],
)
def test_bad_split_is_refused(
    tiny: TinyDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: dict[str, Any], message: str
) -> None:
    shutil.copytree(tiny.root / "preprocessed", tmp_path / "preprocessed")
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "preprocessed"))
    (tmp_path / "preprocessed" / NAME / "splits_final.json").write_text(json.dumps([split]))
    with pytest.raises(SystemExit, match=message):
        tiny.trainer().run_training()


def test_several_foreground_labels_are_refused(tiny: TinyDataset) -> None:
    with pytest.raises(SystemExit, match="exactly one foreground label"):
        tiny.trainer(labels={"background": 0, "tumour": 1, "oedema": 2}).run_training()


def test_unreadable_state_is_named(tiny: TinyDataset) -> None:
    trainer = tiny.trainer()
    (trainer.folder.path / "clisc_state.json").write_text("{")
    with pytest.raises(SystemExit, match=r"error: .*clisc_state\.json.*delete it"):
        trainer.run_training()


def test_empty_predictions_everywhere_stop_before_round_2(fold: FoldFolder, tiny: TinyDataset) -> None:
    def nothing(trainer: SelfTraining) -> None:
        trainer.label_manager.convert_logits_to_segmentation = (
            lambda logits: np.zeros(  # type: ignore[method-assign]
                logits.shape[1:], dtype=np.uint8
            )
        )

    with pytest.raises(ValueError, match=r"keeps none of 5 training cases \(5 with an empty prediction\)"):
        s3f_again(fold, tiny, nothing)
    assert not (fold.s3f / "similarities.csv").exists()


# ---- files of round 2


def test_training_case_links_the_image_and_samples_the_new_label(tiny: TinyDataset, tmp_path: Path) -> None:
    source = tiny.preprocessed / "nnUNetPlans_3d_fullres"
    seg = np.zeros(seg_of(source, CASES[0]).shape, dtype=np.int16)
    seg[0, 2, 3:5, 4] = 1
    target = tmp_path / "round_2" / "preprocessed"
    for _ in range(2):  # again after a kill
        write_training_case(source, target, CASES[0], seg, [1], (16, 32, 32))
    assert (target / f"{CASES[0]}.b2nd").is_symlink()
    dataset = nnUNetDatasetBlosc2(str(target))
    data, loaded, _, properties = dataset.load_case(CASES[0])
    np.testing.assert_array_equal(loaded[:], seg)
    assert data.shape == seg.shape
    assert sorted(map(tuple, properties["class_locations"][1])) == [(0, 2, 3, 4), (0, 2, 4, 4)]
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == [
        f"{CASES[0]}.b2nd",
        f"{CASES[0]}.pkl",
        f"{CASES[0]}_seg.b2nd",
    ]


def test_outside_of_the_scan_is_found_as_preprocessing_finds_it(tiny: TinyDataset) -> None:
    """Against the -1 that nnU-Net wrote, on cases whose label lies inside the scan."""
    trainer = tiny.trainer()
    source = tiny.preprocessed / "nnUNetPlans_3d_fullres"
    configuration = trainer.configuration_manager
    properties = properties_of(source, CASES[1])
    arguments = ([trainer.raw_scan(CASES[1])], properties, trainer.plans_manager, configuration)
    old = seg_of(source, CASES[1])
    configuration.configuration["use_mask_for_norm"] = [False]
    assert outside_mask(*arguments, old.shape[1:]) is None
    configuration.configuration["use_mask_for_norm"] = [True]
    outside = outside_mask(*arguments, old.shape[1:])
    assert outside is not None
    assert 0 < outside.sum() < outside.size
    np.testing.assert_array_equal(outside, old == -1)
    assert lesion(1)[1].sum() == (old == 1).sum()
