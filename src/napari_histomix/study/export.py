"""Export: approved work as a dataset in any format, complete or absent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from napari_histomix import __version__
from napari_histomix.datasets import SYNTHETIC_NOTICE, Dataset
from napari_histomix.datasets.card import models_of, write_card
from napari_histomix.datasets.copies import check_leaks
from napari_histomix.datasets.dataset_writer import check_place, described
from napari_histomix.datasets.formats import format_of
from napari_histomix.datasets.opening import way_to
from napari_histomix.datasets.writing import complete_or_absent
from napari_histomix.records import Event, Job, Placement
from napari_histomix.study.augmented import ORIGIN, Augmented, chosen
from napari_histomix.study.charts import class_chart, placement_sheet
from napari_histomix.study.manifest import json_text, methods_of, placement_record, write_placement_table


def export(
    dataset: Dataset,
    placements: Iterable[Placement],
    out: Path,
    decisions: Mapping[int, str] | None = None,
    *,
    facts: Mapping[str, Any] | None = None,
    reviews: Mapping[int, Mapping[str, str]] | None = None,
    report: bool = False,
    format: str = "hovernet",
    ignore_band: bool = False,
) -> Job[Path]:
    """Write the training split with its synthetic nuclei; a long job (see ``records.Job``).

    ``out`` gets every readable training image in the format's own layout, and beside it, whatever the format:
    images.csv, dataset.json, manifest.json and manifest.csv with every placement, class_counts.png, the origin map of
    each synthetic image in ``origin``, and README.md, the dataset card. It is written beside its place and renamed at
    the end. The same arguments give the same bytes.

    Parameters
    ----------
    dataset : Dataset
    placements : iterable of Placement
    out : Path
        A folder that is not there yet.
    decisions : mapping of int to str, optional
        Decision by rank: only what is approved is exported. None: nobody reviewed, everything is exported and the
        manifest says "unreviewed".
    facts : mapping, optional
        More for the manifest (settings, refusals), plain JSON values.
    reviews : mapping, optional
        More for the record of a placement, by its rank: who decided and when, a note (``manifest.reviews_of``).
    report : bool
        Also write report.png: class counts, and placements before and after.
    format : str
        A key of ``datasets.formats.FORMATS``.
    ignore_band : bool
        Also write ``ignore/NAME.png`` for each image: its classes, with 255 over inpainted pixels, which a loss
        function can leave out.

    Raises
    ------
    HistomixError
        If ``out`` exists, patients or tissue are on two sides of the split, a placement is not of the training split or
        its image has changed, nothing is approved, the format cannot hold the dataset, or the disk is full.
    """
    out = Path(out)
    format_of(format)
    check_place(out)
    wanted = chosen(dataset, placements, decisions)
    yield from check_leaks(dataset)
    with complete_or_absent(out) as partial:
        written = Augmented(dataset, wanted, partial, format, ignore_band)
        total = len(dataset.training)
        for number, entry in enumerate(dataset.training):
            yield Event("Writing images", number, total)
            written.write(entry)
        yield Event("Writing the manifest", total, total)
        written.finish()
        records = _write_manifest(written, decisions, reviews or {}, facts or {})
        _write_readme(written, records)
        before, after = written.before, written.after
        class_chart(dataset.classes, before, after).savefig(partial / "class_counts.png", dpi=150)
        if report:
            placement_sheet(dataset, wanted, before, after).savefig(partial / "report.png", dpi=150)
    return out


def _write_manifest(
    written: Augmented,
    decisions: Mapping[int, str] | None,
    reviews: Mapping[int, Mapping[str, str]],
    facts: Mapping[str, Any],
) -> list[dict[str, Any]]:
    dataset, folder = written.dataset, written.folder
    names = {one.number: one.name for one in dataset.classes}
    decided = "unreviewed" if decisions is None else "approve"
    records = [placement_record(one, names, decided, reviews.get(one.candidate.rank, {})) for one in written.placements]
    manifest = {
        "notice": SYNTHETIC_NOTICE,
        "software": f"napari-histomix {__version__}",
        "dataset": dataset.name,
        "dataset_root": way_to(dataset.root, folder),
        "format": written.format,
        "counts": {"before": written.counts(written.before), "after": written.counts(written.after)},
        "skipped_images": written.skipped,
        "synthetic_images": written.synthetic,
        **facts,
        "placements": records,
    }
    (folder / "manifest.json").write_text(json_text(manifest), encoding="utf-8", newline="\n")
    write_placement_table(folder / "manifest.csv", records)
    return records


def _write_readme(written: Augmented, records: Sequence[Mapping[str, Any]]) -> None:
    dataset = written.dataset
    source = described(dataset.root)
    provenances = [record["provenance"] for record in records]
    notes = ["The training split alone: no image of another split, and nothing made from one."]
    notes.append(
        f"`{ORIGIN}/NAME.png` says where the pixels of a synthetic image are from: 0 real, 1 donor, 2 inpainted."
    )
    if written.ignore_band:
        notes.append("`ignore/NAME.png` holds the classes of each image with 255 over its inpainted pixels.")
    if any(record["decision"] == "unreviewed" for record in records):
        notes.append("Nobody reviewed the synthetic nuclei.")
    if written.skipped:
        notes.append(f"Left out because they could not be read: {', '.join(sorted(written.skipped))}.")
    write_card(
        written.folder,
        name=written.name,
        format_title=format_of(written.format).title,
        counts_before=written.counts(written.before),
        counts_after=written.counts(written.after),
        images=written.images,
        synthetic_images=len(written.synthetic),
        synthetic_nuclei=written.synthetic_nuclei.total(),
        counts_synthetic=written.counts(written.synthetic_nuclei),
        methods=methods_of(provenances),
        models=models_of(provenances),
        license=source.get("license", ""),
        source=", ".join(filter(None, (dataset.name, source.get("derived_from", "")))),
        notes=notes,
    )
