"""Proposals fit the machine and the images, and can be trained."""

from __future__ import annotations

import pytest

from cotap_mm.cli.train import parse_args
from cotap_mm.command_line.config_file import load_config
from cotap_mm.planning.devices import Device
from cotap_mm.planning.length import images_per_update, limit_hours
from cotap_mm.planning.propose import propose


@pytest.fixture(scope='module')
def folder_config():
    return load_config('vits_folder')


def test_a_small_gpu_accumulates(folder_config, survey, gpu):
    recipe, cost = propose(folder_config, 'vits_folder', survey(), gpu(4))
    assert recipe.accumulation > 1 and recipe.images_per_update == pytest.approx(32, abs=3)
    assert cost.memory(recipe.batch) < 0.85 * 4 * 2**30
    assert 'model.backbone.with_cp' not in recipe.options


def test_a_large_gpu_does_not_accumulate(folder_config, survey, gpu):
    recipe, _ = propose(folder_config, 'vits_folder', survey(), gpu(80))
    assert (recipe.batch, recipe.accumulation) == (32, 1)
    assert recipe.options['model.backbone.with_cp'] is False
    assert recipe.options['optim_wrapper.accumulative_counts'] == 1
    assert 'activations are not recomputed' in ' '.join(recipe.notes)


def test_several_gpus_share_the_batch(folder_config, survey, gpu):
    recipe, _ = propose(folder_config, 'vits_folder', survey(), gpu(80, count=4))
    assert (recipe.batch, recipe.accumulation, recipe.gpus) == (8, 1, 4)
    recipe, _ = propose(folder_config, 'vits_folder', survey(), gpu(80, count=16))
    assert recipe.batch == 6, 'the ranking loss needs five negatives'


def test_few_images_and_little_memory(folder_config, survey, gpu):
    recipe, _ = propose(folder_config, 'vits_folder', survey(10), gpu(80))
    assert recipe.batch <= 10 and recipe.images_per_update == pytest.approx(32, abs=8)
    recipe, _ = propose(folder_config, 'vits_folder', survey(), gpu(1))
    assert recipe.batch == 1 and 'not even one image fits' in ' '.join(recipe.notes)
    assert 'fewer negatives' in ' '.join(recipe.notes)


def test_length_follows_the_number_of_images(folder_config, survey, gpu):
    def iterations(count):
        return propose(folder_config, 'vits_folder', survey(count), gpu(80))[0].iterations

    assert iterations(200) == 2000  # at least
    assert iterations(1000) == pytest.approx(200 * 1000 / 32, rel=0.1)
    assert iterations(10**6) == 25_000  # the images of the config, with a larger batch


def test_a_short_training_has_a_faster_teacher(folder_config, survey, gpu):
    recipe, _ = propose(folder_config, 'vits_folder', survey(200), gpu(80))
    # 12.5 times fewer optimizer steps than the config.
    assert recipe.options['default_hooks.teacher.start'] == pytest.approx(1 - 12.5 * 3e-4)
    assert recipe.options['default_hooks.teacher.end'] == pytest.approx(1 - 12.5 * 1e-4)
    recipe, _ = propose(folder_config, 'vits_folder', survey(10**6), gpu(80))
    assert not [key for key in recipe.options if 'teacher' in key]


def test_hours_limit_the_length(folder_config, survey, gpu):
    recipe, _ = propose(folder_config, 'vits_folder', survey(10**6), gpu(8, rate=1e13))
    before = recipe.hours[1]
    limit_hours(recipe, folder_config, before + 1)
    assert recipe.hours[1] == before
    limit_hours(recipe, folder_config, before / 10)
    assert before / 15 < recipe.hours[1] <= 1.01 * before / 10
    assert recipe.options['train_cfg.max_iters'] == recipe.iterations
    assert recipe.iterations % recipe.accumulation == 0
    assert recipe.options['default_hooks.teacher.start'] < 0.9997
    limit_hours(recipe, folder_config, before / 1000)
    assert 'hardly change' in recipe.notes[-1]


def test_the_loader_may_be_the_limit(folder_config, survey, gpu):
    fast, _ = propose(folder_config, 'vits_folder', survey(), gpu(80, rate=1e15))
    slow, _ = propose(folder_config, 'vits_folder', survey(), gpu(80, cores=1, rate=1e15))
    assert slow.workers == 1 and fast.workers == 8
    assert slow.seconds[0] == pytest.approx(4 * 32 * 0.002)
    assert fast.seconds[0] < slow.seconds[0]
    unknown, _ = propose(folder_config, 'vits_folder', survey(), gpu(80, rate=0))
    assert unknown.hours == (0, 0)


def test_small_images_get_smaller_crops(folder_config, survey, gpu):
    recipe, _ = propose(folder_config, 'vits_folder', survey(size=(64, 64)), gpu(80))
    assert (recipe.global_size, recipe.local_size) == (128, 48)

    assert recipe.options['train_dataloader.dataset.crops.global_size'] == 128
    assert recipe.options['model.pairs.pool_sizes'] == (4, 8)  # 8 x 8 patches of a global crop
    words = parse_args(recipe.arguments('images')).cfg_options
    assert words['model.pairs.pool_sizes'] == (4, 8)
    recipe, _ = propose(folder_config, 'vits_folder', survey(size=(20, 20)), gpu(80))
    assert recipe.global_size == 112
    recipe, _ = propose(folder_config, 'vits_folder', survey(size=(150, 150)), gpu(80))
    assert (recipe.global_size, recipe.local_size) == (224, 96)


def test_the_command_is_accepted_by_the_training(folder_config, survey, gpu):
    recipe, _ = propose(folder_config, 'vits_folder', survey(), gpu(24, count=2))
    words = recipe.arguments('my images', 'list.txt', (0, 4095))
    args = parse_args(words)
    assert args.images == 'my images' and args.ann_file == 'list.txt'
    assert args.value_range == [0, 4095] and args.launcher == 'pytorch'
    assert args.cfg_options['train_dataloader.batch_size'] == recipe.batch
    assert args.cfg_options['model.backbone.with_cp'] is False
    config = load_config('vits_folder')
    config.merge_from_dict(args.cfg_options)
    assert config.train_cfg.max_iters == recipe.iterations
    command = recipe.command(words)
    assert command.startswith('torchrun --nproc_per_node 2 -m cotap_mm train vits_folder')
    assert "--images 'my images'" in command


def test_every_config_and_the_cpu(survey):
    cpu = Device('cpu', 'C', 1, 20 * 2**30, 3e10, 'float32', 2)
    for name in ('raccoon_toy', 'demo', 'vitb8_coco-in1k', 'vits_coco'):
        config = load_config(name)
        recipe, _ = propose(config, name, survey(), cpu)
        assert recipe.gpus == 0 and recipe.command(['x']).startswith('cotap train')
        assert recipe.images_per_update >= images_per_update(config) * 0.8
        assert 0 < recipe.hours[0] < recipe.hours[1]
