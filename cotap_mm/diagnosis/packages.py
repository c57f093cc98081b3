"""Versions of the installed packages, and where cotap_mm itself comes from."""

from __future__ import annotations

import importlib.metadata
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Optional

from cotap_mm.compat.mmcv_ops import finder
from cotap_mm.compat.workarounds import REQUIREMENTS
from cotap_mm.version import __version__

#: Distributions whose versions belong into every bug report.
REPORTED = (
    'torch',
    'torchvision',
    *(name for _, _, names, _ in REQUIREMENTS[1:2] for name in names),
    *finder.DISTRIBUTIONS,
    'mmpretrain',
    'onedl-mmpretrain',
    'mmsegmentation',
    'onedl-mmsegmentation',
    'mmdet',
    'onedl-mmdetection',
    'numpy',
    'scipy',
    'scikit-learn',
    'kornia',
    'pillow',
    'opencv-python',
    'opencv-python-headless',
    'matplotlib',
    'tensorboard',
    'rich',
    'transformers',
    'setuptools',
)
#: Optional distribution -> what it is for, and what installs it.
OPTIONAL = {
    'mmsegmentation': ('downstream segmentation', 'pip install mmsegmentation ftfy regex'),
    'mmdet': ('downstream detection', 'pip install mmdet pycocotools'),
    'timm': ('backbones named timm:NAME', 'pip install timm'),
    'safetensors': ('files *.safetensors', 'pip install safetensors'),
    'lmdb': ('packed images, cotap pack', 'pip install lmdb'),
    's3fs': ('images at s3://', 'pip install s3fs'),
    'gcsfs': ('images at gs://', 'pip install gcsfs'),
    'gradio': ('cotap viewer', 'pip install "gradio>=6"'),
    'faiss-cpu': ('cotap neighbors --search ivf, --faiss', 'pip install faiss-cpu'),
    'onnx': ('cotap convert --to onnx', 'pip install onnx'),
    'pillow-heif': ('HEIC images', 'pip install pillow-heif'),
}
#: Optional distribution -> forks and variants that are as good.
ALTERNATIVES = {
    'mmsegmentation': ('onedl-mmsegmentation',),
    'mmdet': ('onedl-mmdetection',),
    'faiss-cpu': ('faiss-gpu', 'faiss-gpu-cu12'),
}


def versions_of(names: Iterable[str]) -> dict[str, str]:
    """Versions of those distributions that are installed.

    Args:
        names (iterable[str]): Names of distributions.

    Returns:
        dict[str, str]: Name -> version, in the given order.
    """
    found = {}
    for name in names:
        try:
            version: Optional[str] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        found[name] = version or 'unknown (its metadata is damaged)'
    return found


def installed_optional() -> dict[str, str]:
    """Names of the optional distributions, with the version of each or of an alternative.

    Returns:
        dict[str, str]: Name -> version; '' if it is not installed.
    """
    return {
        name: next(iter(versions_of((name, *ALTERNATIVES.get(name, ()))).values()), '')
        for name in OPTIONAL
    }


def describe_origin() -> str:
    """Version of cotap_mm, whether it is installed, and its commit if it is a git checkout."""
    folder = Path(__file__).resolve().parents[2]
    distributed = versions_of(['cotap_mm']).get('cotap_mm')
    if not (folder / 'setup.py').is_file():
        return f'{__version__} (installed package)'
    kind = 'checkout' if distributed is None else 'checkout, installed as editable'
    commit = _git(folder, 'rev-parse', '--short=10', 'HEAD')
    if not commit:
        return f'{__version__} ({kind}, commit unknown)'
    changed = ', with local changes' if _git(folder, 'status', '--porcelain', '-uno') else ''
    return f'{__version__} ({kind}, commit {commit}{changed})'


def _git(folder: Path, *arguments: str) -> str:
    """Output of git in a folder; '' if it fails or there is no git."""
    try:
        done = subprocess.run(
            ['git', '-C', str(folder), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return ''
    return done.stdout.strip() if done.returncode == 0 else ''
