from __future__ import annotations

import pytest

from cotap_mm.command_line.checkpoint_names import named_checkpoints


@pytest.mark.parametrize(
    'arguments, titles',
    [
        (['runs/a/iter_300.pth'], ['iter_300']),
        (['runs/a/iter_300.pth', 'runs/b/iter_300.pth'], ['a/iter_300', 'b/iter_300']),
        (['random:runs/a/last.pth', 'runs/a/last.pth'], ['random last', 'last']),
        (['timm:vit_small_patch16_224.dino'], ['vit_small_patch16_224.dino']),
        (['random:timm:vit_tiny'], ['random vit_tiny']),
        (['https://host/folder/weights.pth?a=b'], ['weights']),
        (['cotap_mm://toy_vit.pth'], ['toy_vit']),
        (['hf:user/cotap.s16'], ['cotap.s16']),
        (['hf:user/repo@v1.0', 'random:hf:user/repo'], ['repo@v1.0', 'random repo']),
        (['hf:user/repo/best.pth', 'hf:a/repo', 'hf:b/repo'], ['best', 'a/repo', 'b/repo']),
        (['before=runs/a.pth', 'after 3=timm:x'], ['before', 'after 3']),
        (['runs/lr=0.1/a.pth'], ['a']),
    ],
)
def test_short_titles(arguments, titles):
    found = named_checkpoints(arguments)
    assert list(found) == titles
    for argument, checkpoint in zip(arguments, found.values()):
        assert argument.endswith(checkpoint)


def test_equal_titles_are_rejected():
    with pytest.raises(ValueError, match="two checkpoints are called 'a'; write NAME=y"):
        named_checkpoints(['a=x', 'a=y'])


def test_an_existing_file_may_have_an_equals_sign(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'lr=1.pth').touch()
    assert named_checkpoints(['lr=1.pth']) == {'lr=1': 'lr=1.pth'}
    assert named_checkpoints(['lr=2.pth']) == {'lr': '2.pth'}
