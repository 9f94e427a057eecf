"""Which dataset folders a conversion may write, also when two begin at once."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import SimpleITK as sitk

from dataset_conversion.errors import UserError
from dataset_conversion.raw.dataset import CaseSource, write_dataset
from dataset_conversion.raw.target import prepare_target
from dataset_conversion.scans.volumes import read_image
from nnunetv2_clisc.environment import raw_dataset
from tests.dataset_conversion.raw.test_dataset import SPLIT, sources
from tests.helpers.paths import PROJECT
from tests.helpers.volume_files import tree, voxels, write


class TestTarget:
    @pytest.mark.parametrize("variable", ["nnUNet_raw", "nnUNet_preprocessed"])
    def test_unset_variable_is_named(self, nnunet: Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
        for clear in (lambda: monkeypatch.setenv(variable, ""), lambda: monkeypatch.delenv(variable)):
            clear()
            with pytest.raises(UserError, match=f"^{variable} is not set"):
                prepare_target(1, "A")

    @pytest.mark.parametrize("place", ["raw", "pre", "results"])
    def test_id_taken_anywhere_raises(self, nnunet: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
        monkeypatch.setenv("nnUNet_results", str(nnunet / "results"))
        (nnunet / place / "Dataset007_Other").mkdir(parents=True)
        with pytest.raises(UserError, match=r"-d 7: taken by .*Dataset007_Other"):
            prepare_target(7, "A")
        with pytest.raises(UserError, match="--fullsup-d 7: taken"):
            prepare_target(8, "A", 7)
        assert prepare_target(8, "A", 70).fullsup == "Dataset070_A_fullsup"

    @pytest.mark.parametrize("number", [0, -1, 1000])
    def test_id_out_of_range_raises(self, nnunet: Path, number: int) -> None:
        with pytest.raises(UserError, match="1 to 999"):
            prepare_target(number, "A")
        with pytest.raises(UserError, match="--fullsup-d"):
            prepare_target(1, "A", number)

    def test_same_id_twice_raises(self, nnunet: Path) -> None:
        with pytest.raises(UserError, match="same id"):
            prepare_target(5, "A", 5)

    @pytest.mark.parametrize("name", ["", "../A", "a/b", ".a", "a b", "a\n", "-a", "ä", "a" * 101])
    def test_bad_name_raises(self, nnunet: Path, name: str) -> None:
        with pytest.raises(UserError, match="dataset name"):
            prepare_target(1, name)

    def test_one_folder_for_both_raises(self, nnunet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("nnUNet_preprocessed", str(nnunet / "raw"))
        with pytest.raises(UserError, match="same folder"):
            prepare_target(1, "A")

    @pytest.mark.parametrize("variable", ["nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"])
    @pytest.mark.parametrize("value", ["~/nnunet", "~", "~someone/nnunet", "$HOME/nnunet", "${DATA}/nnunet"])
    def test_what_no_shell_has_expanded_is_refused(
        self, nnunet: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, value: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv(variable, value)
        with pytest.raises(UserError, match=rf"^{variable}=.*the shell has not replaced.*\$HOME"):
            prepare_target(1, "A")
        if variable == "nnUNet_raw":
            with pytest.raises(ValueError, match=r"^nnUNet_raw=.*the shell has not replaced"):
                raw_dataset(1)
        assert list(tmp_path.iterdir()) == []

    def test_variable_naming_a_file_raises(self, nnunet: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("nnUNet_raw", str(write(tmp_path / "x.nrrd", voxels())))
        with pytest.raises(UserError, match="not a folder"):
            prepare_target(1, "A")


class TestTwoAtOnce:
    """Of two conversions to one id exactly one succeeds, whenever the other one starts."""

    @pytest.mark.parametrize("second", [("B", 1, None), ("A", 1, None), ("B", 2, 1), ("B", 3, 4)])
    def test_while_one_writes_its_ids_are_not_free(
        self, nnunet: Path, tmp_path: Path, second: tuple[str, int, int | None]
    ) -> None:
        cases = sources(tmp_path / "in")
        name, number, fullsup = second
        targets = prepare_target(1, "A", 4), prepare_target(number, name, fullsup)
        taken = []

        def meanwhile(path: Path) -> sitk.Image:
            if not taken:
                with pytest.raises(UserError, match="another conversion is writing it") as caught:
                    write_dataset(targets[1], sources(tmp_path / "other"), SPLIT, source="test")
                taken.append(str(caught.value))
            return read_image(path)

        cases["b"] = CaseSource("b", cases["b"].image, cases["b"].mask, read_image=meanwhile)
        write_dataset(targets[0], cases, SPLIT, source="test")
        assert "\n" not in taken[0]
        assert sorted(p.name for p in (nnunet / "raw").iterdir()) == ["Dataset001_A", "Dataset004_A_fullsup"]
        assert sorted(p.name for p in (nnunet / "pre").iterdir()) == ["Dataset001_A", "Dataset004_A_fullsup"]

    def test_one_that_looked_before_the_other_was_done_is_refused(self, nnunet: Path, tmp_path: Path) -> None:
        cases = sources(tmp_path / "in")
        targets = prepare_target(1, "A"), prepare_target(1, "B")
        write_dataset(targets[0], cases, SPLIT, source="test")
        before = tree(nnunet)
        with pytest.raises(UserError, match=r"-d 1: taken by .*Dataset001_A"):
            write_dataset(targets[1], cases, SPLIT, source="test")
        assert tree(nnunet) == before
        assert [*nnunet.glob("*/.*")] == []

    def test_a_killed_conversion_holds_nothing(self, nnunet: Path, tmp_path: Path) -> None:
        code = (
            "import os, signal; from dataset_conversion.raw import target\n"
            "with target.claim(target.prepare_target(1, 'A')): os.kill(os.getpid(), signal.SIGKILL)"
        )
        killed = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=False)
        assert killed.returncode == -signal.SIGKILL
        assert [*nnunet.glob("raw/.*lock")]
        write_dataset(prepare_target(1, "A"), sources(tmp_path / "in"), SPLIT, source="test")
        assert [*nnunet.glob("*/.*")] == []
