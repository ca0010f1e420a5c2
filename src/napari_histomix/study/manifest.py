"""What an export says of itself: a record for each change, how it was reviewed, what made it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_histomix import __version__
from napari_histomix.datasets import tables
from napari_histomix.datasets.opening import way_to
from napari_histomix.datasets.run_lengths import mask_text
from napari_histomix.datasets.writing import SYNTHETIC_NOTICE
from napari_histomix.methods import method_of
from napari_histomix.methods.record import Record
from napari_histomix.records import REAL, Change, HistomixError
from napari_histomix.settings import settings_of

if TYPE_CHECKING:
    from napari_histomix.datasets import Dataset
    from napari_histomix.study.runs import Run
    from napari_histomix.study.store import Study

FILE = "manifest.json"
VERSION = 2
"""Of the manifest's form; the first one had one form for nuclei and another one for tissue."""

FACTS = ("candidate_settings", "encoder", "temperature", "effective_sample_size", "pool_settings")
"""What a manifest takes over from the settings of a study: how the items of a stage were found."""


def study_facts(study: Study) -> dict[str, Any]:
    """What the manifest says of a study: how the items of a stage were found; settings and refusals of all its runs."""
    from napari_histomix.segmentation.pool import SegmentPool, has_pool

    kept = study.settings()
    facts: dict[str, Any] = {key: kept[key] for key in FACTS if key in kept}
    if has_pool(study.folder):
        facts["pool"] = dict(SegmentPool(study.folder).signature)
    facts["runs"] = [
        {"method": run.method, "settings": _shaping(run), "wanted": run.wanted, "refusals": run.refusals}
        for run in study.runs()
    ]
    return facts


def _shaping(run: Run) -> dict[str, Any]:
    """Settings of a run that shape its result: not on which device it ran, and how many windows at once."""
    try:
        named = settings_of(method_of(run.method).settings)
    except HistomixError:  # a method of another package, which is not installed here
        return dict(run.settings)
    unsaid = {setting.name for setting in named if not setting.option.recorded}
    return {name: value for name, value in run.settings.items() if name not in unsaid}


def reviews_of(study: Study) -> dict[int, dict[str, str]]:
    """Who decided on each change and when, with the note and the reasons, for its record."""
    reviews: dict[int, dict[str, str]] = {}
    for number, decided in study.decided("change").items():
        reviews.setdefault(number, {}).update(decided_by=decided.who, decided=decided.made)
    for key, texts in (("note", study.decisions("change note")), ("reasons", study.decisions("change reasons"))):
        for number, text in texts.items():
            reviews.setdefault(number, {})[key] = text
    return reviews


def records_of(
    dataset: Dataset,
    changes: Iterable[Change],
    decisions: Mapping[int, str] | None,
    reviews: Mapping[int, Mapping[str, str]],
) -> list[Record]:
    """The records of changes that are exported: all of them approved, or not reviewed where ``decisions`` is None."""
    names = {known.number: known.name for known in dataset.classes}
    decision = "unreviewed" if decisions is None else "approve"
    records = []
    for change in changes:
        more: dict[str, Any] = {"decision": decision, **reviews.get(change.id, {})}
        if change.in_place and "changed" not in change.provenance:
            # By which a pixel is traced to the right one of several patches that overlap.
            more["changed"] = {"row": change.row, "col": change.col, **mask_text(change.origin != REAL)}
        records.append(Record.of(change, lambda number: names.get(number, ""), **more))
    return records


def manifest_of(dataset: Dataset, folder: Path, about: Mapping[str, Any], records: Sequence[Record]) -> str:
    """The text of a manifest.

    Parameters
    ----------
    dataset : Dataset
        What was exported.
    folder : Path
        Where the manifest lies.
    about : mapping
        Format, counts, images and how they were made.
    records : sequence of Record
    """
    content = {
        "notice": SYNTHETIC_NOTICE,
        "software": f"napari-histomix {__version__}",
        "manifest": VERSION,
        "dataset": dataset.name,
        "dataset_root": way_to(dataset.root, folder),
        **about,
        "changes": [record.content for record in records],
    }
    return json_text(content)


def json_text(content: Any) -> str:
    """A manifest, or a part of it, as text."""
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def write_table(path: Path, records: Iterable[Record]) -> None:
    """Write records as a table: nested values as columns such as ``target_row`` and ``provenance_stain_gain``."""
    rows = [dict(_unfold(_flat(record.content))) for record in records]
    header = list(dict.fromkeys(key for row in rows for key in row))
    tables.write_table(path, header, [[row.get(key, "") for key in header] for row in rows])


def _flat(content: Mapping[str, Any]) -> dict[str, Any]:
    """A record whose sources go by their roles, and whose new instances are lists: few columns for many of them."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if key == "sources":
            roles: dict[str, int] = {}
            for source in value:
                role = source["role"]
                roles[role] = number = roles.get(role, 0) + 1
                about = {part: fact for part, fact in source.items() if part != "role"}
                flat[role if number == 1 else f"{role}_{number}"] = about
        elif key == "added":
            flat["added"] = list(value)
            flat["added_class"] = [about["class"] for about in value.values()]
        else:
            flat[key] = value
    return flat


def _unfold(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Columns and cells of a nested value."""
    if isinstance(value, Mapping):
        parts: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, list) and any(isinstance(part, Mapping) for part in value):
        parts = enumerate(value, start=1)
    else:
        yield name, " ".join(map(str, value)) if isinstance(value, list) else value
        return
    for key, part in parts:
        yield from _unfold(part, f"{name}_{key}" if name else str(key))


def sentences(records: Iterable[Record]) -> list[str]:
    """How changes were made, for a dataset's card: a sentence for each method."""
    by_method: dict[str, list[Record]] = {}
    for record in records:
        by_method.setdefault(record.method, []).append(record)
    found = []
    for name, made in by_method.items():
        try:
            found.append(method_of(name).sentence(made))
        except HistomixError:
            found.append(f"The method '{name}', which is not installed where this was written.")
    return found
