"""Record of what happened to each tensor of a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field

from cotap_mm.deprecation import warn_renamed


@dataclass
class LoadReport:
    """What happened to each tensor of a checkpoint.

    Attributes:
        source (str): The source that the caller stated, or the detected family of names.
        network (str): ``'student'`` or ``'teacher'``; ``''`` if the file does not say.
        loaded (list[str]): Tensors that were loaded, by our names.
        missing (list[str]): Parameters of the model that kept their initial values.
        unexpected (list[str]): Unknown tensors of the network.
        dropped (list[str]): Tensors that the model does not use by design.
        resized (list[str]): Tensors loaded after resizing (position embeddings).
        adapted (list[str]): Tensors loaded after changing the number of input channels.
        teacher (str): Origin of a CoTAP's teacher: ``'student'`` (a copy), ``'file'``, or
            ``''`` for a model without a teacher.
        notes (list[str]): Of a converted file: where the other library computes other features.
    """

    source: str
    network: str = ''
    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    adapted: list[str] = field(default_factory=list)
    teacher: str = ''
    notes: list[str] = field(default_factory=list)

    @property
    def num_loaded(self) -> int:
        """Number of tensors that were loaded."""
        return len(self.loaded)

    @property
    def branch(self) -> str:
        """Deprecated name of ``network``."""
        warn_renamed('LoadReport.branch', 'LoadReport.network')
        return self.network

    def __str__(self) -> str:
        """Summarize the report in one line."""

        def few(names: list[str]) -> str:
            more = f', ... {len(names) - 3} more' if len(names) > 3 else ''
            return f'{len(names)} ({", ".join(names[:3])}{more})' if names else 'none'

        teacher = {
            'student': '; the teacher is a copy of the student',
            'file': '; the teacher is loaded from the file',
            '': '',
        }[self.teacher]
        notes = ''.join(f'; note: {note}' for note in self.notes)
        channels = f'; input channels adapted: {few(self.adapted)}' if self.adapted else ''
        return (
            f'{self.network or "network"} with names of {self.source!r}: loaded '
            f'{self.num_loaded} tensors; missing, initial values kept: {few(self.missing)}; '
            f'unexpected: {few(self.unexpected)}; unused: {few(self.dropped)}; resized: '
            f'{few(self.resized)}{channels}{teacher}{notes}'
        )
