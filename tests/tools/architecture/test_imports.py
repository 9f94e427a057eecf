"""The arrows between the rooms point one way: on the project as it is, and each rule on a small tree that breaks it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.paths import PROJECT
from tools.architecture.imports import Import, faults, imports, python_files

SOUND = {
    "dataset_conversion/errors.py": "import json",
    "dataset_conversion/scans/reader.py": "from dataset_conversion import errors",
    "pseudo_labeling/roi.py": "import numpy as np\nfrom dataset_conversion.errors import UserError",
    "pseudo_labeling/sam/decoder.py": "from pseudo_labeling.roi import box",
    "pseudo_labeling/run/inputs.py": "def read():\n    from pseudo_labeling.sam.decoder import decode",
    "nnunetv2_clisc/training/rounds.py": "import pseudo_labeling.run.inputs",
    "nnunetv2_clisc/cli.py": "from nnunetv2_clisc.training.rounds import train",
    "benchmarks/bench.py": "import nnunetv2_clisc.cli\nimport pseudo_labeling.roi",
}


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def test_the_project_keeps_to_the_rules() -> None:
    found = faults(PROJECT)
    assert not found, "\n" + "\n".join(found)
    assert len(python_files(PROJECT)) > 100  # what was read is the project
    assert len(imports(PROJECT)) > 400


def test_a_sound_tree_has_no_fault(tmp_path: Path) -> None:
    assert faults(tree(tmp_path, SOUND)) == []


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        pytest.param(
            "dataset_conversion/scans/reader.py",
            "from pseudo_labeling.roi import box",
            "dataset_conversion/scans/reader.py:1 imports pseudo_labeling/roi.py: "
            "dataset_conversion/scans lies below pseudo_labeling/stages",
            id="lowest package imports the middle one",
        ),
        pytest.param(
            "pseudo_labeling/roi.py",
            "import nnunetv2_clisc.training.rounds as rounds",
            "pseudo_labeling/roi.py:1 imports nnunetv2_clisc/training/rounds.py: "
            "pseudo_labeling/stages lies below nnunetv2_clisc/training",
            id="middle package imports the highest",
        ),
        pytest.param(
            "pseudo_labeling/roi.py",
            "from .run import inputs",
            "pseudo_labeling/roi.py:1 imports pseudo_labeling/run/inputs.py: "
            "pseudo_labeling/stages lies below pseudo_labeling/run",
            id="a stage imports run, relatively",
        ),
        pytest.param(
            "pseudo_labeling/sam/decoder.py",
            "from ..run.inputs import read",
            "pseudo_labeling/sam/decoder.py:1 imports pseudo_labeling/run/inputs.py: "
            "pseudo_labeling/sam lies below pseudo_labeling/run",
            id="sam imports run",
        ),
        pytest.param(
            "pseudo_labeling/weights/files.py",
            "if True:\n    from pseudo_labeling.run import inputs",
            "pseudo_labeling/weights/files.py:2 imports pseudo_labeling/run/inputs.py: "
            "pseudo_labeling/weights lies below pseudo_labeling/run",
            id="weights imports run, in a block",
        ),
        pytest.param(
            "pseudo_labeling/embedded/models.py",
            "def build():\n    from pseudo_labeling.run.inputs import read",
            "pseudo_labeling/embedded/models.py:2 imports pseudo_labeling/run/inputs.py: "
            "pseudo_labeling/embedded lies below pseudo_labeling/run",
            id="embedded imports run, in a function",
        ),
        pytest.param(
            "pseudo_labeling/rivals/salip.py",
            "from pseudo_labeling.run.inputs import read",
            "pseudo_labeling/rivals/salip.py:1 imports pseudo_labeling/run/inputs.py: "
            "pseudo_labeling/rivals lies beside pseudo_labeling/run",
            id="rivals imports run",
        ),
        pytest.param(
            "pseudo_labeling/controls/kappa.py",
            "import importlib\ninputs = importlib.import_module('pseudo_labeling.run.inputs')",
            "pseudo_labeling/controls/kappa.py:2 imports pseudo_labeling/run/inputs.py: "
            "pseudo_labeling/controls lies beside pseudo_labeling/run",
            id="controls imports run, by name",
        ),
        pytest.param(
            "nnunetv2_clisc/scoring/metrics.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from nnunetv2_clisc.training import rounds",
            "nnunetv2_clisc/scoring/metrics.py:3 imports nnunetv2_clisc/training/rounds.py: "
            "nnunetv2_clisc/scoring lies below nnunetv2_clisc/training",
            id="a lower room imports a higher one, for a type",
        ),
        pytest.param(
            "pseudo_labeling/run/inputs.py",
            "from benchmarks import bench",
            "pseudo_labeling/run/inputs.py:1 imports benchmarks/bench.py: no package imports benchmarks",
            id="a package imports benchmarks",
        ),
        pytest.param(
            "pseudo_labeling/new_stage.py",
            "",
            "pseudo_labeling/new_stage.py: in no room; move it into one, or name it in tools/architecture/imports.py",
            id="a new file at the top of a package",
        ),
        pytest.param(
            "nnunetv2_clisc/attic/old.py",
            "",
            "nnunetv2_clisc/attic/old.py: in no room; move it into one, or name it in tools/architecture/imports.py",
            id="a new folder",
        ),
    ],
)
def test_each_rule_names_the_two_files(tmp_path: Path, file: str, text: str, message: str) -> None:
    assert message in faults(tree(tmp_path, SOUND | {file: text}))


def test_a_circle_between_files_of_one_room_is_named(tmp_path: Path) -> None:
    circle = {
        "nnunetv2_clisc/training/rounds.py": "from nnunetv2_clisc.training.relabel import relabel",
        "nnunetv2_clisc/training/relabel.py": "from nnunetv2_clisc.training.checks import check",
        "nnunetv2_clisc/training/checks.py": "if TYPE_CHECKING:\n    from nnunetv2_clisc.training.rounds import Rounds",
        "nnunetv2_clisc/training/plans.py": "from nnunetv2_clisc.training.rounds import Rounds",  # leads to it only
    }
    folder = "nnunetv2_clisc/training"
    assert faults(tree(tmp_path, SOUND | circle)) == [
        f"circle: {folder}/checks.py → {folder}/rounds.py → {folder}/relabel.py → {folder}/checks.py"
    ]


def test_a_circle_between_rooms_is_named_though_no_two_files_import_each_other(tmp_path: Path) -> None:
    circle = {
        "nnunetv2_clisc/report/page.py": "from nnunetv2_clisc.studies.sanity import sanity",
        "nnunetv2_clisc/studies/ablate.py": "from nnunetv2_clisc.report.charts import chart",
        "nnunetv2_clisc/studies/sanity.py": "",
        "nnunetv2_clisc/report/charts.py": "",
    }
    assert [line.split(":")[0] for line in faults(tree(tmp_path, SOUND | circle))] == [
        "nnunetv2_clisc/report/page.py",
        "nnunetv2_clisc/studies/ablate.py",
    ]


def test_a_module_is_told_from_a_name_within_a_module(tmp_path: Path) -> None:
    files = {
        "dataset_conversion/errors.py": "",
        "dataset_conversion/scans/__init__.py": "HALF = 2",
        "dataset_conversion/scans/reader.py": "",
        "dataset_conversion/raw/dataset.py": "from dataset_conversion.scans import HALF, reader\nimport numpy",
    }
    assert imports(tree(tmp_path, files)) == [
        Import("dataset_conversion/raw/dataset.py", 1, "dataset_conversion/scans/__init__.py"),
        Import("dataset_conversion/raw/dataset.py", 1, "dataset_conversion/scans/reader.py"),
    ]
