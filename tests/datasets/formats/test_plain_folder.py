from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from round_trips import same, written

from napari_histomix.datasets import load_sample, open_dataset
from napari_histomix.datasets.formats.plain import Writer
from napari_histomix.datasets.writing import SYNTHETIC_NOTICE, class_map, write_ignore
from napari_histomix.records import HistomixError


@pytest.mark.parametrize("format", ["plain", "hovernet"])
def test_what_was_written_is_read_back(tmp_path, format):
    dataset = load_sample()
    again = open_dataset(written(dataset, tmp_path / "out", format))
    assert again.classes == dataset.classes and not again.problems
    for entry in again.entries:
        same(again.read(entry), dataset.read(entry.source.image))
    notices = [Image.open(entry.image).info.get("Description") for entry in again.entries]
    assert notices == [SYNTHETIC_NOTICE, None]


@pytest.mark.parametrize("format", ["plain", "hovernet"])
def test_consep_is_read_back(shared, tmp_path, format):
    dataset = open_dataset(shared / "data" / "consep-train")
    again = open_dataset(written(dataset, tmp_path / "out", format, 1))
    same(again.read(again.entries[0]), dataset.read(again.entries[0].source.image))


def test_other_programs_read_the_plain_files(tmp_path):
    dataset = load_sample()
    folder = written(dataset, tmp_path / "out", "plain", 1)
    image = dataset.read(dataset.entries[0])
    name = image.source.image
    with Image.open(folder / "labels" / f"{name}.png") as labels:
        assert labels.mode == "I;16" and np.array_equal(np.asarray(labels), image.instances)
    with Image.open(folder / "class_maps" / f"{name}.png") as classes:
        assert classes.mode == "L"
        expected = np.vectorize({0: 0, **image.types}.get)(image.instances)
        assert np.array_equal(np.asarray(classes), expected)


def test_ids_beyond_16_bits(tmp_path):
    dataset = load_sample()
    image = dataset.read(dataset.entries[0])
    wide = replace(
        image,
        instances=np.where(image.instances > 0, image.instances + 70_000, 0).astype(np.int32),
        types={one + 70_000: kind for one, kind in image.types.items()},
    )
    writer = Writer(tmp_path, "wide", dataset.classes)
    writer.add(wide, synthetic=False)
    writer.finish()
    same(open_dataset(tmp_path).read(wide.source.image), wide)


def test_class_numbers_that_no_map_holds(tmp_path):
    dataset = load_sample()
    image = dataset.read(dataset.entries[0])
    with pytest.raises(HistomixError, match="room for the numbers 1 to 254"):
        class_map(replace(image, types=dict.fromkeys(image.types, 255)))


def test_the_ignore_band_is_255(tmp_path):
    image = load_sample().read(load_sample().entries[0])
    band = np.zeros(image.instances.shape, bool)
    band[10:20, 30:50] = True
    write_ignore(tmp_path, "a", band, class_map(image))
    found = np.asarray(Image.open(tmp_path / "ignore" / "a.png"))
    assert found.dtype == np.uint8 and (found[band] == 255).all()
    assert np.array_equal(found[~band], class_map(image)[~band])
    with pytest.raises(HistomixError, match="of the size of"):
        write_ignore(tmp_path, "a", band[1:], class_map(image))
    with pytest.raises(HistomixError, match="cannot be the name"):
        write_ignore(tmp_path, "../a", band, class_map(image))
