"""What a person prefers: one file, overruled by the environment, never in the way when it is damaged."""

from __future__ import annotations

import json
from importlib import resources

import pytest
import yaml

from napari_histomix import preferences
from napari_histomix.devices import choose_device
from napari_histomix.preferences import Preferences, change, configuration, kept, merge_page, user_folder
from napari_histomix.records import HistomixError
from napari_histomix.settings import plain


def test_nothing_is_written_before_a_person_changes_something(own_preferences):
    assert preferences.preferences() == Preferences() and kept() == (Preferences(), "")
    assert change() == Preferences() and not own_preferences.exists()


def test_what_is_changed_is_kept_and_the_rest_stays(own_preferences):
    change(reviewer="Dr. Ärztin", online=True)
    change(device="cpu")
    assert preferences.preferences() == Preferences(online=True, device="cpu", reviewer="Dr. Ärztin")
    assert preferences.path() == own_preferences / "config" / "napari-histomix" / "preferences.json"
    assert [file.name for file in preferences.path().parent.iterdir()] == ["preferences.json"]


def test_the_environment_goes_before_the_file_and_is_not_kept(monkeypatch):
    change(weights="/models", online=True)
    monkeypatch.setenv("HISTOMIX_WEIGHTS", "/elsewhere")
    monkeypatch.setenv("HISTOMIX_ONLINE", "0")
    in_force = preferences.preferences()
    assert (in_force.weights, in_force.online) == ("/elsewhere", False)
    assert preferences.overruled() == {"weights": "HISTOMIX_WEIGHTS", "online": "HISTOMIX_ONLINE"}
    assert change(reviewer="Ann") == Preferences(weights="/models", online=True, reviewer="Ann")


@pytest.mark.parametrize("rubbish", [b"{", b"[1, 2]", b"\xff\xfe\x00", b"", b"null"])
def test_rubbish_gives_one_sentence_and_the_defaults_and_is_put_aside(rubbish, run):
    change(reviewer="Ann")
    preferences.path().write_bytes(rubbish)
    values, problem = kept()
    assert values == Preferences() and str(preferences.path()) in problem and "defaults hold" in problem
    code, _, err = run("methods")
    assert code == 0 and [line for line in err if "preferences.json" in line] == [problem]
    assert change(reviewer="Bea").reviewer == "Bea" and kept()[1] == ""
    assert preferences.path().with_name("preferences.json.damaged").read_bytes() == rubbish


def test_a_value_that_cannot_be_costs_only_itself():
    change(reviewer="Ann")
    content = json.loads(preferences.path().read_text(encoding="utf-8"))
    preferences.path().write_text(json.dumps({**content, "device": "tpu", "online": "yes", "of a later version": 1}))
    values, problem = kept()
    assert values == Preferences(reviewer="Ann")
    assert "'device' must be one of" in problem and "'online' must be true or false" in problem
    change(device="cpu", online=False)
    assert kept() == (Preferences(reviewer="Ann", device="cpu"), "")
    assert json.loads(preferences.path().read_text(encoding="utf-8"))["of a later version"] == 1


def test_a_folder_that_cannot_be_written_is_said(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    with pytest.raises(HistomixError, match=r"preferences could not be kept .* free space"):
        change(reviewer="Ann")
    assert preferences.preferences() == Preferences()


def test_values_out_of_bounds_are_refused():
    with pytest.raises(HistomixError, match="'device' must be one of"):
        change(device="tpu")
    with pytest.raises(HistomixError, match="no setting 'colour'"):
        change(colour="red")


def test_automatic_is_the_device_that_a_person_prefers(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    assert choose_device().type == "cuda"
    change(device="cpu")
    assert choose_device("auto").type == "cpu" and choose_device("cuda").type == "cuda"
    change(device="mps")
    with pytest.raises(HistomixError, match=r"no 'mps' device .* choose another default device in the preferences"):
        choose_device("auto")


def test_folders_are_those_of_the_system(monkeypatch, tmp_path):
    for variable in ("XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(variable)
    monkeypatch.setattr("pathlib.Path.home", lambda: tmp_path)
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "Local"))
    for system, config, log in (
        ("linux", ".config", ".local/state"),
        ("darwin", "Library/Application Support", "Library/Logs"),
        ("win32", "Local", "Local"),
    ):
        monkeypatch.setattr("napari_histomix.preferences.sys.platform", system)
        assert user_folder("config") == tmp_path / config / "napari-histomix"
        assert user_folder("log") == tmp_path / log / "napari-histomix"


def test_the_manifest_declares_the_same_values_and_defaults():
    manifest = yaml.safe_load((resources.files("napari_histomix") / "napari.yaml").read_text(encoding="utf-8"))
    assert manifest["contributions"]["configurations"] == configuration(), "run scripts/options.py"


class TestNapariPage:
    """The page of napari's own Preferences window against the file."""

    def test_what_was_changed_on_the_page_while_nothing_of_ours_was_open_is_taken_over(self):
        change(reviewer="Ann")
        shown = {**plain(Preferences()), "online": True}
        assert merge_page(shown) == Preferences(online=True, reviewer="Ann") == kept()[0]

    def test_what_was_changed_in_the_file_meanwhile_is_not_undone_by_the_page(self):
        merge_page({**plain(Preferences()), "online": True})
        change(online=False, device="cpu")
        assert merge_page({**plain(Preferences()), "online": True}) == Preferences(device="cpu")

    def test_values_that_the_program_does_not_know_leave_the_file_alone(self):
        change(reviewer="Ann")
        assert merge_page({**plain(Preferences()), "device": "tpu"}) == Preferences(reviewer="Ann")


def test_the_command_line_shows_and_changes_them(run, monkeypatch):
    code, out, _ = run("preferences", "--reviewer", "Dr. Roe", "--online", "--weights", "/models", "--json")
    told = json.loads(out[-1])
    assert code == 0 and told["preferences"]["reviewer"] == "Dr. Roe" and told["folder"] == "/models"
    assert kept()[0] == Preferences(online=True, reviewer="Dr. Roe", weights="/models")
    monkeypatch.setenv("HISTOMIX_ONLINE", "0")
    code, out, _ = run("preferences", "--weights", "")
    assert code == 0 and kept()[0].weights == ""
    assert any(line.split()[:2] == ["online", "no"] and "as HISTOMIX_ONLINE says" in line for line in out)
    assert any(line.split(maxsplit=1) == ["weights", "in the user's cache"] for line in out)
    code, _, err = run("preferences", "--device", "tpu")
    assert code == 2 and "'device' must be one of" in err[-1]
