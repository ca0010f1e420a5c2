from __future__ import annotations

import errno
from dataclasses import replace

import pytest

from napari_histomix.records import HistomixError
from napari_histomix.study.tables import read_candidates, write_candidates


def test_candidates_come_back_from_csv(few_candidates, tmp_path):
    write_candidates(tmp_path / "c.csv", few_candidates[0])
    again, decisions = read_candidates(tmp_path / "c.csv")
    assert not decisions and [(one.rank, one.target, one.donor) for one in again] == [
        (one.rank, one.target, one.donor) for one in few_candidates[0]
    ]
    for one, other in zip(few_candidates[0], again, strict=True):
        assert other.log_likelihood == pytest.approx(one.log_likelihood, abs=1e-6)
        assert other.percentile == pytest.approx(one.percentile, abs=1e-3)


@pytest.mark.parametrize(
    ("word", "decision"), [("drop", "drop"), (" DROP ", "drop"), ("keep", "keep"), ("", ""), ("?", "")]
)
def test_what_a_person_decides_comes_with_them(few_candidates, tmp_path, word, decision):
    path = tmp_path / "c.csv"
    write_candidates(path, few_candidates[0])
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[3] += word
    # As a spreadsheet saves it: with a byte-order mark and Windows line ends.
    path.write_text("\r\n".join(lines) + "\r\n", encoding="utf-8-sig", newline="")
    candidates, decisions = read_candidates(path)
    assert len(candidates) == 10 and decisions == ([("candidate", 2, decision)] if decision else [])


def test_deleted_and_sorted_lines_leave_no_gap_in_the_ranks(few_candidates, tmp_path):
    path = tmp_path / "c.csv"
    write_candidates(path, few_candidates[0])
    header, *lines = path.read_text(encoding="utf-8").splitlines()
    del lines[3]
    path.write_text("\n".join([header, lines[-1] + "keep", *lines[:-1]]), encoding="utf-8")
    candidates, decisions = read_candidates(path)
    left = [one.target for one in few_candidates[0] if one.rank != 3]
    assert [(one.rank, one.target) for one in candidates] == list(enumerate(left))
    assert decisions == [("candidate", 8, "keep")]


def test_an_existing_file_is_kept(few_candidates, tmp_path):
    (tmp_path / "c.csv").write_text("mine")
    with pytest.raises(HistomixError, match="already exists"):
        write_candidates(tmp_path / "c.csv", few_candidates[0])
    assert (tmp_path / "c.csv").read_text() == "mine"
    write_candidates(tmp_path / "c.csv", few_candidates[0], replace=True)
    assert len(read_candidates(tmp_path / "c.csv")[0]) == 10


def test_a_disk_that_fills_up_leaves_nothing_half_written(few_candidates, tmp_path):
    def filling():
        yield from few_candidates[0][:4]
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(HistomixError, match="No space left"):
        write_candidates(tmp_path / "c.csv", filling())
    assert list(tmp_path.iterdir()) == []


def test_nowhere_to_write_or_read_is_one_sentence(few_candidates, tmp_path):
    with pytest.raises(HistomixError, match="could not be written"):
        write_candidates(tmp_path / "no" / "c.csv", few_candidates[0])
    with pytest.raises(HistomixError, match="is not there; name a CSV file"):
        read_candidates(tmp_path / "c.csv")


@pytest.mark.parametrize(
    ("old", "new"), [("major", "minor"), ("rank", "order"), (",2.5,", ",two,"), ("\n0,", "\n,"), ("kind", "")]
)
def test_a_table_of_something_else_names_the_line(few_candidates, tmp_path, old, new):
    path = tmp_path / "c.csv"
    write_candidates(path, few_candidates[0])
    path.write_text(path.read_text(encoding="utf-8").replace(old, new, 1), encoding="utf-8")
    with pytest.raises(HistomixError, match=r"line [12], is not a candidate"):
        read_candidates(path)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"a;b\n1;2\n", b"\x00\x01\x02"])
def test_no_table_at_all_is_one_sentence(tmp_path, content):
    (tmp_path / "c.csv").write_bytes(content)
    with pytest.raises(HistomixError):
        read_candidates(tmp_path / "c.csv")


def test_a_line_twice_is_refused(few_candidates, tmp_path):
    path = tmp_path / "c.csv"
    write_candidates(path, [*few_candidates[0], replace(few_candidates[0][4])])
    with pytest.raises(HistomixError, match=r"line 12.*rank 4"):
        read_candidates(path)
