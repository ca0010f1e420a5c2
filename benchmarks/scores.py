"""How long it takes to score predictions of nuclei.

    python benchmarks/scores.py DATASET [--count 1000] [--side 256]

Cuts tiles out of a dataset of labeled nuclei, moves the nuclei by two pixels and changes every fifth class, and prints
CPU seconds for all figures, without reading and with it (HoVer-Net's files on both sides).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from napari_histomix.datasets import open_dataset, write_dataset_json, write_hovernet, write_type_info
from napari_histomix.evaluation.metrics import NucleusTally, Overlaps
from napari_histomix.evaluation.scoring import score


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--side", type=int, default=256)
    options = parser.parse_args()
    dataset, side = open_dataset(options.dataset), options.side
    rng, figures, nuclei = np.random.default_rng(0), 0.0, 0
    tally = NucleusTally()
    with tempfile.TemporaryDirectory() as folder:
        sides = Path(folder) / "pred", Path(folder) / "truth"
        each = -(-options.count // len(dataset.entries))
        for number in range(options.count):
            if number % each == 0:
                image = dataset.read(dataset.entries[number // each])
            row, col = (int(rng.integers(0, length - side + 1)) for length in image.instances.shape)
            window = np.s_[row : row + side, col : col + side]
            pixels, truth = image.pixels[window], np.ascontiguousarray(image.instances[window])
            pred = np.roll(truth, 2, axis=0)
            types = {int(i): image.types[int(i)] for i in np.unique(truth) if i}
            guessed = {i: int(rng.choice(dataset.classes).number) if i % 5 == 0 else kind for i, kind in types.items()}
            nuclei += len(types)
            start = time.process_time()
            overlaps = Overlaps.of(pred, truth)
            overlaps.figures()
            tally.add(overlaps, *({i: str(kind) for i, kind in kinds.items()} for kinds in (guessed, types)), image.mpp)
            figures += time.process_time() - start
            for root, instances, kinds in zip(sides, (pred, truth), (guessed, types), strict=True):
                write_hovernet(root, f"tile_{number}", pixels, instances, kinds, image.mpp)
        for root in sides:
            write_type_info(root, dataset.classes)
            write_dataset_json(root, name=root.name)
        start = time.process_time()
        score(*sides)
        whole = time.process_time() - start
    print(f"{options.count:,} tiles of {side}², {nuclei / options.count:.0f} nuclei each")
    print(f"all figures: {figures:.1f} s; with reading both sides: {whole:.1f} s")


if __name__ == "__main__":
    main()
