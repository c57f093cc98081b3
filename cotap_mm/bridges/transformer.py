"""Features as a transformer of scikit-learn."""

from __future__ import annotations

from typing import Any, Optional, Union

import numpy as np
import torch

from cotap_mm.embedding.compute import FEATURES
from cotap_mm.encoders.choose import AnyEncoder, as_encoder
from cotap_mm.encoders.encoder import Encoder, EncoderOutput, normalize_images
from cotap_mm.encoders.images import Size, open_pictures, stacked_batches

try:
    from sklearn.base import BaseEstimator, TransformerMixin
except ImportError as error:
    raise ImportError(
        'CoTAPTransformer needs the package scikit-learn: pip install scikit-learn'
    ) from error


class CoTAPTransformer(TransformerMixin, BaseEstimator):
    """Turn images into feature vectors, as a step of a scikit-learn pipeline.

    Nothing is learned: ``fit`` only loads the network. It can be cloned, put into a ``Pipeline``,
    searched over and pickled; copies load the network again from its checkpoint.

    ::

        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline

        model = make_pipeline(cotap_mm.CoTAPTransformer('dino_vits16'), LogisticRegression())
        model.fit(train_paths, train_labels).predict(test_paths)

    Args:
        checkpoint (Encoder | str | Path | dict): What :func:`cotap_mm.load` accepts, or an
            encoder.
        feature (str): ``'cls'``, or ``'mean'`` for the mean of the patches. Defaults to
            ``'cls'``.
        size (int | tuple): Side of a square, or (height, width), in pixels, to which all images
            are resized. Defaults to 224.
        batch_size (int): Images per forward pass. Defaults to 32.
        device (str | torch.device, optional): Defaults to a GPU if there is one.
        network (str, optional): See :func:`cotap_mm.load`; so are the following ones.
        output (str, optional): ``'filter'`` or ``'backbone'``.
        num_heads (int, optional): Number of attention heads.
        trust (bool): Unpickle the checkpoint without restrictions. Defaults to False.

    Attributes:
        encoder_ (Encoder): The network, after :meth:`fit`.
        n_features_out_ (int): Length of a feature vector, after :meth:`fit`.
    """

    def __init__(
        self,
        checkpoint: AnyEncoder,
        feature: str = 'cls',
        size: Size = 224,
        batch_size: int = 32,
        device: Optional[Union[str, torch.device]] = None,
        network: Optional[str] = None,
        output: Optional[str] = None,
        num_heads: Optional[int] = None,
        trust: bool = False,
    ) -> None:
        self.checkpoint = checkpoint
        self.feature = feature
        self.size = size
        self.batch_size = batch_size
        self.device = device
        self.network = network
        self.output = output
        self.num_heads = num_heads
        self.trust = trust

    def fit(self, X: Any, y: Any = None) -> CoTAPTransformer:
        """Load the network.

        Args:
            X (sequence): Images; not used.
            y: Not used.

        Returns:
            CoTAPTransformer: This object.

        Raises:
            FileNotFoundError: If the checkpoint does not exist.
            ValueError: If an argument is wrong.
        """
        if self.feature not in FEATURES or self.feature == 'patches':
            raise ValueError(f"feature must be 'cls' or 'mean', got {self.feature!r}")
        self.encoder_: Encoder = as_encoder(
            self.checkpoint,
            self.device,
            network=self.network,
            output=self.output,
            num_heads=self.num_heads,
            trust=self.trust,
        )
        patch = self.encoder_.patch_size
        probe = self.encoder_(torch.zeros(1, 3, patch, patch))
        self.n_features_out_ = (
            probe.cls.shape[1] if self.feature == 'cls' else probe.patches.shape[1]
        )
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Compute a feature vector per image.

        Args:
            X (sequence): Paths, PIL images, arrays or tensors, also as an array of objects; a
                batch of images (N, H, W, 3); or the path of a folder, see
                :meth:`cotap_mm.encoders.encoder.Encoder.encode`.

        Returns:
            np.ndarray: Shape (N, C), float32.

        Raises:
            BadImage: If an image cannot be decoded.
            NotFittedError: If :meth:`fit` has not been called.
        """
        from sklearn.utils.validation import check_is_fitted

        check_is_fitted(self)
        encoder = self._encoder()
        rows = [
            self._vectors(encoder(normalize_images(pixels.to(encoder.device))))
            for pixels in stacked_batches(open_pictures(_as_images(X)), self.size, self.batch_size)
        ]
        return np.concatenate(rows)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Names of the columns: ``cls0``, ``cls1``, ..."""
        names = [f'{self.feature}{index}' for index in range(self.n_features_out_)]
        return np.asarray(names, dtype=object)

    def _vectors(self, output: EncoderOutput) -> np.ndarray:
        return FEATURES[self.feature](output).cpu().numpy()  # (B, C)

    def _encoder(self) -> Encoder:
        """Network of :meth:`fit`; a copy of this object loads it again."""
        if getattr(self, 'encoder_', None) is None:
            self.fit(None)
        return self.encoder_

    def __getstate__(self) -> dict[str, Any]:
        """State without the network, if it can be loaded again."""
        state = dict(super().__getstate__())
        if not isinstance(self.checkpoint, Encoder) and 'encoder_' in state:
            state['encoder_'] = None
        return state


def _as_images(images: Any) -> Any:
    """Images in a form that encoders take; pipelines may hand on arrays of objects."""
    if isinstance(images, np.ndarray) and images.dtype.kind in 'OU':
        return [str(image) if isinstance(image, np.str_) else image for image in images.ravel()]
    return images
