"""The one exception of this room that a user can cause."""

from __future__ import annotations

from dataset_conversion.errors import UserError


class PseudoLabelError(UserError):
    """A mistake the user can mend; its message is one line naming the file or setting and what to do."""
