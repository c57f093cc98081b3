"""Check the last message of a command: one sentence that names what failed and a remedy."""

from __future__ import annotations

import re

_WAY_OUT = re.compile(
    r'--?[a-z][a-z-]+|resum|make room|free |delete|remove|restore|mount|again|check|repair|give|'
    r'choose|use |set |lower|another|writable|permission',
    re.IGNORECASE,
)
_NAMES = re.compile(r'/|loader|rank \d|\.(jpg|png|pth|npy|npz|lmdb)')
_TABLE = re.compile(r'\(| ---|before_|after_|\{|    |-----|System environment|Runtime environment')
_IGNORED = re.compile(
    r'Exception ignored in: <function _MultiProcessingDataLoaderIter.__del__.*?\n'
    r'RuntimeError: DataLoader worker [^\n]*',
    re.DOTALL,
)
# Interesting warnings of a run that succeeds.
_WARNING = re.compile(r' - WARNING - (?!")')


def message_problems(status: int, output: str) -> list[str]:
    """Problems with the output of one of our processes.

    Args:
        status (int): Exit status.
        output (str): Complete output.

    Returns:
        list[str]: Empty if there is no traceback and, for status 1, the last sentence names a
        file or a rank and a remedy.
    """
    # PyTorch's iterator reports a worker that was killed when it was no longer needed.
    if 'Traceback (most recent call last)' in _IGNORED.sub('', output):
        return ['traceback']
    if status != 1:
        return []
    sentence = last_sentence(output)
    return [
        f'no {what} in {sentence!r}'
        for rule, what in ((_WAY_OUT, 'way out'), (_NAMES, 'file or rank'))
        if not rule.search(sentence)
    ]


def last_sentence(output: str) -> str:
    """Error message with which a process exited, as far as it can be recognized."""
    text = without_logs(output)
    start = text.rfind('error: ')  # perhaps after a progress bar
    return ' '.join(text[start:].splitlines()) if start >= 0 else ' '.join(text.splitlines()[-3:])


def without_logs(output: str) -> str:
    """Remove MMEngine's tables of hooks and environment, and the log of the training."""
    return '\n'.join(
        line
        for line in output.splitlines()
        if line.strip() and ' - INFO - ' not in line and not _TABLE.match(line)
    )


def of_interest(status: int, output: str, hung: bool = False) -> list[str]:
    """Lines of an output to show with a failure; for a process that hung, its stack."""
    if hung:
        return output[output.rfind('most recent call first') + 1 :].splitlines()[-40:]
    if status not in (0, 75, -9):
        return [line for line in output.splitlines() if line.strip()][-12:]
    return [line for line in output.splitlines() if _WARNING.search(line)]
