"""Which dataset folders a conversion will write: nnU-Net's own folders, a free id, a sound name."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from dataset_conversion.errors import UserError

RAW, PREPROCESSED, RESULTS = "nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"


@dataclass(frozen=True)
class Target:
    """The dataset to be written: checked folders and names."""

    raw: Path
    preprocessed: Path
    name: str
    dataset: str
    fullsup: str | None


def prepare_target(dataset_id: int, name: str, fullsup_id: int | None = None) -> Target:
    """Check ids, name and nnU-Net's folders before anything is read or written.

    Raises:
        UserError: an environment variable is unset, the name or an id is not allowed, or an id is taken.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}", name):
        raise UserError(f"-n {name!r}: not allowed as a dataset name; use letters, digits, '_' and '-'")
    if fullsup_id == dataset_id:
        raise UserError(f"--fullsup-d {fullsup_id}: same id as -d; choose another")
    raw, preprocessed = (_environment_folder(variable) for variable in (RAW, PREPROCESSED))
    if raw.resolve() == preprocessed.resolve():
        raise UserError(f"{RAW} and {PREPROCESSED} are the same folder; export two different ones")
    for flag, number in (("-d", dataset_id), ("--fullsup-d", fullsup_id)):
        if number is not None and not 1 <= number <= 999:
            raise UserError(f"{flag} {number}: dataset ids go from 1 to 999")
    fullsup = None if fullsup_id is None else f"Dataset{fullsup_id:03d}_{name}_fullsup"
    target = Target(raw, preprocessed, name, f"Dataset{dataset_id:03d}_{name}", fullsup)
    check_free(target)
    return target


@contextmanager
def claim(target: Target) -> Iterator[None]:
    """Keep other conversions off the ids of a target while this one writes; a killed process holds nothing.

    The system gives the lock back when the process ends, however it ends. Where a file system knows no locks, the last
    look before datasets get their names must do.

    Raises:
        UserError: another conversion is writing one of the ids, or has written it meanwhile.
    """
    target.raw.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        for flag, dataset in (("-d", target.dataset), ("--fullsup-d", target.fullsup)):
            if dataset is not None:
                stack.enter_context(_lock(target.raw / f".{dataset[:10]}.lock", f"{flag} {int(dataset[7:10])}"))
        check_free(target)
        yield


@contextmanager
def _lock(path: Path, what: str) -> Iterator[None]:
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    descriptor = -1
    try:
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(
                    f"{what}: another conversion is writing it ({path}); wait for it or choose another id"
                ) from error
            except OSError:
                break  # no locks here
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                    break
            os.close(descriptor)  # its holder has just removed it: the lock of a file that is no more
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def check_free(target: Target) -> None:
    """Raise where an id is taken: nnU-Net refuses one that has two names in any of its folders."""
    searched = [target.raw, target.preprocessed]
    if os.environ.get(RESULTS):
        searched.append(_environment_folder(RESULTS))
    for flag, dataset in (("-d", target.dataset), ("--fullsup-d", target.fullsup)):
        for folder in searched if dataset else ():
            if taken := sorted(folder.glob(f"{str(dataset)[:10]}_*")):
                number = int(str(dataset)[7:10])
                raise UserError(f"{flag} {number}: taken by {taken[0]}; choose another id or remove that folder")


def _environment_folder(variable: str) -> Path:
    value = os.environ.get(variable, "")
    if not value:
        raise UserError(f"{variable} is not set; type: export {variable}=/path/to/a/folder")
    check_expanded(variable, value)
    folder = Path(value).absolute()
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{variable}: {folder} is not a folder; set it to one")
    return folder


def check_expanded(variable: str, value: str) -> None:
    """Raise where a shell was kept from filling in `~` or `$NAME`: nnU-Net would make a folder of that name.

    Raises:
        UserError: the value of the variable begins with one of them.
    """
    if value[:1] in ("~", "$"):
        raise UserError(
            f"{variable}={value}: the shell has not replaced {value.split('/')[0]}, and nnU-Net does not either; type: "
            f'export {variable}="$HOME/..." with the whole path'
        )
