"""What a reader could find out from a test's files: nothing that depends on the truth."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from reader_samples import make_changes

from napari_histomix.datasets import load_sample
from napari_histomix.evaluation.crops import COPY_PASTE, GENUINE
from napari_histomix.evaluation.reader_test.folder import CROPS, TEST, TRUTH, ReaderTest, write_test
from napari_histomix.evaluation.reader_test.nuclei import draw_nuclei
from napari_histomix.evaluation.reader_test.specimens import Drawn, ReaderTestSettings
from napari_histomix.records import HistomixError, drain

SETTINGS = ReaderTestSettings(per_kind=20, copy_paste=True, seed=77)


@pytest.fixture(scope="module")
def found() -> Drawn:
    dataset = load_sample()
    return drain(draw_nuclei(dataset, make_changes(dataset), SETTINGS))


@pytest.fixture(scope="module")
def folder(found, tmp_path_factory):
    """Never write into it."""
    return write_test(tmp_path_factory.mktemp("reader") / "test", "sample", found, SETTINGS)


def test_what_readers_are_given_does_not_depend_on_the_truth(found, folder, tmp_path):
    """The same crops with every truth turned around make the same files, but for the sealed one and its hash."""
    flipped = [replace(one, method=GENUINE if one.synthetic else COPY_PASTE, facts={}) for one in found.specimens]
    other = write_test(tmp_path / "test", "sample", replace(found, specimens=tuple(flipped)), SETTINGS)
    assert (folder / CROPS).read_bytes() == (other / CROPS).read_bytes()
    one, two = (json.loads((path / TEST).read_text("utf-8")) for path in (folder, other))
    assert one.pop("truth_sha256") != two.pop("truth_sha256")
    assert one == two
    tests = ReaderTest.open(folder), ReaderTest.open(other)
    assert tests[0].order("Ann") == tests[1].order("Ann")
    assert [a.synthetic for a in tests[0].truth()] == [not b.synthetic for b in tests[1].truth()]


def test_no_crop_has_a_file_a_size_or_a_date_of_its_own(found, folder):
    assert sorted(path.name for path in folder.iterdir()) == sorted([CROPS, TEST, TRUTH, "answers"])
    test = ReaderTest.open(folder)
    assert test.crops.shape == (len(found.specimens), 64, 64, 3) and test.crops.dtype == np.uint8
    public = json.loads((folder / TEST).read_text("utf-8"))
    assert set(public["crops"][0]) == {"kind", "mark"}
    any_digits = ("crops", "version", *(key for key in public if key.endswith("sha256")))
    assert "77" not in json.dumps({key: value for key, value in public.items() if key not in any_digits})


def test_the_order_of_crops_is_random_and_each_readers_own(folder):
    test = ReaderTest.open(folder)
    synthetic = np.array([one.synthetic for one in test.truth()])
    count = len(test)
    orders = [test.order(f"reader {number}") for number in range(300)]
    assert all(sorted(one) == list(range(count)) for one in orders)
    assert len({tuple(one) for one in orders}) == 300
    # Mean place of the synthetic crops over 300 readers: that of any crop, within four standard errors.
    places = [np.flatnonzero(synthetic[one]).mean() for one in orders]
    assert abs(np.mean(places) - (count - 1) / 2) < 4 * np.std(places) / np.sqrt(300)
    assert test.order("Ann") == test.order(" ann ") != test.order("Bob")


def test_the_truth_is_not_there_to_be_read_by_accident(folder):
    sealed = (folder / TRUTH).read_bytes()
    for word in (b"real", b"NucleiMix", b"synthetic", b"TCGA", b"method"):
        assert word not in sealed


def test_the_truth_cannot_be_changed_once_it_is_sealed(folder, found, tmp_path):
    test = ReaderTest.open(folder)
    truths = test.truth()
    assert sum(one.synthetic for one in truths) == len(truths) // 2
    assert {one.method for one in truths} == {one.method for one in found.specimens}
    (tmp_path / "other").write_bytes((folder / TRUTH).read_bytes()[:-1])
    with pytest.raises(HistomixError, match="not the truth that this test was made with"):
        test.truth(tmp_path / "other")
    with pytest.raises(HistomixError, match="not there"):
        test.truth(tmp_path / "nowhere")


@pytest.mark.parametrize("damage", ["crops", "json", "format", "newer", "counts"])
def test_a_damaged_test_is_refused_with_a_sentence(found, tmp_path, damage):
    folder = write_test(tmp_path / "test", "sample", found, SETTINGS)
    public = json.loads((folder / TEST).read_text("utf-8"))
    if damage == "crops":
        content = bytearray((folder / CROPS).read_bytes())
        content[-1] ^= 1
        (folder / CROPS).write_bytes(content)
    elif damage == "json":
        (folder / TEST).write_text("{")
    else:
        change = {"format": {"format": "else"}, "newer": {"version": 99}, "counts": {"crops": public["crops"][:-1]}}[
            damage
        ]
        (folder / TEST).write_text(json.dumps(public | change))
    with pytest.raises(HistomixError):
        ReaderTest.open(folder)


def test_a_test_is_complete_or_absent_and_never_over_another(found, folder, tmp_path, monkeypatch):
    with pytest.raises(HistomixError, match="already exists"):
        write_test(folder, "sample", found, SETTINGS)
    with pytest.raises(HistomixError, match="is not a reader test"):
        ReaderTest.open(tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", refuse)
    with pytest.raises(HistomixError, match="No space left"):
        write_test(tmp_path / "full", "sample", found, SETTINGS)
    assert not list(tmp_path.iterdir())
