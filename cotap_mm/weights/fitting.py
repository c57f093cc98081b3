"""Putting renamed tensors into a model, or refusing to."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Optional

import torch
from torch import Tensor, nn

from cotap_mm.ops import resize_position_embedding

_FINAL_NORM = ('backbone.ln1.weight', 'backbone.ln1.bias')


@dataclass
class LoadReport:
    """What became of each tensor of a checkpoint.

    Attributes:
        source (str): Source that was stated, or the family of names recognised.
        branch (str): Branch that was loaded; ``''`` if the file does not say.
        loaded (list[str]): Our names of the tensors that were loaded.
        missing (list[str]): Parameters of the model that stayed as initialised.
        unexpected (list[str]): Tensors of the network that nothing knows.
        dropped (list[str]): Tensors that the model has no place for by design.
        resized (list[str]): Loaded after resizing (position embeddings).
        adapted (list[str]): Loaded after changing the number of input channels.
        teacher (str): Where a CoTAP's teacher comes from: ``'student'`` (a copy),
            ``'file'``, or ``''`` for a model without teacher.
    """

    source: str
    branch: str = ''
    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    adapted: list[str] = field(default_factory=list)
    teacher: str = ''

    @property
    def num_loaded(self) -> int:
        """Number of tensors that were loaded."""
        return len(self.loaded)

    def __str__(self) -> str:
        def few(names: list[str]) -> str:
            more = f', ... {len(names) - 3} more' if len(names) > 3 else ''
            return f'{len(names)} ({", ".join(names[:3])}{more})' if names else 'none'

        teacher = {
            'student': '; the teacher is a copy of the student',
            'file': "; the teacher is the file's",
            '': '',
        }[self.teacher]
        channels = '; input channels changed in ' + few(self.adapted) if self.adapted else ''
        return (
            f'{self.branch or "network"} with names of {self.source!r}: loaded '
            f'{self.num_loaded} tensors; stayed as initialised {few(self.missing)}; unexpected '
            f'{few(self.unexpected)}; not needed {few(self.dropped)}; resized '
            f'{few(self.resized)}{channels}{teacher}'
        )


def fit(
    model: nn.Module,
    tensors: dict[str, Tensor],
    report: LoadReport,
    teacher: Optional[dict[str, Tensor]] = None,
    grid: Optional[tuple[int, int]] = None,
) -> None:
    """Copy tensors in our layout into a model.

    Args:
        model (nn.Module): A CoTAP algorithm, or a ViT (with or without ``neck``).
        tensors (dict[str, Tensor]): In the layout of the algorithm.
        report (LoadReport): Filled here.
        teacher (dict[str, Tensor], optional): Tensors for the algorithm's teacher. By
            default it becomes a copy of the student.
        grid (tuple[int, int], optional): Rows and columns of the position embeddings, if the
            file states them. By default they are guessed.

    Raises:
        ValueError: If a part does not fit; the model is unchanged then.
    """
    plans = [_plan(model, tensors, report, grid)]
    has_teacher = hasattr(model, 'teacher') and hasattr(model, 'student')
    if has_teacher and teacher is not None:
        plans.append(_plan(model.teacher, teacher, LoadReport(f'{report.source}, teacher'), grid))
    with torch.no_grad():
        _copy(plans[0])
        if has_teacher:
            model.teacher.copy_from(model.student)
            report.teacher = 'student'
        for plan in plans[1:]:
            _copy(plan)
            report.teacher = 'file'


def _copy(plan: list[tuple[Tensor, Tensor]]) -> None:
    for place, value in plan:
        place.copy_(value)


def _plan(
    model: nn.Module,
    tensors: dict[str, Tensor],
    report: LoadReport,
    grid: Optional[tuple[int, int]],
) -> list[tuple[Tensor, Tensor]]:
    """Pairs of parameter and value, after all checks."""
    places = _places(model)
    tensors = dict(tensors)
    _resize(tensors, places, getattr(model, 'backbone', model), report, grid)
    _adapt_channels(tensors, places, report)
    for name in tensors:
        if name in places:
            report.loaded.append(name)
        elif name.startswith(('neck.', 'head.')) or name in _FINAL_NORM:
            report.dropped.append(name)  # a bare ViT, or one without a final norm
        else:
            report.unexpected.append(name)
    report.missing.extend(name for name in places if name not in tensors)
    problems, remedies = _problems(tensors, places, report)
    if problems:
        in_file, in_model = (_describe(names) for names in (tensors, places))
        raise ValueError(
            f'checkpoint does not fit (names of {report.source!r}): '
            f'{"; ".join(problems)}. The file holds {in_file}, the model is '
            f'{in_model}. {"; ".join(remedies)}'
        )
    return [(places[name], tensors[name]) for name in report.loaded]


def _places(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that weights can go to, by their name in the algorithm's layout."""
    own = {
        name: value
        for name, value in model.state_dict(keep_vars=True).items()
        if isinstance(value, nn.Parameter)
    }
    if any(name.startswith('backbone.') for name in own):
        own = {
            (name[len('backbone.') :] if name.startswith('backbone.neck.') else name): value
            for name, value in own.items()
        }
    else:
        own = {
            (name if name.startswith('neck.') else 'backbone.' + name): value
            for name, value in own.items()
        }
    return {
        name: value
        for name, value in own.items()
        if name.startswith(('backbone.', 'neck.', 'head.'))
    }


def _resize(
    tensors: dict[str, Tensor],
    places: dict[str, nn.Parameter],
    backbone: nn.Module,
    report: LoadReport,
    grid: Optional[tuple[int, int]],
) -> None:
    """Bring position embeddings to the model's grid; what is no grid is refused later."""
    name = 'backbone.pos_embed'
    if name not in tensors or name not in places:
        return
    value, extra = tensors[name], backbone.num_extra_tokens
    if value.ndim != 3 or value.shape[2] != places[name].shape[2]:
        return
    target = tuple(backbone.patch_resolution)
    if grid is not None and extra + grid[0] * grid[1] == value.shape[1]:
        source: Optional[tuple[int, int]] = grid
    elif value.shape == places[name].shape:
        source = target
    else:
        source = _guess_grid(value.shape[1] - extra, target)
    if source is not None and source != target:
        tensors[name] = resize_position_embedding(value, source, target, extra)
        report.resized.append(name)


def _adapt_channels(
    tensors: dict[str, Tensor], places: dict[str, nn.Parameter], report: LoadReport
) -> None:
    """Bring the patch embedding to the model's number of input channels.

    The file's channels are repeated in turn and scaled by their number over the model's,
    so that a grey value in all channels leaves the sum as it was; one channel gets their
    sum. Source: timm's ``adapt_input_conv``, https://github.com/huggingface/pytorch-image-models.
    """
    name = 'backbone.patch_embed.projection.weight'
    if name not in tensors or name not in places:
        return
    value, place = tensors[name], places[name]
    if value.ndim != 4 or value[:, 0].shape != place[:, 0].shape or value.shape == place.shape:
        return
    old, new = value.shape[1], place.shape[1]
    if new == 1:
        tensors[name] = value.sum(dim=1, keepdim=True)
    else:
        tensors[name] = value[:, torch.arange(new) % old] * (old / new)
    report.adapted.append(name)


def _guess_grid(count: int, target: tuple[int, int]) -> Optional[tuple[int, int]]:
    """The square of so many patches, else the grid of the target's aspect ratio."""
    for aspect in (1.0, target[0] / target[1]):
        height = round((max(count, 0) * aspect) ** 0.5)
        if height and count % height == 0 and abs(height / (count // height) - aspect) < 1e-6:
            return height, count // height
    return None


def _problems(
    tensors: dict[str, Tensor], places: dict[str, nn.Parameter], report: LoadReport
) -> tuple[list[str], list[str]]:
    """What is wrong with a fit, and what to do about it."""
    problems, remedies = [], []
    different = [name for name in report.loaded if tensors[name].shape != places[name].shape]
    if different:
        shown = '; '.join(
            f'{n} is {tuple(tensors[n].shape)} in the file and '
            f'{tuple(places[n].shape)} in the model'
            for n in different[:3]
        )
        problems.append(f'{len(different)} shapes differ: {shown}')
    lacking = [name for name in report.missing if name.startswith('backbone.')]
    if lacking:
        problems.append(
            f'the file lacks {len(lacking)} tensors of the backbone: {", ".join(lacking[:3])}'
        )
    surplus = [name for name in report.unexpected if name.startswith('backbone.')]
    if surplus:
        problems.append(
            f'the backbone has no place for {len(surplus)} tensors: {", ".join(surplus[:3])}'
        )
    remedies += _remedies(different, lacking, surplus, tensors, places)
    for part in ('neck.', 'head.patch.', 'head.cls.'):
        present = any(name.startswith(part) for name in report.loaded)
        absent = [name for name in report.missing if name.startswith(part)]
        if present and absent:
            problems.append(
                f'the file has only a part of {part[:-1]}; it lacks {", ".join(absent[:3])}'
            )
        if present and (absent or any(name.startswith(part) for name in different)):
            remedies.append(
                f"Build {part[:-1]} with the sizes of the file's, or load only the "
                'backbone (tools/convert.py --to mmpretrain)'
            )
    return problems, remedies


#: Tensors that an option of the backbone adds: their names, and the option that has or lacks them.
_OPTIONS = (
    (re.compile(r'backbone\.layers\.\d+\.attn\.qkv\.bias$'), 'qkv_bias=True', 'qkv_bias=False'),
    (re.compile(r'backbone\.ln1\.'), 'final_norm=True', 'final_norm=False'),
    (re.compile(r'backbone\.pre_norm\.'), 'pre_norm=True', 'pre_norm=False'),
    (
        re.compile(r'backbone\.layers\.\d+\.(attn\.gamma1|ffn\.gamma2)\.'),
        'layer_scale_init_value=1e-5',
        'layer_scale_init_value=0.',
    ),
    (re.compile(r'backbone\.cls_token$'), 'with_cls_token=True', 'with_cls_token=False'),
)


def _remedies(
    different: list[str],
    lacking: list[str],
    surplus: list[str],
    tensors: dict[str, Tensor],
    places: dict[str, nn.Parameter],
) -> list[str]:
    """Options of the backbone that make it fit, as far as they are known."""
    options = []
    for pattern, present, absent in _OPTIONS:
        for names, option, others in ((surplus, present, places), (lacking, absent, tensors)):
            # Where the other side has some of them, it only has fewer blocks.
            if any(map(pattern.match, names)) and not any(map(pattern.match, others)):
                options.append(option)
                names[:] = [name for name in names if not pattern.match(name)]
    remedies = [f'Build the backbone with {", ".join(options)}, as in the file'] if options else []
    if not (lacking or surplus) and _same_but_grid(different, tensors, places):
        return [
            *remedies,
            "The grid of the file's position embeddings is not known: set img_size "
            'of the backbone to the one that they were trained for',
        ]
    if lacking or surplus or any(name.startswith('backbone.') for name in different):
        remedies.append(f"Set the size of the backbone to the file's: {_stated_size(tensors)}")
    return remedies


def _stated_size(tensors: dict[str, Tensor]) -> str:
    """``arch`` and ``patch_size`` of the network in a file, as far as its tensors show them."""
    patch = tensors.get('backbone.patch_embed.projection.weight')
    hidden = tensors.get('backbone.layers.0.ffn.layers.0.0.weight')
    if patch is None or patch.ndim != 4 or hidden is None or hidden.ndim != 2:
        return 'arch and patch_size'
    blocks = {name.split('.')[2] for name in tensors if name.startswith('backbone.layers.')}
    return (
        f'arch=dict(embed_dims={patch.shape[0]}, num_layers={len(blocks)}, num_heads=N, '
        f'feedforward_channels={hidden.shape[0]}), patch_size={patch.shape[2]}'
    )


def _same_but_grid(
    different: list[str], tensors: dict[str, Tensor], places: dict[str, nn.Parameter]
) -> bool:
    """Whether the backbones differ in nothing but the number of position embeddings."""
    name = 'backbone.pos_embed'
    return [other for other in different if other.startswith('backbone.')] == [name] and (
        tensors[name].shape[2:] == places[name].shape[2:]
    )


def _describe(tensors: dict[str, Tensor]) -> str:
    patch = tensors.get('backbone.patch_embed.projection.weight')
    blocks = {name.split('.')[2] for name in tensors if name.startswith('backbone.layers.')}
    width: tuple = tuple(patch.shape) if patch is not None and patch.ndim == 4 else ('?',) * 3
    return (
        f'a ViT of width {width[0]}, {len(blocks)} blocks, patch {width[2]}, '
        f'{width[1]} input channels'
    )
