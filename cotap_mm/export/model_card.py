"""Model card of a published network: README.md with the header of the Hugging Face hub."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Optional

import mmengine
from mmengine.config import Config

from cotap_mm.files.atomic_write import printable
from cotap_mm.version import __version__
from cotap_mm.weights.named.licenses import KnownWeights, find_known_weights

from .hf_models import hf_model
from .known_weights import hub_license, hub_name
from .provenance import Provenance
from .reported_results import ReportedResult, model_index, results_table

PAPER = 'https://arxiv.org/abs/2509.09429'
_SIZES = {192: 'Ti', 384: 'S', 768: 'B', 1024: 'L', 1280: 'H'}
_LIBRARIES = {'hf': 'transformers', 'timm': 'timm'}


@dataclass(frozen=True)
class CardContent:
    """What a model card states.

    Attributes:
        name (str): Title.
        where (str): Argument that loads the network: ``USER/REPO``, or a folder.
        is_on_hub (bool): Whether ``where`` is on the hub.
        library (str): ``'hf'`` or ``'timm'``.
        license (str): Identifier or name of the license.
        architecture (dict): See :func:`cotap_mm.weights.architecture.architecture_of`.
        is_cotap (bool): Whether CoTAP has trained the network.
        has_norm (bool): Whether there is a norm after the last block.
        network (str): ``'student'``, ``'teacher'``, or ``''`` if there is only one.
        sha256 (str): Hash of the weights.
        provenance (Provenance): How the network was trained.
        results (list[ReportedResult]): Scores.
        notes (list[str]): Where the other library computes other features.
    """

    name: str
    where: str
    is_on_hub: bool
    library: str
    license: str
    architecture: dict[str, Any]
    is_cotap: bool
    has_norm: bool
    network: str
    sha256: str
    provenance: Provenance
    results: list[ReportedResult] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def initial_weights(self) -> Optional[KnownWeights]:
        """The initial weights, if their license is known."""
        return find_known_weights(self.provenance.init)

    @property
    def has_filter(self) -> bool:
        """Whether the network has an object-aware filter."""
        return bool(self.architecture['use_filter'])

    @property
    def size(self) -> str:
        """The usual name of the architecture, such as ``ViT-S/16``."""
        width = self.architecture['arch']['embed_dims']
        size = f'ViT-{_SIZES[width]}' if width in _SIZES else f'ViT of width {width}, patch size '
        patch = self.architecture['patch_size']
        return f'{size}/{patch}' if width in _SIZES else f'{size}{patch}'


def model_card(card: CardContent) -> str:
    """Write a model card.

    Args:
        card (CardContent): What it states.

    Returns:
        str: Markdown with a header in YAML.
    """
    header = mmengine.dump(_header(card), file_format='yaml', sort_keys=False, allow_unicode=True)
    sections = [
        f'# {_text(card.name)}',
        _summary(card),
        *('## Use', _own_snippet(card), _other_snippet(card)),
        *('## Training', _table([['', ''], *_training_rows(card)])),
    ]
    if card.results:
        note = 'Percent, measured by `cotap evaluate`; settings and images are those of its files.'
        sections += ['## Results', _table(results_table(card.results)), note]
    sections += ['## License', _license(card)]
    if card.provenance.config:
        text = Config(card.provenance.config).pretty_text.strip()
        sections += [
            '## Configuration',
            f'<details><summary>training config</summary>\n\n```python\n{text}\n```\n\n</details>',
        ]
    return f'---\n{header}---\n\n' + '\n\n'.join(sections) + '\n'


def _header(card: CardContent) -> dict[str, Any]:
    header: dict[str, Any] = dict(
        **hub_license(card.license),
        library_name=_LIBRARIES[card.library],
        pipeline_tag='image-feature-extraction',
        tags=['vision', 'self-supervised', 'dense-features', 'cotap_mm'],
    )
    if card.is_cotap:
        header['tags'] += ['cotap', 'arxiv:2509.09429']
    base = hub_name(card.provenance.init)
    if base:
        header.update(base_model=base, base_model_relation='finetune')
    index = model_index(card.name, card.results)
    if index:
        header['model-index'] = index
    return header


def _summary(card: CardContent) -> str:
    if not card.is_cotap:
        return f'{card.size} for dense image features, converted by cotap_mm {__version__}.'
    what = ', with its object-aware filter' if card.has_filter else ''
    return (
        f'{card.size} for dense image features without labels, trained with [CoTAP]({PAPER}){what}.'
    )


def _own_snippet(card: CardContent) -> str:
    where = f'hf:{card.where}' if card.is_on_hub else card.where
    channels = '2d' if card.has_filter else 'd'
    return (
        '```python\n'
        'import cotap_mm\n\n'
        f'encoder = cotap_mm.load({where!r})\n'
        f"cls, patches = encoder.encode('photo.jpg')  # (1, {channels}) and (1, {channels}, h, w)\n"
        '```\n\n'
        'As initial weights of MMSegmentation or MMDetection:\n\n```bash\n'
        f'cotap train configs/downstream/ade20k_upernet.py --init {where}\n```'
    )


def _other_snippet(card: CardContent) -> str:
    """How to load the ViT with the library that reads the folder."""
    registers = card.architecture.get('num_registers', 0)
    tokens = (
        f'(B, {1 + registers} + N, d): CLS, {registers} registers, patches'
        if registers
        else '(B, 1 + N, d): CLS, then patches'
    )
    if card.library == 'timm':
        name = f'hf-hub:{card.where}' if card.is_on_hub else f'local-dir:{card.where}'
        code = (
            'import timm\n\n'
            f'model = timm.create_model({name!r}, pretrained=True).eval()\n'
            f'tokens = model.forward_features(images)  # {tokens}'
        )
    else:
        model = hf_model(card.architecture)
        norm = f'model.{model.norm} = torch.nn.Identity()  # CoTAP has none\n'
        pooling = ', add_pooling_layer=False' if model.name == 'ViTModel' else ''
        code = (
            ('' if card.has_norm else 'import torch\n')
            + 'from transformers import AutoModel\n\n'
            + f'model = AutoModel.from_pretrained({card.where!r}{pooling}).eval()\n'
            + ('' if card.has_norm else norm)
            + f'tokens = model(images).last_hidden_state  # {tokens}'
        )
    what = ', without the object-aware filter' if card.has_filter else ''
    return (
        f'The same ViT{what}, with {_LIBRARIES[card.library]} alone. `images` are normalized as in '
        f'`preprocessor_config.json`, shape (B, 3, H, W):\n\n```python\n{code}\n```'
        + ''.join(f'\n\n{note[0].upper()}{note[1:]}.' for note in card.notes)
    )


def _training_rows(card: CardContent) -> list[list[str]]:
    arch, known, facts = card.architecture['arch'], card.initial_weights, card.provenance
    init = 'random weights' if facts.init == 'none' else facts.init or 'not recorded'
    rows = [
        ['architecture', f'{card.size}, {arch["num_layers"]} blocks, {arch["num_heads"]} heads'],
        *([['network', card.network]] if card.network else []),
        ['initial weights', f'{known.name}: {init}' if known else init],
        ['training images', ', '.join(facts.data) or 'not recorded'],
    ]
    for title, value in (
        ('iterations', facts.iterations),
        ('epochs', facts.epochs),
        ('images seen', facts.images_seen),
        ('GPUs or processes', facts.gpus),
        ('images per GPU', facts.batch_size),
        ('seed', facts.seed),
    ):
        if value is not None:
            rows.append([title, f'{value:,}' if title != 'seed' else str(value)])
    versions = ', '.join(f'{name} {version}' for name, version in facts.versions.items())
    rows += [
        *([['trained with', versions]] if versions else []),
        ['published with', f'cotap_mm {__version__}'],
        ['SHA-256 of the weights', f'`{card.sha256}`'],
    ]
    return rows


def _license(card: CardContent) -> str:
    known = card.initial_weights
    text = f'The weights are licensed under {_text(card.license)}.'
    if known:
        text += f' The initial weights are those of {known.name}, {known.license} ({known.source}).'
    return text


def _table(rows: list[list[str]]) -> str:
    lines = ['| ' + ' | '.join(map(_text, row)) + ' |' for row in rows]
    return '\n'.join([lines[0], '|' + '---|' * len(rows[0]), *lines[1:]])


def _text(text: str) -> str:
    """Escape what would break a line or a table."""
    return printable(text).replace('|', '\\|')
