from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from napari_histomix.datasets import sample_folder
from napari_histomix.datasets.opening import BUNDLED, dataset_at, way_to


def test_a_dataset_is_found_again_beside_what_was_made_of_it(tmp_path):
    (tmp_path / "work" / "data").mkdir(parents=True)
    (tmp_path / "work" / "exports").mkdir()
    out = tmp_path / "work" / "exports" / "augmented"
    way = way_to(tmp_path / "work" / "data", out)
    assert way == "../../data" and dataset_at(way, out) == tmp_path / "work" / "data"
    # Both moved together.
    shutil.move(tmp_path / "work", tmp_path / "moved")
    assert dataset_at(way, tmp_path / "moved" / "exports" / "augmented") == tmp_path / "moved" / "data"
    assert dataset_at(way, tmp_path / "moved") is None


def test_the_sample_is_found_wherever_it_is_installed(tmp_path):
    assert way_to(sample_folder(), tmp_path) == BUNDLED
    assert dataset_at(BUNDLED, tmp_path / "elsewhere") == sample_folder()


def test_no_way_that_names_a_person(tmp_path, monkeypatch):
    home = tmp_path / "home" / "Ann"
    monkeypatch.setattr(Path, "home", lambda: home)
    assert way_to(home / "data", tmp_path / "exports" / "a") == ""
    assert way_to(home / "data", home / "exports") == "../data"
    assert way_to(tmp_path / "Users" / "Bob" / "data", tmp_path / "exports" / "a") == ""
    assert way_to(home.parent / "Bob" / "data", home / "exports") == ""
    up = "../" * len(tmp_path.resolve().relative_to("/").parts)
    assert way_to(Path("/elsewhere/data"), tmp_path) == f"{up}elsewhere/data"


@pytest.mark.parametrize("way", [None, "", 3, "/", "\0", "nowhere", ["a"]])
def test_what_is_no_way_leads_nowhere(way, tmp_path):
    assert dataset_at(way, tmp_path) is None
