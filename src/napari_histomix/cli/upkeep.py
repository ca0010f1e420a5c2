"""Commands for the program itself: what a person prefers, networks on this disk, and reports about problems."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from napari_histomix import preferences, problem_report
from napari_histomix.cli.common import Commands, Options, UsageError, add_output, add_settings, follow
from napari_histomix.logs import log_file
from napari_histomix.preferences import Preferences
from napari_histomix.settings import in_words, plain, settings_of, shown
from napari_histomix.weights import fetch, weights_folder
from napari_histomix.weights.fetching import by_hand
from napari_histomix.weights.known import BUNDLED, OWN, STATES, Found, survey


def add_commands(commands: Commands) -> None:
    """Add ``preferences``, ``models`` and ``report-problem``."""
    summary = "Show what holds for you on this machine, and change what is given."
    add_settings(commands.add("preferences", run_preferences, summary), [Preferences])

    summary = "List every network that the program knows, or fetch one: license, size, hash, place, state."
    models = commands.add("models", run_models, summary)
    models.add_argument("action", nargs="?", choices=["list", "fetch"], default="list", help="what to do")
    models.add_argument("name", nargs="?", help="of the network to fetch, such as vit_b or timm:resnet18")

    summary = "Write log, versions and settings into one zip without images and without names, for the makers."
    report = commands.add("report-problem", run_report_problem, summary)
    add_output(report, "--out", "file", metavar="ZIP", help="new file (histomix-report-DATE.zip in the current folder)")


def run_preferences(options: Options) -> dict[str, Any]:
    """Show the preferences after changing those that are given."""
    given = {name: value for name, value in vars(options).items() if name in plain(Preferences())}
    if given:
        preferences.change(**given)
    in_force, overruled = preferences.preferences(), preferences.overruled()
    for setting in settings_of(Preferences):
        value = getattr(in_force, setting.name)
        words = ("yes" if value else "no") if setting.type is bool else in_words(value) or shown(setting)
        said_by = f"  (as {overruled[setting.name]} says)" if setting.name in overruled else ""
        options.say(f"{setting.flag.removeprefix('--'):10} {words}{said_by}")
    options.say(f"Kept in {preferences.path()}; the model folder is {weights_folder()}, the log {log_file()}.")
    return {
        "preferences": plain(in_force),
        "variables": overruled,
        "file": str(preferences.path()),
        "folder": str(weights_folder()),
        "log": str(log_file()),
    }


def run_models(options: Options) -> dict[str, Any]:
    """List networks, or fetch one."""
    if options.action == "fetch":
        if options.name is None:
            raise UsageError("name the network to fetch; 'histomix models' lists them")
        path = follow(fetch(options.name))
        options.say(f"{options.name} is whole and verified: {path}")
        return {"name": options.name, "path": str(path)}
    if options.name is not None:
        raise UsageError("a name is given to 'fetch' only")
    found, folder, online = follow(survey()), weights_folder(), preferences.preferences().online
    for each in found:
        options.say(*_lines(each, online))
    counts = Counter(each.state for each in found)
    options.say(", ".join(f"{counts[state]} {words}" for state, words in STATES.items() if counts[state]) + ".")
    how = "fetch one with 'histomix models fetch NAME'" if online else "nothing is fetched: downloads are not allowed"
    options.say(f"Model folder: {folder}; {how}.")
    return {"folder": str(folder), "online": online, "networks": [_plain(each) for each in found]}


def _lines(each: Found, online: bool) -> list[str]:
    """What people read of a network: what it is, its hash, and where it lies or how it gets there."""
    network = each.network
    size, there = network.size or each.there, each.there
    bytes_ = f"{size / 1e6:,.0f} MB" if size else "size unknown"
    state = f"{STATES[each.state]} ({there / 1e6:,.0f} MB)" if each.state == "partial" else STATES[each.state]
    lines = [f"{network.name:22} {state}: {network.family}, {network.purpose}; {bytes_}; license {network.license}"]
    lines.append(f"{'':22} sha256 {network.sha256 or 'unknown'}")
    if each.state in ("missing", "partial") and network.family not in (BUNDLED, OWN):
        fetched = f"'histomix models fetch {network.name}' fetches it to {each.path}"
        return [*lines, f"{'':22} {fetched if online and network.fetchable else by_hand(network)}"]
    return [*lines, f"{'':22} {each.path}"]


def _plain(each: Found) -> dict[str, Any]:
    known = asdict(each.network)
    known |= {"size": each.network.size or None, "sha256": each.network.sha256 or None}
    return {
        **known,
        "path": str(each.path),
        "state": each.state,
        "bytes": each.there,
        "fetchable": each.network.fetchable,
    }


def run_report_problem(options: Options) -> dict[str, Any]:
    """Write a report about a problem."""
    files = problem_report.contents()
    out = problem_report.write(options.out or Path(problem_report.proposed_name()), files)
    options.say(*(f"{name}: {len(text):,} characters" for name, text in files.items()))
    options.say(f"Written to {out}. It is text throughout: look through it before you send it.")
    return {"path": str(out), "files": list(files)}
