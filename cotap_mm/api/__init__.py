"""Functions of Python that do what the commands do; all of them are exported by ``cotap_mm``.

They share the code of the commands. What differs is at their edges: arguments instead of options,
exceptions instead of exit statuses, and results instead of printed text.
"""

from __future__ import annotations
