"""Commands that make synthetic images: methods, synthesize, resume, demo."""

from __future__ import annotations

import shutil
from collections import Counter
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from napari_histomix import jobs
from napari_histomix.cli.common import DATASET, Commands, Options, add_output, add_settings, follow, settings_from
from napari_histomix.datasets import SAMPLE_RARE, Dataset, load_sample
from napari_histomix.methods import DEFAULT, method_names, method_of, method_problems
from napari_histomix.methods.base import Method
from napari_histomix.records import HistomixError
from napari_histomix.settings import preset_help, presets_of, settings_of, shown
from napari_histomix.study import Study
from napari_histomix.study.database import FILE


def add_commands(commands: Commands, method: str) -> None:
    """Add ``methods``, ``synthesize`` with the options of a method, ``resume`` and ``demo``."""
    listing = commands.add("methods", run_methods, "List the methods, or all options of one.")
    listing.add_argument("method", nargs="?", help="name of a method")

    summary = (
        "Make synthetic images with a method, and write the augmented dataset. "
        f"The options below are those of '{method}'; 'histomix methods' lists all methods."
    )
    synthesize = commands.add("synthesize", run_synthesize, summary, *DATASET, "--format")
    synthesize.add_argument("--method", choices=method_names(), default=method, metavar="NAME", help="what makes them")
    add_output(synthesize, "--out", required=True, help="new folder for the augmented dataset")
    kept = "keep the study here, to review in napari"
    add_output(synthesize, "--study", "study", metavar="FOLDER", help=kept)
    listed = "use the candidates of this CSV: without its rows to drop, those to keep first"
    synthesize.add_argument("--candidates", type=Path, metavar="FILE", help=listed)
    add_settings(synthesize, _settings_classes(method_of(method)))

    summary = "Go on with a run that was killed or cancelled."
    resume = commands.add("resume", run_resume, summary, "study", "--dataset", "--format")
    add_output(resume, "--out", help="new folder for the augmented dataset, once all is made")

    summary = "Run the whole job on the bundled sample: candidates, synthesis, export, and report.png."
    demo = commands.add("demo", run_demo, summary)
    add_output(demo, "--out", required=True, help="new folder for the result")
    add_settings(demo, _settings_classes(method_of(DEFAULT)), without=("rare", "major"))


def _settings_classes(method: Method[Any, Any]) -> list[type]:
    """Settings of a method and of the stage before it."""
    return [method.settings] if method.stage is None else [method.stage.settings, method.settings]


def run_methods(options: Options) -> dict[str, Any]:
    """List the methods, or the options of one."""
    methods = [method_of(name) for name in ([options.method] if options.method else method_names())]
    for method in methods:
        options.say(f"{method.name}: {method.title}, {method.makes}")
        if options.method:
            options.say(*([method.citation] if method.citation else []))
            for setting in (setting for cls in _settings_classes(method) for setting in settings_of(cls)):
                bounds = f" ({setting.bounds()})" if setting.bounds() else ""
                options.say(f"  {setting.flag:<22} {shown(setting):<24} {setting.option.help}{bounds}")
            if presets := presets_of(*_settings_classes(method)):
                options.say(f"  {'--preset':<22} {'none':<24} {preset_help(presets, _settings_classes(method))}")
    options.say(*(f"Note: {problem}" for problem in method_problems()))
    return {
        "methods": [
            {
                **{key: getattr(method, key) for key in ("name", "title", "makes", "citation")},
                "needs": asdict(method.needs),
                "stage": method.stage.name if method.stage is not None else None,
                "settings": [setting.name for setting in settings_of(method.settings)],
                "presets": presets_of(*_settings_classes(method)),
            }
            for method in methods
        ],
        "problems": list(method_problems()),
    }


def run_synthesize(options: Options) -> dict[str, Any]:
    """Carry a method out and export what it made."""
    method = method_of(options.method)
    # What is missing on the command line is said before a large dataset is opened.
    settings_from(method.settings, options)
    if method.stage is not None and not (options.candidates or (options.study and options.study.exists())):
        settings_from(method.stage.settings, options)
    folder = _study_folder(options)
    dataset = options.open_data(Study.open(folder) if (folder / FILE).is_file() else None)
    return _synthesize(options, dataset, method, report=False)


def _study_folder(options: Options) -> Path:
    """The folder of the study, which is beside the result where nobody names one."""
    return options.study or options.out.with_name(f"{options.out.name}.study")


def run_demo(options: Options) -> dict[str, Any]:
    """The whole job on the bundled sample."""
    options.rare, options.study, options.candidates = [SAMPLE_RARE], None, None
    options.format = options.mpp = None
    if not hasattr(options, "count"):
        options.count = 12
    return _synthesize(options, load_sample(), method_of(DEFAULT), report=True)


def _synthesize(options: Options, dataset: Dataset, method: Method[Any, Any], *, report: bool) -> dict[str, Any]:
    from napari_histomix.datasets.copies import check_leaks
    from napari_histomix.datasets.dataset_writer import check_format
    from napari_histomix.study.export import format_for
    from napari_histomix.study.tables import read_candidates

    jobs.check(method, dataset)
    settings: Any = settings_from(method.settings, options)
    check_format(format_for(dataset, options.format), dataset.classes, dataset.kinds)
    follow(check_leaks(dataset))
    folder = _study_folder(options)
    study = Study.open(folder).take() if (folder / FILE).is_file() else None
    stage: Any = None
    if method.stage is not None:
        if not options.candidates and not (study is not None and method.stage.ready(study)):
            stage = settings_from(method.stage.settings, options)
        elif study is not None:
            _check_same_stage(options, method, study, dataset)
    if study is None:
        given = read_candidates(options.candidates) if options.candidates else None
        parts = dataset.split_parts
        with Study.begin(folder, dataset.root, dataset.name, options.mpp, split_parts=parts) as study:
            study.save_settings(options.named_splits(dataset))
            if given is not None:
                candidates, decisions = given
                study.set_candidates(candidates, {"candidates_from": options.candidates.name})
                study.act(decisions)
        study.take()
    result: dict[str, Any] = {}
    try:
        made = follow(jobs.run(method, dataset, settings, study, stage=stage))
        if not made.ids:
            raise jobs.nothing_made(method.title, made.wanted, made.refusals)
        result = _exported(options, made, dataset, report=report)
    except KeyboardInterrupt:
        if study.changes():
            options.say(f"What is made so far is kept; go on with: histomix resume {folder} --out {options.out}")
        raise
    finally:
        # A study that nobody asked for stays only where it holds what is not exported yet.
        if not options.study and (result or not study.changes()):
            study.let_go()
            with suppress(OSError):
                shutil.rmtree(folder)
    options.say(*([f"Study: {folder}"] if options.study else []), f"Written: {options.out}")
    return result


def _check_same_stage(options: Options, method: Method[Any, Any], study: Study, dataset: Dataset) -> None:
    """Raise HistomixError where the study's items were found with other settings than are given now."""
    stage: Any = method.stage
    own = {setting.name for setting in settings_of(method.settings)}
    kept = study.settings().get(stage.kept_as, {})
    for setting in settings_of(stage.settings):
        given, before = vars(options).get(setting.name), kept.get(setting.name)
        if given is None or setting.name in own or not setting.option.recorded:
            continue
        if setting.option.kind == "classes":
            given, before = ([dataset.class_number(name) for name in names or ()] for names in (given, before))
        if before != (list(given) if isinstance(given, tuple | list) else given):
            preset = " and --preset" if hasattr(options, "preset") else ""
            raise HistomixError(
                f"The study {study.folder} holds its {stage.title.lower()} already, found with another {setting.flag}; "
                f"leave that out{preset}, or name a new study."
            )


def run_resume(options: Options) -> dict[str, Any]:
    """Go on with a run, and export what it made."""
    study = Study.open(options.study).take()
    dataset = options.images_of(study)
    made = follow(jobs.resume(study, dataset))
    result = _exported(options, made, dataset)
    if options.out is not None:
        options.say(f"Written: {options.out}")
    return result


def _exported(options: Options, made: jobs.Outcome, dataset: Dataset, *, report: bool = False) -> dict[str, Any]:
    """Say what was made, export it where a folder is named, and return what ``--json`` prints."""
    from napari_histomix.study.export import export_study, format_for

    options.say(f"Made {len(made.ids):,} of {made.wanted:,}.")
    options.say(*(f"  {line}" for line in jobs.refused(made.refusals)))
    options.say(*(f"Skipped: {problem.sentence}" for problem in made.problems))
    if options.out is not None:
        how: dict[str, Any] = {"format": format_for(dataset, options.format), "ids": made.ids, "report": report}
        follow(export_study(made.study, dataset, options.out, reviewed=False, **how))
    table = made.study.change_table()
    kinds = Counter(str(table.class_keys[code]) for code in table.classes[table.rows(made.ids)].tolist())
    return {
        "out": None if options.out is None else str(options.out),
        "made": len(made.ids),
        "wanted": made.wanted,
        "by_class": dict(kinds),
        "refusals": dict(made.refusals),
        "problems": [asdict(problem) for problem in made.problems],
    }
