from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from dataset_conversion.errors import UserError
from dataset_conversion.raw.dataset import CaseSource, write_dataset
from dataset_conversion.raw.splits import Split
from dataset_conversion.raw.target import prepare_target
from tests.helpers.volume_files import cube, read, tree, voxels, write


def sources(folder: Path, names: str = "abc") -> dict[str, CaseSource]:
    return {
        name: CaseSource(name, write(folder / f"{name}.nrrd", voxels(i)), write(folder / f"{name}_m.nrrd", cube()))
        for i, name in enumerate(names)
    }


SPLIT = Split(("a",), ("b",), ("c",), "given by the test")


class TestWrite:
    def test_failure_after_good_cases_leaves_nothing(self, nnunet: Path, tmp_path: Path) -> None:
        cases = sources(tmp_path / "in")
        write(tmp_path / "in" / "c_m.nrrd", cube()[:, :, :-1])
        before = tree(tmp_path / "in")
        with pytest.raises(UserError, match=r"c_m\.nrrd: shape"):
            write_dataset(prepare_target(1, "A", 2), cases, SPLIT, source="test")
        assert [*nnunet.glob("*/*"), *nnunet.glob("*/.*")] == []
        assert tree(tmp_path / "in") == before
        write(tmp_path / "in" / "c_m.nrrd", cube())
        assert write_dataset(prepare_target(1, "A", 2), cases, SPLIT, source="test").test_masks == 1  # id still free

    def test_interrupt_leaves_nothing(self, nnunet: Path, tmp_path: Path) -> None:
        def interrupt(path: Path) -> sitk.Image:
            raise KeyboardInterrupt

        cases = sources(tmp_path / "in")
        cases["b"] = CaseSource("b", cases["b"].image, read_image=interrupt)
        with pytest.raises(KeyboardInterrupt):
            write_dataset(prepare_target(1, "A"), cases, SPLIT, source="test")
        assert [*nnunet.glob("*/*"), *nnunet.glob("*/.*")] == []

    def test_last_move_failing_takes_the_others_back(
        self, nnunet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        target = prepare_target(1, "A", 2)
        foreign = nnunet / "raw" / "Dataset002_A_fullsup" / "theirs"  # appears after the checks, by another program
        rename = os.replace

        def late(source: Path, final: Path) -> None:
            if Path(final) == foreign.parent:
                foreign.parent.mkdir()
                foreign.write_text("x")
            rename(source, final)

        monkeypatch.setattr(os, "replace", late)
        with pytest.raises(UserError, match="nothing was written"):
            write_dataset(target, sources(tmp_path / "in"), SPLIT, source="test")
        assert [file for file in nnunet.rglob("*") if file.is_file()] == [foreign]
        assert [*nnunet.glob("*/Dataset001*"), *nnunet.glob("*/.*")] == []

    def test_folders_are_readable_by_colleagues(self, nnunet: Path, tmp_path: Path) -> None:
        plain = tmp_path / "plain"
        plain.mkdir()
        write_dataset(prepare_target(1, "A"), sources(tmp_path / "in"), SPLIT, source="test")
        for folder in (nnunet / "raw/Dataset001_A", nnunet / "pre/Dataset001_A", nnunet / "raw/Dataset001_A/imagesTr"):
            assert stat.S_IMODE(folder.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)

    def test_threads_do_not_change_the_files(self, nnunet: Path, tmp_path: Path) -> None:
        cases = sources(tmp_path / "in")
        written = []
        for threads in (1, 3):
            write_dataset(prepare_target(1, "A", 2), cases, SPLIT, source="test", threads=threads)
            written.append(tree(nnunet))
            shutil.rmtree(nnunet)
        assert written[0] == written[1]

    def test_fullsup_shares_the_bytes_of_the_images(self, nnunet: Path, tmp_path: Path) -> None:
        write_dataset(prepare_target(1, "A", 2), sources(tmp_path / "in"), SPLIT, source="test")
        main, twin = nnunet / "raw/Dataset001_A", nnunet / "raw/Dataset002_A_fullsup"
        for name in ("imagesTr/a_0000.nii.gz", "imagesTs/c_0000.nii.gz", "labelsTs/c.nii.gz"):
            assert os.path.samefile(main / name, twin / name)

    def test_without_hard_links_files_are_copied(
        self, nnunet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object) -> None:
            raise OSError("no hard links here")

        monkeypatch.setattr(os, "link", refuse)
        write_dataset(prepare_target(1, "A", 2), sources(tmp_path / "in"), SPLIT, source="test")
        main, twin = nnunet / "raw/Dataset001_A", nnunet / "raw/Dataset002_A_fullsup"
        assert (main / "imagesTr/a_0000.nii.gz").read_bytes() == (twin / "imagesTr/a_0000.nii.gz").read_bytes()
        assert sorted(p.name for p in (twin / "labelsTr").iterdir()) == ["a.nii.gz", "b.nii.gz"]


def test_scans_of_every_type_come_out_unchanged(nnunet: Path, tmp_path: Path) -> None:
    kinds = [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64]
    cases = {
        np.dtype(kind).name: CaseSource(
            np.dtype(kind).name, write(tmp_path / f"{np.dtype(kind).name}.nii", (voxels() % 251).astype(kind))
        )
        for kind in kinds
    }
    split = Split(tuple(list(cases)[1:]), tuple(list(cases)[:1]), (), "test")
    write_dataset(prepare_target(1, "A"), cases, split, source="test")
    for name in cases:
        found = read(nnunet / f"raw/Dataset001_A/imagesTr/{name}_0000.nii.gz")
        assert found.dtype.name == name
        np.testing.assert_array_equal(found, voxels() % 251)
