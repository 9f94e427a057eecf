"""The installed command: help without torch, and the user's mistakes in one line."""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataset_conversion.errors import UserError
from nnunetv2_clisc.cli import _parser
from nnunetv2_clisc.environment import raw_dataset
from tests.helpers.commands import Run, last_line, program


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["pseudo_label", "--help"],
        ["pseudo_label", "-d", "1", "--stage", "nonsense"],
        ["pseudo_label", "-d", "1", "--stage", "masks", "-num_parts", "2", "-part_id", "2"],
        ["relabel", "-d", "1", "-num_parts", "0"],
        ["submit", "--help"],
        ["convert", "folder", "--help"],
        ["compare", "--help"],
        ["compare"],
        ["pseudo_label", "-d", "nonsense"],
        ["nonsense"],
        [],
    ],
    ids=" ".join,
)
def test_help_and_argument_errors_do_not_import_torch(arguments: list[str]) -> None:
    code = f"""
import sys
sys.argv = ["nnUNetv2_clisc", *{arguments!r}]
import nnunetv2_clisc.cli as cli
try:
    cli.main()
except SystemExit:
    pass
print("torch" in sys.modules, file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip().splitlines()[-1] == "False"


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, nnunetv2_clisc, nnunetv2_clisc.api; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# ---- help pages


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """A parser and all of its subcommands'."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                yield from parsers(each)


PAGES = {parser.prog: parser for parser in parsers(_parser())}


def test_every_command_has_a_page() -> None:
    assert len(PAGES) == 36
    assert {"nnUNetv2_clisc", "nnUNetv2_clisc convert folder", "nnUNetv2_clisc baseline salip"} <= PAGES.keys()


@pytest.mark.parametrize("name", PAGES)
class TestPage:
    def test_says_what_the_command_does(self, name: str) -> None:
        description = " ".join((PAGES[name].description or "").split())
        assert len(description) > 40
        assert description[0].isupper()
        assert description.endswith((".", "?", " -h"))

    def test_shows_an_example_that_the_command_takes(self, name: str) -> None:
        heading, *lines = (PAGES[name].epilog or "").splitlines()
        assert heading == "example:"
        for line in "\n".join(lines).replace("\\\n", " ").splitlines():
            words = shlex.split(line)
            assert words[: len(name.split())] == name.split()
            assert callable(_parser().parse_args(words[1:]).run)

    def test_explains_every_flag(self, name: str) -> None:
        for action in PAGES[name]._actions:
            if not isinstance(action, argparse._SubParsersAction):
                assert action.help, action.option_strings

    def test_groups_its_flags(self, name: str) -> None:
        """argparse's own group holds what every page has."""
        flags = [flag for action in PAGES[name]._optionals._group_actions for flag in action.option_strings]
        assert set(flags) <= {"-h", "--help", "--version"}
        titles = [group.title for group in PAGES[name]._action_groups]
        assert len(titles) == len(set(titles))

    def test_fits_80_columns(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COLUMNS", "80")
        page = PAGES[name].format_help()
        assert page.index("example:") > page.index("-h, --help")
        assert max(map(len, page.splitlines())) <= 80


def test_lists_of_commands_have_a_line_for_each_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert "\n    pseudo_label  slice labels, CAMs" in PAGES["nnUNetv2_clisc"].format_help()


# ---- nnU-Net's look of flags


def test_num_gpus_is_spelt_as_nnunet_spells_it_and_as_before() -> None:
    for flag in ("-num_gpus", "--num_gpus"):
        assert _parser().parse_args(["pseudo_label", "-d", "501", flag, "2"]).num_gpus == 2
    page = PAGES["nnUNetv2_clisc pseudo_label"].format_help()
    assert " -num_gpus N " in page
    assert "--num_gpus" not in page


def test_d_takes_a_number_or_a_name() -> None:
    taking = [name for name, parser in PAGES.items() if any(action.dest == "dataset" for action in parser._actions)]
    assert len(taking) == 9
    for name in taking:
        for flag, text, value in (("-d", "7", 7), ("--dataset-id", "Dataset501_My_Scans-2", "Dataset501_My_Scans-2")):
            rest = {"stages": ["--gt", "g"], "ablate": ["-o", "o"]}.get(name.split()[-1], [])
            rest = ["--images", "i", "-o", "o"] if " baseline " in name else rest
            assert _parser().parse_args([*name.split()[1:], flag, text, *rest]).dataset == value


@pytest.mark.parametrize("text", ["MyScans", "dataset501_P", "Dataset_P", "Dataset5_P", "Dataset501", "5.0", "²"])
def test_d_that_is_neither_is_one_line(text: str, clisc: Run) -> None:
    assert f"argument -d/--dataset-id: '{text}': give a number such as 501" in last_line(
        clisc("pseudo_label", "-d", text, ok=False)
    )


def test_a_new_dataset_is_given_by_its_number(clisc: Run) -> None:
    for flag, more in (("-d", []), ("--fullsup-d", ["-d", 501])):
        arguments = ["convert", "folder", "--images", "x", "-n", "P", *more, flag, "Dataset502_P"]
        assert "'Dataset502_P': a new dataset is given by its number" in last_line(clisc(*arguments, ok=False))
        arguments[-1] = "x"
        assert "'x': give a number from 1 to 999" in last_line(clisc(*arguments, ok=False))


def test_number_name_and_folder_are_one_dataset(nnunet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = nnunet / "nnUNet_raw" / "Dataset007_P"
    folder.mkdir()
    (nnunet / "nnUNet_raw" / "Dataset008_P").mkdir()
    assert raw_dataset(7) == raw_dataset("Dataset007_P") == raw_dataset(folder) == raw_dataset(str(folder)) == folder
    monkeypatch.chdir(folder.parent)
    assert raw_dataset(Path("Dataset007_P")) == folder
    for wrong in (nnunet / "nnUNet_raw", folder.with_name("Dataset009_P"), "P"):
        with pytest.raises(UserError, match=rf"^{wrong}: no dataset; give its number, its name or its folder"):
            raw_dataset(wrong)


def test_name_that_does_not_exist_is_one_line_with_what_is_there(clisc: Run, nnunet: Path) -> None:
    raw = nnunet / "nnUNet_raw"
    (raw / "Dataset501_Mine").mkdir()
    for command in (["pseudo_label"], ["stages", "--gt", nnunet], ["report"], ["submit"], ["sanity", "-device", "cpu"]):
        line = last_line(clisc(*command, "-d", "Dataset501_Yours", ok=False))
        assert line == f"error: -d Dataset501_Yours: {raw} has Dataset501_Mine instead; give that name or 501"
    line = last_line(clisc("pseudo_label", "-d", "Dataset777_P", ok=False))
    assert line == f"error: -d Dataset777_P: {raw} has no dataset Dataset777_*; run `nnUNetv2_clisc convert` first"
    line = last_line(clisc("relabel", "-d", "Dataset501_Mine", "-device", "cpu", ok=False))
    pre = nnunet / "nnUNet_preprocessed"
    assert line.startswith(f"error: -d Dataset501_Mine: {pre} has no dataset Dataset501_*; run `nnUNetv2_plan_and_pre")


def test_two_datasets_of_one_number_are_named(nnunet: Path) -> None:
    for name in ("Dataset501_A", "Dataset501_B"):
        (nnunet / "nnUNet_raw" / name).mkdir()
    for dataset in (501, "Dataset501_A"):
        with pytest.raises(UserError, match=rf"^-d {dataset}: .* has Dataset501_A and Dataset501_B; nnU-Net takes one"):
            raw_dataset(dataset)


# ---- mistakes


def test_unset_nnunet_paths_are_named(clisc: Run, monkeypatch: pytest.MonkeyPatch, scans: Path) -> None:
    monkeypatch.delenv("nnUNet_raw", raising=False)
    assert "nnUNet_raw" in last_line(clisc("pseudo_label", "-d", 501, ok=False))
    assert "nnUNet_raw" in last_line(clisc("convert", "folder", "--images", scans, "-d", 1, "-n", "A", ok=False))


def test_unknown_dataset_is_named(clisc: Run, nnunet: Path) -> None:
    assert "-d 777" in last_line(clisc("pseudo_label", "-d", 777, "-device", "cpu", ok=False))


def test_missing_cuda_is_named(clisc: Run, nnunet: Path, scans: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    clisc("convert", "folder", "--images", scans / "images", "-d", 501, "-n", "P")
    assert "-device cuda" in last_line(
        clisc("pseudo_label", "-d", 501, "-device", "cuda", "--weights", "embedded", ok=False)
    )


def test_missing_weight_file_is_named(clisc: Run, nnunet: Path, scans: Path, tmp_path: Path) -> None:
    clisc("convert", "folder", "--images", scans / "images", "-d", 501, "-n", "P")
    for arguments in (
        ["--weights", tmp_path / "no.pth"],
        ["--weights", "embedded", "--clip-weights", tmp_path / "no.pt"],
    ):
        done = clisc("pseudo_label", "-d", 501, "-device", "cpu", *arguments, ok=False)
        assert str(tmp_path / "no.pt") in last_line(done)
        assert "slice labels" not in done.stderr  # said before any work is done


def test_doctor_says_what_to_do(clisc: Run, nnunet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = clisc("doctor", ok=None).stdout.splitlines()
    assert any(line.startswith("ok") and "CLISCTrainer" in line for line in lines)
    assert any(line.startswith("ok") and str(nnunet / "nnUNet_raw") in line for line in lines)
    monkeypatch.delenv("nnUNet_results")
    monkeypatch.setenv("nnUNet_raw", str(nnunet / "nowhere"))
    done = clisc("doctor", ok=None)
    assert done.returncode == 1
    bad = [line for line in done.stdout.splitlines() if line.startswith("BAD")]
    assert any("nnUNet_results" in line and "export" in line for line in bad)
    assert any("nowhere" in line and "mkdir" in line for line in bad)


def test_evaluate_prints_and_writes(clisc: Run, scans: Path, tmp_path: Path) -> None:
    import json

    shutil.copytree(scans / "labels", tmp_path / "copies")
    out = clisc(
        "evaluate", "--pred", tmp_path / "copies", "--gt", scans / "labels", "--json", tmp_path / "r.json"
    ).stdout
    assert "p00" in out
    methods = json.loads((tmp_path / "r.json").read_text())["methods"]
    assert next(iter(methods.values()))["dsc"]["mean"] == pytest.approx(1)


def test_output_into_a_closed_pipe_is_no_traceback() -> None:
    done = subprocess.run(
        ["bash", "-c", f"{program('nnUNetv2_clisc')} weights list | true"], capture_output=True, text=True
    )
    assert "Traceback" not in done.stderr
