"""Check that a checkpoint fits the network that loads it.

MMEngine skips what does not fit with a warning, and trains random weights in its place.
"""

from __future__ import annotations

from typing import Any

from torch import Size, nn

from cotap_mm.distributed.fsdp import original_shape, plain_parameters
from cotap_mm.distributed.model_wrapper import unwrap

#: Parts of models that :func:`check_start` checks.
_NETWORKS = ('backbone.', 'teacher.backbone.')


def check_shapes(model: nn.Module, checkpoint: dict[str, Any]) -> None:
    """Check that a checkpoint to resume is one of this network.

    The optimizer would continue with other shapes.

    Args:
        model (nn.Module): Wrapped or not.
        checkpoint (dict): Training checkpoint.

    Raises:
        ValueError: If a parameter has another shape in the checkpoint.
    """
    state = checkpoint.get('state_dict', {})
    wrong = [
        (name, tuple(state[name].shape), tuple(shape))
        for name, shape in _shapes(model).items()
        if name in state and state[name].shape != shape
    ]
    if wrong:
        (name, before, now), others = wrong[0], len(wrong) - 1
        more = f', and {others} more differ' if others else ''
        raise ValueError(
            f'the run to resume trained another network: {name} has shape {before} in its '
            f'checkpoint, but {now} with this config{more}. Resume with the config in its work '
            'folder, or start a new run from these weights with --init CHECKPOINT --work-dir FOLDER'
        )


def check_start(model: nn.Module, checkpoint: dict[str, Any], source: str) -> None:
    """Check that a checkpoint to start from has most weights of the backbone.

    A few may be missing or have other shapes, such as position embeddings, which are resized. The
    names are checked in pre-training only, since networks of other libraries may rename them.

    Args:
        model (nn.Module): Wrapped or not.
        checkpoint (dict): Checkpoint, or only its state dict.
        source (str): Path of the checkpoint, for the message.

    Raises:
        ValueError: If half of the parameters of a backbone, or more, cannot be loaded.
    """
    stored = checkpoint.get('state_dict', checkpoint)
    state = {name.removeprefix('module.'): value for name, value in stored.items()}
    shapes = _shapes(model)
    for network in _NETWORKS:
        wanted = {name: shape for name, shape in shapes.items() if name.startswith(network)}
        missing = [name for name in wanted if name not in state]
        other = [name for name in wanted if name in state and state[name].shape != wanted[name]]
        of = f'of {len(wanted)} parameters of {network[:-1]}'
        if other and 2 * len(other) >= len(wanted):
            before, now = tuple(state[other[0]].shape), tuple(wanted[other[0]])
            raise ValueError(
                f'load_from={source} is of another network: {len(other)} {of} have other shapes: '
                f'{other[0]} has shape {before} in it, but {now} with this config. Set '
                'model.backbone to that network; in pre-training, --init FILE does so'
            )
        if missing and 2 * len(missing) >= len(wanted) and hasattr(unwrap(model), 'teacher'):
            raise ValueError(
                f'load_from={source} must be a checkpoint of a pre-training with this network, but '
                f'{len(missing)} {of} are missing, the first is {missing[0]}; start from other '
                'weights with --init FILE'
            )


def _shapes(model: nn.Module) -> dict[str, Size]:
    """Shapes of all parameters without FSDP."""
    return {name: original_shape(param) for name, param in plain_parameters(model).items()}
