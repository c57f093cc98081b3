r"""Benchmark parts of CoTAP, and the transfer of a pre-trained backbone to downstream tasks.

    python tools/benchmark.py loss --pairs 4200 100000
    python tools/benchmark.py step configs/cotap/vits_coco.py --batch-size 28 --device cuda
    python tools/benchmark.py waits configs/cotap/vits_coco.py --batch-size 28 --device cuda
    python tools/benchmark.py data IMAGES
    python tools/benchmark.py crops IMAGES --device cuda
    python tools/benchmark.py neighbors
    python tools/benchmark.py operators
    python tools/benchmark.py ratios --check
    python tools/benchmark.py transfer configs/downstream/camvid_linear.py \
        --variant random init=none --variant filter init=work_dirs/camvid_toy/iter_300.pth

loss: the exact forms of the ranking loss, and the plain form that compares all pairs.
step: one step on random images, compared with a plain version of the released step. Queues are
filled before measuring, since their length determines the cost of the assignments. An image counts
once per branch that reads it.
waits: whole iterations of a training with its hooks, on random crops: how often the host waits for
the GPU, in a trace of PyTorch's profiler.
data: from an image file to its crops on one core, compared with decoding alone and a plain loader;
then a loader with workers.
crops: processor time of a worker that crops and of one that only decodes, compared with decoding
alone; then the time of the crops on the device. An image counts once per branch that reads it.
neighbors: the nearest-neighbor search over images, extrapolated to ImageNet.
eval: the nearest-neighbor search of dense retrieval; or, with --share-of CONFIG, which share of the
CPU time of a training its evaluations take, from 20 steps and two evaluations.
operators: the stand-in for MMCV's operators, compared with the compiled ones if MMCV has them.
ratios: one number for each part, compared with the last record of benchmarks/history.jsonl.
transfer: trains a downstream config from several initial weights, with several seeds, and prints a
table. Finished runs are not repeated.

The candidates of one table are interleaved in one run, so their ratios are valid on a busy machine;
timings of different runs are not comparable. Results: docs/benchmarks.md.
"""

from __future__ import annotations

import early_stop  # noqa: F401  (before imports that take seconds)

import argparse
import importlib
from typing import Optional

from benchmarks.arguments import KINDS

from cotap_mm.command_line.arguments import Parser, add_device, out_file
from cotap_mm.command_line.tool import report_user_errors, slow_imports, tool


def parse_args(argv: Optional[list[str]] = None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    kinds = parser.add_subparsers(dest='kind', required=True)
    for name, add_arguments in KINDS.items():
        own = kinds.add_parser(name, help=add_arguments.__doc__)
        add_arguments(own)
        if name not in ('ratios', 'transfer'):
            add_device(own)
            own.add_argument('--json', type=out_file(), help='also write the results to this file')
    return parser.parse_args(argv)


@tool
def main(argv: Optional[list[str]] = None) -> None:
    args = parse_args(argv)
    with slow_imports():
        kind = importlib.import_module(f'benchmarks.{args.kind}')
    with report_user_errors():
        kind.run(args)


if __name__ == '__main__':
    main()
