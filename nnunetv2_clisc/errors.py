"""What a user can cause, and how a command ends then."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pseudo_labeling.errors import PseudoLabelError


class ClisError(ValueError):
    """A mistake the user can mend; its message is one line naming the file or flag and what to do."""


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End the command with `error: …` and a non-zero exit code where the user can mend what went wrong."""
    try:
        yield
    except (ClisError, PseudoLabelError) as error:
        raise SystemExit(f"error: {error}") from None
