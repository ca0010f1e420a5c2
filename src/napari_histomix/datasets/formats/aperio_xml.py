"""Aperio ImageScope's XML, as MoNuSAC, MoNuSeg and Kumar use it: one closed line of vertices per nucleus.

MoNuSAC (Verma et al., 2021): a folder per patient with ``NAME.xml`` beside ``NAME.tif`` (or .svs, .png), one
``Annotation`` per class, named in ``Attributes/Attribute/@Name``. MoNuSeg and Kumar (Kumar et al., 2017, 2020):
``Annotations/NAME.xml`` and ``Tissue Images/NAME.tif``, or both in one folder, with one ``Annotation`` without a name.
Whoever draws in ImageScope itself names the layers: ``Annotation/@Name``, with an attribute "Description" in each.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree

from napari_histomix.datasets.dataset import Dataset, ImageFiles
from napari_histomix.datasets.entries import (
    SPLIT_FOLDERS,
    SPLITS,
    UNCLASSIFIED,
    Entry,
    Labels,
    Loss,
    Row,
    is_split_folder,
    named_classes,
    named_split,
    split_name,
    tcga_origin,
    unread,
)
from napari_histomix.datasets.formats import asap_xml, halo_xml
from napari_histomix.datasets.formats.foreign import refusal
from napari_histomix.datasets.formats.polygons import Canvas, Ring, one_ring, shapes_of
from napari_histomix.datasets.formats.side_files import HEAD, class_name
from napari_histomix.datasets.formats.xml_shapes import (
    ARROW,
    RULER,
    Holes,
    box,
    check_ellipses,
    ellipse,
    is_hole,
    too_few,
    vertices,
)
from napari_histomix.datasets.listing import (
    IMAGE_SUFFIXES,
    Listing,
    files_by_stem,
    sections_below,
    subfolder,
    subfolders,
)
from napari_histomix.datasets.names import composed
from napari_histomix.datasets.pixels import PLAUSIBLE_MPP
from napari_histomix.datasets.text_files import begins_with, naming, read_xml, whole_id
from napari_histomix.datasets.writing import SYNTHETIC_NOTICE, ImageWriter, Names, safe_name, write_tiff_image
from napari_histomix.records import HistomixError, LabeledImage, NucleusClass, Problem

NUCLEUS = "nucleus"
"""Class of what stands in an ``Annotation`` without a name."""

MONUSAC = ("Epithelial", "Lymphocyte", "Neutrophil", "Macrophage", "Ambiguous")
"""MoNuSAC's classes, numbered in this order; other names follow in alphabetical order."""

MARK = re.compile(
    rb"\A(?!.*?(?:" + asap_xml.MARK.pattern + rb"|" + halo_xml.MARK.pattern + rb")).*?<Annotations\b", re.DOTALL
)
_DEFAULT = "description"
"""The attribute that ImageScope gives each layer, in lower case."""
_WITHOUT_AREA = {"3": ARROW, "4": RULER, "5": unread("a pin")}
"""Types of regions that have one or two vertices, and no area."""
_PATIENT = re.compile(rf"({'|'.join(SPLIT_FOLDERS)})-[0-9]+", re.IGNORECASE)
"""The folder of a patient whose name is that of a split, as `Writer` calls it."""
_XML, _SLIDES = frozenset({".xml"}), frozenset({".svs"})
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
            inside = next(iter(paths[1].parent.relative_to(root).parts), root.name)
            if image in listing.said and f"{inside}-{image}" in listing.said:
                listing.report(image, f"two images in {root.name} have that name; rename one.")
            else:
                listing.add(image, paths, _said(paths[1], root, split), inside)
    names: dict[str, str] = {}
    for image, (_, path) in list(listing.files.items()):
        with listing.leaving_out(image):
            content = _read(path)
            listing.said[image] = replace(listing.said[image], mpp=_scale(content))
            for name in sorted({name for name, _ in _layers(content)[0]}):
                names.setdefault(name.casefold(), name)
    known = [names.pop(name.casefold()) for name in MONUSAC if name.casefold() in names]
    others = [names[key] for key in sorted(names, key=lambda key: (key == UNCLASSIFIED, key))]
    classes = listing.classes or named_classes(*(known + others or [NUCLEUS]))
    numbers = {(known.name.strip() or NUCLEUS).casefold(): known.number for known in classes}
    return listing.dataset(classes, _Files(numbers))


_Section = tuple[str, dict[str, Path], dict[str, Path]]
"""The split that a folder says, its images and its XML files by name."""


def _sections(root: Path, problems: list[Problem]) -> list[_Section]:
    """The folders that have ImageScope's files: the root, those in it, and those in the ones named as splits.

    Splits may be words of a name, as in ``MoNuSegTestData``.
    """
    folders = [(root, ""), *((path, _split_in(path)) for path in subfolders(root))]
    folders += [(path, split) for folder, split in folders if split for path in subfolders(folder)]
    folders.sort(key=lambda section: SPLITS.index(section[1]) if section[1] else -1)
    sections: list[_Section] = []
    used: set[Path] = set()
    for folder, split in folders:
        labels = subfolder(folder, "annotations") or folder
        images = folder if labels == folder else subfolder(folder, "tissue images", "tissueimages", "images")
        if folder in used or images is None:
            continue
        places = [(images, labels, split)]
        if images != labels:
            below = sections_below(images, labels, split)
            places += [(inner, partner, said if said in SPLITS else "") for inner, partner, said in below]
        for pictures, outlines, said in places:
            xml = files_by_stem(outlines, _XML, problems, "label")
            if begins_with(xml.values(), MARK, HEAD):
                used |= {labels, images}
                # MoNuSAC has each image twice, as .svs and as .tif.
                slides = files_by_stem(pictures, _SLIDES, problems)
                sections.append((said, slides | files_by_stem(pictures, IMAGE_SUFFIXES, problems), xml))
    return sections


def _split_in(folder: Path) -> str:
    """The split that a folder's name is, or holds as a word; of a patient whom `Writer` calls ``train-2``, none."""
    name = composed(folder.name)
    if is_split_folder(name):
        return split_name(name)
    return "" if _PATIENT.fullmatch(name) else named_split(name)


def _said(path: Path, root: Path, split: str) -> Row:
    """What the place of an XML file says of its image."""
    folder = path.parent.name
    if tcga_origin(path.stem)[0]:
        return Row(split=split)
    patient, slide = tcga_origin(folder)
    says_nothing = folder.casefold() in (path.stem.casefold(), "annotations") or _split_in(path.parent)
    if not patient and path.parent != root and not says_nothing:
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


_Layer = tuple[str, list[ElementTree.Element]]
"""The name of a layer's class, and its regions."""


def _layers(root: ElementTree.Element) -> tuple[list[_Layer], tuple[str, ...]]:
    """The layers of a file that have regions, and what is to be told of them.

    The class is the layer's first attribute, as MoNuSAC has it; or the layer's own name, where nobody named the
    attribute, or all layers have the same one. What stands in ImageScope's own attribute counts most.
    """
    layers = [(layer, regions) for layer in root.iter("Annotation") if (regions := list(layer.iter("Region")))]
    attributes = [next(layer.iterfind("Attributes/Attribute"), ElementTree.Element("Attribute")) for layer, _ in layers]
    said = [attribute.get("Name", "").strip() for attribute in attributes]
    own = [layer.get("Name", "").strip() for layer, _ in layers]
    same = len(set(said)) == 1 and all(own)
    named: list[_Layer] = []
    for (_, regions), attribute, first, second in zip(layers, attributes, said, own, strict=True):
        if first.casefold() == _DEFAULT:
            name = attribute.get("Value", "").strip() or second
        else:
            name = second if same else first or second
        named.append(((class_name(name) or UNCLASSIFIED) if name else NUCLEUS, regions))
    unnamed = sum(name == NUCLEUS for name, _ in named)
    note = f"{unnamed} layers without a name were read as one class, {NUCLEUS!r}; name them if they are several."
    return named, (note,) if unnamed > 1 and not any(own) else ()


@dataclass(frozen=True)
class _Files(ImageFiles):
    numbers: dict[str, int]  # of the classes, by name in lower case

    def labels(self, entry: Entry, shape: tuple[int, int]) -> Labels:
        # Regions are drawn in their order; negative ones are holes of those they lie in. Where no two regions have one
        # ``Id``, nuclei keep it; MoNuSAC's begin anew in every class.
        file, canvas = entry.label_file.name, Canvas(shape)
        nuclei: list[tuple[Ring, Holes, int]] = []
        ids: list[int] = []
        layers, notes = _layers(_read(entry.label_file))
        for name, regions in layers:
            key = name.casefold()
            if key not in self.numbers and key not in (NUCLEUS, UNCLASSIFIED):
                raise HistomixError(f"{file} has the class {name!r}, which the dataset does not list; add it there.")
            with naming(f"{file}, {name}"):
                drawn = [(_outline(region), region) for region in regions]
                holes = Holes([ring for ring, region in drawn if is_hole(region) and not isinstance(ring, tuple)])
            for ring, region in drawn:
                if is_hole(region):
                    continue
                if isinstance(ring, tuple):
                    canvas.lost[ring] += 1
                    continue
                nuclei.append((ring, holes, self.numbers.get(key, 0)))
                ids.append(whole_id(region.get("Id", "")))
        kept = len(set(ids)) == len(ids) and 0 not in ids
        with naming(file):
            for (ring, holes, number), instance in zip(nuclei, ids, strict=True):
                canvas.draw([ring, *holes.within(ring)], number, instance if kept else None)
        return canvas.labels(notes=notes)


def _read(path: Path) -> ElementTree.Element:
    """The root of a file, which other programs' files do not have."""
    root = read_xml(path)
    if root.tag != "Annotations" or next(root.iter("V"), None) is not None:
        raise HistomixError(
            refusal(path) or f"{path.name} is not of ImageScope as the other files are; export it again."
        )
    with naming(path.name):
        check_ellipses(root, "2")
    return root


def _outline(region: ElementTree.Element) -> Ring | Loss:
    """The outline of a region, or why it has none."""
    kind, ring = region.get("Type", "").strip(), vertices(region.iter("Vertex"))
    if len(ring) > 2:
        return ring
    if len(ring) == 2 and kind in ("1", "2"):
        return box(ring) if kind == "1" else ellipse(ring)
    return _WITHOUT_AREA.get(kind, too_few(ring)) if len(ring) else too_few(ring)


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
