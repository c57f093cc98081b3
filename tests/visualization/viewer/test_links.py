"""Link to a state of the viewer's page, and the command of its figure."""

from __future__ import annotations

import shlex

import pytest

from cotap_mm.cli.visualize import parse_args
from cotap_mm.visualization.errors import NotAvailable
from cotap_mm.visualization.viewer.links import (
    KINDS,
    MOST_LETTERS,
    FigureCommand,
    View,
    file_name,
    read_link,
    write_link,
)
from cotap_mm.visualization.viewer.modes import MODES
from cotap_mm.visualization.viewer.sheet import Point

NAMES = ['a.png', 'b & c/d=1.png', 'ünï.png', 'z.png']
DEFAULT = View([0, 3], 'similarity', 0, 8, Point(0, 0.5, 0.5))
GRID = (4, 6)


def test_a_link_restores_the_state():
    view = View([1, 2], 'clusters', 3, 12, Point(1, 0.99, 0.3))
    link = write_link(view, NAMES, GRID)
    assert link.isascii() and ' ' not in link
    found = read_link(link, NAMES, GRID, DEFAULT)
    assert found._replace(point=view.point) == view
    assert found.point.slot == 1 and found.point.patch(GRID) == view.point.patch(GRID) == (1, 5)


def test_images_are_found_by_name_and_shown_in_order():
    link = write_link(View([1, 3], 'norms', 0, 8, Point(1, 0, 0)), NAMES, GRID)
    more = ['0.png', *NAMES]
    assert read_link(link, more, GRID, DEFAULT).chosen == [2, 4]
    found = read_link('image=z.png&image=a.png&on=0&row=1&column=2', NAMES, GRID, DEFAULT)
    assert found.chosen == [0, 3] and found.point.slot == 1  # z.png
    twice = read_link('image=z.png&image=z.png&on=1', NAMES, GRID, DEFAULT)
    assert twice.chosen == [3] and twice.point.slot == 0


def test_patch_of_another_grid_is_at_the_same_location():
    link = write_link(View([0], 'similarity', 0, 8, Point(0, 0.6, 0.6)), NAMES, (4, 6))
    assert read_link(link, NAMES, (8, 12), DEFAULT).point.patch((8, 12)) in ((4, 6), (5, 7))
    outside = read_link('on=9&row=99&column=99', NAMES, GRID, DEFAULT).point
    assert outside.slot == 1 and outside.patch(GRID) == (3, 5)


def test_missing_parts_have_defaults():
    assert read_link('', NAMES, GRID, DEFAULT) == DEFAULT
    assert read_link('narrow=1', NAMES, GRID, DEFAULT) == DEFAULT
    assert read_link('mode=norms', NAMES, GRID, DEFAULT) == DEFAULT._replace(mode='norms')


@pytest.mark.parametrize(
    'text, message',
    [
        ('image=nothing.png', 'nothing.png, which is not among the images'),
        ('row=-1', 'row in the link must be a number'),
        ('on=1e9', 'on in the link must be a number'),
        ('clusters=9999999', 'clusters in the link must be a number'),
        ('prototype=%C2%B2', 'prototype in the link must be a number'),  # a superscript 2
        ('row=1&grid=0x4', 'must be ROWSxCOLUMNS'),
        ('row=1&grid=4', 'must be ROWSxCOLUMNS'),
        ('&'.join(['image=a.png'] * 101), 'more than 100 parts'),
        ('x' * (MOST_LETTERS + 1), f'more than {MOST_LETTERS} characters'),
    ],
)
def test_bad_links_are_explained(text, message):
    with pytest.raises(NotAvailable, match=message):
        read_link(text, NAMES, GRID, DEFAULT)


def test_chosen_networks_are_in_link_and_command():
    view = DEFAULT._replace(networks=('after',))
    link = write_link(view, NAMES, GRID)
    assert link.endswith('&network=after')
    assert read_link(link, NAMES, GRID, DEFAULT).networks == ('after',)
    assert read_link('', NAMES, GRID, view).networks == ()
    files = dict(before='a.pth', after='b.pth')
    command = FigureCommand(files, 'photos', (32, 48), dict(before=(2, 3), after=(4, 6)))
    view = view._replace(point=Point(0, 0.99, 0.99))
    args = parse_args(shlex.split(command(view, NAMES))[2:])
    assert args.checkpoints == ['after=b.pth'] and args.patch == [[0, 3, 5]]  # on its own grid
    args = parse_args(shlex.split(command(view._replace(networks=()), NAMES))[2:])
    assert args.checkpoints == ['before=a.pth', 'after=b.pth'] and args.patch == [[0, 1, 2]]


def test_command_draws_the_same_figure():
    command = FigureCommand(
        {'before': '/home/me/a b.pth', 'after': 'timm:vit_small_patch16_224.dino'},
        '/home/me/photos',
        (32, 48),
        {'before': (2, 3), 'after': (2, 3)},
        ['--output', 'backbone'],
    )
    line = command(View([1, 3], 'clusters', 0, 5, Point(1, 0.9, 0.1)), NAMES)
    assert '/home' not in line
    program, name, *words = shlex.split(line)
    assert (program, name) == ('cotap', 'visualize')
    args = parse_args(words)
    assert args.checkpoints == ['before=a b.pth', 'after=timm:vit_small_patch16_224.dino']
    assert args.images == 'photos' and args.select == ['b & c/d=1.png', 'z.png']
    assert args.patch == [[1, 0, 2]] and args.kinds == ['clusters'] and args.clusters == 5
    assert args.size == [32, 48] and args.output == 'backbone'


def test_every_mode_has_a_kind():
    command = FigureCommand({'a': 'a.pth'}, 'photos', (32, 48), {'a': (2, 3)})
    assert set(KINDS) == set(MODES)
    for mode in MODES:
        view = View([0], mode, 0, 8, Point(0, 0, 0))
        parse_args(shlex.split(command(view, NAMES))[2:])


@pytest.mark.parametrize(
    'text, name',
    [
        ('/a/b/c.pth', 'c.pth'),
        ('random:/a/b/c.pth', 'random:c.pth'),
        ('random:timm:vit', 'random:timm:vit'),
        ('hf:user/repo', 'hf:user/repo'),
        ('cotap_mm://toy_vit.pth', 'cotap_mm://toy_vit.pth'),
        ('https://host/private/c.pth?token=secret#x', 'c.pth'),
        ('/a/b/', 'b'),
        ('.', '.'),
    ],
)
def test_paths_are_removed(text, name):
    assert file_name(text) == name
