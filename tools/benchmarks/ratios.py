"""Ratios that say how far from a bound each part is, and their history."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional
from unittest import mock

import torch
from torch import Tensor

from cotap_mm.command_line.table import markdown_table
from cotap_mm.datasets import ImageList, search_neighbors
from cotap_mm.environment import environment_info
from cotap_mm.ops import nearest
from cotap_mm.ops.nearest import build_search

from . import crops, data, history, loss, measuring, startup, step

TOOLS = Path(__file__).resolve().parent.parent
_LOADER_TURNS = 3  # turns per run, since two processes share the machine with everything else
Work = Callable[[], Any]
Clock = Callable[[], float]
Measure = Callable[[Path, int], list[float]]


class Ratio(NamedTuple):
    """One ratio; smaller is better.

    Attributes:
        name (str): Key in the history.
        text (str): What is divided by what.
        goal (float, optional): Largest value that is aimed at.
        measure (callable): Gets a temporary folder and the number of runs; returns the ratio of
            each run.
        way (int): Number of the way in which it is measured. Raise it if that changes the value,
            since only values of the same way are compared. Defaults to 1.
    """

    name: str
    text: str
    goal: Optional[float]
    measure: Measure
    way: int = 1


def in_turns(work: Work, base: Work, runs: int, clock: Clock = time.process_time) -> list[float]:
    """CPU time of some work divided by that of another, for each of several turns."""
    times = measuring.take_turns(dict(work=work, base=base), runs, clock=clock)
    return [a / b for a, b in zip(times['work'].seconds, times['base'].seconds)]


def _process(words: list[str], base: list[str], runs: int) -> list[float]:
    return in_turns(
        lambda: startup.run_python(words),
        lambda: startup.run_python(base),
        runs,
        startup.time_of_children,
    )


def import_package(folder: Path, runs: int) -> list[float]:
    return _process(['-c', 'import cotap_mm'], ['-c', 'import torch'], runs)


def show_help(folder: Path, runs: int) -> list[float]:
    return _process([str(TOOLS / 'train.py'), '--help'], ['-c', 'import torch'], runs)


def first_step(folder: Path, runs: int) -> list[float]:
    data.make_images(folder, 24, 240, 320)
    config = TOOLS.parent / 'configs' / 'cotap' / 'vits_folder.py'
    words = ['', str(config), '--images', str(folder), '--init', 'none']
    words += ['--work-dir', str(folder / 'ours'), '--cfg-options', 'train_dataloader.num_workers=0']
    return in_turns(
        lambda: startup.run_code(startup.TRAIN, *words),
        lambda: startup.run_code(startup.BARE, str(folder / 'bare')),
        runs,
        startup.time_of_children,
    )


def _step_arguments(config: str, **cfg_options: Any) -> argparse.Namespace:
    return argparse.Namespace(
        config=config,
        batch_size=2,
        device='cpu',
        dtype='auto',
        compile=False,
        cfg_options=cfg_options,
    )


def step_time(folder: Path, runs: int) -> list[float]:
    args = _step_arguments('configs/cotap/vits_coco.py')
    return in_turns(step.prepare(args, 'ours')[0], step.prepare(args, 'released')[0], runs)


def step_memory(queues: str) -> Measure:
    """Peak memory of the step, with queues of a certain type."""

    def measure(folder: Path, runs: int) -> list[float]:
        peaks = []
        for kind, dtype in (('ours', queues), ('released', 'float32')):
            options = {f'model.memory.{name}_queue.dtype': dtype for name in ('patch', 'cls')}
            args = _step_arguments('configs/cotap/vits_coco.py', **options)
            peaks.append(measuring.peak_memory(step.peak, args, kind))
        return [peaks[0] / peaks[1]]

    return measure


def step_products(folder: Path, runs: int) -> list[float]:
    """The step, against its operations at the speed of one large product."""
    work = step.prepare(_step_arguments('configs/cotap/vits_coco.py'), 'ours')[0]
    operations = step.count_flops(work, 'cpu')
    size = 2048
    a, b = torch.randn(size, size), torch.randn(size, size)
    times = measuring.take_turns(dict(work=work, base=lambda: a @ b), runs, clock=time.process_time)
    return [
        seconds / (operations / (2 * size**3) * base)
        for seconds, base in zip(times['work'].seconds, times['base'].seconds)
    ]


def loading(height: int, width: int, crop_on: str) -> Measure:
    """A loader with one worker, both processes, by image, against decoding an image.

    Each turn decodes as many images before the loader's turn as after it, so that a slow drift of
    the machine hits both; and about as many as the loader reads, so that both take as long.
    """

    def measure(folder: Path, runs: int) -> list[float]:
        data.make_images(folder, 32, height, width)
        source = ImageList(folder)
        loader = crops.OneWorker(crops.pairs_of(source, folder, crop_on), 8)
        decode, times = crops.decoding(source), loader.images // (2 * len(source))

        def base() -> None:
            for _ in range(times):
                decode()

        turns = measuring.take_turns(
            dict(before=base, loader=loader, after=base), _LOADER_TURNS * runs, clock=loader.seconds
        )
        return [
            work / (before + after) * (2 * times * len(source)) / loader.images
            for before, work, after in zip(*(each.seconds for each in turns.values()))
        ]

    return measure


def ranking(folder: Path, runs: int) -> list[float]:
    return in_turns(loss.make('sorted', 4200, 'cpu'), loss.make('plain', 4200, 'cpu'), runs)


def _unit_rows(count: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.nn.functional.normalize(torch.randn(count, width, generator=generator))


def products(queries: Tensor, memory: Tensor, block: int = 1024) -> Work:
    """The products of a search alone, in blocks that fit the caches."""

    def work() -> None:
        for rows in queries.split(block):
            for part in memory.split(block):
                rows @ part.T

    return work


def image_search(folder: Path, runs: int) -> list[float]:
    features = _unit_rows(16_384, 384)

    def search() -> None:
        with contextlib.redirect_stdout(io.StringIO()):  # progress bars
            search_neighbors(features, 7, 'cpu')

    return in_turns(search, products(features, features), runs)


def patch_search(folder: Path, runs: int) -> list[float]:
    queries, memory = _unit_rows(4096, 768), _unit_rows(40_000, 768)
    return in_turns(lambda: build_search(memory)(queries, 30), products(queries, memory), runs)


def without_faiss(
    measure: Callable[[Path, int], list[float]],
) -> Measure:
    """The same as if faiss, which is optional, were not installed."""

    def measure_plain(folder: Path, runs: int) -> list[float]:
        with mock.patch.object(nearest, '_faiss_if_installed', return_value=None):
            return measure(folder, runs)

    return measure_plain


def listing(folder: Path, runs: int) -> list[float]:
    for index in range(20_000):
        parent = folder / f'{index // 1000:03d}'
        parent.mkdir(exist_ok=True)
        (parent / f'{index:06d}.jpg').touch()

    def scan() -> list[str]:
        return sorted(
            f'{parent.name}/{entry.name}'
            for parent in os.scandir(folder)
            for entry in os.scandir(parent)
        )

    return in_turns(lambda: ImageList(folder), scan, runs)


_FAISS: tuple[tuple[str, str, Any], ...] = (
    ('', 'with', lambda measure: measure),
    ('_plain', 'without', without_faiss),
)
RATIOS = (
    Ratio('import', '`import cotap_mm` / `import torch`', 1.15, import_package),
    Ratio('help', '`train.py --help` / `import torch`', 0.2, show_help),
    Ratio(
        'first_step',
        '`train.py` until the first step / two ViT-S in a bare MMEngine Runner',
        1.3,
        first_step,
    ),
    Ratio(
        'step_time',
        'training step, ViT-S, 2 images a branch / restatement of the released one',
        None,
        step_time,
    ),
    Ratio('step_memory', 'peak memory of the two', 0.6, step_memory('float32')),
    Ratio(
        'step_memory_half',
        'peak memory of the two, queues in bfloat16 / in float32',
        0.6,
        step_memory('bfloat16'),
    ),
    Ratio(
        'step_products',
        'training step / its operations at the speed of one large matrix product',
        None,
        step_products,
    ),
    *(
        Ratio(
            f'loader_{width}_{place}',
            f'loader and its worker, per image of {width} x {height} px, crops {text} / decoding',
            1.3,
            loading(height, width, place),
            2,  # decoding without page faults
        )
        for width, height in ((640, 480), (480, 360))
        for place, text in (('worker', 'in the worker'), ('device', 'on the device'))
    ),
    Ratio('ranking_loss', 'ranking loss of 4,200 pairs, sorted / all pairs', None, ranking),
    *(
        Ratio(
            f'image_search{name}',
            f'neighbor search, 16,384 images, {text} faiss / its matrix products',
            1.15,
            way(image_search),
        )
        for name, text, way in _FAISS
    ),
    *(
        Ratio(
            f'patch_search{name}',
            f'dense retrieval, 40,000 patches, {text} faiss / its matrix products',
            1.1,
            way(patch_search),
        )
        for name, text, way in _FAISS
    ),
    Ratio('listing', 'list 20,000 images / `os.scandir`', None, listing),
)


def measure_all(names: list[str], runs: int) -> dict[str, history.Value]:
    """Measure ratios by their names."""
    found: dict[str, history.Value] = {}
    for ratio in RATIOS:
        if ratio.name in names:
            with tempfile.TemporaryDirectory() as folder:
                values = ratio.measure(Path(folder), runs)
            median, spread = statistics.median(values), measuring.Times(values).spread
            found[ratio.name] = history.Value(
                round(median, 4), round(spread, 4), len(values), ratio.way
            )
            print(f'{ratio.text}: {median:.3f} ± {spread:.0%}', flush=True)
    return found


def page_text(records: list[dict[str, Any]]) -> str:
    """Markdown table of the last value of each ratio, with where and when it was measured."""
    last = {key: (value, each) for each in records for key, value in each['ratios'].items()}
    rows = []
    for ratio in RATIOS:
        if ratio.name in last:
            value, record = last[ratio.name]
            goal = '-' if ratio.goal is None else f'{ratio.goal:g}'
            numbers = f'{value.ratio:.2f}', f'± {value.spread:.0%}', goal
            rows.append((ratio.text, *numbers, record['date']))
    where = records[-1]
    machine = f'{where["machine"]}, Python {where["python"]}, torch {where["torch"]}'
    lines = markdown_table(['CPU time of', 'ratio', 'spread', 'goal', 'date'], rows)
    return f'{lines}\n\nMachine of the last record: {machine}.'


def commit() -> str:
    """The commit of this checkout, with '+' if files differ from it; '' without Git."""
    words = ['git', '-C', str(TOOLS), 'describe', '--always', '--dirty=+', '--exclude=*']
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ''


def run(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    os.environ['OMP_NUM_THREADS'] = '1'  # for the processes that are started
    known = [ratio.name for ratio in RATIOS]
    unknown = sorted(set(args.only or ()) - set(known))
    if unknown:
        raise ValueError(f'--only must name some of {known}, got {unknown}')
    path = Path(args.history)
    before = history.latest(path)  # a damaged file is reported before minutes are spent
    found = measure_all(args.only or known, args.runs)
    if args.record:
        history.append(path, dict(environment_info(), commit=commit(), ratios=found))
        history.fill_page(Path(args.page), page_text(history.read(path)))
    rows, worse = history.compare(before, found)
    print(markdown_table(['ratio', 'last record', 'now', 'limit', 'verdict'], rows, align=True))
    if worse and args.check:
        raise SystemExit(f'error: worse than the last record in {path}: {", ".join(worse)}')
