"""Commands that look back: make the images of an export again, say where their pixels come from."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_histomix.cli.common import follow, say

if TYPE_CHECKING:
    from napari_histomix.study.explain import Explanation
    from napari_histomix.study.replay import ReplayReport


def add_commands(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add ``replay`` and ``explain``; ``command`` makes a command of a name, a function and a summary."""
    replaying = command(
        "replay", run_replay, "Rebuild every synthetic image of an export from its sources, and compare."
    )
    replaying.add_argument("manifest", type=Path, help="manifest.json of an export, or the folder that it lies in")
    replaying.add_argument(
        "--dataset", type=Path, metavar="FOLDER", help="the source dataset, where the manifest does not lead to it"
    )
    replaying.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="PATH",
        help="a model that was used, other than the bundled one; may be given several times",
    )
    replaying.add_argument(
        "--images", type=Path, metavar="FOLDER", help="the export, where the manifest no longer lies in it"
    )
    replaying.add_argument("--out", type=Path, help="new folder for the rebuilt images")
    replaying.add_argument(
        "--check", action="store_true", help="compare with the export's images, also with --out (always without it)"
    )
    replaying.add_argument(
        "--device",
        choices=["recorded", "auto", "cpu", "cuda", "mps"],
        default="recorded",
        help="where to compute; recorded: as the images were made, where this machine can",
    )
    explaining = command("explain", run_explain, "Say where the pixels of an image come from.")
    explaining.add_argument("image", help="an image of an export: its file, or its name and --manifest")
    explaining.add_argument(
        "--at", nargs=2, type=int, metavar=("X", "Y"), help="a point: column and row, from 0 at the upper left"
    )
    explaining.add_argument("--manifest", type=Path, metavar="FILE", help="manifest.json, where it is not beside it")


def run_replay(options: argparse.Namespace) -> dict[str, Any]:
    """Make the images of an export again."""
    from napari_histomix.study.manifest import read_manifest
    from napari_histomix.study.replay import replay, source_dataset

    manifest = read_manifest(options.manifest)
    dataset = source_dataset(manifest, options.dataset)
    report = follow(
        replay(
            manifest,
            dataset,
            options.model,
            out=options.out,
            check=options.check,
            images=options.images,
            device=options.device,
        )
    )
    for note in report.conditions:
        say(options, f"Note: {note}.")
    outcomes: Counter[str] = Counter(compared.outcome for compared in report.compared)
    if report.compared:
        say(options, f"Synthetic images of {manifest.dataset}: {_summary(outcomes)}.")
    result: dict[str, Any] = {
        "manifest": str(manifest.path),
        "dataset": report.dataset,
        "images": [asdict(compared) for compared in report.compared],
        "changed_sources": dict(report.changed_sources),
        "conditions": list(report.conditions),
        "out": None if options.out is None or report.changed_sources else str(options.out),
    }
    if result["out"]:
        say(options, f"Written: {options.out}")
    if report.problems:
        say(options, *(f"  {sentence}" for sentence in report.problems))
        result["error"] = _sentence(report)
    return result


_OUTCOMES = {
    "identical": "bit for bit the same",
    "close": "the same within the tolerance",
    "different": "different",
    "rebuilt": "rebuilt and not compared",
}


def _summary(outcomes: Counter[str]) -> str:
    return ", ".join(f"{outcomes[key]:,} {words}" for key, words in _OUTCOMES.items() if outcomes[key])


def _sentence(report: ReplayReport) -> str:
    if report.changed_sources:
        number = len(report.changed_sources)
        return f"{number:,} source images are not those that were used, so nothing was rebuilt; put them back."
    number = sum(compared.outcome == "different" for compared in report.compared)
    return f"{number:,} of {len(report.compared):,} images differ from their export, for the reasons above."


def run_explain(options: argparse.Namespace) -> dict[str, Any]:
    """Say where the pixels of an image come from."""
    from napari_histomix.study.explain import explain

    found = explain(options.image, options.manifest)
    result: dict[str, Any] = {"image": found.image, "kind": found.kind, "sentence": found.sentence, **found.facts}
    if options.at is None:
        say(options, found.sentence, *_lines(found))
        return result
    point = found.at(*options.at)
    say(options, *_point_lines(found, options.at, point))
    return result | {"point": {"at": options.at, **point}}


def _lines(found: Explanation) -> list[str]:
    """What is known of a synthetic image, for people."""
    if not found.facts:
        return []
    facts = found.facts
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


def _point_lines(found: Explanation, at: list[int], point: dict[str, Any]) -> list[str]:
    where = f"({at[0]}, {at[1]}) of {found.image}"
    if point["origin"] == "real":
        return [f"{where} is real: the same pixel of {_place(point)}."]
    decided = point["decision"] + (f" by {point['decided_by']}" if point["decided_by"] else "")
    decided += f" on {point['decided']}" if point["decided"] else ""
    if point["origin"] == "inpainted":
        how = "painted" if "model" not in point else f"inpainted by {point['model']}, sampler {point['sampler']}"
    elif point["image"] and "x" in point:
        how = f"the donor's: ({point['x']:g}, {point['y']:g}) of {_place(point)}"
        how += "".join(f", {what} {point[key]}" for key, what in _ITEMS.items() if key in point)
        if any(point.get("stain", {}).get("shift", ())):
            how += ", its stain matched to its new place"
    else:
        how = "the donor's"
    return [f"{where} is {how}.", f"It belongs to change {point['change']} ({point['method']}), {decided}."]


_ITEMS = {"donor_instance": "instance", "segment": "segment"}
"""What of a donor is named, by its key."""


def _place(source: dict[str, Any]) -> str:
    """An image with its patient and slide, where they are known."""
    known = [f"{key} {source[key]}" for key in ("patient", "slide") if source[key]]
    return source["image"] + (f" ({', '.join(known)})" if known else "")


def _license(text: str) -> str:
    return f", license {text}" if text else ", license not stated"
