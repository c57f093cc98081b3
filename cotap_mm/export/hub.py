"""Publish a network as a folder that other libraries read, with a model card, or on the hub."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional, Union

from cotap_mm.encoders.load import load
from cotap_mm.files.atomic_write import atomic_write
from cotap_mm.files.hub import import_hub, is_hub_error
from cotap_mm.weights.checkpoint import AnyCheckpoint, DetectedCheckpoint, detect_checkpoint
from cotap_mm.weights.formats.folders import FILTER_WEIGHTS
from cotap_mm.weights.hashing import weights_hash
from cotap_mm.weights.named.licenses import find_known_weights

from .folders import differences, part, write_folder
from .known_weights import check_license
from .model_card import CardContent, model_card
from .provenance import Provenance, provenance_of
from .reported_results import ReportedResult, read_results
from .state_dicts import check_out

LIBRARIES = ('hf', 'timm')
#: Files of a published folder; nothing else is uploaded.
FILES = (
    'README.md',
    'config.json',
    'model.safetensors',
    'preprocessor_config.json',
    FILTER_WEIGHTS,
)


def publish_folder(
    checkpoint: AnyCheckpoint,
    out: Union[str, Path],
    license: Optional[str] = None,
    library: str = 'hf',
    *,
    name: str = '',
    base_model: str = '',
    data: str = '',
    results: Iterable[Union[str, Path]] = (),
    network: Optional[str] = None,
    trust: bool = False,
    num_heads: Optional[int] = None,
    overwrite: bool = False,
    repo: str = '',
    checked: bool = False,
) -> Path:
    """Write a folder for the Hugging Face hub: weights, configs and a model card.

    The ViT opens with transformers or timm. The object-aware filter is in a file of its own,
    so that ``cotap_mm.load(folder)`` gives the features of CoTAP. Heads are not included; a file of
    :func:`publish` has them.

    Args:
        checkpoint (str | Path | dict | DetectedCheckpoint): Checkpoint of any supported source.
        out (str | Path): The folder.
        license (str, optional): License of the weights, e.g. ``'Apache-2.0'``. Defaults to the one
            in the checkpoint, or that of the initial weights if it is known.
        library (str): ``'hf'`` for transformers or ``'timm'``. Defaults to ``'hf'``.
        name (str): Title of the model card. Defaults to the name of the folder.
        base_model (str): Initial weights, if the checkpoint does not state them: ``USER/REPO`` on
            the hub, ``timm:NAME``, a URL, or a name.
        data (str): Name of the training images. Defaults to the names of their folders.
        results (Iterable[str | Path]): JSON files of ``cotap evaluate``, of this network and of
            others to compare with.
        network (str, optional): ``'student'`` or ``'teacher'``; by default the student.
        trust (bool): Unpickle the file fully if safe reading fails. Defaults to False.
        num_heads (int, optional): Number of attention heads, if the file does not state it.
        overwrite (bool): Replace a model and a README.md in the folder. Defaults to False.
        repo (str): ``USER/REPO`` that the folder will be uploaded to. Defaults to none.
        checked (bool): You have checked that ``license`` is allowed although that of the initial
            weights is another one. Defaults to False.

    Returns:
        Path: The folder.

    Raises:
        FileExistsError: If the folder has a model or a README.md and ``overwrite`` is False.
        FileNotFoundError: If the checkpoint or a result does not exist.
        ImportError: If safetensors is not installed.
        ValueError: If the license is unknown or not that of the initial weights, a result is not of
            this network, or the library has no such network.
    """
    if library not in LIBRARIES:
        raise ValueError(f'library must be one of {", ".join(LIBRARIES)}, got {library!r}')
    out = Path(out)
    check_out(out / 'model.safetensors', ('.safetensors',), overwrite)
    check_out(out / 'README.md', ('.md',), overwrite)
    detected = detect_checkpoint(checkpoint, network=network, trust=trust)
    facts = _provenance(detected, base_model, data)
    tensors, architecture = detected.tensors, detected.architecture(num_heads)
    published = {n: t for n, t in tensors.items() if n.startswith(('backbone.', 'neck.'))}
    is_cotap = _is_cotap(detected, facts)
    card = CardContent(
        name=name or repo.split('/')[-1] or out.absolute().name,
        where=repo or out.absolute().name,  # not the path, which may name the user
        is_on_hub=bool(repo),
        library=library,
        license=_license(license, checked, detected, facts),
        architecture=architecture,
        is_cotap=is_cotap,
        has_norm='backbone.ln1.weight' in tensors,
        network=detected.network or ('student' if is_cotap else ''),
        sha256=weights_hash(published),
        provenance=facts,
        results=_results(list(results), detected, num_heads),
        notes=differences(library, part(published, 'backbone.'), architecture),
    )
    write_folder(library, published, architecture, out, overwrite)
    with atomic_write(out / 'README.md') as unfinished:
        unfinished.write_text(model_card(card), encoding='utf-8')
    return out


def push(
    checkpoint: AnyCheckpoint,
    repo: str,
    *,
    private: bool = False,
    out: Optional[Union[str, Path]] = None,
    overwrite: bool = False,
    **options: Any,
) -> str:
    """Publish a network on the Hugging Face hub.

    ::

        url = push('work_dirs/vits_coco/iter_240000.pth', 'user/cotap-vits16')

    Args:
        checkpoint (str | Path | dict | DetectedCheckpoint): See :func:`publish_folder`.
        repo (str): ``USER/REPO``; created if it does not exist.
        private (bool): Create a private repository. Defaults to False.
        out (str | Path, optional): Folder to keep; a temporary one by default.
        overwrite (bool): Add a commit to a repository that has files. Defaults to False.
        **options: Further arguments of :func:`publish_folder`.

    Returns:
        str: URL of the model.

    Raises:
        FileExistsError: If the repository has files and ``overwrite`` is False.
        ImportError: If huggingface_hub is not installed.
        OSError: If the hub denies access or does not answer.
        ValueError: If ``repo`` is malformed; see :func:`publish_folder`.
    """
    if not re.fullmatch(r'[\w.-]+/[\w.-]+', repo):
        raise ValueError(f'a repository on the Hugging Face hub is USER/REPO, got {repo!r}')
    hub = import_hub(f'publishing {repo}')
    if not hub.get_token():
        raise OSError(f'publishing {repo} requires an account: `hf auth login`, or set HF_TOKEN')
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(out) if out is not None else Path(temporary) / repo.split('/')[1]
        publish_folder(checkpoint, folder, repo=repo, overwrite=overwrite, **options)
        try:
            return _upload(hub, folder, repo, private, overwrite)
        except Exception as error:
            if isinstance(error, FileExistsError) or not is_hub_error(error):
                raise
            reason = str(error).strip().split('\n')[0] or type(error).__name__
            kept = f'; the folder {folder} is complete' if out is not None else ''
            raise OSError(
                f'cannot publish {repo} ({reason}); check the name, the connection, and that your '
                f'token may write to it{kept}'
            ) from error


def _upload(hub: Any, folder: Path, repo: str, private: bool, overwrite: bool) -> str:
    api = hub.HfApi()
    url = api.create_repo(repo, private=private, exist_ok=True)
    existing = [name for name in api.list_repo_files(repo) if name != '.gitattributes']
    if existing and not overwrite:
        raise FileExistsError(
            f'{repo} has files ({", ".join(existing[:3])}); choose another name, or add a commit '
            'that replaces them (overwrite=True, --overwrite)'
        )
    api.upload_folder(
        repo_id=repo,
        folder_path=str(folder),
        allow_patterns=list(FILES),
        delete_patterns=[FILTER_WEIGHTS],  # of a network that is replaced
        commit_message='Publish weights and model card',
    )
    return str(url)


def _provenance(detected: DetectedCheckpoint, base_model: str, data: str) -> Provenance:
    facts = provenance_of(detected.content)
    if base_model:
        is_repo = re.fullmatch(r'[\w.-]+/[\w.-]+', base_model)
        facts = replace(facts, init=f'hf:{base_model}' if is_repo else base_model)
    elif not facts.init and not _is_cotap(detected, facts) and detected.is_stored:
        # The weights of another method, which are converted, not trained.
        is_name = re.match(r'^(https?|cotap_mm)://|^hf:', detected.name)
        facts = replace(facts, init=detected.name if is_name else Path(detected.name).name)
    return replace(facts, data=[data]) if data else facts


def _is_cotap(detected: DetectedCheckpoint, facts: Provenance) -> bool:
    model = facts.config.get('model')
    kind = str(model.get('type')) if isinstance(model, dict) else ''
    return 'neck.prototypes' in detected.tensors or kind.split('.')[-1] == 'CoTAP'


def _license(
    license: Optional[str], checked: bool, detected: DetectedCheckpoint, facts: Provenance
) -> str:
    """Return the license of the result; inherit it if it is not given."""
    known = find_known_weights(facts.init)
    stated = license if license is not None else detected.meta.get('license')
    if isinstance(stated, str) and stated.strip():
        check_license(stated, facts.init, checked)
        return stated.strip()
    if license is not None:
        raise ValueError(
            "license must not be empty, e.g. 'Apache-2.0'; without a license nobody may use the "
            'weights'
        )
    if known is None:
        init = facts.init or 'not recorded in the checkpoint'
        raise ValueError(
            f'the license of the initial weights ({init}) is unknown; state the license of the '
            'result (license=, --license), or name the initial weights (base_model=, --base-model)'
        )
    return known.license


def _results(
    files: list[Union[str, Path]], detected: DetectedCheckpoint, num_heads: Optional[int]
) -> list[ReportedResult]:
    """Read the results of this network, which are recognized by the hash of its weights."""
    if not files:
        return []
    titles = {load(detected, num_heads=num_heads).weights_hash(): 'this model'}
    if 'neck.prototypes' in detected.tensors:
        plain = load(detected, num_heads=num_heads, output='backbone')
        titles[plain.weights_hash()] = 'without the filter'
    return read_results(files, titles)
