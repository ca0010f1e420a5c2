"""How far stains lie apart before and after matching (``stain.match_tissue``), within hospitals and across them.

    python benchmarks/stain.py BRCA_M2C/images [--pairs 60] [--sheet FILE.png]

Images are named by their TCGA barcode, whose first part after TCGA- is the hospital that the tissue came from. Of each
pair, one image is a donor and the other one its target. The shifts are found on the left halves of both and tried on
the donor's right half, which is then compared with the target's right half: hematoxylin and eosin of nuclei, of the
rest of tissue, and of lumen, as the Wasserstein distance of their densities (base 10; the mean of both stains). As a
floor, the two halves of the target are compared. ``--sheet`` writes a few pairs at their own scale: target, donor,
donor after matching.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import wasserstein_distance
from skimage.filters import threshold_otsu

from napari_histomix.compositing.stain import KIND_SHIFT, match_tissue, with_kind_shifts
from napari_histomix.datasets import read_pixels
from napari_histomix.datasets.writing import write_png
from napari_histomix.stains import GLASS, optical_density, stain_density

KINDS = ("nuclei", "rest", "lumen")
CLEAR = 3 * GLASS
"""Summed optical density below which a pixel is lumen or glass."""
LEAST = 200
"""Pixels of a kind in both halves below which a pair does not count for it."""
SHOWN = 4
"""Pairs of different hospitals on the sheet, and side in pixels of each picture."""
SIDE = 230

Halves = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def kinds_of(pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.bool_]]:
    """Where nuclei, the rest of tissue, and lumen are (H, W)."""
    clear = optical_density(pixels).sum(axis=-1) < CLEAR
    hematoxylin = stain_density(pixels)[..., 0]
    if clear.all():
        return {"lumen": clear}
    nuclear = ~clear & (hematoxylin > threshold_otsu(hematoxylin[~clear]))
    return {"nuclei": nuclear, "rest": ~clear & ~nuclear, "lumen": clear}


def distance(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    """Between the hematoxylin and eosin densities of pixels (n, 3) and (m, 3)."""
    stains = stain_density(first), stain_density(second)
    return float(np.mean([wasserstein_distance(stains[0][:, stain], stains[1][:, stain]) for stain in (0, 1)]))


def halves(path: Path) -> Halves:
    """The left and the right half of an image."""
    pixels = read_pixels(path)
    middle = pixels.shape[1] // 2
    return pixels[:, :middle], pixels[:, middle:]


def drawn(paths: list[Path], count: int, seed: int = 0) -> dict[str, list[tuple[Path, Path]]]:
    """Pairs of images of two patients, of one hospital and of two."""
    rng, found = np.random.default_rng(seed), defaultdict[str, list[tuple[Path, Path]]](list)
    hospital = {path: path.name.split("-")[1] for path in paths}
    while min(len(found[name]) for name in ("one hospital", "two hospitals")) < count:
        first, second = (paths[place] for place in rng.choice(len(paths), 2, replace=False))
        name = "one hospital" if hospital[first] == hospital[second] else "two hospitals"
        if first.name[:12] != second.name[:12] and len(found[name]) < count:
            found[name].append((first, second))
    return dict(found)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--pairs", type=int, default=60, help="of one hospital, and of two")
    parser.add_argument("--sheet", type=Path, help="new PNG of a few pairs")
    options = parser.parse_args()
    print("| pairs | tissue | before | after | halves of one image | closer after |\n|---|---|---|---|---|---|")
    told, rows = [], list[NDArray[np.uint8]]()
    for name, pairs in drawn(sorted(options.images.glob("*.png")), options.pairs).items():
        figures: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
        clipped, unmatched = 0, 0
        for own, other in pairs:
            donor, target = halves(own), halves(other)
            everywhere = [np.ones(half.shape[:2], bool) for half in (donor[0], target[0])]
            _, settings = match_tissue(donor[0], (donor[0], everywhere[0]), (target[0], everywhere[1]))
            unmatched += not settings
            shifts = [abs(shift) for kind in ("nuclei", "rest") for shift in settings.get(kind, ())]
            if max(shifts, default=0) >= KIND_SHIFT:
                # Refused: such a donor is not mixed.
                clipped += 1
                continue
            matched = with_kind_shifts(donor[1], settings)
            own_kinds, there, left = kinds_of(donor[1]), kinds_of(target[1]), kinds_of(target[0])
            for kind in KINDS:
                masks = [kinds.get(kind, np.zeros((1, 1), bool)) for kinds in (own_kinds, there, left)]
                if min(int(mask.sum()) for mask in masks) < LEAST:
                    continue
                wanted = target[1][masks[1]]
                figures[kind].append((
                    distance(donor[1][masks[0]], wanted),
                    distance(matched[masks[0]], wanted),
                    distance(target[0][masks[2]], wanted),
                ))  # fmt: skip
            if name == "two hospitals" and len(rows) < SHOWN:
                corners = [half[:SIDE, :SIDE] for half in (target[1], donor[1], matched)]
                if all(corner.shape == (SIDE, SIDE, 3) for corner in corners):
                    rows.append(np.hstack(corners))
        for kind, values in figures.items():
            before, after, floor = np.median(values, axis=0)
            closer = np.mean([each[1] < each[0] for each in values])
            print(f"| {name} | {kind} ({len(values)}) | {before:.3f} | {after:.3f} | {floor:.3f} | {closer:.0%} |")
        told.append(f"{name}: {clipped} of {len(pairs)} beyond what is matched (refused), {unmatched} left as they are")
    print("", *told, sep="\n")
    if options.sheet:
        write_png(options.sheet, np.vstack(rows), synthetic=True)


if __name__ == "__main__":
    main()
