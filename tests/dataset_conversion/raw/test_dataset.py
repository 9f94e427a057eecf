from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from dataset_conversion.errors import UserError
from dataset_conversion.raw.dataset import CaseSource, write_dataset
from dataset_conversion.raw.splits import Split, draw_split, read_split
from dataset_conversion.raw.target import prepare_target
from dataset_conversion.scans.volumes import check_case_name, list_volumes, read_volume
from nnunetv2_clisc.environment import raw_dataset
from tests.helpers.paths import PROJECT
from tests.helpers.volume_files import cube, read, tree, voxels, write


def sources(folder: Path, names: str = "abc") -> dict[str, CaseSource]:
    return {
        name: CaseSource(name, write(folder / f"{name}.nrrd", voxels(i)), write(folder / f"{name}_m.nrrd", cube()))
        for i, name in enumerate(names)
    }


SPLIT = Split(("a",), ("b",), ("c",), "given by the test")


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
            return read_volume(path)

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


class TestVolumes:
    @pytest.mark.parametrize("ending", ["nii", "nii.gz", "mha", "nrrd"])
    @pytest.mark.parametrize("compressed", [True, False])
    @pytest.mark.parametrize("keep", [0.0, 0.01, 0.5, 0.99])
    def test_truncated_file_raises(self, tmp_path: Path, ending: str, compressed: bool, keep: float) -> None:
        path = tmp_path / f"a.{ending}"
        sitk.WriteImage(sitk.GetImageFromArray(voxels(shape=(9, 20, 20))), str(path), useCompression=compressed)
        read_volume(path)
        whole = path.read_bytes()
        path.write_bytes(whole[: int(len(whole) * keep)])
        with pytest.raises(UserError, match=rf"a\.{ending}: ") as caught:
            read_volume(path)
        assert "\n" not in str(caught.value)

    def test_flipped_bit_in_compressed_scan_raises(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.nii.gz", voxels(shape=(9, 20, 20)))
        damaged = bytearray(path.read_bytes())
        damaged[len(damaged) // 2] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="truncated or damaged"):
            read_volume(path)

    @pytest.mark.parametrize("ending", ["nii", "nii.gz", "mha", "nrrd"])
    def test_text_is_not_an_image(self, tmp_path: Path, ending: str) -> None:
        path = tmp_path / f"a.{ending}"
        path.write_text("no image\n" * 100)
        with pytest.raises(UserError, match=rf"a\.{ending}: "):
            read_volume(path)

    @pytest.mark.parametrize("ending", ["nii.gz", "mha", "nrrd"])
    @pytest.mark.parametrize(
        ("array", "vector"),
        [
            (np.ones((2, 3, 4, 5), np.float32), False),  # 4D
            (np.ones((3, 4, 5, 2), np.float32), True),  # several values a voxel
            (np.ones((4, 5), np.float32), False),  # 2D
            (np.ones((1, 4, 5), np.float32), False),  # one slice
            (np.ones((3, 4, 5), np.complex64), False),
        ],
    )
    def test_other_than_3d_scalar_raises(self, tmp_path: Path, ending: str, array: np.ndarray, vector: bool) -> None:
        path = tmp_path / f"a.{ending}"
        sitk.WriteImage(sitk.GetImageFromArray(array, isVector=vector), str(path))
        with pytest.raises(UserError, match="3D volume"):
            read_volume(path)

    def test_name_that_lies_about_compression_is_read(self, tmp_path: Path) -> None:
        packed = write(tmp_path / "a.nii.gz", voxels())
        plain = tmp_path / "b.nii.gz"
        plain.write_bytes(gzip.decompress(packed.read_bytes()))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(read_volume(plain)), voxels())

    @pytest.mark.parametrize(
        "name", ["..", ".a", "a/b", "../a", "a..b", "a\\b", "a\nb", "", " a", "a ", "-a", "a" * 201]
    )
    def test_odd_case_name_raises(self, name: str) -> None:
        with pytest.raises(UserError, match="not allowed"):
            check_case_name(name, Path("split.json"))

    @pytest.mark.parametrize("name", ["Müller", "患者1", "пациент"])
    def test_letters_of_another_script_are_told_which_ones_are_allowed(self, name: str) -> None:
        with pytest.raises(UserError, match=r"not allowed; rename it with .* letters a-z and A-Z"):
            check_case_name(name, Path("split.json"))

    @pytest.mark.parametrize("name", ["TCGA_CS_4941_19960909", "sub-01_ses-2", "case 1 (b)", "1.2.3"])
    def test_usual_case_name_passes(self, name: str) -> None:
        check_case_name(name, Path("split.json"))

    def test_listing_ignores_other_files(self, tmp_path: Path) -> None:
        write(tmp_path / "b_0000.nii.gz", voxels())
        write(tmp_path / "a.b.NRRD".replace("NRRD", "nrrd"), voxels())
        for name in (".hidden.nii.gz", "notes.txt", "dataset.json"):
            (tmp_path / name).touch()
        (tmp_path / "folder.nii").mkdir()
        assert list(list_volumes(tmp_path)) == ["a.b", "b"]
        assert list(list_volumes(tmp_path, strip_channel=False)) == ["a.b", "b_0000"]


class TestSplit:
    def test_draw_is_a_partition_and_repeats(self) -> None:
        names = [f"c{i}" for i in range(50)]
        split = draw_split(names, seed=3, val=0.1, test=0.2)
        assert [len(part) for part in (split.train, split.val, split.test)] == [35, 5, 10]
        assert sorted(split.trainval + split.test) == sorted(names)
        assert split == draw_split(reversed(names), seed=3, val=0.1, test=0.2)
        assert split.test != draw_split(names, seed=4, val=0.1, test=0.2).test

    @pytest.mark.parametrize(("n", "val"), [(2, 1), (3, 1), (10, 2)])
    def test_draw_always_leaves_validation(self, n: int, val: int) -> None:
        split = draw_split(map(str, range(n)), seed=0)
        assert (len(split.train), len(split.val), split.test) == (n - val, val, ())

    def test_one_case_is_too_few(self) -> None:
        with pytest.raises(UserError, match="too few"):
            draw_split(["a"], seed=0)

    def test_missing_lists_are_empty_and_validation_is_drawn(self, tmp_path: Path) -> None:
        path = tmp_path / "split.json"
        path.write_text(json.dumps({"train": list("abcde"), "test": ["f"]}))
        split = read_split(path, "abcdef", seed=1)
        assert sorted(split.trainval) == list("abcde")
        assert len(split.val) == 1
        assert split.test == ("f",)
        assert "validation" in split.origin

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ('{"train": ["a"', "not a JSON file"),
            ("\xff", "not a JSON file"),
            ('["a"]', "expected"),
            ('{"train": "a"}', "expected"),
            ('{"train": [1]}', "expected"),
            ('{"train": ["a"], "valid": ["b"]}', "expected"),
            ('{"train": ["a", "x", "y"]}', r"no scan of case x \(and 1 more\)"),
            ('{"train": ["a", "a"]}', "twice in train"),
            ('{"train": ["a"], "val": ["b"], "test": ["a"]}', "in both train and test"),
            ('{"train": ["../a"]}', "not allowed"),
            ('{"val": ["a"]}', "no training case"),
            ("{}", "no training case"),
            ('{"train": ["a"]}', "too few"),
        ],
    )
    def test_bad_file_raises_and_is_named(self, tmp_path: Path, content: str, message: str) -> None:
        path = tmp_path / "split.json"
        path.write_bytes(content.encode("latin-1"))
        with pytest.raises(UserError, match=message) as caught:
            read_split(path, "abc")
        assert message == "too few" or "split.json" in str(caught.value)

    def test_missing_file_raises(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"split\.json: cannot be read"):
            read_split(tmp_path / "split.json", "abc")


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
