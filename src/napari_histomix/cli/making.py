"""Commands that make synthetic images: methods, synthesize, resume, demo."""

from __future__ import annotations

import argparse
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_histomix.cli.common import (
    add_settings,
    follow,
    named_splits,
    open_data,
    positive,
    say,
    settings_from,
    study_images,
)
from napari_histomix.datasets.formats import FORMATS
from napari_histomix.methods import DEFAULT, method_names, method_of, method_problems
from napari_histomix.records import HistomixError
from napari_histomix.settings import settings_of, shown

if TYPE_CHECKING:
    from napari_histomix.datasets import Dataset
    from napari_histomix.jobs import Outcome
    from napari_histomix.methods.base import Method
    from napari_histomix.study import Study

WRITABLE = [format.name for format in FORMATS.values() if format.writes]
"""Formats that can be written, by name."""
DEMO_COUNT = 12


def add_commands(command: Callable[..., argparse.ArgumentParser], method: str) -> None:
    """Add ``methods``, ``synthesize``, ``resume`` and ``demo``.

    Parameters
    ----------
    command : callable
        Makes a command of a name, a function and a summary.
    method : str
        The method whose options ``synthesize`` has.
    """
    listing = command("methods", run_methods, "List the methods, or all options of one.")
    listing.add_argument("method", nargs="?", help="name of a method")

    synthesize = command(
        "synthesize",
        run_synthesize,
        "Make synthetic images with a method, and write the augmented dataset. "
        f"The options below are those of '{method}'; 'histomix methods' lists all methods.",
    )
    synthesize.add_argument("dataset", type=Path, help="folder of labeled images, or of images with a class each")
    synthesize.add_argument("--method", choices=method_names(), default=method, metavar="NAME", help="what makes them")
    synthesize.add_argument("--mpp", type=positive, help="µm per pixel, where the data does not say it")
    synthesize.add_argument("--splits", type=Path, metavar="FILE", help="CSV with the columns image and split")
    synthesize.add_argument("--out", type=Path, required=True, help="new folder for the augmented dataset")
    synthesize.add_argument("--study", type=Path, metavar="FOLDER", help="keep the study here, to review in napari")
    synthesize.add_argument(
        "--candidates", type=Path, metavar="FILE", help="use the candidates of this CSV, without its rows to drop"
    )
    synthesize.add_argument("--format", choices=WRITABLE, metavar="NAME", help=f"one of {', '.join(WRITABLE)}")
    _add_method(synthesize, method_of(method))

    resume = command("resume", run_resume, "Go on with a run that was killed or cancelled.")
    resume.add_argument("study", type=Path, help="study folder")
    resume.add_argument("--dataset", type=Path, metavar="FOLDER", help="where the images are now, if they moved")
    resume.add_argument("--out", type=Path, help="new folder for the augmented dataset, once all is made")
    resume.add_argument("--format", choices=WRITABLE, metavar="NAME", help="its format")

    demo = command(
        "demo", run_demo, "Run the whole job on the bundled sample: candidates, synthesis, export, and report.png."
    )
    demo.add_argument("--out", type=Path, required=True, help="new folder for the result")
    _add_method(demo, method_of(DEFAULT), without=("rare", "major"))


def _add_method(parser: argparse.ArgumentParser, method: Method[Any, Any], without: Sequence[str] = ()) -> None:
    stages = [method.stage.settings] if method.stage is not None else []
    add_settings(parser, [*stages, method.settings], without=without)


def run_methods(options: argparse.Namespace) -> dict[str, Any]:
    """List the methods, or the options of one."""
    names = [options.method] if options.method else method_names()
    methods = [method_of(name) for name in names]
    for method in methods:
        say(options, f"{method.name}: {method.title}, {method.makes}")
        if options.method:
            say(options, *_details(method))
    for problem in method_problems():
        say(options, f"Note: {problem}")
    return {
        "methods": [
            {
                "name": method.name,
                "title": method.title,
                "makes": method.makes,
                "citation": method.citation,
                "needs": asdict(method.needs),
                "stage": method.stage.name if method.stage is not None else None,
                "settings": [setting.name for setting in settings_of(method.settings)],
            }
            for method in methods
        ],
        "problems": list(method_problems()),
    }


def _details(method: Method[Any, Any]) -> list[str]:
    lines = [method.citation] if method.citation else []
    classes = [method.settings] if method.stage is None else [method.stage.settings, method.settings]
    for cls in classes:
        for setting in settings_of(cls):
            bounds = f" ({setting.bounds()})" if setting.bounds() else ""
            lines.append(f"  {setting.flag:<22} {shown(setting):<24} {setting.option.help}{bounds}")
    return lines


def run_synthesize(options: argparse.Namespace) -> dict[str, Any]:
    """Carry a method out and export what it made."""
    if options.out.exists():
        raise HistomixError(f"{options.out} already exists; name a new folder.")
    method = method_of(options.method)
    # What is missing on the command line is said before a large dataset is opened.
    settings_from(method.settings, options)
    if method.stage is not None and not (options.candidates or (options.study and options.study.exists())):
        settings_from(method.stage.settings, options)
    return _synthesize(options, open_data(options), method, report=False)


def run_demo(options: argparse.Namespace) -> dict[str, Any]:
    """The whole job on the bundled sample."""
    from napari_histomix.datasets import SAMPLE_RARE, load_sample

    if options.out.exists():
        raise HistomixError(f"{options.out} already exists; name a new folder.")
    options.rare, options.study, options.candidates = [SAMPLE_RARE], None, None
    options.format = options.mpp = None
    if not hasattr(options, "count"):
        options.count = DEMO_COUNT
    return _synthesize(options, load_sample(), method_of(DEFAULT), report=True)


def _synthesize(
    options: argparse.Namespace, dataset: Dataset, method: Method[Any, Any], *, report: bool
) -> dict[str, Any]:
    from napari_histomix import jobs
    from napari_histomix.datasets.copies import check_leaks
    from napari_histomix.datasets.dataset_writer import check_format
    from napari_histomix.study import Study
    from napari_histomix.study.export import export_study, format_for

    jobs.check(method, dataset)
    settings: Any = settings_from(method.settings, options)
    layout = format_for(dataset, options.format)
    check_format(layout, dataset.classes, dataset.kinds)
    follow(check_leaks(dataset))
    folder = options.study or options.out.with_name(f"{options.out.name}.study")
    there = (folder / "study.sqlite").is_file()
    study = Study.open(folder).take() if there else None
    stage: Any = None
    found = options.candidates or (study is not None and method.stage is not None and method.stage.ready(study))
    if method.stage is not None and not found:
        stage = settings_from(method.stage.settings, options)
    elif method.stage is not None and study is not None:
        _check_said(options, method, study, dataset)
    if study is None:
        study = _begin(options, dataset, folder)
    try:
        made = follow(jobs.run(method, dataset, settings, study, stage=stage))
        if not made.ids:
            reason = made.refusals.most_common(1)
            raise HistomixError(f"Nothing could be made{f'; {reason[0][0]}' if reason else ''}.")
        _say_outcome(options, made)
        exported = export_study(study, dataset, options.out, format=layout, ids=made.ids, reviewed=False, report=report)
        follow(exported)
    except KeyboardInterrupt:
        if study.changes():
            say(options, f"What is made so far is kept; go on with: histomix resume {folder} --out {options.out}")
        elif not options.study:
            _remove(study)
        raise
    except HistomixError:
        if not options.study and not study.changes():
            _remove(study)
        raise
    result = _result(made, options.out)
    if options.study:
        say(options, f"Study: {folder}")
    else:
        _remove(study)
    say(options, f"Written: {options.out}")
    return result


def _begin(options: argparse.Namespace, dataset: Dataset, folder: Path) -> Study:
    from napari_histomix.study import Study
    from napari_histomix.study.tables import read_candidates

    found = read_candidates(options.candidates) if options.candidates else None
    with Study.begin(folder, dataset.root, dataset.name, options.mpp) as study:
        study.save_settings(named_splits(options, dataset))
        if found is not None:
            study.set_candidates(found, {"candidates_from": options.candidates.name})
    return study.take()


def _check_said(options: argparse.Namespace, method: Method[Any, Any], study: Study, dataset: Dataset) -> None:
    """Raise HistomixError where the study's items were found with other settings than were said now."""
    assert method.stage is not None
    own = {setting.name for setting in settings_of(method.settings)}
    kept = study.settings().get(method.stage.kept_as, {})
    for setting in settings_of(method.stage.settings):
        said = vars(options).get(setting.name)
        if said is None or setting.name in own or not setting.option.recorded:
            continue
        before = kept.get(setting.name)
        if setting.option.kind == "classes":
            said, before = ([dataset.class_number(name) for name in names or ()] for names in (said, before))
        if before != (list(said) if isinstance(said, tuple | list) else said):
            raise HistomixError(
                f"The study {study.folder} holds its {method.stage.title.lower()} already, found with another "
                f"{setting.flag}; leave that out, or name a new study."
            )


def _remove(study: Study) -> None:
    study.let_go()
    with suppress(OSError):
        shutil.rmtree(study.folder)


def run_resume(options: argparse.Namespace) -> dict[str, Any]:
    """Go on with a run, and export what it made."""
    from napari_histomix import jobs
    from napari_histomix.datasets.dataset_writer import check_place
    from napari_histomix.study import Study
    from napari_histomix.study.export import export_study, format_for

    study = Study.open(options.study).take()
    dataset = study_images(study, options.dataset)
    if options.out is not None:
        check_place(options.out)
    made = follow(jobs.resume(study, dataset))
    _say_outcome(options, made)
    if options.out is not None:
        layout = format_for(dataset, options.format)
        follow(export_study(study, dataset, options.out, format=layout, ids=made.ids, reviewed=False))
        say(options, f"Written: {options.out}")
    return _result(made, options.out)


def _say_outcome(options: argparse.Namespace, made: Outcome) -> None:
    from napari_histomix.jobs import refused

    say(options, f"Made {len(made.ids):,} of {made.wanted:,}.")
    say(options, *(f"  {line}" for line in refused(made.refusals)))
    for problem in made.problems:
        say(options, f"Skipped: {problem.sentence}")


def _result(made: Outcome, out: Path | None) -> dict[str, Any]:
    table = made.study.change_table()
    kinds = Counter(str(table.class_keys[code]) for code in table.classes[table.rows(made.ids)].tolist())
    return {
        "out": None if out is None else str(out),
        "made": len(made.ids),
        "wanted": made.wanted,
        "by_class": dict(kinds),
        "refusals": dict(made.refusals),
        "problems": [asdict(problem) for problem in made.problems],
    }
