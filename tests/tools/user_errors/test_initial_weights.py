"""Files of weights that ``cotap train --init`` refuses, as a user would meet them."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from tests.helpers.mistakes import write_everything
from tests.helpers.user_errors import check_user_error
from tests.models.backbones.test_families import authors_names, of_transformers, ours

TWO = '--cfg-options train_dataloader.batch_size=2'
#: File, more of the command line -> what the error says. Each states the way out.
REFUSED = [
    ('half', '', 'half/model-0000.*-of-.* is missing, .* download all files'),
    ('no_index', '', r'no_index has part . of . .*, but no \*.index.json; download all files'),
    ('int8', '', 'weights are quantized .*use the file that is not quantized'),
    ('text', '', 'no ViT found: this is a language model: .*; use a ViT as in'),
    ('no_registers', '', 'config states 4 registers, but the file has 0; .* Use the complete file'),
    ('scaled_rope', '', "only rope_theta .* got rope_type='yarn'; use a network"),
    ('no_mask.pth', '', 'a bias for keys, .*bias_mask; the file lacks these.* Use the complete'),
    ('dinov3_vits16_pretrain_x.pth', '', '4 registers, but the file has 0; .* Download the compl'),
    ('dinov2_vits14_reg4_pretrain.pth', '', '4 registers, but the file has 0; .* Download the co'),
    ('full', f'{TWO} model.backbone.rope.foo=1', r"option theta .*e.g. .*, got \['foo'\]"),
    ('full', f'{TWO} model.backbone.rope.theta=0', 'theta must be a number > 1, got 0'),
    (
        'of_patch_14',
        f'{TWO} train_dataloader.dataset.crops.global_size=225',
        'global_size=225 must be a multiple of model.backbone.patch_size=14, e.g. 224',
    ),
    (
        'of_patch_14',
        f'{TWO} train_dataloader.dataset.crops.global_size=112',
        r'pool_sizes=\(8, 16\) must be at most 8, .*, e.g. --cfg-options "model.*=\(4,8\)"',
    ),
]


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    """Made-up files; the tensors of all have the shapes of two networks of transformers."""
    pytest.importorskip('transformers')
    safetensors = pytest.importorskip('safetensors.torch')
    place = tmp_path_factory.mktemp('weights')
    write_everything(place)
    of_transformers('dinov3')[0].save_pretrained(place / 'full', max_shard_size='300KB')
    for name in ('half', 'no_index', 'scaled_rope'):
        shutil.copytree(place / 'full', place / name)
    max((place / 'half').glob('*.safetensors')).unlink()
    (place / 'no_index/model.safetensors.index.json').unlink()
    config = json.loads((place / 'full/config.json').read_text())
    config['rope_parameters'] = dict(rope_theta=100.0, rope_type='yarn')
    (place / 'scaled_rope/config.json').write_text(json.dumps(config))

    model = of_transformers('dinov2_reg')[0]
    model.save_pretrained(place / 'of_patch_14')
    state = safetensors.load_file(place / 'of_patch_14/model.safetensors')
    query = next(name for name in state if name.endswith('query.weight'))
    small = {query: state[query].char(), query.replace('weight', 'SCB'): torch.ones(128)}
    lost = {name: value for name, value in state.items() if 'register' not in name}
    words = {'bert.embeddings.word_embeddings.weight': torch.zeros(8, 4)}
    for name, tensors in (('int8', {**state, **small}), ('no_registers', lost), ('text', words)):
        (place / name).mkdir()
        shutil.copy(place / 'of_patch_14/config.json', place / name)
        safetensors.save_file(tensors, place / name / 'model.safetensors')
    torch.save(lost, place / 'dinov2_vits14_reg4_pretrain.pth')

    authors = authors_names(*ours(place / 'full'))
    for name, part in (
        ('no_mask.pth', 'bias_mask'),
        ('dinov3_vits16_pretrain_x.pth', 'storage_tokens'),
    ):
        torch.save({key: value for key, value in authors.items() if part not in key}, place / name)
    return place


@pytest.mark.parametrize('file, more, text', REFUSED, ids=[f'{row[0]} {row[1]}' for row in REFUSED])
def test_refused_with_the_reason(tools, place, capsys, file, more, text):
    arguments = f'vits_folder --images images --work-dir run --dry-run --init {file} {more}'
    check_user_error(tools('train').main, place, capsys, arguments, 1, text)
