"""What a user can cause, and how a command ends then."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dataset_conversion.errors import UserError, explain


class ClisError(UserError):
    """A mistake the user can mend; its message is one line naming the file or flag and what to do."""


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
