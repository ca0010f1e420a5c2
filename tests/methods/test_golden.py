"""Synthetic images are those that were made before methods had one contract: same seed, same bytes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from napari_histomix.datasets import SAMPLE_RARE, load_sample
from napari_histomix.devices import threads
from napari_histomix.jobs import run
from napari_histomix.methods.candidate_stage import CandidateSettings
from napari_histomix.methods.nucleimix import NucleiMixSettings
from napari_histomix.records import KEEP, REAL, drain
from napari_histomix.study import Study
from napari_histomix.study.replay import LEVELS, SHARE

GOLDEN = Path(__file__).parents[1] / "golden"
MACHINE = ("versions", "processor", "threads", "precision", "device")


def check_pixels(pixels: np.ndarray, golden: np.ndarray, changed: np.ndarray, exact: bool) -> None:
    """The same bits on the same machine with the same libraries, else within the tolerance of replay."""
    apart = np.abs(pixels[changed].astype(int) - golden[changed]).max(axis=-1)
    assert np.count_nonzero(apart) == 0 if exact else (apart > LEVELS).mean() <= SHARE


@pytest.mark.timeout(600)
def test_twelve_nuclei_of_the_sample(tmp_path):
    golden = np.load(GOLDEN / "nucleimix.npz")
    told = json.loads((GOLDEN / "nucleimix.json").read_text(encoding="utf-8"))
    dataset = load_sample()
    study = Study.create(tmp_path / "study", dataset.root, dataset.name)
    with threads(told["facts"]["threads"]):
        outcome = drain(
            run(
                "nucleimix",
                dataset,
                NucleiMixSettings(
                    count=12, seed=0, device=told["facts"]["device"], check_free_places=False, collar=0.0, spare=1.0
                ),
                study,
                stage=CandidateSettings(
                    rare=(SAMPLE_RARE,),
                    density="gaussian",
                    neighborhood=False,
                    beside_rare=0,
                    balance=False,
                    area_ratio=(0.4, 1.1),
                ),
            )
        )
    assert list(outcome.ids) == told["ranks"]
    assert dict(outcome.refusals) == told["refusals"]
    first = study.change(told["ranks"][0]).provenance
    exact = all(first[key] == told["facts"][key] for key in MACHINE)
    for rank in told["ranks"]:
        change = study.change(rank)
        origin, nucleus, place = (golden[f"{rank}_{part}"] for part in ("origin", "nucleus", "place"))
        (instance,) = change.added
        assert [change.row, change.col, instance, change.seed] == place.tolist()
        assert np.array_equal(change.origin, origin)
        assert np.array_equal(change.labels, np.where(nucleus, instance, KEEP))
        check_pixels(change.pixels, golden[f"{rank}_pixels"], origin != REAL, exact)
    expected = {key: value for key, value in told["facts"].items() if key not in (*MACHINE, "search")}
    assert {key: first[key] for key in expected} == expected
