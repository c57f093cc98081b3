"""Test-time augmentation, saved predictions and pictures for ``cotap test``."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Optional

from mmengine.config import Config, ConfigDict

from cotap_mm.datasets.wrapped import inner_datasets
from cotap_mm.distributed.model_wrapper import unwrap
from cotap_mm.engine.backbones import wrapper_and_model
from cotap_mm.evaluation.presence_metric import ClassPresence
from cotap_mm.weights.reading import read_checkpoint

#: Library -> hook that draws, visualizer, config of the model that merges augmented predictions.
_LIBRARIES: dict[str, tuple[str, str, dict]] = {
    'mmseg': ('SegVisualizationHook', 'SegLocalVisualizer', dict(type='SegTTAModel')),
    'mmdet': (
        'DetVisualizationHook',
        'DetLocalVisualizer',
        dict(
            type='DetTTAModel',
            tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100),
        ),
    ),
    'mmpretrain': (
        'VisualizationHook',
        'UniversalVisualizer',
        dict(type='mmpretrain.AverageClsScoreTTA'),
    ),
}
_SAVING = ('IoUMetric', 'CityscapesMetric', 'DepthMetric')  # metrics with an output_dir


def keep_test_only(config: Config, name: str) -> None:
    """Remove the training and validation parts of a config, whose data may be unavailable.

    Args:
        config (Config): Changed in place.
        name (str): Name of the config, for messages.

    Raises:
        ValueError: If test_dataloader, test_evaluator or test_cfg is missing.
    """
    missing = [
        key for key in ('test_dataloader', 'test_evaluator', 'test_cfg') if config.get(key) is None
    ]
    if missing:
        raise ValueError(
            f'{name} has no {", ".join(missing)}, required for testing; often they are '
            'the same as for validation: test_dataloader = val_dataloader'
        )
    for key in (
        'train_dataloader',
        'train_cfg',
        'optim_wrapper',
        'param_scheduler',
        'val_dataloader',
        'val_cfg',
        'val_evaluator',
    ):
        config[key] = None


def draw_predictions(
    config: Config, folder: Optional[str], show: bool = False, wait_time: float = 2
) -> None:
    """Draw the prediction of every image with the library's visualization hook.

    Args:
        config (Config): Changed in place.
        folder (str, optional): Folder for the pictures; None saves none.
        show (bool): Whether to show them in a window. Defaults to False.
        wait_time (float): Seconds for which each one is shown. Defaults to 2.

    Raises:
        ValueError: If ``folder`` is a file, or the library of the config is unknown.
    """
    hook_type, visualizer, _ = _library(config, '--show-dir')
    hooks = config.setdefault('default_hooks', ConfigDict())
    hook = hooks.setdefault('visualization', ConfigDict(type=hook_type))
    hook.update(show=show, wait_time=wait_time, interval=1)
    path = None if folder is None else str(Path(folder).resolve())
    if path is not None and Path(path).exists() and not Path(path).is_dir():
        raise ValueError(f'--show-dir {folder} must be a folder, got a file')
    config.setdefault(
        'visualizer',
        ConfigDict(type=visualizer, name='visualizer', vis_backends=[dict(type='LocalVisBackend')]),
    )
    if config.default_scope == 'mmpretrain':  # its hook draws the model's input batch
        hook.update(enable=True, out_dir=path)
        return
    hook.update(draw=True)
    if config.default_scope == 'mmdet':
        hook.update(test_out_dir=path)
    elif path is not None:
        config.visualizer.save_dir = path


def augment(config: Config) -> None:
    """Test with test-time augmentation: the config's own, else horizontal flips.

    Args:
        config (Config): Changed in place: the model is wrapped unless it is already, and the
            test pipelines are replaced.

    Raises:
        ValueError: If the pipeline cannot be augmented.
    """
    default_model = _library(config, '--tta')[2]
    inner = inner_datasets(config.test_dataloader.dataset)
    has_wrapper = bool(wrapper_and_model(config.model)[0])
    if not has_wrapper:
        wrapper = dict(config.get('tta_model') or default_model)
        config.model = ConfigDict({**wrapper, 'module': config.model})
    for dataset in inner:
        if config.get('tta_pipeline'):
            dataset.pipeline = copy.deepcopy(config.tta_pipeline)
        elif not any(_name(step) == 'TestTimeAug' for step in dataset.get('pipeline') or ()):
            dataset.pipeline = flipped(dataset.get('pipeline') or [])


def flipped(pipeline: list[dict]) -> list[dict]:
    """Add a flipped view to a test pipeline.

    Args:
        pipeline (list): Steps for one view; the last one is a ``Pack...`` step.

    Returns:
        list: Pipeline that ends with TestTimeAug. Labels are loaded after the flip, so they
        are not flipped; predictions are flipped back.

    Raises:
        ValueError: If the last step is not a ``Pack...`` step.
    """
    steps = [dict(step) for step in copy.deepcopy(pipeline)]
    if not steps or not _name(steps[-1]).startswith('Pack'):
        raise ValueError(
            '--tta needs a test pipeline that ends with a Pack... step, got '
            f'{[_name(step) for step in steps]}; add a tta_pipeline to the config'
        )
    labels = [step for step in steps if _name(step) == 'LoadAnnotations']
    packed = steps[-1]
    if 'meta_keys' in packed:
        packed['meta_keys'] = tuple(dict.fromkeys((*packed['meta_keys'], 'flip', 'flip_direction')))
    elif _name(packed) == 'PackDetInputs':
        packed['meta_keys'] = (
            'img_id',
            'img_path',
            'ori_shape',
            'img_shape',
            'scale_factor',
            'flip',
            'flip_direction',
        )
    before = [step for step in steps[:-1] if step not in labels]
    flips = [dict(type='RandomFlip', prob=1.0), dict(type='RandomFlip', prob=0.0)]
    views = [flips, *([each] for each in labels), [packed]]
    return [*before, dict(type='TestTimeAug', transforms=views)]


def save_predictions(config: Config, path: str) -> None:
    """Let MMSegmentation's metrics save predictions; check the file name for other libraries.

    Args:
        config (Config): Changed in place.
        path (str): A folder for MMSegmentation, a pickle file for other libraries.

    Raises:
        ValueError: If the path is not of that kind, or no metric can save predictions.
    """
    if config.default_scope != 'mmseg':
        if Path(path).suffix not in ('.pkl', '.pickle'):
            raise ValueError(
                f'--out must end with .pkl or .pickle for {config.default_scope}, got {path}'
            )
        if not Path(path).resolve().parent.is_dir():
            Path(path).resolve().parent.mkdir(parents=True)
        return
    if Path(path).exists() and not Path(path).is_dir() or Path(path).suffix == '.pkl':
        raise ValueError(
            f'--out must be a folder for mmseg, which writes one PNG per image, got {path}'
        )
    metrics = config.test_evaluator
    metrics = metrics if isinstance(metrics, (list, tuple)) else [metrics]
    saving = [metric for metric in metrics if _name(metric) in _SAVING]
    if not saving:
        raise ValueError(
            f'--out needs one of the metrics {", ".join(_SAVING)} in test_evaluator, '
            f'got {", ".join(map(_name, metrics))}'
        )
    saving[0].output_dir = path


def require_all_weights(runner: Any) -> None:
    """Check that the checkpoint of a Runner has every weight of its model.

    MMEngine only warns of missing weights, and tests with random ones.

    Args:
        runner (Runner): Ready to test.

    Raises:
        ValueError: If a weight is missing.
    """
    checkpoint = runner._load_from
    content = read_checkpoint(checkpoint)
    stored = {name.removeprefix('module.') for name in content.get('state_dict', content)}
    wanted = [name.removeprefix('module.') for name, _ in unwrap(runner.model).named_parameters()]
    missing = [name for name in wanted if name not in stored]
    if missing:
        raise ValueError(
            f'{checkpoint} does not fit the config: {len(missing)} of {len(wanted)} weights are '
            f'missing, the first is {missing[0]}; pass a checkpoint that training with this '
            'config has saved'
        )


def test(runner: Any, out: Optional[str] = None) -> dict[str, float]:
    """Test, save predictions, and warn about classes that do not occur in the labels.

    Args:
        runner (Runner): Ready to test.
        out (str, optional): Pickle file for predictions; MMSegmentation ignores it, see
            :func:`save_predictions`.

    Returns:
        dict: Scores.

    Raises:
        MeaninglessScore: After the test, if too few classes occur in the labels for meaningful
            scores.
    """
    metrics = runner.test_evaluator.metrics
    scope = runner.cfg.get('default_scope')
    if out and scope == 'mmdet':
        from mmdet.evaluation import DumpDetResults

        metrics.append(DumpDetResults(out_file_path=out))
    elif out and scope != 'mmseg':
        from mmengine.evaluator import DumpResults

        metrics.append(DumpResults(out_file_path=out))
    presence = ClassPresence()
    presence.dataset_meta = runner.test_evaluator.dataset_meta
    metrics.append(presence)
    scores = runner.test()
    presence.report()
    return scores


def _library(config: Config, option: str) -> tuple[str, str, dict]:
    if config.get('default_scope') not in _LIBRARIES:
        raise ValueError(
            f'{option} supports {", ".join(_LIBRARIES)}, got a config with '
            f'default_scope={config.get("default_scope")!r}'
        )
    return _LIBRARIES[config.default_scope]


def _name(part: Any) -> str:
    """Type of a config, without its scope."""
    kind = part.get('type') if isinstance(part, dict) else part
    return (kind if isinstance(kind, str) else getattr(kind, '__name__', '')).split('.')[-1]
