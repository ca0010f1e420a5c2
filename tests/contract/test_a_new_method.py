"""A method that is one file: it appears, runs, is stopped, reviewed, exported, replayed, explained, taken up again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from stamps import METHOD, StampSettings

from napari_histomix import jobs, methods
from napari_histomix.records import HistomixError, drain
from napari_histomix.study import Study

HERE = Path(__file__).parent

SLOW = """
import sys, time
sys.path.insert(0, {here!r})
import stamps
from napari_histomix.methods import register
make = stamps.Stamps.make
def slowly(self, work, items, settings):
    for event in make(self, work, items, settings):
        time.sleep(0.1)
        yield event
stamps.Stamps.make = slowly
register(stamps.METHOD)
from napari_histomix.cli import main
sys.exit(main({arguments!r}))
"""


def test_it_is_listed(run):
    code, out, _ = run("methods")
    assert code == 0 and any(line.startswith("stamps: Stamps, colored discs") for line in out)
    code, out, _ = run("methods", "stamps", "--json")
    assert code == 0 and json.loads(out[-1])["methods"][0]["settings"] == ["count", "radius", "color", "seed"]


def test_its_options_and_their_help_are_on_the_command_line(run):
    code, out, _ = run("synthesize", "--method", "stamps", "--help")
    text = " ".join(" ".join(out).split())
    assert code == 0 and "--radius X" in text and "Radius of a disc; 1 to 50 px (default: 4)" in text
    assert "{green,blue}" in text and "--rare" not in text


@pytest.mark.parametrize("format", ["hovernet", "coco", "qupath"])
def test_it_is_made_and_exported(run, nuclei_data, tmp_path, format):
    out = tmp_path / "out"
    arguments = ["synthesize", nuclei_data.root, "--method", "stamps", "-k", 4, "--format", format, "--out", out]
    code, _, err = run(*arguments)
    assert code == 0, err
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert len(manifest["changes"]) == 4 and {record["method"] for record in manifest["changes"]} == {"stamps"}
    assert not list(tmp_path.glob("*.study"))
    code, lines, err = run("replay", out, "--dataset", nuclei_data.root)
    assert code == 0 and any("bit for bit the same" in line for line in lines), err
    name = manifest["changes"][0]["name"]
    (row, col) = next(iter(manifest["changes"][0]["added"].values()))["at"]
    code, lines, _ = run("explain", name, "--manifest", out / "manifest.json", "--at", col, row, "--json")
    assert code == 0 and json.loads(lines[-1])["point"]["change"] == manifest["changes"][0]["id"]


def test_wrong_values_are_named(run, nuclei_data, tmp_path):
    code, _, err = run("synthesize", nuclei_data.root, "--method", "stamps", "--radius", 500, "--out", tmp_path / "out")
    assert code == 2 and "'radius' must be 1 to 50 px" in err[-1]


def test_killed_it_goes_on_to_the_same_bytes(run, nuclei_data, tmp_path):
    whole = tmp_path / "whole"
    assert run("synthesize", nuclei_data.root, "--method", "stamps", "-k", 8, "--out", whole)[0] == 0
    out = tmp_path / "killed"
    arguments = ["synthesize", str(nuclei_data.root), "--method", "stamps", "-k", "8", "--out", str(out)]
    program = SLOW.format(here=str(HERE), arguments=arguments)
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    folder, made = tmp_path / "killed.study", 0
    for _ in range(600):
        time.sleep(0.05)
        if (folder / "study.sqlite").is_file():
            try:
                made = len(Study.open(folder).changes())
            except HistomixError:
                continue
            if made >= 2:
                break
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 2 <= made < 8 and not out.exists()
    code, _, err = run("resume", folder, "--out", out)
    assert code == 0, err
    files = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(out) for path in out.rglob("*") if path.is_file())
    for file in files:
        assert (whole / file).read_bytes() == (out / file).read_bytes(), file


def test_cancelled_it_is_kept_or_discarded(nuclei_data, tmp_path):
    study = Study.create(tmp_path / "study", nuclei_data.root, nuclei_data.name)
    job = jobs.run(METHOD, nuclei_data, StampSettings(count=5), study)
    while len(study.changes()) < 2:
        next(job)
    job.close()
    begun = jobs.unfinished(study)
    assert begun is not None and begun.wanted == 5 and len(study.changes()) == 2
    study.discard_run(begun.id)
    assert jobs.unfinished(study) is None and len(study.changes()) == 0
    with pytest.raises(HistomixError, match="nothing to resume"):
        drain(jobs.resume(study, nuclei_data))


def test_reviewed_and_undone(nuclei_data, tmp_path):
    study = Study.create(tmp_path / "study", nuclei_data.root, nuclei_data.name)
    drain(jobs.run(METHOD, nuclei_data, StampSettings(count=3), study))
    study.decide("change", [0, 2], "approve")
    study.decide("change", [1], "reject")
    assert study.undo("change") == (("change", 1, None),)
    assert Study.open(study.folder).decisions("change") == {0: "approve", 2: "approve"}


def test_a_broken_method_of_another_package_is_named_and_left_out(monkeypatch):
    class Point:
        name, value = "broken", "nowhere:METHOD"

        def load(self):
            raise ImportError("No module named 'nowhere'")

    monkeypatch.setattr(methods, "entry_points", lambda group: [Point()])
    methods._added.cache_clear()
    try:
        assert "broken" not in methods.method_names()
        (problem,) = methods.method_problems()
        assert "'broken'" in problem and "nowhere" in problem and "\n" not in problem
        with pytest.raises(HistomixError, match="cannot be loaded"):
            methods.method_of("broken")
    finally:
        monkeypatch.undo()
        methods._added.cache_clear()


def test_a_method_of_another_package_is_found(monkeypatch):
    class Point:
        name, value = "stamps", "stamps:METHOD"

        def load(self):
            return METHOD

    monkeypatch.setattr(methods, "entry_points", lambda group: [Point()])
    monkeypatch.setattr(methods, "_registered", {})
    methods._added.cache_clear()
    try:
        assert methods.method_of("stamps") is METHOD and "stamps" in methods.method_names()
    finally:
        monkeypatch.undo()
        methods._added.cache_clear()


def test_its_name_cannot_be_taken_twice():
    class Other(type(METHOD)):
        pass

    with pytest.raises(HistomixError, match="stamps"):
        methods.register(Other())
