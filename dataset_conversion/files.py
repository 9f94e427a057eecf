"""Files on disk: written whole or not at all, and known by their SHA-256."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dataset_conversion.errors import UserError, free_space

PARTIAL = ".partial-"  # begins the name of every file that is being written
_CHUNK = 1 << 20


@contextmanager
def whole(path: Path, before: Callable[[Path], object] | None = None) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place when the block ends well, and is removed when it does not.

    The name is not made of the process id alone: on a shared disk two machines have processes of the same number. Its
    end is that of `path`, since writers of images choose the format by it. The content is on the disk before the file
    gets its name: after a power cut a record never tells of a file that is not there.

    Args:
        path: of the file; its folder is made.
        before: called with the finished temporary file just before that takes the place of `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{PARTIAL}{secrets.token_hex(6)}-{path.name}")
    try:
        yield temporary
        sync(temporary)
        if before is not None:
            before(temporary)
        os.replace(temporary, path)
    except BaseException as error:
        if isinstance(error, OSError) and error.filename in (None, str(temporary)):
            error.filename = str(path)  # a full disk names no file, and nobody knows the temporary one
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Have the system put a file or folder on the disk; a file system that cannot is left alone.

    Raises:
        OSError: the disk is full or broken; a network disk says so only now.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG):
            error.filename = error.filename or str(path)
            raise


def remove_partial(folder: Path) -> None:
    """Remove what killed processes were writing below a folder; nobody may be writing there now."""
    for leftover in folder.rglob(f"{PARTIAL}*"):
        with suppress(OSError):
            leftover.unlink()


def write_bytes(path: Path, data: bytes, before: Callable[[Path], object] | None = None) -> None:
    """Write a file whole or not at all, also when several processes write it; `before` as in :func:`whole`."""
    with whole(path, before) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path, content: Any, *, sort_keys: bool = False) -> None:
    """Write JSON whole or not at all."""
    write_text(path, json_text(content, sort_keys=sort_keys))


def json_text(content: Any, *, sort_keys: bool = False) -> str:
    """JSON as all our files have it."""
    return json.dumps(content, indent=2, sort_keys=sort_keys) + "\n"


def write_table(
    path: Path,
    columns: Sequence[str],
    rows: Iterable[Mapping[str, Any]],
    before: Callable[[Path], object] | None = None,
) -> None:
    """Write a CSV whole or not at all; `before` as in :func:`whole`."""
    write_bytes(path, table_text(columns, rows).encode(), before)


def table_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """CSV as all our tables have it."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def read_table(path: str | Path, cure: str) -> list[dict[str, str]]:
    """The rows of a CSV, of any columns.

    Args:
        path: of the file.
        cure: what the error tells the user to do.

    Raises:
        UserError: missing or no CSV.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            return list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as CSV ({error}); {cure}") from error


def copy_file(source: Path, path: Path) -> None:
    """Copy a file whole or not at all, and read the copy back.

    Raises:
        OSError: e.g. the disk is full; names the copy.
        UserError: the copy is not what was read.
    """
    digest = hashlib.sha256()
    with whole(path) as temporary:
        with source.open("rb") as original, temporary.open("wb") as copy:
            while block := original.read(_CHUNK):
                digest.update(block)
                copy.write(block)
        sync(temporary)
        if sha256_of(temporary) != digest.hexdigest():
            raise UserError(
                f"{path}: the copy differs from {source} ({free_space(path)}); check the disk and run the same command "
                "again"
            )


def link_file(source: str | Path, link: str | Path) -> None:
    """A second name for the same bytes; a copy where the file system has no hard links."""
    try:
        os.link(source, link)
    except OSError:
        copy_file(Path(source), Path(link))


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        UserError: missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"{path}: is not valid JSON ({error}); mend or remove it") from error


def read_object(path: Path) -> dict[str, Any]:
    """Read JSON that must be an object, i.e. names with values, as `dataset.json` is.

    Raises:
        UserError: missing, not JSON, or something else.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: is no JSON object (names with values); mend or remove it")
    return content


def sha256_of(path: Path) -> str:
    """SHA-256 of a file as 64 lower-case hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_CHUNK):
            digest.update(block)
    return digest.hexdigest()


def sha256_of_all(files: Sequence[Path]) -> str:
    """SHA-256 of one file, or one value for several in their order."""
    each = [sha256_of(file) for file in files]
    return each[0] if len(each) == 1 else hashlib.sha256("".join(each).encode()).hexdigest()


def check_output(output: Path, inputs: Mapping[str, Path]) -> None:
    """Raise before any work is done if a folder cannot be the output.

    Args:
        output: what was given to `-o`.
        inputs: folders that must not be written to, by the flags that they were given to.

    Raises:
        UserError: it is a file, or one of the inputs.
    """
    if output.exists() and not output.is_dir():
        raise UserError(f"-o {output}: is a file; name a folder")
    for flag, folder in inputs.items():
        if output.resolve() == Path(folder).resolve():
            raise UserError(f"-o {output}: is the folder of {flag}; name another")
