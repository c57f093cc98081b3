"""Error for pictures that cannot be drawn."""

from __future__ import annotations


class NotAvailable(ValueError):
    """A requested picture is not possible for these networks, images or options.

    The message is shown to the user as it is: in the viewer, to anyone who can open the page.
    """
