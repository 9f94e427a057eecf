"""The report: one file with everything in it, whose numbers are those on disk."""

from __future__ import annotations

import base64
import csv
import io
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from dataset_conversion.errors import UserError
from nnunetv2_clisc.report import write_report
from nnunetv2_clisc.report.sources import Model
from nnunetv2_clisc.scoring.stage_table import slice_label_scores
from nnunetv2_clisc.training.s3f import Agreement, keep_all, write_results
from pseudo_labeling.run.workspace import Workspace
from tests.helpers.commands import Run, convert, label_arguments
from tests.helpers.report_files import EPOCHS, TRAINED, Made, add_test_cases, add_training, dice, make_labelled

CASES = [f"case_{number}" for number in range(7)]


class Page(HTMLParser):
    """What is in a page: text, attributes of every tag, and the tables by caption."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.tables: dict[str, list[list[str]]] = {}
        self._open: list[str] = []
        self._caption = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)
        if tag == "caption":
            self._caption = ""
        elif tag == "tr":
            self.tables.setdefault(self._caption, []).append([])
        elif tag in ("td", "th"):
            self.tables[self._caption][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "style" in self._open or "script" in self._open:
            return
        self.text += data
        if "caption" in self._open:
            self._caption += data
        elif "td" in self._open or "th" in self._open:
            self.tables[self._caption][-1][-1] += data.strip()

    def images(self) -> list[Image.Image]:
        """Every picture, decoded."""
        found = []
        for tag, attributes in self.tags:
            if tag == "img":
                kind, data = str(attributes["src"]).split(",", 1)
                assert kind == "data:image/png;base64"
                found.append(Image.open(io.BytesIO(base64.b64decode(data))))
        return found

    def table(self, start: str) -> list[dict[str, str]]:
        """The rows of the table whose caption starts so, by heading."""
        header, *rows = next(rows for caption, rows in self.tables.items() if caption.startswith(start))
        return [dict(zip(header, row, strict=True)) for row in rows]


@pytest.fixture
def labelled(nnunet: Path) -> Made:
    return make_labelled(nnunet, CASES)


@pytest.fixture
def trained(labelled: Made) -> Made:
    add_training(labelled)
    return labelled


def rows_of(path: Path) -> dict[str, dict[str, str]]:
    with open(path, newline="") as file:
        return {row["case"]: row for row in csv.DictReader(file)}


def test_page_is_whole_and_needs_nothing_from_outside(trained: Made, tmp_path: Path) -> None:
    page = Page(write_report(501, model=TRAINED, gt=trained.gt, output=tmp_path / "new" / "report.html"))
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        assert "src" not in attributes or str(attributes["src"]).startswith("data:image/png")
        assert str(attributes.get("href", "#")).startswith("#")
    anchors = {attributes["href"] for tag, attributes in page.tags if tag == "a"}
    assert anchors <= {f"#{attributes['id']}" for _, attributes in page.tags if "id" in attributes}
    assert "url(" not in (tmp_path / "new" / "report.html").read_text()
    images = page.images()
    assert all(np.ptp(np.asarray(image.convert("L"))) > 50 for image in images)
    assert len(images) > 20
    assert all(case in page.text for case in CASES)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["report.html"]


def test_numbers_are_those_on_disk(trained: Made, tmp_path: Path) -> None:
    page = Page(write_report(501, model=TRAINED, gt=trained.gt, output=tmp_path / "r.html"))
    summary = rows_of(trained.dataset / "clisc" / "summary.csv")
    similarities = rows_of(trained.fold.s3f / "similarities.csv")
    table = page.table("All 7 cases")
    assert [row["Case"] for row in table] == CASES
    for row in table:
        case = row["Case"]
        assert row["Mask"].replace("\u202f", "") == summary[case]["mask_voxels"]
        assert row["ROI"].replace("\u202f", "") == summary[case]["roi_voxels"]
        assert row["Tumour"] == summary[case]["tumour_slices"]
        label, gt = trained.dataset / "labelsTr" / f"{case}.nii.gz", trained.gt / f"{case}.nii.gz"
        assert row["DSC label"] == f"{100 * dice(label, gt):.1f}"
        assert float(row["Mask ml"]) == pytest.approx(int(summary[case]["mask_voxels"]) * 0.003, abs=0.05)
        if case == CASES[-1]:
            assert (row["Split"], row["Similarity"], row["Round 2"]) == ("val", "–", "–")
        else:
            assert row["Similarity"] == f"{float(similarities[case]['similarity']):.3f}"
            assert row["Round 2"] == ("kept" if similarities[case]["kept"] == "1" else "dropped")
            assert row["DSC round 1"] == f"{100 * dice(trained.fold.prediction(case, '.nii.gz'), gt):.1f}"
    dropped = [case for case, row in similarities.items() if row["kept"] == "0"]
    assert sorted(row["Case"] for row in page.table(f"The {len(dropped)} cases that S3F")) == dropped
    pairs = [
        (float(row["similarity"]), dice(trained.fold.prediction(case, ".nii.gz"), trained.gt / f"{case}.nii.gz"))
        for case, row in similarities.items()
    ]
    rho = stats.spearmanr(*zip(*pairs, strict=True)).statistic
    assert f"Spearman's ρ of similarity and true DSC: {rho:.2f}" in page.text
    assert "F1 1.000, AUC 1.000" in page.text


def test_settings_weights_and_versions_are_those_recorded(trained: Made, tmp_path: Path) -> None:
    from dataset_conversion.files import sha256_of

    page = Page(write_report(501, model=TRAINED, output=tmp_path / "r.html"))
    settings = {row["Setting"]: row for row in page.table("Settings")}
    assert settings["prompts.margin"] == {"Setting": "prompts.margin", "Here": "7", "Paper": "0"}
    weights = {row["Network"]: row["SHA-256"] for row in page.table("Weights")}
    assert weights["CLIP"] == 64 * "c"
    assert weights["Slice classifier"] == sha256_of(trained.dataset / "clisc" / "classifier" / "raw.pt")
    assert weights["Network, round 2"] == sha256_of(trained.fold.final(2))
    assert page.table("Package versions") == [{"Package": "torch", "Version": "0.0-test"}]
    assert f"Round 2: {EPOCHS} epochs, 0.0 min" in page.text


def test_without_masks_cases_are_chosen_by_similarity_and_no_score_is_shown(trained: Made, tmp_path: Path) -> None:
    page = Page(write_report(501, model=TRAINED, output=tmp_path / "r.html"))
    assert "by: S3F similarity" in page.text
    similarities = rows_of(trained.fold.s3f / "similarities.csv")
    best = max(similarities, key=lambda case: float(similarities[case]["similarity"]))
    shown = page.text[page.text.index("by: S3F similarity") :]
    assert (
        shown.index("best")
        < shown.index(best)
        < shown.index(f"S3F similarity {float(similarities[best]['similarity']):.3f}")
    )
    assert "No masks were given" in page.text
    assert "DSC label" not in page.table("All 7 cases")[0]
    assert "Spearman's ρ of similarity" not in page.text


def test_dataset_that_is_only_labelled_is_reported(
    labelled: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Page(write_report(501, output=tmp_path / "r.html"))
    assert "No training of CLISCTrainer__nnUNetPlans__3d_fullres/fold_0" in page.text
    assert "No training yet" in page.text
    assert "S3F has not run" in page.text
    assert "by: Dice of ROI and pseudo-label" in page.text
    assert all(case in page.text for case in CASES)
    monkeypatch.delenv("nnUNet_results")
    assert "nnUNet_results is not set" in Page(write_report(501, output=tmp_path / "r.html")).text


def test_training_under_way_is_said_to_be_unfinished(trained: Made, tmp_path: Path) -> None:
    from nnunetv2_clisc.training.fold import State

    trained.fold.final(2).unlink()
    trained.fold.write_state(State("round_2", "origin"))
    text = Page(write_report(501, model=TRAINED, output=tmp_path / "r.html")).text
    assert "in stage round_2" in text
    assert "Round 2 has no checkpoint yet" in text


def test_labels_made_after_the_training_are_pointed_out(trained: Made, tmp_path: Path) -> None:
    path = trained.dataset / "dataset.json"
    path.write_text(path.read_text().replace('"margin": 7', '"margin": 8'))
    page = Page(write_report(501, model=TRAINED, output=tmp_path / "r.html"))
    assert "labelled with other settings or weights after this training" in page.text


def test_predictions_of_test_cases_are_shown_and_scored(trained: Made, tmp_path: Path) -> None:
    pred = add_test_cases(trained, tmp_path / "mine", ["t0", "t1", "t2"])
    page = Page(write_report(501, model=TRAINED, pred=pred, gt=trained.gt, output=tmp_path / "r.html"))
    scores = {row["Case"]: row["DSC (%)"] for row in page.table("mine against the masks")}
    assert scores == {c: f"{100 * dice(pred / f'{c}.nii.gz', trained.gt / f'{c}.nii.gz'):.2f}" for c in scores}
    assert list(scores) == ["t0", "t1", "t2"]
    alts = [str(attributes["alt"]) for tag, attributes in page.tags if tag == "img"]
    assert any(alt.startswith("t2:") for alt in alts)


def test_training_without_s3f_is_reported_as_such(trained: Made, tmp_path: Path) -> None:
    agreements = [Agreement(case, 10) for case in CASES[:-1]]
    write_results(trained.fold.s3f, keep_all(agreements), {"s3f": False})
    page = Page(write_report(501, model=TRAINED, gt=trained.gt, output=tmp_path / "r.html"))
    assert "S3F was off" in page.text
    assert {row["Round 2"] for row in page.table("All 7 cases")} == {"kept", "–"}


def test_slice_scores_are_those_of_the_command_stages(labelled: Made, tmp_path: Path) -> None:
    table = labelled.dataset / "clisc" / "slice_labels.csv"
    table.write_text(table.read_text().replace(",1,0.89", ",0,0.09"))  # some slices of every case are missed
    page = Page(write_report(501, gt=labelled.gt, output=tmp_path / "r.html"))
    f1, area, slices = slice_label_scores(Workspace(labelled.dataset), labelled.gt, CASES)
    assert 0.1 < f1 < 0.99
    assert f"F1 {f1:.3f}, AUC {area:.3f} over {slices} slices" in page.text


def test_names_cannot_become_markup(nnunet: Path, tmp_path: Path) -> None:
    odd = "<script>alert(1)<@script>&amp;\"'"
    made = make_labelled(nnunet, [odd, "plain"])
    page = Page(write_report(501, output=tmp_path / "r.html"))
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert odd in page.text
    assert made.dataset.is_dir()


def test_mistakes_are_one_line_naming_the_flag(trained: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(match: str, **arguments: object) -> None:
        with pytest.raises(UserError, match=match) as found:
            write_report(501, **{"output": tmp_path / "r.html", **arguments})  # type: ignore[arg-type]
        assert "\n" not in str(found.value)
        assert not (tmp_path / "r.html").exists()

    fails("-tr/-p/-c/-f.*CLISCTrainer_small__nnUNetPlans_coarse", model=Model("CLISCTrainer_typo"))
    fails("-o .*ends in .html", output=tmp_path / "r.nii.gz")
    fails("-o .*ends in .html", output=tmp_path)
    fails("--gt .*pseudo-labels themselves", gt=trained.dataset / "labelsTr")
    fails("no such folder", gt=tmp_path / "nowhere")
    strangers = tmp_path / "strangers"
    strangers.mkdir()
    (trained.gt / f"{CASES[0]}.nii.gz").rename(strangers / "other.nii.gz")
    fails("--gt .*no mask of a case", gt=strangers)
    fails("--pred .*no scan of case other", pred=strangers)
    (trained.fold.s3f / "similarities.csv").write_text("a,b\n1,2\n")
    fails("similarities.csv: not our table", model=TRAINED)
    (trained.dataset / "clisc" / "slice_labels.csv").unlink()
    fails("-d 501.*pseudo_label")


def test_command_writes_into_the_current_folder(
    clisc: Run, labelled: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    done = clisc("report", "-d", 501)
    assert done.stdout.strip() == "Dataset501_A_report.html"
    assert Path("Dataset501_A_report.html").stat().st_size > 10_000
    failed = clisc("report", "-d", 501, "-tr", "Nobody", ok=False)
    assert failed.returncode == 2
    assert failed.stderr.strip().splitlines()[-1].startswith("error: -tr")


@pytest.mark.slow
def test_what_pseudo_label_leaves_can_be_reported(clisc: Run, nnunet: Path, scans: Path) -> None:
    dataset = convert(clisc, scans)
    clisc(*label_arguments())
    clisc("report", "-d", 501, "--gt", scans / "labels", "-o", nnunet / "r.html")
    page = Page(nnunet / "r.html")
    summary = rows_of(dataset / "clisc" / "summary.csv")
    table = {row["Case"]: row["Mask"].replace("\u202f", "") for row in page.table("All 5 cases")}
    assert table == {case: row["mask_voxels"] for case, row in summary.items()}
    assert len(page.images()) >= 4 * 2


def test_help_imports_no_torch() -> None:
    code = "import sys, nnunetv2_clisc.cli as c\ntry: c.main(['report', '--help'])\nexcept SystemExit: pass\n"
    code += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
