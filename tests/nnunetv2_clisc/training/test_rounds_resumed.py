"""A fold that was killed, finished, changed or cut off: what the same command does."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_clisc.training.fold import FoldFolder
from nnunetv2_clisc.training.plans import NetworkSettings
from tests.helpers.tiny_nnunet import CLISC_ENTRY, NAME, DyingTrainer, QuickTrainer, TinyDataset, digest, python
from tests.helpers.trained_fold import back_to, rows


def test_killed_in_every_stage_the_same_command_finishes(tiny: TinyDataset) -> None:
    """SIGKILL in round 1, in S3F and in round 2; what was done before is not done again."""
    code = (
        "from tests.helpers.tiny_nnunet import DyingTrainer, TinyDataset; from pathlib import Path; "
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
    tiny.trainer(DyingTrainer)._relabel()
    assert (rows(folder), digest(folder.training_files)) == (table, labels)


def test_finished_fold_is_left_alone_with_c_and_trained_anew_without(fold: FoldFolder, tiny: TinyDataset) -> None:
    before = contents(fold.path)
    trainer = tiny.trainer(continued=True)
    trainer.run_training()
    assert trainer.was_initialized
    assert contents(fold.path) == before
    trainer = tiny.trainer()
    trainer._enter()
    assert fold.read_state().stage == "round_1"  # type: ignore[union-attr]
    assert not list(fold.path.rglob("checkpoint_*.pth"))
    assert not fold.s3f.exists()
    (aside,) = earlier(fold)
    assert contents(aside) == before
    assert f"it is now in {aside}" in Path(trainer.log_file).read_text()
    assert Path(trainer.log_file).parent == fold.path
    # nnU-Net takes neither for a fold
    assert nnUNetPredictor.auto_detect_available_folds(str(fold.path.parent), "checkpoint_final.pth") == []


def contents(folder: Path) -> dict[str, str]:
    """Everything but the logs, whose names are those of the second when a trainer was made."""
    return {name: value for name, value in digest(folder).items() if "training_log" not in name}


def earlier(fold: FoldFolder) -> list[Path]:
    """Where trainings of the fold were moved aside to."""
    return sorted(path for path in fold.path.parent.glob(f"until_*_{fold.path.name}"))


def test_killed_while_a_finished_model_is_moved_aside_nothing_is_lost(
    fold: FoldFolder, tiny: TinyDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both right after the folder was renamed and before the new state is written; a second model gets another name."""
    before = contents(fold.path)
    trainer = tiny.trainer()
    with monkeypatch.context() as patch:
        patch.setattr(FoldFolder, "write_state", _killed)
        with pytest.raises(KeyboardInterrupt):
            trainer._enter()
    tiny.trainer()._enter()
    (aside,) = earlier(fold)
    assert contents(aside) == before

    shutil.rmtree(fold.path)
    shutil.copytree(aside, fold.path, symlinks=True)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", _killed)
        with pytest.raises(KeyboardInterrupt):
            fold.make_room()
    assert not fold.path.exists()
    tiny.trainer()._enter()
    assert len(earlier(fold)) == 2
    assert all(contents(path) == before for path in earlier(fold))


def _killed(*arguments: object, **more: object) -> None:
    raise KeyboardInterrupt


def test_model_without_a_state_is_neither_continued_nor_deleted(fold: FoldFolder, tiny: TinyDataset) -> None:
    (fold.path / "clisc_state.json").unlink()
    model = fold.final(2).read_bytes()
    with pytest.raises(SystemExit, match=r"model without clisc_state\.json.*moved aside, not deleted"):
        tiny.trainer(continued=True).run_training()
    assert fold.final(2).read_bytes() == model
    tiny.trainer()._enter()
    assert (earlier(fold)[0] / "checkpoint_final.pth").read_bytes() == model


class Thinner(QuickTrainer):
    """A network of other plans."""

    network_settings = NetworkSettings(features=(2, 4, 4), patch=(16, 32, 32))
    start_from_phantoms = False


Thinner.__name__ = "QuickTrainer"  # the same output folder


def test_finished_model_of_other_labels_is_not_taken_for_one_of_these(
    fold: FoldFolder, tiny: TinyDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--c` says so; in a chain of jobs the fold is trained anew, with a network that knows nothing of the old one."""
    changed = {"clisc": CLISC_ENTRY | {"seed": 5}}
    with pytest.raises(SystemExit, match=r"error: .*cannot continue.*without --c"):
        tiny.trainer(continued=True, **changed).run_training()
    monkeypatch.setenv("CLISC_ANEW_IF_CHANGED", "1")
    thinner = tiny.trainer(Thinner, continued=True)
    thinner.load_checkpoint(str(fold.final(2)))  # of other plans: not loaded, and no error
    monkeypatch.delenv("CLISC_ANEW_IF_CHANGED")
    with pytest.raises(SystemExit, match="its network is not the one"):
        thinner.load_checkpoint(str(fold.final(2)))
    monkeypatch.setenv("CLISC_ANEW_IF_CHANGED", "1")
    same = tiny.trainer()
    assert same._enter().finished
    assert same.was_initialized
    trainer = tiny.trainer(continued=True, **changed)
    trainer.load_checkpoint(str(fold.final(2)))  # as nnU-Net does with --c
    old = {name: tensor.clone() for name, tensor in trainer.network.state_dict().items()}
    assert trainer._enter().stage == "round_1"
    monkeypatch.setattr(nnUNetTrainer, "run_training", lambda self: None)
    trainer._train_round(1)
    assert trainer.current_epoch == 0
    assert any(not torch.equal(old[name], tensor) for name, tensor in trainer.network.state_dict().items())
    assert (earlier(fold)[0] / "checkpoint_final.pth").is_file()


def test_changed_data_begin_anew_or_stop_with_c(fold: FoldFolder, tiny: TinyDataset) -> None:
    back_to(fold, "s3f")
    changed = {"clisc": CLISC_ENTRY | {"seed": 5}}
    with pytest.raises(SystemExit, match=r"error: .*cannot continue"):
        tiny.trainer(continued=True, **changed).run_training()
    assert fold.final(1).is_file()
    model = fold.final(1).read_bytes()
    tiny.trainer(**changed)._enter()
    assert fold.read_state().stage == "round_1"  # type: ignore[union-attr]
    assert not fold.final(1).exists()
    assert (earlier(fold)[0] / "round_1" / "checkpoint_final.pth").read_bytes() == model


def test_round_cut_off_while_its_checkpoint_was_written_resumes(fold: FoldFolder, tiny: TinyDataset) -> None:
    """A half-written file has a temporary name, so the checkpoint before it is found."""
    back_to(fold, "round_1", forget=["s3f", "round_2", "checkpoint_final.pth"])
    final = fold.final(1)
    leftovers = [final.parent / "checkpoint_latest.pth.123.tmp", final.parent / ".partial-0a1b-checkpoint_latest.pth"]
    leftovers.append(fold.s3f / "predictions" / ".77.case_0.nii.gz")
    for path in leftovers:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(final.read_bytes()[:100])
    final.unlink()
    trainer = tiny.trainer()
    trainer._advance(trainer._enter())
    assert final.is_file()
    assert fold.read_state().stage == "s3f"  # type: ignore[union-attr]
    assert not [path for path in leftovers if path.exists()]


def test_c_goes_on_with_an_unfinished_fold_and_begins_a_new_one(fold: FoldFolder, tiny: TinyDataset) -> None:
    back_to(fold, "round_2", forget=["checkpoint_final.pth"])
    before = contents(fold.path)
    assert tiny.trainer(continued=True)._enter().stage == "round_2"
    assert contents(fold.path) == before
    shutil.rmtree(fold.path)
    assert tiny.trainer(continued=True)._enter().stage == "round_1"
    assert not earlier(fold)


def test_round_killed_after_its_last_checkpoint_leaves_no_earlier_one(fold: FoldFolder, tiny: TinyDataset) -> None:
    """nnU-Net writes checkpoint_final.pth and then removes checkpoint_latest.pth; a kill may come between."""
    before = digest(fold.path)
    back_to(fold, "round_1")
    for number in (1, 2):
        shutil.copy(fold.final(number), fold.round(number) / "checkpoint_latest.pth")
    tiny.trainer().run_training()
    after = digest(fold.path)
    assert not [name for name in after if "checkpoint_latest" in name]
    networks = [name for name in before if name.endswith(".pth")]
    assert {name: after[name] for name in networks} == {name: before[name] for name in networks}  # nothing was trained
