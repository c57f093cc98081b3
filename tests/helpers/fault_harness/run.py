"""Inject random faults into trainings, resume them, and compare the results bit by bit.

    python -m tests.helpers.fault_harness.run --seed 1 --count 200
    python -m tests.helpers.fault_harness.run --only 'full disk' --count 20
    python -m tests.helpers.fault_harness.run --replay 1:17

Trainings are forked from one process that has imported everything, and use one thread each,
since OpenMP does not survive a fork; one case in twenty starts the actual commands.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tests.helpers.fault_harness.cases import (
    CHANGED,
    EXECUTED,
    HUNG,
    LEFTOVERS,
    LOST,
    SAME,
    UNCLEAR,
    Outcome,
    References,
    run_case,
)
from tests.helpers.fault_harness.draw import KINDS, MOMENTS, Case, draw_case

_COLUMNS = (SAME, CHANGED, LOST, HUNG, EXECUTED, UNCLEAR, LEFTOVERS)


def run_cases(cases: Iterable[Case], folder: Path) -> list[Outcome]:
    """Run cases one after the other and print those that fail.

    Args:
        cases (iterable[Case]): Cases to run.
        folder (Path): Folder for their files; those of failed cases are kept.

    Returns:
        list[Outcome]: Outcomes in the order of the cases.
    """
    references, outcomes = References(folder), []
    for case in cases:
        start = time.monotonic()
        outcome = run_case(case, references, folder / f'{case.seed}-{case.index}')
        outcomes.append(outcome)
        if outcome.problems:
            print(outcome.describe(), flush=True)
        else:
            reached = '' if outcome.happened else ', not reached'
            print(
                f'{case}: {outcome.column}{reached}, {time.monotonic() - start:.0f} s', flush=True
            )
    return outcomes


def summarize(outcomes: list[Outcome]) -> str:
    """Markdown table of outcomes by kind and moment of the fault.

    A case with two faults counts for the first one.
    """
    rows: dict[str, Counter] = {}
    for outcome in outcomes:
        first = outcome.case.faults[0]
        for name in (first.kind, 'all'):
            row = rows.setdefault(name, Counter())
            row['drawn'] += 1
            row['not reached' if not outcome.happened else first.moment] += 1
            row[outcome.column] += 1
    columns = ('drawn', 'not reached', *MOMENTS, *_COLUMNS)
    lines = ['| fault | ' + ' | '.join(columns) + ' |', '|---' * (len(columns) + 1) + '|']
    for name in (*sorted(set(rows) - {'all'}), 'all'):
        if name in rows:
            lines.append(
                f'| {name} | '
                + ' | '.join(str(rows[name][column] or '') for column in columns)
                + ' |'
            )
    return '\n'.join(lines)


def main() -> int:
    """Run the command; returns exit status 1 if a case failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--seed', type=int, default=int(time.time()), help='seed of all draws')
    parser.add_argument('--count', type=int, default=10, help='number of faults')
    parser.add_argument('--start', type=int, default=0, help='index of the first fault')
    parser.add_argument('--only', choices=KINDS, help='only this kind of fault')
    parser.add_argument('--replay', metavar='SEED:INDEX', help='repeat one case')
    parser.add_argument('--dry-run', action='store_true', help='only print the drawn cases')
    arguments = parser.parse_args()
    seed, indices = arguments.seed, range(arguments.start, arguments.start + arguments.count)
    if arguments.replay:
        seed, index = map(int, arguments.replay.split(':'))
        indices = range(index, index + 1)
    cases = [draw_case(seed, index, arguments.only) for index in indices]
    if arguments.dry_run:
        print('\n'.join(map(str, cases)))
        return 0
    folder = Path(tempfile.mkdtemp(prefix='cotap_faults_'))
    print(
        f'seed {seed}, {len(cases)} faults; files of failed cases are kept in {folder}', flush=True
    )
    outcomes = run_cases(cases, folder)
    print(summarize(outcomes))
    failed = [outcome for outcome in outcomes if outcome.problems]
    for outcome in failed:
        print(f'FAILED {outcome.case}\n    {outcome.problems[0][1]}\n    {outcome.case.replay}')
    return int(bool(failed))


if __name__ == '__main__':
    sys.exit(main())
