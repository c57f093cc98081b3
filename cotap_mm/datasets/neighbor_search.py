"""Which images look alike: global features of a frozen ViT, exact cosine neighbours."""
import hashlib
import json
import time
from pathlib import Path
from typing import Callable, Optional

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.dist import barrier, is_main_process
from mmengine.logging import print_log
from mmengine.utils import ProgressBar
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import functional as TF

from cotap_mm.registry import DATASETS, MODELS

from .image_source import BadImage
from .neighbors import load_neighbors, save_neighbors

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class _Squares(Dataset):
    """Images of a source, resized and centre-cropped, from ``start`` on."""

    def __init__(self, source, size: int, start: int) -> None:
        self.source, self.size, self.start = source, size, start

    def __len__(self) -> int:
        return len(self.source) - self.start

    def __getitem__(self, index: int) -> 'tuple[Tensor, bool]':
        try:
            image = torch.from_numpy(self.source.read(self.start + index).copy()).permute(2, 0, 1)
        except BadImage as error:
            print_log(f'cannot decode {error}; it is left out', logger='current', level=30)
            return torch.zeros(3, self.size, self.size), False
        image = TF.resize(image, [self.size], antialias=True, max_size=None)
        image = TF.center_crop(image, [self.size, self.size])
        return TF.normalize(image.float() / 255, _MEAN, _STD), True


def build_neighbors(source, encode: Callable[[Tensor], Tensor], out: 'str | Path',
                    num_neighbors: int = 7, image_size: int = 224, batch_size: int = 32,
                    num_workers: int = 2, device: str = 'cpu', identity: str = '',
                    use_faiss: bool = False) -> Path:
    """Compute and write the neighbour file of an image source.

    Features go to a memory-mapped file beside ``out`` while they are computed, so an
    interrupted run goes on where it stopped. Memory stays bounded: the features of
    118,287 images of width 768 are 363 MB, the similarities are computed in blocks.
    Images that cannot be decoded are nobody's neighbours; their own neighbours are
    the nearest of the rest to nothing in particular and are never used, since they
    cannot be read in training either.

    Args:
        source (object): Image source: ``len``, ``name(i)``, ``read(i)``.
        encode (Callable): Normalised images (B, 3, s, s) -> features (B, C).
        out (str | Path): The file to write, ``*.npz``.
        num_neighbors (int): k. Defaults to 7.
        image_size (int): s, in pixels. Defaults to 224.
        batch_size (int): Images a forward pass. Defaults to 32.
        num_workers (int): Reading processes. Defaults to 2.
        device (str): Where features and similarities are computed.
        identity (str): What the features depend on (backbone, weights); a part file
            of another identity is not continued.
        use_faiss (bool): Search with faiss, which must be installed.

    Returns:
        Path: ``out``.

    Raises:
        ValueError: If there are fewer than 2 images.
    """
    out = Path(out)
    if len(source) < 2:
        raise ValueError(f'neighbours need at least 2 images, got {len(source)}')
    out.parent.mkdir(parents=True, exist_ok=True)
    names = [source.name(i) for i in range(len(source))]
    state = dict(identity=identity, image_size=image_size, images=len(names),
                 names=hashlib.sha256('\n'.join(names).encode()).hexdigest())
    features, is_good, parts = _extract(source, encode, out, state, batch_size, num_workers, device)
    k = min(num_neighbors, int(is_good.sum()) - 1)
    if k < 1:
        raise ValueError(f'only {int(is_good.sum())} of {len(names)} images can be decoded')
    search = _search_faiss if use_faiss else search_neighbors
    indices = search(torch.from_numpy(np.asarray(features)), k, device=device,
                     is_candidate=torch.from_numpy(is_good))
    meta = dict(identity=identity, image_size=image_size, built=time.strftime('%Y-%m-%d'))
    save_neighbors(out, names, indices.numpy(), meta)
    del features
    for path in parts:
        path.unlink()
    return out


def _extract(source, encode: Callable[[Tensor], Tensor], out: Path, state: dict, batch_size: int,
             num_workers: int, device: str) -> 'tuple[np.ndarray, np.ndarray, tuple]':
    """Features of all images, unit length, float32; continues an interrupted part file."""
    data, record = (out.with_name(f'{out.name}.{kind}') for kind in ('features', 'progress'))
    done, width = 0, None
    if record.is_file() and data.is_file():
        saved = json.loads(record.read_text(encoding='utf-8'))
        if {key: saved.get(key) for key in state} == state:
            done, width = saved['done'], saved['width']
            print_log(f'{done} of {state["images"]} features are there already', logger='current')
    loader = DataLoader(_Squares(source, state['image_size'], done), batch_size=batch_size,
                        num_workers=num_workers)
    features = None
    if width is not None:
        features = np.memmap(data, np.float32, 'r+', shape=(state['images'], width))
    progress = ProgressBar(max(state['images'] - done, 1))
    for images, good in loader:
        with torch.no_grad():
            block = F.normalize(encode(images.to(device)).float(), dim=1).cpu()
        block[~good] = 0  # marks what could not be read
        if features is None:
            width = block.shape[1]
            features = np.memmap(data, np.float32, 'w+', shape=(state['images'], width))
        features[done:done + len(block)] = block.numpy()
        features.flush()
        done += len(block)
        record.write_text(json.dumps(dict(state, done=done, width=width)), encoding='utf-8')
        progress.update(len(block))
    assert features is not None
    return features, np.abs(features).sum(axis=1) > 0, (data, record)


@torch.no_grad()
def search_neighbors(features: Tensor, num_neighbors: int, device: str = 'cpu',
                     is_candidate: Optional[Tensor] = None, block: int = 1024) -> Tensor:
    """Exact nearest neighbours by cosine, without the whole matrix of similarities.

    Args:
        features (Tensor): Unit length (or zero), shape (N, C).
        num_neighbors (int): k < N.
        device (str): Where the products are computed.
        is_candidate (Tensor, optional): Rows that may be neighbours, bool (N,).
        block (int): Rows and columns of one product; memory is about 4 * block^2 bytes.

    Returns:
        Tensor: Indices, nearest first, never the row itself, shape (N, k), int64.
    """
    count = len(features)
    found = torch.empty(count, num_neighbors, dtype=torch.long)
    for start in range(0, count, block):
        rows = features[start:start + block].to(device)
        best = rows.new_full((len(rows), num_neighbors), -float('inf'))
        where = torch.zeros(len(rows), num_neighbors, dtype=torch.long, device=device)
        for low in range(0, count, block):
            columns = features[low:low + block].to(device)
            cosine = rows @ columns.T
            if is_candidate is not None:
                cosine[:, ~is_candidate[low:low + block].to(device)] = -float('inf')
            index = torch.arange(low, low + len(columns), device=device)
            itself = torch.arange(start, start + len(rows), device=device)
            cosine.masked_fill_(index[None] == itself[:, None], -float('inf'))
            merged = torch.cat([best, cosine], dim=1)
            places = torch.cat([where, index.expand(len(rows), -1)], dim=1)
            best, order = merged.topk(num_neighbors, dim=1)
            where = places.gather(1, order)
        found[start:start + len(rows)] = where.cpu()
    return found


def _search_faiss(features: Tensor, num_neighbors: int, device: str = 'cpu',
                  is_candidate: Optional[Tensor] = None) -> Tensor:
    try:
        import faiss
    except ImportError as error:
        raise ImportError('faiss is not installed: pip install faiss-cpu, or leave --faiss '
                          'out') from error
    rows = np.ascontiguousarray(features.numpy(), dtype=np.float32)
    candidates = np.arange(len(rows)) if is_candidate is None else np.flatnonzero(
        is_candidate.numpy())
    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(rows[candidates])
    found = candidates[index.search(rows, num_neighbors + 1)[1]]  # (N, k + 1)
    itself = found == np.arange(len(rows))[:, None]
    order = np.argsort(itself, axis=1, kind='stable')  # the image itself goes last
    return torch.from_numpy(np.take_along_axis(found, order, axis=1)[:, :num_neighbors].copy())


def encoder_of(backbone: dict, checkpoint: Optional[str], device: str,
               source: str = 'auto', trust: bool = False) -> Callable[[Tensor], Tensor]:
    """Frozen ViT -> CLS token of its last block.

    Args:
        backbone (dict): Config of a :class:`cotap_mm.models.DINOViT`.
        checkpoint (str, optional): Weights; random without.
        device (str): Where it runs.
        source (str): See :func:`cotap_mm.weights.load_pretrained`.
        trust (bool): Likewise.

    Returns:
        Callable: Normalised images (B, 3, s, s) -> features (B, d).
    """
    from cotap_mm.weights import load_pretrained
    model: nn.Module = MODELS.build(dict(backbone))
    if checkpoint:
        report = load_pretrained(model, checkpoint, source=source, trust=trust)
        print_log(f'neighbour features from {checkpoint}: {report}', logger='current')
    model.to(device).eval()
    return lambda images: model.forward_tokens(images)[1][:, 0]


def ensure_neighbors(cfg: Config, work_dir: 'str | Path', device: Optional[str] = None) -> None:
    """Build what a config calls ``neighbors='auto'`` and put the file's path in its place.

    The initial backbone of the config computes the features. The file is kept in
    ``work_dir`` and used again while images and backbone stay the same. On several
    ranks the main process builds and the others wait.

    Args:
        cfg (Config): Changed in place (``train_dataloader.dataset``).
        work_dir (str | Path): Where the files go.
        device (str, optional): Defaults to the GPU if there is one.
    """
    dataset = cfg.train_dataloader.dataset
    device = device or ('cuda' if torch.cuda.is_available() else 'cpu')
    init = cfg.model.get('init_cfg') or {}
    identity = json.dumps([dict(cfg.model.backbone), init.get('checkpoint')], default=str)
    for branch, key in (('patch', 'neighbors'), ('cls', 'cls_neighbors')):
        if dataset.get(key) != 'auto' or not dataset.get(branch):
            continue
        source = DATASETS.build(dataset[branch])
        names = [source.name(i) for i in range(len(source))]
        digest = hashlib.sha256((identity + '\n'.join(names)).encode()).hexdigest()[:12]
        out = Path(work_dir) / f'neighbors_{branch}_{digest}.npz'
        if is_main_process() and not out.is_file():
            print_log(f'neighbors=\'auto\': comparing the {len(source)} images of the {branch} '
                      f'branch with the initial backbone, kept in {out}', logger='current')
            encode = encoder_of(cfg.model.backbone, init.get('checkpoint'), device,
                                init.get('source', 'auto'), init.get('trust', False))
            size = cfg.model.backbone.get('img_size', 224)
            build_neighbors(source, encode, out, dataset.get('num_neighbors', 7), size,
                            device=device, identity=identity,
                            num_workers=cfg.train_dataloader.get('num_workers', 0))
        barrier()
        load_neighbors(out, names, dataset.get('num_neighbors', 7))
        dataset[key] = str(out)
