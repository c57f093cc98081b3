"""Arguments, configs and error reports of the command-line tools."""

from __future__ import annotations
