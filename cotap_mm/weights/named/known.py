"""Short names of well-known weights, and what to type instead of a misspelled name."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

_DINO = 'https://dl.fbaipublicfiles.com/dino'
_DINOV2 = 'https://dl.fbaipublicfiles.com/dinov2'
_IBOT = 'https://lf3-nlp-opensource.bytetos.com/obj/nlp-opensource/archive/2022/ibot'

#: Name -> URL of the released weights, which the shipped configs start from.
KNOWN = {
    'dino_vits16': f'{_DINO}/dino_deitsmall16_pretrain/dino_deitsmall16_pretrain.pth',
    'dino_vitb16': f'{_DINO}/dino_vitbase16_pretrain/dino_vitbase16_pretrain.pth',
    'dino_vitb8': f'{_DINO}/dino_vitbase8_pretrain/dino_vitbase8_pretrain.pth',
    'ibot_vitl16': f'{_IBOT}/vitl_16/checkpoint_teacher.pth',
    'dinov2_vits14_reg': f'{_DINOV2}/dinov2_vits14/dinov2_vits14_reg4_pretrain.pth',
    'dinov2_vitb14_reg': f'{_DINOV2}/dinov2_vitb14/dinov2_vitb14_reg4_pretrain.pth',
}
#: What a checkpoint may be, for messages.
EXPECTED = (
    'the path of a checkpoint, a URL, a folder of Hugging Face, hf:USER/REPO, timm:NAME, or one of '
    f'{", ".join(KNOWN)}'
)
_SUFFIXES = ('.pth', '.pt', '.bin', '.safetensors')
_MAX_FILES = 1000
_OF_TIMM = re.compile(r'(vit|deit3?)_\w*patch\d+')


# Names of released files whose networks have four registers.
_WITH_REGISTERS = re.compile(
    r'(^|[/\\])(dinov2_vit[sblg]14_reg4_pretrain|dinov3_vit(s16|s16plus|b16|l16|h16plus|7b16)_pretrain)'
)


def check_registers(name: str, count: int) -> None:
    """Reject a file that has the name of a network with registers, but lacks them.

    Without registers, a file of DINOv2 cannot be told from one that never had any.

    Args:
        name (str): Path or URL.
        count (int): Number of registers in the file.

    Raises:
        ValueError: If the file lacks its registers.
    """
    if count == 0 and _WITH_REGISTERS.search(name):
        raise ValueError(
            f'{name} has the name of a network with 4 registers, but the file has 0; without its '
            'registers, a network computes other features. Download the complete file, or rename '
            'it if it is another network'
        )


def url_of(name: str) -> str:
    """Return the URL of a short name, and any other name unchanged; a file comes first."""
    return KNOWN[name] if name in KNOWN and not Path(name).exists() else name


def suggestion(name: str) -> str:
    """Suggest what a name that is neither a file nor known may mean.

    Args:
        name (str): A checkpoint as typed.

    Returns:
        str: ``' (did you mean X?)'``; '' if nothing is similar.
    """
    if _OF_TIMM.match(name):
        return f' (did you mean timm:{name}?)'
    start, colon, rest = name.partition(':')
    if colon and difflib.get_close_matches(start.lower(), ['timm'], 1, 0.7):
        return f' (did you mean timm:{rest}?)'
    by_lower = {known.lower(): known for known in (*KNOWN, *_files_near(name))}
    matches = difflib.get_close_matches(name.lower(), by_lower, 1, 0.75)
    if matches:
        return f' (did you mean {by_lower[matches[0]]}?)'
    is_of_hub = re.fullmatch(r'[\w-]+/[\w-]+', name) and not Path(name).parent.is_dir()
    return f' (did you mean hf:{name}?)' if is_of_hub else ''


def _files_near(name: str) -> list[str]:
    """Checkpoints in the folder of a file that does not exist, written like its name."""
    folder = Path(name).parent
    try:
        found = [path.name for _, path in zip(range(_MAX_FILES), folder.iterdir())]
    except (OSError, ValueError):
        return []
    start = name[: len(name) - len(Path(name).name)]
    return [start + file for file in found if file.endswith(_SUFFIXES)]
