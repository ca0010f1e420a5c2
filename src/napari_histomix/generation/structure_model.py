"""Layouts drawn by a network: nuclei structures from noise, decoded into instance maps (NuDiff, arXiv 2310.14197)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from napari_histomix.devices import choose_device
from napari_histomix.generation.denoising import denoise
from napari_histomix.generation.inputs import check_kind, check_seed
from napari_histomix.generation.layout import Layout
from napari_histomix.generation.layout_board import Board
from napari_histomix.generation.models import GeneratorModel
from napari_histomix.generation.structure import class_maps, instances_of, structure_of
from napari_histomix.records import Event, HistomixError, Job, instance_ids

CELL = 4
"""Side in pixels of what is one pixel of the network's: it works at a quarter of the size, and loses nothing."""
DENSITY = 2000.0
"""Nuclei in a square millimeter that count as 1."""
GRID = 16
"""Sides of structures are multiples of this."""


def structure_maps(layout: Layout, classes: Sequence[str]) -> NDArray[np.float32]:
    """What the network draws: (3 + n, H, W) in [−1, 1]: semantic, horizontal, vertical, and each class."""
    structure = structure_of(layout.instances)
    kinds = class_maps(layout.instances, layout.classes, classes)
    structure[0] = 2 * structure[0] - 1
    return np.concatenate([structure, 2 * kinds - 1]).astype(np.float32)


def condition_vector(
    layout: Layout | None, classes: Sequence[str], shares: Mapping[str, float] | None = None, density: float = 0.0
) -> NDArray[np.float32]:
    """Class shares, density and whether they are given, (n + 2,): of a layout, or as asked for; zeros for neither."""
    if layout is not None:
        counts = layout.counts()
        shares = {name: counts[name] / max(counts.total(), 1) for name in classes}
        density = density_of(layout)
    if shares is None:
        return np.zeros(len(classes) + 2, np.float32)
    return np.array([*(shares.get(name, 0.0) for name in classes), density / DENSITY, 1], np.float32)


def density_of(layout: Layout) -> float:
    """Nuclei in a square millimeter."""
    return len(layout.classes) / (layout.instances.size * (layout.mpp / 1000) ** 2)


def sample(
    count: int,
    side: int,
    model: GeneratorModel,
    seeds: Sequence[int],
    *,
    shares: Mapping[str, float] | None = None,
    density: float = 4500.0,
    steps: int = 8,
    guidance: float = 1.0,
    ancestral: bool = False,
    device: str = "auto",
) -> Job[list[Layout]]:
    """Draw layouts from noise; a long job.

    Parameters
    ----------
    count, side : int
        How many, and their side in pixels at the model's scale.
    model : GeneratorModel
        Of the kind "structure".
    seeds : sequence of int
        One for each layout.
    shares : mapping of str to float, optional
        Share of nuclei of each class; a rare class can be asked for. None: as the model likes.
    density : float
        Nuclei in a square millimeter, 4,500 in the breast cancers of BRCA-M2C; counts where shares are given. What the
        network draws beyond shares and density is left out (`thinned`).
    steps, guidance, ancestral
        See `denoising.denoise`; the paper's are 1,000 ancestral steps without guidance. Guidance counts where shares
        are given, and makes the layout follow them and the density.
    device : str

    Raises
    ------
    HistomixError
        For a class that the model does not draw, too small a side, or shares, a density or seeds that are none.
    """
    check_kind(model, "structure")
    if side < GRID:
        raise HistomixError(f"A layout must have at least {GRID} pixels a side, not {side}.")
    if len(seeds) != count:
        raise HistomixError(f"There are {count} layouts to draw but {len(seeds)} seeds; give one for each.")
    for seed in seeds:
        check_seed(seed)
    if not all(np.isfinite(value) and value >= 0 for value in (density, *(shares or {}).values())):
        raise HistomixError("Class shares and density must be numbers from 0 up.")
    if unknown := [name for name in shares or () if name not in model.classes]:
        raise HistomixError(f"{model.name} draws no '{unknown[0]}'; its classes are {', '.join(model.classes)}.")
    padded = -(-side // GRID) * GRID
    place = choose_device(device)
    network = model.network.to(place)
    vector = torch.from_numpy(condition_vector(None, model.classes, shares, density))[None]
    layouts: list[Layout] = []
    shape = (CELL**2 * (3 + len(model.classes)), padded // CELL, padded // CELL)
    for number in range(count):
        drawing = denoise(
            network,
            model.schedule,
            shape,
            None,
            vector,
            seeds[number : number + 1],
            steps=steps,
            guidance=guidance if shares is not None else 0.0,
            ancestral=ancestral,
            device=place,
        )
        for step, clean in enumerate(drawing):
            drawn = clean
            yield Event("Drawing layouts", number * steps + step, count * steps)
        maps = torch.nn.functional.pixel_shuffle(drawn[0], CELL).cpu().numpy()[:, :side, :side]
        layout = decoded(maps, model.classes, model.mpp)
        layouts.append(layout if shares is None else thinned(layout, shares, density, seeds[number]))
    return layouts


def decoded(maps: NDArray[np.float32], classes: Sequence[str], mpp: float) -> Layout:
    """The layout of drawn maps (3 + n, H, W) in [−1, 1]: each nucleus has the class that most of it is drawn as."""
    instances = instances_of((maps[0] + 1) / 2, maps[1], maps[2])
    ids = instance_ids(instances)
    if not classes or not ids:
        return Layout(instances, dict.fromkeys(ids, ""), mpp)
    sums = np.stack([np.bincount(instances.ravel(), kind.ravel(), instances.max() + 1) for kind in maps[3:]])
    return Layout(instances, {number: classes[int(sums[:, number].argmax())] for number in ids}, mpp)


def thinned(layout: Layout, shares: Mapping[str, float], density: float, seed: int) -> Layout:
    """The nuclei that a layout may have by class shares and density; of each class those whose neighbors are nearest.

    So nuclei stay as crowded as they were drawn, and what is left out leaves room elsewhere, as real tissue has it. A
    part of a nucleus that is due is one with that probability, so that many small layouts together have the shares of
    rare classes, too.
    """
    rng = np.random.default_rng(seed)
    board = Board(layout)
    _, distances = board.neighbors()
    alone = dict(zip(board.pixels, distances.tolist(), strict=False))
    due = density * layout.instances.size * (layout.mpp / 1000) ** 2
    kept: set[int] = set()
    for name in sorted(set(layout.classes.values())):
        # Shuffled, so that among equals the place does not count.
        ids = rng.permutation([number for number, known in layout.classes.items() if known == name]).tolist()
        most = int(due * shares.get(name, 0.0) + rng.random())
        kept.update(sorted(ids, key=lambda number: alone.get(number, 0.0))[:most])
    instances = np.where(np.isin(layout.instances, list(kept)), layout.instances, 0)
    return replace(layout, instances=instances, classes={number: layout.classes[number] for number in sorted(kept)})
