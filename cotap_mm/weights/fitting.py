"""Copy renamed tensors into a model, or reject them with reasons."""

from __future__ import annotations

import re
from typing import Optional

import torch
from torch import Tensor, nn

from cotap_mm.ops import resize_position_embedding
from cotap_mm.ops.position import resize_patch_embedding

from .report import LoadReport

_PERIODS = 'rope.periods'  # a buffer that the network's output depends on
_FINAL_NORM = ('backbone.ln1.weight', 'backbone.ln1.bias')


def fit(
    model: nn.Module,
    tensors: dict[str, Tensor],
    report: LoadReport,
    teacher: Optional[dict[str, Tensor]] = None,
    grid: Optional[tuple[int, int]] = None,
    resize_patches: bool = False,
) -> None:
    """Copy tensors under our names into a model.

    Args:
        model (nn.Module): A CoTAP algorithm, or a ViT (with or without ``neck``).
        tensors (dict[str, Tensor]): In the layout of the algorithm.
        report (LoadReport): Filled in.
        teacher (dict[str, Tensor], optional): Tensors for the algorithm's teacher. By
            default the teacher becomes a copy of the student.
        grid (tuple[int, int], optional): Rows and columns of the position embeddings, if the
            file states them. By default they are inferred.
        resize_patches (bool): Whether to resize the patch embedding to the patch size of the
            model. Defaults to False: another patch size is an error.

    Raises:
        ValueError: If a part does not fit; the model is not changed then.
    """
    if resize_patches:
        tensors, teacher = _with_patch_size(model, tensors, teacher, report)
    plans = [_plan(model, tensors, report, grid)]
    has_teacher = hasattr(model, 'teacher') and hasattr(model, 'student')
    if has_teacher and teacher is not None:
        plans.append(_plan(model.teacher, teacher, LoadReport(f'{report.source}, teacher'), grid))
    with torch.no_grad():
        _copy(plans[0])
        if has_teacher:
            model.teacher.copy_from(model.student)
            report.teacher = 'student'
        if getattr(model, 'anchor', None) is not None:
            model.anchor.copy_from(model.backbone)
        for plan in plans[1:]:
            _copy(plan)
            report.teacher = 'file'


def _with_patch_size(
    model: nn.Module,
    tensors: dict[str, Tensor],
    teacher: Optional[dict[str, Tensor]],
    report: LoadReport,
) -> tuple[dict[str, Tensor], Optional[dict[str, Tensor]]]:
    """Resize the patch embeddings of student and teacher to the patch size of the model."""
    name = 'backbone.patch_embed.projection.weight'
    target = _parameters(model).get(name)
    resized = []
    for own in (tensors, teacher):
        value = None if own is None else own.get(name)
        if target is not None and value is not None and value.shape[2:] != target.shape[2:]:
            own = {**own, name: resize_patch_embedding(value, target.shape[2])}  # type: ignore
            report.resized.append(name)
        resized.append(own)
    return resized[0], resized[1]  # type: ignore[return-value]


def _copy(plan: list[tuple[Tensor, Tensor]]) -> None:
    for parameter, value in plan:
        parameter.copy_(value)


def _plan(
    model: nn.Module,
    tensors: dict[str, Tensor],
    report: LoadReport,
    grid: Optional[tuple[int, int]],
) -> list[tuple[Tensor, Tensor]]:
    """Return pairs of parameter and new value, after all checks."""
    parameters = _parameters(model)
    tensors = dict(tensors)
    _resize(tensors, parameters, getattr(model, 'backbone', model), report, grid)
    _adapt_channels(tensors, parameters, report)
    for name in tensors:
        if name in parameters:
            report.loaded.append(name)
        elif name.startswith(('neck.', 'head.')) or name in _FINAL_NORM:
            report.dropped.append(name)  # a bare ViT, or one without a final norm
        else:
            report.unexpected.append(name)
    report.missing.extend(name for name in parameters if name not in tensors)
    problems, remedies = _problems(tensors, parameters, report)
    if problems:
        in_file, in_model = (_describe(names) for names in (tensors, parameters))
        raise ValueError(
            f'checkpoint does not fit (names of {report.source!r}): '
            f'{"; ".join(problems)}. The file has {in_file}, the model is '
            f'{in_model}. {"; ".join(remedies)}'
        )
    return [(parameters[name], tensors[name]) for name in report.loaded]


def _parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that can be loaded, by their names in the layout of the algorithm."""
    own = {
        name: value
        for name, value in model.state_dict(keep_vars=True).items()
        if (isinstance(value, nn.Parameter) and '.lora_' not in name) or name.endswith(_PERIODS)
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
    parameters: dict[str, nn.Parameter],
    backbone: nn.Module,
    report: LoadReport,
    grid: Optional[tuple[int, int]],
) -> None:
    """Resize position embeddings to the model's grid; those that are not a grid fail later."""
    name = 'backbone.pos_embed'
    if name not in tensors or name not in parameters:
        return
    value, extra = tensors[name], backbone.num_extra_tokens
    if value.ndim != 3 or value.shape[2] != parameters[name].shape[2]:
        return
    target = tuple(backbone.patch_resolution)
    if grid is not None and extra + grid[0] * grid[1] == value.shape[1]:
        source: Optional[tuple[int, int]] = grid
    elif value.shape == parameters[name].shape:
        source = target
    else:
        source = _guess_grid(value.shape[1] - extra, target)
    if source is not None and source != target:
        rule = getattr(backbone, 'pos_resize', 'dino')
        tensors[name] = resize_position_embedding(value, source, target, extra, rule)
        report.resized.append(name)


def _adapt_channels(
    tensors: dict[str, Tensor], parameters: dict[str, nn.Parameter], report: LoadReport
) -> None:
    """Adapt the patch embedding to the model's number of input channels.

    The file's channels are repeated cyclically and scaled by the ratio of the two numbers of
    channels, so that a gray image gives the same sum; a single channel gets the sum of
    all channels. Source: timm's ``adapt_input_conv``, https://github.com/huggingface/pytorch-image-models.
    """
    name = 'backbone.patch_embed.projection.weight'
    if name not in tensors or name not in parameters:
        return
    value, target = tensors[name], parameters[name]
    if value.ndim != 4 or value[:, 0].shape != target[:, 0].shape or value.shape == target.shape:
        return
    old, new = value.shape[1], target.shape[1]
    if new == 1:
        tensors[name] = value.sum(dim=1, keepdim=True)
    else:
        tensors[name] = value[:, torch.arange(new) % old] * (old / new)
    report.adapted.append(name)


def _guess_grid(count: int, target: tuple[int, int]) -> Optional[tuple[int, int]]:
    """Infer the grid of ``count`` patches: a square, or else the target's aspect ratio."""
    for aspect in (1.0, target[0] / target[1]):
        height = round((max(count, 0) * aspect) ** 0.5)
        if height and count % height == 0 and abs(height / (count // height) - aspect) < 1e-6:
            return height, count // height
    return None


def _problems(
    tensors: dict[str, Tensor], parameters: dict[str, nn.Parameter], report: LoadReport
) -> tuple[list[str], list[str]]:
    """List what does not fit, and how to fix it."""
    problems, remedies = [], []
    different = [name for name in report.loaded if tensors[name].shape != parameters[name].shape]
    if different:
        shown = '; '.join(
            f'{n} is {tuple(tensors[n].shape)} in the file and '
            f'{tuple(parameters[n].shape)} in the model'
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
            f'the backbone has no parameter for {len(surplus)} tensors: {", ".join(surplus[:3])}'
        )
    remedies += _remedies(different, lacking, surplus, tensors, parameters)
    for part in ('neck.', 'head.patch.', 'head.cls.'):
        present = any(name.startswith(part) for name in report.loaded)
        absent = [name for name in report.missing if name.startswith(part)]
        if present and absent:
            problems.append(
                f'the file has only a part of {part[:-1]}; it lacks {", ".join(absent[:3])}'
            )
        if present and (absent or any(name.startswith(part) for name in different)):
            remedies.append(
                f'Build {part[:-1]} with the sizes in the file, or load only the '
                'backbone (cotap convert --to mmpretrain)'
            )
    return problems, remedies


#: Names of tensors that depend on an option of the backbone: the option with and without them.
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
    (re.compile(r'backbone\.register_tokens$'), 'num_registers={}', 'num_registers=0'),
    (re.compile(r'backbone\.rope\.'), 'rope=dict(theta=100.0)', 'rope=None'),
    (re.compile(r'backbone\.layers\.\d+\.ffn\.w'), "ffn='swiglu' in arch", "ffn='mlp' in arch"),
    (re.compile(r'backbone\.layers\.\d+\.attn\.[qk]_norm'), 'qk_norm=True', 'qk_norm=False'),
)


def _remedies(
    different: list[str],
    lacking: list[str],
    surplus: list[str],
    tensors: dict[str, Tensor],
    parameters: dict[str, nn.Parameter],
) -> list[str]:
    """List the options of the backbone that would make it fit, as far as they are known."""
    options = []
    for pattern, present, absent in _OPTIONS:
        for names, option, others in ((surplus, present, parameters), (lacking, absent, tensors)):
            # If the other side has some of them, it only has fewer blocks.
            if any(map(pattern.match, names)) and not any(map(pattern.match, others)):
                options.append(option)
                names[:] = [name for name in names if not pattern.match(name)]
    registers = tensors.get('backbone.register_tokens')
    options = [option.format(0 if registers is None else registers.shape[1]) for option in options]
    remedies = [f'Build the backbone with {", ".join(options)}, as in the file'] if options else []
    if not (lacking or surplus) and _same_but_grid(different, tensors, parameters):
        return [
            *remedies,
            "The grid of the file's position embeddings is unknown: set img_size "
            'of the backbone to the size that they were trained for',
        ]
    if lacking or surplus or any(name.startswith('backbone.') for name in different):
        remedies.append(f"Set the size of the backbone to the file's: {_stated_size(tensors)}")
    return remedies


def _stated_size(tensors: dict[str, Tensor]) -> str:
    """Format ``arch`` and ``patch_size`` of the network in a file, as far as its tensors tell."""
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
    different: list[str], tensors: dict[str, Tensor], parameters: dict[str, nn.Parameter]
) -> bool:
    """Tell whether the backbones differ only in the number of position embeddings."""
    name = 'backbone.pos_embed'
    return [other for other in different if other.startswith('backbone.')] == [name] and (
        tensors[name].shape[2:] == parameters[name].shape[2:]
    )


def _describe(tensors: dict[str, Tensor]) -> str:
    patch = tensors.get('backbone.patch_embed.projection.weight')
    blocks = {name.split('.')[2] for name in tensors if name.startswith('backbone.layers.')}
    width: tuple = tuple(patch.shape) if patch is not None and patch.ndim == 4 else ('?',) * 3
    return (
        f'a ViT of width {width[0]}, {len(blocks)} blocks, patch {width[2]}, '
        f'{width[1]} input channels'
    )
