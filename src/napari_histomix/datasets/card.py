"""The card of an exported dataset: ``README.md`` with the head that dataset hubs read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from napari_histomix import __version__
from napari_histomix.datasets.entries import read_json_object
from napari_histomix.datasets.formats import FORMATS
from napari_histomix.datasets.writing import SYNTHETIC_NOTICE
from napari_histomix.weights import bundled

_LICENSES = frozenset(
    {
        "apache-2.0",
        "bsd-3-clause",
        "cc-by-4.0",
        "cc-by-nc-4.0",
        "cc-by-nc-nd-4.0",
        "cc-by-nc-sa-4.0",
        "cc-by-nd-4.0",
        "cc-by-sa-4.0",
        "cc0-1.0",
        "mit",
    }
)
"""Identifiers that the Hugging Face hub knows and that images are published under; others are "other" with a name."""

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))

_READING = {
    "hovernet": "`Labels/NAME.mat` holds `inst_map`, `type_map`, `inst_type` and `inst_centroid` of `Images/NAME.png`; "
    "HoVer-Net's own loader for CoNSeP opens it.",
    "hovernet-json": "Each JSON file has HoVer-Net's own output form: contour, bounding box, centroid and type per "
    "nucleus.",
    "pannuke": "`images.npy`, `types.npy` and `masks.npy` as PanNuke's folds have them; load them with "
    "`numpy.load(path, mmap_mode='r')`.",
    "aperio-xml": "Each image has an Aperio XML file of its name; a `Region` is a nucleus, the `Annotation` it lies "
    "in says the class.",
    "qupath": "Open an image in QuPath and drop its GeoJSON file on it.",
    "coco": "`pycocotools.coco.COCO('annotations/instances_train.json')`; category ids are the class numbers.",
    "yolo": "`yolo segment train data=data.yaml`, with the folder's own path in `data.yaml`.",
    "tiff-pairs": "An image in `images` and the label image of the same name in `masks`: what the StarDist examples "
    "load. `types.csv` lists the class of every instance.",
    "ome-zarr": "Drop a `.zarr` folder on napari with napari-ome-zarr; the nuclei are its labels `nuclei`, and the "
    "label metadata hold the class of every instance.",
    "plain": "`labels` holds a label image for each image, `class_maps` a map of class numbers, `types.csv` the class "
    "of every instance.",
    "class-folders": "Give a training loop that takes folders for classes the folder of a split: "
    "`torchvision.datasets.ImageFolder('train')`. `images.csv` lists the class, patient and slide of every image.",
}
"""How others read each format, by its name."""


_OURS = "BSD-3-Clause"
"""License of the bundled models, as of the package."""


def write_card(
    folder: Path,
    *,
    name: str,
    format: str,
    counts_before: Mapping[str, int],
    counts_after: Mapping[str, int],
    counts_synthetic: Mapping[str, int],
    images: int,
    synthetic_images: int,
    synthetic_nuclei: int | None,
    methods: Sequence[str],
    models: Sequence[Mapping[str, str]],
    license: str,
    source: str,
    notes: Sequence[str],
) -> None:
    """Write ``README.md``: what the dataset holds, how it was made, and that it is not for diagnosis.

    The head is that of a Hugging Face dataset card (https://huggingface.co/docs/hub/datasets-cards).

    Parameters
    ----------
    folder : Path
        Root of the dataset, which is there.
    name : str
        Of the dataset.
    format : str
        Name of its format.
    counts_before, counts_after, counts_synthetic : mapping of str to int
        Nuclei per class, or images where these have a class as a whole: in the source, in the dataset, and what is
        synthetic in it.
    images, synthetic_images : int
        Images in all, and images with synthetic pixels.
    synthetic_nuclei : int, optional
        Synthetic nuclei in them; None for images that have a class as a whole.
    methods : sequence of str
        What made the synthetic pixels, one sentence each.
    models : sequence of mapping
        ``name``, ``sha256`` and ``license`` of every network that took part.
    license : str
        Of the source images; empty where nothing says it.
    source : str
        Dataset that the real images are from.
    notes : sequence of str
        More sentences: splits, ignored pixels, what the format could not hold.
    """
    before, after = counts_before, counts_after
    counts = [
        (
            *(name, f"{before.get(name, 0):,}", f"{after.get(name, 0):,}"),
            *(f"{after.get(name, 0) - before.get(name, 0):+,}", f"{counts_synthetic.get(name, 0):,}"),
        )
        for name in dict.fromkeys([*before, *after])
    ]
    facts = [tuple(model.get(key) or "not stated" for key in ("name", "sha256", "license")) for model in models]
    title = FORMATS[format].title
    tissue = synthetic_nuclei is None
    held = "" if tissue else f"; they hold {synthetic_nuclei:,} synthetic nuclei"
    parts = [
        f"---\n# {SYNTHETIC_NOTICE}\n{_head(name, license, images, tissue)}---",
        f"# {_line(name)}",
        f"**{SYNTHETIC_NOTICE}.** Of {images:,} images, {synthetic_images:,} have pixels that no microscope saw{held}. "
        "For training and research alone.",
        "## Classes",
        _table(("class", "before", "after", "change", "synthetic of them"), counts),
        "## How it was made",
        _list(methods) or "Nothing says how.",
        "## Models",
        _table(("model", "SHA-256", "license"), facts) if facts else "No network took part.",
        "## Source and license",
        f"Real images: {_line(source) or 'not stated'}. License of the source: {_line(license) or 'not stated'}. "
        "It governs what this dataset may be used for, as do the licenses of the models.",
        "## How to read it",
        f"Format: {title}. {_READING[format]}",
        '```python\nfrom napari_histomix.datasets import open_any\n\ndataset = open_any("path/to/this/folder")\n```',
        *(["## Notes", _list(notes)] if notes else []),
        f"Written by napari-histomix {__version__}.",
    ]
    (Path(folder) / "README.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8", newline="\n")


def models_of(provenances: Iterable[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Name, SHA-256 and, where it is known, license of every network that took part, for the dataset card."""
    ours = str(read_json_object(bundled() / "histomix.json").get("sha256", ""))
    found: dict[tuple[str, str], dict[str, str]] = {}
    for made in provenances:
        name, sha256 = str(made.get("model", "")), str(made.get("model_sha256", ""))
        if name or sha256:
            license = _OURS if sha256 and sha256 == ours else ""
            found.setdefault((name, sha256), {"name": name, "sha256": sha256, "license": license})
    return [found[key] for key in sorted(found)]


def _head(name: str, license: str, images: int, tissue: bool) -> str:
    """The YAML lines of the head."""
    identifier = "-".join(license.casefold().split())
    head: dict[str, Any] = {"pretty_name": _line(name)}
    if identifier in _LICENSES:
        head["license"] = identifier
    elif identifier:
        head |= {"license": "other", "license_name": _line(license)}
    else:
        head["license"] = "unknown"
    head["task_categories"] = ["image-classification" if tissue else "image-segmentation"]
    head["tags"] = ["synthetic", "histopathology", "h-and-e", "napari-histomix"]
    head["size_categories"] = [next((words for limit, words in _SIZES if images < limit), "n>1M")]
    return str(yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=1000))


def _line(text: str) -> str:
    """Text as one line."""
    return " ".join(str(text).split())


def _list(items: Iterable[str]) -> str:
    return "\n".join(f"- {_line(item)}" for item in items)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    # A bar in a class's name would begin another cell.
    return "\n".join("| " + " | ".join(_line(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
