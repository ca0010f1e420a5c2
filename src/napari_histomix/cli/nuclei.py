"""Commands that look at nuclei and make more of them: inspect, candidates, synthesize, demo."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from napari_histomix.cli.following import follow, say
from napari_histomix.cli.networks import model_of
from napari_histomix.cli.opening import named_splits, open_data
from napari_histomix.records import HistomixError

if TYPE_CHECKING:
    from napari_histomix.datasets import Dataset
    from napari_histomix.methods.nucleimix import Synthesis


def run_inspect(options: argparse.Namespace) -> dict[str, Any]:
    """Show what a dataset holds."""
    from napari_histomix.datasets import survey, synthetic_notes
    from napari_histomix.datasets.copies import find_copies
    from napari_histomix.datasets.splits import shared

    dataset = open_data(options)
    found = follow(survey(dataset))
    copies = follow(find_copies(dataset))
    leaks = [f"The {one.what} {one.sentence} is in several splits." for one in shared(dataset)]
    leaks += [one.sentence for one in copies]
    if not found.counts:
        raise HistomixError(found.problems[0].sentence)
    splits: dict[str, int] = {}
    for entry in dataset.entries:
        splits[entry.source.split or "train"] = splits.get(entry.source.split or "train", 0) + 1
    patients = {entry.source.patient for entry in dataset.entries if entry.source.patient}
    scales = sorted({entry.mpp for entry in dataset.entries if entry.mpp is not None})
    result = {
        "name": dataset.name,
        "images": len(dataset.entries),
        "classes": [
            {"number": one.number, "name": one.name, "color": list(one.color), "nuclei": found.total[one.number]}
            for one in dataset.classes
        ],
        "nuclei": found.total.total(),
        "mpp": scales,
        "images_without_scale": len(dataset.missing_scale),
        "splits": splits,
        "patients": len(patients),
        "synthetic": {one.name: found.synthetic_total[one.number] for one in dataset.classes},
        "problems": [asdict(problem) for problem in found.problems],
        "leaks": leaks,
    }
    width = max(len(one.name) for one in dataset.classes)
    lines = [f"{dataset.name}: {len(dataset.entries)} images, {found.total.total():,} nuclei"]
    for one in dataset.classes:
        count = found.total[one.number]
        bar = "█" * round(40 * count / max(1, *found.total.values()))
        lines.append(f"  {one.number:>3}  {one.name:<{width}}  {count:>8,}  {bar}")
    scale = ", ".join(f"{value:g}" for value in scales) or "unknown: pass --mpp"
    lines.append(f"µm/px: {scale}")
    lines.append("splits: " + ", ".join(f"{name} {count}" for name, count in splits.items()))
    lines.append(f"patients: {len(patients) or 'not named'}")
    lines += [f"note: {sentence}" for sentence in synthetic_notes(dataset, found)]
    problems = [f"problem: {problem.sentence}" for problem in found.problems] + [f"leak: {one}" for one in leaks]
    lines += problems or ["No problems found."]
    say(options, *lines)
    return result


def _candidate_set(options: argparse.Namespace, dataset: Dataset) -> Any:
    from napari_histomix.methods.nucleimix import CandidateSettings, find_candidates

    settings = CandidateSettings(
        rare=tuple(dataset.class_number(name) for name in options.rare),
        major=tuple(dataset.class_number(name) for name in options.major or ()),
        encoder=options.encoder or CandidateSettings.encoder,
        temperature=options.temperature,
        seed=options.seed,
    )
    found = follow(find_candidates(dataset, settings))
    say(
        options,
        f"{len(found.candidates):,} candidate locations; the draw is worth "
        f"{found.effective_sample_size:,.0f} equally likely ones (temperature {found.temperature:.3g}).",
        *found.warnings,
    )
    return found


def run_candidates(options: argparse.Namespace) -> dict[str, Any]:
    """Find candidate locations and write them as a table."""
    from napari_histomix.study.tables import write_candidates

    if options.out.exists():
        raise HistomixError(f"{options.out} already exists; name a new file.")
    found = _candidate_set(options, open_data(options))
    write_candidates(options.out, found.candidates)
    say(options, f"Written: {options.out}")
    return {
        "out": str(options.out),
        "candidates": len(found.candidates),
        "temperature": found.temperature,
        "effective_sample_size": found.effective_sample_size,
        "warnings": list(found.warnings),
    }


def run_synthesize(options: argparse.Namespace) -> dict[str, Any]:
    """Grow the rare classes of a dataset, or make tissue images of every class, and write the result."""
    if options.method == "usegmix":
        from napari_histomix.cli.segments import run_usegmix

        if options.format:
            raise HistomixError("usegmix writes class folders, which is the one format for tissue; leave --format out.")
        return run_usegmix(options)
    return _augment(options, open_data(options), report=False)


def run_demo(options: argparse.Namespace) -> dict[str, Any]:
    """The whole job on the bundled sample."""
    from napari_histomix.datasets import SAMPLE_RARE, load_sample

    options.rare, options.major = [SAMPLE_RARE], []
    options.candidates = options.study = options.format = None
    return _augment(options, load_sample(), report=True)


def _augment(options: argparse.Namespace, dataset: Dataset, *, report: bool) -> dict[str, Any]:
    """Candidates → synthesis → export, with a study on the side if one is wanted."""
    from napari_histomix.datasets.copies import check_leaks
    from napari_histomix.datasets.dataset_writer import check_format
    from napari_histomix.methods.nucleimix import SynthesisSettings, synthesize
    from napari_histomix.study import Study
    from napari_histomix.study.export import export
    from napari_histomix.study.tables import read_candidates

    if options.out.exists():
        raise HistomixError(f"{options.out} already exists; name a new folder.")
    if options.study and options.candidates:
        raise HistomixError("A study keeps the search its candidates came from; use --study without --candidates.")
    if options.study:
        Study.check_new(options.study)
    layout = options.format or "hovernet"
    check_format(layout, dataset.classes)
    follow(check_leaks(dataset))
    model = model_of(options)
    facts: dict[str, Any] = {}
    found = None
    if options.candidates:
        candidates: Sequence[Any] = read_candidates(options.candidates)
    else:
        found = _candidate_set(options, dataset)
        candidates = found.candidates
        facts["candidate_settings"] = asdict(found.settings) | {
            "encoder": found.encoder,
            "temperature": found.temperature,
            "effective_sample_size": round(found.effective_sample_size, 3),
        }
    settings = SynthesisSettings(
        count=options.count, seed=options.seed, sampler=options.sampler, device=options.device, batch=options.batch
    )
    made = follow(synthesize(dataset, candidates, settings, model, search=found.search if found else None))
    _report_synthesis(options, made)
    if not made.placements:
        raise HistomixError("No candidate location could take its donor, for the reasons above; nothing was written.")
    # How the work was spread over the machine is in the placements' records, as far as it shapes the result.
    recorded = {key: value for key, value in asdict(settings).items() if key not in ("device", "batch")}
    facts |= {"synthesis_settings": recorded, "refusals": dict(sorted(made.refusals.items()))}
    if options.study and found is not None:
        with Study.begin(options.study, dataset.root, dataset.name, options.mpp) as study:
            study.set_candidates(found)
            study.save_settings({"synthesis_settings": asdict(settings), **named_splits(options, dataset)})
            study.add_placements(made.placements)
        say(options, f"Study: {options.study}")
    follow(export(dataset, made.placements, options.out, facts=facts, report=report, format=layout))
    say(options, f"Written: {options.out}")
    return {
        "out": str(options.out),
        "placed": len(made.placements),
        "wanted": settings.count,
        "refusals": dict(made.refusals),
        "problems": [asdict(problem) for problem in made.problems],
    }


def _report_synthesis(options: argparse.Namespace, made: Synthesis) -> None:
    wanted = options.count
    say(options, f"Placed {len(made.placements)} of {wanted} synthetic nuclei.")
    if len(made.placements) < wanted:
        say(options, "The candidate locations ran out; add images, or allow more major classes.")
    for reason, count in made.refusals.most_common():
        say(options, f"  {count:>6,} refused: {reason}")
    for problem in made.problems:
        say(options, f"Skipped: {problem.sentence}")
