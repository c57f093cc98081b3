"""Checked arguments of the command-line tools."""

from __future__ import annotations

import os

import pytest
import torch

from cotap_mm.command_line import tool as command_line
from cotap_mm.command_line.arguments import (
    KeyValues,
    Parser,
    add_device,
    device,
    out_file,
    out_folder,
    out_path,
    positive_float,
    whole_number,
)


@pytest.fixture
def refusal(capsys):
    """Function that returns the error message of a parser for wrong arguments."""

    def refuse(*arguments, **options):
        parser = Parser(prog='some_tool')
        parser.add_argument('config', nargs='?')
        parser.add_argument('--images')
        parser.add_argument('--kind', choices=['pca', 'clusters'])
        parser.add_argument('--set', nargs='+', action=KeyValues)
        for name, kind in options.items():
            parser.add_argument(f'--{name}', type=kind)
        with pytest.raises(SystemExit) as exit_:
            parser.parse_args([str(argument) for argument in arguments])
        text = capsys.readouterr().err
        assert exit_.value.code == 2 and text.count('\n') == 1
        assert text.startswith('some_tool: error: ')
        return text

    return refuse


def test_the_nearest_name_is_suggested(refusal):
    assert 'arguments: --imgaes (did you mean --images?)' in refusal('--imgaes', 'x')
    assert 'did you mean' not in refusal('--zebra')
    assert '(did you mean clusters?)' in refusal('--kind', 'cluster')
    assert 'did you mean' not in refusal('--kind', 'zebra')
    assert 'without an option this tool takes config' in refusal('a', 'b')


def test_an_empty_argument_is_not_the_current_folder(refusal):
    assert "argument 2, after '--images', is empty" in refusal('--images', '')
    assert 'argument 1 is empty' in refusal('')


@pytest.mark.parametrize(
    'text, message',
    [
        ('x', "must be KEY=VALUE, got 'x'"),
        ('=1', "got '=1'"),
        ('a=[1', 'unbalanced'),
        ('a=(1,2', 'unbalanced'),
        ('a=dict(1)', 'a: expected a dict of numbers, strings, lists and dicts, such as dict('),
        ('a=dict(b=open(1))', 'a: expected a dict of numbers'),
        ('a=dict(b=c)', "got 'dict(b=c)'"),
        ('a=dict(**x)', "got 'dict(**x)'"),
        ('a={1: 2}', "got '{1: 2}'"),
        ('a={1, 2}', "got '{1, 2}'"),
    ],
)
def test_malformed_key_value_pairs(refusal, text, message):
    assert message in refusal('--set', 'b=1', text)


def test_valid_key_value_pairs():
    parser = Parser()
    parser.add_argument('--set', nargs='+', action=KeyValues)
    values = parser.parse_args(['--set', 'a=1', 'b.c=[1,(2,x)]', 'd==', 'e=1e-3']).set
    assert values == {'a': 1, 'b.c': [1, (2, 'x')], 'd': '=', 'e': 1e-3}
    words = ['--set', "f=dict(a=1, b=dict(c=[-1.5, 'x'], d=None))", "g={'h': (True,)}", 'f=2']
    assert parser.parse_args(words).set == {'f': 2, 'g': {'h': (True,)}}
    assert parser.parse_args(words[:2]).set == {'f': dict(a=1, b=dict(c=[-1.5, 'x'], d=None))}


def test_key_value_pairs_of_a_repeated_option():
    parser = Parser()
    parser.add_argument('--set', nargs='+', action=KeyValues, default=dict(z=0))
    assert parser.parse_args([]).set == dict(z=0)
    given = ['--set', 'a=1', 'b=2', '--set', 'b=None', 'c=true']
    assert parser.parse_args(given).set == dict(z=0, a=1, b=None, c=True)
    assert parser.parse_args([]).set == dict(z=0)


@pytest.mark.parametrize('own', [False, True])
def test_the_device_is_checked_last(capsys, monkeypatch, own):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    parser = top = Parser(prog='some_tool')
    if own:
        parser = top.add_subparsers(dest='kind').add_parser('kind')
    add_device(parser)
    words = ['kind'] * own
    assert top.parse_args(words).device == 'cpu'
    assert top.parse_args([*words, '--device', 'cpu:0']).device == 'cpu:0'
    for given, said in (
        (['--device', 'gpu'], "error: argument --device: must be cpu, cuda or cuda:N, got 'gpu'; "),
        (['--device', 'cuda'], 'argument --device: cuda needs a GPU, but PyTorch finds none; '),
        (['--device', 'gpu', '--bogus'], 'error: unrecognized arguments: --bogus; '),
    ):
        with pytest.raises(SystemExit) as end:
            top.parse_args([*words, *given])
        assert end.value.code == 2 and said in capsys.readouterr().err
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    assert top.parse_args(words).device == 'cuda'


@pytest.mark.parametrize(
    'kind, text',
    [
        (whole_number(1), '0'),
        (whole_number(1), '1.0'),
        (whole_number(1), 'nan'),
        (whole_number(1), ' '),
        (whole_number(0, 65535), '65536'),
        (whole_number(0, 65535), '-1'),
        (positive_float, 'nan'),
        (positive_float, 'inf'),
        (positive_float, '0'),
        (positive_float, 'x'),
        (device, 'gpu'),
        (device, 'cuda:99'),
        (device, 'meta'),
        (device, 'cpu:x'),
    ],
)
def test_values_out_of_range(refusal, kind, text):
    assert repr(text) in refusal(f'--x={text}', x=kind) or text in refusal(f'--x={text}', x=kind)


def test_unwritable_outputs(refusal, tmp_path, monkeypatch):
    (tmp_path / 'file').write_text('x')
    for kind in (out_folder, out_file(), out_path):
        assert f'{tmp_path}/file is a file; choose another' in refusal(
            f'--x={tmp_path}/file/y/z', x=kind
        )
        assert 'too long' in refusal(f'--x={tmp_path}/{"x" * 300}/y', x=kind)
    assert 'is a file; choose a folder' in refusal(f'--x={tmp_path}/file', x=out_folder)
    assert 'is a folder' in refusal(f'--x={tmp_path}', x=out_file())
    assert 'must end in .npz or .npy' in refusal(f'--x={tmp_path}/a', x=out_file('.npz', '.npy'))
    monkeypatch.setattr(os, 'access', lambda *_: False)  # a read-only file system
    assert 'is not writable' in refusal(f'--x={tmp_path}/new/a', x=out_folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['file']


def test_valid_values(tmp_path):
    assert (whole_number(0)('0'), positive_float('1e-3'), device('cpu')) == (0, 1e-3, 'cpu')
    for kind in (out_folder, out_path):
        assert kind(str(tmp_path / 'new/folder')) == str(tmp_path / 'new/folder')
    assert out_file('.npz')(str(tmp_path / 'new/a.npz')).endswith('a.npz')
    assert command_line.describe_environment().startswith('python 3')
