"""Shorten paths of users and remove credentials from texts that are published."""

from __future__ import annotations

import getpass
import os
import re
from collections.abc import Callable

_CREDENTIALS = re.compile(r'(?P<scheme>\b[a-z][\w+.-]*://)[^/\s@:]+(:[^/\s@]*)?@', re.IGNORECASE)
_OTHER_HOMES = re.compile(r'(?P<start>(^|[^\w/~])/(home|Users)/)[^/\s:]+')
_COMMON_NAMES = ('root', 'user', 'users', 'home', 'ubuntu', 'admin')


def make_private() -> Callable[[str], str]:
    """Return a function that shortens the private parts of a text.

    The home folder becomes ``~``, the name of the user in other paths ``USER``, home folders of
    others ``/home/...``, and ``https://name:password@host`` becomes ``https://***@host``.
    """
    home = os.path.expanduser('~').rstrip('/\\')
    own_home = re.compile(rf'{re.escape(home)}(?=$|[/\\\s:;,])') if len(home) > 1 else None
    try:
        name = getpass.getuser()
    except Exception:  # no entry in the list of users, as in many containers
        name = ''
    own_name = None
    if len(name) > 2 and name.lower() not in _COMMON_NAMES:
        own_name = re.compile(rf'(?<=[/\\]){re.escape(name)}(?=$|[/\\\s:;,])')

    def private(text: str) -> str:
        text = _CREDENTIALS.sub(r'\g<scheme>***@', text)
        if own_home:
            text = own_home.sub('~', text)
        if own_name:
            text = own_name.sub('USER', text)
        return _OTHER_HOMES.sub(r'\g<start>...', text)

    return private
