"""What a NIfTI-1 header says: size, voxel edges, unit, and up to two answers to where the volume lies."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

import numpy as np

HEADER_BYTES = 348
CODES = range(6)  # that qform and sform may have
FIRST_VOXEL = 352  # bytes before it at least, where header and voxels are one file
_FLOATS = {16: "f4", 64: "f8"}  # of the header's codes of a voxel's type
MILLIMETRES = {1: 1000.0, 2: 1.0, 3: 0.001}  # of the header's unit of length; without a code the numbers are in mm
UNITS = {1: "metres", 2: "mm", 3: "micrometres"}


@dataclass(frozen=True)
class NiftiHeader:
    """The fields of a NIfTI-1 header that decide what its file holds and where that lies.

    Attributes:
        dims: number of dimensions and size of each, x first.
        bits: of a voxel.
        floats: NumPy's name of the voxels' type where that can hold NaN, else empty.
        data_offset: bytes before the first voxel.
        pixdim: `(3,)` edges of a voxel, in the header's unit.
        unit: code of the unit of length.
        codes: what qform and sform are said to be; 0 = unused.
        qform: `(4, 4)` voxel index to RAS position in the header's unit, from pixdim and quaternion; None if unused.
        sform: the same, as stored; None if unused.
    """

    dims: tuple[int, ...]
    bits: int
    floats: str
    data_offset: float
    pixdim: np.ndarray
    unit: int
    codes: tuple[int, int]
    qform: np.ndarray | None
    sform: np.ndarray | None

    @property
    def first_voxel(self) -> int:
        """Bytes before the first voxel, 0 where the header has no sound number."""
        return int(min(max(self.data_offset, 0), 1e12)) if math.isfinite(self.data_offset) else 0

    @property
    def file_bytes(self) -> int:
        """Uncompressed size of a file that is whole."""
        return self.first_voxel + math.prod(self.dims[1 : self.dims[0] + 1]) * self.bits // 8

    @property
    def corners(self) -> np.ndarray:
        """`(4, 8)` homogeneous voxel indices of the volume's corners."""
        last = [max(size, 1) - 1 for size in (*self.dims[1:4], 1, 1, 1)[:3]]
        grid = np.array(np.meshgrid(*([0, each] for each in last), [1], indexing="ij"), dtype=float)
        return grid.reshape(4, -1)


def parse_header(data: bytes) -> NiftiHeader | None:
    """The header at the beginning of a file's (unpacked) bytes, or None if there is none."""
    if len(data) < HEADER_BYTES:
        return None
    for order in "<>":
        dims = struct.unpack_from(order + "8h", data, 40)
        if struct.unpack_from(order + "i", data)[0] == HEADER_BYTES and 1 <= dims[0] <= 7:
            break
    else:
        return None
    pixdim = np.array(struct.unpack_from(order + "4f", data, 76), dtype=float)
    qform_code, sform_code = struct.unpack_from(order + "2h", data, 252)
    is_nifti = data[344:346] in (b"n+", b"ni")  # else the older Analyze, which has other fields there
    quaternion = np.array(struct.unpack_from(order + "6f", data, 256), dtype=float)
    sform = np.array(struct.unpack_from(order + "12f", data, 280), dtype=float).reshape(3, 4)
    return NiftiHeader(
        dims=dims,
        bits=struct.unpack_from(order + "h", data, 72)[0],
        floats=order + kind if (kind := _FLOATS.get(struct.unpack_from(order + "h", data, 70)[0])) else "",
        data_offset=struct.unpack_from(order + "f", data, 108)[0],
        pixdim=pixdim[1:],
        unit=data[123] & 7,
        codes=(qform_code, sform_code) if is_nifti else (0, 0),
        qform=_qform(quaternion, pixdim) if is_nifti and qform_code > 0 else None,
        sform=np.vstack([sform, [0, 0, 0, 1]]) if is_nifti and sform_code > 0 else None,
    )


def _qform(values: np.ndarray, pixdim: np.ndarray) -> np.ndarray:
    """Method 2 of the NIfTI-1 standard: unit quaternion, offset, and pixdim with the handedness in its first entry."""
    b, c, d = values[:3]
    norm = b * b + c * c + d * d
    a = math.sqrt(1 - norm) if norm < 1 else 0.0
    if norm > 1:  # by rounding, in half turns
        b, c, d = values[:3] / math.sqrt(norm)
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    affine = np.eye(4)
    affine[:3, :3] = rotation * pixdim[1:] * np.array([1, 1, -1 if pixdim[0] < 0 else 1])
    affine[:3, 3] = values[3:]
    return affine
