"""Anything a person may do, in any order, while jobs run: no error, no lost decision, no wrong undo."""

from __future__ import annotations

import gc
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from random_events import act_at_random

from napari_histomix.datasets import sample_folder

pytestmark = pytest.mark.gui
EVENTS = int(os.environ.get("HISTOMIX_EVENTS", 300))
SEEDS = [int(seed) for seed in os.environ.get("HISTOMIX_SEEDS", "1").split()]


@pytest.mark.timeout(max(600, EVENTS))
@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_that_a_person_does_breaks_it(
    with_study: Any, studies: Path, tiny_model: Any, tmp_path: Path, settle: Any, capsys: Any, seed: int
) -> None:
    # Garbage is collected at any time, as it is for a person.
    gc.enable()
    dock = with_study("made", tiny_model)
    rubbish = tmp_path / "rubbish"
    rubbish.mkdir()
    (rubbish / "a.png").write_bytes(b"no image")
    another = tmp_path / "another study"
    shutil.copytree(studies / "searched", another)
    paths = [sample_folder(), another, rubbish, rubbish / "a.png", tmp_path / "is not there"]

    def told(line: str) -> None:
        with capsys.disabled():
            print(line, flush=True)

    watch = act_at_random(dock, seed, EVENTS, paths, told if EVENTS > 1000 else lambda _line: None)
    settle(dock)
    # Whether windows are let go of is what the other tests ask: what napari tells of its own errors keeps this one.
    dock.real_viewer.window._qt_viewer._instances.clear()
    stalls = sorted(watch.stalls, reverse=True)[:80]
    report = {"seed": seed, "events": EVENTS, "memory": watch.memory, "others": watch.others, "stalls": stalls}
    if folder := os.environ.get("HISTOMIX_REPORTS"):
        Path(folder, f"random-{seed}.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
