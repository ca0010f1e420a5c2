"""Region tree: a segmenter of tissue that needs no weights.

Small superpixels are merged, the most alike neighbors first (Ward's criterion on a region adjacency graph), by their
stains and their texture. Every node of the tree is a region; one that stays the same while everything around it would
have to be merged before it does is what the eye calls a gland, a vessel or a lumen.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_fill_holes
from scipy.sparse import coo_matrix
from skimage.segmentation import slic

from napari_histomix.records import Event, Job
from napari_histomix.stains import is_tissue, optical_density, stain_density

WORKING_SIDE = 512
"""Pixels: the longer side of an image that regions are looked for in. Tissue regions are large."""
LEAST_SHARE = 0.15
"""Of a superpixel's expected area, what is left alone: scikit-image's own half merges most of H&E's superpixels."""
LEAVES = 1000
"""Superpixels a tree begins with, about."""
EXTENT = (0.01, 0.25)
"""Least and largest share of the image that a region may have."""
LARGER = 0.5
"""How much larger regions are preferred: the power of their share of the image in the score."""
ROUNDING = 1e-6
"""Regions of an even image differ by what single precision rounds."""
NOISE = 0.1
"""Ward's distance between regions that differ by no more than noise does."""
PINHOLE = 0.01
"""Holes in a region below this share of the image belong to it."""
SMOOTH = 3.0
"""Gaussian's standard deviation for a mask's outline, in pixels of an image of ``WORKING_SIDE``."""
COMPACT = 0.75
"""How much regions of a piece are preferred: the power of their compactness in the score."""
AT_BORDER = 0.02
"""What the score of a region at the image's border counts beside that of a whole one."""
SPARSE = 4
"""Every so many pixels of the working copy are enough to see a region's shape."""
CLEAR = 0.3
"""Summed optical density (base 10) below which what a region encloses is its lumen."""
ENCLOSED = 0.6
"""Holes in a region below this share of it belong to it, as lumen to a gland."""
TONGUE = 9.0
"""Half the width, in pixels of an image of ``WORKING_SIDE``, below which a part of a region is a tongue."""
NUCLEI, TEXTURE = 15, 10.0
"""Median filter's side, and Gaussian's standard deviation, in pixels of an image of ``WORKING_SIDE``: wide enough that
a nucleus in stroma is part of the stroma."""


def working_copy(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The image (H, W, 3) with its longer side at most ``WORKING_SIDE``."""
    factor = WORKING_SIDE / max(pixels.shape[:2])
    if factor >= 1:
        return pixels
    rows, cols = (max(1, round(size * factor)) for size in pixels.shape[:2])
    return np.asarray(cv2.resize(pixels, (cols, rows), interpolation=cv2.INTER_AREA), np.uint8)


def superpixels(
    pixels: NDArray[np.uint8], count: int = 30, compactness: float = 10.0, sigma: float = 1.0, tissue: float = 0.5
) -> NDArray[np.int32]:
    """SLIC superpixels in Lab (Achanta et al., TPAMI 2012) of an image (H, W, 3): a map (H, W) from 1 on.

    About ``count`` superpixels, the squarer the higher ``compactness``, after Gaussian smoothing of ``sigma`` pixels of
    the working copy. Those with a smaller share of tissue (not bare glass) than ``tissue`` are 0.
    """
    small = working_copy(pixels)
    labels = slic(
        small, n_segments=count, compactness=compactness, sigma=sigma, start_label=1, min_size_factor=LEAST_SHARE
    )
    labels = np.asarray(labels, np.int32)
    area = np.bincount(labels.ravel())
    held = np.bincount(labels.ravel(), is_tissue(small).ravel())
    labels[(held < tissue * np.maximum(area, 1))[labels]] = 0
    return np.asarray(cv2.resize(labels, pixels.shape[1::-1], interpolation=cv2.INTER_NEAREST), np.int32)


@dataclass(frozen=True, eq=False)
class RegionTree:
    """The regions of one image of ``shape`` (H, W).

    ``leaves`` (h, w) holds the leaf of every pixel of the working copy, and ``spans`` (N, 2) the first leaf of every
    node and the first beyond it. ``parents`` (N,) are the parents of the nodes, leaves first; the root's is itself.
    ``scores`` (N,) say how long a region persists and how much of a piece it is, 0–1; they are negative where it is too
    small or too large to be one.
    """

    leaves: NDArray[np.int32]
    spans: NDArray[np.intp]
    parents: NDArray[np.intp]
    scores: NDArray[np.float64]
    shape: tuple[int, int]

    @classmethod
    def grow(cls, pixels: NDArray[np.uint8]) -> RegionTree:
        """The tree of an image (H, W, 3) uint8."""
        from sklearn.cluster import ward_tree

        small = working_copy(pixels)
        smooth = np.asarray(cv2.medianBlur(small, 9), np.uint8)
        leaves = slic(smooth, LEAVES, compactness=15, sigma=1, start_label=0, max_num_iter=5, min_size_factor=0.3)
        leaves = np.unique(leaves, return_inverse=True)[1].reshape(leaves.shape).astype(np.int32)
        count = int(leaves.max()) + 1
        shape = (pixels.shape[0], pixels.shape[1])
        if count == 1:
            return cls(leaves, np.array([[0, 1]]), np.zeros(1, np.intp), np.full(1, -1.0), shape)
        area = np.bincount(leaves.ravel(), minlength=count)
        features = np.stack(
            [np.bincount(leaves.ravel(), values.ravel(), count) / area for values in _appearance(small)], axis=1
        )
        neighbors = _adjacency(leaves, count)
        children, _, _, parents, heights = ward_tree(features, connectivity=neighbors, return_distance=True)
        share = np.concatenate([area, np.zeros(len(children))]) / leaves.size
        for node, pair in enumerate(children, start=count):
            share[node] = share[pair].sum()
        parents = np.asarray(parents, np.intp)
        born = np.concatenate([np.zeros(count), heights])
        gone = born[parents]
        scores = (gone - born) / (gone + NOISE) * share**LARGER
        scores[(share < EXTENT[0]) | (share > EXTENT[1]) | (gone - born <= ROUNDING)] = -1
        spans = _spans(children, count)
        # Leaves are numbered anew, in the order in which those of a node stand side by side.
        leaves = spans[leaves, 0].astype(np.int32)
        order = np.concatenate([np.argsort(spans[:count, 0]), np.arange(count, len(spans))])
        spans, parents, scores = spans[order], parents[order], scores[order]
        clear = (optical_density(smooth).sum(axis=-1) < CLEAR)[::SPARSE, ::SPARSE]
        sparse = leaves[::SPARSE, ::SPARSE]
        scores = np.array(
            [
                s * _of_a_piece(_between(sparse, span), clear) if s > 0 else s
                for s, span in zip(scores, spans, strict=True)
            ]
        )
        return cls(leaves, spans, parents, scores, shape)

    def best(self, points: NDArray[np.float64]) -> NDArray[np.intp]:
        """Nodes (N,) of the regions around points (N, 2) that persist longest; −1 where there is none."""
        rows, cols = (
            np.clip(points[:, axis] * size / full, 0, size - 1).astype(np.intp)
            for axis, (size, full) in enumerate(zip(self.leaves.shape, self.shape, strict=True))
        )
        leaves, inverse = np.unique(self.leaves[rows, cols], return_inverse=True)
        return np.array([self._best_around(leaf) for leaf in leaves.tolist()], np.intp)[inverse]

    def _best_around(self, leaf: int) -> int:
        line = [leaf]
        while (parent := int(self.parents[line[-1]])) != line[-1]:
            line.append(parent)
        node = max(line, key=self.scores.__getitem__)
        return node if self.scores[node] > 0 else -1

    def region(self, node: int) -> NDArray[np.bool_]:
        """The mask (h, w) of a node in the working copy."""
        return _between(self.leaves, self.spans[node])

    def mask(self, node: int) -> NDArray[np.bool_]:
        """The mask (H, W) of a node in the image: its outline smoothed, tongues cut off, what it encloses closed."""
        region = self.region(node)
        size = max(region.shape) / WORKING_SIDE
        holes = binary_fill_holes(region) & ~region
        count, labels, stats, _ = cv2.connectedComponentsWithStats(holes.astype(np.uint8), connectivity=4)
        most = max(PINHOLE * region.size, ENCLOSED * np.count_nonzero(region))
        small = np.flatnonzero(stats[:, cv2.CC_STAT_AREA] < most)
        region = region | np.isin(labels, small[small > 0]) if count > 1 else region
        soft = cv2.GaussianBlur(region.astype(np.float32), (0, 0), SMOOTH * size, borderType=cv2.BORDER_REFLECT)
        smooth = _without_tongues(soft > 0.5, max(1, round(TONGUE * size)))
        return np.asarray(cv2.resize(smooth.astype(np.float32), self.shape[::-1], interpolation=cv2.INTER_LINEAR) > 0.5)


def _spans(children: NDArray[np.intp], count: int) -> NDArray[np.intp]:
    """Leaves in an order in which those of every node stand side by side: first and first beyond, (N, 2)."""
    size = np.ones(count + len(children), np.intp)
    for node, pair in enumerate(children, start=count):
        size[node] = size[pair].sum()
    first = np.zeros_like(size)
    for node in range(len(size) - 1, count - 1, -1):
        one, other = children[node - count]
        first[one], first[other] = first[node], first[node] + size[one]
    return np.column_stack([first, first + size])


def _between(leaves: NDArray[np.int32], span: NDArray[np.intp]) -> NDArray[np.bool_]:
    return np.asarray((leaves >= span[0]) & (leaves < span[1]))


def _of_a_piece(region: NDArray[np.bool_], clear: NDArray[np.bool_]) -> float:
    """How much of a piece a region (h, w) is, 0–1: a disc is, with the lumen that it encloses; less at the border."""
    closed = region | (binary_fill_holes(region) & clear)
    piece = _without_tongues(closed, max(1, round(TONGUE * max(region.shape) / WORKING_SIDE)))
    inner = np.pad(piece, 1)
    edges = np.count_nonzero(inner[1:] != inner[:-1]) + np.count_nonzero(inner[:, 1:] != inner[:, :-1])
    if not edges:
        return 0.0
    # Edges of pixels are longer than the outline, on the whole by 4 / π.
    compactness = min(1.0, 4 * np.pi * np.count_nonzero(piece) / (np.pi / 4 * edges) ** 2)
    border = any(line.any() for line in (piece[0], piece[-1], piece[:, 0], piece[:, -1]))
    kept = np.count_nonzero(piece & region) / np.count_nonzero(region)
    return float(compactness**COMPACT * kept**2 * (AT_BORDER if border else 1.0))


def _without_tongues(mask: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
    """The largest piece of a mask without parts narrower than twice a radius."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    # Beyond the image's border a region goes on.
    wide = np.pad(mask.astype(np.uint8), 2 * radius, mode="edge")
    opened = cv2.morphologyEx(wide, cv2.MORPH_OPEN, kernel)[2 * radius : -2 * radius, 2 * radius : -2 * radius]
    _, labels, stats, _ = cv2.connectedComponentsWithStats(opened, connectivity=4)
    areas = stats[1:, cv2.CC_STAT_AREA]
    return np.asarray(labels == 1 + areas.argmax()) if areas.size else np.zeros_like(mask)


class RegionTreePrompter:
    """Answers points with the region around them that persists longest (``segmentation.Prompter``)."""

    name = "region-tree-2"

    def __call__(self, pixels: NDArray[np.uint8], points: NDArray[np.float64]) -> Job[TreeProposals]:
        """Answer points (N, 2) in an image (H, W, 3) uint8; a long job (see ``records.Job``)."""
        yield Event("Growing the region tree")
        tree = RegionTree.grow(pixels)
        return TreeProposals(tree, tree.best(points))


class TreeProposals:
    """For each point its best region (``segmentation.Proposals``); the node is −1 where there is none."""

    def __init__(self, tree: RegionTree, nodes: NDArray[np.intp]) -> None:
        self.tree, self.nodes = tree, nodes
        self.scores = np.where(nodes < 0, np.nan, tree.scores[nodes])
        self.regions = {int(node): tree.region(int(node)) for node in np.unique(nodes) if node >= 0}
        self.identities = np.full((len(nodes), 3), np.nan)
        factor = np.array(tree.shape) / tree.leaves.shape
        for node, region in self.regions.items():
            rows, cols = np.nonzero(region)
            size = np.sqrt(len(rows) * factor.prod())
            self.identities[nodes == node] = (rows.mean() * factor[0], cols.mean() * factor[1], size)

    def overlaps(self, first: NDArray[np.intp], second: NDArray[np.intp]) -> NDArray[np.float64]:
        """Intersections over union (n, m)."""
        masks, others = (
            np.array([self.regions[int(self.nodes[point])].ravel() for point in points], np.float32)
            for points in (first, second)
        )
        shared = masks @ others.T
        return np.asarray(shared / (masks.sum(axis=1)[:, None] + others.sum(axis=1)[None] - shared), np.float64)

    def masks(self, points: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Masks (n, H, W) at the image's size."""
        masks = [self.tree.mask(int(node)) for node in self.nodes[points]]
        return np.array(masks, bool).reshape(-1, *self.tree.shape)


def _appearance(small: NDArray[np.uint8]) -> list[NDArray[np.floating]]:
    """What regions are told apart by: stains and brightness without nuclei, their density, and texture; each (h, w)."""
    size = max(small.shape[:2]) / WORKING_SIDE
    side, sigma = max(3, 2 * round(NUCLEI * size / 2) + 1), max(1.0, TEXTURE * size)

    def blurred(values: NDArray[np.floating]) -> NDArray[np.floating]:
        return np.asarray(cv2.GaussianBlur(values, (0, 0), sigma), np.float32)

    def median(values: NDArray[np.floating]) -> NDArray[np.floating]:
        bytes_ = np.clip(np.rint(values * 255), 0, 255).astype(np.uint8)
        return cv2.medianBlur(bytes_, side).astype(np.float32) / 255

    stains = stain_density(small)
    hematoxylin, eosin = np.ascontiguousarray(stains[..., 0]), np.ascontiguousarray(stains[..., 1])
    dark = 1 - cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    nuclei = (hematoxylin > hematoxylin.mean() + hematoxylin.std()).astype(np.float32)
    contrast = np.sqrt(np.maximum(blurred(dark**2) - blurred(dark) ** 2, 0))
    # Weights: all terms spread about alike over a section with glands, stroma and lumen.
    return [
        1.5 * median(hematoxylin),
        1.5 * median(eosin),
        median(dark),
        0.6 * blurred(nuclei),
        blurred(hematoxylin),
        blurred(eosin),
        1.5 * contrast,
    ]


def _adjacency(leaves: NDArray[np.int32], count: int) -> coo_matrix:
    """Which leaves share an edge, (count, count)."""
    pairs = [(leaves[:, :-1], leaves[:, 1:]), (leaves[:-1], leaves[1:])]
    first, second = (np.concatenate([pair[side].ravel() for pair in pairs]) for side in (0, 1))
    different = first != second
    ends = np.concatenate([first[different], second[different]]), np.concatenate([second[different], first[different]])
    return coo_matrix((np.ones(len(ends[0])), ends), (count, count)).tocsr()
