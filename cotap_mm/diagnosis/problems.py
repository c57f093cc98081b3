"""What is wrong with an installation, and the command that repairs it."""

from __future__ import annotations

from .facts import Facts, Problem
from .machine_problems import machine_problems
from .variables import variable_problems
from .version_problems import version_problems


def find_problems(facts: Facts) -> list[Problem]:
    """List what is broken or missing, and what may become a problem.

    Args:
        facts (Facts): Facts about the installation.

    Returns:
        list[Problem]: Broken parts first.
    """
    found = [
        *version_problems(facts),
        *machine_problems(facts),
        *(Problem(*row, is_broken=False) for row in variable_problems(facts.environment)),
    ]
    return sorted(found, key=lambda problem: not problem.is_broken)
