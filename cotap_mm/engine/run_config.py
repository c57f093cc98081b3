"""A config, and what command-line options change in it."""
import argparse
from pathlib import Path
from typing import Optional

import torch
from mmengine.config import Config, DictAction
from mmengine.registry import init_default_scope

from cotap_mm.datasets import image_source
from cotap_mm.engine.backbones import set_backbones_init
from cotap_mm.engine.config_check import check_overrides


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Options that training and testing share."""
    parser.add_argument('--work-dir', help='logs and checkpoints; work_dirs/CONFIG by default')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction,
                        help='override config keys: key=value ...')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)


def finish_config(config: Config, args: argparse.Namespace) -> Config:
    """Put what :func:`add_common_arguments` has read into a config; it wins over all else."""
    config.launcher = args.launcher
    config.work_dir = args.work_dir or config.get('work_dir') or str(
        Path('work_dirs') / Path(args.config).stem)
    if args.cfg_options:
        check_overrides(config, args.cfg_options)
        config.merge_from_dict(args.cfg_options)
    return config


def load_config(name: str) -> Config:
    """Read a config by path, or by its path or name inside the installed package.

    Args:
        name (str): E.g. ``configs/cotap/vits_folder.py``, or ``vits_folder``.

    Returns:
        Config: The config; its default scope is active.

    Raises:
        FileNotFoundError: If there is none; the known ones are listed.
    """
    package = Path(__file__).resolve().parents[1]
    shipped = [package / '.mim', package.parent]
    folders = ('cotap', 'downstream')
    places = [Path(name), *(top / name for top in shipped)]
    if Path(name).name == name:
        places += [top / 'configs' / folder / f'{Path(name).stem}.py' for top in shipped
                   for folder in folders]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        known = {folder: sorted({file.stem for top in shipped
                                 for file in (top / 'configs' / folder).glob('*.py')})
                 for folder in folders}
        raise FileNotFoundError(f'config {name} does not exist; there are ' + ' and '.join(
            f'configs/{folder}/{{{", ".join(names)}}}.py' for folder, names in known.items()))
    config = Config.fromfile(path)
    init_default_scope(config.get('default_scope', 'cotap_mm'))
    return config


def is_pretraining(config: Config) -> bool:
    """Whether a config pre-trains with CoTAP, or else uses the result in another library."""
    return config.get('default_scope', 'cotap_mm') == 'cotap_mm'


def set_images(config: Config, images: str, cls_images: Optional[str] = None,
               neighbors: Optional[str] = None, cls_neighbors: Optional[str] = None) -> None:
    """Train on other folders than the config's.

    Args:
        config (Config): Changed in place.
        images (str): For the patch branch, and for CLS if ``cls_images`` is None: folder,
            list of images, or packed file.
        cls_images (str, optional): Likewise for the CLS branch.
        neighbors (str, optional): Neighbour file of ``images``; built if None.
        cls_neighbors (str, optional): Neighbour file of ``cls_images``; built if None.
    """
    dataset = config.train_dataloader.dataset
    dataset.patch = image_source(images)
    dataset.neighbors = neighbors or 'auto'
    dataset.cls = image_source(cls_images) if cls_images else None
    dataset.cls_neighbors = (cls_neighbors or 'auto') if cls_images else None


def set_init(config: Config, checkpoint: str, trust: bool = False) -> None:
    """Start from another checkpoint, or from random weights for ``'none'``.

    Downstream it is the backbone that starts from it.
    """
    init_cfg = None if checkpoint == 'none' else dict(
        type='cotap_mm.PretrainedViT', checkpoint=checkpoint, trust=trust)
    if is_pretraining(config):
        config.model.init_cfg = init_cfg
    elif not set_backbones_init(config.model, init_cfg):
        raise ValueError(f'--init: the model {config.model.get("type")} has no backbone that '
                         'could start from a checkpoint; set init_cfg in its config')


def set_seed(config: Config, seed: int) -> None:
    """Draw everything from ``seed``; the config's other ``randomness`` keys stay."""
    config.randomness = dict(config.get('randomness', {}), seed=seed)


def set_mixed_precision(config: Config) -> None:
    """bf16 where the device has it, else fp16; on a CPU bf16."""
    config.optim_wrapper.type = 'cotap_mm.MixedPrecisionOptimWrapper'
    config.optim_wrapper.dtype = 'auto' if torch.cuda.is_available() else 'bfloat16'
