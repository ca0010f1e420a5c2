"""Export: approved work as a HoVer-Net dataset, complete or absent."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from napari_histomix import __version__
from napari_histomix.compositing import compose
from napari_histomix.datasets import (
    SYNTHETIC_NOTICE,
    Dataset,
    write_dataset_json,
    write_hovernet,
    write_type_info,
)
from napari_histomix.datasets.splits import check_splits
from napari_histomix.datasets.writing import complete_or_absent
from napari_histomix.records import Event, HistomixError, Job, Placement
from napari_histomix.study.charts import class_chart, placement_sheet


def export(
    dataset: Dataset,
    placements: Iterable[Placement],
    out: Path,
    decisions: Mapping[int, str] | None = None,
    *,
    facts: Mapping[str, Any] | None = None,
    report: bool = False,
) -> Job[Path]:
    """Write the training split with its synthetic nuclei; a long job (see ``records.Job``).

    ``out`` gets Images/*.png and Labels/*.mat of every readable training image (HoVer-Net's layout), type_info.json,
    dataset.json, images.csv, manifest.json and manifest.csv with every placement, and class_counts.png. It is written
    beside its place and renamed at the end. The same arguments give the same bytes.

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
    report : bool
        Also write report.png: class counts, and placements before and after.

    Raises
    ------
    HistomixError
        If ``out`` exists, a patient is on two sides of the split, nothing is approved, or the disk is full.
    """
    out = Path(out)
    if out.exists():
        raise HistomixError(f"{out} already exists; name a new folder.")
    check_splits(dataset)
    placements = tuple(placements)
    state = dict.fromkeys((one.candidate.rank for one in placements), "unreviewed") if decisions is None else decisions
    wanted = [one for one in placements if state.get(one.candidate.rank) in ("approve", "unreviewed")]
    if not wanted:
        raise HistomixError("There is no approved synthetic nucleus to export; approve some first.")
    with complete_or_absent(out) as partial:
        yield from _write(dataset, wanted, state, partial, facts or {}, report)
    return out


def _write(
    dataset: Dataset,
    placements: list[Placement],
    decisions: Mapping[int, str],
    folder: Path,
    facts: Mapping[str, Any],
    report: bool,
) -> Job[None]:
    by_image: dict[str, list[Placement]] = {}
    for one in placements:
        by_image.setdefault(one.candidate.target.image, []).append(one)
    before: Counter[int] = Counter()
    after: Counter[int] = Counter()
    skipped: dict[str, str] = {}
    rows, scales = [], set()
    for number, entry in enumerate(dataset.training):
        name = entry.source.image
        yield Event("Writing images", number, len(dataset.training))
        try:
            target = dataset.read(entry)
        except HistomixError as error:
            if name in by_image:
                raise
            skipped[name] = str(error)
            continue
        synthetic = compose(target, by_image.get(name, ())).image
        write_hovernet(
            folder, name, synthetic.pixels, synthetic.instances, synthetic.types, target.mpp, synthetic=name in by_image
        )
        before += target.counts()
        after += synthetic.counts()
        scales.add(target.mpp)
        rows.append([name, entry.source.patient, entry.source.slide, entry.source.split or "train", target.mpp])
    yield Event("Writing the manifest", len(dataset.training), len(dataset.training))
    write_type_info(folder, dataset.classes)
    write_dataset_json(folder, name=f"{dataset.name}, augmented", mpp=scales.pop() if len(scales) == 1 else None)
    _write_csv(folder / "images.csv", ["image", "patient", "slide", "split", "mpp"], rows)
    names = {one.number: one.name for one in dataset.classes}
    records = [_record(one, names, decisions) for one in placements]
    manifest = {
        "notice": SYNTHETIC_NOTICE,
        "software": f"napari-histomix {__version__}",
        "dataset": dataset.name,
        "counts": {
            "before": {names[key]: before[key] for key in sorted(names)},
            "after": {names[key]: after[key] for key in sorted(names)},
        },
        "skipped_images": skipped,
        **facts,
        "placements": records,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    flat = [{key: _flat(value) for key, value in _unfold(record).items()} for record in records]
    header = list(dict.fromkeys(key for record in flat for key in record))
    _write_csv(folder / "manifest.csv", header, [[record.get(key, "") for key in header] for record in flat])
    class_chart(dataset.classes, before, after).savefig(folder / "class_counts.png", dpi=150)
    if report:
        placement_sheet(dataset, placements, before, after).savefig(folder / "report.png", dpi=150)


def _record(one: Placement, names: Mapping[int, str], decisions: Mapping[int, str]) -> dict[str, Any]:
    """What the manifest says of a placement."""
    target, donor = asdict(one.candidate.target), asdict(one.candidate.donor)
    for place in (target, donor):
        place["type"] = names.get(place["type"], "")
    return {
        "rank": one.candidate.rank,
        "image": target["image"],
        "instance": one.instance,
        "decision": decisions[one.candidate.rank],
        "log_likelihood": round(one.candidate.log_likelihood, 6),
        "percentile": round(one.candidate.percentile, 3),
        "target": target,
        "donor": donor,
        "seed": one.seed,
        "changed_pixels": int((one.origin != 0).sum()),
        "provenance": dict(one.provenance),
    }


def _unfold(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested records as columns: target_row, provenance_stain_gain, …"""
    columns: dict[str, Any] = {}
    for key, value in record.items():
        columns |= _unfold(value, f"{prefix}{key}_") if isinstance(value, Mapping) else {prefix + key: value}
    return columns


def _flat(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, list) else value


def _write_csv(path: Path, header: list[str], rows: list[list[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
