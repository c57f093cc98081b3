"""Train CoTAP, or fine-tune its backbone with MMSegmentation, MMDetection or MMPretrain.

    cotap train configs/cotap/vits_folder.py --images DIR
    cotap train configs/cotap/vitb_coco.py --gpus 8
    cotap train configs/downstream/ade20k_upernet.py --gpus 8 --init work_dirs/.../iter_1.pth

The default_scope of the config determines the library. --resume continues from the last checkpoint
in the work folder; a run that torchrun or Slurm restarts resumes automatically. On Ctrl-C, a
training finishes its step, saves, prints how to resume, and exits with status 130; a second Ctrl-C
exits at once. SIGTERM and SIGUSR1 do the same with status 75. A training by epochs does not save
then, and resumes from its last checkpoint.
"""

from __future__ import annotations

import argparse
import sys
from typing import Optional

from cotap_mm.command_line.arguments import Parser, positive_int, whole_number
from cotap_mm.command_line.choices import INITS, LOGS
from cotap_mm.command_line.resume_command import resume_command
from cotap_mm.command_line.shared_options import (
    add_ann_file,
    add_run_options,
    add_trust,
    add_value_range,
)
from cotap_mm.command_line.tool import slow_imports, tool
from cotap_mm.deprecation import RenamedOption


def build_parser() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(description=__doc__)
    parser.add_argument('config', help='config file, e.g. configs/cotap/vits_folder.py')
    parser.add_argument(
        '--images',
        metavar='PATH',
        help='train on this folder of images (read recursively), '
        'text list, COCO json, packed file (*.lmdb), tar shards or their URI (default: '
        'those of the config)',
    )
    parser.add_argument(
        '--cls-images', metavar='PATH', help='images for the CLS branch (default: --images)'
    )
    add_ann_file(parser, '--images')
    parser.add_argument(
        '--cls-ann-file',
        metavar='FILE',
        help='text list or COCO json of the images in --cls-images (default: all)',
    )
    add_value_range(parser)
    parser.add_argument(
        '--neighbors', metavar='FILE', help='neighbor file of --images (default: computed)'
    )
    parser.add_argument(
        '--cls-neighbors', metavar='FILE', help='neighbor file of --cls-images (default: computed)'
    )
    parser.add_argument(
        '--init',
        metavar='CHECKPOINT',
        help='initial weights: a file, a URL, hf:USER/REPO, timm:NAME for a plain ViT of timm, a '
        f'short name ({", ".join(INITS)}), or none for random weights (default: those of the '
        'config)',
    )
    add_trust(parser, '--init')
    parser.add_argument(
        '--patch-size',
        type=positive_int,
        metavar='N',
        help='resize the patch embedding of --init to patches of N pixels (default: those of the '
        'checkpoint)',
    )
    parser.add_argument(
        '--trainable-blocks',
        type=whole_number(0, 1000),
        metavar='N',
        help='train only the last N blocks of the network, with filter and heads (default: all)',
    )
    parser.add_argument(
        '--lora',
        type=positive_int,
        metavar='RANK',
        help='freeze the network, except for --trainable-blocks, and train updates of this rank '
        '(LoRA); checkpoints hold the merged weights (default: none)',
    )
    parser.add_argument(
        '--resume', action='store_true', help='continue from the last checkpoint in the work folder'
    )
    parser.add_argument(
        '--overwrite',
        action='store_true',
        help='start a new run in a work folder with checkpoints of another run; replaces files '
        'of the same name',
    )
    parser.add_argument(
        '--force',
        action='store_true',
        help='train even if another process has locked the work folder',
    )
    parser.add_argument(
        '--dry-run',
        action='store_true',
        help='estimate the memory, then build everything, train a few steps, report time and '
        'memory, and write nothing',
    )
    parser.add_argument('--check', action=RenamedOption, new='--dry-run', value=True)
    parser.add_argument(
        '--amp',
        action='store_true',
        help='use mixed precision even if the config does not (bfloat16 on a CPU)',
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate with the number of images per step',
    )
    parser.add_argument(
        '--seed',
        type=whole_number(0, 2**32 - 1),
        metavar='N',
        help='random seed (default: that of the config)',
    )
    parser.add_argument(
        '--gpus',
        type=positive_int,
        metavar='N',
        help='train in N processes on this machine, one per GPU, or on CPUs if there is no GPU '
        '(default: one process)',
    )
    parser.add_argument(
        '--log',
        nargs='+',
        action='extend',
        choices=LOGS,
        metavar='WHERE',
        help=f'where to log metrics: {", ".join(LOGS)} (default: tensorboard if installed); '
        'they are also written to scalars.json',
    )
    add_run_options(parser)
    return parser


def parse_args(argv: Optional[list[str]] = None) -> argparse.Namespace:
    """Parse a command line; by default that of this process."""
    return build_parser().parse_args(argv)


@tool
def main(argv: Optional[list[str]] = None) -> None:
    """Run the command."""
    args = parse_args(argv)
    words = sys.argv[1:] if argv is None else argv
    args.resume_command = resume_command(words)
    if (args.gpus or 1) > 1 and args.launcher == 'none':
        with slow_imports():
            from cotap_mm.commands.processes import run_on_processes

        run_on_processes(words, args.gpus, args.resume_command)
        return
    with slow_imports():
        from cotap_mm.commands.train import build_config, print_memory
        from cotap_mm.engine.launch.commands import train_command

    train_command(args, lambda: build_config(args), before_build=print_memory)
