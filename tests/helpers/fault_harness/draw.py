"""Draw random faults, reproducible from a seed and an index."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

#: When a fault happens.
MOMENTS = ('start-up', 'neighbor search', 'training', 'evaluation', 'saving', 'end')

PROCESS = ('kill', 'stop', 'freeze', 'signal')
DISK = (
    'full disk',
    'full tmpfs',
    'read-only',
    'failing writes',
    'unreachable folder',
    'deleted folder',
)
READS = ('slow reads', 'images away', 'one image unreadable')
FILES = ('cut', 'flip', 'lose', 'hostile')
CLOCK = ('clock set back',)
WORKERS = ('kill a worker', 'stop a worker')
KINDS = (*PROCESS, *DISK, *READS, *FILES, *CLOCK, *WORKERS)

#: Files that FILES damage; features exist only while neighbors are being built.
VICTIMS = (
    'newest checkpoint',
    'its record',
    'older checkpoint',
    'last_checkpoint',
    'neighbor file',
    'image',
    'packed images',
    'init checkpoint',
    'features',
)
#: Files that a malicious file may replace.
POISONED = (
    'newest checkpoint',
    'later checkpoint',
    'its record',
    'last_checkpoint',
    'neighbor file',
)

# Weight of a kind in the draw; 1 if it is not listed.
_OFTEN = {'kill': 4, 'signal': 3, 'full disk': 2, 'cut': 2, 'flip': 2}
_EVERY_REAL = 20  # one case in this many starts the actual commands


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        kind (str): One of :data:`KINDS`.
        moment (str): One of :data:`MOMENTS`.
        place (float): Relative position among the events of that moment, in [0, 1).
        everywhere (bool): Whether it happens on all ranks, else only on ``rank``.
        rank (int): Rank on which it happens.
        span (int): Number of events for which a fault of the disk or of reading lasts; 0 for
            until the process exits.
        seconds (float): Time for which a process is stopped or images are unavailable.
        signal (str): Name of the signal, for ``'signal'``.
        victim (str): File, for :data:`FILES`.
        spot (float): Relative position in that file, in [0, 1); a random number for other kinds.
    """

    kind: str
    moment: str
    place: float
    everywhere: bool = True
    rank: int = 0
    span: int = 0
    seconds: float = 0.0
    signal: str = 'SIGTERM'
    victim: str = ''
    spot: float = 0.0

    def __str__(self) -> str:
        whom = 'all ranks' if self.everywhere else f'rank {self.rank}'
        when = f'{whom}, {self.moment} at {self.place:.3f}'
        if self.kind == 'signal':
            return f'{self.signal} to {when}'
        if self.kind in FILES:
            spot = f' at {self.spot:.3f}' if self.kind in ('cut', 'flip') else ''
            return f'{self.kind} {self.victim}{spot} after a kill ({when})'
        if self.kind in CLOCK:
            return f'{self.kind} {"in the run" if self.spot < 0.5 else "after a kill"} ({when})'
        lasts = f', {self.seconds:.1f} s' if self.seconds else ''
        if self.kind in DISK or self.kind == 'one image unreadable':
            lasts = f', for {self.span} events' if self.span else ', until the process exits'
        return f'{self.kind} ({when}{lasts})'


@dataclass(frozen=True)
class Case:
    """A training and the faults that happen to it.

    Attributes:
        seed (int): Seed, which together with ``index`` determines everything else.
        index (int): Index of the case.
        world (int): Number of ranks.
        packed (bool): Whether the images are in one LMDB file instead of a folder.
        workers (int): Number of loader workers.
        real (bool): Whether to start ``python tools/train.py`` or ``tools/dist_train.sh``
            instead of a fork.
        only (str, optional): Kind that was requested.
        faults (tuple[Fault]): Fault of the first try, and of the second if there are two.
    """

    seed: int
    index: int
    world: int
    packed: bool
    workers: int
    real: bool
    only: str | None = None
    faults: tuple[Fault, ...] = field(default_factory=tuple)

    def __str__(self) -> str:
        how = ('real command' if self.real else 'fork') + (', packed' if self.packed else '')
        how += f', {self.workers} workers' if self.workers else ''
        ranks = '1 rank' if self.world == 1 else f'{self.world} ranks'
        return f'{self.seed}:{self.index} {ranks}, {how}: ' + '; then '.join(map(str, self.faults))

    @property
    def replay(self) -> str:
        """Command that repeats this case."""
        only = f' --only {self.only!r}' if self.only else ''
        return f'python -m tests.helpers.fault_harness.run --replay {self.seed}:{self.index}{only}'


def draw_case(seed: int, index: int, only: str | None = None) -> Case:
    """Draw a case.

    Args:
        seed (int): Seed of all draws.
        index (int): Index of the case.
        only (str, optional): Kind of the fault of the first try. Defaults to None, any kind.

    Returns:
        Case: The same case for the same arguments.
    """
    draw = random.Random(f'{seed}:{index}:{only or ""}')
    real = only is None and index % _EVERY_REAL == _EVERY_REAL - 1
    kind = draw.choice(PROCESS) if real else only or _kind(seed, index)
    world = 2 if kind == 'freeze' else draw.choice((1, 1, 2))
    workers = 1 if kind in WORKERS or (kind in PROCESS and draw.random() < 0.2) else 0
    packed = draw.random() < 0.25 and kind not in READS
    first = _draw_fault(draw, kind, world, packed)
    packed = packed or first.victim == 'packed images'
    faults = [first]
    if not real and draw.random() < 0.25:
        again = draw.choice(('kill', 'signal', 'full disk', 'cut', 'flip', 'clock set back'))
        faults.append(_draw_fault(draw, again, world, packed, resumed=True))
    return Case(seed, index, world, packed, workers, real, only, tuple(faults))


def _kind(seed: int, index: int) -> str:
    """Cycle through all kinds, in a random order."""
    kinds = [kind for kind in KINDS for _ in range(_OFTEN.get(kind, 1))]
    random.Random(f'{seed}, round {index // len(kinds)}').shuffle(kinds)
    return kinds[index % len(kinds)]


def _draw_fault(
    draw: random.Random, kind: str, world: int, packed: bool, resumed: bool = False
) -> Fault:
    """Draw one fault; a resumed run does not build neighbors."""
    moments = [name for name in MOMENTS if not (resumed and name == 'neighbor search')]
    moment, place, victim = draw.choice(moments), draw.random(), ''
    if kind in FILES:
        victim = draw.choice(POISONED if kind == 'hostile' else VICTIMS)
        if victim == 'features':
            moment = 'neighbor search'
        if victim == 'image' and packed:
            victim = 'packed images'
        if resumed and victim in ('features', 'image', 'packed images', 'init checkpoint'):
            victim = 'newest checkpoint'
        if victim in POISONED or victim == 'older checkpoint':  # it must exist already
            moment = draw.choice(('training', 'evaluation', 'saving', 'end'))
            place = 0.5 + place / 2
    if kind in WORKERS or kind in READS:
        moment = draw.choice(('neighbor search', 'training'))
    if kind == 'freeze' and world == 1:
        kind = 'stop'
    everywhere = (
        world == 1 or kind in FILES or kind in CLOCK or (kind != 'freeze' and draw.random() < 0.5)
    )
    lasting = kind in DISK or kind == 'one image unreadable'
    return Fault(
        kind,
        moment,
        round(place, 4),
        everywhere,
        draw.randrange(world),
        span=draw.choice((1, 2, 5, 20, 0, 0)) if lasting else 0,
        seconds=round(draw.uniform(0.2, 2.5), 1)
        if kind in ('stop', 'images away', 'stop a worker')
        else 0.0,
        signal=draw.choice(('SIGTERM', 'SIGUSR1')),
        victim=victim,
        spot=round(draw.random(), 4),
    )
