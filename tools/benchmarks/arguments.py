"""Options of the benchmarks; ``tools/benchmark.py --help`` imports none of them."""

from __future__ import annotations

import argparse

from cotap_mm.command_line.arguments import (
    KeyValues,
    out_file,
    out_folder,
    positive_int,
    whole_number,
)
from cotap_mm.deprecation import warn_renamed

#: Old names of methods of the ranking loss.
RENAMED_METHODS = dict(pairs='pairwise', sums='sorted')


def add_loss(parser: argparse.ArgumentParser) -> None:
    """The ranking loss in its exact forms against the plain one that compares all pairs."""
    parser.add_argument(
        '--pairs',
        type=positive_int,
        nargs='+',
        default=[128, 256, 512, 1024, 4200, 50_000, 100_000, 200_000, 400_000, 1_000_000],
        help='lengths of the list',
    )
    parser.add_argument(
        '--methods',
        type=_method,
        nargs='+',
        default=['pairwise', 'sorted'],
        choices=['pairwise', 'compiled', 'sorted'],
    )
    parser.add_argument(
        '--longest-plain',
        type=whole_number(0),
        default=5000,
        help='longest list for the plain form, which needs 30 GB for 20000 pairs',
    )
    parser.add_argument(
        '--longest-pairs',
        type=whole_number(0),
        default=20_000,
        help='longest list for comparing all pairs',
    )
    parser.add_argument('--runs', type=positive_int, default=7)
    parser.add_argument(
        '--plot', type=out_file('.png'), help='PNG of the growth of time and memory'
    )


def _method(name: str) -> str:
    """Translate an old name of a method, with a warning."""
    if name in RENAMED_METHODS:
        warn_renamed(f'method={name!r}', f'method={RENAMED_METHODS[name]!r}')
    return RENAMED_METHODS.get(name, name)  # argparse reports the choices


def _add_steps(parser: argparse.ArgumentParser, text: str, steps: int, warmup: int) -> None:
    parser.add_argument('config')
    parser.add_argument('--batch-size', type=positive_int, default=2, help='images per branch')
    parser.add_argument('--steps', type=positive_int, default=steps, help=text)
    parser.add_argument('--warmup', type=whole_number(0), default=warmup)


def add_step(parser: argparse.ArgumentParser) -> None:
    """One training step against a restatement of the released one: time, memory, operations."""
    _add_steps(parser, 'measured steps', steps=5, warmup=2)
    parser.add_argument(
        '--dtype',
        default='auto',
        help='auto, bfloat16, float16 or float32; the '
        'restatement runs in float16 on a GPU and in float32 on a CPU',
    )
    parser.add_argument(
        '--compile',
        nargs='?',
        const='blocks',
        choices=['blocks', 'networks', 'graphs'],
        help='torch.compile blocks and heads, or whole forward passes, also as CUDA graphs '
        '(default: not; blocks without a value)',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=KeyValues,
        default={},
        help='config keys of our step, such as model.backbone.with_cp=True',
    )
    parser.add_argument(
        '--profile',
        type=whole_number(0),
        default=0,
        metavar='N',
        help='also name the N operators that take the most time',
    )
    parser.add_argument('--only', choices=['ours', 'released'], help='skip the other one')


def add_waits(parser: argparse.ArgumentParser) -> None:
    """How often the host waits for the GPU in training iterations that log nothing."""
    _add_steps(parser, 'traced iterations', steps=10, warmup=3)
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=KeyValues,
        default={},
        help='config keys, such as default_hooks.compile.type=CompileHook',
    )


def _add_images(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('images', nargs='?', help='folder of images (default: generated images)')
    parser.add_argument(
        '--size',
        type=positive_int,
        nargs=2,
        default=(480, 640),
        metavar=('H', 'W'),
        help='size of the generated images',
    )
    parser.add_argument('--count', type=positive_int, default=48, help='images')


def add_crops(parser: argparse.ArgumentParser) -> None:
    """Crops in the workers and on the device, compared with decoding alone."""
    _add_images(parser)
    parser.add_argument('--batch-size', type=positive_int, default=16, help='samples')
    parser.add_argument('--runs', type=positive_int, default=7)


def add_data(parser: argparse.ArgumentParser) -> None:
    """The data pipeline: images per second on one core, compared with a plain loader."""
    _add_images(parser)
    parser.add_argument(
        '--workers',
        type=whole_number(0),
        nargs='*',
        default=[0, 1, 2],
        help='processes of the loader to try',
    )
    parser.add_argument(
        '--prefetch',
        type=positive_int,
        nargs='+',
        default=[2, 4],
        help='batches that each of them reads ahead',
    )
    parser.add_argument('--batch-size', type=positive_int, default=8)
    parser.add_argument('--runs', type=positive_int, default=5)


def add_neighbors(parser: argparse.ArgumentParser) -> None:
    """The search for neighbors of images among global features, projected to more of them."""
    parser.add_argument('--images', type=positive_int, nargs='+', default=[25_000, 50_000, 100_000])
    parser.add_argument('--width', type=positive_int, default=384, help='channels; ViT-S has 384')
    parser.add_argument(
        '--target',
        type=positive_int,
        default=1_281_167,
        help='images to project to; ImageNet-1k has %(default)s',
    )
    parser.add_argument('--ranks', type=positive_int, default=8, help='of the projection')
    parser.add_argument(
        '--at-once-up-to',
        type=whole_number(0),
        default=25_000,
        help='largest number of images for which the whole matrix is tried as well',
    )
    parser.add_argument('--runs', type=positive_int, default=3)


def add_eval(parser: argparse.ArgumentParser) -> None:
    """Dense retrieval's search, in blocks, against one matrix of all similarities."""
    parser.add_argument(
        '--memory',
        type=positive_int,
        nargs='+',
        default=[10_000, 40_000, 100_000],
        help='labelled patches',
    )
    parser.add_argument('--queries', type=positive_int, default=5000, help='patches to be labelled')
    parser.add_argument('--width', type=positive_int, default=768, help='channels')
    parser.add_argument(
        '--share-of',
        metavar='CONFIG',
        help='measure instead which share of its training the evaluations of a config take, e.g. '
        'configs/cotap/demo.py (default: measure the search)',
    )
    parser.add_argument('--runs', type=positive_int, default=5)


def add_operators(parser: argparse.ArgumentParser) -> None:
    """The stand-in for MMCV's operators, against the compiled ones where there are any."""
    parser.add_argument('--operators', nargs='+', metavar='NAME', help='default: all')
    parser.add_argument('--runs', type=positive_int, default=7)


def add_transfer(parser: argparse.ArgumentParser) -> None:
    """A downstream config from several starts, with several seeds."""
    parser.add_argument('config')
    parser.add_argument(
        '--variant',
        action='append',
        nargs='+',
        required=True,
        metavar=('NAME', 'KEY=VALUE'),
        help='init=FILE or init=none ({seed} '
        'in FILE is the seed), and config keys that this start needs',
    )
    parser.add_argument('--metric', default='mIoU', help='as the log calls it')
    parser.add_argument('--seeds', type=whole_number(0), nargs='+', default=[0, 1, 2])
    parser.add_argument('--work-dir', type=out_folder, help='work_dirs/transfer/CONFIG by default')


def add_ratios(parser: argparse.ArgumentParser) -> None:
    """Ratios of CPU time to bounds and to other implementations, and what became worse."""
    parser.add_argument(
        '--only', nargs='+', metavar='NAME', help='ratios to measure (default: all)'
    )
    parser.add_argument('--runs', type=positive_int, default=5, help='turns of both sides')
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        '--record',
        action='store_true',
        help='append the ratios to --history and write them into --page (default: only print)',
    )
    what.add_argument(
        '--check',
        action='store_true',
        help='end with status 1 if a ratio is worse than its last record by more than 10%% and '
        'more than both spread (default: only print)',
    )
    parser.add_argument('--history', default='benchmarks/history.jsonl', help='records of ratios')
    parser.add_argument('--page', default='docs/performance.md', help='page with their table')


#: Name of the benchmark, which is also that of its module -> function that adds its options.
KINDS = dict(
    loss=add_loss,
    step=add_step,
    waits=add_waits,
    data=add_data,
    crops=add_crops,
    neighbors=add_neighbors,
    eval=add_eval,
    ratios=add_ratios,
    operators=add_operators,
    transfer=add_transfer,
)
