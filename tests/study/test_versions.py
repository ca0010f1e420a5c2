"""Studies of earlier versions, as their own tables were."""

from __future__ import annotations

import io
import json
import sqlite3
from contextlib import closing

import numpy as np
import pytest
from PIL import Image

from napari_histomix.records import HistomixError
from napari_histomix.study import Study
from napari_histomix.study.decision_log import items_of

PLACE = "image TEXT, kind TEXT, row REAL, col REAL, instance INTEGER, type INTEGER, area INTEGER"
FIRST = f"""
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE candidates (
    rank INTEGER PRIMARY KEY, {PLACE}, {", ".join("donor_" + column for column in PLACE.split(", "))},
    log_likelihood REAL, percentile REAL
);
CREATE TABLE placements (
    rank INTEGER PRIMARY KEY REFERENCES candidates, instance INTEGER NOT NULL, row INTEGER NOT NULL,
    col INTEGER NOT NULL, seed INTEGER NOT NULL, pixels BLOB NOT NULL, masks BLOB NOT NULL, provenance TEXT NOT NULL
);
CREATE TABLE decisions (
    subject TEXT NOT NULL, item INTEGER NOT NULL, decision TEXT NOT NULL, PRIMARY KEY (subject, item)
);
CREATE TABLE acts (id INTEGER PRIMARY KEY AUTOINCREMENT, made TEXT NOT NULL, subject TEXT NOT NULL, undone INTEGER);
CREATE TABLE changes (act INTEGER NOT NULL REFERENCES acts, item INTEGER NOT NULL, before TEXT, after TEXT);
CREATE INDEX changes_of_act ON changes (act);
"""
SECOND = """
CREATE TABLE mixes (
    number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, target TEXT NOT NULL,
    seed INTEGER NOT NULL, pixels BLOB NOT NULL, origin BLOB NOT NULL, provenance TEXT NOT NULL
);
"""
PIXELS = np.random.default_rng(0).integers(0, 256, (7, 9, 3), np.uint8)
ORIGIN = np.asarray(np.arange(63).reshape(7, 9) % 3, np.uint8)
NUCLEUS = ORIGIN == 1


def png(array) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(params=[1, 2])
def old(request, tmp_path):
    folder = tmp_path / "old"
    folder.mkdir()
    with closing(sqlite3.connect(folder / "study.sqlite")) as db, db:
        db.execute("PRAGMA journal_mode=WAL")
        db.executescript(FIRST + (SECOND if request.param == 2 else ""))
        facts = {"version": request.param, "dataset_root": str(tmp_path), "name": "old", "mpp": 0.25}
        db.executemany("INSERT INTO meta VALUES (?, ?)", [(key, json.dumps(value)) for key, value in facts.items()])
        place = ("a", "major", 1.5, 2.5, 7, 2, 90)
        db.executemany(
            f"INSERT INTO candidates VALUES ({', '.join('?' * 17)})",
            [(rank, *place, *place, -3.5, 40.0) for rank in range(3)],
        )
        db.execute(
            "INSERT INTO placements VALUES (2, 11, 3, 4, 12345, ?, ?, ?)",
            (png(PIXELS), png(np.asarray(ORIGIN | NUCLEUS.astype(np.uint8) << 2, np.uint8)), '{"sampler": "fast"}'),
        )
        db.executemany("INSERT INTO decisions VALUES (?, ?, ?)", [("placement", 2, "approve"), ("segment", 4, "drop")])
        db.executemany(
            "INSERT INTO acts VALUES (?, '2025-01-01T00:00:00+00:00', ?, ?)",
            [(1, "placement", 0), (2, "placement", 1), (3, "segment", 0)],
        )
        db.executemany(
            "INSERT INTO changes VALUES (?, ?, ?, ?)",
            [(1, 2, None, "approve"), (2, 2, "approve", "reject"), (3, 4, None, "drop")],
        )
        if request.param == 2:
            db.execute(
                "INSERT INTO mixes VALUES (5, 'a mix 1', 'low', 'a', ?, ?, ?, ?)",
                (2**62 - 1, png(PIXELS), png(ORIGIN), '{"donors": [{"image": "b"}]}'),
            )
    return folder, request.param


def test_everything_of_an_old_study_is_there_and_can_be_taken_back(old):
    folder, version = old
    Study.open(folder)
    study = Study.open(folder)
    (one,) = study.placements()
    assert (one.candidate.rank, one.instance, one.row, one.col, one.seed) == (2, 11, 3, 4, 12345)
    assert one.shape == (7, 9) and np.array_equal(one.pixels, PIXELS)
    assert np.array_equal(one.origin, ORIGIN) and np.array_equal(one.nucleus, NUCLEUS)
    assert one.provenance == {"sampler": "fast"} and study.samplers() == {2: "fast"}
    assert study.decisions("placement") == {2: "approve"} and study.decisions("segment") == {4: "drop"}
    assert study.decided("placement")[2].made.startswith("2025-01-01")
    assert items_of(study.undo("segment")) == (4,) and study.decisions("segment") == {}
    assert study.redo("placement") == ()
    assert items_of(study.undo("placement")) == (2,) and study.decisions("placement") == {}
    if version == 2:
        mix = study.mix(5)
        assert np.array_equal(mix.pixels, PIXELS) and np.array_equal(mix.origin, ORIGIN)
        assert (mix.name, mix.kind, mix.target, mix.seed) == ("a mix 1", "low", "a", 2**62 - 1)
        assert mix.provenance == {"donors": [{"image": "b"}]}


def test_a_disk_that_is_full_leaves_an_old_study_as_it_was(old, monkeypatch):
    folder, _ = old
    before = (folder / "study.sqlite").read_bytes()

    def full(*_):
        raise HistomixError("no space")

    monkeypatch.setattr("napari_histomix.study.database.write_pack", full)
    with pytest.raises(HistomixError, match="no space"):
        Study.open(folder)
    assert (folder / "study.sqlite").read_bytes() == before
    monkeypatch.undo()
    assert len(Study.open(folder).placements()) == 1
