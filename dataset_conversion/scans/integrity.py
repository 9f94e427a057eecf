"""What a file is, judged by what is in it and not by its name, and whether it is whole.

SimpleITK chooses a reader by the name, reads a truncated NIfTI without complaint and makes up the missing voxels.
"""

from __future__ import annotations

import gzip
import math
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from dataset_conversion.errors import UserError
from dataset_conversion.scans.nifti_header import NiftiHeader, parse_header

_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK = 1 << 20
_HEAD_BYTES = 1024
_META_BYTES = {"SHORT": 2, "USHORT": 2, "INT": 4, "UINT": 4, "FLOAT": 4, "DOUBLE": 8, "LONG_LONG": 8, "ULONG_LONG": 8}
_META_HEAD = re.compile(rb"(?:\w+ *=[^\n]*\n)*?NDims *= *\d")
_POINTERS = (  # what version control leaves in place of a file whose content is elsewhere
    (re.compile(rb"(/annex/objects/|\.\./[./]*\.git/annex/objects/|\.git/annex/objects/)"), "git annex get"),
    (re.compile(rb"version https://git-lfs\.github\.com/"), "git lfs pull"),
)


@dataclass(frozen=True)
class Content:
    """What is in an image file.

    Attributes:
        ending: by which ITK knows such content.
        nifti: the header, where it is NIfTI.
        not_finite: number of voxels that are NaN or infinite, where `check_complete` has counted them; ITK reads such
            voxels of a NIfTI as 0 without a word.
    """

    ending: str
    nifti: NiftiHeader | None = None
    not_finite: int = 0

    @property
    def compressed_nifti(self) -> bool:
        """Whether it is what nnU-Net's `.nii.gz` should be."""
        return self.nifti is not None and self.ending == ".nii.gz"


def content_of(path: Path) -> Content:
    """What a file is, from its first bytes.

    Raises:
        UserError: not there, not fetched, cut short, or no NIfTI-1, MetaImage or NRRD.
    """
    check_fetched(path)
    with _damage_named(path), path.open("rb") as raw:
        head = raw.read(_HEAD_BYTES)
        compressed = head.startswith(_GZIP_MAGIC)
        if compressed:
            raw.seek(0)
            head = gzip.GzipFile(fileobj=raw).read(_HEAD_BYTES)
    if header := parse_header(head):
        return Content(".nii.gz" if compressed else ".nii", header)
    if not compressed and head.startswith(b"NRRD"):
        return Content(".nrrd")
    if not compressed and _META_HEAD.match(head):
        return Content(".mha")
    for pattern, command in _POINTERS:
        if pattern.match(head):
            raise UserError(f"{path}: only a pointer, its content was not fetched; run `{command} {path.name}`")
    if head[:4] in (b"\x1c\x02\x00\x00", b"\x00\x00\x02\x1c"):
        raise UserError(f"{path}: is NIfTI-2, which ITK does not read; write it as NIfTI-1")
    if not head:
        raise UserError(f"{path}: the file is empty; fetch it again or leave this case out")
    raise UserError(f"{path}: cannot be read as an image (no NIfTI-1, MetaImage or NRRD); replace the file")


def check_fetched(path: Path) -> None:
    """Raise where a symbolic link leads nowhere, as git-annex and DataLad leave one for each file not fetched yet.

    Raises:
        UserError: naming the link and how its content is had.
    """
    if path.is_symlink() and not path.exists():
        raise UserError(
            f"{path}: a symbolic link to a file that is not there ({path.readlink()}); if the data are managed by "
            f"DataLad or git-annex, run `datalad get {path.name}` or `git annex get {path.name}` there"
        )


def check_complete(path: Path) -> Content:
    """Raise unless an image file holds all the voxels that its header promises; returns what it is.

    A compressed NIfTI is read to its end, so its checksum is verified too. NRRD needs no help: its reader complains.

    Raises:
        UserError: cut short, damaged, or see `content_of`.
    """
    content = content_of(path)
    with _damage_named(path):
        if content.nifti is not None:
            with path.open("rb") as raw:
                file: BinaryIO = gzip.GzipFile(fileobj=raw) if content.compressed_nifti else raw  # type: ignore[assignment]
                found, not_finite = _read_to_the_end(file, content.nifti)
            if found < content.nifti.file_bytes:
                raise _truncated(path)
            return replace(content, not_finite=not_finite)
        elif content.ending == ".mha":
            _check_meta_image(path)
    return content


def _read_to_the_end(file: BinaryIO, header: NiftiHeader) -> tuple[int, int]:
    """Bytes of an unpacked NIfTI file, and how many of its voxels are NaN or infinite."""
    found = not_finite = 0
    voxels = b""  # not yet looked at: a chunk may end inside one
    for chunk in iter(lambda: file.read(_CHUNK), b""):
        if header.floats:
            voxels += chunk[max(header.first_voxel - found, 0) : max(header.file_bytes - found, 0)]
            count = len(voxels) // np.dtype(header.floats).itemsize
            values = np.frombuffer(voxels, header.floats, count)
            not_finite += count - int(np.isfinite(values).sum())
            voxels = voxels[values.nbytes :]
        found += len(chunk)
    return found, not_finite


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _truncated(path) from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); check the file") from error


def _truncated(path: Path) -> UserError:
    return UserError(f"{path}: the file is truncated or damaged; fetch it again or leave this case out")


def _check_meta_image(path: Path) -> None:
    fields: dict[str, str] = {}
    with path.open("rb") as file:
        for raw in iter(lambda: file.readline(4096), b""):
            key, separator, value = raw.decode("latin-1").partition("=")
            if not separator or not re.fullmatch(r"\w+", key.strip()):
                break
            fields[key.strip().lower()] = value.strip()
            if key.strip().lower() == "elementdatafile":
                break
        start = file.tell()
        present = path.stat().st_size - start
    if "elementdatafile" not in fields or "dimsize" not in fields:
        raise UserError(f"{path}: its MetaImage header lacks its size or data; replace the file")
    try:
        kind = fields.get("elementtype", "").removeprefix("MET_").removesuffix("_ARRAY")
        channels = int(fields.get("elementnumberofchannels", 1))
        expected = math.prod(map(int, fields["dimsize"].split())) * channels * _META_BYTES.get(kind, 1)  # at least
    except ValueError as error:
        raise _truncated(path) from error
    if fields["elementdatafile"].upper() == "LOCAL":
        if fields.get("compresseddata", "").lower() == "true":
            present = _inflated_bytes(path, start)  # ITK prints what is wrong with it, and makes up voxels
        if present < expected:
            raise _truncated(path)


def _inflated_bytes(path: Path, start: int) -> int:
    """Bytes of the zlib stream that begins at `start`, read to its end, where its checksum is.

    Raises:
        EOFError, zlib.error: cut short or damaged.
    """
    unpack, found = zlib.decompressobj(zlib.MAX_WBITS | 32), 0
    with path.open("rb") as file:
        file.seek(start)
        for chunk in iter(lambda: file.read(_CHUNK), b""):
            while chunk and not unpack.eof:
                found += len(unpack.decompress(chunk, 16 * _CHUNK))
                chunk = unpack.unconsumed_tail
    if not unpack.eof:
        raise EOFError
    return found
