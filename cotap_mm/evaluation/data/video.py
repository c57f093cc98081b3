"""Video clips with masks: DAVIS-2017, the drives of CamVid, or any folder of frames."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Union

import numpy as np
from torch import Tensor

from cotap_mm.datasets import ImageList
from cotap_mm.datasets.sources.files import ImageFiles
from cotap_mm.datasets.sources.value_range import Option
from cotap_mm.registry import DATASETS
from cotap_mm.rules import check_rules, whole

from .label_files import IGNORE_LABEL, read_label

# A drive is cut where the gap between frames exceeds the median gap by this factor.
LONGEST_GAP = 1.5


@dataclass(frozen=True)
class Clip:
    """Ordered frames, with masks for some of them.

    Attributes:
        name (str): Name for tables.
        frames (sequence): Image files, first to last.
        masks (dict): Frame index -> mask file; the first frame always has a mask.
        scored (sequence): Indices of the frames that are scored.
        background (bool): Whether 0 means "no object"; otherwise it is a class like any other.
            Defaults to True.
        binary (bool): Whether masks are 0 and 255, and 255 is the object. Defaults to False.
        value_range: How values of more than 8 bits are scaled to 0..255, see
            :class:`~cotap_mm.datasets.ImageList`. Defaults to ``'auto'``: one range for the clip.
    """

    name: str
    frames: Sequence[Path]
    masks: dict[int, Path]
    scored: Sequence[int]
    background: bool = True
    binary: bool = False
    value_range: Option = 'auto'

    def mask(self, index: int) -> Tensor:
        """Read the objects or classes of a frame's pixels, 255 ignored; int64, shape (H, W)."""
        mask = read_label(self.masks[index])
        return (mask > 0).long() if self.binary else mask

    def objects(self) -> list[int]:
        """Values in the first mask (without 0 if it is background), which are tracked and scored.

        Raises:
            ValueError: If the first mask is empty.
        """
        values = set(self.mask(0).unique().tolist()) - {IGNORE_LABEL}
        values -= {0} if self.background else set()
        if not values:
            raise ValueError(
                f'the first mask of {self.name}, {self.masks[0]}, shows no object; '
                'its values must be object numbers, 0 for no object, 255 for ignored'
            )
        return sorted(values)


class ClipFrames:
    """Frames of a clip, read lazily and scaled from one range of values.

    Args:
        frames (sequence): Image files.
        value_range: See :class:`~cotap_mm.datasets.ImageList`. Defaults to ``'auto'``:
            computed from these files.
    """

    def __init__(self, frames: Sequence[Union[str, Path]], value_range: Option = 'auto') -> None:
        self.images = ImageFiles(frames, value_range)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> np.ndarray:
        """Read RGB pixels, uint8, shape (H, W, 3)."""
        return self.images.read(index)


def with_one_range(frames: Sequence[Any], value_range: Option = 'auto') -> Sequence[Any]:
    """Wrap a list of files in :class:`ClipFrames`; return other pictures unchanged."""
    if isinstance(frames, (list, tuple)) and all(
        isinstance(frame, (str, Path)) for frame in frames
    ):
        return ClipFrames(frames, value_range)
    return frames


class VideoClips:
    """List of clips, built from folders by ``davis``, ``camvid`` and ``folder``.

    In configs: ``dict(type='DAVISClips', root=...)``, ``'CamVidClips'``, ``'FolderClip'``.

    Args:
        clips (sequence): The clips.
        value_range: See :class:`~cotap_mm.datasets.ImageList`. Defaults to ``'auto'``: one
            range for the frames of all clips.
    """

    def __init__(self, clips: Sequence[Clip], value_range: Option = 'auto') -> None:
        self.clips = list(clips)
        self.images = ImageFiles(
            [frame for clip in self.clips for frame in clip.frames], value_range
        )

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> Clip:
        clip = self.clips[index]
        if isinstance(clip.value_range, str):
            clip = replace(clip, value_range=self.images.found_range())
        return clip

    @classmethod
    def davis(
        cls,
        root: Union[str, Path],
        split: str = 'val',
        resolution: str = '480p',
        value_range: Option = 'auto',
    ) -> VideoClips:
        """Open DAVIS-2017, https://davischallenge.org; first and last frames are not scored.

        Args:
            root (str | Path): Contains ``JPEGImages/480p/CLIP``, ``Annotations/480p/CLIP`` and
                ``ImageSets/2017/val.txt``.
            split (str): Name of the text file without suffix. Defaults to 'val'.
            resolution (str): Name of the two folders. Defaults to '480p'.
            value_range: See the class. Defaults to ``'auto'``.

        Raises:
            FileNotFoundError: If the list, a clip, or the mask of a first frame is missing.
        """
        names = Path(root) / 'ImageSets' / '2017' / f'{split}.txt'
        if not names.is_file():
            raise FileNotFoundError(
                f'{names} does not exist; DAVIS-2017 has JPEGImages, '
                'Annotations and ImageSets in its root folder'
            )
        clips = []
        for name in names.read_text().split():
            frames, masks = _frames_and_masks(
                Path(root) / 'JPEGImages' / resolution / name,
                Path(root) / 'Annotations' / resolution / name,
            )
            scored = [index for index in masks if 0 < index < len(frames) - 1]
            clips.append(Clip(name, frames, masks, scored))
        return cls(clips, value_range)

    @classmethod
    def folder(cls, root: Union[str, Path], value_range: Option = 'auto') -> VideoClips:
        """Open one clip from ``root/frames/*`` and ``root/masks/*.png`` with the same names.

        Frames are sorted by the numbers in their names (2 before 10). The first frame needs
        a mask; other masks that exist are scored. Values are object numbers, 0 for no object and
        255 for ignored. If the first mask has only the values 0 and 255, 255 is the only object.

        Raises:
            FileNotFoundError: If there is no frame, or the first frame has no mask.
        """
        frames, masks = _frames_and_masks(Path(root) / 'frames', Path(root) / 'masks')
        binary = set(read_label(masks[0]).unique().tolist()) == {0, IGNORE_LABEL}
        scored = [index for index in masks if index]
        return cls(
            [Clip(Path(root).resolve().name, frames, masks, scored, binary=binary)], value_range
        )

    @classmethod
    def camvid(
        cls,
        root: Union[str, Path],
        split: str = 'val',
        max_length: int = 25,
        value_range: Option = 'auto',
    ) -> VideoClips:
        """Open the drives of CamVid: consecutive labeled frames, classes instead of objects.

        File names are DRIVE_FRAME, such as 0001TP_006690 or Seq05VD_f00000. A drive is cut
        where the gap between frames is more than 1.5 times the median gap, and then into
        equal clips of at most ``max_length`` frames. Frames of train and test are one second
        apart, frames of val 1/15 s.

        Args:
            root (str | Path): Contains ``images/SPLIT`` and ``labels/SPLIT`` (PNG).
            split (str): Name of the sub-folder. Defaults to 'val'.
            max_length (int): Largest number of frames in a clip, >= 2. Defaults to 25.
            value_range: See the class. Defaults to ``'auto'``.

        Raises:
            FileNotFoundError: If folders or a mask are missing.
            ValueError: If a file name does not have this form, or ``max_length`` is below 2.
        """
        check_rules(dict(max_length=max_length), dict(max_length=whole(2)))
        folder, labels = Path(root) / 'images' / split, Path(root) / 'labels' / split
        drives: dict[str, list[tuple[int, Path]]] = {}
        for name in ImageList(folder).names:
            match = re.fullmatch(r'(.+?)_f?(\d+)', Path(name).stem)
            if not match:
                raise ValueError(f'CamVid frames must be named DRIVE_NUMBER, got {name}')
            drives.setdefault(match[1], []).append((int(match[2]), folder / name))
        clips = []
        for drive, numbered in sorted(drives.items()):
            for part in _cut(sorted(numbered), max_length):
                frames = [frame for _, frame in part]
                masks = {
                    index: _existing(labels / frame.relative_to(folder).with_suffix('.png'))
                    for index, frame in enumerate(frames)
                }
                clips.append(
                    Clip(
                        f'{drive}_{part[0][0]}',
                        frames,
                        masks,
                        range(1, len(frames)),
                        background=False,
                    )
                )
        return cls(clips, value_range)


DATASETS.register_module('DAVISClips', module=VideoClips.davis)
DATASETS.register_module('CamVidClips', module=VideoClips.camvid)
DATASETS.register_module('FolderClip', module=VideoClips.folder)


def _frames_and_masks(folder: Path, masks: Path) -> tuple[list[Path], dict[int, Path]]:
    """Frames sorted by the numbers in their names, and the masks that exist."""
    names = sorted(ImageList(folder).names, key=_by_number)
    paths = {index: masks / Path(name).with_suffix('.png') for index, name in enumerate(names)}
    _existing(paths[0])
    return (
        [folder / name for name in names],
        {index: path for index, path in paths.items() if path.is_file()},
    )


def _existing(mask: Path) -> Path:
    if not mask.is_file():
        raise FileNotFoundError(
            f'mask {mask} does not exist; the first frame of a clip needs one, '
            'a PNG with the name of the frame'
        )
    return mask


def _by_number(name: str) -> list[tuple[int, str]]:
    return [(int(part), '') if part.isdigit() else (-1, part) for part in re.split(r'(\d+)', name)]


def _cut(numbered: Sequence[tuple[int, Path]], max_length: int) -> list[Sequence[tuple[int, Path]]]:
    """Cut a drive at large gaps into parts of 2 to ``max_length`` frames."""
    gaps = [after[0] - before[0] for before, after in zip(numbered, numbered[1:])]
    longest = LONGEST_GAP * median(gaps) if gaps else 0
    edges = [0, *(i + 1 for i, gap in enumerate(gaps) if gap > longest), len(numbered)]
    parts = []
    for start, end in zip(edges, edges[1:]):
        pieces = -(-(end - start) // max_length)
        bounds = [start + i * (end - start) // pieces for i in range(pieces + 1)]
        parts += [numbered[low:high] for low, high in zip(bounds, bounds[1:]) if high - low > 1]
    return parts
