"""How like two sets of pictures are, by their features: Fréchet distance, KID, density and coverage.

Each of these depends on the number of pictures, the Fréchet distance most of all: a figure says something only beside
the same figure of as many real pictures.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from napari_histomix.features import Encoder
from napari_histomix.features.context import PATCH_MPP, PATCH_SIZE, context_patches
from napari_histomix.records import LabeledImage, Source
from napari_histomix.stains import stain_of

Features = NDArray[np.float64]

NEIGHBORS = 5
"""k of density and coverage, as Naeem et al. chose it."""


def picture_features(pictures: Sequence[NDArray[np.uint8]], mpp: float, encoder: Encoder) -> Features:
    """Features of patches of 56 µm that lie beside each other on pictures, (N, dim); smaller pictures are mirrored.

    Parameters
    ----------
    pictures : sequence of (H, W, 3) uint8
    mpp : float
        Micrometers per pixel.
    encoder : Encoder
    """
    span = PATCH_SIZE * PATCH_MPP / mpp
    features = [np.empty((0, encoder.dim))]
    for pixels in pictures:
        axes = [
            (np.arange(count := max(1, int(length / span))) + 0.5) * length / count - 0.5 for length in pixels.shape[:2]
        ]
        centers = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
        bare = LabeledImage(pixels, np.zeros(pixels.shape[:2], np.int32), {}, mpp, Source("", "picture"))
        features.append(encoder(context_patches(bare, centers, erase=0)).astype(np.float64))
    return np.concatenate(features)


def standardized(features: Features, reference: Features) -> Features:
    """Features in the reference's standard deviations from its mean, so that each counts alike."""
    spread = reference.std(axis=0)
    # A feature that does not vary tells nothing, and would divide by zero.
    return np.asarray((features - reference.mean(axis=0)) / np.where(spread > 1e-6, spread, 1))


def frechet_distance(features: Features, reference: Features) -> float:
    """Fréchet distance of two sets of features (N, d), (M, d), as of normal distributions; 0 is best.

    |μ₁ − μ₂|² + tr(C₁ + C₂ − 2 (C₁ C₂)^½): of Inception's features the FID (Heusel et al., NeurIPS 2017).

    Examples
    --------
    >>> reference = np.random.default_rng(0).standard_normal((50, 3))
    >>> round(frechet_distance(reference + [2, 0, 0], reference), 6)
    4.0
    """
    shift = features.mean(axis=0) - reference.mean(axis=0)
    first, second = (np.atleast_2d(np.cov(each, rowvar=False)) for each in (features, reference))
    # The product's eigenvalues are those of a symmetric matrix, which stays so where there are few pictures.
    values, vectors = np.linalg.eigh(first)
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ second @ root), 0)).sum()
    return max(float(shift @ shift + np.trace(first) + np.trace(second) - 2 * cross), 0.0)


def kernel_distance(features: Features, reference: Features) -> float:
    """Unbiased squared maximum mean discrepancy with the kernel (x·y/d + 1)³: KID; about 0 for one distribution.

    Below 0 by chance. Bińkowski et al., "Demystifying MMD GANs", ICLR 2018.

    Examples
    --------
    >>> first, second = np.random.default_rng(0).standard_normal((2, 200, 3))
    >>> abs(kernel_distance(first, second)) < 0.1 < kernel_distance(first + 1, second)
    True
    """

    def kernel(left: Features, right: Features) -> Features:
        return np.asarray((left @ right.T / left.shape[1] + 1) ** 3)

    def within(each: Features) -> float:
        values, count = kernel(each, each), len(each)
        return float((values.sum() - np.trace(values)) / (count * (count - 1)))

    return within(features) + within(reference) - 2 * float(kernel(features, reference).mean())


def density_coverage(features: Features, reference: Features, neighbors: int = NEIGHBORS) -> tuple[float, float]:
    """Density and coverage of pictures among real ones; each about 1 for pictures that are as the real ones.

    A real picture's ball reaches to its k-th nearest other real one. Density is how many such balls hold a picture, on
    average and over k; coverage the share of balls that hold a picture. Naeem et al., "Reliable fidelity and diversity
    metrics for generative models", ICML 2020.

    Examples
    --------
    >>> reference = np.random.default_rng(0).standard_normal((50, 3))
    >>> density_coverage(reference[:1].repeat(50, axis=0), reference)[1] < 0.3
    True
    """
    neighbors = min(neighbors, len(reference) - 1)
    radii = np.partition(cdist(reference, reference), neighbors, axis=1)[:, neighbors]
    inside = cdist(reference, features) <= radii[:, None]
    return float(inside.sum() / (neighbors * len(features))), float(inside.any(axis=1).mean())


def stain_distances(
    pictures: Sequence[NDArray[np.uint8]], reference: Sequence[NDArray[np.uint8]]
) -> tuple[float, float]:
    """How far the mean and the spread of the optical density of whole pictures are from those of real ones.

    Mean and standard deviation within each picture, averaged over pictures; their absolute differences, averaged over
    red, green and blue.
    """
    shift = np.abs(
        np.mean([stain_of(pixels) for pixels in pictures], axis=0)
        - np.mean([stain_of(pixels) for pixels in reference], axis=0)
    )
    return float(shift[:3].mean()), float(shift[3:].mean())
