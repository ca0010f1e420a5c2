"""Export: approved work as a dataset in any format, complete or absent."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from napari_histomix.compositing.composing import compose
from napari_histomix.datasets import Dataset
from napari_histomix.datasets.copies import check_leaks
from napari_histomix.datasets.dataset_writer import described, few_notes, models_of, write_card
from napari_histomix.datasets.edits import FOLDER as EDITS
from napari_histomix.datasets.edits import copy_edits, edit_notes
from napari_histomix.datasets.formats import CLASS_FOLDERS, FORMATS, format_of
from napari_histomix.datasets.splits import check_splits, check_training, few
from napari_histomix.datasets.writing import check_place, complete_or_absent, write_text
from napari_histomix.methods.record import Record
from napari_histomix.records import Change, Event, HistomixError, Job, SourceRef
from napari_histomix.study import manifest
from napari_histomix.study.export_images import ORIGIN, SHARES, Augmented

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

    from napari_histomix.study import Study

CROP_UM = 10.0
"""Half width of a crop in the sheet of changes, in µm."""


def export(
    dataset: Dataset,
    changes: Iterable[Change],
    out: Path,
    decisions: Mapping[int, str] | None = None,
    *,
    facts: Mapping[str, Any] | None = None,
    reviews: Mapping[int, Mapping[str, str]] | None = None,
    report: bool = False,
    format: str | None = None,
    ignore_band: bool = False,
) -> Job[Path]:
    """Write the training split with what was made of it, and return ``out``; a long job (see ``records.Job``).

    ``out`` gets every readable training image with its changes in place, and the derived and the new images, in the
    format's own layout; and beside them, whatever the format: images.csv, dataset.json, manifest.json and manifest.csv
    with every change, class_counts.png, the origin map of each synthetic image in ``origin``, class_shares.csv where
    images are of several classes at once, and README.md, the dataset card. It is written beside its place and renamed
    at the end. The same arguments give the same bytes.

    ``changes`` are such as ``Study.changes()``; of those only what ``decisions`` approve by id is exported. Without
    decisions nobody reviewed: everything is exported, and the manifest says "unreviewed". ``facts`` (settings,
    refusals) are more for the manifest, plain JSON values, and ``reviews`` for the record of each change by its id: who
    decided and when, a note (``manifest.reviews_of``). ``format`` is one of `formats_for` the dataset, the first of
    them where it is not given. ``report`` also writes report.png: class counts, and changes before and after;
    ``ignore_band`` also ``ignore/NAME.png`` for each image: its classes, with 255 over inpainted pixels, which a loss
    function can leave out.

    Raises HistomixError if ``out`` exists, patients or tissue are on two sides of the split, a change was made of an
    image that is not in the training split or has changed, nothing is approved, the format cannot hold the dataset, or
    the disk is full.
    """
    out = Path(out)
    format = format_for(dataset, format, ignore_band)
    check_place(out)
    wanted = chosen(dataset, changes, decisions)
    yield from check_leaks(dataset)
    with complete_or_absent(out) as folder:
        written = Augmented(dataset, wanted, folder, format, ignore_band)
        for number, piece in enumerate(written.pieces):
            yield Event("Writing images", number, len(written.pieces))
            written.write(piece)
        yield Event("Writing the manifest", len(written.pieces), len(written.pieces))
        written.finish()
        records = manifest.records_of(dataset, wanted, decisions, reviews or {})
        about = {
            "format": format,
            "counts": {"before": dict(written.before), "after": dict(written.after)},
            "skipped_images": written.skipped,
            "synthetic_images": written.synthetic,
            **({EDITS: copy_edits(dataset, folder)} if dataset.edits else {}),
            **(facts or {}),
        }
        write_text(folder / manifest.FILE, manifest.manifest_of(dataset, folder, about, records))
        manifest.write_table(folder / "manifest.csv", records)
        _write_readme(written, records)
        class_chart(written).savefig(folder / "class_counts.png", dpi=150)
        if report:
            change_sheet(written, wanted).savefig(folder / "report.png", dpi=150)
    return out


def export_study(
    study: Study, dataset: Dataset, out: Path, *, ids: Collection[int] | None = None, reviewed: bool = True, **how: Any
) -> Job[Path]:
    """Write what is approved in a study, with its decisions, notes, settings and refusals, as `export` does.

    ``dataset`` is the study's, with the splits that it keeps (``datasets.splits.with_chosen_splits``). ``ids`` are of
    the changes that are written, all by default; where not ``reviewed``, also what nobody approved, and the manifest
    says so. ``how`` are ``report``, ``format`` and ``ignore_band`` of `export`.
    """
    wanted = None if ids is None else set(ids)
    changes = study.changes().where(lambda header: wanted is None or header.id in wanted)
    decisions = study.decisions("change") if reviewed else None
    facts, reviews = manifest.study_facts(study), manifest.reviews_of(study)
    return (yield from export(dataset, changes, out, decisions, facts=facts, reviews=reviews, **how))


def formats_for(dataset: Dataset) -> tuple[str, ...]:
    """Names of the formats that can hold a dataset, the usual one first.

    Examples
    --------
    >>> from napari_histomix.datasets import load_sample
    >>> formats_for(load_sample())[0]
    'hovernet'
    """
    nuclei = [known.name for known in FORMATS.values() if known.writes and known.holds == "nuclei"]
    return (*(nuclei if dataset.has_nuclei else ()), *((CLASS_FOLDERS,) if dataset.has_kinds else ()))


def format_for(dataset: Dataset, format: str | None = None, ignore_band: bool = False) -> str:
    """The format that a dataset will be written in, the usual one where none is named.

    Raises HistomixError if there is no such format, or it cannot hold the dataset or the maps of ``ignore_band``.
    """
    possible = formats_for(dataset)
    format = format or possible[0]
    if format == CLASS_FOLDERS and format not in possible:
        raise HistomixError(
            f"{dataset.name} has labeled nuclei and no class for each image, which {format} need; choose another "
            "format."
        )
    if format != CLASS_FOLDERS and format_of(format).name not in possible:
        raise HistomixError(
            f"The images of {dataset.name} have a class each and no nuclei; only the format {CLASS_FOLDERS} holds them."
        )
    if ignore_band and format == CLASS_FOLDERS:
        raise HistomixError("Images with a class each have no class maps to write an ignore band into; leave it out.")
    return format


def chosen(dataset: Dataset, changes: Iterable[Change], decisions: Mapping[int, str] | None) -> list[Change]:
    """The changes that may be exported: all of them where ``decisions`` is None, else what is approved.

    Raises HistomixError if a patient is on two sides of the split, something that a change was made of, or that its
    network learned from, is not in the training split, a class of an image is none of the dataset's, or nothing is
    approved.
    """
    check_splits(dataset)
    wanted = [change for change in changes if decisions is None or decisions.get(change.id) == "approve"]
    if not wanted:
        raise HistomixError("There is no approved synthetic nucleus or image to export; approve some first.")
    training = {entry.source.image for entry in dataset.training}
    known = {entry.source.image for entry in dataset.entries}
    used: dict[str, list[str]] = {}
    for change in wanted:
        sources = [("in", change.image)] if change.image else []
        sources += [("in" if source.role == "target" else "from", source.image) for source in change.sources]
        for how, image in dict.fromkeys(sources):
            used.setdefault(image, []).append(f"{change.id} {how} {image}")
        # What a network saw shows in what it paints.
        for image in set(change.provenance.get("learned_from", ())) & known:
            used.setdefault(image, []).append(f"{change.id} by a network that learned from {image}")
    outside = [use for image, uses in used.items() if image not in training for use in uses]
    remedy = (
        "give it the split train again, or, if it is to stay there, leave out what was made of it "
        f"(reject {few(outside, 10)})"
    )
    check_training(dataset, used, remedy)
    for change in wanted:
        if unknown := sorted((change.class_shares or {}).keys() - set(dataset.kinds)):
            raise HistomixError(
                f"{change.name} is of the class {unknown[0]!r}, which {dataset.name} does not have; its classes are "
                f"{', '.join(dataset.kinds)}."
            )
    return wanted


def _write_readme(written: Augmented, records: Sequence[Record]) -> None:
    source = described(written.dataset.root)
    notes = [
        "The training split alone: no image of another split, and nothing made from one.",
        f"`{ORIGIN}/NAME.png` says where the pixels of a synthetic image are from: 0 real, 1 donor, 2 inpainted.",
    ]
    if written.soft:
        number = len({image for image, *_ in written.soft})
        notes.append(
            f"Soft labels: {number:,} images are of several classes at once. `{SHARES}` says of each what share "
            "belongs to which class; the image itself is listed under the class of its largest share."
        )
    if written.ignore_band:
        notes.append("`ignore/NAME.png` holds the classes of each image with 255 over its inpainted pixels.")
    if any(record.content["decision"] == "unreviewed" for record in records):
        notes.append("Nobody reviewed what is synthetic.")
    if written.skipped:
        notes.append(f"Left out because they could not be read: {', '.join(sorted(written.skipped))}.")
    notes += [*few_notes(written.notes), *edit_notes(written.dataset)]
    write_card(
        written.folder,
        name=written.name,
        format=written.format,
        counts_before=written.before,
        counts_after=written.after,
        counts_synthetic=written.counted_synthetic,
        images=written.images,
        synthetic_images=written.synthetic_images,
        synthetic_nuclei=written.counted_synthetic.total() if written.unit == "nuclei" else None,
        methods=manifest.sentences(records),
        models=models_of(record.provenance for record in records),
        license=source.get("license", ""),
        source=", ".join(filter(None, (written.dataset.name, source.get("derived_from", "")))),
        notes=notes,
    )


def class_chart(written: Augmented) -> Figure:
    """Bar chart of nuclei or images per class, before (pale) and after (full), with their numbers."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 1.2 + 0.7 * len(written.colors)), layout="constrained")
    _draw_classes(figure.subplots(), written)
    return figure


def _draw_classes(axes: Axes, written: Augmented) -> None:
    largest = max([1, *written.before.values(), *written.after.values()])
    for position, (name, rgb) in enumerate(written.colors.items()):
        color = tuple(channel / 255 for channel in rgb)
        for offset, counts, alpha, what in ((-0.2, written.before, 0.4, "before"), (0.2, written.after, 1.0, "after")):
            axes.barh(position + offset, counts[name], 0.36, color=color, alpha=alpha, edgecolor="0.3", linewidth=0.5)
            text = f"{counts[name]:,} {what}"
            axes.text(counts[name] + 0.01 * largest, position + offset, text, va="center", fontsize=8)
    axes.set_yticks(range(len(written.colors)), list(written.colors))
    axes.invert_yaxis()
    axes.set_xlim(0, 1.25 * largest)
    axes.set_xlabel(written.unit)
    axes.spines[["top", "right"]].set_visible(False)


def change_sheet(written: Augmented, changes: Sequence[Change]) -> Figure:
    """Class counts, and up to twelve changes: donor, target before, target after."""
    shown = changes[:12]
    rows = -(-len(shown) // 2)
    top = 1.2 + 0.6 * len(written.colors)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, top + 1.6 * rows), layout="constrained")
    upper, lower = cast("Sequence[SubFigure]", figure.subfigures(2, 1, height_ratios=[top, 1.6 * rows]))
    _draw_classes(upper.subplots(), written)
    what = "nuclei" if all(change.in_place for change in changes) else "images"
    upper.suptitle(f"{written.dataset.name}: {len(changes)} synthetic {what}. Not for diagnosis.")
    axes = lower.subplots(rows, 6, squeeze=False)
    for frame in axes.flat:
        frame.set_axis_off()
    for number, change in enumerate(shown):
        for offset, (title, pixels) in enumerate(_panels(written.dataset, change)):
            frame = axes[number // 2, 3 * (number % 2) + offset]
            frame.imshow(pixels, interpolation="bicubic")
            frame.set_title(title, fontsize=7)
    return figure


def _panels(dataset: Dataset, change: Change) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """What is shown of a change, with titles; of a nucleus its surroundings, of an image all of it."""
    donor = change.donor
    if donor is not None:
        giver = dataset.read(donor.image)
        yield "donor", _around(giver.pixels, donor, giver.mpp) if donor.area else giver.pixels
    if not change.image:
        yield "new", change.pixels
        return
    target = dataset.read(change.image)
    place = SourceRef(
        "target", change.image, row=change.row + change.shape[0] / 2, col=change.col + change.shape[1] / 2
    )
    for title, pixels in (("before", target.pixels), ("after", compose(target, [change]).image.pixels)):
        yield title, _around(pixels, place, target.mpp) if change.in_place else pixels


def _around(pixels: NDArray[np.uint8], place: SourceRef, mpp: float) -> NDArray[np.uint8]:
    """Square crop (2r + 1, 2r + 1, 3) around a place, mirrored beyond the image's edge."""
    r = max(1, round(CROP_UM / mpp))
    padded = np.pad(pixels, ((r, r), (r, r), (0, 0)), mode="symmetric")
    row = min(max(round(place.row), 0), pixels.shape[0] - 1)
    col = min(max(round(place.col), 0), pixels.shape[1] - 1)
    return padded[row : row + 2 * r + 1, col : col + 2 * r + 1]
