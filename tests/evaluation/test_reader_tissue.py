"""Crops of synthetic tissue beside real ones of the same class."""

from __future__ import annotations

import numpy as np
import pytest
from mix_samples import make_tissue
from sample_changes import image_change

from napari_histomix.evaluation.crops import GENUINE, LEAST_NEW
from napari_histomix.evaluation.reader_test.folder import ReaderTest, write_test
from napari_histomix.evaluation.reader_test.specimens import ReaderTestSettings, draw_tissue
from napari_histomix.records import Change, HistomixError, drain

SETTINGS = ReaderTestSettings(per_kind=5, tissue_um=24.0)


@pytest.fixture
def tissue(tmp_path):
    return make_tissue(tmp_path / "tissue")


def mix_of(tissue, target: str, name: str, donors: tuple[str, ...] = (), share: float = 0.5) -> Change:
    """The lower part of an image turned upside down in its place."""
    image = tissue.read(target)
    origin = np.zeros(image.pixels.shape[:2], np.uint8)
    origin[round(len(origin) * (1 - share)) :] = 1
    pixels = np.where(origin[..., None] > 0, image.pixels[::-1], image.pixels).astype(np.uint8)
    facts = {"method": "USegMix", "sampler": "fast"}
    return image_change(0, target, image.kind, pixels, origin, donors, facts, name=name)


def test_a_synthetic_crop_shows_something_new_and_its_partner_another_real_image(tissue, tmp_path):
    changes = [mix_of(tissue, "grade 2/one", "a", ("grade 2/two",))]
    drawn = drain(draw_tissue(tissue, changes, SETTINGS))
    synthetic, real = sorted(drawn.specimens, key=lambda one: one.method == GENUINE)
    assert synthetic.method == "USegMix, fast" and synthetic.kind == real.kind == "grade 2"
    assert synthetic.pixels.shape == real.pixels.shape == (48, 48, 3)
    row, col = synthetic.facts["row"], synthetic.facts["col"]
    window = slice(row, row + 48), slice(col, col + 48)
    assert np.array_equal(synthetic.pixels, changes[0].pixels[window])
    assert (changes[0].origin[window] > 0).mean() >= LEAST_NEW
    # Neither the target nor, while there is another, an image that gave a donor.
    assert real.facts["image"] == "grade 2/three" and real.cluster == "Cid" and synthetic.cluster == "Ann"
    row, col = real.facts["row"], real.facts["col"]
    assert np.array_equal(real.pixels, tissue.read("grade 2/three").pixels[row : row + 48, col : col + 48])
    test = ReaderTest.open(write_test(tmp_path / "test", tissue.name, drawn, SETTINGS))
    assert "tissue" in test.question and {one.mark for one in test.asked} == {None}


def test_no_image_is_shown_twice_and_what_cannot_be_shown_is_counted(tissue):
    changes = [
        mix_of(tissue, "grade 2/one", "a"),
        mix_of(tissue, "grade 2/one", "b"),
        mix_of(tissue, "grade 3/four", "c"),
        mix_of(tissue, "grade 2/two", "d", share=0.01),
    ]
    job = draw_tissue(tissue, changes, SETTINGS)
    messages = []
    try:
        while True:
            event = next(job)
            messages += [event.message] if event.message else []
    except StopIteration as end:
        drawn = end.value
    names = [one.facts["image"] for one in drawn.specimens]
    assert len(set(names)) == len(names) == 2
    assert drawn.refusals.total() == 3
    assert "instead of 5 each" in messages[0]
    with pytest.raises(HistomixError, match="nothing real of its class"):
        drain(draw_tissue(tissue, changes[2:3], SETTINGS))
