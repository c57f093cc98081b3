"""Choose the number of steps of a training, and adapt what depends on it."""

from __future__ import annotations

from mmengine.config import Config

from .recipe import Recipe

# The paper visits each image of COCO 227 times: 240,000 steps of 112 of 118,287 images.
_VISITS = 200
_FEWEST_UPDATES = 2_000
_FASTEST_TEACHER = 0.98
_TEACHER_NOTE = 'the teacher follows faster, in proportion to the shorter training'


def choose_length(config: Config, images: int, per_step: int, notes: list[str]) -> int:
    """Number of steps of ``per_step`` images."""
    usual = config.train_cfg.max_iters * batch_of(config)
    fewest = _FEWEST_UPDATES * images_per_update(config)
    iterations = max(_rounded_down(min(usual, max(_VISITS * images, fewest)) / per_step), 1)
    notes.append(
        f'{iterations:,} steps visit each image {iterations * per_step / images:,.0f} times '
        f'(rule of thumb: {_VISITS} times, as in the paper, but at least {_FEWEST_UPDATES:,} steps '
        'of the optimizer, and not more than the config)'
    )
    return iterations


def limit_hours(recipe: Recipe, config: Config, hours: float) -> None:
    """Shorten a training that would take longer, by its highest estimate.

    Args:
        recipe (Recipe): Changed in place.
        config (Config): Config that it was proposed for.
        hours (float): Largest duration.
    """
    if recipe.hours[1] <= hours:
        return
    before, longest = recipe.iterations, recipe.hours[1]
    set_length(recipe, config, _rounded_down(hours * 3600 / recipe.seconds[1]))
    recipe.notes.append(
        f'{before:,} steps would take up to {longest:,.1f} hours; {recipe.iterations:,} fit into '
        f'{hours:g}'
    )
    if recipe.iterations < _FEWEST_UPDATES * recipe.accumulation / 4:
        recipe.notes.append('so few steps hardly change the features')


def set_length(recipe: Recipe, config: Config, iterations: int) -> None:
    """Set the number of steps; a teacher of a much shorter training follows faster.

    The teacher averages the student over a number of steps that then remains the same share of
    the training.

    Args:
        recipe (Recipe): Changed in place.
        config (Config): Config that it was proposed for.
        iterations (int): Number of steps; rounded up to whole optimizer steps.
    """
    counts = recipe.accumulation
    recipe.iterations = max(-(-iterations // counts) * counts, counts)
    options = recipe.options
    options.pop('train_cfg.max_iters', None)
    if recipe.iterations != config.train_cfg.max_iters:
        options['train_cfg.max_iters'] = recipe.iterations
    usual = config.train_cfg.max_iters * batch_of(config) / images_per_update(config)
    shorter = usual / (recipe.iterations / counts)
    teacher = (config.get('default_hooks') or {}).get('teacher') or {}
    for key in ('start', 'end') if teacher else ():
        options.pop(f'default_hooks.teacher.{key}', None)
        if shorter > 2:
            value = max(1 - shorter * (1 - teacher[key]), _FASTEST_TEACHER)
            options[f'default_hooks.teacher.{key}'] = round(value, 5)
    if _TEACHER_NOTE in recipe.notes:
        recipe.notes.remove(_TEACHER_NOTE)
    if teacher and shorter > 2:
        recipe.notes.append(_TEACHER_NOTE)


def images_per_update(config: Config) -> int:
    """Images of one optimizer step of a config on the GPUs that it was made for."""
    counts = config.optim_wrapper.get('accumulative_counts', 1)
    return max(batch_of(config), config.train_dataloader.batch_size * counts)


def batch_of(config: Config) -> int:
    """Images of one step of a config on the GPUs that it was made for."""
    scale = config.get('auto_scale_lr') or {}
    return scale.get('base_batch_size') or config.train_dataloader.batch_size


def _rounded_down(number: float) -> int:
    """Two significant digits, rounded down."""
    number = int(number)
    unit = 10 ** max(len(str(number)) - 2, 0)
    return number // unit * unit
