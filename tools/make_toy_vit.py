"""Make the toy ViT that the demo starts from: MMPretrain's SimCLR on one-object toy images.

    python tools/make_toy_vit.py --out cotap_mm/assets/toy_vit.pth

The result is in the repository; this is how it came about. The demo does not need it.
"""
import argparse
from pathlib import Path

from mmengine.config import Config, DictAction
from mmengine.runner import Runner
from PIL import Image

from cotap_mm.datasets import ToyScenes
from cotap_mm.weights import convert

_CONFIG = Path(__file__).resolve().parents[1] / 'configs' / 'toy_vit' / 'simclr.py'


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', default='work_dirs/toy_vit/toy_vit.pth',
                        help='file to write (default: %(default)s)')
    parser.add_argument('--work-dir', default='work_dirs/toy_vit',
                        help='images, logs and checkpoints (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='of all random draws')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={},
                        help='override config keys: key=value ...')
    return parser.parse_args()


def write_images(folder: Path, **toy_options) -> None:
    """Write toy images as PNG, since MMPretrain's data sets read files."""
    images = ToyScenes(**toy_options)
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(len(images)):
        Image.fromarray(images.read(index)).save(folder / f'{index:06d}.png')


def main() -> None:
    args = parse_args()
    config = Config.fromfile(_CONFIG)
    config.merge_from_dict(args.cfg_options)
    config.work_dir = args.work_dir
    config.randomness = dict(seed=args.seed)
    images = Path(args.work_dir) / 'images'
    config.train_dataloader.dataset.data_root = str(images)
    write_images(images, **config.toy_images)
    Runner.from_cfg(config).train()
    steps = config.train_cfg.max_iters
    report = convert(Path(args.work_dir) / f'iter_{steps}.pth', args.out, to='mmpretrain',
                     overwrite=True)
    print(f'wrote {args.out}: {report}')


if __name__ == '__main__':
    main()
