"""Nuclei that nobody labeled: found whole or by place, and counted."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.draw import disk

from napari_histomix.datasets import open_dataset
from napari_histomix.generation import unlabeled
from napari_histomix.generation.unlabeled import UnlabeledCount, UnlabeledNuclei, count_unlabeled, unlabeled_in
from napari_histomix.records import LabeledImage, Source, drain
from napari_histomix.widgets import data_panel
from napari_histomix.widgets.data_panel import UnlabeledLine
from napari_histomix.widgets.session import Session
from tests.network_samples import disc_segmenter, discs

PLACES = [(20, 20), (20, 60), (60, 20), (58, 64)]


def image(labeled: int = 2, mpp: float = 0.5, name: str = "one") -> LabeledImage:
    """Four discs, of which the first ones are labeled, a little too small."""
    pixels = discs((90, 96), PLACES)
    instances = np.zeros((90, 96), np.int32)
    for number, place in enumerate(PLACES[:labeled], start=1):
        instances[disk(place, 5)] = number
    return LabeledImage(pixels, instances, dict.fromkeys(range(1, labeled + 1), 1), mpp, Source("made up", name))


def test_only_what_has_no_label_lacks_one():
    count, mask = drain(unlabeled_in(image(), disc_segmenter(), "cpu"))
    assert count == 2 and [bool(mask[place]) for place in PLACES] == [False, False, True, True]
    count, mask = drain(unlabeled_in(image(4), disc_segmenter(), "cpu"))
    assert count == 0 and not mask.any()


def test_specks_do_not_count():
    small = image()
    # At this scale the discs are 2 µm wide.
    speck = LabeledImage(small.pixels, small.instances, small.types, 0.15, small.source)
    model = disc_segmenter()
    model = type(model)(model.kind, model.network, {}, model.classes, 0.15, model.name, model.sha256)
    assert drain(unlabeled_in(speck, model, "cpu"))[0] == 0


@pytest.mark.parametrize("whole", [True, False])
def test_a_window_is_looked_up_or_looked_at(monkeypatch, whole):
    looked = []
    monkeypatch.setattr(unlabeled, "WHOLE_UM2", 1e9 if whole else 0.0)
    real = unlabeled.unlabeled_in

    def counted(shown, model, device, window=None):
        looked.append(window)
        return real(shown, model, device, window)

    monkeypatch.setattr(unlabeled, "unlabeled_in", counted)
    nuclei = UnlabeledNuclei(disc_segmenter(), "cpu")
    for place in PLACES:
        window = tuple(slice(at - 10, at + 12) for at in place)
        mask = nuclei.within(image(), window)
        assert mask.shape == (22, 22) and mask.dtype == np.bool_ and mask[10, 10] == (place in PLACES[2:])
    assert looked == [None] if whole else len(looked) == 4


def test_training_images_are_counted(dataset_folder, tmp_path):
    images = [image(2, name="one"), image(4, name="two"), image(1, name="three")]
    dataset = open_dataset(dataset_folder(tmp_path / "data", images))
    (dataset.root / "Images" / "three.png").write_bytes(b"no image")
    count = drain(count_unlabeled(dataset, disc_segmenter(), "cpu"))
    assert (count.nuclei, count.images, count.seen) == (2, 1, 2)
    assert count.sentence == "2 nuclei seem to lack a label, in 1 of 2 training images."
    assert UnlabeledCount(0, 0, 3).sentence == "No nucleus seems to lack a label (3 training images)."


def test_inspect_says_it_when_asked(dataset_folder, tmp_path, monkeypatch, run):
    monkeypatch.setattr(unlabeled, "load_segmenter", disc_segmenter)
    folder = dataset_folder(tmp_path / "data", [image()])
    assert not any("lack a label" in line for line in run("inspect", folder)[1])
    code, said, _ = run("inspect", folder, "--unlabeled")
    assert code == 0 and "unlabeled: 2 nuclei seem to lack a label, in 1 of 1 training images." in said


def test_the_data_panel_says_it_when_asked(dataset_folder, tmp_path, monkeypatch, qtbot):
    monkeypatch.setattr(data_panel, "load_segmenter", disc_segmenter)
    line = UnlabeledLine(None, Session())
    qtbot.addWidget(line)
    dataset = open_dataset(dataset_folder(tmp_path / "data", [image()]))
    line.set_dataset(dataset)
    line.show()
    line.button.click()
    assert line.button.text() == "Stop looking"
    qtbot.waitUntil(lambda: not line.runner.running, timeout=20_000)
    assert line.note.text() == "2 nuclei seem to lack a label, in 1 of 1 training images."
    line.set_dataset(None)
    assert line.note.text() == "" and not line.isVisible()
