"""USegMix gives what it gave before methods had a contract: the same plan, and the same bytes on the same machine."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from napari_histomix import jobs
from napari_histomix.datasets import Dataset, load_sample, open_tissue
from napari_histomix.diffusion.environment import threads
from napari_histomix.methods.segment_stage import PoolSettings
from napari_histomix.methods.usegmix import METHOD, USegMixSettings
from napari_histomix.records import Change, drain
from napari_histomix.study import Study
from napari_histomix.study.provenance.comparing import compare

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
MACHINE = ("device", "precision", "processor", "threads", "versions")
"""What must be the same for the same bytes."""


def corners(root: Path) -> Dataset:
    """The sample's images as two classes of tissue: their upper left and their lower right corners."""
    sample = load_sample()
    with (root.mkdir() or root / "images.csv").open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(["image", "class", "patient", "split", "mpp"])
        for kind, window in (("left", np.s_[:160, :160]), ("right", np.s_[-160:, -160:])):
            (root / kind).mkdir()
            for number, entry in enumerate(sample.entries):
                image = sample.read(entry)
                Image.fromarray(image.pixels[window]).save(root / kind / f"{number}.png")
                table.writerow([f"{kind}/{number}.png", kind, f"patient-{number}", "train", image.mpp])
    return open_tissue(root)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> list[Change]:
    folder = tmp_path_factory.mktemp("golden")
    dataset = corners(folder / "tissue")
    study = Study.create(folder / "study", dataset.root, dataset.name)
    settings = USegMixSettings(per_class=2, new_area=(0.1, 0.9))
    with threads(2):
        outcome = drain(jobs.run(METHOD, dataset, settings, study, stage=PoolSettings(superpixels=12, points=5)))
    assert outcome.wanted == 4 and not outcome.refusals and not outcome.problems
    return [study.change(number) for number in outcome.ids]


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "usegmix.npz") as file:
        return dict(file)


def test_the_plan_is_the_same(made, golden):
    told = [
        {
            "name": change.name,
            "kind": next(iter(change.class_shares)),
            "target": change.image,
            "exchanges": [[donor["replaced_segment"], donor["segment"]] for donor in change.provenance["donors"]],
        }
        for change in made
    ]
    assert told == json.loads((GOLDEN / "usegmix.json").read_text(encoding="utf-8"))
    for number, change in enumerate(made):
        assert change.seed == int(golden[f"{number}_seed"])
        assert np.array_equal(change.origin, golden[f"{number}_origin"])


def test_the_pixels_are_the_same_bytes_or_close_on_another_machine(made, golden):
    manifest = json.loads((GOLDEN / "version-3-tissue-manifest.json").read_text(encoding="utf-8"))
    then = manifest["synthetic"][0]["provenance"]
    for number, change in enumerate(made):
        exact = all(change.provenance[fact] == then[fact] for fact in MACHINE)
        compared = compare(change.name, golden[f"{number}_pixels"], change.pixels, change.origin, exact)
        assert compared.outcome in (("identical",) if exact else ("identical", "close")), compared.reason


def test_the_record_holds_what_it_held(made):
    manifest = json.loads((GOLDEN / "version-3-tissue-manifest.json").read_text(encoding="utf-8"))
    for change in made:
        assert change.provenance.keys() == {*manifest["synthetic"][0]["provenance"], "settings"}
        assert change.provenance["settings"]["per_class"] == 2 and "device" not in change.provenance["settings"]
    assert made[0].provenance["signature"] == manifest["pool"]
