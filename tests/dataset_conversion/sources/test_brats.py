from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dataset_conversion.errors import UserError
from dataset_conversion.sources.brats import LAYOUTS, PAPER_SPLIT, convert_brats
from tests.helpers.commands import Run
from tests.helpers.volume_files import cube, geometry, nothing_is_made, read, voxels, write

BRATS = {
    "spacing": (1.0, 1.0, 1.0),
    "origin": (0.0, -239.0, 0.0),
    "direction": (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
}
NUMBERS = (1, 2, 10, 355)


def name_of(number: int) -> str:
    return f"BraTS20_Training_{number:03d}"


def labels(seed: int) -> np.ndarray:
    """BraTS labels 0, 1, 2 and 4."""
    return np.random.default_rng(seed).choice([0, 0, 0, 1, 2, 4], (5, 8, 9)).astype(np.int16)


def make_case(root: Path, number: int, ending: str = ".nii") -> None:
    case = name_of(number)
    folder = root / case
    seg = "W39_1998.09.19_Segm" if number == 355 else f"{case}_seg"
    write(folder / f"{seg}{ending}", labels(number), **BRATS)
    for modality, offset in (("flair", 0), ("t1", 1000), ("t1ce", 2000), ("t2", 3000)):
        write(folder / f"{case}_{modality}{ending}", voxels(number) + np.int16(offset), **BRATS)


@pytest.fixture
def split(tmp_path: Path) -> Path:
    path = tmp_path / "split.json"
    parts = {"train": [name_of(1), name_of(355)], "val": [name_of(2)], "test": [name_of(10)]}
    path.write_text(json.dumps(parts))
    return path


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    "above", ["", "MICCAI_BraTS2020_TrainingData", "BraTS2020_TrainingData/MICCAI_BraTS2020_TrainingData"]
)
def test_flair_and_whole_tumour_from_every_layout(
    nnunet: Path, tmp_path: Path, split: Path, ending: str, above: str
) -> None:
    for number in NUMBERS:
        make_case(tmp_path / "in" / above, number, ending)
    (tmp_path / "in" / above / "name_mapping.csv").write_text("ids\n")
    summary = convert_brats(LAYOUTS["brats2020"], tmp_path / "in", dataset_id=1, split=split, fullsup_id=2)
    assert (summary.train, summary.val, summary.test, summary.test_masks) == (2, 1, 1, 1)
    main, twin = nnunet / "raw/Dataset001_BraTS2020FLAIR", nnunet / "raw/Dataset002_BraTS2020FLAIR_fullsup"
    assert list((main / "labelsTr").iterdir()) == []
    for number in NUMBERS:
        part = "Ts" if number == 10 else "Tr"
        image = main / f"images{part}/{name_of(number)}_0000.nii.gz"
        np.testing.assert_array_equal(read(image), voxels(number))
        assert geometry(image)[3:6] == pytest.approx([0, -239, 0])
        label = (main if part == "Ts" else twin) / f"labels{part}/{name_of(number)}.nii.gz"
        np.testing.assert_array_equal(read(label), labels(number) > 0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_command_names_datasets_as_the_layouts_do(clisc: Run, layout: str) -> None:
    usage = clisc("convert", layout, "--help").stdout
    assert f"(default: {LAYOUTS[layout].dataset})" in " ".join(usage.split())


def test_shipped_split_is_the_papers() -> None:
    parts = json.loads(PAPER_SPLIT.read_text())
    assert {part: len(cases) for part, cases in parts.items()} == {"train": 257, "val": 37, "test": 75}
    cases = [case for part in parts.values() for case in part]
    assert sorted(cases) == [name_of(number) for number in range(1, 370)]


def test_papers_split_by_default(nnunet: Path, tmp_path: Path) -> None:
    """All 369 cases, tiny ones, go where the paper has them."""
    parts = json.loads(PAPER_SPLIT.read_text())
    scan = write(tmp_path / "scan.nii.gz", voxels(shape=(2, 3, 4))).read_bytes()
    mask = write(tmp_path / "mask.nii.gz", cube((2, 3, 4))).read_bytes()
    for case in (case for part in parts.values() for case in part):
        (tmp_path / "in" / case).mkdir(parents=True)
        (tmp_path / "in" / case / f"{case}_flair.nii.gz").write_bytes(scan)
        seg = "W39_1998.09.19_Segm" if case.endswith("355") else f"{case}_seg"
        (tmp_path / "in" / case / f"{seg}.nii.gz").write_bytes(mask)
    summary = convert_brats(LAYOUTS["brats2020"], tmp_path / "in", dataset_id=1)
    assert (summary.train, summary.val, summary.test, summary.test_masks) == (257, 37, 75, 75)
    dataset = nnunet / "raw/Dataset001_BraTS2020FLAIR"
    assert sorted(p.name for p in (dataset / "labelsTs").iterdir()) == sorted(f"{c}.nii.gz" for c in parts["test"])
    folds = json.loads((dataset / "splits_final.json").read_text())
    assert folds[0] == {k: parts[k] for k in ("train", "val")}
    assert [len(fold["val"]) for fold in folds] == [37, 65, 64, 64, 64]


# What the two later years look like on disk: folder, case, endings of scan and mask, labels
LATER = {
    "brats2021": (
        "RSNA_ASNR_MICCAI_BraTS2021_TrainingData_16July2021",
        "BraTS2021_{:05d}",
        "_flair",
        "_seg",
        (0, 1, 2, 4),
    ),
    "brats2023": (
        "ASNR-MICCAI-BraTS2023-GLI-Challenge-TrainingData",
        "BraTS-GLI-{:05d}-000",
        "-t2f",
        "-seg",
        (0, 1, 2, 3),
    ),
}


def make_later(root: Path, year: str, number: int, values: tuple[int, ...] | None = None) -> str:
    archive, name, flair, seg, kinds = LATER[year]
    case = name.format(number)
    mask = np.random.default_rng(number).choice(values or kinds, (5, 8, 9)).astype(np.int16)
    write(root / archive / case / f"{case}{seg}.nii.gz", mask, **BRATS)
    write(root / archive / case / f"{case}{flair}.nii.gz", voxels(number), **BRATS)
    write(root / archive / case / f"{case}{'_t1ce' if year == 'brats2021' else '-t1c'}.nii.gz", voxels(99), **BRATS)
    return case


@pytest.mark.parametrize("year", LATER)
@pytest.mark.parametrize("above", ["", "."])
def test_later_years(nnunet: Path, tmp_path: Path, clisc: Run, year: str, above: str) -> None:
    cases = [make_later(tmp_path / "in", year, number) for number in range(10)]
    source = tmp_path / "in" / (LATER[year][0] if above else "")
    if above:
        convert_brats(LAYOUTS[year], source, dataset_id=1, fullsup_id=2)
    else:
        clisc("convert", year, "--source", source, "-d", 1, "--fullsup-d", 2)
    twin = nnunet / f"raw/Dataset002_BraTS{year[-4:]}FLAIR_fullsup"
    assert len(list((twin / "imagesTs").iterdir())) == 2
    for number, case in enumerate(cases):
        image = next(twin.glob(f"images*/{case}_0000.nii.gz"))
        label = next(twin.glob(f"labels*/{case}.nii.gz"))
        np.testing.assert_array_equal(read(image), voxels(number))
        truth = np.random.default_rng(number).choice(LATER[year][4], (5, 8, 9)) > 0
        np.testing.assert_array_equal(read(label), truth)


class TestLaterYearsBadInput:
    def test_a_label_of_another_year_is_not_taken_for_tumour(self, nnunet: Path, tmp_path: Path) -> None:
        """The 4 of BraTS 2024 is the resection cavity."""
        for number in range(4):
            make_later(tmp_path / "in", "brats2023", number, (0, 2, 4))
        with pytest.raises(UserError, match=r"-seg\.nii\.gz: has the label 4, but brats2023 has 0 to 3"):
            convert_brats(LAYOUTS["brats2023"], tmp_path / "in", dataset_id=1, fullsup_id=2)
        convert_brats(LAYOUTS["brats2023"], tmp_path / "in", dataset_id=3, split=split_of(tmp_path, range(4)))

    def test_two_folders_with_cases_are_not_chosen_between(self, nnunet: Path, tmp_path: Path) -> None:
        make_later(tmp_path / "in", "brats2023", 0)
        archive = tmp_path / "in" / LATER["brats2023"][0]
        other = archive.with_name(archive.name.replace("Training", "Validation"))
        other.mkdir()
        (archive / "BraTS-GLI-00000-000").rename(other / "BraTS-GLI-00001-000")
        make_later(tmp_path / "in", "brats2023", 0)
        with pytest.raises(UserError, match=r"both .*TrainingData and .*ValidationData have case folders"):
            convert_brats(LAYOUTS["brats2023"], tmp_path / "in", dataset_id=1)

    def test_a_link_to_nothing_is_named(self, nnunet: Path, tmp_path: Path) -> None:
        for number in range(3):
            case = make_later(tmp_path / "in", "brats2021", number)
        flair = tmp_path / "in" / LATER["brats2021"][0] / case / f"{case}_flair.nii.gz"
        flair.unlink()
        flair.symlink_to("nowhere")
        with pytest.raises(UserError, match=r"_flair\.nii\.gz: a symbolic link .*datalad get"):
            convert_brats(LAYOUTS["brats2021"], tmp_path / "in", dataset_id=1)


def split_of(folder: Path, numbers: range) -> Path:
    path = folder / "later.json"
    cases = [f"BraTS-GLI-{number:05d}-000" for number in numbers]
    path.write_text(json.dumps({"train": cases[1:], "val": cases[:1]}))
    return path


class TestBadInput:
    def fails(self, nnunet: Path, message: str, source: Path, **options: object) -> None:
        with nothing_is_made(nnunet, message):
            convert_brats(LAYOUTS["brats2020"], source, dataset_id=1, **options)  # type: ignore[arg-type]

    def test_incomplete_download_names_a_missing_case(self, nnunet: Path, tmp_path: Path) -> None:
        make_case(tmp_path / "in", 1)
        self.fails(nnunet, r"no scan of case BraTS20_Training_\d+ \(and 367 more\); .*--split", tmp_path / "in")

    def test_case_without_flair(self, nnunet: Path, tmp_path: Path, split: Path) -> None:
        for number in NUMBERS:
            make_case(tmp_path / "in", number)
        (tmp_path / "in" / name_of(2) / f"{name_of(2)}_flair.nii").unlink()
        self.fails(nnunet, "BraTS20_Training_002: has no BraTS20_Training_002_flair", tmp_path / "in", split=split)

    def test_both_compressed_and_plain(self, nnunet: Path, tmp_path: Path, split: Path) -> None:
        for ending in (".nii", ".nii.gz"):
            make_case(tmp_path / "in", 1, ending)
        self.fails(nnunet, "second file beside", tmp_path / "in", split=split)

    def test_only_case_355_may_be_misnamed(self, nnunet: Path, tmp_path: Path, split: Path) -> None:
        for number in NUMBERS:
            make_case(tmp_path / "in", number)
        folder = tmp_path / "in" / name_of(1)
        (folder / f"{name_of(1)}_seg.nii").rename(folder / "W39_1998.09.19_Segm.nii")
        self.fails(nnunet, "training case BraTS20_Training_001 has no mask", tmp_path / "in", split=split, fullsup_id=2)

    def test_no_such_data(self, nnunet: Path, tmp_path: Path) -> None:
        self.fails(nnunet, "no such folder", tmp_path / "nowhere")
        (tmp_path / "empty").mkdir()
        self.fails(nnunet, "empty: has no case folder", tmp_path / "empty")
