"""Benchmarks: what a part of CoTAP costs, and what a pre-trained backbone is worth downstream.

    python tools/benchmark.py loss --pairs 4200 100000
    python tools/benchmark.py step configs/cotap/vits_coco.py --batch-size 28 --device cuda
    python tools/benchmark.py data IMAGES
    python tools/benchmark.py neighbors
    python tools/benchmark.py transfer configs/downstream/camvid_linear.py \\
        --variant random init=none --variant filter init=work_dirs/camvid_toy/iter_300.pth

loss: the ranking loss in its exact forms against the plain one that compares all pairs.
step: one step on random images, against a plain restatement of the released one. Queues are filled
before measuring, since their length sets the cost of the assignments. An image counts once in each
branch that reads it.
data: one core from an image file to its crops, against decoding alone and a plain loader; then the
workers of a loader.
neighbors: the search for the images that look alike, projected to ImageNet.
eval: the search of dense retrieval.
transfer: trains a downstream config from several starts, with several seeds, and prints a table.
A run that is finished already is not repeated.

Candidates of one table took turns in one run, so their ratios hold on a busy machine; timings of
different runs do not compare. Results: docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
from typing import Optional

from benchmarks import data, eval, loss, neighbors, step, transfer

from cotap_mm.command_line.arguments import Parser, add_device, out_file
from cotap_mm.command_line.tool import short_errors, tool

KINDS = dict(loss=loss, step=step, data=data, neighbors=neighbors, eval=eval, transfer=transfer)


def parse_args(argv: Optional[list[str]] = None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    kinds = parser.add_subparsers(dest='kind', required=True)
    for name, kind in KINDS.items():
        own = kinds.add_parser(name, help=kind.__doc__)
        kind.add_arguments(own)
        if name != 'transfer':
            add_device(own)
            own.add_argument('--json', type=out_file(), help='also write the results to this file')
    return parser.parse_args(argv)


@tool
def main(argv: Optional[list[str]] = None) -> None:
    args = parse_args(argv)
    with short_errors():
        KINDS[args.kind].run(args)


if __name__ == '__main__':
    main()
