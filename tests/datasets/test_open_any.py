"""Tests that one function opens whatever a folder holds, as one kind of dataset."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from napari_histomix.datasets import open_any, sample_folder
from napari_histomix.datasets.pixels import image_facts
from napari_histomix.records import HistomixError


def add_images(root: Path, *files: str) -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), 200, np.uint8)).save(root / file)
    return root


def test_nuclei_and_classes_are_opened_as_what_they_are(tmp_path: Path) -> None:
    nuclei = open_any(sample_folder())
    assert nuclei.has_nuclei and not nuclei.has_kinds
    tissue = open_any(add_images(tmp_path, "tumor/a.png", "stroma/b.png"), mpp=0.5)
    assert tissue.has_kinds and not tissue.has_nuclei and tissue.kinds == ("stroma", "tumor")
    assert [entry.source.image for entry in tissue.of_kind("Tumor")] == ["tumor/a"]


def test_a_dataset_says_what_it_was_taken_for(tmp_path: Path) -> None:
    nuclei = open_any(sample_folder())
    assert nuclei.format == "hovernet" and nuclei == replace(nuclei, format="")
    assert open_any(add_images(tmp_path, "tumor/a.png", "stroma/b.png"), mpp=0.5).format == "class-folders"


def test_an_image_with_a_class_has_no_instances(tmp_path: Path) -> None:
    image = open_any(add_images(tmp_path, "tumor/a.png"), mpp=0.5).read("tumor/a")
    assert image.kind == "tumor" and not image.instances.any() and not image.types
    assert "labels_sha256" not in image_facts(image)
    sample = open_any(sample_folder())
    assert "labels_sha256" in image_facts(sample.read(sample.entries[0]))


def test_a_folder_with_neither_is_refused_with_both_layouts_named(tmp_path: Path) -> None:
    with pytest.raises(
        HistomixError, match=r"no labeled images.*HoVer-Net.*COCO.*Images and Labels.*one folder per class"
    ):
        open_any(tmp_path)


def test_a_broken_dataset_of_nuclei_is_not_taken_for_class_folders(tmp_path: Path) -> None:
    with pytest.raises(HistomixError, match="no folder Labels"):
        open_any(add_images(tmp_path, "Images/a.png"))
