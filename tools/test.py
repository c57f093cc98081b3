"""Test a trained model of MMSegmentation, MMDetection or MMPretrain.

    python tools/test.py configs/downstream/ade20k_upernet.py work_dirs/.../iter_160000.pth
    tools/dist_test.sh configs/downstream/ade20k_upernet.py work_dirs/.../iter_160000.pth 8
"""
import argparse
from pathlib import Path
from typing import List, Optional

from mmengine.config import Config

from cotap_mm.arguments import Parser
from cotap_mm.command_line import tool
from cotap_mm.engine import launch, run_config


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument('config', help='config file, e.g. configs/downstream/ade20k_upernet.py')
    parser.add_argument('checkpoint', help='what training with this config has saved')
    run_config.add_common_arguments(parser)
    return parser.parse_args(argv)


def build_config(args: argparse.Namespace) -> Config:
    config = run_config.load_config(args.config)
    if run_config.is_pretraining(config):
        raise ValueError(f'{args.config} is for pre-training and has no test of its own; its '
                         'features are measured with a config of configs/downstream, or with '
                         'cotap_mm.evaluation.dense_retrieval')
    if not Path(args.checkpoint).is_file():
        raise FileNotFoundError(f'checkpoint {args.checkpoint} is not a file')
    config.model.backbone.init_cfg = None  # all weights come from the checkpoint
    config.load_from = args.checkpoint
    return run_config.finish_config(config, args)


@tool
def main(argv: Optional[List[str]] = None) -> None:
    args = parse_args(argv)
    launch.test(launch.build_runner(args, lambda: build_config(args)))


if __name__ == '__main__':
    main()
