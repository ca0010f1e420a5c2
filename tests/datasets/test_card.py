from __future__ import annotations

import yaml

from napari_histomix.datasets.dataset_writer import write_card
from napari_histomix.datasets.formats import FORMATS

FACTS = {
    "name": "CoNSeP: augmented",
    "format": "coco",
    "counts_before": {"rare | odd": 3, "tumor": 1200},
    "counts_after": {"rare | odd": 10, "tumor": 1195},
    "counts_synthetic": {"rare | odd": 7},
    "images": 1200,
    "synthetic_images": 4,
    "synthetic_nuclei": 7,
    "methods": ["NucleiMix:\ncopy and paste."],
    "models": [{"name": "inpainter", "sha256": "ab" * 32, "license": "BSD-3-Clause"}, {"name": "other"}],
    "license": "CC BY-NC-SA 4.0",
    "source": "CoNSeP",
    "notes": ["Training split only."],
}


def test_a_hub_reads_the_head_and_a_person_the_rest(tmp_path):
    write_card(tmp_path, **FACTS)
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    empty, head, body = text.split("---\n", 2)
    assert empty == ""
    assert yaml.safe_load(head) == {
        "pretty_name": "CoNSeP: augmented",
        "license": "cc-by-nc-sa-4.0",
        "task_categories": ["image-segmentation"],
        "tags": ["synthetic", "histopathology", "h-and-e", "napari-histomix"],
        "size_categories": ["1K<n<10K"],
    }
    assert "SYNTHETIC, not for diagnosis" in text.splitlines()[1]
    assert "SYNTHETIC, not for diagnosis" in body.lstrip().splitlines()[2]
    assert "| rare \\| odd | 3 | 10 | +7 | 7 |" in body and "| tumor | 1,200 | 1,195 | -5 | 0 |" in body
    assert f"| inpainter | {'ab' * 32} | BSD-3-Clause |" in body and "| other | not stated | not stated |" in body
    assert "pycocotools" in body and "- Training split only." in body and "- NucleiMix: copy and paste." in body


def test_a_license_no_hub_knows_keeps_its_name(tmp_path):
    for said, head in (("ours: ask", {"license": "other", "license_name": "ours: ask"}), ("", {"license": "unknown"})):
        write_card(tmp_path, **FACTS | {"license": said, "models": [], "format": "class-folders"})
        text = (tmp_path / "README.md").read_text(encoding="utf-8")
        assert head.items() <= yaml.safe_load(text.split("---\n")[1]).items()
        assert "No network took part." in text


def test_every_format_says_how_it_is_read(tmp_path):
    for one in (one for one in FORMATS.values() if one.writes):
        write_card(tmp_path, **FACTS | {"format": one.name})
        section = (tmp_path / "README.md").read_text(encoding="utf-8").split("## How to read it")[1]
        assert len(section.split("```")[0]) > len(one.title) + 60
