"""Check the image files of a data set of any library."""

from __future__ import annotations

from collections.abc import Sequence

from .depth import collect_deep_images
from .findings import Findings, Part, counted, image_size, iter_sampled, missing_files


def check_image_files(part: Part, paths: Sequence[str], findings: Findings, note: str = '') -> bool:
    """Check that images exist, collect those with more than 8 bits, and open a sample.

    Args:
        part (Part): The data set.
        paths (sequence): All its images.
        findings (Findings): The first error is added to it.
        note (str): Keys that the paths come from, for the error of missing images. Defaults to ''.

    Returns:
        bool: False if images are missing, so that further checks make no sense.
    """
    missing = missing_files(paths)
    if missing:
        findings.errors.append(f'{part}: {counted(missing, len(paths), "images")}{note}')
        return False
    collect_deep_images(part, paths, findings)
    for path in iter_sampled(paths):
        try:
            image_size(path)
        except ValueError as error:
            findings.errors.append(f'{part}: {error}')
            break
    return True
