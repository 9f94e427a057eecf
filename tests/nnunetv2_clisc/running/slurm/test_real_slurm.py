"""The chain of jobs on a real Slurm: one node, two tasks, and what happens when a job is cancelled or killed."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers.commands import Run, convert, files_of, label_arguments
from tests.helpers.labelled_dataset import label_scans
from tests.helpers.paths import PROJECT

pytestmark = pytest.mark.slurm
PATIENCE = 3600  # seconds for a whole chain, also on a machine that is busy with other things
ENDED = {"COMPLETED", "CANCELLED", "FAILED", "NODE_FAIL", "TIMEOUT"}


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Slurm of one node with two CPUs; its folder."""
    if shutil.which("slurmctld") is None or shutil.which("munged") is None or os.geteuid() != 0:
        pytest.fail("needs root and a real Slurm: apt-get install slurm-wlm munge")
    folder = tmp_path_factory.mktemp("slurm")
    node = str(Path(__file__).with_name("node.sh"))
    subprocess.run([node, "start", str(folder)], check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")]))
        patch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
        for name in ("nnUNet_n_proc_DA", "nnUNet_def_n_proc", "OMP_NUM_THREADS"):
            patch.setenv(name, "1")
        yield folder
        running = {number.partition("_")[0] for number, (_, state) in states().items() if state not in ENDED}
        if running:  # of a test that failed
            subprocess.run(["scancel", *running], check=True)
            ended(running)
    subprocess.run([node, "stop", str(folder)], check=True)


@pytest.fixture(scope="module")
def one_thread(slurm: Path, tmp_path_factory: pytest.TempPathFactory, scans: Path) -> Path:
    """The raw folder of the dataset, labelled by one run without Slurm with the one thread of its jobs."""
    return label_scans(tmp_path_factory.mktemp("one_thread"), scans)


def states() -> dict[str, tuple[str, str]]:
    """Name and state of every job that Slurm knows, by its number."""
    command = ["squeue", "--states=all", "--array", "--noheader", "--format=%i %j %T"]
    for _ in range(10):  # squeue may lose its connection to a controller that is busy
        table = subprocess.run(command, capture_output=True, text=True)
        if table.returncode == 0:
            break
        time.sleep(1)
    table.check_returncode()
    return {number: (name, state) for number, name, state in map(str.split, table.stdout.splitlines())}


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, states()
        time.sleep(0.2)


def ended(jobs: set[str]) -> dict[str, tuple[str, str]]:
    """Wait until all these jobs have ended; their names and states, in order."""

    def mine() -> dict[str, tuple[str, str]]:
        return {number: found for number, found in states().items() if number.partition("_")[0] in jobs}

    wait_for(lambda: len(mine()) > 0 and all(state in ENDED for _, state in mine().values()))
    return dict(sorted(mine().items(), key=lambda item: [int(part) for part in item[0].split("_")]))


def submit(clisc: Run, *more: object) -> dict[str, str]:
    """Submit dataset 501's chain with two parts; the number of each step's job."""
    labelling = label_arguments()[1:]
    out = clisc("submit", *labelling, "-num_parts", 2, "--cpus", 1, "--minutes", 30, *more).stdout
    return dict(re.findall(r"^(\w+) +job (\d+)", out, flags=re.MULTILINE))


def write_log(title: str, jobs: dict[str, tuple[str, str]], dataset: Path) -> None:
    """Append what Slurm did to the file that CLISC_SLURM_LOG names."""
    if not (path := os.environ.get("CLISC_SLURM_LOG")):
        return
    with open(path, "a") as file:
        file.write(f"## {title}\n\n")
        for number, (name, state) in jobs.items():
            shown = subprocess.run(["scontrol", "show", "job", number], capture_output=True, text=True).stdout
            found = dict(re.findall(r"(StartTime|EndTime|ExitCode)=(\S+)", shown))
            file.write(f"{number:>6} {name:<20} {state:<10} {found}\n")
        for log in sorted((dataset / "clisc" / "slurm").glob("*.out")):
            last = [line for line in re.split(r"[\r\n]+", log.read_text()) if line.strip()][-4:]
            file.write("\n".join([f"\n--- {log.name}", *last]) + "\n")
        file.write("\n")


def test_chain_ends_with_a_trained_fold_and_the_labels_of_one_process(
    slurm: Path,
    one_thread: Path,
    scans: Path,
    nnunet: Path,
    clisc: Run,
    found_by_nnunet: None,
) -> None:
    dataset = convert(clisc, scans)
    steps = submit(clisc, "-tr", "QuickTrainer", "--plan-args", "-np 1 -npfp 1", "--relabel-parts", 2)
    expected = ["slice_labels", "classifier", "masks", "finish", "plan", "round_1", "relabel", "train"]
    assert list(steps) == expected
    jobs = ended(set(steps.values()))
    write_log("the whole chain", jobs, dataset)
    assert all(state == "COMPLETED" for _, state in jobs.values()), jobs
    assert len(jobs) == len(expected) + 3  # three arrays of two
    assert files_of(dataset / "labelsTr") == files_of(one_thread / "labelsTr")
    fold = next((nnunet / "nnUNet_results").glob("*/QuickTrainer__*/fold_0"))
    assert json.loads((fold / "clisc_state.json").read_text())["stage"] == "done"
    assert len(list((fold / "s3f" / "cases").iterdir())) == 4
    assert (fold / "checkpoint_final.pth").is_file()


def test_cancelled_and_killed_jobs_stop_the_chain_and_submitting_again_completes_it(
    slurm: Path, one_thread: Path, scans: Path, nnunet: Path, clisc: Run
) -> None:
    dataset = convert(clisc, scans)

    # a task dies, as of a node without memory
    steps = submit(clisc, "--labels-only")
    wait_for(lambda: killed("slice_labels", "-part_id 0"))
    jobs = ended(set(steps.values()))
    write_log("a part of the slice labels killed (kill -9)", jobs, dataset)
    assert jobs[f"{steps['slice_labels']}_0"][1] == "FAILED"
    assert jobs[f"{steps['slice_labels']}_1"][1] == "COMPLETED"
    assert {state for name, state in jobs.values() if name != "clisc_slice_labels"} == {"CANCELLED"}
    assert not any((dataset / "labelsTr").iterdir())

    # someone cancels a task
    steps = submit(clisc, "--labels-only")
    task = f"{steps['masks']}_1"
    wait_for(lambda: states().get(task, ("", ""))[1] == "RUNNING")
    subprocess.run(["scancel", task], check=True)
    jobs = ended(set(steps.values()))
    write_log("a part of the masks cancelled (scancel)", jobs, dataset)
    assert jobs[task][1] == "CANCELLED"
    assert jobs[steps["finish"]][1] == "CANCELLED"
    assert jobs[f"{steps['masks']}_0"][1] == "COMPLETED"
    assert "clisc" not in json.loads((dataset / "dataset.json").read_text())
    error = clisc(*label_arguments(more=["--stage", "finish"]), ok=False).stderr.strip().splitlines()[-1]
    assert re.search(r"pseudo-labels of [12] of 5 cases are missing", error), error
    assert "p01" in error or "p03" in error

    steps = submit(clisc, "--labels-only")
    jobs = ended(set(steps.values()))
    write_log("the same submitted again", jobs, dataset)
    assert {state for _, state in jobs.values()} == {"COMPLETED"}
    assert files_of(dataset / "labelsTr") == files_of(one_thread / "labelsTr")
    assert "clisc" in json.loads((dataset / "dataset.json").read_text())


def killed(stage: str, part: str) -> bool:
    """`kill -9` the command of one task, found by its command line and this test's folder, if it runs by now."""
    folder = os.environ["nnUNet_raw"]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().decode().replace("\0", " ")
            mine = f"nnUNet_raw={folder}\0".encode() in (process / "environ").read_bytes()
        except OSError:
            continue
        if mine and "pseudo_label -d 501 " in words and f"--stage {stage} " in words and part in words:
            os.kill(int(process.name), signal.SIGKILL)
            return True
    return False


def test_script_of_the_documentation_labels_on_slurm(
    slurm: Path, one_thread: Path, scans: Path, nnunet: Path, clisc: Run
) -> None:
    dataset = convert(clisc, scans)
    blocks = re.findall(r"```bash\n(.*?)```", (PROJECT / "docs" / "cluster.md").read_text(), flags=re.DOTALL)
    script = next(block for block in blocks if block.startswith("#!/bin/bash"))
    chain = next(block for block in blocks if "label.sbatch slice_labels" in block)
    flags = " ".join(f"'{each}'" for each in map(str, label_arguments()[1:]))
    for old, new in (
        ("--array=0-7", "--array=0-1"),
        ("#SBATCH --gpus=1\n", ""),
        ("--cpus-per-task=4", "--cpus-per-task=1"),
        ("-d 501", flags),
    ):
        assert old in script
        script = script.replace(old, new)
    (nnunet / "label.sbatch").write_text(script)
    chain += "echo $first $second $third\n"
    out = subprocess.run(["bash", "-ec", chain], cwd=nnunet, capture_output=True, text=True, check=True).stdout
    jobs = ended(set(re.findall(r"\d+", out)))
    write_log("the script of the documentation", jobs, dataset)
    assert [state for _, state in jobs.values()] == ["COMPLETED"] * 6
    assert files_of(dataset / "labelsTr") == files_of(one_thread / "labelsTr")
    assert "clisc" in json.loads((dataset / "dataset.json").read_text())
