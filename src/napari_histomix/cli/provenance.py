"""Commands that look back: make the images of an export again, say where their pixels come from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_histomix.cli.common import Commands, Options, add_output, follow
from napari_histomix.settings import DEVICES

if TYPE_CHECKING:
    from napari_histomix.study.replay import ReplayReport


def add_commands(commands: Commands) -> None:
    """Add ``replay`` and ``explain``."""
    summary = "Rebuild every synthetic image of an export from its sources, and compare."
    replaying = commands.add("replay", run_replay, summary)
    replaying.add_argument("manifest", type=Path, help="manifest.json of an export, or the folder that it lies in")
    source = "the source dataset, where the manifest does not lead to it"
    replaying.add_argument("--dataset", type=Path, metavar="FOLDER", help=source)
    model = "a model that was used, other than the bundled one; may be given several times"
    replaying.add_argument("--model", action="append", default=[], metavar="PATH", help=model)
    images = "the export, where the manifest no longer lies in it"
    replaying.add_argument("--images", type=Path, metavar="FOLDER", help=images)
    add_output(replaying, "--out", help="new folder for the rebuilt images")
    check = "compare with the export's images, also with --out (always without it)"
    replaying.add_argument("--check", action="store_true", help=check)
    device = "where to compute; recorded: as the images were made, where this machine can"
    replaying.add_argument("--device", choices=["recorded", *DEVICES], default="recorded", help=device)

    explaining = commands.add("explain", run_explain, "Say where the pixels of an image come from.")
    explaining.add_argument("image", help="an image of an export: its file, or its name and --manifest")
    point = "a point: column and row, from 0 at the upper left"
    explaining.add_argument("--at", nargs=2, type=int, metavar=("X", "Y"), help=point)
    explaining.add_argument("--manifest", type=Path, metavar="FILE", help="manifest.json, where it is not beside it")


def run_replay(options: Options) -> dict[str, Any]:
    """Make the images of an export again."""
    from napari_histomix.study.manifest import read_manifest
    from napari_histomix.study.replay import replay, source_dataset

    manifest = read_manifest(options.manifest)
    dataset = source_dataset(manifest, options.dataset)
    how = {name: getattr(options, name) for name in ("out", "check", "images", "device")}
    report = follow(replay(manifest, dataset, options.model, **how))
    options.say(*(f"Note: {note}." for note in report.conditions))
    outcomes: Counter[str] = Counter(compared.outcome for compared in report.compared)
    if report.compared:
        summary = ", ".join(f"{outcomes[key]:,} {words}" for key, words in _OUTCOMES.items() if outcomes[key])
        options.say(f"Synthetic images of {manifest.dataset}: {summary}.")
    result: dict[str, Any] = {
        "manifest": str(manifest.path),
        "dataset": report.dataset,
        "images": [asdict(compared) for compared in report.compared],
        "changed_sources": dict(report.changed_sources),
        "conditions": list(report.conditions),
        "out": None if options.out is None or report.changed_sources else str(options.out),
    }
    if result["out"]:
        options.say(f"Written: {options.out}")
    if report.problems:
        options.say(*(f"  {sentence}" for sentence in report.problems))
        result["error"] = _sentence(report)
    return result


_OUTCOMES = {
    "identical": "bit for bit the same",
    "close": "the same within the tolerance",
    "different": "different",
    "rebuilt": "rebuilt and not compared",
}


def _sentence(report: ReplayReport) -> str:
    if report.changed_sources:
        number = len(report.changed_sources)
        if number == 1:
            return "1 source image is not the one that was used, so nothing was rebuilt; put it back."
        return f"{number:,} source images are not those that were used, so nothing was rebuilt; put them back."
    number = sum(compared.outcome == "different" for compared in report.compared)
    return f"{number:,} of {len(report.compared):,} images differ from their export, for the reasons above."


def run_explain(options: Options) -> dict[str, Any]:
    """Say where the pixels of an image come from."""
    from napari_histomix.study.explain import explain

    explained = explain(options.image, options.manifest)
    result = {key: getattr(explained, key) for key in ("image", "kind", "sentence")} | dict(explained.facts)
    if options.at is None:
        options.say(explained.sentence, *_lines(explained.facts))
        return result
    point = explained.at(*options.at)
    options.say(*_point_lines(f"({options.at[0]}, {options.at[1]}) of {explained.image}", point))
    return result | {"point": {"at": options.at, **point}}


def _lines(facts: Mapping[str, Any]) -> list[str]:
    """What is known of a synthetic image, for people."""
    if not facts:
        return []
    shares = ", ".join(f"{100 * share:.2f} % {word}" for word, share in facts["shares"].items())
    decisions = ", ".join(f"{count:,} {word}" for word, count in facts["decisions"].items())
    by = f" by {', '.join(facts['decided_by'])}" if facts["decided_by"] else ""
    models = [
        f"model: {made['name']}, SHA-256 {made['sha256']}" + _license(made["license"]) for made in facts["models"]
    ]
    samplers = f", sampler {', '.join(facts['samplers'])}" if facts["samplers"] else ""
    source = f"source: {_place(facts['source'])}, of {facts['dataset']}" if facts["source"]["image"] else "a new image"
    return [
        f"{facts['made']:,} change{'' if facts['made'] == 1 else 's'}; pixels: {shares}",
        source + _license(facts["license"]),
        f"method: {', '.join(facts['methods'])}{samplers}",
        *models,
        f"decisions: {decisions}{by}",
        f"manifest: {facts['manifest']}",
    ]


def _point_lines(where: str, point: Mapping[str, Any]) -> list[str]:
    if point["origin"] == "real":
        return [f"{where} is real: the same pixel of {_place(point)}."]
    decided = point["decision"] + (f" by {point['decided_by']}" if point["decided_by"] else "")
    decided += f" on {point['decided']}" if point["decided"] else ""
    if point["origin"] == "inpainted":
        how = "inpainted" if "sampler" in point else "painted"
        how += f" by {point['model']}" if "model" in point else ""
        how += f", sampler {point['sampler']}" if "sampler" in point else ""
        if "labels" in point:
            how += ", from the labels at ({x:g}, {y:g}) of {image}".format(**point["labels"])
        if "drawn_by_hand" in point:
            how += ", where a person drew nuclei"
        if "layout" in point:
            how += f", from layout {point['layout']}" + (", edited by hand" if point["layout_edited"] else "")
    elif point["image"] and "x" in point:
        how = f"the donor's: ({point['x']:g}, {point['y']:g}) of {_place(point)}"
        items = {"donor_instance": "instance", "segment": "segment"}
        how += "".join(f", {what} {point[key]}" for key, what in items.items() if key in point)
        if any(point.get("stain", {}).get("shift", ())):
            how += ", its stain matched to its new place"
    else:
        how = "the donor's"
    return [f"{where} is {how}.", f"It belongs to change {point['change']} ({point['method']}), {decided}."]


def _place(source: Mapping[str, Any]) -> str:
    """An image with its patient and slide, where they are known."""
    known = [f"{key} {source[key]}" for key in ("patient", "slide") if source[key]]
    return source["image"] + (f" ({', '.join(known)})" if known else "")


def _license(text: str) -> str:
    return f", license {text}" if text else ", license not stated"
