"""Exit statuses of tools in which an error is raised."""

from __future__ import annotations

import pytest

from cotap_mm.command_line.tool import report_user_errors, tool
from cotap_mm.errors import UserError


class DiskIsFull(UserError):
    """A subclass of UserError, as parts of the package define."""


def exit_code_of(error, during_setup=False, **options):
    """Exit status, or message, of a tool in which an error is raised."""

    @tool
    def main():
        if during_setup:
            with report_user_errors(**options):
                raise error
        raise error

    with pytest.raises(SystemExit) as exit_:
        main()
    return exit_.value.code
