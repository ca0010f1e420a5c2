"""The log and what is made of it: there when it is promised, complete enough to help, and without anybody's names."""

from __future__ import annotations

import json
import logging
import zipfile

import pytest

from napari_histomix import logs, problem_report
from napari_histomix.cli import program
from napari_histomix.logs import begin, details, log_file, mark, redacted
from napari_histomix.preferences import change
from napari_histomix.records import HistomixError

log = logging.getLogger("napari_histomix.tests")


def failing(patient: str) -> None:
    raise HistomixError(f"The image of {patient} is torn.")


def test_the_log_has_places_in_the_code_and_no_names(capfd):
    begin("window")
    try:
        try:
            failing("Smith")
        except HistomixError as error:
            raise OSError(2, "No such file", "/home/ann/My study/Smith 1.png") from error
    except OSError as error:
        log.error("A job failed on %s", "/data/patients/Smith", exc_info=error)
    text = log_file().read_text(encoding="utf-8")
    assert "window: napari-histomix" in text and "ERROR napari_histomix.tests: A job failed on <" in text
    assert f"{__name__}:" in text and " in failing\nHistomixError\n" in text
    assert "FileNotFoundError: [Errno 2] No such file: '<" in text
    for name in ("Smith", "ann", "My study", "patients"):
        assert name not in text.replace("napari_histomix", "").replace("window", "")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("text", "kept", "gone"),
    [
        ("cannot read /home/ann/Smith John.png now", "cannot read <", "Smith"),
        (r"C:\Users\ann\Smith.png", "", "Smith"),
        ("images/Smith.png is no image", "is no image", "Smith"),
        ("TCGA-A7-A13F.svs: operands (3,4) and (5,)", "operands (3,4) and (5,)", "TCGA"),
        ("'int' object has no attribute 'Smith'", "'int' object has no attribute '<", "Smith"),
        ("can't open “Smith John” today", "can't open “<", "Smith"),
        ("numpy.float64 is 1/2 of torch.float32", "numpy.float64 is", "1/2"),
        (r"\\server\share\Smith", "", "Smith"),
        ("~/Smith/x", "", "Smith"),
    ],
)
def test_names_become_marks(text, kept, gone):
    told = redacted(text)
    assert kept in told and gone not in told and "<" in told
    assert redacted(told) == told


def test_the_same_name_has_the_same_mark_and_a_file_its_suffix():
    assert mark("Smith.png") == mark("Smith.png") != mark("Smith.svs") and mark("Smith.png").endswith(".png>")


def test_the_log_does_not_grow_without_end(monkeypatch):
    monkeypatch.setattr(logs, "LARGEST", 2_000)
    begin("window")
    for number in range(200):
        log.info("line %d", number)
    sizes = [path.stat().st_size for path in logs.log_files()]
    assert len(sizes) == 1 + logs.OLDER and max(sizes) <= 2_000
    assert "line 199" in log_file().read_text(encoding="utf-8")


def test_beginning_twice_writes_lines_once():
    begin("window")
    begin("window")
    log.info("once")
    assert log_file().read_text(encoding="utf-8").count("once") == 1


def test_a_folder_that_cannot_be_written_means_no_log_and_the_sentence_says_so(monkeypatch, tmp_path, capfd):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    begin("window")
    log.error("A job failed")
    assert "no details were kept" in details() and capfd.readouterr() == ("", "")


def test_an_error_of_a_command_names_the_log_that_has_it(run, monkeypatch):
    def broken(*_: object) -> None:
        raise KeyError("Smith")

    monkeypatch.setattr(program.making, "run_methods", broken)
    code, out, err = run("methods")
    assert code == 1 and not out
    assert f"the details are in {log_file()}" in err[-1] and "histomix report-problem" in err[-1]
    text = log_file().read_text(encoding="utf-8")
    assert "histomix methods: napari-histomix" in text and f"{__name__}:" in text and "KeyError" in text


def test_the_report_has_versions_and_settings_without_names_and_no_images(run, tmp_path):
    change(reviewer="Dr. Roe", weights="/home/ann/models", device="cpu")
    begin("window")
    log.error("about Smith John and slide TCGA-A7-A13F, 12 nuclei")
    files = problem_report.contents(names={"Smith John", "TCGA-A7-A13F"})
    whole = "".join(files.values())
    assert not [name for name in ("Roe", "ann", "Smith", "TCGA") if name in whole.replace("channel", "")]
    settings, system = json.loads(files["settings.json"]), json.loads(files["system.json"])
    assert settings["reviewer"] == settings["weights"] == "chosen" and settings["device"] == "cpu"
    assert settings["variables"] == {"HISTOMIX_WEIGHTS": "not set", "HISTOMIX_ONLINE": "not set"}
    assert {"napari", "npe2", "torch", "PySide6", "PyQt6"} <= system["packages"].keys() and system["graphics"]
    assert "12 nuclei" in files["histomix.log"]
    code, out, _ = run("report-problem", "--out", tmp_path / "report.zip", "--json")
    assert code == 0 and json.loads(out[-1])["path"] == str(tmp_path / "report.zip")
    with zipfile.ZipFile(tmp_path / "report.zip") as archive:
        assert archive.namelist() == ["README.txt", "system.json", "settings.json", "histomix.log"]
        assert archive.testzip() is None
    before = (tmp_path / "report.zip").read_bytes()
    code, _, err = run("report-problem", "--out", tmp_path / "report.zip")
    assert code == 1 and "exists" in err[-1] and (tmp_path / "report.zip").read_bytes() == before


def test_a_report_without_a_log_says_so_and_a_place_that_cannot_be_written_is_said(tmp_path):
    files = problem_report.contents()
    assert "nothing was written to it yet" in files["histomix.log"]
    with pytest.raises(HistomixError, match="choose another place"):
        problem_report.write(tmp_path / "absent" / "report.zip", files)
    assert not list(tmp_path.iterdir())
