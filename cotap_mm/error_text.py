"""Reduce an exception to one line for the user, without a traceback."""

from __future__ import annotations

import re

LONGEST = 1500  # characters; the rest is truncated
#: Import name -> name of the distribution, if they differ.
_PIP_NAMES = {
    'cv2': 'opencv-python',
    'PIL': 'pillow',
    'faiss': 'faiss-cpu',
    'sklearn': 'scikit-learn',
    'gradio': '"gradio>=6"',
    'yaml': 'pyyaml',
    'mmseg': 'mmsegmentation ftfy regex',
    'mmsegmentation': 'mmsegmentation ftfy regex',
    'mmdet': 'mmdet pycocotools',
}


def sentence_of(error: BaseException) -> str:
    """Describe an exception in one line.

    The message of an exception from a DataLoader worker contains the worker's traceback; only
    the original message is kept. The file is added to errors of the operating system, and the
    installation command to errors about missing packages.

    Args:
        error (BaseException): Any exception.

    Returns:
        str: One line of at most ``LONGEST`` characters; the type if the exception has no
        message.
    """
    text = one_line(_text(error))
    return text or type(error).__name__


def one_line(text: str) -> str:
    """Join the lines of a message; indented lines are entries of a list.

    Args:
        text (str): A message of any length.

    Returns:
        str: One line of at most ``LONGEST`` characters.
    """
    text = re.sub(r':\s*\n\s+', ': ', text.strip())
    text = re.sub(r'[;,]?\s*\n\s{2,}', '; ', text)
    text = ' '.join(text.split())
    return text if len(text) <= LONGEST else f'{text[: LONGEST - 4]} ...'


def _text(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno is not None and error.strerror:
        files = [str(name) for name in (error.filename, error.filename2) if name is not None]
        return ': '.join([*files, error.strerror])
    if isinstance(error, ModuleNotFoundError) and f'{error}'.startswith('No module named'):
        package = (error.name or '').split('.')[0]
        return f'{error}; install it with: pip install {_PIP_NAMES.get(package, package)}'
    if isinstance(error, ImportError):  # of MMEngine, for a config of another library
        match = re.match(r'(\S+) is not installed, please install', f'{error}')
        if match:
            name = match[1]
            return f'{name} is not installed: pip install {_PIP_NAMES.get(name, name)}'
    if isinstance(error, KeyError) and ' registry. Please check whether ' in str(error):
        return (
            f'{str(error.args[0]).split(". Please check", 1)[0]}; check the type and the '
            'default_scope of the config'
        )
    if isinstance(error, KeyError) and len(error.args) == 1 and isinstance(error.args[0], str):
        return of_worker(error.args[0], type(error).__name__)  # str() would add quotes
    return of_worker(str(error), type(error).__name__)


def of_worker(text: str, name: str) -> str:
    """Remove the traceback of another process, or a quoted one, from a message.

    Args:
        text (str): Message. If PyTorch raised the exception of a loader worker again, it contains
            the worker's traceback, whose last line with an error type has the original message.
        name (str): Name of the error type.

    Returns:
        str: The original message.
    """
    mark = 'Traceback (most recent call last)'
    if mark not in text:
        return text
    # The last line without indentation that looks like "package.Type: message".
    matches = list(re.finditer(r'^[A-Za-z_][\w.]*: ', text[text.rindex(mark) :], re.MULTILINE))
    own = [match for match in matches if match[0][:-2].split('.')[-1] == name]
    if own or matches:
        return text[text.rindex(mark) + (own or matches)[-1].end() :].strip()
    return text[: text.index(mark)]
