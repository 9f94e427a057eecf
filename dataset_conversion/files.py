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
    write_text(path, json.dumps(content, indent=2, sort_keys=sort_keys) + "\n")


def write_table(
    path: Path,
    columns: Sequence[str],
    rows: Iterable[Mapping[str, Any]],
    before: Callable[[Path], object] | None = None,
) -> None:
    """Write a CSV whole or not at all; `before` as in :func:`whole`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(path, text.getvalue().encode(), before)


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
