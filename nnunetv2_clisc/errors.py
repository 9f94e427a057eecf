"""The one exception of this room that a user can cause."""

from __future__ import annotations


class ClisError(ValueError):
    """A mistake the user can mend; its message is one line naming the file or flag and what to do."""
