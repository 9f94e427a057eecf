"""What a user can cause: exceptions whose message is one line naming the file or flag and what to do."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_FULL = (errno.ENOSPC, errno.EDQUOT)
_RIGHTS = (errno.EACCES, errno.EPERM, errno.EROFS)
_CURES = {
    errno.ENOENT: "check that it is there",
    errno.ENOTDIR: "a folder of its path is a file; name another place",
    errno.EISDIR: "is a folder where a file is needed; name another place",
    errno.EEXIST: "is there already; name another place",
    errno.ENOTEMPTY: "is there already; name another place",
    errno.ENAMETOOLONG: "use shorter names",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.EIO: "the disk reports a fault; check it",
    errno.ESTALE: "the network disk has changed meanwhile; run the command again",
}


class UserError(ValueError):
    """A mistake the user can mend; its message is one line naming the file or flag and what to do."""


def explain(error: OSError, fallback: str | Path = "") -> str:
    """One line for what the system refused: the file, the system's words, and what helps against this very error.

    Args:
        error: names a file, mostly.
        fallback: what to name where it does not.
    """
    place = str(error.filename or fallback or "a file")
    words = error.strerror or str(error) or type(error).__name__
    if error.errno in _FULL:
        cure = f"make room ({free_space(Path(place))}) and run the same command again"
    elif error.errno in _RIGHTS:
        cure = "mend its rights, or name another place"
    else:
        cure = _CURES.get(error.errno or 0, "mend it and run the same command again")
    return f"{place}: {words}; {cure}"


def named(names: Sequence[str], most: int = 20) -> str:
    """Names in a message, of many the first ones and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def free_space(path: Path) -> str:
    """How much is free where a file lies or would lie, in words."""
    place = path.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        free = shutil.disk_usage(place).free
    except OSError:
        return "free space unknown"
    return f"{free / 1e6:.1f} MB free" if free < 1e9 else f"{free / 1e9:.1f} GB free"


@contextmanager
def one_line_errors(place: str | Path = "") -> Iterator[None]:
    """End the command with `error: …` and a non-zero exit code where the user can mend what went wrong.

    Args:
        place: named where the system does not say which file was concerned.
    """
    try:
        yield
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    except OSError as error:  # a full disk, rights: the system's own words name the file
        raise SystemExit(f"error: {explain(error, place)}") from None
