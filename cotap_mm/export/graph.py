"""Export an encoder as an ONNX or TorchScript graph, which runs without this package."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Optional, Union

import torch
from torch import Tensor, nn

from cotap_mm.encoders.load import build_network
from cotap_mm.files.atomic_write import atomic_write
from cotap_mm.progress import working
from cotap_mm.weights.checkpoint import AnyCheckpoint

from .state_dicts import check_out


class EncoderGraph(nn.Module):
    """Compute CLS (B, C) and patch map (B, C, h, w) of normalized images (B, 3, H, W).

    Args:
        vit (nn.Module): A :class:`CoTAPViT` with ``out_type='raw'``.
        size (Sequence[int]): Height and width in pixels, multiples of the patch size.
        final_norm (nn.Module, optional): Norm for the tokens of a plain ViT. Defaults to None.
    """

    def __init__(
        self, vit: nn.Module, size: Sequence[int], final_norm: Optional[nn.Module] = None
    ) -> None:
        super().__init__()
        self.network = vit
        self.final_norm = nn.Identity() if final_norm is None else final_norm
        self.grid = tuple(side // vit.patch_size for side in size)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Encode images (B, 3, H, W)."""
        tokens = self.final_norm(self.network(images)[0])
        return tokens[:, 0], tokens[:, 1:].transpose(1, 2).unflatten(2, self.grid)


def export_graph(
    checkpoint: AnyCheckpoint,
    out: Union[str, Path],
    size: Sequence[int],
    overwrite: bool = False,
    num_heads: Optional[int] = None,
) -> EncoderGraph:
    """Write a network with its filter as ONNX or TorchScript.

    The batch size is dynamic; height and width are fixed, since the position embeddings for
    that size are part of the graph. The input is normalized RGB, see
    :func:`cotap_mm.encoders.encoder.normalize_images`.

    Args:
        checkpoint (str | Path | dict | DetectedCheckpoint): See :func:`cotap_mm.load`.
        out (str | Path): ``*.onnx`` or ``*.pt`` (TorchScript).
        size (Sequence[int]): Height and width in pixels, multiples of the patch size.
        overwrite (bool): Replace an existing file. Defaults to False.
        num_heads (int, optional): Number of attention heads, if the file does not state it.

    Returns:
        EncoderGraph: The exported module, for comparison.

    Raises:
        FileExistsError: If ``out`` exists and ``overwrite`` is False.
        ImportError: If the packages for ONNX are missing.
        ValueError: If the suffix of ``out`` or the size is invalid.
    """
    out = Path(out)
    check_out(out, ('.onnx', '.pt'), overwrite)
    vit, _, final_norm = build_network(checkpoint, num_heads, img_size=tuple(size))
    wrong = [side for side in size if side % vit.patch_size]
    if len(size) != 2 or wrong:
        raise ValueError(
            f'size must be height and width, multiples of {vit.patch_size}, got {tuple(size)}'
        )
    graph = EncoderGraph(vit, size, final_norm).eval()
    images = torch.zeros(2, vit.patch_embed.projection.in_channels, *size)
    with atomic_write(out) as unfinished, working(f'exporting to {out.name}'):
        if out.suffix == '.pt':
            with torch.no_grad():
                torch.jit.trace(graph, images).save(str(unfinished))
        else:
            _write_onnx(graph, images, unfinished)
    return graph


def _write_onnx(graph: nn.Module, images: Tensor, out: Path) -> None:
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise ImportError('ONNX export needs two packages: pip install onnx onnxscript') from error
    names = dict(input_names=['images'], output_names=['cls', 'patches'])
    batch = {name: {0: 'batch'} for name in ('images', 'cls', 'patches')}
    # Use the tracing exporter, which exists since torch 2.1 and writes a single file.
    extra = dict(dynamo=False) if torch.__version__ >= '2.5' else {}
    with torch.no_grad():
        torch.onnx.export(
            graph, (images,), str(out), dynamic_axes=batch, opset_version=17, **names, **extra
        )
