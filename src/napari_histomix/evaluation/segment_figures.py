"""How well segments agree with things that a person outlined: covering and boundary F.

Both are made for outlines of some things in an image. What is not outlined is unknown and never counts against a
segment.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from napari_histomix.evaluation.metrics import NAN
from napari_histomix.records import HistomixError


@dataclass(frozen=True, eq=False)
class Outline:
    """A thing that a person outlined.

    Parameters
    ----------
    what : str
        The kind of thing, such as gland.
    points : (n, 2) float64
        Corners of a closed polygon: x and y in pixels.
    """

    what: str
    points: NDArray[np.float64]

    def mask(self, shape: tuple[int, ...]) -> NDArray[np.bool_]:
        """The pixels (H, W) of an image of ``shape`` that it encloses."""
        filled = np.zeros(shape[:2], np.uint8)
        cv2.fillPoly(filled, [np.rint(self.points).astype(np.int32)], 1)
        return filled.astype(bool)


class BoundaryAgreement(NamedTuple):
    """Precision, recall and their harmonic mean, F."""

    precision: float
    recall: float
    f: float


def read_outlines(path: Path) -> Mapping[str, tuple[Outline, ...]]:
    """Read outlines of images from a JSON file.

    The file maps names of images to lists of ``{"what": kind, "outline": [[x, y], …]}``; an entry ``about`` describes
    it and is passed over.

    Raises
    ------
    HistomixError
        If the file cannot be read or is of another form.
    """
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
        return {
            image: tuple(
                Outline(str(thing["what"]), np.array(thing["outline"], float).reshape(-1, 2)) for thing in things
            )
            for image, things in read.items()
            if image != "about"
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise HistomixError(
            f"{path} holds no outlines ({error}); it must map names of images to lists of what and outline."
        ) from error


def best_overlaps(truth: NDArray[np.bool_], segments: NDArray[np.integer]) -> NDArray[np.float64]:
    """The best intersection over union that a segment has with each true thing.

    Parameters
    ----------
    truth : (n, H, W) bool
        Masks of things; they may overlap.
    segments : (H, W) int
        Label map; 0 is no segment.

    Returns
    -------
    (n,) float64
        max over segments S of |R ∩ S| / |R ∪ S| for each thing R; 0 where no segment meets it.
    """
    areas = np.bincount(segments.ravel())
    best = np.zeros(len(truth))
    for place, thing in enumerate(truth):
        shared = np.bincount(segments[thing], minlength=len(areas))
        unions = np.count_nonzero(thing) + areas - shared
        best[place] = (shared[1:] / np.maximum(unions[1:], 1)).max(initial=0.0)
    return best


def covering(truth: NDArray[np.bool_], segments: NDArray[np.integer]) -> float:
    """How well segments cover true things, 0–1.

    Σ |R| · max IoU(R, S) / Σ |R|, with the things R and the segments S (``best_overlaps``). The paper sums over all
    regions of a divided image; here the sum goes over the things that were outlined.

    Parameters
    ----------
    truth : (n, H, W) bool
        Masks of things; they may overlap.
    segments : (H, W) int
        Label map; 0 is no segment.

    Returns
    -------
    float
        NaN where there is no thing.

    References
    ----------
    Arbelaez et al., "Contour detection and hierarchical image segmentation", TPAMI 33 (2011), section 2.3.2.

    Examples
    --------
    >>> left = np.array([[[True, True, False, False]]])
    >>> covering(left, np.array([[1, 1, 0, 0]])), covering(left, np.array([[1, 2, 2, 2]]))
    (1.0, 0.5)
    """
    areas = truth.sum(axis=(1, 2))
    return float(areas @ best_overlaps(truth, segments) / areas.sum()) if areas.sum() else NAN


def boundary_agreement(truth: NDArray[np.bool_], segments: NDArray[np.integer], tolerance: float) -> BoundaryAgreement:
    """How well boundaries of segments agree with those of true things.

    Boundary pixels lie on either side of a change of the map; the image's border is no boundary. Near means within the
    tolerance (Euclidean distance).

    - recall = true boundary pixels near a boundary of the segments / all true boundary pixels;
    - precision = boundary pixels of the segments near a true boundary / those near one or within a thing. A boundary
      farther out, where nothing was outlined, may be right or wrong and is left out;
    - F = 2 · precision · recall / (precision + recall).

    Unlike Martin et al., who pair the pixels of both sides, a pixel may be near several, so thick or doubled boundaries
    are not punished.

    Parameters
    ----------
    truth : (n, H, W) bool
        Masks of things; they may overlap.
    segments : (H, W) int
        Label map; 0 is no segment, and the edge between a segment and none is a boundary.
    tolerance : float
        In pixels.

    Returns
    -------
    BoundaryAgreement
        NaN where no thing has a boundary; 0 where segments have none that counts.

    References
    ----------
    Martin et al., "Learning to detect natural image boundaries using local brightness, color, and texture cues", TPAMI
    26 (2004).
    """
    true = np.zeros(segments.shape, bool)
    for thing in truth:
        true |= _edges(thing)
    if not true.any():
        return BoundaryAgreement(NAN, NAN, NAN)
    found = _edges(segments)
    near_true = _near(true, tolerance)
    judged = found & (near_true | truth.any(axis=0))
    if not judged.any():
        return BoundaryAgreement(0.0, 0.0, 0.0)
    precision = float(near_true[judged].mean())
    recall = float(_near(found, tolerance)[true].mean())
    total = precision + recall
    return BoundaryAgreement(precision, recall, 2 * precision * recall / total if total else 0.0)


def _edges(labels: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Pixels beside which, above, below, left or right, is another label."""
    edges = np.zeros(labels.shape, bool)
    across, down = labels[:, 1:] != labels[:, :-1], labels[1:] != labels[:-1]
    edges[:, 1:] |= across
    edges[:, :-1] |= across
    edges[1:] |= down
    edges[:-1] |= down
    return edges


def _near(edges: NDArray[np.bool_], tolerance: float) -> NDArray[np.bool_]:
    """Pixels within a distance of edges, of which there are some."""
    return np.asarray(cv2.distanceTransform((~edges).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= tolerance)
