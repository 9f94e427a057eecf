"""A damaged input, and what it means that its result is wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


class Wrong(Exception):  # noqa: N818
    """A result that is not what the file says."""


@dataclass
class Damaged:
    """A damaged input in a folder of its own.

    Attributes:
        what: was done to it.
        path: the file; an error must name it, its folder's flag or its case.
        read: reads it as the package does; returns what came of it, raises :class:`Wrong` where it is not right.
        command: arguments of the installed command that reads it, empty where there is none.
        names: an error may also name one of these.
    """

    what: str
    path: Path
    read: Callable[[], str]
    command: list[str] = field(default_factory=list)
    names: tuple[str, ...] = ()
    marker: Path | None = None
