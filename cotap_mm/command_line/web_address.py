"""Argument types: host names and paths under which a web page is served."""

from __future__ import annotations

import argparse
import re
from urllib.parse import urlsplit


def host_name(text: str) -> str:
    """Parse a host name for argparse, as browsers send it, with or without a port."""
    try:
        name = text if text.isascii() else text.encode('idna').decode()
        valid = re.fullmatch(r'([A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(:[0-9]+)?', name)
        valid = valid and urlsplit(f'//{name}').port != 0
    except ValueError:  # also for a port out of range
        valid = None
    if not valid:
        raise argparse.ArgumentTypeError(
            f'must be a name like images.example.org or images.example.org:8443, got {text!r}'
        )
    return name.lower()


def root_path(text: str) -> str:
    """Parse an absolute path or an http(s) URL for argparse; strip the trailing slash."""
    match = re.fullmatch(
        r'(?:https?://(?P<host>[^/?#@]+))?(?P<path>(/[\w.~-]+)*/?)', text, re.ASCII
    )
    if not match or '..' in text or not (match['host'] or match['path'].startswith('/')):
        raise argparse.ArgumentTypeError(
            f'must be a path like /viewer or a URL like https://example.org/viewer, got {text!r}'
        )
    if match['host']:
        host_name(match['host'])
    return text.rstrip('/')
