"""USegMix gives what it gave before methods had a contract: the same plan, and the same bytes on the same machine."""

from __future__ import annotations

import csv
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from napari_histomix.datasets import Dataset, load_sample, open_tissue
from napari_histomix.devices import threads
from napari_histomix.methods.base import Work
from napari_histomix.methods.usegmix import METHOD, MixPlan, USegMixSettings, compose
from napari_histomix.records import INPAINTED, drain
from napari_histomix.segmentation.pool import SegmentPool
from napari_histomix.study import Study
from napari_histomix.study.replay import compare

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


SETTINGS = USegMixSettings(per_class=2, new_area=(0.1, 0.9), outline="segment", fill="diffusion", own_patient=False)
"""The paper's form."""
PAINTED = 3
"""The image that is painted again: one is enough, for each takes a while."""


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Work:
    folder = tmp_path_factory.mktemp("golden")
    dataset = corners(folder / "tissue")
    study = Study.create(folder / "study", dataset.root, dataset.name)
    # As the first region tree divided them.
    with zipfile.ZipFile(GOLDEN / "usegmix-pool.zip") as kept:
        kept.extractall(study.folder)
    return Work(dataset, study)


@pytest.fixture(scope="module")
def items(work) -> Sequence[MixPlan]:
    plan = drain(METHOD.plan(work, SETTINGS))
    assert plan.wanted == len(plan.items) == 4 and not plan.refusals and not plan.problems
    return plan.items


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "usegmix.npz") as file:
        return dict(file)


def test_the_plan_is_the_same(items, golden):
    told = [
        {
            "name": item.name,
            "kind": item.kind,
            "target": item.image,
            "exchanges": [[exchange.target, exchange.donor] for exchange in item.exchanges],
        }
        for item in items
    ]
    assert told == json.loads((GOLDEN / "usegmix.json").read_text(encoding="utf-8"))
    assert [item.seed for item in items] == [int(golden[f"{number}_seed"]) for number in range(4)]


def test_what_is_not_painted_is_the_same(work, items, golden):
    pool = SegmentPool(work.store.folder)
    images = {entry.source.image: work.dataset.read(entry) for entry in work.dataset.entries}
    for number, item in enumerate(items):
        pixels, origin, _ = compose(images[item.image], pool, item.exchanges, images)
        assert np.array_equal(origin, golden[f"{number}_origin"])
        kept = (origin != INPAINTED)[..., None]
        compared = compare(item.name, golden[f"{number}_pixels"] * kept, pixels * kept, origin, exact=False)
        assert compared.outcome in ("identical", "close"), compared.reason


def test_what_is_painted_is_the_same_bytes_or_close_on_another_machine(work, items, golden):
    content = json.loads((GOLDEN / "version-3-tissue-manifest.json").read_text(encoding="utf-8"))
    then = content["synthetic"][0]["provenance"]
    with threads(2):
        (change,) = [change for event in METHOD.make(work, [items[PAINTED]], SETTINGS) for change in event.made]
    assert (change.id, change.name, change.seed) == (PAINTED, items[PAINTED].name, items[PAINTED].seed)
    assert np.array_equal(change.origin, golden[f"{PAINTED}_origin"])
    exact = all(change.provenance[fact] == then[fact] for fact in MACHINE)
    compared = compare(change.name, golden[f"{PAINTED}_pixels"], change.pixels, change.origin, exact)
    assert compared.outcome in (("identical",) if exact else ("identical", "close")), compared.reason
    # It records what it recorded, and the settings.
    assert change.provenance.keys() == {*then, "settings", "painted"}
    assert change.provenance["signature"] == content["pool"]
    assert change.provenance["settings"]["per_class"] == 2 and "device" not in change.provenance["settings"]
