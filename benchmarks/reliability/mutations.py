"""Seeded damage: to bytes, to NIfTI headers, to JSON and CSV texts."""

from __future__ import annotations

import copy
import gzip
import json
import struct
from typing import Any

import numpy as np

Rng = np.random.Generator
EXTREMES = {  # by struct's letter
    "h": (0, -1, 1, 7, 8, 32767, -32768, 2, 64),
    "i": (0, -1, 348, 540, 2**31 - 1, -(2**31)),
    "f": (0.0, -1.0, 1e-30, 1e30, float("nan"), float("inf"), -float("inf"), 0.001, 352.0, 1e12),
    "B": (0, 1, 2, 3, 255),
    "c": (b"\0", b"n", b"\xff"),
}
# of a NIfTI-1 header: name, offset, type, how many
NIFTI_FIELDS = (
    ("sizeof_hdr", 0, "i", 1), ("dim", 40, "h", 8), ("datatype", 70, "h", 1), ("bitpix", 72, "h", 1),
    ("pixdim", 76, "f", 8), ("vox_offset", 108, "f", 1), ("scl_slope", 112, "f", 1), ("scl_inter", 116, "f", 1),
    ("xyzt_units", 123, "B", 1), ("qform_code", 252, "h", 1), ("sform_code", 254, "h", 1), ("quatern", 256, "f", 3),
    ("qoffset", 268, "f", 3), ("srow", 280, "f", 12), ("magic", 344, "c", 4),
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1e308, 10**30, float("nan"), float("inf"), "", "x", "\0", "ä\u202e", [], [1], {},
    {"a": 1}, 0.5, 128.0, "128", [[]], -0.0,
)  # fmt: skip


def choice(rng: Rng, values: Any) -> Any:
    """One of a sequence, as it is (NumPy would make arrays of some)."""
    return values[int(rng.integers(len(values)))]


# ------------------------------------------------------------------------------------------------------------- bytes


def damaged_bytes(rng: Rng, data: bytes) -> tuple[str, bytes]:
    """Cut, flipped, zeroed, overwritten, swapped, doubled, lengthened or emptied."""
    kind = choice(rng, ("cut", "flip", "zero", "noise", "swap", "double", "append", "empty", "drop", "head"))
    size = len(data)
    if kind == "empty" or size < 8:
        return "empty", b""
    first, second = sorted(int(i) for i in rng.integers(0, size, 2))
    length = int(rng.integers(1, max(size // 4, 2)))
    block = slice(first, min(first + length, size))
    out = bytearray(data)
    if kind == "cut":
        return f"cut to {first} of {size} bytes", data[:first]
    if kind == "flip":
        places = rng.integers(0, size, int(rng.integers(1, 9)))
        for place in places:
            out[place] ^= 1 << int(rng.integers(8))
        return f"bits flipped in bytes {sorted(map(int, places))}", bytes(out)
    if kind == "head":
        place = int(rng.integers(0, min(size, 64)))
        out[place] = int(rng.integers(256))
        return f"byte {place} overwritten", bytes(out)
    if kind == "zero":
        out[block] = bytes(block.stop - block.start)
        return f"zeros from {block.start} to {block.stop}", bytes(out)
    if kind == "noise":
        out[block] = rng.bytes(block.stop - block.start)
        return f"noise from {block.start} to {block.stop}", bytes(out)
    if kind == "swap":
        third = min(second + (second - first), size)
        return f"{first}:{second} and {second}:{third} swapped", (
            data[:first] + data[second:third] + data[first:second] + data[third:]
        )
    if kind == "double":
        return f"{block.start}:{block.stop} twice", data[: block.stop] + data[block] + data[block.stop :]
    if kind == "append":
        return f"{length} bytes appended", data + rng.bytes(min(length, 5000))
    return f"{block.start}:{block.stop} left out", data[: block.start] + data[block.stop :]


# ------------------------------------------------------------------------------------------------------------- NIfTI


def damaged_nifti(rng: Rng, data: bytes) -> tuple[str, bytes]:
    """A header field set to an extreme, or damage to the voxels or to the compressed file; `data` may be gzipped."""
    compressed = data[:2] == b"\x1f\x8b"
    plain = gzip.decompress(data) if compressed else data
    kind = choice(rng, ("header", "header", "header", "plain", "file", "file", "gzip"))
    if kind == "header":
        notes, out = [], bytearray(plain)
        for _ in range(int(rng.integers(1, 3))):
            name, offset, letter, count = choice(rng, NIFTI_FIELDS)
            index = int(rng.integers(count))
            value = choice(rng, EXTREMES[letter])
            if letter == "f" and rng.random() < 0.3:
                value = float(rng.normal(0, 10))
            struct.pack_into(f"<{letter}", out, offset + index * struct.calcsize(letter), value)
            notes.append(f"{name}[{index}] = {value!r}")
        return ", ".join(notes), gzip.compress(bytes(out), 1) if compressed else bytes(out)
    if kind == "plain":
        note, out_bytes = damaged_bytes(rng, plain)
        return f"before compressing: {note}", gzip.compress(out_bytes, 1) if compressed else out_bytes
    if kind == "gzip":
        if compressed and rng.random() < 0.5:
            return "not compressed under this name", plain
        return "compressed once more", gzip.compress(data, 1)
    return damaged_bytes(rng, data)


# ------------------------------------------------------------------------------------------------------------- texts


def damaged_text(rng: Rng, text: str) -> tuple[str, bytes]:
    """Another encoding, byte-order mark, line ends, NUL, or damage to the bytes."""
    data = text.encode()
    kind = choice(rng, ("bom", "utf-16", "latin-1", "crlf", "cr", "nul", "bytes", "bytes", "long", "blank"))
    if kind == "bom":
        return "byte-order mark", b"\xef\xbb\xbf" + data
    if kind == "utf-16":
        return "UTF-16", text.encode("utf-16")
    if kind == "latin-1":
        return "Latin-1 with an umlaut", b"\xe4" + data if rng.random() < 0.5 else data + b"\xe4\n"
    if kind == "crlf":
        return "CRLF", data.replace(b"\n", b"\r\n")
    if kind == "cr":
        return "CR only", data.replace(b"\n", b"\r")
    if kind == "nul":
        place = int(rng.integers(len(data) + 1))
        return f"NUL at {place}", data[:place] + b"\0" + data[place:]
    if kind == "long":
        return "a field of 200,000 characters", data + b"x" * 200_000
    if kind == "blank":
        return "blank lines", b"\n\n" + data + b"\n\n"
    return damaged_bytes(rng, data)


def damaged_json(rng: Rng, content: Any) -> tuple[str, bytes]:
    """One or two values replaced, removed or added anywhere in the tree, or damage to the text."""
    if rng.random() < 0.25:
        return damaged_text(rng, json.dumps(content, indent=1))
    content, notes = copy.deepcopy(content), []
    for _ in range(int(rng.integers(1, 3))):
        content, note = _change(rng, content)
        notes.append(note)
    return "; ".join(notes), json.dumps(content).encode()


def _change(rng: Rng, content: Any) -> tuple[Any, str]:
    places = list(_places(content, ()))
    place = choice(rng, places)
    value = choice(rng, VALUES)
    if not place:
        return value, f"the whole = {value!r}"
    parent = content
    for key in place[:-1]:
        parent = parent[key]
    name = ".".join(map(str, place))
    kind = choice(rng, ("replace", "replace", "replace", "remove", "add"))
    if kind == "remove":
        del parent[place[-1]]
        return content, f"{name} removed"
    if kind == "add" and isinstance(parent, dict):
        parent["unknown"] = value
        return content, f"'unknown' beside {name} = {value!r}"
    parent[place[-1]] = value
    return content, f"{name} = {value!r}"


def _places(content: Any, above: tuple[Any, ...]) -> Any:
    yield above
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield from _places(value, (*above, key))


def damaged_csv(rng: Rng, text: str) -> tuple[str, bytes]:
    """A cell, row or column changed, or damage to the text."""
    rows = [line.split(",") for line in text.strip().splitlines()]
    kind = choice(rng, ("cell", "cell", "cell", "header", "row twice", "row gone", "column gone", "separator", "text"))
    if kind == "text":
        return damaged_text(rng, text)
    row = 1 + int(rng.integers(len(rows) - 1))
    column = int(rng.integers(len(rows[0])))
    if kind == "cell":
        value = str(
            choice(rng, (*VALUES, "1.0", "1e3", " 1", "1 ", "-1", "٣", "1_0", '"', "=1+1", "99999999999999999"))
        )
        rows[row][column] = value
        note = f"row {row}, column {column} = {value!r}"
    elif kind == "header":
        rows[0][column] = choice(rng, ("", "Case", "x", "label", "slice "))
        note = f"header {column} = {rows[0][column]!r}"
    elif kind == "row twice":
        rows.insert(row, rows[row])
        note = f"row {row} twice"
    elif kind == "row gone":
        note = f"row {row} of {rows.pop(row)} left out"
    elif kind == "column gone":
        rows = [[cell for i, cell in enumerate(line) if i != column] for line in rows]
        note = f"column {column} left out"
    else:
        mark = choice(rng, (";", "\t", " , ", ",,"))
        return f"separated by {mark!r}", "\n".join(mark.join(line) for line in rows).encode()
    return note, ("\n".join(",".join(line) for line in rows) + "\n").encode()
