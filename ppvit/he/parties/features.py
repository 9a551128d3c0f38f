"""Owner: features of plain images, whitened for training, and the head that undoes the whitening.

All but the clipping is affine, so it folds into a plain linear head on raw features. The clipping bounds the scores
that the trainer's cubic meets, which nobody can look at while they are encrypted.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ppvit.config import Config, He
from ppvit.core.errors import UsageError
from ppvit.core.kept import kept_array
from ppvit.core.progress import tqdm
from ppvit.data.plain import BATCH, PlainImages
from ppvit.data.sealed import read_dataset
from ppvit.he.algorithms import Algorithm, Floats, Labels

if TYPE_CHECKING:  # torch takes seconds to load, and pixels and keys do not need it
    from ppvit.models import Backbone

CLIP = 3.0  # standard deviations
_OF_DATASET = ("name", "image_size", "train_fraction", "first_images", "frames", "seed")
_OF_ENCRYPT = ("resize_filter", "crop", "value_range", "window")
_FLOOR = 1e-3  # added to standard deviations: constant features stay small
_RIDGE = 0.3  # of the mean variance, added to every component's: small ones are not blown up


@dataclass(frozen=True)
class Whitening:
    """Standardise, project on principal components, divide by their damped deviations; as one affine map.

    Attributes:
        matrix: float64, (k, D).
        offset: float64, (k,).
        bound: where whitened features are clipped; infinite for raw ones.
    """

    matrix: Floats
    offset: Floats
    bound: float = CLIP

    def __call__(self, features: np.ndarray, clip: bool = True) -> Floats:
        """Features, float (n, D), as training sees them: float64 (n, k + 1), the last column 1."""
        white = features @ self.matrix.T + self.offset
        white = np.clip(white, -self.bound, self.bound) if clip else white
        return np.hstack([white, np.ones((len(white), 1))])

    def fold(self, weights: Floats) -> tuple[Floats, Floats]:
        """Weights on whitened features, float64 (C, k + 1), as weight (C, D) and bias (C,) on raw ones; no clipping."""
        return weights[:, :-1] @ self.matrix, weights[:, :-1] @ self.offset + weights[:, -1]

    def padded(self, components: int) -> Whitening:
        """The same with components of zeros added, up to this many."""
        more = components - len(self.offset)
        return Whitening(np.pad(self.matrix, ((0, more), (0, 0))), np.pad(self.offset, (0, more)), self.bound)


def unchanged(width: int) -> Whitening:
    """The map that leaves features as they are, as in the paper."""
    return Whitening(np.eye(width), np.zeros(width), np.inf)


def fit_whitening(features: np.ndarray, components: int) -> Whitening:
    """Fit on training features, float (n, D).

    Raises:
        UsageError: fewer features or images than components.
    """
    if components > min(features.shape):
        raise UsageError(
            f"he.components {components} is more than the {features.shape[1]} features or {len(features)} images; "
            f"set it to {min(features.shape)} or less"
        )
    features = features.astype(np.float64)
    mean, deviation = features.mean(0), features.std(0) + _FLOOR
    standard = (features - mean) / deviation
    if len(standard) < standard.shape[1]:  # the thin decomposition: thousands of features of a few images take no time
        _, deviations, axes = np.linalg.svd(standard, full_matrices=False)
        variances = deviations**2 / len(standard)
    else:
        variances, axes = np.linalg.eigh(standard.T @ standard / len(standard))
        variances, axes = variances[::-1], axes.T[::-1]
    variances, axes = variances[:components], axes[:components]
    matrix = axes / np.sqrt(variances + _RIDGE * variances.mean())[:, None] / deviation
    return Whitening(matrix, -matrix @ mean)


def components_of(settings: He, images: int) -> int:
    """Principal components k: as set, or min(63, n/2); see :func:`whitening_for` where there are fewer features."""
    return settings.components or max(1, min(63, images // 2))


def whitening_for(algorithm: Algorithm, settings: He, features: np.ndarray) -> Whitening:
    """The map from raw features, float (n, D), to what the algorithm trains on; some take them raw.

    A backbone with fewer features than the default number of components has zeros for the rest, as keys are made before
    any feature is known.
    """
    if not algorithm.whitened:
        return unchanged(features.shape[1])
    columns = algorithm.plan.columns - 1
    return fit_whitening(features, settings.components or min(columns, features.shape[1])).padded(columns)


def settings_of(config: Config) -> dict[str, Any]:
    """All settings that determine the features of an image, by name."""
    dataset, encrypt, model = config.dataset, config.encrypt, config.model
    settings = {
        "he.features": config.he.features,
        **{f"dataset.{name}": getattr(dataset, name) for name in _OF_DATASET},
        **{f"encrypt.{name}": getattr(encrypt, name) for name in _OF_ENCRYPT},
    }
    if config.he.features == "backbone":
        settings |= {
            f"model.{name}": getattr(model, name) for name in ("name", "checkpoint", "pretrained", "mean", "std")
        }
    return settings


def require_same_settings(config: Config, kept: dict[str, Any]) -> None:
    """Refuse settings with which features would be others than those of `encrypt`.

    Args:
        config: of now.
        kept: what :func:`settings_of` gave then.

    Raises:
        UsageError: names the first that differs.
    """
    for name, now in settings_of(config).items():
        before = kept.get(name)
        if before != now:
            raise UsageError(
                f"{name} is {now!r}, at ppvit he encrypt it was {before!r}: the head is for the features of then; "
                "set it back, or encrypt and train again"
            )


def load_libraries(config: Config) -> None:
    """Load what takes seconds and the features need, so that it is in no step's time."""
    if config.he.features == "backbone":
        import ppvit.models  # noqa: F401


def backbone_of(config: Config, embedded: Path) -> Backbone | None:
    """The public backbone that ``model`` names, any of timm's, with its pretrained weights; None for pixels."""
    if config.he.features != "backbone":
        return None
    from ppvit import models
    from ppvit.models.products import by_onednn

    backbone = models.backbone_of(config, embedded, any_kind=True)
    by_onednn(backbone.model)
    return backbone


def extract(
    config: Config, raw: Path, split: str, count: int, backbone: Backbone | None
) -> tuple[npt.NDArray[np.float32], Labels]:
    """Features and labels of the first images of a split; their order is random and seeded.

    Args:
        config: ``dataset``, ``encrypt`` and ``he.features`` are used.
        raw: folder that `download` wrote.
        split: ``train`` or ``test``.
        count: at most so many images.
        backbone: from :func:`backbone_of`; without it pixels, or the mean of their colours, scaled to 0..1.

    Returns:
        float32 (n, D) and int64, (n,) or (n, C).
    """
    plain = PlainImages(raw, split, config.dataset, config.encrypt)
    count = min(count, len(plain))
    labels = plain.labels[:count].astype(np.int64)
    if backbone is None:
        return np.concatenate([_pixels(images, config.he.features) for images in _read(plain, count)]), labels
    features = None
    if count > BATCH and read_dataset(raw)[1] is None:  # of what is sealed nothing is left open on the disk
        features = _kept(config, plain, split, count, backbone)
    if features is None:
        features = np.concatenate([pooled(images, backbone) for images in _read(plain, count)])
    backbone.model.cpu()
    return features, labels


def _read(plain: PlainImages, count: int) -> Iterator[npt.NDArray[np.uint8]]:
    """The first images in batches, which a progress bar counts."""
    with tqdm(total=count, desc="features", unit="image", file=sys.stderr) as bar:
        for start in range(0, count, BATCH):
            yield plain.read(start, stop := min(start + BATCH, count))
            bar.update(stop - start)


def _kept(
    config: Config, plain: PlainImages, split: str, count: int, backbone: Backbone
) -> npt.NDArray[np.float32] | None:
    """Features from the owner's scratch, or computed and kept there; None where they cannot be."""
    from ppvit.models.features import known_by

    width, sections = pooled(plain.read(0, 1), backbone).shape[1], (config.dataset, config.encrypt)
    determines = {
        **known_by(backbone.model),
        "normalised": [backbone.mean, backbone.std],
        "images": [split, plain.manifest["shards"], *(each.model_dump(mode="json") for each in sections)],
    }
    return kept_array(
        f"features of {plain.folder}",
        determines,
        (count, width),
        np.dtype(np.float32),
        lambda: (pooled(images, backbone) for images in _read(plain, count)),
    )


def _pixels(images: npt.NDArray[np.uint8], kind: str) -> npt.NDArray[np.float32]:
    values = images.mean(-1) if kind == "grey" else images
    return values.reshape(len(images), -1).astype(np.float32) / np.float32(255)


def pooled(images: npt.NDArray[np.uint8], backbone: Backbone) -> npt.NDArray[np.float32]:
    """Features of images, uint8 (n, H, W, 3), before the head: (n, D)."""
    import torch

    from ppvit.core.device import device

    model: Any = backbone.model.to(device())  # timm's have no types
    mean, std = (torch.tensor(values, device=device()).view(3, 1, 1) for values in (backbone.mean, backbone.std))
    pixels = torch.from_numpy(images).to(device()).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        pooled = model.forward_head(model.forward_features((pixels - mean) / std), pre_logits=True)
    features: npt.NDArray[np.float32] = pooled.cpu().numpy()
    return features
