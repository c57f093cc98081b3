"""A long training needs no more memory, files or disk space at its end than in its middle."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.runner import LogProcessor

from cotap_mm.engine.resume.log_history import bound_history
from tests.helpers.soak_work import LOG_INTERVAL

STEPS = int(os.environ.get('COTAP_SOAK_STEPS', 100))  # make test-faults: 3000
ROOT = Path(__file__).resolve().parents[2]
MEGABYTE = 1e6
#: Tolerances between the medians of the middle and the last third of the steps.
ALLOWED = dict(
    memory=5 * MEGABYTE,
    memory_of_workers=5 * MEGABYTE,
    checkpoint=2000,
    files=0,
    threads=0,
    system_threads=0,
    workers=0,
    work_files=0,
    queues=0,
    history=0,
)


def thirds(records, what):
    """Medians of the three thirds of a run."""
    size = len(records) // 3
    return [
        statistics.median(record[what] for record in records[size * part : size * (part + 1)])
        for part in range(3)
    ]


def check(records, steps):
    """Nothing grows from the middle to the last third; the first third is a warm-up."""
    for what, allowed in ALLOWED.items():
        _, middle, last = thirds(records, what)
        assert last - middle <= allowed, f'{what} grows: {middle:.0f}, then {last:.0f}'
    first, last = records[0], records[-1]
    # The log and its JSON, a line for each checkpoint (there is one at each measurement), and, at
    # most iterations with monitors, one that has been warned about and is so again.
    lines = 2 / LOG_INTERVAL + 1 / (records[1]['step'] - first['step']) + 0.5
    assert last['log_lines'] - first['log_lines'] <= lines * steps, 'more lines of logs a step'
    half = len(records) // 2
    early, late = (
        records[half]['log_bytes'] - first['log_bytes'],
        last['log_bytes'] - records[len(records) - 1 - half]['log_bytes'],
    )
    assert late <= 1.3 * early, f'the log grows by {early} bytes in one half, {late} in the other'


@pytest.mark.slow
@pytest.mark.skipif(not Path('/proc/self/statm').exists(), reason='Linux tells in /proc')
def test_nothing_grows(tmp_path, capsys):
    done = subprocess.run(
        [
            *(sys.executable, '-W', 'ignore', '-m', 'tests.helpers.soak_work'),
            *(str(tmp_path), str(STEPS)),
        ],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    records = [json.loads(line) for line in (tmp_path / 'vitals.jsonl').read_text().splitlines()]
    assert len(records) >= 45 and records[-1]['step'] == STEPS
    with capsys.disabled():
        print(f'\n{STEPS} steps; medians of each third:')
        for what in (
            'memory',
            'memory_of_workers',
            'files',
            'system_threads',
            'checkpoint',
            'queues',
            'history',
        ):
            print(f'  {what}: {", ".join(f"{value:,.0f}" for value in thirds(records, what))}')
        size = len(records) // 3
        for name, part in (('first', records[:size]), ('last', records[-size:])):
            speed = (part[-1]['step'] - part[0]['step']) / (part[-1]['time'] - part[0]['time'])
            print(f'  steps a second in the {name} third: {speed:.1f}')
        print(
            f'  lines of logs a step: '
            f'{(records[-1]["log_lines"] - records[0]["log_lines"]) / STEPS:.2f}'
        )
    check(records, STEPS)


def steady(steps=3000, **growth):
    """Records of a run of 50 measurements in which some values grow by an amount per step."""
    more = dict(dict(log_lines=0, log_bytes=0), **growth)
    return [
        dict(
            {what: 1000 + growth.get(what, 0) * step for what in ALLOWED},
            step=step,
            log_lines=(0.4 + more['log_lines']) * step,
            log_bytes=200 * step + more['log_bytes'] * step**2,
        )
        for step in range(0, steps, steps // 50)
    ]


@pytest.mark.parametrize(
    'growth',
    [
        dict(memory=10_000),
        dict(memory_of_workers=10_000),
        dict(files=0.01),
        dict(threads=0.01),
        dict(checkpoint=16),
        dict(history=1),
        dict(work_files=0.1),
        dict(log_lines=1),
        dict(log_bytes=1),
    ],
)
def test_the_check_can_fail(growth):
    check(steady(), 3000)
    (what,) = growth
    message = dict(log_lines='lines of logs', log_bytes='the log grows').get(what, what)
    with pytest.raises(AssertionError, match=message):
        check(steady(**growth), 3000)


def logged(length, **options):
    """Runner that has logged ``length`` values of two scalars, one of which started late."""
    hub = MessageHub.get_instance(f'history_{length}_{options}')
    runner = SimpleNamespace(message_hub=hub, log_processor=LogProcessor(by_epoch=False, **options))
    for step in range(length):
        bound_history(runner, kept=30)
        hub.update_scalar('train/loss', step)
        if step > 50:
            hub.update_scalar('train/late', step)
    return {name: values.data[0].tolist() for name, values in hub.log_scalars.items()}


def test_old_values_are_dropped():
    kept = logged(100)
    assert kept == {name: list(range(70, 100)) for name in ('train/loss', 'train/late')}
    window = [dict(data_src='loss', log_name='slow', method_name='mean', window_size=60)]
    assert len(logged(100, custom_cfg=window)['train/loss']) == 60
    window[0]['window_size'] = 'global'
    assert len(logged(100, custom_cfg=window)['train/loss']) == 100
    assert HistoryBuffer().max_length == 1_000_000  # MMEngine's own limit
