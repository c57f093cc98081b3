"""Draw faults at random, so that a seed and a number give the same one again."""

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

#: Files that FILES happen to; features are there only while neighbors are searched.
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
#: What a hostile file may pretend to be.
POISONED = (
    'newest checkpoint',
    'later checkpoint',
    'its record',
    'last_checkpoint',
    'neighbor file',
)

# Of so many faults, each kind comes once or, of these, more often.
_OFTEN = {'kill': 4, 'signal': 3, 'full disk': 2, 'cut': 2, 'flip': 2}
_EVERY_REAL = 20  # one case in so many starts the commands as a user does


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        kind (str): One of :data:`KINDS`.
        moment (str): One of :data:`MOMENTS`.
        place (float): Which of the events of that moment, in [0, 1).
        everywhere (bool): On all ranks, else on ``rank``.
        rank (int): Of the process that it happens to.
        span (int): Events for which a fault of the disk or of reading lasts; 0 until the
            process ends.
        seconds (float): For which a process is stopped, or images are away.
        signal (str): For ``'signal'``.
        victim (str): File, for :data:`FILES`.
        spot (float): Byte of that file, in [0, 1); another draw for other kinds.
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
            lasts = f', for {self.span} events' if self.span else ', until the process ends'
        return f'{self.kind} ({when}{lasts})'


@dataclass(frozen=True)
class Case:
    """A training and what happens to it.

    Attributes:
        seed (int): With ``index`` all else follows from it.
        index (int): Number of the case.
        world (int): Processes.
        packed (bool): Images in one LMDB file, else a folder.
        workers (int): Reading processes of the loader.
        real (bool): Started by ``python tools/train.py`` or ``tools/dist_train.sh`` instead
            of a fork.
        only (str, optional): Kind that was asked for.
        faults (tuple[Fault]): Of the first try, and of the second if there are two.
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
        """The command that runs this case alone."""
        only = f' --only {self.only!r}' if self.only else ''
        return f'python tests/fault_harness/run.py --replay {self.seed}:{self.index}{only}'


def draw_case(seed: int, index: int, only: str | None = None) -> Case:
    """Case ``index`` of a seed.

    Args:
        seed (int): Of all draws.
        index (int): Number of the case.
        only (str, optional): A kind; faults of the first try are of that kind.

    Returns:
        Case: The same for the same arguments.
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
    """All kinds come in turn, in an order that is drawn."""
    kinds = [kind for kind in KINDS for _ in range(_OFTEN.get(kind, 1))]
    random.Random(f'{seed}, round {index // len(kinds)}').shuffle(kinds)
    return kinds[index % len(kinds)]


def _draw_fault(
    draw: random.Random, kind: str, world: int, packed: bool, resumed: bool = False
) -> Fault:
    """One fault; in a resumed run no neighbors are searched."""
    moments = [each for each in MOMENTS if not (resumed and each == 'neighbor search')]
    moment, place, victim = draw.choice(moments), draw.random(), ''
    if kind in FILES:
        victim = draw.choice(POISONED if kind == 'hostile' else VICTIMS)
        if victim == 'features':
            moment = 'neighbor search'
        if victim == 'image' and packed:
            victim = 'packed images'
        if resumed and victim in ('features', 'image', 'packed images', 'init checkpoint'):
            victim = 'newest checkpoint'
        if victim in POISONED or victim == 'older checkpoint':  # not before there is one
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
