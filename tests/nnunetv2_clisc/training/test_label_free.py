"""S3F reads no mask, and processes that share it make what one makes."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import blosc2
import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_clisc.training.fold import FoldFolder
from tests.helpers.tiny_nnunet import NAME, TinyDataset, digest, python
from tests.helpers.trained_fold import back_to, s3f_again, seg_of


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
        assert len(segs) == 12  # of 3d_fullres and of 2d
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
    """The whole of S3F and round 2 in two processes (gloo, CPU) gives the table that one process gives.

    Rank 0 waits for rank 1, which is slower than the process group's own timeout.
    """
    expected = digest(fold.s3f), digest(fold.training_files)
    back_to(fold, "s3f", forget=["s3f", "round_2", "checkpoint_final.pth", "checkpoint_best.pth"])
    result = python(f"from tests.helpers.two_ranks import main; main({str(tiny.root)!r})")
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-3000:]
    assert (digest(fold.s3f), digest(fold.training_files)) == expected
    by_rank = [json.loads((fold.path / f"rank_{rank}.json").read_text()) for rank in (0, 1)]
    assert [found["cases"] for found in by_rank] == [3, 2]
    assert [len(found["drawn"]) for found in by_rank] == [1, 1]
    assert sorted(name for found in by_rank for name in found["drawn"]) == sorted(
        path.stem for path in (fold.s3f / "dropped").iterdir()
    )
    assert by_rank[0]["stages"] == by_rank[1]["stages"] == ["round_2", "done"]
    assert by_rank[0]["weights"] == by_rank[1]["weights"]
    assert fold.final(2).is_file()


def test_rank_says_so_when_another_one_died(fold: FoldFolder, tiny: TinyDataset) -> None:
    """Without a launcher that ends it, it would wait for ever; what it has done is kept."""
    back_to(fold, "s3f", forget=["s3f", "round_2", "checkpoint_final.pth", "checkpoint_best.pth"])
    result = python(
        f"from tests.helpers.two_ranks import exit_codes; print(exit_codes({str(tiny.root)!r}))", RANK_1="dies"
    )
    assert result.stdout.splitlines()[-1] == "[1, -9]", result.stderr[-3000:]
    assert "error: rank 0: another process of this training has ended" in result.stderr
    assert "Traceback" not in result.stderr
    assert sorted(path.stem for path in fold.finished_cases.iterdir()) == ["case_0", "case_2", "case_4"]
    assert fold.read_state().stage == "s3f"  # type: ignore[union-attr]
