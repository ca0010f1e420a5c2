"""``histomix``: the same jobs as the docks, without a screen."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tqdm import tqdm

from napari_histomix import __version__
from napari_histomix.records import HistomixError, Job

if TYPE_CHECKING:
    from napari_histomix.datasets import Dataset
    from napari_histomix.methods.nucleimix import Synthesis

T = TypeVar("T")


def follow(job: Job[T]) -> T:
    """Run a job to its end with a bar on a terminal, one line for each phase elsewhere; messages go above it."""
    bar: tqdm[Any] | None = None
    shown = ""
    try:
        while True:
            event = next(job)
            phase = event.phase.split(",")[0].rstrip("0123456789 of")
            if phase != shown:
                shown = phase
                if bar is not None:
                    bar.close()
                if sys.stderr.isatty():
                    bar = tqdm(total=event.total or None, dynamic_ncols=True, leave=False)
                else:
                    print(f"{phase} …", file=sys.stderr, flush=True)
            if event.message:
                tqdm.write(event.message, file=sys.stderr)
            if bar is not None:
                bar.set_description(event.phase, refresh=False)
                bar.total = event.total or None
                bar.update(event.done - bar.n)
    except StopIteration as end:
        return end.value
    finally:
        job.close()
        if bar is not None:
            bar.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 1 something to mend, 2 wrong usage."""
    options = _parser().parse_args(arguments)
    try:
        result = options.run(options)
    except HistomixError as error:
        return _failed(str(error), options)
    except KeyboardInterrupt:
        return _failed("Cancelled.", options)
    if options.json:
        print(json.dumps(result, ensure_ascii=False))
    return 0


def _failed(sentence: str, options: argparse.Namespace) -> int:
    line = " ".join(sentence.split())
    print(f"histomix: {line}", file=sys.stderr)
    if options.json:
        print(json.dumps({"error": line}, ensure_ascii=False))
    return 1


def _say(options: argparse.Namespace, *lines: str) -> None:
    """Print for people; with --json standard output holds one line for programs, so this goes to standard error."""
    for line in lines:
        print(line, file=sys.stderr if options.json else sys.stdout, flush=True)


def _open(options: argparse.Namespace) -> Dataset:
    from napari_histomix.datasets import open_dataset

    dataset = open_dataset(options.dataset, options.mpp)
    for problem in dataset.problems:
        _say(options, f"Skipped: {problem.sentence}")
    return dataset


def _inspect(options: argparse.Namespace) -> dict[str, Any]:
    from napari_histomix.datasets import survey

    dataset = _open(options)
    found = follow(survey(dataset))
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
        "problems": [asdict(problem) for problem in found.problems],
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
    lines += [f"problem: {problem.sentence}" for problem in found.problems] or ["No problems found."]
    _say(options, *lines)
    return result


def _candidate_set(options: argparse.Namespace, dataset: Dataset) -> Any:
    from napari_histomix.methods.nucleimix import CandidateSettings, find_candidates

    settings = CandidateSettings(
        rare=tuple(dataset.class_number(name) for name in options.rare),
        major=tuple(dataset.class_number(name) for name in options.major or ()),
        encoder=options.encoder,
        temperature=options.temperature,
        seed=options.seed,
    )
    found = follow(find_candidates(dataset, settings))
    _say(
        options,
        f"{len(found.candidates):,} candidate locations; the draw is worth "
        f"{found.effective_sample_size:,.0f} equally likely ones (temperature {found.temperature:.3g}).",
        *found.warnings,
    )
    return found


def _candidates(options: argparse.Namespace) -> dict[str, Any]:
    from napari_histomix.study.tables import write_candidates

    if options.out.exists():
        raise HistomixError(f"{options.out} already exists; name a new file.")
    found = _candidate_set(options, _open(options))
    write_candidates(options.out, found.candidates)
    _say(options, f"Written: {options.out}")
    return {
        "out": str(options.out),
        "candidates": len(found.candidates),
        "temperature": found.temperature,
        "effective_sample_size": found.effective_sample_size,
        "warnings": list(found.warnings),
    }


def _synthesize(options: argparse.Namespace) -> dict[str, Any]:
    return _augment(options, _open(options), report=False)


def _demo(options: argparse.Namespace) -> dict[str, Any]:
    from napari_histomix.datasets import SAMPLE_RARE, load_sample

    options.rare, options.major, options.candidates, options.study = [SAMPLE_RARE], [], None, None
    return _augment(options, load_sample(), report=True)


def _augment(options: argparse.Namespace, dataset: Dataset, *, report: bool) -> dict[str, Any]:
    """Candidates → synthesis → export, with a study on the side if one is wanted."""
    from napari_histomix.diffusion.models import load_model
    from napari_histomix.methods.nucleimix import SynthesisSettings, synthesize
    from napari_histomix.study import Study
    from napari_histomix.study.export import export
    from napari_histomix.study.guard import check_splits
    from napari_histomix.study.tables import read_candidates

    if options.out.exists():
        raise HistomixError(f"{options.out} already exists; name a new folder.")
    if options.study and options.candidates:
        raise HistomixError("A study keeps the search its candidates came from; use --study without --candidates.")
    if options.study:
        Study.check_new(options.study)
    check_splits(dataset)
    model = load_model(options.model) if options.model else None
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
    made = follow(synthesize(dataset, candidates, settings, model))
    _report_synthesis(options, made)
    if not made.placements:
        raise HistomixError("No candidate location could take its donor, for the reasons above; nothing was written.")
    # How the work was spread over the machine does not shape the result, so it is no part of the record.
    recorded = {key: value for key, value in asdict(settings).items() if key not in ("device", "batch")}
    facts |= {"synthesis_settings": recorded, "refusals": dict(sorted(made.refusals.items()))}
    if options.study and found is not None:
        with Study.begin(options.study, dataset.root, dataset.name, options.mpp) as study:
            study.set_candidates(found)
            study.save_settings({"synthesis_settings": asdict(settings)})
            study.add_placements(made.placements)
        _say(options, f"Study: {options.study}")
    follow(export(dataset, made.placements, options.out, facts=facts, report=report))
    _say(options, f"Written: {options.out}")
    return {
        "out": str(options.out),
        "placed": len(made.placements),
        "wanted": settings.count,
        "refusals": dict(made.refusals),
        "problems": [asdict(problem) for problem in made.problems],
    }


def _report_synthesis(options: argparse.Namespace, made: Synthesis) -> None:
    wanted = options.count
    _say(options, f"Placed {len(made.placements)} of {wanted} synthetic nuclei.")
    if len(made.placements) < wanted:
        _say(options, "The candidate locations ran out; add images, or allow more major classes.")
    for reason, count in made.refusals.most_common():
        _say(options, f"  {count:>6,} refused: {reason}")
    for problem in made.problems:
        _say(options, f"Skipped: {problem.sentence}")


def _train(options: argparse.Namespace) -> dict[str, Any]:
    from napari_histomix.diffusion.inpainter import choose_device
    from napari_histomix.diffusion.training import TrainingSettings, train_inpainter

    chosen = {"minutes": options.minutes, "steps": options.steps, "batch": options.batch, "seed": options.seed}
    settings = TrainingSettings(**{key: value for key, value in chosen.items() if value is not None})
    mpp = None
    if options.mpp:
        mpp = (min(options.mpp), max(options.mpp))
    job = train_inpainter(
        options.images,
        options.out,
        settings=settings,
        start=options.start,
        mpp=mpp,
        device=str(choose_device(options.device)),
        name=options.name or options.out.name,
    )
    out = follow(job)
    card = json.loads((out / "histomix.json").read_text(encoding="utf-8"))
    last = card["history"][-1]
    _say(options, f"Written: {out} ({int(last['step'])} steps, validation loss {last['validation']:.4f})")
    return {"out": str(out), **last}


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Defaults shown where there is one to show."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        quiet = action.default in (None, False, []) or action.default is argparse.SUPPRESS
        return action.help if quiet else super()._get_help_string(action)


def _parser() -> argparse.ArgumentParser:
    from napari_histomix.methods.nucleimix import CandidateSettings, SynthesisSettings

    found = {field.name: field.default for field in fields(CandidateSettings)}
    made = {field.name: field.default for field in fields(SynthesisSettings)}
    parser = argparse.ArgumentParser(
        prog="histomix",
        description="Grow the rare nuclei that a labeled H&E dataset lacks. Not for diagnosis.",
        epilog="Exit codes: 0 done, 1 something to mend (one line says what), 2 wrong usage.",
    )
    parser.add_argument("--version", action="version", version=f"napari-histomix {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, run: Any, summary: str, parent: Any = commands) -> argparse.ArgumentParser:
        one = parent.add_parser(name, help=summary, description=summary, formatter_class=_Formatter)
        one.add_argument("--json", action="store_true", help="print one last line of JSON for programs")
        one.set_defaults(run=run)
        return one

    def dataset(one: argparse.ArgumentParser) -> None:
        one.add_argument(
            "dataset",
            type=Path,
            help="folder of labeled images: HoVer-Net layout (Images, Labels/*.mat), "
            "or images, labels and a CSV of types",
        )
        one.add_argument("--mpp", type=_positive, help="µm per pixel, where the data does not say it")

    def search(one: argparse.ArgumentParser) -> None:
        one.add_argument("--rare", nargs="+", required=True, metavar="NAME", help="class to grow, by name or number")
        one.add_argument("--major", nargs="+", metavar="NAME", help="classes that may be replaced (all others)")
        encoding(one)

    def encoding(one: argparse.ArgumentParser) -> None:
        one.add_argument(
            "--encoder",
            default=found["encoder"],
            help="how surroundings are compared: texture, timm:NAME, timm:NAME@FILE or ctranspath:FILE",
        )
        one.add_argument("--temperature", type=_positive, help="flattens the draw of locations (chosen from the data)")

    def synthesis(one: argparse.ArgumentParser, count: Any) -> None:
        one.add_argument("-k", "--count", type=_whole, default=count, help="synthetic nuclei to make")
        one.add_argument("--sampler", choices=["fast", "paper"], default=made["sampler"], help="diffusion sampler")
        device(one)
        one.add_argument("--batch", type=_whole, default=made["batch"], help="windows denoised together")
        one.add_argument("--model", type=Path, metavar="FOLDER", help="inpainting model (the bundled one)")

    def device(one: argparse.ArgumentParser) -> None:
        one.add_argument("--device", choices=["auto", "cpu", "cuda", "mps"], default="auto", help="where to compute")

    def seed(one: argparse.ArgumentParser) -> None:
        one.add_argument("--seed", type=_seed, default=found["seed"], help="the same seed gives the same result")

    demo = command("demo", _demo, "Run the whole job on the bundled sample: candidates, synthesis, export, report.png.")
    demo.add_argument("--out", type=Path, required=True, help="new folder for the result")
    encoding(demo)
    synthesis(demo, 12)
    seed(demo)
    demo.set_defaults(mpp=None)

    inspect = command("inspect", _inspect, "Show classes, counts, µm/px, splits and problems of a dataset.")
    dataset(inspect)

    candidates = command("candidates", _candidates, "Find where a rare nucleus would fit, and write it as CSV.")
    dataset(candidates)
    search(candidates)
    seed(candidates)
    candidates.add_argument("--out", type=Path, required=True, metavar="FILE", help="new CSV file")

    synthesize = command(
        "synthesize", _synthesize, "Make synthetic rare nuclei and write the augmented dataset in HoVer-Net layout."
    )
    dataset(synthesize)
    search(synthesize)
    synthesis(synthesize, made["count"])
    seed(synthesize)
    synthesize.add_argument("--candidates", type=Path, metavar="FILE", help="use this CSV, without its rows to drop")
    synthesize.add_argument("--study", type=Path, metavar="FOLDER", help="also write a study, to review in napari")
    synthesize.add_argument("--out", type=Path, required=True, help="new folder for the result")

    train = commands.add_parser("train", help="Train a network on your own images.")
    kinds = train.add_subparsers(title="networks", required=True, metavar="NETWORK")
    inpainter = command("inpainter", _train, "Train the inpainting network on images; no labels are needed.", kinds)
    inpainter.add_argument("--images", nargs="+", type=Path, required=True, metavar="FOLDER", help="folders of images")
    inpainter.add_argument("--out", type=Path, required=True, help="new model folder")
    inpainter.add_argument("--from", dest="start", type=Path, metavar="WEIGHTS", help="model folder to fine-tune")
    length = inpainter.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=_positive, help="how long to train (60)")
    length.add_argument("--steps", type=_whole, help="how many steps to train")
    inpainter.add_argument(
        "--mpp", nargs="+", type=_positive, metavar="UM", help="µm per pixel of the images: one value, or the range"
    )
    inpainter.add_argument("--batch", type=_whole, help="windows a step (16)")
    inpainter.add_argument("--name", help="name in the model card (the folder's)")
    device(inpainter)
    seed(inpainter)
    return parser


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError("must be a positive number")
    return value


def _whole(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


def _seed(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError("must be 0 or more")
    return value
