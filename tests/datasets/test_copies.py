"""Copies across splits, on real images: renamed, turned, recompressed, resized, cut out, overlapping."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from napari_histomix.datasets import Dataset, Entry, load_sample, read_pixels
from napari_histomix.datasets.copies import check_leaks, find_copies
from napari_histomix.records import HistomixError, Source, drain


@pytest.fixture(scope="session")
def tiles(shared):
    """Twenty tiles of five slides."""
    found = []
    for slide in sorted((shared / "data" / "atlas-tiles" / "native").iterdir()):
        files = sorted(slide.glob("*.jpg"))
        found += files[:: len(files) // 4][:4]
    return found


def opened(files: dict[Path, str]) -> Dataset:
    entries = [
        Entry(Source("tiles", path.stem, split), path, None, 0.25, kind="tissue") for path, split in files.items()
    ]
    return Dataset("tiles", Path(), (), tuple(entries), kinds=("tissue",))


def saved(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(np.ascontiguousarray(pixels)).save(path)
    return path


def jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, "JPEG", quality=quality)
    return np.array(Image.open(stream).convert("RGB"))


COPIES = {
    "renamed": lambda one: one,
    "turned": lambda one: np.rot90(one, 3),
    "mirrored": lambda one: one[:, ::-1],
    "recompressed": lambda one: jpeg(one, 40),
    "recompressed and turned and mirrored": lambda one: jpeg(np.rot90(one)[::-1], 60),
    "half as large": lambda one: cv2.resize(one, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
    "restained": lambda one: np.clip(one * [0.95, 1.05, 0.9] + 8, 0, 255).astype(np.uint8),
    "cut out": lambda one: one[37:197, 51:211],
    "cut out, recompressed and turned": lambda one: np.rot90(jpeg(one[20:180, 60:220], 75)),
    "lower half": lambda one: one[128:],
}
PARTS = "cut out", "cut out, recompressed and turned", "lower half"


@pytest.fixture(scope="session")
def compared(tiles, tmp_path_factory):
    """The tiles as training images, and two copies of each kind as test images, each of another tile."""
    folder = tmp_path_factory.mktemp("copies")
    files = dict.fromkeys(tiles, "train")
    for number, (how, change) in enumerate(COPIES.items()):
        for original in tiles[2 * number : 2 * number + 2]:
            files[saved(folder / f"{how} {original.stem}.png", change(read_pixels(original)))] = "test"
    return drain(find_copies(opened(files)))


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_in_another_split_is_found(tiles, compared, how):
    originals = tiles[2 * list(COPIES).index(how) :][:2]
    copies = {f"{how} {one.stem}" for one in originals}
    found = [one for one in compared if copies & set(one.images)]
    assert {frozenset(one.images) for one in found} == {frozenset((one.stem, f"{how} {one.stem}")) for one in originals}
    exact, turned = how in ("renamed", "turned", "mirrored"), how in ("turned", "mirrored")
    for one in found:
        assert (one.same_pixels, one.turned) == (exact, turned)
        assert (one.sentence.startswith(how) and " is a part of " in one.sentence) == (how in PARTS)


def test_nothing_else_is_taken_for_a_copy(compared):
    assert len(compared) == 20


def test_a_copy_in_another_split_is_refused_by_name(tiles, tmp_path):
    copy = saved(tmp_path / "copy.png", jpeg(read_pixels(tiles[3])[:, ::-1], 70))
    dataset = opened(dict.fromkeys(tiles[:6], "train") | {copy: "val"})
    with pytest.raises(
        HistomixError, match=rf"shares tissue .*: {tiles[3].stem} \(train\) and copy \(val\) show the same"
    ):
        drain(check_leaks(dataset))


def test_different_tiles_of_one_slide_are_no_copies(tiles):
    dataset = opened({path: ("train", "val", "test")[number % 3] for number, path in enumerate(tiles)})
    assert drain(find_copies(dataset)) == ()
    drain(check_leaks(dataset))


def test_copies_within_a_split_are_no_leak_but_are_found_where_asked(tiles, tmp_path):
    copy = saved(tmp_path / "copy.png", read_pixels(tiles[0]))
    dataset = opened(dict.fromkeys([*tiles[:3], copy], "train") | dict.fromkeys(tiles[3:5], "test"))
    drain(check_leaks(dataset))
    (found,) = drain(find_copies(dataset, within=True))
    assert set(found.images) == {"copy", tiles[0].stem} and found.splits == ("train", "train")


def test_each_of_several_copies_is_named(tiles, tmp_path):
    pixels = read_pixels(tiles[0])
    more = [saved(tmp_path / f"copy{number}.png", pixels) for number in range(3)]
    dataset = opened({tiles[0]: "train", more[0]: "train", more[1]: "test", more[2]: "val", tiles[1]: "test"})
    found = drain(find_copies(dataset))
    assert {image for one in found for image in one.images} == {tiles[0].stem, "copy0", "copy1", "copy2"}
    assert all(one.same_pixels and one.splits[0] != one.splits[1] for one in found)


def test_overlapping_tiles_say_how_much_they_share(tiles, tmp_path):
    pixels = read_pixels(tiles[0])
    parts = saved(tmp_path / "upper.png", pixels[:160]), saved(tmp_path / "lower.png", pixels[96:])
    (found,) = drain(find_copies(opened({parts[0]: "train", parts[1]: "test"})))
    assert found.shares == pytest.approx((0.4, 0.4), abs=0.03)
    assert "% of upper (train) lies in lower (test)" in found.sentence or "% of lower" in found.sentence


def test_glass_is_no_copy_of_glass(tmp_path):
    white = np.full((64, 64, 3), 243, np.uint8)
    files = {saved(tmp_path / f"glass{number}.png", white): split for number, split in enumerate(("train", "test"))}
    assert drain(find_copies(opened(files))) == ()


def test_an_image_that_cannot_be_read_stops_nothing(tiles, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    copy = saved(tmp_path / "copy.png", read_pixels(tiles[0]))
    (found,) = drain(find_copies(opened({broken: "test", tiles[0]: "train", copy: "test"})))
    assert set(found.images) == {"copy", tiles[0].stem}


def test_labeled_images_are_compared_too_and_one_split_is_not_read():
    sample = load_sample()
    first, second = sample.entries[:2]
    other = replace(first, source=replace(first.source, image="other name", split="test", patient="", slide=""))
    entries = first, replace(second, source=replace(second.source, split="test")), other
    with pytest.raises(HistomixError, match="other name"):
        drain(check_leaks(replace(sample, entries=entries)))
    events = list(find_copies(sample))
    assert events == []
