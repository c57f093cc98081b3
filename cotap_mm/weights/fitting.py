"""Putting renamed tensors into a model, or refusing to."""
from dataclasses import dataclass, field
from typing import Dict, List, Tuple

import torch
from torch import Tensor, nn

from cotap_mm.ops import resize_position_embedding


@dataclass
class LoadReport:
    """What became of each tensor of a checkpoint.

    Attributes:
        source (str): Family of names that was recognised.
        loaded (list[str]): Our names of the tensors that were loaded.
        missing (list[str]): Parameters of the model that stayed as initialised.
        unexpected (list[str]): Tensors of the file that nothing knows.
        dropped (list[str]): Tensors that the model has no place for by design.
        resized (list[str]): Loaded after resizing (position embeddings).
    """
    source: str
    loaded: List[str] = field(default_factory=list)
    missing: List[str] = field(default_factory=list)
    unexpected: List[str] = field(default_factory=list)
    dropped: List[str] = field(default_factory=list)
    resized: List[str] = field(default_factory=list)

    def __str__(self) -> str:
        def few(names: List[str]) -> str:
            more = f', ... {len(names) - 3} more' if len(names) > 3 else ''
            return f'{len(names)} ({", ".join(names[:3])}{more})' if names else 'none'

        return (f'weights of {self.source!r}: loaded {len(self.loaded)} tensors; stayed as '
                f'initialised {few(self.missing)}; unexpected {few(self.unexpected)}; not needed '
                f'{few(self.dropped)}; resized {few(self.resized)}')


def fit(model: nn.Module, tensors: Dict[str, Tensor], report: LoadReport) -> None:
    """Copy tensors in our layout into a model.

    Args:
        model (nn.Module): A CoTAP algorithm, or a ViT (with or without ``neck``).
        tensors (dict[str, Tensor]): In the layout of the algorithm.
        report (LoadReport): Filled here.

    Raises:
        ValueError: If the backbone does not fit; the model is unchanged then.
    """
    own = {name: value for name, value in model.state_dict(keep_vars=True).items()
           if isinstance(value, nn.Parameter)}
    is_algorithm = any(name.startswith('backbone.') for name in own)
    backbone = model.backbone if is_algorithm else model
    targets = {(name if is_algorithm or name.startswith('neck.') else 'backbone.' + name): value
               for name, value in own.items()}
    targets = {name: value for name, value in targets.items()
               if name.startswith(('backbone.', 'neck.', 'head.'))}
    tensors = dict(tensors)
    _resize(tensors, targets, backbone, report)
    _place(tensors, targets, report)
    _refuse_bad_fit(tensors, targets, report)
    with torch.no_grad():
        for name in report.loaded:
            targets[name].copy_(tensors[name])


def _resize(tensors: Dict[str, Tensor], targets: Dict[str, Tensor], backbone: nn.Module,
            report: LoadReport) -> None:
    name = 'backbone.pos_embed'
    if name not in tensors or name not in targets or tensors[name].shape == targets[name].shape:
        return
    extra = backbone.num_extra_tokens
    side = round((tensors[name].shape[1] - extra)**0.5)
    fits = tensors[name].ndim == 3 and tensors[name].shape[2] == targets[name].shape[2]
    if fits and extra + side * side == tensors[name].shape[1]:
        tensors[name] = resize_position_embedding(tensors[name], (side, side),
                                                  tuple(backbone.patch_resolution), extra)
        report.resized.append(name)


def _place(tensors: Dict[str, Tensor], targets: Dict[str, Tensor], report: LoadReport) -> None:
    for name in tensors:
        if name in targets:
            report.loaded.append(name)
        elif name.startswith(('neck.', 'head.')) or name in ('backbone.ln1.weight',
                                                             'backbone.ln1.bias'):
            report.dropped.append(name)  # a bare ViT, or one without a final norm
        else:
            report.unexpected.append(name)
    report.missing.extend(name for name in targets if name not in tensors)


def _refuse_bad_fit(tensors: Dict[str, Tensor], targets: Dict[str, Tensor],
                    report: LoadReport) -> None:
    different = [(name, tuple(tensors[name].shape), tuple(targets[name].shape))
                 for name in report.loaded if tensors[name].shape != targets[name].shape]
    problems = []
    if different:
        shown = '; '.join(f'{n} is {a} in the file and {b} in the model'
                          for n, a, b in different[:3])
        problems.append(f'{len(different)} shapes differ: {shown}')
    lacking = [name for name in report.missing if name.startswith('backbone.')]
    if lacking:
        problems.append(f'the file lacks {len(lacking)} tensors of the backbone: '
                        f'{", ".join(lacking[:3])}')
    surplus = [name for name in report.unexpected if name.startswith('backbone.')]
    if surplus:
        problems.append(f'the backbone has no place for {len(surplus)} tensors: '
                        f'{", ".join(surplus[:3])}')
    if problems:
        in_file, in_model = (_describe(names) for names in (tensors, targets))
        raise ValueError(f'checkpoint does not fit (names of {report.source!r}): '
                         f'{"; ".join(problems)}. The file holds {in_file}, the model is '
                         f'{in_model}; set arch and patch_size of the backbone to the file\'s')


def _describe(tensors: Dict[str, Tensor]) -> str:
    patch = tensors.get('backbone.patch_embed.projection.weight')
    blocks = {name.split('.')[2] for name in tensors if name.startswith('backbone.layers.')}
    width: Tuple = tuple(patch.shape) if patch is not None else ('?', '?', '?')
    return (f'a ViT of width {width[0]}, {len(blocks)} blocks, patch {width[2]}, '
            f'{width[1]} input channels')
