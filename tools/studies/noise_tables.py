"""Tables of the noise study, from its results as ``noise_tolerance.json`` holds them."""

from __future__ import annotations

import statistics
from typing import Any

import study

from cotap_mm.command_line.table import markdown_table

CONDITIONS = ('data', 'imbalance', 'noise', 'level')
LEVELS = dict(flip=(0.0, 0.2, 0.4, 0.6), additive=(0.0, 0.25, 0.5, 1.0))
NOISE_LABEL = dict(flip='flipped classes (share)', additive='noise on similarities (deviation)')
OURS = 'CoTAP'


def untouched(noise: str, objective: str) -> bool:
    """Cross-entropy reads classes, which additive noise leaves alone."""
    return objective == 'cross-entropy' and noise == 'additive'


def place(data: str, imbalance: float) -> str:
    return f'{data}, {imbalance:g}:1'


def by_level(results: dict[str, Any], value: str = 'precision') -> dict[tuple, study.Summary]:
    """(data, imbalance, noise, level, objective) -> summary; level 0 stands under both noises."""
    found = study.summarize(results['runs'], (*CONDITIONS, 'objective'), value)
    for (data, imbalance, _, level, name), summary in list(found.items()):
        if not level:
            found[data, imbalance, 'additive', level, name] = summary
    return found


def tables(results: dict[str, Any], value: str, above: float = 0.0) -> str:
    """A table for each panel of imbalance over ``above``; bold is the best mean of a column."""
    found = {key: each for key, each in by_level(results, value).items() if key[1] > above}
    names = list(dict.fromkeys(key[-1] for key in found))
    parts = []
    for data, imbalance in dict.fromkeys(key[:2] for key in found):
        for noise in LEVELS:
            levels = sorted({key[3] for key in found if key[:3] == (data, imbalance, noise)})
            columns = [
                {name: found[data, imbalance, noise, level, name] for name in names}
                for level in levels
            ]
            rows = [
                [
                    name,
                    *(
                        study.shown(column[name], column[name] == max(column.values()))
                        for column in columns
                    ),
                ]
                for name in names
            ]
            parts.append(
                markdown_table(
                    [
                        f'{place(data, imbalance)}: {NOISE_LABEL[noise]}',
                        *map('{:g}'.format, levels),
                    ],
                    rows,
                )
            )
    return '\n\n'.join(parts)


def verdicts(results: dict[str, Any]) -> str:
    """Count where CoTAP is ahead or behind per seed; all objectives share the data of a seed."""
    by_seed = {
        (*(run[k] for k in CONDITIONS), run['objective'], run['seed']): run['precision']
        for run in results['runs']
    }
    names = [name for name in dict.fromkeys(key[4] for key in by_seed) if name != OURS]
    settings = list(dict.fromkeys(key[:4] for key in by_seed))
    rows = []
    for label, kept in (
        ('no noise', lambda s: not s[3]),
        ('flipped classes', lambda s: s[2] == 'flip' and s[3]),
        ('noise on similarities', lambda s: s[2] == 'additive'),
    ):
        for imbalance in dict.fromkeys(s[1] for s in settings):
            here = [s for s in settings if kept(s) and s[1] == imbalance]
            if not here:
                continue
            row = [f'{label}, {imbalance:g}:1']
            for name in names:
                if all(untouched(s[2], name) for s in here):
                    row.append('(no noise)')
                    continue
                gaps = [
                    [
                        by_seed[(*s, OURS, seed)] - by_seed[(*s, name, seed)]
                        for seed in results['options']['seeds']
                    ]
                    for s in here
                ]
                ahead = sum(min(gap) > 0 for gap in gaps)
                behind = sum(max(gap) < 0 for gap in gaps)
                mean = sum(map(sum, gaps)) / sum(map(len, gaps))
                row.append(f'{mean:+.1f} ({ahead}/{behind}/{len(here)})')
            rows.append(row)
    return markdown_table([f'{OURS} minus', *names], rows)


def standings(results: dict[str, Any]) -> str:
    """Compute the mean rank and the mAP gap to the best objective over all noisy settings."""
    found = by_level(results)
    rows: dict[str, list[str]] = {}
    for noise in LEVELS:
        places: dict[str, list[int]] = {}
        behind: dict[str, list[float]] = {}
        for setting in dict.fromkeys(key[:4] for key in found if key[2] == noise and key[3]):
            means = {
                key[4]: each.mean
                for key, each in found.items()
                if key[:4] == setting and not untouched(noise, key[4])
            }
            for name, mean in means.items():
                places.setdefault(name, []).append(1 + sum(m > mean for m in means.values()))
                behind.setdefault(name, []).append(max(means.values()) - mean)
        for name in dict.fromkeys(key[4] for key in found):
            own = behind.get(name)
            rows.setdefault(name, [name]).append(
                f'{statistics.mean(places[name]):.1f}; {statistics.mean(own):.1f}; {max(own):.1f}'
                if own
                else '(no noise)'
            )
    return markdown_table(
        ['place; behind; at worst', *(NOISE_LABEL[noise] for noise in LEVELS)], rows.values()
    )


def count_choices(trials: list[dict[str, Any]]) -> dict[str, dict[tuple, int]]:
    """Objective -> (setting, learning rate) -> how often."""
    counts: dict[str, dict[tuple, int]] = {}
    for each in trials:
        if not each['chosen']:
            continue
        own = counts.setdefault(each['objective'], {})
        pick = each['setting'], each['lr']
        own[pick] = own.get(pick, 0) + 1
    return counts
