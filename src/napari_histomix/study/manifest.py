"""What an export says of itself, written and read back: a record for each change, how it was reviewed, what made it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_histomix import __version__
from napari_histomix.datasets import text_files
from napari_histomix.datasets.dataset import SPLIT_PARTS
from napari_histomix.datasets.edits import FOLDER as EDITS
from napari_histomix.datasets.edits import checked_files
from napari_histomix.datasets.formats.polygons import mask_text
from napari_histomix.datasets.opening import dataset_at, way_to
from napari_histomix.datasets.text_files import read_json
from napari_histomix.datasets.writing import SYNTHETIC_NOTICE
from napari_histomix.methods import OF_VERSION_3, method_of
from napari_histomix.methods.record import Record
from napari_histomix.records import REAL, Change, HistomixError
from napari_histomix.settings import settings_of

if TYPE_CHECKING:
    from napari_histomix.datasets import Dataset
    from napari_histomix.study import Study
    from napari_histomix.study.runs import Run


FILE = "manifest.json"
VERSION = 2
"""Of the manifest's form; the first one had one form for nuclei and another one for tissue."""

FACTS = ("candidate_settings", "encoder", "temperature", "effective_sample_size", "told_apart", "pool_settings")
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
    decided = study.decided("change").items()
    reviews = {number: {"decided_by": decision.who, "decided": decision.made} for number, decision in decided}
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
    names = {known.number: known.name for known in dataset.all_classes}
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
    """The text of a manifest that will lie in a folder; ``about`` says format, counts, images, how they were made."""
    return json_text(
        {
            "notice": SYNTHETIC_NOTICE,
            "software": f"napari-histomix {__version__}",
            "manifest": VERSION,
            "dataset": dataset.name,
            "dataset_root": way_to(dataset.root, folder),
            **({SPLIT_PARTS: True} if dataset.split_parts else {}),
            **about,
            "changes": [record.content for record in records],
        }
    )


def json_text(content: Any) -> str:
    """A manifest, or a part of it, as text."""
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def write_table(path: Path, records: Iterable[Record]) -> None:
    """Write records as a table: nested values as columns such as ``target_row`` and ``provenance_stain_gain``."""
    rows = [dict(_unfold(_flat(record.content))) for record in records]
    header = list(dict.fromkeys(key for row in rows for key in row))
    text_files.write_table(path, header, [[row.get(key, "") for key in header] for row in rows])


def _flat(content: Mapping[str, Any]) -> dict[str, Any]:
    """A record whose sources go by their roles, and whose new instances are lists: few columns for many of them."""
    flat: dict[str, Any] = {}
    roles: Counter[str] = Counter()
    for key, value in content.items():
        if key == "sources":
            for role, facts in ((source["role"], dict(source)) for source in value):
                roles[role] += 1
                del facts["role"]
                flat[role if roles[role] == 1 else f"{role}_{roles[role]}"] = facts
        elif key == "added":
            flat |= {"added": list(value), "added_class": [about["class"] for about in value.values()]}
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
    sentences = []
    for name, made in by_method.items():
        try:
            sentences.append(method_of(name).sentence(made))
        except HistomixError:
            sentences.append(f"The method '{name}', which is not installed where this was written.")
    return sentences


LARGEST = 2**29
"""Bytes of a manifest that is read: two hundred thousand changes."""

ABOVE = 4
"""Folders above an image that are searched for a manifest."""

_RECORDS = ("changes", *OF_VERSION_3)
"""Keys that records lie under: today's, and those of manifests that had one form for nuclei and one for tissue."""

DAMAGES = AttributeError, IndexError, KeyError, TypeError, ValueError
"""What a value that is missing from a record, or is not what it should be, raises."""

_NEEDED = {"placements": {"crop", "scale", "changed", "symmetries"}, "synthetic": {"donors"}}
_ALWAYS_NEEDED = {"sources", "stain_matching", "sampler_settings", "versions"}
"""Without these, earlier records say too little to make anything again."""


@dataclass(frozen=True, eq=False)
class SyntheticImage:
    """A synthetic image of an export.

    ``name`` is the one in the study, ``file`` the one in the exported dataset; ``source_sha256`` is empty where there
    is no source image (``datasets.pixels.pixels_sha256``). ``records`` are those of its changes in their order.
    """

    name: str
    file: str
    sha256: str
    source_sha256: str
    records: tuple[Record, ...]

    @property
    def target(self) -> Mapping[str, Any]:
        """What is known of its source image (``datasets.pixels.image_facts``); nothing of a new image."""
        first = self.records[0]
        recorded = first.provenance.get("sources", {}).get("target", {})
        facts = {"image": first.image, **({"pixels_sha256": self.source_sha256} if self.source_sha256 else {})}
        return {**facts, **recorded} if first.image else {}

    def sources(self) -> Iterator[Mapping[str, Any]]:
        """Facts of every image that it was made of, some of them twice."""
        if self.target:
            yield self.target
        for record in self.records:
            yield from record.provenance.get("sources", {}).values()
            yield from record.provenance.get("donors", ())


@dataclass(frozen=True, eq=False)
class Manifest:
    """What an export says of itself; ``content`` is all of it, as JSON has it."""

    path: Path
    content: Mapping[str, Any]

    @property
    def dataset(self) -> str:
        """Name of the source dataset."""
        return str(self.content.get("dataset", ""))

    @property
    def dataset_root(self) -> Path | None:
        """Folder of the source dataset, if the manifest tells where it is and it is still there."""
        return dataset_at(self.content.get("dataset_root"), self.path.parent)

    @property
    def split_parts(self) -> bool:
        """Whether each connected part of an instance of the source dataset was read as a nucleus of its own."""
        return self.content.get(SPLIT_PARTS) is True

    @property
    def edit_files(self) -> list[Path]:
        """Files of the source dataset's nuclei that were changed by hand; HistomixError if one is not as exported."""
        with undamaged(self.path):
            return checked_files(self.path.parent, self.content.get(EDITS) or {})

    @cached_property
    def records(self) -> tuple[Record, ...]:
        """The records of all changes; those of earlier manifests as they would be written today."""
        with undamaged(self.path):
            if "changes" in self.content:
                return tuple(Record(content) for content in self.content["changes"])
            if "placements" in self.content:
                return tuple(_nucleus(old) for old in self.content["placements"])
            decisions, images = self.content.get("decisions", {}), self.content["synthetic"]
            return tuple(_tissue(number, old, decisions.get(old["name"], {})) for number, old in enumerate(images))

    @cached_property
    def images(self) -> tuple[SyntheticImage, ...]:
        """All synthetic images, as they were exported."""
        with undamaged(self.path):
            about: Mapping[str, Any] = self.content.get("synthetic_images") or {
                old["name"]: old for old in self.content["synthetic"]
            }
            by_name: dict[str, list[Record]] = {}
            for record in self.records:
                by_name.setdefault(record.name, []).append(record)
            return tuple(_image(name, about[name], records) for name, records in by_name.items())

    @property
    def models(self) -> dict[str, Mapping[str, Any]]:
        """By the SHA-256 of every model that took part, the provenance of something that it made."""
        made = (record.provenance for record in self.records)
        return {str(each["model_sha256"]): each for each in made if "model_sha256" in each}


def _image(name: str, about: Mapping[str, Any], records: Sequence[Record]) -> SyntheticImage:
    # All that a record needs is looked at once, so that a damaged one is found before any work.
    for record in records:
        _ = record.id, record.method, record.seed, record.provenance.keys(), [each["role"] for each in record.sources]
    # Of tissue, earlier versions wrote the path.
    file = str(about["file"]).removesuffix(".png") if "name" in about else str(about["file"])
    return SyntheticImage(name, file, str(about["sha256"]), str(about.get("source_sha256", "")), tuple(records))


def _nucleus(old: Mapping[str, Any]) -> Record:
    """The record of a nucleus in a manifest of the first form."""
    changed, sources = old["provenance"]["changed"], []
    for role in ("target", "donor"):
        place = old[role]
        kind = {"class": place["type"]} if place["type"] else {}
        center = {"row": float(place["row"]), "col": float(place["col"]), "area": int(place["area"])}
        sources.append({"role": role, "image": place["image"], "item": int(place["instance"]), **kind, **center})
    return _earlier(
        "placements",
        old,
        old,
        id=int(old["rank"]),
        image=old["image"],
        name=old["image"],
        score=float(old["percentile"]),
        window=[int(side) for side in (changed["row"], changed["col"], *changed["size"])],
        sources=sources,
        added={str(int(old["instance"])): {"class": old["donor"]["type"]}},
        removed=[int(old["target"]["instance"])] if old["target"]["instance"] else [],
    )


def _tissue(number: int, old: Mapping[str, Any], decided: Mapping[str, Any]) -> Record:
    """The record of a tissue image in a manifest of the first form, which does not say how large the image is."""
    made = old["provenance"]
    target = made["sources"]["target"]["image"]
    sources = [{"role": "target", "image": target, "item": 0}]
    sources += [{"role": "donor", "image": donor["image"], "item": int(donor["segment"])} for donor in made["donors"]]
    shares = {old["class"]: 1.0}
    more = {"id": number, "image": target, "name": old["name"], "sources": sources, "class_shares": shares}
    return _earlier("synthetic", old, decided, **more)


def _earlier(form: str, old: Mapping[str, Any], decided: Mapping[str, Any], **more: Any) -> Record:
    """What the two forms of earlier records have in common; of decisions and notes as much as there is."""
    review = {key: decided[key] for key in ("decided_by", "decided", "note", "reasons") if key in decided}
    content = {"method": OF_VERSION_3[form], "decision": decided.get("decision", "unreviewed"), **review, **more}
    facts = {"seed": int(old["seed"]), "changed_pixels": int(old["changed_pixels"]), "provenance": old["provenance"]}
    return Record({**content, **facts})


def read_manifest(path: Path) -> Manifest:
    """Read the manifest of an export: the file, or the one in a folder.

    Raises HistomixError if there is none, it is damaged, a newer version wrote it, or one so early that it recorded too
    little.
    """
    path = Path(path)
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        raise HistomixError(f"{file} is not there; name the {FILE} of an export, or its folder.")
    content = read_json(file, LARGEST)
    if not is_manifest(content):
        raise HistomixError(f"{file} is no manifest of an export; name the {FILE} that lies in one.")
    software = content.get("software", "unknown")
    if isinstance(content.get("manifest"), int) and content["manifest"] > VERSION:
        raise HistomixError(f"A newer version ({software}) wrote {file}; update napari-histomix.")
    with undamaged(file):
        lacking = any(
            (_ALWAYS_NEEDED | keys) - old["provenance"].keys()
            for form, keys in _NEEDED.items()
            for old in content.get(form, ())
        )
        if lacking or "dataset_root" not in content:
            raise HistomixError(
                f"An earlier version ({software}) made what {file} lists and recorded too little to rebuild or explain "
                "it; make the images anew."
            )
    return Manifest(file, content)


def manifest_above(path: Path) -> Path | None:
    """The nearest manifest beside an image or above it; other programs have files of that name as well."""
    files = (folder / FILE for folder in path.resolve().parents[:ABOVE])
    return next((file for file in files if file.is_file() and is_manifest(read_json(file, LARGEST))), None)


def is_manifest(content: object) -> bool:
    """Whether a JSON value is a manifest, of whatever version."""
    return (
        isinstance(content, dict)
        and content.get("notice") == SYNTHETIC_NOTICE
        and any(isinstance(content.get(key), list) for key in _RECORDS)
    )


@contextmanager
def undamaged(path: Path) -> Iterator[None]:
    """What goes wrong in reading a record is one sentence: somebody changed the manifest."""
    try:
        yield
    except DAMAGES as error:
        raise HistomixError(
            f"{path} is damaged ({type(error).__name__}: {error}); copy it again from the export."
        ) from None
