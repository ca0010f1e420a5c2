"""Changes that no method made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from napari_histomix.datasets import Dataset, load_sample, open_any
from napari_histomix.records import KEEP, Candidate, Change, SourceRef
from napari_histomix.study import Study


def nucleus_change(
    candidate: Candidate,
    instance: int,
    corner: tuple[int, int],
    pixels: np.ndarray,
    origin: np.ndarray,
    nucleus: np.ndarray,
    provenance: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    method: str = "nucleimix",
) -> Change:
    """A nucleus of the candidate's donor where the candidate is; the change's id is the candidate's rank."""
    target, donor = candidate.target, candidate.donor
    return Change(
        candidate.rank,
        target.image,
        target.image,
        *corner,
        pixels,
        origin,
        np.where(nucleus, instance, KEEP).astype(np.int32),
        {instance: donor.type},
        (target.instance,) if target.instance else (),
        None,
        method,
        seed,
        (SourceRef.of("target", target), SourceRef.of("donor", donor)),
        candidate.percentile,
        dict(provenance or {}),
    )


def image_change(
    number: int,
    target: str,
    kind: str,
    pixels: np.ndarray,
    origin: np.ndarray,
    donors: Iterable[str] = (),
    provenance: Mapping[str, Any] | None = None,
    *,
    name: str = "",
    seed: int = 0,
    method: str = "usegmix",
) -> Change:
    """A whole image derived from a real one of its class."""
    sources = SourceRef("target", target), *(SourceRef("donor", donor) for donor in donors)
    return Change(
        number,
        target,
        name or f"{target} mix {number + 1}",
        0,
        0,
        pixels,
        origin,
        None,
        {},
        (),
        {kind: 1.0},
        method,
        seed,
        sources,
        provenance=dict(provenance or {}),
    )


def study_of(folder: Path, dataset: Dataset, changes: Iterable[Change], candidates: Iterable[Candidate] = ()) -> Study:
    """A new study that holds these changes as one finished run."""
    study = Study.create(folder, dataset.root, dataset.name)
    study.set_candidates(candidates, {"candidate_settings": {"rare": []}, "encoder": "texture", "temperature": 1.0})
    changes = tuple(changes)
    run = study.begin_run(changes[0].method if changes else "nucleimix", {})
    study.add_changes(run.id, changes)
    study.set_plan(run.id, len(changes), {})
    study.end_run(run.id)
    return study


def tissue_of_sample(root: Path, kinds: Sequence[str], side: int = 64) -> Dataset:
    """Corners of the sample's first images in folders of these classes, one for each image."""
    sample = load_sample()
    for number, (kind, entry) in enumerate(zip(kinds, sample.entries, strict=False)):
        file = root / kind / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(sample.read(entry).pixels[:side, :side]).save(file)
    (root / "dataset.json").write_text('{"mpp": 0.5}')
    return open_any(root)
