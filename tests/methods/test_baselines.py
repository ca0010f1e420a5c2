"""The classic mixes: what holds for all of them, and each one's own rule."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from napari_histomix.compositing.composing import compose
from napari_histomix.compositing.donors import dilate, donor_flaw
from napari_histomix.compositing.indexed_image import IndexedImage
from napari_histomix.compositing.placing import IMAGE_FULL, USED_UP
from napari_histomix.compositing.planning import CROSSES_EDGE, GUARD, TOO_CLOSE
from napari_histomix.datasets import open_any
from napari_histomix.datasets.splits import with_splits
from napari_histomix.methods import method_of
from napari_histomix.methods.base import Work
from napari_histomix.methods.gradmix import grown
from napari_histomix.methods.pasting import SYNTHETIC_DONOR
from napari_histomix.methods.record import Record
from napari_histomix.records import DONOR, INPAINTED, KEEP, REAL, Candidate, Change, HistomixError, Location, drain
from napari_histomix.sampling import background_locations, nucleus_locations

NUCLEI = ("copypaste", "gradmix", "cutmix", "cutout", "classic")
TISSUE = ("cutmix", "cutout", "mixup", "classic")
IN_PLACE = ("copypaste", "gradmix", "cutmix")


class Store:
    """A study that holds candidates, and what was made before."""

    folder = Path()

    def __init__(self, candidates=(), changes=()):
        self._candidates, self._changes = tuple(candidates), list(changes)

    def settings(self):
        return {}

    def save_settings(self, values):
        raise AssertionError("no baseline keeps settings")

    def candidates(self):
        return self._candidates

    def changes(self):
        return self._changes


class Ingredients:
    def __init__(self, dataset):
        self.dataset = dataset


@cache
def candidates_of(dataset) -> list[Candidate]:
    """Every nucleus of the training split that is not rare, and free places, in random order with random donors."""
    rng = np.random.default_rng(0)
    donors, targets = [], []
    for entry in dataset.training:
        image = dataset.read(entry)
        for location in nucleus_locations(image, rare=[1], major=[2]):
            if location.kind == "major":
                targets.append(location)
            elif donor_flaw(IndexedImage(image), location) is None:
                donors.append(location)
        targets += background_locations(image, 10, 6, rng)
    order = rng.permutation(len(targets))
    return [Candidate(rank, targets[i], donors[rng.integers(len(donors))], 0.0, 50.0) for rank, i in enumerate(order)]


@pytest.fixture(scope="module")
def nuclei(labeled_image, dataset_folder, tmp_path_factory):
    """Three training images, one of them at half the scale, and one of the test split."""
    images = [
        labeled_image(20, seed=seed, name=f"train_{seed}", rare=6, gap=4, mpp=0.5 if seed == 2 else 0.25)
        for seed in range(3)
    ]
    images.append(labeled_image(20, seed=9, name="held", split="test", rare=9))
    return open_any(dataset_folder(tmp_path_factory.mktemp("baselines") / "nuclei", images))


@pytest.fixture(scope="module")
def tissue(tmp_path_factory):
    """Images of two classes and two sizes, one of them of the test split."""
    root = tmp_path_factory.mktemp("baselines") / "tissue"
    rows = ["image,class,split,mpp"]
    rng = np.random.default_rng(0)
    for kind, shape in (("low", (64, 80)), ("high", (48, 96))):
        (root / kind).mkdir(parents=True)
        for number in range(3):
            pixels = rng.integers(60, 250, (*shape, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / kind / f"{number}.png")
            rows.append(f"{kind}/{number}.png,{kind},{'test' if number == 2 else 'train'},{0.5 + 0.25 * number}")
    (root / "images.csv").write_text("\n".join(rows), encoding="utf-8")
    return open_any(root)


@pytest.fixture(params=[*((name, "nuclei") for name in NUCLEI), *((name, "tissue") for name in TISSUE)], ids="-".join)
def case(request, nuclei, tissue):
    """A method, a dataset that it can use, and its work there."""
    name, kind = request.param
    dataset = nuclei if kind == "nuclei" else tissue
    return method_of(name), dataset, Work(dataset, Store(candidates_of(dataset) if dataset.has_nuclei else ()))


def make(method, work, settings=None, items=None) -> list[Change]:
    settings = settings or method.settings(count=6)
    items = drain(method.plan(work, settings)).items if items is None else items
    made = [change for event in method.make(work, items, settings) for change in event.made]
    return sorted(made, key=lambda change: change.id)


def same(first: Change, second: Change) -> bool:
    arrays = ("pixels", "origin", "labels")
    plain = ("id", "image", "name", "row", "col", "added", "removed", "class_shares", "method", "seed", "provenance")
    return all(np.array_equal(getattr(first, name), getattr(second, name)) for name in arrays) and all(
        getattr(first, name) == getattr(second, name) for name in plain
    )


class TestAll:
    def test_all_that_a_change_does_is_what_it_says(self, case):
        method, dataset, work = case
        made = make(method, work)
        assert len(made) == 6
        for name in {change.image for change in made}:
            target = dataset.read(name)
            here = [change for change in made if change.image == name]
            for changes in [here] if here[0].in_place else [[change] for change in here]:
                result = compose(target, changes)
                real = result.origin == REAL
                assert np.array_equal(result.image.pixels[real], target.pixels[real])
                gained = Counter(kind for change in changes for kind in change.added.values())
                lost = Counter(target.types[number] for change in changes for number in change.removed)
                assert result.image.counts() == target.counts() + gained - lost
                assert {number for number, kind in target.types.items() if result.image.types.get(number) != kind} == {
                    number for change in changes for number in change.removed
                }

    def test_a_change_depends_on_its_item_alone(self, case):
        method, _, work = case
        settings = method.settings(count=6)
        items = drain(method.plan(work, settings)).items
        made = {change.id: change for change in make(method, work, settings)}
        for change in make(method, work, settings, list(items)[::-2]):
            assert same(change, made[change.id])
        assert len({change.seed for change in made.values()}) == 6

    def test_it_is_made_again_from_its_record(self, case):
        method, dataset, work = case
        made = make(method, work)
        records = [Record.of(change, dataset.class_name) for change in made]
        assert all(map(same, made, drain(method.remake(records, Ingredients(dataset)))))

    def test_nothing_of_the_test_split_is_used(self, case):
        method, dataset, work = case
        made = make(method, work, method.settings(count=12))
        training = {entry.source.image for entry in dataset.training}
        assert {source.image for change in made for source in change.sources} <= training
        # Held-out images change nothing of what is made, whatever they hold.
        alone = replace(dataset, entries=dataset.training)
        for change, other in zip(
            made, make(method, replace(work, dataset=alone), method.settings(count=12)), strict=True
        ):
            assert same(change, other)

    def test_a_second_run_goes_on(self, case):
        method, dataset, work = case
        first = make(method, work)
        second = make(method, Work(dataset, Store(work.store.candidates(), first), first[-1].id + 1))
        assert second and not {change.seed for change in first} & {change.seed for change in second}
        names = [change.name for change in (*first, *second) if not change.in_place]
        assert len(set(names)) == len(names) and not set(names) & {entry.source.image for entry in dataset.entries}

    def test_caps_are_kept_and_refusals_counted(self, case):
        method, _, work = case
        settings = method.settings(count=100, per_image=1)
        plan = drain(method.plan(work, settings))
        assert max(Counter(item.image for item in plan.items).values()) == 1
        assert plan.wanted == 100 and plan.refusals[IMAGE_FULL] > 0

    def test_donors_pixels_are_traced(self, case):
        method, dataset, work = case
        settings = method.settings(count=6)
        exact = {"copypaste": {"stain_matching": False}, "classic": {"rotation": 0.0, "blur": 0.0, "noise": 0.0}}
        settings = replace(settings, **exact.get(method.name, {}))
        if method.name == "classic":
            settings = replace(settings, hue=0.0, saturation=0.0, contrast=0.0)
        checked, pixels_of = 0, cache(lambda name: dataset.read(name).pixels)
        for change in make(method, work, settings):
            record = Record.of(change, dataset.class_name)
            for row, col in np.argwhere(change.origin != REAL)[::37]:
                painted = bool(change.origin[row, col] == INPAINTED)
                found = method.trace(record, int(row) + change.row, int(col) + change.col, painted)
                if painted:
                    assert not found
                    continue
                source = pixels_of(found["image"])
                if isinstance(found["x"], int) and method.name not in ("gradmix", "mixup"):
                    assert np.array_equal(change.pixels[row, col], source[found["y"], found["x"]])
                    checked += 1
                assert 0 <= round(found["y"]) < len(source) and 0 <= round(found["x"]) < source.shape[1]
        assert checked or method.name in ("gradmix", "mixup", "cutout")


@pytest.mark.parametrize("name", IN_PLACE)
class TestInPlace:
    def test_changes_keep_apart(self, name, nuclei):
        plan = drain(
            method_of(name).plan(Work(nuclei, Store(candidates_of(nuclei))), method_of(name).settings(count=60))
        )
        made = make(method_of(name), Work(nuclei, Store(candidates_of(nuclei))), method_of(name).settings(count=60))
        assert plan.refusals[TOO_CLOSE] or name == "gradmix"
        taken: dict[str, np.ndarray] = {}
        altered: set[tuple[str, int]] = set()
        for change in made:
            target = nuclei.read(change.image)
            changed = np.zeros(target.instances.shape, bool)
            changed[change.window] = change.origin != REAL
            before = taken.setdefault(change.image, np.zeros_like(changed))
            assert not (dilate(changed, GUARD) & before).any()
            before |= changed
            own = {(change.image, int(i)) for i in target.instances[change.window][change.labels != KEEP] if i}
            assert not own & altered
            altered |= own

    def test_a_dropped_candidate_is_not_used(self, name, nuclei):
        candidates = candidates_of(nuclei)
        method, dropped = method_of(name), {candidate.rank: "drop" for candidate in candidates[5:]}
        work = Work(nuclei, Store(candidates), 0, {"candidate": dropped})
        assert all(change.provenance["rank"] < 5 for change in make(method, work, method.settings(count=60)))
        if name != "cutmix":
            work = replace(work, decisions={"candidate": {candidate.rank: "keep" for candidate in candidates[:5]}})
            made = make(method, work, method.settings(count=60, kept_only=True))
            assert all(change.provenance["rank"] < 5 for change in made)

    def test_candidates_of_another_split_are_refused(self, name, nuclei):
        moved = with_splits(nuclei, {"train_0": "test", "train_1": "train", "train_2": "train", "held": "test"})
        with pytest.raises(HistomixError, match="train_0 is not in the training split"):
            make(method_of(name), Work(moved, Store(candidates_of(nuclei))))

    def test_a_donor_is_used_as_often_as_allowed(self, name, nuclei):
        method = method_of(name)
        plan = drain(method.plan(Work(nuclei, Store(candidates_of(nuclei))), method.settings(count=60, uses=1)))
        assert max(Counter(item.donor for item in plan.items).values()) == 1
        assert plan.refusals[USED_UP] or name == "gradmix"

    def test_the_same_places_and_donors(self, name, nuclei):
        method, sites = method_of(name), candidates_of(nuclei)[:20]
        placed = drain(method.place(Work(nuclei, Store()), sites, method.settings()))
        assert len(placed) == 20
        changes = [(site, change) for site, change in zip(sites, placed, strict=True) if isinstance(change, Change)]
        assert {site.target.kind for site, _ in changes} == {"major", "background"}
        for site, change in changes:
            assert change.image == site.target.image and site.donor.type in change.added.values()
            assert (change.donor.image, change.donor.item) == (site.donor.image, site.donor.instance)
            rows, cols = np.nonzero(change.labels == min(change.added))
            assert abs(rows.mean() + change.row - site.target.row) < 1.5
            assert abs(cols.mean() + change.col - site.target.col) < 1.5
        assert all(reason for reason in placed if isinstance(reason, str))

    def test_a_synthetic_nucleus_is_no_donor(self, name, nuclei, monkeypatch):
        method, work, read = method_of(name), Work(nuclei, Store(candidates_of(nuclei))), type(nuclei).read

        def marked(self, entry):
            image = read(self, entry)
            return replace(image, synthetic=frozenset(image.types))

        monkeypatch.setattr(type(nuclei), "read", marked)
        plan = drain(method.plan(work, method.settings(count=3)))
        assert not plan.items and plan.refusals[SYNTHETIC_DONOR]


class TestNeeds:
    @pytest.mark.parametrize("name", ["copypaste", "gradmix"])
    def test_nuclei(self, name, tissue):
        method = method_of(name)
        assert "needs labeled nuclei; these images have a class each" in method.needs.problem(method.title, tissue)

    def test_classes(self, nuclei):
        method = method_of("mixup")
        sentence = "MixUp needs a class for each image; these have instances."
        assert method.needs.problem(method.title, nuclei) == sentence


class TestCopyPaste:
    def test_what_is_hardly_visible_is_dropped_and_the_rest_clipped(self, labeled_image, dataset_folder, tmp_path):
        # A large donor over a small nucleus, and over the edge of a large one.
        target = labeled_image([(40, 40, 4, 4, 2), (40, 54, 9, 9, 2)], name="target")
        giver = labeled_image([(64, 64, 9, 9, 1)], name="giver")
        dataset = open_any(dataset_folder(tmp_path / "data", [target, giver]))
        place, donor = Location("target", "background", 40.0, 42.0), nucleus_locations(giver, [1], [])[0]
        site = Candidate(0, place, donor, 0.0, 50.0)
        method = method_of("copypaste")
        (change,) = drain(method.place(Work(dataset, Store()), [site], method.settings(stain_matching=False)))
        assert change.removed == (1,) and change.added == {3: 1}
        result = compose(target, [change]).image
        pasted = result.instances == 3
        assert np.array_equal(result.instances == 2, (target.instances == 2) & ~pasted)
        assert not (result.instances == 1).any() and result.counts() == {1: 1, 2: 1}
        nucleus = giver.instances == 1
        assert np.array_equal(np.sort(result.pixels[pasted], axis=0), np.sort(giver.pixels[nucleus], axis=0))

    def test_a_place_at_the_edge_is_refused(self, nuclei):
        donor = candidates_of(nuclei)[0].donor
        site = Candidate(0, Location("train_0", "background", 1.0, 1.0), donor, 0.0, 50.0)
        method = method_of("copypaste")
        assert drain(method.place(Work(nuclei, Store()), [site], method.settings())) == [CROSSES_EDGE]


class TestGradMix:
    def test_the_area_rule(self, nuclei):
        method, candidates = method_of("gradmix"), candidates_of(nuclei)
        plan = drain(method.plan(Work(nuclei, Store(candidates)), method.settings(count=60)))
        scale = {entry.source.image: entry.mpp for entry in nuclei.training}
        areas = sorted(
            each.target.area * scale[each.target.image] ** 2 for each in candidates if each.target.kind == "major"
        )
        assert plan.items
        for site in plan.items:
            target = IndexedImage(nuclei.read(site.image))
            room = grown(target, site.target).sum() * scale[site.image] ** 2
            assert room >= 2.3 * site.donor.area * scale[site.donor.image] ** 2
            assert site.target.area * scale[site.image] ** 2 <= areas[int(0.8 * len(areas)) - 1]
        assert max(Counter(site.donor for site in plan.items).values()) == 1

    def test_no_other_nucleus_is_touched(self, nuclei):
        method = method_of("gradmix")
        for change in make(method, Work(nuclei, Store(candidates_of(nuclei))), method.settings(count=60)):
            target = nuclei.read(change.image)
            assert change.removed == (change.target.item,)
            others = (target.instances != 0) & (target.instances != change.target.item)
            assert not (others[change.window] & (change.origin != REAL)).any()

    def test_the_donor_takes_on_half_of_the_targets_color_and_fades_out(self, labeled_image, dataset_folder, tmp_path):
        target = labeled_image([(64, 64, 11, 11, 2)], name="target")
        giver = labeled_image([(64, 64, 5, 5, 1)], name="giver")
        pale = np.where((giver.instances == 1)[..., None], (165, 125, 200), giver.pixels).astype(np.uint8)
        dataset = open_any(dataset_folder(tmp_path / "data", [target, replace(giver, pixels=pale)]))
        site = Candidate(0, *(nucleus_locations(image, [1], [2])[0] for image in (target, giver)), 0.0, 50.0)
        method = method_of("gradmix")
        (change,) = drain(method.place(Work(dataset, Store()), [site], method.settings()))
        nucleus = change.labels == min(change.added)
        middle = np.mean([(105, 65, 140), (165, 125, 200)], axis=0)
        assert np.abs(change.pixels[nucleus].mean(axis=0) - middle).max() < 4
        assert np.array_equal(nucleus, change.origin == DONOR)
        # What was the nucleus is tissue now, from the donor to the edge of the zone.
        rim = (change.origin == INPAINTED) & ~dilate(nucleus, 2)
        assert np.abs(change.pixels[rim].mean(axis=0) - (222, 165, 205)).max() < 12


class TestCutMix:
    def test_a_box_comes_with_all_its_nuclei(self, labeled_image, dataset_folder, tmp_path):
        # Beside the donor one nucleus that is half in its box, and one of which hardly anything is.
        giver = labeled_image([(64, 64, 6, 6, 1), (64, 76, 5, 5, 2), (64, 44, 6, 6, 3)], name="giver")
        target = labeled_image([(30, 30, 5, 5, 2), (30, 49, 6, 6, 2)], name="target")
        dataset = open_any(dataset_folder(tmp_path / "data", [target, giver]))
        donor = nucleus_locations(giver, [1], [])[0]
        method = method_of("cutmix")
        site = Candidate(0, Location("target", "background", 30.0, 30.0), donor, 0.0, 50.0)
        (change,) = drain(method.place(Work(dataset, Store()), [site], method.settings(margin=2.5)))
        reach = 6 + 10
        box = slice(64 - reach, 64 + reach + 1), slice(64 - reach, 64 + reach + 1)
        there = slice(30 - reach, 30 + reach + 1), slice(30 - reach, 30 + reach + 1)
        result = compose(target, [change])
        assert np.array_equal(result.image.pixels[there], giver.pixels[box])
        assert (result.origin[there] == DONOR).all() and np.count_nonzero(result.origin) == (2 * reach + 1) ** 2
        assert change.added == {3: 1, 4: 2} and change.removed == (1,)
        assert np.array_equal(result.image.instances == 3, np.roll(giver.instances == 1, (-34, -34), (0, 1)))
        edge = np.zeros(target.instances.shape, bool)
        edge[there] = True
        assert np.array_equal(result.image.instances == 2, (target.instances == 2) & ~edge)

    def test_shares_are_areas(self, tissue):
        for change in make(method_of("cutmix"), Work(tissue, Store())):
            target = tissue.read(change.image)
            (other,) = change.class_shares.keys() - {target.kind}
            assert other != target.kind and change.class_shares[other] == pytest.approx(change.new_area)
            assert compose(target, [change]).image.kind == max(change.class_shares, key=change.class_shares.get)

    def test_without_candidates_the_rarest_class_or_those_named(self, nuclei):
        method = method_of("cutmix")
        for rare, number in (((), 1), (("common",), 2)):
            made = make(method, Work(nuclei, Store()), method.settings(count=4, rare=rare))
            assert {change.donor.type for change in made} == {number}
        with pytest.raises(HistomixError, match="no class 'none'"):
            make(method, Work(nuclei, Store()), method.settings(rare=("none",)))


class TestCutOut:
    @pytest.mark.parametrize("erase", [True, False])
    def test_a_square_of_the_mean_color(self, nuclei, erase):
        method = method_of("cutout")
        for change in make(method, Work(nuclei, Store()), method.settings(count=3, erase=erase)):
            target = nuclei.read(change.image)
            hidden = change.origin == INPAINTED
            assert hidden.sum() == 64**2
            assert np.abs(change.pixels[hidden] - target.pixels.mean(axis=(0, 1))).max() <= 0.5
            instances = compose(target, [change]).image.instances
            assert np.array_equal(instances, target.instances) != erase
            assert not (erase and instances[hidden].any())


class TestMixUp:
    def test_pixels_are_the_weighted_mean(self, tissue):
        for change in make(method_of("mixup"), Work(tissue, Store())):
            target, partner = tissue.read(change.image), tissue.read(change.donor.image)
            share = change.provenance["lambda"]
            assert sum(change.class_shares.values()) == pytest.approx(1)
            if target.kind != partner.kind:
                assert change.class_shares.get(target.kind, 0) == pytest.approx(share)
            if target.pixels.shape == partner.pixels.shape and target.mpp == partner.mpp:
                mean = share * target.pixels + (1 - share) * partner.pixels
                assert np.abs(change.pixels - mean).max() <= 0.5
            assert (change.origin == DONOR).all()


class TestClassic:
    def test_labels_move_with_pixels(self, nuclei):
        method = method_of("classic")
        for change in make(method, Work(nuclei, Store()), method.settings(count=6, rotation=45.0)):
            target, result = nuclei.read(change.image), compose(nuclei.read(change.image), [change]).image
            inside = result.pixels[(result.instances != 0)].mean(axis=0)
            assert np.abs(inside - target.pixels[target.instances != 0].mean(axis=0)).max() < 30
            assert (change.origin == INPAINTED).any()
            for number in result.types:
                area = np.count_nonzero(target.instances == number)
                assert np.count_nonzero(result.instances == number) < 1.3 * area + 5

    def test_the_generator_of_others_is_left_alone(self, nuclei):
        import torch

        torch.manual_seed(1)
        expected = torch.rand(3)
        torch.manual_seed(1)
        make(method_of("classic"), Work(nuclei, Store()))
        assert torch.equal(torch.rand(3), expected)
