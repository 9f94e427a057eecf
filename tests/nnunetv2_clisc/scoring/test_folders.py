"""`evaluate` and `compare` as a user runs them: the files they leave and the mistakes they name."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from dataset_conversion.errors import UserError
from nnunetv2_clisc.scoring.comparison import Comparison
from nnunetv2_clisc.scoring.comparison_files import write_summary
from nnunetv2_clisc.scoring.evaluation import evaluate_folders
from nnunetv2_clisc.scoring.folders import compare, evaluate, parse_methods
from nnunetv2_clisc.scoring.metrics import MetricSettings
from tests.helpers.commands import Run
from tests.helpers.volume_files import cube, tree, write

FILES = {"summary.json", "cases.csv", "table.md", "table.tex"} | {
    f"{name}.{kind}" for name in ("boxplots", "dsc_by_volume", "bland_altman") for kind in ("png", "svg")
}


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Six cases: references `gt`; `exact` equals them, `off` is off by a column and empty in f, `short` lacks f."""
    for number, case in enumerate("abcdef"):
        mask = cube((5, 8, 9 + number))
        mask[2, 2:6, 7 : 7 + number] = 1  # of different sizes
        write(tmp_path / "gt" / f"{case}.nii.gz", mask)
        write(tmp_path / "exact" / f"{case}.nii.gz", mask)
        off = np.roll(mask, 1, axis=2)
        write(tmp_path / "off" / f"{case}.nii.gz", np.zeros_like(mask) if case == "f" else off)
        if case != "f":
            write(tmp_path / "short" / f"{case}.nii.gz", off)
    return tmp_path


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of a refused command."""
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ")
    return line


def test_compare_writes_everything(folders: Path, clisc: Run) -> None:
    out = folders / "deep" / "out"
    methods = [f"--method={name}={folders / name}" for name in ("exact", "off", "short")]
    printed = clisc("compare", "--gt", folders / "gt", *methods, "-o", out).stdout
    assert {path.name for path in out.iterdir()} == FILES
    content = json.loads((out / "summary.json").read_text(), parse_constant=lambda word: pytest.fail(word))
    assert content["methods"]["exact"]["dsc"]["mean"] == 1
    assert 0 < content["methods"]["off"]["dsc"]["mean"] < 1
    assert content["methods"]["off"]["hd95_mm"]["mean"] == pytest.approx(0.9)  # a column is 0.9 mm wide
    assert content["missing"] == {"short": ["f"]}
    with open(out / "cases.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 18
    assert [row["dsc"] for row in rows if row["status"] == "missing"] == [""]
    table = (out / "table.md").read_text()
    for text in (printed, table):
        assert "**100.00 ± 0.00" in text
        assert "Missing in short (1): f" in text
    assert r"\textbf{100.00 $\pm$ 0.00" in (out / "table.tex").read_text()


def test_same_command_same_files(folders: Path) -> None:
    methods = [f"{name}={folders / name}" for name in ("exact", "off")]
    for out in ("one", "two"):
        compare(methods, folders / "gt", folders / out)
    assert tree(folders / "one") == tree(folders / "two")
    compare(methods[::-1], folders / "gt", folders / "one")  # into a folder that is not empty
    assert {path.name for path in (folders / "one").iterdir()} == FILES


def test_evaluate_writes_the_same_shape(folders: Path, clisc: Run) -> None:
    printed = clisc(
        "evaluate", "--pred", folders / "off", "--gt", folders / "gt",
        "--json", folders / "one.json", "-o", folders / "out",
    ).stdout  # fmt: skip
    content = json.loads((folders / "one.json").read_text())
    assert content == json.loads((folders / "out" / "summary.json").read_text())
    assert {path.name for path in (folders / "out").iterdir()} == FILES
    assert content["methods"]["off"]["hd95_mm"]["nan"] == 1
    assert content["empty"] == {"off": ["f"]}
    assert content["cases"][5]["hd95_mm"] is None
    assert (
        content["cases"][0] | {"method": "off", "case": "a", "status": "compared", "size": "tiny"}
        == content["cases"][0]
    )
    assert list(content["size_groups"]) == ["tiny", "small", "medium", "large", "huge"]
    lines = printed.splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:8]] == list("abcdef")
    assert "Empty mask in off (1): f." in lines


def test_conventions_are_flags(folders: Path, clisc: Run) -> None:
    pair = ["--pred", folders / "off", "--gt", folders / "gt", "--json", folders / "r.json"]
    values = {}
    for policy in ("nan", "worst", "public-code"):
        clisc("evaluate", *pair, "--empty-policy", policy, "--hd95", "larger")
        content = json.loads((folders / "r.json").read_text())
        values[policy] = content["cases"][5]["hd95_mm"]
        assert content["settings"]["empty_policy"] == policy
        assert "MONAI" in content["definitions"]["hd95_mm"]
    assert values["nan"] is None
    assert values["public-code"] == 0
    assert values["worst"] == pytest.approx(np.linalg.norm(np.array([5, 8, 14]) * (3, 0.8, 0.9)))


def test_hd95_definition_reaches_the_cases(folders: Path) -> None:
    mask = cube()
    mask[0, 7, 6:9] = 1  # a false island is far in one direction only
    write(folders / "off" / "a.nii.gz", mask)
    found = []
    for definition in ("pooled", "larger"):
        settings = MetricSettings(hd95=definition)  # type: ignore[arg-type]
        evaluate(folders / "off", folders / "gt", settings=settings, json_file=folders / "r.json")
        found.append(json.loads((folders / "r.json").read_text())["cases"][0]["hd95_mm"])
    assert found[0] != found[1]


@pytest.mark.parametrize(
    ("methods", "named"),
    [
        ([], "--method: 0 given"),
        (["a={d}/exact"], "--method: 1 given"),
        (["a={d}/exact", "a={d}/off"], "a is listed twice"),
        (["a={d}/exact", "b={d}/../{n}/exact"], "the same folder as a"),
        (["a={d}/exact", "b"], "--method b: write NAME=DIR"),
        (["a={d}/exact", "={d}/off"], "write NAME=DIR"),
        (["a={d}/exact", "b={d}/nowhere"], "nowhere: no such folder"),
        (["a={d}/exact", "b={d}/void"], "void: holds no"),
    ],
)
def test_wrong_methods_are_named_and_nothing_is_written(
    folders: Path, clisc: Run, methods: list[str], named: str
) -> None:
    (folders / "void").mkdir()
    given = [text.format(d=folders, n=folders.name) for text in methods]
    flags = ["--method", *given] if given else []
    done = clisc("compare", "--gt", folders / "gt", "-o", folders / "out", *flags, ok=False)
    assert named in refused(done)
    assert not (folders / "out").exists()


@pytest.mark.parametrize(
    ("array", "spacing", "named"),
    [
        (cube((5, 8, 8)), (0.9, 0.8, 3.0), "shape"),
        (cube(), (1.0, 0.8, 3.0), "spacing"),
        (cube(value=3), (0.9, 0.8, 3.0), "the value 3"),
    ],
)
def test_masks_that_do_not_fit_are_named_and_old_files_stay(
    folders: Path, array: np.ndarray, spacing: tuple[float, ...], named: str
) -> None:
    methods = [f"{name}={folders / name}" for name in ("exact", "off")]
    compare(methods, folders / "gt", folders / "out")
    before = tree(folders / "out")
    write(folders / "off" / "a.nii.gz", array, spacing=spacing)
    with pytest.raises(UserError, match=rf"off/a\.nii\.gz: .*{named}"):
        compare(methods, folders / "gt", folders / "out")
    assert tree(folders / "out") == before


def test_output_that_cannot_be(folders: Path) -> None:
    methods = [f"{name}={folders / name}" for name in ("exact", "off")]
    (folders / "file").write_text("mine")
    for out, named in (("file", "is a file"), ("exact", "is the folder of --method exact"), ("file/out", "written")):
        with pytest.raises(UserError, match=f"-o .*{named}"):
            compare(methods, folders / "gt", folders / out)
    assert (folders / "file").read_text() == "mine"
    with pytest.raises(UserError, match=r"--pred .*gt: is the folder of --gt"):
        evaluate(folders / "exact" / ".." / "gt", folders / "gt")
    for place, named in (("nowhere/r.json", "cannot be written, its folder is not there"), ("gt", "is a folder")):
        with pytest.raises(UserError, match=f"--json .*{place}: {named}"):
            evaluate(folders / "off", folders / "gt", json_file=folders / place)


@pytest.mark.skipif(os.name != "posix", reason="file size limits")
def test_full_disk_leaves_the_old_files_whole(folders: Path) -> None:
    methods = [f"{name}={folders / name}" for name in ("exact", "off")]
    compare(methods, folders / "gt", folders / "out")
    before = tree(folders / "out")
    code = f"""
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond the limit fails like one on a full disk
from pathlib import Path
from nnunetv2_clisc.scoring.folders import compare
resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))
try:
    compare({methods[::-1]!r}, Path({str(folders / "gt")!r}), Path({str(folders / "out")!r}))
except ValueError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "-o cannot be written: " in done.stdout
    assert f"{folders / 'out'}: File too large" in done.stdout
    assert tree(folders / "out") == before


def test_two_writers_of_one_file_do_not_disturb_each_other(folders: Path) -> None:
    """Threads have one process id, as processes of two machines may have."""
    comparison = Comparison([evaluate_folders(folders / "off", folders / "gt")])
    target = folders / "numbers" / "r.json"
    target.parent.mkdir()
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(write_summary, comparison, target) for _ in range(40)]:
            done.result()
    assert json.loads(target.read_text())["methods"]["off"]["dsc"]["n"] == 6
    assert [path.name for path in target.parent.iterdir()] == ["r.json"]


def test_folders_may_hold_an_equals_sign_and_names_no_line_break() -> None:
    assert parse_methods(["β 20 %=runs/beta=20"]) == {"β 20 %": Path("runs/beta=20")}
    with pytest.raises(UserError, match="write NAME=DIR"):
        parse_methods(["two\nlines=x"])


def test_compare_does_not_import_torch(folders: Path) -> None:
    code = f"""
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from nnunetv2_clisc.scoring.folders import compare, evaluate
evaluate(Path({str(folders / "off")!r}), Path({str(folders / "gt")!r}))
print("torch" in sys.modules, "matplotlib" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
