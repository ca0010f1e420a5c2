"""A segment pool on disk: what goes in comes out, complete or absent, and never of two encoders at once."""

from __future__ import annotations

import io
import shutil

import numpy as np
import pytest
from PIL import Image

from napari_histomix.records import HistomixError, Segment, Source, drain
from napari_histomix.segmentation.pool import POOL, PoolImage, PoolWriter, SegmentPool

SIGNATURE = {"prompter": "p", "encoder": "e", "anchors": {"extent": (0.1, 0.6)}}
DIM = 12


def image(name: str, kind: str, patient: str = "") -> PoolImage:
    return PoolImage(Source("made up", name, patient=patient), kind, (60, 80), 0.5, "f" * 64)


def segments(count: int, seed: int) -> tuple[list[Segment], np.ndarray, list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    found = []
    for number in range(1, count + 1):
        mask = rng.random(rng.integers(3, 20, 2)) < 0.7
        mask[0, 0] = True
        found.append(Segment(number, *map(int, rng.integers(0, 41, 2)), mask, float(rng.random()), float(rng.random())))
    thumbnails = [np.full((8, 8, 3), 20 * number, np.uint8) for number in range(count)]
    return found, rng.normal(size=(count, DIM)).astype(np.float32) * 50 + 7, thumbnails


def write(folder, images, components=5, signature=SIGNATURE):
    with PoolWriter(folder, signature) as writer:
        for seed, (about, count) in enumerate(images):
            writer.add(about, *segments(count, seed))
        return drain(writer.finish(DIM, components))


TWO = [(image("a", "low", "p1"), 9), (image("b", "low"), 8), (image("c", "high"), 3)]


def test_segments_come_back_as_they_were(tmp_path):
    write(tmp_path, TWO)
    pool = SegmentPool(tmp_path)
    assert len(pool) == 20 and pool.kinds == ("high", "low") and pool.image_kinds.tolist() == [1] * 17 + [0] * 3
    expected = [one for seed, (_, count) in enumerate(TWO) for one in segments(count, seed)[0]]
    for number, one in enumerate(expected):
        found = pool.segment(number)
        assert (found.number, found.row, found.col) == (one.number, one.row, one.col)
        assert np.array_equal(found.mask, one.mask)
        assert found.vote_share == pytest.approx(one.vote_share) and found.stability == pytest.approx(one.stability)
        assert pool.rows["area"][number] == one.area and pool.rows["border"][number] == one.at_border((60, 80))
    assert pool.image(0) == TWO[0][0] and pool.image(19) == TWO[2][0]
    shown = np.array(Image.open(io.BytesIO(pool.thumbnail(5))))
    assert shown.shape == (8, 8, 3) and abs(int(shown.mean()) - 100) < 4
    assert pool.places().shape == (20, 2) and pool.places().std(axis=0).min() > 0.1


def test_vectors_are_the_principal_components_of_their_class(tmp_path):
    write(tmp_path, TWO, components=5)
    pool = SegmentPool(tmp_path)
    low = np.concatenate([segments(9, 0)[1], segments(8, 1)[1]])
    standard = (low - low.mean(axis=0)) / low.std(axis=0)
    _, _singular, axes = np.linalg.svd(standard, full_matrices=False)
    found = pool.vectors(np.arange(17))
    assert np.allclose(np.abs(found), np.abs(standard @ axes[:5].T), atol=1e-3)
    # Three segments span two components; what is left of the vector is zero.
    high = pool.vectors(np.arange(17, 20))
    assert high.shape == (3, 5) and not high[:, 2:].any() and high[:, :2].any()
    # A segment that a person gave another class is compared in that class's space.
    moved = pool.vectors(np.array([0, 18]), "low")
    assert np.allclose(moved[0], found[0])
    expected = (segments(3, 2)[1][1] - low.mean(axis=0)) / low.std(axis=0)
    assert np.allclose(np.abs(moved[1]), np.abs(expected @ axes[:5].T), atol=1e-3)


def test_corrections_add_a_part_in_the_same_space(tmp_path):
    write(tmp_path, TWO)
    before = np.array(SegmentPool(tmp_path).vectors(np.arange(20)))
    write(tmp_path, [(image("a", "low", "p1"), 9), (image("d", "new"), 1)])
    pool = SegmentPool(tmp_path)
    assert len(pool) == 30 and pool.kinds == ("high", "low", "new")
    assert np.allclose(pool.vectors(np.arange(20)), before)
    assert np.allclose(pool.vectors(np.arange(20, 29)), before[:9], atol=1e-4), "the same features, the same vectors"
    assert pool.segment(21).area == pool.segment(1).area and pool.image(29).kind == "new"
    assert np.allclose(pool.places()[20:29], pool.places()[:9], atol=1e-4)
    assert not pool.vectors(np.array([29])).any()


def test_another_encoder_is_refused_with_what_differs(tmp_path):
    write(tmp_path, TWO)
    PoolWriter(tmp_path, SIGNATURE)
    for other in ({**SIGNATURE, "encoder": "other"}, {"prompter": "p", "encoder": "e"}):
        with pytest.raises(HistomixError, match=r"made with another .* build it again"):
            write(tmp_path, TWO, signature=other)
    assert len(SegmentPool(tmp_path)) == 20


def test_a_part_left_early_or_empty_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), PoolWriter(tmp_path, SIGNATURE) as writer:
        writer.add(TWO[0][0], *segments(3, 0))
        raise RuntimeError
    with pytest.raises(HistomixError, match="no segment"), PoolWriter(tmp_path, SIGNATURE) as writer:
        drain(writer.finish(DIM))
    assert not list(tmp_path.iterdir())
    with pytest.raises(HistomixError, match="no segment pool"):
        SegmentPool(tmp_path)


@pytest.mark.parametrize("damage", ["rows.bin", "part.json", "json"])
def test_a_damaged_pool_is_one_sentence(tmp_path, damage):
    part = write(tmp_path, TWO)
    if damage == "json":
        (part / "part.json").write_text("{")
    elif damage == "rows.bin":
        (part / "rows.bin").unlink()
    else:
        shutil.copy(part / "rows.bin", part / "part.json")
    with pytest.raises(HistomixError, match="damaged"):
        SegmentPool(tmp_path)
    assert (tmp_path / POOL).is_dir()
