"""Registries of cotap_mm, scope ``cotap_mm``.

They are direct children of MMEngine's root registries, so that ``type='cotap_mm.DINOViT'``
resolves from configs of MMPretrain, MMSegmentation and MMDetection without ``custom_imports``.
Keep this file free of other imports: MMEngine imports it by itself and hides an ImportError raised
here with the message "X is not in the registry".
"""

from __future__ import annotations

import inspect
from typing import Any

from mmengine import registry as root

_MODEL_LOCATIONS = ['cotap_mm.models']
_DATA_LOCATIONS = ['cotap_mm.datasets']
_ENGINE_LOCATIONS = ['cotap_mm.engine', 'cotap_mm.evaluation']


def _child(kind: str, parent: root.Registry, locations: list) -> root.Registry:
    return root.Registry(kind, parent=parent, scope='cotap_mm', locations=locations)


MODELS = _child('model', root.MODELS, _MODEL_LOCATIONS)
WEIGHT_INITIALIZERS = _child('weight initializer', root.WEIGHT_INITIALIZERS, ['cotap_mm.weights'])
DATASETS = _child('dataset', root.DATASETS, _DATA_LOCATIONS)
TRANSFORMS = _child('transform', root.TRANSFORMS, _DATA_LOCATIONS)
FUNCTIONS = _child('function', root.FUNCTIONS, _DATA_LOCATIONS)
DATA_SAMPLERS = _child('data sampler', root.DATA_SAMPLERS, _DATA_LOCATIONS)
HOOKS = _child('hook', root.HOOKS, _ENGINE_LOCATIONS)
LOOPS = _child('loop', root.LOOPS, _ENGINE_LOCATIONS)
METRICS = _child('metric', root.METRICS, ['cotap_mm.evaluation'])
OPTIM_WRAPPER_CONSTRUCTORS = _child(
    'optimizer wrapper constructor', root.OPTIM_WRAPPER_CONSTRUCTORS, _ENGINE_LOCATIONS
)
OPTIMIZERS = _child('optimizer', root.OPTIMIZERS, _ENGINE_LOCATIONS)
OPTIM_WRAPPERS = _child('optimizer wrapper', root.OPTIM_WRAPPERS, _ENGINE_LOCATIONS)
PARAM_SCHEDULERS = _child('parameter scheduler', root.PARAM_SCHEDULERS, _ENGINE_LOCATIONS)
MODEL_WRAPPERS = _child('model_wrapper', root.MODEL_WRAPPERS, _ENGINE_LOCATIONS)
STRATEGIES = _child('strategy', root.STRATEGIES, _ENGINE_LOCATIONS)
VISUALIZERS = _child('visualizer', root.VISUALIZERS, [])
VISBACKENDS = _child('vis_backend', root.VISBACKENDS, [])


def build(registry: root.Registry, cfg: dict, **defaults):
    """Build an object from its config in the scope of cotap_mm, whatever scope the run has.

    So a CoTAP inside an MMSegmentation config may write ``type='DINOViT'`` for its parts.

    Args:
        registry (Registry): A registry of this module.
        cfg (dict): Config with ``type``.
        **defaults: Arguments that ``cfg`` may override.

    Returns:
        object: The object.
    """
    return registry.build({'_scope_': 'cotap_mm', **defaults, **cfg})


def option_of(registry: root.Registry, cfg: dict, name: str) -> Any:
    """Value of an option in the config of a part, else the default of the part's class.

    Args:
        registry (Registry): One of this module's.
        cfg (dict): Config with ``type``.
        name (str): Argument of the class's constructor.

    Returns:
        object: The value that :func:`build` would use.

    Raises:
        TypeError: If ``cfg`` does not set the option and the class has no default for it.
    """
    if name in cfg:
        return cfg[name]
    kind = cfg['type']
    return default_of(kind if inspect.isclass(kind) else registry.get(kind), name)


def default_of(cls: type, name: str) -> Any:
    """Default of an argument of a class's constructor, or of a parent's constructor.

    Args:
        cls (type): A class whose constructor passes its ``**kwargs`` on to its parent, if any.
        name (str): The argument.

    Raises:
        TypeError: If there is no such argument, or it has no default.
    """
    for base in cls.__mro__:
        if '__init__' in vars(base):
            parameter = inspect.signature(vars(base)['__init__']).parameters.get(name)
            if parameter is not None and parameter.default is not parameter.empty:
                return parameter.default
    raise TypeError(f'{cls.__name__} has no default for the option {name!r}')
