"""Measure everything that needs a GPU, unattended and in little time.

    python tools/gpu_pass.py --minutes 10 --out gpu_pass.json
    python tools/gpu_pass.py --out gpu_pass.json       # again: continues with what is missing

Stages run in the order of their worth, each in a process of its own: the tests that need a GPU;
a training step of ViT-B and ViT-S, eager and compiled, against the restated released one; a trace
of ten iterations, with the waits of the host counted; the ranking loss; the loader; a training of a
ViT-S on CamVid for the rest of the time, if --camvid is given, with dense retrieval before and
after; the crops on the GPU and further ways to compile. A stage that does not fit into the time
that is left is skipped, and some time is kept for the training. The file has the result of each
stage as soon as it is finished. Another call starts with what has not run yet; a training that was
stopped is resumed.
"""

from __future__ import annotations

import early_stop  # noqa: F401  (before imports that take seconds)

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Optional

from cotap_mm.command_line.arguments import Parser, out_file, positive_int
from cotap_mm.command_line.tool import tool
from cotap_mm.files.atomic_write import atomic_write

ROOT = Path(__file__).resolve().parent.parent
_TAIL = 4000  # characters of the output that are kept
_SHORTEST = 20  # seconds; a stage with less time left is not started
_GRACE = 20  # seconds between SIGTERM, on which a training saves a checkpoint, and SIGKILL


class Stage(NamedTuple):
    """One measurement.

    Attributes:
        name (str): Key of its result.
        command (list[str]): Arguments of Python; ``{json}`` is a file for the result.
        limit (int): Seconds after which it is stopped.
        reserved (int): Seconds that the stages before it leave. Defaults to 0.
        kept (str): Lines of its output with this text are kept. Defaults to '' (none but the end).
    """

    name: str
    command: list[str]
    limit: int
    reserved: int = 0
    kept: str = ''


def step(name: str, config: str, batch: int, *options: str, limit: int = 80) -> Stage:
    """A training step with ``batch`` images per branch."""
    command = ['tools/benchmark.py', 'step', f'configs/cotap/{config}.py', '--device', 'cuda']
    numbers = ['--batch-size', str(batch), '--steps', '10', '--warmup', '3', '--json', '{json}']
    return Stage(name, [*command, *numbers, *options], limit)


def stages(camvid: Optional[str]) -> list[Stage]:
    """All measurements, the most valuable first."""
    benchmark = ['tools/benchmark.py']
    on_gpu = ['--device', 'cuda', '--json', '{json}']
    waits = [*benchmark, 'waits', 'configs/cotap/vits_coco.py', '--batch-size', '28']
    loss = [*benchmark, 'loss', '--methods', 'pairwise', 'compiled', 'sorted', '--runs', '3']
    loss += ['--longest-pairs', '200000', '--pairs', '4200', '16384', '65536', '131072']
    loader = [*benchmark, 'data', '--workers', '8', '16', '--prefetch', '2', '--runs', '3']
    alone = ('--only', 'ours', '--compile')
    found = [
        Stage('tests', ['-m', 'pytest', '-q', '-m', 'gpu', 'tests'], 100),
        step('step ViT-B, 16 images', 'vitb_coco', 16, '--profile', '15'),
        step('step ViT-B, 16 images, networks compiled', 'vitb_coco', 16, *alone, 'networks'),
        step('step ViT-S, 28 images', 'vits_coco', 28, limit=60),
        Stage('waits in ten iterations', [*waits, *on_gpu], 40),
        Stage('ranking loss', [*loss, *on_gpu], 50),
        Stage('loader', [*loader, *on_gpu], 60),
    ]
    if camvid:
        words = ['configs/cotap/camvid_vits.py', '--work-dir', 'work_dirs/gpu_pass', '--resume']
        command = ['tools/train.py', *words, '--init', 'none']
        found.append(Stage('training on CamVid', command, 600, reserved=120, kept='mIoU'))
    return [
        *found,
        step('step ViT-S, 28 images, CUDA graphs', 'vits_coco', 28, *alone, 'graphs'),
        step('step ViT-B, 16 images, compiled', 'vitb_coco', 16, *alone),
        step('step ViT-S, 28 images, compiled', 'vits_coco', 28, *alone),
        Stage('crops', [*benchmark, 'crops', *on_gpu], 60),
        Stage('crops, 480 x 360', [*benchmark, 'crops', '--size', '360', '480', *on_gpu], 60),
    ]


def parse_args(argv: Optional[list[str]] = None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument(
        '--minutes', type=positive_int, default=10, help='time for all stages of this call'
    )
    parser.add_argument(
        '--out', type=out_file('.json'), default='gpu_pass.json', help='file of the results'
    )
    parser.add_argument('--camvid', metavar='DIR', help='folder of CamVid (default: no training)')
    parser.add_argument(
        '--only',
        nargs='+',
        metavar='NAME',
        help='stages to run, even if they are done (default: all that are not done)',
    )
    return parser.parse_args(argv)


def run_stages(
    chosen: list[Stage], out: Path, seconds: float, again: bool = False, **variables: str
) -> dict[str, Any]:
    """Run stages until the time is over, and store each result at once.

    Args:
        chosen (list[Stage]): In order.
        out (Path): JSON file, which may have results of an earlier call.
        seconds (float): Time for all of them.
        again (bool): Whether to repeat stages that are done. Defaults to False.
        **variables: Of the environment of the processes.

    Returns:
        dict: Name -> ``status`` (``'done'``, ``'failed'``, ``'stopped'`` or ``'no time'``),
        ``seconds``, ``output`` (its end), ``result`` and, if some are kept, ``lines``.
    """
    results = json.loads(out.read_text(encoding='utf-8')) if out.is_file() else {}
    waiting = list(chosen)
    if not again:  # what failed may fail again
        found = {stage.name: results.get(stage.name, {}).get('status') for stage in chosen}
        waiting = [stage for stage in waiting if found[stage.name] != 'done']
        order = dict(stopped=1, failed=2)
        waiting.sort(key=lambda stage: order.get(found[stage.name], 0))
    end = time.monotonic() + seconds - _GRACE
    while waiting:
        stage, *waiting = waiting
        left = end - time.monotonic() - sum(other.reserved for other in waiting)
        if left < _SHORTEST:
            results[stage.name] = dict(status='no time')
        else:
            print(f'{stage.name}: at most {min(left, stage.limit):.0f} s', flush=True)
            results[stage.name] = _run(stage, min(left, stage.limit), variables)
            print(f'{stage.name}: {results[stage.name]["status"]}', flush=True)
        with atomic_write(out) as partial:
            partial.write_text(json.dumps(results, indent=1) + '\n', encoding='utf-8')
    return results


def _run(stage: Stage, limit: float, variables: dict[str, str]) -> dict[str, Any]:
    """Run one stage with all of its processes; stop them after ``limit`` seconds."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / 'result.json'
        command = [sys.executable, *(word.format(json=file) for word in stage.command)]
        start = time.monotonic()
        with open(Path(folder) / 'output', 'w+', encoding='utf-8', errors='replace') as output:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, **variables},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                process.wait(limit)
                status = 'failed' if process.returncode else 'done'
            except subprocess.TimeoutExpired:
                status = 'stopped'
            finally:
                if process.poll() is None:
                    process.terminate()
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(_GRACE)
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            output.seek(0)
            said = output.read()
        result = json.loads(file.read_text(encoding='utf-8')) if file.is_file() else None
    seconds = round(time.monotonic() - start, 1)
    found = dict(status=status, seconds=seconds, output=said[-_TAIL:], result=result)
    if stage.kept:
        found['lines'] = [line for line in said.splitlines() if stage.kept in line]
    return found


@tool
def main(argv: Optional[list[str]] = None) -> None:
    args = parse_args(argv)
    known = stages(args.camvid)
    names = [stage.name for stage in known]
    unknown = sorted(set(args.only or ()) - set(names))
    if unknown:
        raise SystemExit(f'error: --only must name some of {names}, got {unknown}')
    chosen = [stage for stage in known if stage.name in (args.only or names)]
    variables = dict(CAMVID=str(Path(args.camvid).resolve())) if args.camvid else {}
    results = run_stages(chosen, Path(args.out), 60 * args.minutes, bool(args.only), **variables)
    missing = [name for name in names if results.get(name, {}).get('status') != 'done']
    print(f'{args.out}: {len(names) - len(missing)} of {len(names)} stages are done')


if __name__ == '__main__':
    main()
