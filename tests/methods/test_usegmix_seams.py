"""USegMix along seams: donors bring their surroundings, little is painted, what does not fit is refused."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from mix_samples import Sources
from PIL import Image
from scipy import ndimage

from napari_histomix.compositing.fitting import LEAST_COVER
from napari_histomix.compositing.replacement import moved_image
from napari_histomix.datasets import Dataset, load_sample, open_tissue
from napari_histomix.diffusion.model_files import load_model
from napari_histomix.methods.mixing import USegMixSettings, plan_mixes, plan_one, segment_fits
from napari_histomix.methods.record import Record
from napari_histomix.methods.segment_fits import DIFFERENT, SEEN
from napari_histomix.methods.segment_stage import PoolSettings, build_pool
from napari_histomix.methods.usegmix import METHOD, make_mix
from napari_histomix.records import Change, HistomixError, drain
from napari_histomix.segmentation.pool import SegmentPool

# The few images of the sample are not much alike.
MIX = USegMixSettings(per_class=3, new_area=(0.02, 0.4), mismatch=0.8, unlike=0.8, device="cpu")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    """The images of the sample as one class of tissue."""
    sample, root = load_sample(), tmp_path_factory.mktemp("seams") / "tissue"
    root.mkdir()
    with (root / "images.csv").open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(["image", "class", "patient", "split", "mpp"])
        for number, entry in enumerate(sample.entries):
            image = sample.read(entry)
            Image.fromarray(image.pixels).save(root / f"{number}.png")
            table.writerow([f"{number}.png", "breast", f"patient-{number}", "train", image.mpp])
    return open_tissue(root)


@pytest.fixture(scope="module")
def pool(dataset, tmp_path_factory) -> SegmentPool:
    study = tmp_path_factory.mktemp("study")
    drain(build_pool(dataset, study, PoolSettings()))
    return SegmentPool(study)


@pytest.fixture(scope="module")
def plan(dataset, pool):
    return drain(plan_mixes(dataset, pool, {"breast": np.arange(len(pool))}, MIX))


@pytest.fixture(scope="module")
def made(dataset, pool, plan, small_model_folder) -> list[Change]:
    model = load_model(small_model_folder)
    return [replace(drain(make_mix(dataset, pool, item, MIX, model)), id=item.id) for item in plan.items]


def record_of(change: Change) -> Record:
    return Record(json.loads(json.dumps(Record.of(change, str).content)))


def test_segments_at_the_border_are_left_out_unless_asked_for(dataset, pool, tmp_path):
    assert len(pool) > 10 and not pool.rows["border"].any()
    drain(build_pool(dataset, tmp_path, PoolSettings(border=True)))
    assert SegmentPool(tmp_path).rows["border"].any()


def test_little_is_painted_and_all_else_is_real(dataset, pool, plan, made):
    assert len(made) == plan.wanted == 3
    for item, change in zip(plan.items, made, strict=True):
        target = dataset.read(change.image)
        assert np.array_equal(change.pixels[change.origin == 0], target.pixels[change.origin == 0])
        assert MIX.new_area[0] <= change.new_area <= MIX.new_area[1]
        painted = float((change.origin == 2).mean())
        assert painted <= MIX.painted and change.provenance["painted"] == pytest.approx(painted, abs=1e-4)
        for exchange, donor in zip(item.exchanges, change.provenance["donors"], strict=True):
            assert donor["fit"] == exchange.fit and exchange.fit["mismatch"] <= MIX.mismatch
            assert exchange.fit["seam"] <= MIX.seam and exchange.fit["cover"] >= LEAST_COVER
            # The core of the target is the donor's; a seam leaves less of it open than the donor's segment would.
            cut = np.zeros(change.origin.shape, bool)
            cut[exchange.swap.cut.window] = exchange.swap.cut.mask
            own = np.zeros_like(cut)
            own[exchange.swap.target.window] = exchange.swap.target.mask
            assert (cut & own).sum() > 0.4 * own.sum()


def test_without_stain_matching_every_donor_pixel_is_the_donors_own(dataset, pool, small_model):
    settings = replace(MIX, stain_matching=False, mismatch=1.0, seam=1.0)
    plan = drain(plan_mixes(dataset, pool, {"breast": np.arange(len(pool))}, settings))
    change = drain(make_mix(dataset, pool, plan.items[0], settings, small_model))
    whole = tuple(slice(0, size) for size in change.origin.shape)
    for number, exchange in enumerate(plan.items[0].exchanges):
        donor = dataset.read(pool.image(exchange.donor).source.image)
        moved = moved_image(donor.pixels, exchange.swap.donor, exchange.swap.pose, whole)
        rows, cols = np.nonzero(change.origin == 1)
        for place in np.linspace(0, len(rows) - 1, 30).astype(int):
            row, col = int(rows[place]), int(cols[place])
            known = METHOD.trace(record_of(change), row, col, painted=False)
            if known["replacement"] == number:
                assert np.array_equal(change.pixels[row, col], moved[row, col])
                there = donor.pixels[round(known["y"]), round(known["x"])]
                assert np.array_equal(change.pixels[row, col], there), (
                    "its place in the donor's image is the traced one"
                )


def test_a_pixel_of_the_surroundings_is_told_from_one_of_the_segment(made):
    parts = set()
    for change in made:
        rows, cols = np.nonzero(change.origin == 1)
        for place in np.linspace(0, len(rows) - 1, 60).astype(int):
            parts.add(METHOD.trace(record_of(change), int(rows[place]), int(cols[place]), painted=False)["part"])
    assert parts == {"segment", "surroundings"}


def test_it_is_made_again_from_its_record_without_looking_for_the_seam(dataset, made, small_model, monkeypatch):
    monkeypatch.setattr("napari_histomix.methods.segment_fits.find_seam", None)
    remade = drain(METHOD.remake([record_of(change) for change in made], Sources(dataset, small_model)))
    for change, again in zip(made, remade, strict=True):
        assert np.array_equal(change.pixels, again.pixels) and np.array_equal(change.origin, again.origin)


def test_the_same_seed_gives_the_same_plan(dataset, pool, plan):
    again = drain(plan_mixes(dataset, pool, {"breast": np.arange(len(pool))}, MIX))
    for one, other in zip(plan.items, again.items, strict=True):
        assert one.name == other.name and one.seed == other.seed
        for first, second in zip(one.exchanges, other.exchanges, strict=True):
            assert (first.donor, first.fit, first.swap.pose) == (second.donor, second.fit, second.swap.pose)
            assert np.array_equal(first.swap.cut.mask, second.swap.cut.mask)


def test_what_does_not_fit_is_refused_and_counted(dataset, pool, small_model):
    strict = replace(MIX, mismatch=0.01)
    plan = drain(plan_mixes(dataset, pool, {"breast": np.arange(len(pool))}, strict))
    assert not plan.items and plan.refusals[f"breast: {DIFFERENT}"] > 10
    seen = drain(plan_mixes(dataset, pool, {"breast": np.arange(len(pool))}, replace(MIX, seam=0.001)))
    assert not seen.items and seen.refusals[f"breast: {SEEN}"] > 0
    paint = drain(plan_mixes(dataset, pool, {"breast": np.arange(len(pool))}, replace(MIX, painted=0.0, visible=0.0)))
    assert not paint.items and any("painted" in reason for reason in paint.refusals)


def test_only_where_a_seam_is_seen_it_is_painted(dataset, pool, plan):
    exchange = plan.items[0].exchanges[0]
    target = dataset.read(pool.image(exchange.target).source.image)

    def painted(visible: float) -> np.ndarray:
        fits = segment_fits(dataset, pool, replace(MIX, visible=visible))
        one = plan_one(pool, exchange.target, exchange.donor, 0.5, 3, fits=fits)
        swap = one.exchanges[0].swap
        return swap.painted.in_image(target.pixels.shape) if swap.painted else np.zeros(target.pixels.shape[:2], bool)

    everywhere, some, nowhere = painted(0.0), painted(0.12), painted(9.0)
    assert not nowhere.any() and not (some & ~everywhere).any() and 0 < some.sum() < 0.8 * everywhere.sum()
    # All of the seam lies in the middle of what is painted everywhere.
    cut = exchange.swap.cut.in_image(target.pixels.shape)
    edge = cut ^ ndimage.binary_erosion(cut, border_value=1)
    assert not (edge & ~everywhere).any()


def test_a_donor_that_a_person_chose_is_cut_out_or_refused_with_the_reason(dataset, pool, plan):
    exchange = plan.items[0].exchanges[0]
    one = plan_one(pool, exchange.target, exchange.donor, 0.5, 3, fits=segment_fits(dataset, pool, MIX))
    assert one.exchanges[0].swap.cut is not None and one.exchanges[0].fit == exchange.fit
    refused = plan_one(
        pool, exchange.target, exchange.donor, 0.5, 3, fits=segment_fits(dataset, pool, replace(MIX, mismatch=0))
    )
    assert refused == DIFFERENT


def test_an_image_whose_segments_all_reach_the_border_is_named(tmp_path):
    root = tmp_path / "tissue"
    root.mkdir()
    pixels = np.full((96, 96, 3), (225, 165, 205), np.uint8)
    pixels[:, 48:] = (130, 85, 160)
    noise = np.random.default_rng(0).normal(0, 8, (96, 96, 1))
    Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8)).save(root / "a.png")
    (root / "images.csv").write_text("image,class,mpp\na.png,x,0.5\n", encoding="utf-8")
    with pytest.raises(HistomixError, match=r"at the border|[Nn]othing stands out"):
        drain(build_pool(open_tissue(root), tmp_path / "study", PoolSettings(superpixels=4, extent=(0.002, 0.9))))
