"""Aperio ImageScope's XML, as MoNuSAC, MoNuSeg and Kumar use it: one closed line of vertices per nucleus.

MoNuSAC (Verma et al., 2021): a folder per patient with ``NAME.xml`` beside ``NAME.tif`` (or .svs, .png), one
``Annotation`` per class, named in ``Attributes/Attribute/@Name``. MoNuSeg and Kumar (Kumar et al., 2017, 2020):
``Annotations/NAME.xml`` and ``Tissue Images/NAME.tif``, or both in one folder, with one ``Annotation`` without a name.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from napari_histomix.datasets.dataset import Dataset, Layout
from napari_histomix.datasets.entries import SPLIT_FOLDERS, Entry, Labels, Row, named_classes, tcga_origin
from napari_histomix.datasets.formats.polygons import Ring, as_ring, one_ring, paint, shapes_of
from napari_histomix.datasets.listing import IMAGE_SUFFIXES, Listing, files_by_stem, sections_of, subfolder, subfolders
from napari_histomix.datasets.pixels import PLAUSIBLE_MPP
from napari_histomix.datasets.text_files import begins_with, naming, read_xml, whole_id
from napari_histomix.datasets.writing import SYNTHETIC_NOTICE, ImageWriter, Names, safe_name, write_tiff_image
from napari_histomix.records import HistomixError, LabeledImage, NucleusClass, Problem

NUCLEUS = "nucleus"
"""Class of what stands in an ``Annotation`` without a name."""

MONUSAC = ("Epithelial", "Lymphocyte", "Neutrophil", "Macrophage", "Ambiguous")
"""MoNuSAC's classes, numbered in this order; other names follow in alphabetical order."""

MARK = re.compile(rb"<Annotations")
_XML, _SLIDES = frozenset({".xml"}), frozenset({".svs"})
_MOST_HOLES = 10_000
_SHIFT = 0.25
"""Outlines are written a quarter of a pixel up and to the left of the pixels' borders: so whoever takes the centers of
pixels to lie at halves, as here, and whoever takes them to lie at whole numbers, as MoNuSAC's own script, draws exactly
the same pixels."""


def recognizes(root: Path) -> bool:
    """Whether there is an XML file of an image's name that begins as ImageScope's do."""
    return any(images.keys() & labels.keys() for _, images, labels in _sections(root, []))


def open(root: Path, mpp: float | None) -> Dataset:
    """List a folder of MoNuSAC, MoNuSeg or Kumar; each XML file is read once for its classes and its scale.

    The patient is the TCGA barcode in the name of the image's folder or of the image, else the folder's name. A folder
    named as its image says nothing about the patient. ``MicronsPerPixel`` counts where it is a microscope's.
    """
    listing = Listing(root, mpp)
    sections = _sections(root, listing.problems)
    stems = Counter(stem for _, images, _ in sections for stem in images)
    for split, images, labels in sections:
        for stem, paths in listing.pairs(images, labels).items():
            image = stem if stems[stem] == 1 else f"{paths[1].parent.name}-{stem}"
            if image in listing.said:
                listing.report(image, f"two images in {root.name} have that name; rename one.")
            else:
                listing.add(image, paths, _said(paths[1], root, split))
    names: dict[str, str] = {}
    for image, (_, path) in list(listing.files.items()):
        with listing.leaving_out(image):
            content = read_xml(path)
            listing.said[image] = replace(listing.said[image], mpp=_scale(content))
            annotations = content.iter("Annotation")
            for name in sorted({_class_of(part) for part in annotations if next(part.iter("Region"), None)}):
                names.setdefault(name.casefold(), name)
    known = [names.pop(name.casefold()) for name in MONUSAC if name.casefold() in names]
    others = [names[key] for key in sorted(names)]
    classes = listing.classes or named_classes(*(known + others or [NUCLEUS]))
    numbers = {(known.name.strip() or NUCLEUS).casefold(): known.number for known in classes}
    return listing.dataset(classes, _Layout(numbers))


_Section = tuple[str, dict[str, Path], dict[str, Path]]
"""The split that a folder says, its images and its XML files by name."""


def _sections(root: Path, problems: list[Problem]) -> list[_Section]:
    """The folders that have ImageScope's files: the root, those in it, and those in the ones named as splits."""
    splits = sections_of(root)[1:]
    sections, used = [], set()
    for folder in [root, *subfolders(root), *(path for split, _ in splits for path in subfolders(split))]:
        labels = subfolder(folder, "annotations") or folder
        images = folder if labels == folder else subfolder(folder, "tissue images", "tissueimages", "images")
        if folder in used or images is None:
            continue
        xml = files_by_stem(labels, _XML, problems, "label")
        if not begins_with(xml.values(), MARK):
            continue
        used |= {labels, images}
        split = next((name for path, name in splits if path in (folder, *folder.parents)), "")
        # MoNuSAC has each image twice, as .svs and as .tif.
        pictures = files_by_stem(images, IMAGE_SUFFIXES, problems)
        sections.append((split, files_by_stem(images, _SLIDES, problems) | pictures, xml))
    return sections


def _said(path: Path, root: Path, split: str) -> Row:
    """What the place of an XML file says of its image."""
    folder = path.parent.name
    if tcga_origin(path.stem)[0]:
        return Row(split=split)
    patient, slide = tcga_origin(folder)
    says_nothing = (path.stem.casefold(), "annotations", *SPLIT_FOLDERS)
    if not patient and path.parent != root and folder.casefold() not in says_nothing:
        patient = folder
    return Row(patient, slide if slide != patient else "", split)


def _scale(root: ElementTree.Element) -> float | None:
    """µm per pixel, if a file states it."""
    try:
        scale = float(root.get("MicronsPerPixel", ""))
    except ValueError:
        return None
    low, high = PLAUSIBLE_MPP
    return scale if low <= scale <= high else None


def _class_of(annotation: ElementTree.Element) -> str:
    """Name of the class: the first attribute's, or, where somebody wrote it there, the annotation's own."""
    for attribute in annotation.iterfind("Attributes/Attribute"):
        if name := attribute.get("Name", "").strip():
            return name
    return annotation.get("Name", "").strip() or NUCLEUS


@dataclass(frozen=True)
class _Layout(Layout):
    numbers: dict[str, int]  # of the classes, by name in lower case

    def labels(self, entry: Entry, shape: tuple[int, int]) -> Labels:
        # Regions are drawn in their order; negative ones are holes of those they lie in. Where no two regions have one
        # ``Id``, nuclei keep it; MoNuSAC's begin anew in every class.
        name = entry.label_file.name
        nuclei: list[tuple[Ring, _Holes, int]] = []
        ids: list[int] = []
        for annotation in read_xml(entry.label_file).iter("Annotation"):
            regions, kind = list(annotation.iter("Region")), _class_of(annotation)
            if regions and kind.casefold() not in self.numbers:
                raise HistomixError(f"{name} has the class {kind!r}, which the dataset does not list; add it there.")
            with naming(f"{name}, {kind}"):
                drawn = [(ring, region) for region in regions if len(ring := _ring(region))]
            holes = _Holes([ring for ring, region in drawn if region.get("NegativeROA") == "1"])
            for ring, region in drawn:
                if region.get("NegativeROA") != "1":
                    nuclei.append((ring, holes, self.numbers[kind.casefold()]))
                    ids.append(whole_id(region.get("Id", "")))
        polygons = (([ring, *holes.within(ring)], number) for ring, holes, number in nuclei)
        with naming(name):
            return paint(shape, polygons, ids if len(set(ids)) == len(ids) and 0 not in ids else None)


def _ring(region: ElementTree.Element) -> Ring:
    """The vertices of a region; rulers and arrows have two of them, which hold no pixel."""
    try:
        points = [(float(vertex.get("X", "")), float(vertex.get("Y", ""))) for vertex in region.iter("Vertex")]
    except ValueError:
        raise HistomixError("a vertex has no numbers X and Y; export it again.") from None
    return as_ring(np.array(points, np.float64).reshape(-1, 2))


class _Holes:
    """Negative regions, by the boxes around them."""

    def __init__(self, rings: list[Ring]) -> None:
        if len(rings) > _MOST_HOLES:
            raise HistomixError(f"at most {_MOST_HOLES} negative regions are read; draw nuclei without them.")
        self.rings = rings
        self._low = np.array([ring.min(axis=0) for ring in rings]).reshape(-1, 2)
        self._high = np.array([ring.max(axis=0) for ring in rings]).reshape(-1, 2)

    def within(self, ring: Ring) -> list[Ring]:
        """Those whose box lies in that of a ring."""
        inside = (self._low >= ring.min(axis=0)).all(axis=1) & (self._high <= ring.max(axis=0)).all(axis=1)
        return [self.rings[number] for number in np.flatnonzero(inside)]


class Writer(ImageWriter):
    """Writes MoNuSAC's layout: ``PATIENT/NAME.tif`` and ``PATIENT/NAME.xml``.

    A folder has the name of the patient, else of the image. A nucleus with holes or in several parts is one line all
    the same: its rings are joined along pixel borders (``polygons.one_ring``).
    """

    def start(self) -> None:
        self._names = Names("annotations", "images", "labels", "json", "origin", "ignore", *SPLIT_FOLDERS)
        self._folders: dict[str, str] = {}

    def write(self, image: LabeledImage, synthetic: bool) -> None:
        name, patient = image.source.image, image.source.patient
        if not patient or patient not in self._folders:
            self._folders[patient] = self._names.unique(safe_name(patient, "patient") if patient else name)
        folder = self.folder / self._folders[patient]
        folder.mkdir(exist_ok=True)
        write_tiff_image(folder / f"{name}.tif", image, synthetic)
        tree = ElementTree.ElementTree(_tree(image, self.classes, synthetic))
        ElementTree.indent(tree)
        tree.write(folder / f"{name}.xml", "utf-8", xml_declaration=True)


def _tree(image: LabeledImage, classes: Sequence[NucleusClass], synthetic: bool) -> ElementTree.Element:
    """The annotations of an image, one per class that occurs in it."""
    root = ElementTree.Element("Annotations", MicronsPerPixel=f"{image.mpp:.6g}")
    if synthetic:
        root.set("Description", SYNTHETIC_NOTICE)
    regions: dict[int, ElementTree.Element] = {}
    present = image.counts()
    for number, known in enumerate((known for known in classes if known.number in present), start=1):
        red, green, blue = known.color
        # ImageScope packs colors with blue in the highest byte.
        color = str(red | green << 8 | blue << 16)
        annotation = ElementTree.SubElement(root, "Annotation", Id=str(number), Name="", Type="4", LineColor=color)
        attributes = ElementTree.SubElement(annotation, "Attributes")
        ElementTree.SubElement(attributes, "Attribute", Name=known.name, Id="0", Value="")
        regions[known.number] = ElementTree.SubElement(annotation, "Regions")
        # Some readers skip the first child without a look.
        ElementTree.SubElement(regions[known.number], "RegionAttributeHeaders")
    for instance, parts in shapes_of(image.instances):
        region = ElementTree.SubElement(regions[image.types[instance]], "Region", Id=str(instance), Type="0")
        region.set("NegativeROA", "0")
        # MoNuSAC's script takes the second child for the vertices.
        ElementTree.SubElement(region, "Attributes")
        vertices = ElementTree.SubElement(region, "Vertices")
        for x, y in (one_ring(parts) - _SHIFT).tolist():
            ElementTree.SubElement(vertices, "Vertex", X=str(x), Y=str(y), Z="0")
    return root
