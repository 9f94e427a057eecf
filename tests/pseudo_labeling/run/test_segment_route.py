"""The segment route on disk: everything SAM sees, clusters, labels; the same by parts, after kills, without masks."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from dataset_conversion.errors import UserError
from nnunetv2_clisc.running.labelling import pseudo_label
from nnunetv2_clisc.running.options import LabellingOptions
from nnunetv2_clisc.running.slurm import Training, chain
from nnunetv2_clisc.scoring.metrics import dice
from nnunetv2_clisc.studies.baselines.cam_and_sam import cam_baseline, pseudo_label_baseline
from pseudo_labeling.run.segment_pass import read_segments
from pseudo_labeling.run.workspace import Workspace
from pseudo_labeling.slices import read_slices
from tests.helpers.commands import Run, convert, files_of, in_process, kill_when, last_line, make_scans

CHANGES = (
    "clusters.count=3",
    "clusters.attribute=aspect",
    "clusters.prior=1",
    "segments.area=[0.001,0.3]",
    "segments.aspect=[0.6,1.5]",
    "segments.points_per_side=6",
)
QUICK = ["pseudo_label", "-d", 501, "-device", "cpu", "--weights", "embedded", "--preset", "um-sam"]
QUICK += [text for change in CHANGES for text in ("--set", change)]


def options(*changes: str) -> LabellingOptions:
    return LabellingOptions(501, device="cpu", weights="embedded", preset="um-sam", changes=(*CHANGES, *changes))


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four small phantom cases: two train, one val, one test."""
    return make_scans(tmp_path_factory.mktemp("few") / "scans", 4, (8, 96, 96))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, scans: Path) -> Path:
    """The raw folder of dataset 501, labelled from segments in one go."""
    root = tmp_path_factory.mktemp("segments")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            (root / name).mkdir()
            patch.setenv(name, str(root / name))
        dataset = convert(lambda *words: in_process(words), scans)
        result = in_process(QUICK)
        assert result.returncode == 0, result.stderr[-2000:]
        (root / "stdout").write_text(result.stdout)
    return dataset


@pytest.fixture
def copy(done: Path, nnunet: Path) -> Path:
    """A copy of that dataset, to write to."""
    return Path(shutil.copytree(done, nnunet / "nnUNet_raw" / done.name))


def test_labels_are_the_chosen_segments(done: Path) -> None:
    files = Workspace(done)
    clusters = json.loads((done / "clisc" / "clusters" / "clusters.json").read_text())
    centroids = np.load(done / "clisc" / "clusters" / "clusters.npz")["centroids"]
    assert centroids.shape[0] == 3
    marked = 0
    for case in files.cases():
        segments = read_segments(files, case)
        scan, slices = read_slices(files.image(case))
        expected = np.zeros(slices.shape, dtype=bool)
        for number in range(len(segments)):
            mask = segments.mask(number)
            x0, y0, x1, y1 = segments.box[number]
            assert mask.sum() == segments.area[number] > 0
            assert mask[y0 : y1 + 1, x0 : x1 + 1].sum() == mask.sum()
            share = mask.sum() / mask.size
            aspect = (x1 - x0 + 1) / (y1 - y0 + 1)
            cluster = int(((segments.features[number] - centroids) ** 2).sum(1).argmin())
            if 0.001 <= share <= 0.3 and 0.6 <= aspect <= 1.5 and cluster == clusters["chosen"]:
                expected[segments.slice[number]] |= mask
        label = sitk.GetArrayFromImage(sitk.ReadImage(str(files.label(case))))
        np.testing.assert_array_equal(label > 0, scan.from_squares(expected))
        marked += int(label.sum())
    assert marked > 0


def test_what_a_person_judges_by_is_there(done: Path) -> None:
    folder = done / "clisc" / "clusters"
    with (folder / "clusters.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["cluster"] for row in rows] == ["0", "1", "2"]
    chosen = next(row for row in rows if row["chosen"] == "1")
    assert min(abs(float(row["aspect"]) - 1) for row in rows) == pytest.approx(abs(float(chosen["aspect"]) - 1))
    record = json.loads((folder / "clusters.json").read_text())
    errors = list(record["sse"].values())
    assert 0 <= record["stability"] <= 1
    assert errors == sorted(errors, reverse=True)
    for picture in (folder / "contact_sheet.png", folder / "sse.png", done / "clisc" / "overlays" / "p00.png"):
        assert picture.read_bytes().startswith(b"\x89PNG")
    entry = json.loads((done / "dataset.json").read_text())["clisc"]
    assert entry["settings"]["masks"]["source"] == "everything"
    assert entry["weights"].keys() == {"sam", "clip"}
    assert entry["clusters"]["chosen"] == record["chosen"]
    assert "segments" in (done.parents[1] / "stdout").read_text()


def test_parts_and_masks_of_a_person_change_nothing(done: Path, scans: Path, nnunet: Path, clisc: Run) -> None:
    dataset = convert(clisc, scans, "--labels", scans / "labels", "--fullsup-d", 502)
    with pytest.raises(UserError, match="segments of 3 of 3 cases are missing"):
        pseudo_label(options(), stage="clusters")
    for number in (1, 0):
        pseudo_label(options(), stage="segments", num_parts=2, part_id=number)
    with pytest.raises(UserError, match=r"no clusters of these segments.*--stage clusters"):
        pseudo_label(options(), stage="masks")
    pseudo_label(options(), stage="clusters")
    for number in (1, 0):
        pseudo_label(options(), stage="masks", num_parts=2, part_id=number)
    pseudo_label(options(), stage="finish")
    assert files_of(dataset / "labelsTr") == files_of(done / "labelsTr")
    assert (dataset / "clisc" / "summary.csv").read_bytes() == (done / "clisc" / "summary.csv").read_bytes()
    ours, theirs = (json.loads((folder / "dataset.json").read_text())["clisc"] for folder in (dataset, done))
    assert ours == theirs


@pytest.mark.parametrize("where", ["segments", "clusters"])
def test_killed_run_ends_with_the_same_labels(where: str, done: Path, scans: Path, nnunet: Path, clisc: Run) -> None:
    dataset = convert(clisc, scans)
    work = dataset / "clisc"
    reached: dict[str, Callable[[], bool]] = {
        "segments": lambda: len(list((work / "segments").glob("p*.json"))) >= 2,
        "clusters": lambda: (work / "clusters" / "clusters.npz").exists(),
    }
    kill_when(QUICK, reached[where])
    finished = {path: path.stat().st_mtime_ns for path in work.glob("*/*.json")}
    clisc(*QUICK)
    assert files_of(dataset / "labelsTr") == files_of(done / "labelsTr")
    assert {path: path.stat().st_mtime_ns for path in finished} == finished  # nothing finished was done again


def test_another_prior_asks_sam_nothing(copy: Path, done: Path) -> None:
    before = files_of(copy / "clisc" / "segments")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pseudo_labeling.run.segment_pass.load_sam", None)
        pseudo_label(options("clusters.prior=0.5", "clusters.per_slice=nearest"))
    assert files_of(copy / "clisc" / "segments") == before
    assert files_of(copy / "labelsTr") != files_of(done / "labelsTr")
    for path in (copy / "labelsTr").iterdir():  # one segment a slice
        record = json.loads((copy / "clisc" / "masks" / f"{path.name[:-7]}.json").read_text())
        assert record["chosen_segments"] == sitk.GetArrayFromImage(sitk.ReadImage(str(path))).any((1, 2)).sum()


def test_new_cases_get_the_nearest_cluster(copy: Path, tmp_path: Path) -> None:
    pseudo_label_baseline(501, copy / "imagesTr", tmp_path / "again", device="cpu")
    masks = {name: data for name, data in files_of(tmp_path / "again").items() if name.endswith(".nii.gz")}
    assert masks == files_of(copy / "labelsTr")
    with pytest.raises(UserError, match=r"labelled from segments.*there is no CAM"):
        cam_baseline(501, copy / "imagesTr", tmp_path / "cam", device="cpu")
    with pytest.raises(UserError, match="--prompts: this dataset was labelled without prompts"):
        pseudo_label_baseline(501, copy / "imagesTr", tmp_path / "box", prompts="box", device="cpu")


def test_sanity_compares_segments_with_masks_and_controls(copy: Path, scans: Path, tmp_path: Path, clisc: Run) -> None:
    out = clisc("sanity", "-d", 501, "--gt", scans / "labels", "-o", tmp_path).stdout
    rows = json.loads((tmp_path / "sanity.json").read_text())["segments"]
    everything, prior, chosen, at_random, _, best = rows.values()
    assert everything["segments"] >= prior["segments"] >= chosen["segments"] > 0
    assert at_random["segments"] == pytest.approx(prior["segments"] / 3)  # the mean of all three clusters
    assert best["dsc"] >= max(chosen["dsc"], at_random["dsc"])
    for row in rows.values():  # more overlap is asked of each
        assert row["precision"] == sorted(row["precision"], reverse=True)
    expected = []
    for case in ("p00", "p01", "p02"):
        label, mask = (
            sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f"{case}.nii.gz"))) > 0
            for folder in (copy / "labelsTr", scans / "labels")
        )
        expected.append(dice(label, mask, both_empty=1.0))
    assert chosen["dsc"] == pytest.approx(np.mean(expected))
    assert "chosen cluster (D_p)" in out
    assert "give --gt" in last_line(clisc("sanity", "-d", 501, ok=False))


def test_report_shows_the_clusters(copy: Path, scans: Path, tmp_path: Path, clisc: Run) -> None:
    clisc("report", "-d", 501, "--gt", scans / "labels", "-o", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "Clusters of segments" in page
    assert "Slice labels" not in page
    assert "Nearest to aspect = 1: cluster" in page
    assert page.count('class="sheet"') == 2
    assert "segments of SAM" in page


def test_hand_work_is_kept(copy: Path, clisc: Run) -> None:
    path = copy / "labelsTr" / "p01.nii.gz"
    image = sitk.ReadImage(str(path))
    sitk.WriteImage(image * 0, str(path), True)
    corrected = path.read_bytes()
    out = clisc(*QUICK).stdout
    assert path.read_bytes() == corrected
    assert "changed by hand and kept (1): p01" in out


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["segments.area=[0.9,1.0]"], "settings.segments.area, settings.segments.aspect: none of .* passes"),
        (["clusters.count=999"], "settings.clusters.count: 999 clusters of .* segments; lower it"),
        (["segments.area=0.5"], "settings.segments.area: 0.5 is not allowed; give two numbers"),
        (["segments.features=dino"], "--dino-weights: settings.segments.features is 'dino', which needs a file"),
    ],
)
def test_mistakes_are_one_line(changes: list[str], words: str, copy: Path) -> None:
    with pytest.raises(UserError, match=words):
        pseudo_label(options(*changes))


def test_stages_of_the_other_route_are_refused(copy: Path, clisc: Run) -> None:
    line = last_line(clisc(*QUICK, "--stage", "classifier", ok=False))
    assert "--stage classifier: with settings.masks.source = 'everything' the stages are segments, clusters" in line
    line = last_line(clisc(*QUICK, "--image-labels", copy / "dataset.json", ok=False))
    assert "--image-labels: this preset learns from segments" in line


def test_features_of_another_network_do_not_fit_the_clusters(copy: Path, tmp_path: Path) -> None:
    content = json.loads((copy / "dataset.json").read_text())
    content["clisc"]["settings"]["segments"]["features"] = "sam"
    (copy / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="segments: features of 128 values, but the clusters have"):
        pseudo_label_baseline(501, copy / "imagesTr", tmp_path / "again", device="cpu")


def test_slurm_chain_has_the_routes_stages() -> None:
    steps = chain(options(), 3, Training(trainer=None))
    assert [(step.name, len(step.commands)) for step in steps] == [
        ("segments", 3),
        ("clusters", 1),
        ("masks", 3),
        ("finish", 1),
    ]
    assert "um-sam" in steps[0].commands[0]
