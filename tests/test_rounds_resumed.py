"""A fold that was killed, finished, changed or cut off: what the same command does."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from nnunetv2_clisc.fold import FoldFolder
from tests.tiny_nnunet import CLISC_ENTRY, NAME, TinyDataset, digest, python
from tests.trained_fold import back_to, rows


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
