"""Is an image file whole? SimpleITK reads a truncated NIfTI without complaint and makes up the missing voxels."""

from __future__ import annotations

import gzip
import math
import re
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

from dataset_conversion.errors import ConversionError

_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK = 1 << 20
_META_BYTES = {"SHORT": 2, "USHORT": 2, "INT": 4, "UINT": 4, "FLOAT": 4, "DOUBLE": 8, "LONG_LONG": 8, "ULONG_LONG": 8}


def check_complete(path: Path) -> None:
    """Raise unless a `.nii`, `.nii.gz` or `.mha` file holds all the voxels its header promises.

    A compressed NIfTI is read to its end, so its checksum is verified too. `.nrrd` needs no help: its reader complains.

    Raises:
        ConversionError: cut short, damaged, or not of the format its name claims.
    """
    lower = path.name.lower()
    try:
        if lower.endswith((".nii", ".nii.gz")):
            _check_nifti(path)
        elif lower.endswith(".mha"):
            _check_meta_image(path)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _truncated(path) from error
    except OSError as error:
        raise ConversionError(f"{path}: cannot be read ({error.strerror or error}); check the file") from error


def _truncated(path: Path) -> ConversionError:
    return ConversionError(f"{path}: the file is truncated or damaged; fetch it again or leave this case out")


def _check_nifti(path: Path) -> None:
    with path.open("rb") as raw:
        compressed = raw.read(2) == _GZIP_MAGIC  # by content, since the name may lie
        raw.seek(0)
        file: BinaryIO = gzip.GzipFile(fileobj=raw) if compressed else raw  # type: ignore[assignment]
        header = file.read(348)
        expected = _nifti_bytes(header)
        if expected is None:
            raise ConversionError(f"{path}: not a NIfTI-1 file; replace it or correct its extension")
        found = len(header) + sum(len(chunk) for chunk in iter(lambda: file.read(_CHUNK), b""))
    if found < expected:
        raise _truncated(path)


def _nifti_bytes(header: bytes) -> int | None:
    """Uncompressed size in bytes that a NIfTI-1 header promises, `None` if it is none."""
    if len(header) < 348:
        return None
    for order in "<>":
        dims = struct.unpack_from(order + "8h", header, 40)
        if struct.unpack_from(order + "i", header)[0] == 348 and 1 <= dims[0] <= 7:
            bits = struct.unpack_from(order + "h", header, 72)[0]
            offset = struct.unpack_from(order + "f", header, 108)[0]
            return int(min(max(offset, 0), 1e12)) + math.prod(dims[1 : dims[0] + 1]) * bits // 8
    return None


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
        present = path.stat().st_size - file.tell()
    if "elementdatafile" not in fields or "dimsize" not in fields:
        raise ConversionError(f"{path}: not a MetaImage file; replace it or correct its extension")
    try:
        if fields.get("compresseddata", "").lower() == "true":
            expected = int(fields.get("compresseddatasize", 0))
        else:
            kind = fields.get("elementtype", "").removeprefix("MET_").removesuffix("_ARRAY")
            channels = int(fields.get("elementnumberofchannels", 1))
            expected = math.prod(map(int, fields["dimsize"].split())) * channels * _META_BYTES.get(kind, 1)  # at least
    except ValueError as error:
        raise _truncated(path) from error
    if fields["elementdatafile"].upper() == "LOCAL" and present < expected:
        raise _truncated(path)
