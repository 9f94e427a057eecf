"""nnU-Net finds the trainers after installing, with nothing set by hand, and uninstalling leaves no trace."""

from __future__ import annotations

import json
import os
import shutil
import site
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nnunetv2_clisc import doctor
from tests.helpers.paths import PROJECT

LOOK_UP = """
import os, pickle, sys
assert not any(name.split(".")[0] in ("torch", "nnunetv2", "nnunetv2_clisc") for name in sys.modules)
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find
found = find("CLISCTrainer")
import nnunetv2_clisc.training.trainer as ours
assert found is ours.CLISCTrainer
for name in dir(ours):
    if name.startswith("CLISCTrainer_") and name != "CLISCTrainer_small":
        assert find(name) is getattr(ours, name), name
assert pickle.loads(pickle.dumps(found)) is found
print("FROM", ours.__file__, find("CLISCTrainer_small").__module__)
"""


class Environment:
    """A virtual environment of its own that borrows every dependency, but not this package, from the running one."""

    def __init__(self, folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
        self.python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
        self.packages = Path(self.run("import sysconfig; print(sysconfig.get_path('purelib'))"))
        # a directory added by a .pth line is searched, but .pth files in it are not read
        (self.packages / "zz_dependencies.pth").write_text("\n".join(site.getsitepackages()))
        self.fresh = self.files()

    def run(self, code: str, **environment: str) -> str:
        clean = {key: value for key, value in os.environ.items() if key not in ("nnUNet_extTrainer", "PYTHONPATH")}
        result = subprocess.run(
            [str(self.python), "-W", "ignore", "-c", code],
            capture_output=True,
            text=True,
            env=clean | environment,
            cwd=self.python.parent,
        )
        assert result.returncode == 0, result.stderr[-3000:]
        return result.stdout.strip()

    def pip(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "pip", "--python", str(self.python), "--disable-pip-version-check"]
        result = subprocess.run([*command, *arguments], capture_output=True, text=True)
        assert result.returncode == 0, result.stderr[-3000:]

    def install(self, *what: str) -> None:
        self.pip("install", "--no-deps", "--no-index", "--no-build-isolation", *what)

    def files(self) -> set[str]:
        root = self.python.parents[1]
        return {str(p.relative_to(root)) for p in root.rglob("*") if p.is_file() and "__pycache__" not in p.parts}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project to build from, without the weights."""
    target = tmp_path_factory.mktemp("source") / "project"
    skipped = shutil.ignore_patterns(
        ".*", "build", "dist", "*.egg-info", "__pycache__", "*.safetensors", "tests", "demo_output", "runs"
    )
    shutil.copytree(PROJECT, target, ignore=skipped)
    return target


@pytest.fixture(params=["regular", "editable"])
def installed(request: pytest.FixtureRequest, source: Path, tmp_path: Path) -> Environment:
    environment = Environment(tmp_path / "environment")
    environment.install(*(["-e", str(source)] if request.param == "editable" else [str(source)]))
    environment.kind = request.param  # type: ignore[attr-defined]
    return environment


def test_found_without_a_variable_and_gone_after_uninstalling(installed: Environment, source: Path) -> None:
    modules = "import sys, json; print(json.dumps(sorted(sys.modules)))"
    found = installed.run(LOOK_UP)
    where = source if installed.kind == "editable" else installed.packages  # type: ignore[attr-defined]
    assert f"FROM {where / 'nnunetv2_clisc' / 'training' / 'trainer.py'} nnunetv2_clisc.training.trainer" in found
    loaded = set(json.loads(installed.run(modules)))
    with_package = best_of(installed)

    installed.pip("uninstall", "-y", "nnunetv2-clisc")
    assert installed.files() == installed.fresh
    assert installed.run("import os; print(os.environ.get('nnUNet_extTrainer'))") == "None"
    extra = {name for name in loaded - set(json.loads(installed.run(modules))) if "__editable__" not in name}
    assert not any(name.startswith(("nnunetv2", "torch", "pseudo_labeling", "numpy")) for name in extra), extra
    if installed.kind == "regular":  # type: ignore[attr-defined]  # setuptools' own finder starts up when editable
        assert not extra
        assert with_package - best_of(installed) < 0.05


def best_of(environment: Environment, runs: int = 7) -> float:
    """Seconds of the fastest of several starts, the one least disturbed by other work on the machine."""
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        subprocess.run([str(environment.python), "-c", "pass"], check=True)
        times.append(time.perf_counter() - start)
    return min(times)


def test_trainers_of_the_user_keep_working_and_come_first(source: Path, tmp_path: Path) -> None:
    environment = Environment(tmp_path / "environment")
    environment.install(str(source))
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "my_trainers.py").write_text(
        "from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer\n"
        "class CLISCTrainer_small(nnUNetTrainer): pass\n"
    )
    found = environment.run(LOOK_UP, nnUNet_extTrainer=str(mine))
    assert found.endswith("my_trainers")
    first, second = environment.run(
        "import os; print(os.environ['nnUNet_extTrainer'])", nnUNet_extTrainer=str(mine)
    ).split(os.pathsep)
    assert first == str(mine)
    # a child that inherits the variable does not add the folder again
    show = "import os; print(os.environ['nnUNet_extTrainer'])"
    nested = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {show!r}], check=True)"
    assert environment.run(nested) == second


def test_shim_folder_holds_one_module_that_only_imports() -> None:
    """Modules found below the folder are forgotten by nnU-Net after the lookup, so classes must live elsewhere."""
    folder = PROJECT / "nnunetv2_clisc" / "ext_trainer"
    assert [path.name for path in folder.glob("*.py")] == ["clisc_trainers.py"]
    text = (folder / "clisc_trainers.py").read_text()
    assert "class " not in text


def test_doctor_takes_no_foreign_class_for_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = PROJECT / "nnunetv2_clisc" / "ext_trainer"
    monkeypatch.setenv("nnUNet_extTrainer", str(ours))
    assert doctor._trainer().ok
    (tmp_path / "theirs.py").write_text(
        "from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer\n"
        "class CLISCTrainer(nnUNetTrainer):\n    def initialize(self): pass\n"
    )
    monkeypatch.setenv("nnUNet_extTrainer", f"{tmp_path}{os.pathsep}{ours}")
    check = doctor._trainer()
    assert not check.ok
    assert f"another CLISCTrainer in {tmp_path / 'theirs.py'}" in check.detail
    assert f"put {ours} first" in check.detail


def test_doctor_names_the_folder_where_pth_files_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("nnUNet_extTrainer", raising=False)
    check = doctor._trainer()
    assert not check.ok
    assert check.detail.endswith(f"export nnUNet_extTrainer={PROJECT / 'nnunetv2_clisc' / 'ext_trainer'}")
