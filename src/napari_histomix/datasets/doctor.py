"""Everything that can be wrong with a folder of labeled images, in one report with a remedy for each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from napari_histomix.datasets.copies import find_copies
from napari_histomix.datasets.dataset import Dataset, Survey, no_nucleus, survey, synthetic_notes
from napari_histomix.datasets.names import composed
from napari_histomix.datasets.pixels import orientation_of
from napari_histomix.datasets.splits import few, shared, split_of
from napari_histomix.datasets.writing import safe_name
from napari_histomix.records import HistomixError, Job

PLAUSIBLE_DIAMETER = (2.5, 30.0)
"""Median diameter of a dataset's nuclei in µm, beyond which its µm per pixel are hardly right."""

_MEASURED = 5
"""Images whose nuclei are measured."""


@dataclass(frozen=True, slots=True)
class Check:
    """What is looked at, the sentence where nothing is found, and what to do where something is."""

    title: str
    fine: str
    remedy: str


CHECKS: dict[str, Check] = {
    "files": Check(
        "files",
        "every image has its labels, and all can be read.",
        "Do what each line says; where it only tells how something was read, see in the window that this is right.",
    ),
    "objects": Check(
        "lost objects",
        "every object of the label files is read.",
        "Draw what should count as an outline within its image; what should not may stay as it is.",
    ),
    "parts": Check(
        "shapes",
        "every id covers a single shape.",
        "Where each shape is a nucleus, read the data with --split-parts, here and in every command.",
    ),
    "types": Check(
        "classes",
        "every nucleus has a class.",
        "Give them one where they were labeled; until then they are unclassified and never grown.",
    ),
    "orientation": Check(
        "orientation",
        "no image is turned by its EXIF data.",
        "Look at one in the window; --fix writes all of them upright.",
    ),
    "names": Check(
        "names", "file names mean the same on every disk.", "--fix gives each image a name that every disk takes."
    ),
    "splits": Check(
        "splits",
        "training, validation and test have nothing in common.",
        "'histomix split' proposes splits that share nothing; pass what it writes as --splits.",
    ),
    "scale": Check(
        "scale",
        "µm per pixel are known, and nuclei have a plausible size.",
        'Pass the right --mpp, or put {"mpp": 0.25} in dataset.json beside the data.',
    ),
    "synthetic": Check("synthetic", "nothing is marked as synthetic.", "Nothing to do: none of it is ever a donor."),
}
"""In the order of the report."""

_OF_NUCLEI = ("objects", "parts", "types")
"""Checks of labeled nuclei, which images with a class each do not have."""


def checks_of(dataset: Dataset) -> dict[str, Check]:
    """The checks that a dataset can fail, in the order of the report."""
    return {name: check for name, check in CHECKS.items() if dataset.has_nuclei or name not in _OF_NUCLEI}


@dataclass(frozen=True, slots=True)
class Examination:
    """What `examine` found: by check the sentences, empty where all is fine."""

    survey: Survey
    findings: dict[str, tuple[str, ...]]

    @property
    def failed(self) -> tuple[str, ...]:
        """Checks that found something to mend."""
        return tuple(name for name, sentences in self.findings.items() if sentences and name != "synthetic")


def examine(dataset: Dataset) -> Job[Examination]:
    """Look for everything that may be wrong with a dataset; a long job (see ``records.Job``).

    Parameters
    ----------
    dataset : Dataset
        As ``open_any`` opens it.

    Returns
    -------
    Examination

    Examples
    --------
    >>> from napari_histomix import load_sample
    >>> from napari_histomix.records import drain
    >>> drain(examine(load_sample())).failed
    ()
    """
    surveyed = yield from survey(dataset)
    copies = yield from find_copies(dataset)
    findings: dict[str, list[str]] = {name: [] for name in checks_of(dataset)}
    said: dict[str, set[str]] = {}
    for problem in surveyed.problems:
        about = problem.about or "files"
        findings[about].append(problem.sentence)
        said.setdefault(about, set()).add(problem.image)
    if empty := no_nucleus(dataset, surveyed):
        findings["files"].append(empty)
    turned = [entry.source.image for entry in dataset.entries if orientation_of(entry.image) > 1]
    if others := [image for image in turned if image not in said.get("orientation", ())]:
        verb = "is" if len(others) == 1 else "are"
        findings["orientation"].append(f"{few(others)} {verb} turned by EXIF data, and read upright.")
    findings["names"] += _names(dataset)
    findings["splits"] += [f"The {leak.what} {leak.sentence} is in several splits." for leak in shared(dataset)]
    findings["splits"] += [copy.sentence for copy in copies]
    findings["splits"] += _splits(dataset)
    findings["scale"] += _scale(dataset, said.get("parts", ()))
    findings["synthetic"] += synthetic_notes(dataset, surveyed)
    return Examination(surveyed, {name: tuple(dict.fromkeys(told)) for name, told in findings.items()})


def _names(dataset: Dataset) -> Iterator[str]:
    """Names that another disk or system would write or take in another way."""
    files = [file for entry in dataset.entries for file in (entry.image, entry.labels) if file is not None]
    stems = sorted({file.stem for file in files})
    inner = [file.relative_to(dataset.root).parts[:-1] for file in files if file.is_relative_to(dataset.root)]
    names = sorted({*stems, *(folder for folders in inner for folder in folders)})
    if apart := [name for name in names if name != composed(name)]:
        yield f"{few(apart)}: accents are letters of their own, as macOS writes them."
    folded = Counter(composed(stem).casefold() for stem in stems)
    if same := [stem for stem in stems if folded[composed(stem).casefold()] > 1]:
        yield f"{few(same)}: these differ in the case of letters or in accents alone, and many disks take them for one."
    if refused := [name for name in names if safe_name(composed(name)) != composed(name)]:
        yield f"{few(refused)}: some disks refuse such names."


def _splits(dataset: Dataset) -> Iterator[str]:
    """Splits that nothing can be learned from."""
    counts = Counter(split_of(entry.source) for entry in dataset.entries)
    if not counts["train"]:
        named = ", ".join(f"{split} {count:,}" for split, count in counts.items())
        yield f"No image is of the training split ({named}), so nothing can be made."


def _scale(dataset: Dataset, merged: Iterable[str]) -> Iterator[str]:
    """Scales that are missing, or that cannot be right; nuclei of ``merged`` images are of no nucleus's size."""
    if missing := dataset.missing_scale:
        yield f"{few([entry.source.image for entry in missing])}: nothing says how many µm one pixel is."
    scales = sorted({entry.mpp for entry in dataset.entries if entry.mpp is not None})
    if scales and scales[-1] > 2 * scales[0]:
        yield f"Images of {scales[0]:g} to {scales[-1]:g} µm per pixel are mixed; a nucleus has another size in each."
    diameters: list[float] = []
    known = [entry for entry in dataset.entries if entry.labels is not None and entry.mpp is not None]
    known = [entry for entry in known if entry.source.image not in merged]
    for entry in known[:: max(1, len(known) // _MEASURED)][:_MEASURED]:
        try:
            image = dataset.read(entry)
        except HistomixError:  # the survey has said it
            continue
        areas = np.unique(image.instances[image.instances > 0], return_counts=True)[1]
        diameters += (2 * np.sqrt(areas / np.pi) * image.mpp).tolist()
    low, high = PLAUSIBLE_DIAMETER
    if diameters and not low <= (median := float(np.median(diameters))) <= high:
        yield (
            f"The median nucleus is {median:.3g} µm wide, which no nucleus of tissue is; "
            "µm per pixel or labels are not right."
        )
