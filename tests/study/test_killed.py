"""Work that ends at any moment: killed, on a full disk, in a folder that can only be read."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import killable
import numpy as np
import pytest
from killable import EXPORT, ITEMS, PLACE, REVIEW, SUBJECTS, State

from napari_histomix.datasets import load_sample
from napari_histomix.records import HistomixError, drain
from napari_histomix.study import Study
from napari_histomix.study.export import export

posix = pytest.mark.skipif(os.name != "posix", reason="processes are forked and killed as POSIX does it")


class Model:
    """What a study must say after some acts, kept as plain dictionaries."""

    def __init__(self) -> None:
        self.state: State = {subject: {} for subject in SUBJECTS}
        self.past: list[State] = []
        self.future: list[State] = []

    def do(self, act: tuple) -> None:
        if act[0] == "undo":
            if self.past:
                self.future.append(self.state)
                self.state = self.past.pop()
        elif act[0] == "redo":
            if self.future:
                self.past.append(self.state)
                self.state = self.future.pop()
        else:
            state = {subject: dict(values) for subject, values in self.state.items()}
            for subject, item, decision in act[1]:
                state[subject].pop(item, None)
                if decision is not None:
                    state[subject][item] = decision
            if state != self.state:
                self.past.append(self.state)
                self.state, self.future = state, []


@pytest.fixture
def victim(tmp_path):
    """Kills a worker: called with what, a seed and seconds; says how many acts were acknowledged."""
    killable.begin(tmp_path / "study")
    program = [sys.executable, killable.__file__, str(tmp_path / "study")]
    found = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    worker = subprocess.Popen(program, env=found, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def kill(what: str, seed: int, seconds: float) -> int:
        print(what, seed, seconds, file=worker.stdin, flush=True)
        return int(worker.stdout.readline())

    yield kill
    worker.stdin.close()
    worker.wait(20)


def said(study: Study) -> State:
    return {subject: study.decisions(subject) for subject in SUBJECTS}


@posix
def test_no_acknowledged_decision_is_lost_however_often_the_reviewer_dies(victim, tmp_path):
    rng, model, acknowledged = random.Random(1), Model(), 0
    for seed in range(100):
        done = victim(REVIEW, seed, rng.uniform(0.005, 0.25))
        acknowledged += done
        acts = killable.acts(seed)
        for act in acts[:done]:
            model.do(act)
        now = said(Study.open(tmp_path / "study"))
        if now != model.state:
            # Written, and killed before anybody could be told.
            model.do(acts[done])
            assert now == model.state, f"after {done} acts of {seed}"
    assert acknowledged > 100


@posix
def test_a_maker_of_nuclei_that_dies_leaves_whole_ones(victim, tmp_path):
    rng, told, before = random.Random(2), 0, 0
    for seed in range(50):
        told += victim(PLACE, seed, rng.uniform(0.005, 0.12))
        study = Study.open(tmp_path / "study")
        found = study.changes()
        assert len(found) >= min(3 * told, ITEMS) and len(found) >= before
        before = len(found)
        for one, given in zip(found, killable.changes(), strict=False):
            assert np.array_equal(one.pixels, given.pixels) and np.array_equal(one.origin, given.origin)
        if before == ITEMS:
            # Once more from the beginning.
            (tmp_path / "study").rename(tmp_path / f"study {seed}")
            killable.begin(tmp_path / "study")
            told = before = 0


@posix
def test_an_export_that_dies_is_not_there(victim, tmp_path):
    start = time.perf_counter()
    reference = drain(export(load_sample(), killable.changes(3), tmp_path / "reference"))
    # Long enough for some to come to their end, however busy the machine is.
    longest = max(2.0, 3 * (time.perf_counter() - start))
    wanted, rng, whole = content(reference), random.Random(3), 0
    for seed in range(50):
        done = victim(EXPORT, seed, rng.uniform(0.05, longest))
        exports = tmp_path / "study" / "exports"
        found = [one for one in exports.iterdir() if not one.name.startswith(".")] if exports.exists() else []
        assert {f"{seed}-{number}" for number in range(done)} <= {one.name for one in found}
        whole = max(whole, len(found))
        for one in found:
            if one.name.startswith(f"{seed}-"):
                assert content(one) == wanted
    assert whole > 3
    Study.open(tmp_path / "study")


def content(folder: Path) -> dict[str, str]:
    return {
        one.relative_to(folder).as_posix(): hashlib.sha256(one.read_bytes()).hexdigest()
        for one in folder.rglob("*")
        if one.is_file()
    }


@pytest.fixture
def small_disk(tmp_path):
    """A disk of its own; called with more options it is mounted again."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if (
        os.name != "posix"
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", disk], capture_output=True).returncode
    ):
        pytest.skip("a small disk can only be mounted by an administrator")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def test_a_full_disk_keeps_what_was_decided(small_disk):
    study = killable.begin(small_disk / "study")
    study.hold()
    made = 0
    with pytest.raises(HistomixError, match=r"space|disk"):
        for change in killable.changes() * 20:
            study.add_changes(1, [change])
            made += 1
            (small_disk / f"filler {made}").write_bytes(os.urandom(30_000))
    assert made > 0
    with pytest.raises(OSError):
        (small_disk / "the rest").write_bytes(os.urandom(600_000))
    model = Model()
    with pytest.raises(HistomixError, match=r"space|disk"):
        for act in killable.acts(5):
            killable.do(study, act)
            model.do(act)
    again = Study.open(small_disk / "study")
    assert said(again) == model.state and len(again.changes()) == made
    for one in again.changes():
        assert one.pixels.shape == (12, 12, 3)
    with pytest.raises(HistomixError, match=r"space|disk"):
        drain(export(load_sample(), again.changes(), small_disk / "export"))
    assert not (small_disk / "export").exists() and not list(small_disk.glob(".export*"))
    for filler in small_disk.glob("filler*"):
        filler.unlink()
    (small_disk / "the rest").unlink()
    study.decide("change", [0], "reject")
    assert Study.open(small_disk / "study").decisions("change")[0] == "reject"


def test_a_folder_that_can_only_be_read_shows_everything(small_disk):
    study = killable.begin(small_disk / "study")
    study.add_changes(1, killable.changes(4))
    study.decide("change", [0, 1], "approve")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    again = Study.open(small_disk / "study")
    assert not again.hold() and again.read_only
    assert again.decisions("change") == {0: "approve", 1: "approve"}
    assert [one.pixels.shape for one in again.changes()] == [(12, 12, 3)] * 4
    for act in (lambda: again.decide("change", [2], "reject"), lambda: again.save_settings({"a": 1})):
        with pytest.raises(HistomixError, match="can only be read"):
            act()
    with pytest.raises(HistomixError, match="could not be written"):
        drain(export(load_sample(), again.changes(), small_disk / "export"))
