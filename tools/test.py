"""Test a trained model of MMSegmentation, MMDetection or MMPretrain.

    python tools/test.py configs/downstream/ade20k_upernet.py work_dirs/.../iter_160000.pth
    tools/dist_test.sh configs/downstream/ade20k_upernet.py work_dirs/.../iter_160000.pth 8
"""
import argparse
import os
import sys
from pathlib import Path
from typing import List, Optional

from mmengine.config import Config, DictAction
from mmengine.runner import Runner

from cotap_mm.engine import launch


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file, e.g. configs/downstream/ade20k_upernet.py')
    parser.add_argument('checkpoint', help='what training with this config has saved')
    parser.add_argument('--work-dir', help='logs; work_dirs/CONFIG by default')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction,
                        help='override config keys: key=value ...')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    return parser.parse_args(argv)


def build_config(args: argparse.Namespace) -> Config:
    config = launch.load_config(args.config)
    if launch.is_pretraining(config):
        raise ValueError(f'{args.config} is for pre-training and has no test of its own; its '
                         'features are measured with a config of configs/downstream, or with '
                         'cotap_mm.evaluation.dense_retrieval')
    if not Path(args.checkpoint).is_file():
        raise FileNotFoundError(f'checkpoint {args.checkpoint} is not a file')
    config.model.backbone.init_cfg = None  # all weights come from the checkpoint
    config.load_from = args.checkpoint
    config.launcher = args.launcher
    config.work_dir = args.work_dir or str(Path('work_dirs') / Path(args.config).stem)
    if args.cfg_options:
        config.merge_from_dict(args.cfg_options)
    return config


def main(argv: Optional[List[str]] = None) -> None:
    args = parse_args(argv)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    try:
        config = build_config(args)
        launch.start_processes(config)
        runner = Runner.from_cfg(config)
    except (FileNotFoundError, ValueError, ImportError) as error:
        if os.environ.get('COTAP_TRACEBACK'):
            raise
        sys.exit(f'error: {error}\n(COTAP_TRACEBACK=1 shows where)')
    runner.test()


if __name__ == '__main__':
    main()
