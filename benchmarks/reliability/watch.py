"""File operations below a folder as the kernel tells them (inotify, so Linux only): what a kill interrupts."""

from __future__ import annotations

import ctypes
import os
import select
import struct
from pathlib import Path
from typing import NamedTuple

_MODIFY, _CLOSE_WRITE, _MOVED_TO, _CREATE, _DELETE, _ISDIR = 0x2, 0x8, 0x80, 0x100, 0x200, 0x40000000
_NAMES = {_CREATE: "create", _MODIFY: "write", _CLOSE_WRITE: "close", _MOVED_TO: "rename", _DELETE: "delete"}


class Operation(NamedTuple):
    """One operation; writing to a file counts once between creating and closing it."""

    kind: str
    path: Path


class Watch:
    """Watches a folder and all below it, also folders that are made later."""

    def __init__(self, folder: Path) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = self._libc.inotify_init1(os.O_NONBLOCK)
        if self._descriptor < 0:
            raise OSError(ctypes.get_errno(), "inotify cannot be used here")
        self._folders: dict[int, Path] = {}
        self._writing: set[Path] = set()
        self._add(folder)

    def close(self) -> None:
        """End watching."""
        os.close(self._descriptor)

    def wait(self, seconds: float) -> list[Operation]:
        """What happened since the last call; waits until something does, at most so long."""
        ready, _, _ = select.select([self._descriptor], [], [], max(seconds, 0.0))
        if not ready:
            return []
        data, position = os.read(self._descriptor, 1 << 16), 0
        found: list[Operation] = []
        while position < len(data):
            number, mask, _, length = struct.unpack_from("iIII", data, position)
            name = data[position + 16 : position + 16 + length].split(b"\0")[0].decode(errors="replace")
            position += 16 + length
            folder = self._folders.get(number)
            if folder is None:
                continue
            path = folder / name
            if mask & _ISDIR:
                files = self._add(path) if mask & (_CREATE | _MOVED_TO) else []
                if mask & _MOVED_TO:  # a finished folder gets its name: one operation, whatever is in it
                    files, found = [], [*found, Operation("rename", path)]
                found += [Operation("create", made) for made in files]
                continue
            found += self._operation(mask, path)
        return found

    def _operation(self, mask: int, path: Path) -> list[Operation]:
        kind = next((name for bit, name in _NAMES.items() if mask & bit), None)
        if kind is None or (kind == "write" and path in self._writing):
            return []
        if kind == "write":
            self._writing.add(path)
        else:
            self._writing.discard(path)
        return [Operation(kind, path)]

    def _add(self, folder: Path) -> list[Path]:
        """Watch a folder and those below; returns the files that were in them already."""
        mask = _MODIFY | _CLOSE_WRITE | _MOVED_TO | _CREATE | _DELETE
        files: list[Path] = []
        for parent, _, names in os.walk(folder):
            number = self._libc.inotify_add_watch(self._descriptor, os.fsencode(parent), mask)
            if number >= 0:
                self._folders[number] = Path(parent)
                files += [Path(parent, name) for name in names]
        return files
