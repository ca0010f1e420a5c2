"""Export: approved work as a dataset in any format, complete or absent."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_histomix.datasets import Dataset
from napari_histomix.datasets.copies import check_leaks
from napari_histomix.datasets.dataset_writer import check_place, described, models_of, write_card
from napari_histomix.datasets.formats import CLASS_FOLDERS, FORMATS, format_of
from napari_histomix.datasets.splits import check_splits, few
from napari_histomix.datasets.writing import complete_or_absent
from napari_histomix.methods.record import Record
from napari_histomix.records import Change, Event, HistomixError, Job
from napari_histomix.study.charts import change_sheet, class_chart
from napari_histomix.study.export_images import ORIGIN, SHARES, Augmented, colors
from napari_histomix.study.manifest import (
    FILE,
    manifest_of,
    records_of,
    reviews_of,
    sentences,
    study_facts,
    write_table,
)

if TYPE_CHECKING:
    from napari_histomix.study import Study


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
    """Write the training split with what was made of it; a long job (see ``records.Job``).

    ``out`` gets every readable training image with its changes in place, and the derived and the new images, in the
    format's own layout; and beside them, whatever the format: images.csv, dataset.json, manifest.json and manifest.csv
    with every change, class_counts.png, the origin map of each synthetic image in ``origin``, class_shares.csv where
    images are of several classes at once, and README.md, the dataset card. It is written beside its place and renamed
    at the end. The same arguments give the same bytes.

    Parameters
    ----------
    dataset : Dataset
    changes : iterable of Change
        Such as ``Study.changes()``.
    out : Path
        A folder that is not there yet.
    decisions : mapping of int to str, optional
        Decision by id: only what is approved is exported. None: nobody reviewed, everything is exported and the
        manifest says "unreviewed".
    facts : mapping, optional
        More for the manifest (settings, refusals), plain JSON values.
    reviews : mapping, optional
        More for the record of a change, by its id: who decided and when, a note (``manifest.reviews_of``).
    report : bool
        Also write report.png: class counts, and changes before and after.
    format : str, optional
        One of `formats_for` the dataset; the first of them where it is not given.
    ignore_band : bool
        Also write ``ignore/NAME.png`` for each image: its classes, with 255 over inpainted pixels, which a loss
        function can leave out.

    Returns
    -------
    Path
        ``out``.

    Raises
    ------
    HistomixError
        If ``out`` exists, patients or tissue are on two sides of the split, a change was made of an image that is not
        in the training split or has changed, nothing is approved, the format cannot hold the dataset, or the disk is
        full.
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
        records = records_of(dataset, wanted, decisions, reviews or {})
        about = {
            "format": format,
            "counts": {"before": dict(written.before), "after": dict(written.after)},
            "skipped_images": written.skipped,
            "synthetic_images": written.synthetic,
            **(facts or {}),
        }
        (folder / FILE).write_text(manifest_of(dataset, folder, about, records), encoding="utf-8", newline="\n")
        write_table(folder / "manifest.csv", records)
        _write_readme(written, records)
        charted = colors(dataset, written.format), written.before, written.after, written.unit
        class_chart(*charted).savefig(folder / "class_counts.png", dpi=150)
        if report:
            change_sheet(dataset, wanted, *charted).savefig(folder / "report.png", dpi=150)
    return out


def export_study(
    study: Study, dataset: Dataset, out: Path, *, ids: Collection[int] | None = None, reviewed: bool = True, **how: Any
) -> Job[Path]:
    """Write what is approved in a study; a long job (see ``records.Job``).

    Parameters
    ----------
    study : Study
        Its changes, decisions, notes, settings and refusals.
    dataset : Dataset
        The study's, with the splits that it keeps (``datasets.splits.with_chosen_splits``).
    out : Path
        A folder that is not there yet.
    ids : collection of int, optional
        Only these changes; all of the study by default.
    reviewed : bool
        Whether only what is approved is written; else everything, and the manifest says that nobody reviewed it.
    **how
        ``report``, ``format`` and ``ignore_band``, as for `export`.

    Returns
    -------
    Path
        ``out``.

    Raises
    ------
    HistomixError
        As `export`.
    """
    changes = study.changes()
    if ids is not None:
        wanted = set(ids)
        changes = changes.where(lambda header: header.id in wanted)
    decisions = study.decisions("change") if reviewed else None
    facts, reviews = study_facts(study), reviews_of(study)
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
    if format != CLASS_FOLDERS:
        format_of(format)
    if format not in possible:
        if format == CLASS_FOLDERS:
            raise HistomixError(
                f"{dataset.name} has labeled nuclei and no class for each image, which {format} need; choose another "
                "format."
            )
        raise HistomixError(
            f"The images of {dataset.name} have a class each and no nuclei; only the format {CLASS_FOLDERS} holds them."
        )
    if ignore_band and format == CLASS_FOLDERS:
        raise HistomixError("Images with a class each have no class maps to write an ignore band into; leave it out.")
    return format


def chosen(dataset: Dataset, changes: Iterable[Change], decisions: Mapping[int, str] | None) -> list[Change]:
    """The changes that may be exported: all of them where ``decisions`` is None, else what is approved.

    Raises HistomixError if a patient is on two sides of the split, something that a change was made of is not in the
    training split, a class of an image is none of the dataset's, or nothing is approved.
    """
    check_splits(dataset)
    wanted = [change for change in changes if decisions is None or decisions.get(change.id) == "approve"]
    if not wanted:
        raise HistomixError("There is no approved synthetic nucleus or image to export; approve some first.")
    training = {entry.source.image for entry in dataset.training}
    offenders = []
    for change in wanted:
        sources = [("in", change.image)] if change.image else []
        sources += [("in" if source.role == "target" else "from", source.image) for source in change.sources]
        offenders += [f"{change.id} {how} {image}" for how, image in dict.fromkeys(sources) if image not in training]
    if offenders:
        raise HistomixError(
            f"What was made of images that are not in the training split of {dataset.name} cannot be exported "
            f"({few(offenders, 10)}); reject it."
        )
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
        methods=sentences(records),
        models=models_of(record.provenance for record in records),
        license=source.get("license", ""),
        source=", ".join(filter(None, (written.dataset.name, source.get("derived_from", "")))),
        notes=notes,
    )
