from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from napari_histomix.features.neighborhood import FAR_UM, neighborhood_features, neighborhood_names
from napari_histomix.records import Location

RARE, COMMON, OTHER = 1, 2, 3
NAMES = neighborhood_names(["rare", "common"])


def nucleus(row: float, col: float, number: int = COMMON, instance: int = 1, area: int = 100) -> Location:
    return Location("a", "rare" if number == RARE else "major", row, col, instance, number, area)


def described(places, nuclei, shape=(400, 400), mpp=0.5) -> list[dict[str, float]]:
    features = neighborhood_features(places, nuclei, (RARE, COMMON), shape, mpp)
    assert features.shape == (len(places), len(NAMES)) and features.dtype == np.float32
    assert np.isfinite(features).all()
    return [dict(zip(NAMES, row.tolist(), strict=True)) for row in features]


@pytest.fixture
def scattered() -> list[Location]:
    rng = np.random.default_rng(0)
    return [
        nucleus(*rng.uniform(5, 394, 2), int(rng.integers(1, 4)), number, int(rng.integers(20, 200)))
        for number in range(1, 80)
    ]


def test_a_nucleus_is_not_around_itself_whatever_its_class():
    here = nucleus(200, 200, RARE)
    alone = described([here], [here])[0]
    free = described([Location("a", "background", 200, 200)], [])[0]
    without = {name for name in NAMES if not name.startswith("area")}
    assert {name: alone[name] for name in without} == {name: free[name] for name in without}
    assert alone["nearest rare"] == alone["third nearest all"] == pytest.approx(np.log(FAR_UM))


def test_distances_are_in_micrometers_and_counts_by_class():
    place = Location("a", "background", 200.0, 200.0)
    nuclei = [nucleus(200, 220, RARE), nucleus(240, 200), nucleus(200, 120), nucleus(200, 100, OTHER)]
    row = described([place], nuclei, mpp=0.5)[0]
    distances = {name: np.exp(value) for name, value in row.items() if "nearest" in name}
    assert distances["nearest rare"] == pytest.approx(10) and distances["nearest common"] == pytest.approx(20)
    assert distances["nearest all"] == pytest.approx(10) and distances["third nearest all"] == pytest.approx(40)
    assert distances["third nearest rare"] == pytest.approx(FAR_UM)
    for radius, rare, common, every in ((14, 1, 0, 1), (28, 1, 1, 2), (56, 1, 2, 4)):
        disc = np.pi * radius**2 / 1000
        found = (row[f"{kind} within {radius} µm"] for kind in ("rare", "common", "all"))
        assert [np.exp(value) * disc for value in found] == pytest.approx([rare + 0.5, common + 0.5, every + 0.5])


def test_they_depend_on_micrometers_not_on_pixels(scattered):
    # The center of a pixel lies between the four that take its place.
    places = [*scattered[:20], Location("a", "background", 3.0, 390.0)]
    finer = [
        [replace(each, row=2 * each.row + 0.5, col=2 * each.col + 0.5, area=4 * each.area) for each in those]
        for those in (places, scattered)
    ]
    coarse = neighborhood_features(places, scattered, (RARE, COMMON), (400, 400), 0.5)
    fine = neighborhood_features(finer[0], finer[1], (RARE, COMMON), (800, 800), 0.25)
    assert fine == pytest.approx(coarse, abs=1e-5)


def test_turning_the_image_changes_nothing(scattered):
    turned = [replace(each, row=399 - each.col, col=each.row) for each in scattered]
    straight = neighborhood_features(scattered, scattered, (RARE, COMMON), (400, 400), 0.5)
    assert neighborhood_features(turned, turned, (RARE, COMMON), (400, 400), 0.5) == pytest.approx(straight, abs=2e-2)


def test_a_corner_does_not_look_empty():
    rng = np.random.default_rng(1)
    nuclei = [nucleus(*rng.uniform(0, 399, 2), COMMON, number) for number in range(1, 3000)]
    corner, middle = (Location("a", "background", at, at) for at in (2.0, 200.0))
    first, second = described([corner, middle], nuclei)
    assert first["all within 56 µm"] == pytest.approx(second["all within 56 µm"], abs=0.3)


def test_nothing_to_describe_and_nothing_around():
    assert described([], []) == []
    assert described([], [nucleus(5, 5)]) == []
    assert len(described([Location("a", "background", 5.0, 5.0)], [])) == 1
