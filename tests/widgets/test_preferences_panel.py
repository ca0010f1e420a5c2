"""The dock of preferences, and napari's own Preferences window in step with it."""

from __future__ import annotations

from types import SimpleNamespace

import napari.settings
import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Labels
from npe2 import PluginManifest

from napari_histomix import preferences
from napari_histomix.preferences import OUTLINES, Preferences, change, kept
from napari_histomix.widgets.layer_making import CONTOURS, outlined
from napari_histomix.widgets.preferences_page import PreferencesPage, napari_page
from napari_histomix.widgets.preferences_panel import PreferencesPanel
from napari_histomix.widgets.session import Session


@pytest.fixture
def opened(qtbot, tmp_path):
    def make(session: Session | None = None) -> PreferencesPanel:
        panel = PreferencesPanel(ViewerModel(), session or Session(home=tmp_path))
        qtbot.addWidget(panel)
        panel.show()
        return panel

    return make


def test_what_is_saved_is_kept_and_another_dock_follows(opened):
    first = opened()
    second = opened(first.session)
    names: list[str] = []
    first.session.reviewer_changed.connect(names.append)
    first.form.fields["reviewer"].value = "Dr. Roe"
    first.form.fields["online"].value = True
    first.form.fields["outlines"].value = "thick"
    assert kept()[0] == Preferences(), "before Save nothing is kept"
    first.save_button.click()
    assert kept()[0] == Preferences(online=True, reviewer="Dr. Roe", outlines="thick")
    assert names == ["Dr. Roe"] and first.session.reviewer == "Dr. Roe" and first.note.text() == "Saved."
    assert second.form.fields["reviewer"].value == "Dr. Roe"
    first.reset_button.click()
    assert kept()[0].reviewer == "Dr. Roe"
    first.save_button.click()
    assert kept()[0] == Preferences()


def test_a_folder_field_has_a_button_and_says_what_empty_means(opened):
    field = opened().form.fields["weights"]
    assert field.line_edit.native.placeholderText() == "in the user's cache"
    assert str(field.mode.value) == "d" and field.choose_btn.native.isVisible()


def test_variables_that_go_before_and_a_damaged_file_are_said(opened, monkeypatch):
    change(reviewer="Ann")
    preferences.path().write_text("{", encoding="utf-8")
    monkeypatch.setenv("HISTOMIX_WEIGHTS", "/elsewhere")
    panel = opened()
    assert "HISTOMIX_WEIGHTS is set: it goes before the choice of model folder here." in panel.overruled.text()
    assert "holds no preferences" in panel.note.text()
    panel.form.fields["reviewer"].value = "Bea"
    panel.save()
    assert kept() == (Preferences(reviewer="Bea"), "")


def test_a_file_that_cannot_be_written_is_said_and_the_form_keeps_what_was_typed(opened, monkeypatch, tmp_path):
    panel = opened()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    panel.form.fields["reviewer"].value = "Ann"
    panel.save_button.click()
    assert "could not be kept" in panel.note.text() and panel.form.fields["reviewer"].value == "Ann"


def test_who_decides_is_the_preference_in_every_study(qtbot, tmp_path):
    change(reviewer="Ann")
    session = Session(home=tmp_path)

    class Held(SimpleNamespace):
        __hash__ = object.__hash__

    study = Held(reviewer="")
    session.introduce(study)
    assert study.reviewer == "Ann"
    session.set_reviewer("Bea")
    assert study.reviewer == "Bea" and kept()[0].reviewer == "Bea"


def test_nuclei_are_drawn_as_preferred():
    assert CONTOURS.keys() == OUTLINES.keys()
    for wanted, width in CONTOURS.items():
        change(outlines=wanted)
        assert outlined(Labels(np.ones((4, 4), np.int32))).contour == width


class TestNapariPage:
    @pytest.fixture
    def page(self, request):
        """napari's own model of the page that the manifest declares."""
        if not hasattr(napari.settings, "get_plugin_settings"):
            pytest.skip("napari has pages of plugins from 0.9 on")
        request.getfixturevalue("plugin_settings")
        manifest = PluginManifest.from_distribution("napari-histomix")
        request.getfixturevalue("npe2pm").register(manifest)
        found = napari_page()
        assert found is not None
        return found

    def test_it_has_every_preference_with_its_default(self, page):
        assert {name: getattr(page, name) for name in vars(Preferences())} == vars(Preferences())
        with pytest.raises(ValueError):
            page.device = "tpu"

    def test_whichever_is_changed_the_others_follow(self, page, opened, tmp_path, qtbot):
        change(reviewer="Ann")
        session, other = Session(home=tmp_path), Session(home=tmp_path)
        pages = [PreferencesPage(session), PreferencesPage(other)]
        assert page.reviewer == "Ann" and all(each.parent() is not None for each in pages)
        page.online = True
        assert kept()[0] == Preferences(online=True, reviewer="Ann")
        heard: list[str] = []
        other.reviewer_changed.connect(heard.append)
        session.set_reviewer("Bea")
        assert page.reviewer == "Bea" and heard[-1] == "Bea" and kept()[0].reviewer == "Bea"
        page.reviewer = "Cleo"
        assert session.reviewer == "Cleo" and kept()[0] == Preferences(online=True, reviewer="Cleo")

    def test_what_was_changed_before_any_dock_opened_is_taken_over(self, page, tmp_path, qtbot):
        page.device = "cpu"
        assert kept()[0] == Preferences()
        PreferencesPage(Session(home=tmp_path))
        assert kept()[0] == Preferences(device="cpu")
        change(device="cuda")
        PreferencesPage(Session(home=tmp_path))
        assert page.device == "cuda" == kept()[0].device

    def test_before_napari_0_9_there_is_the_dock_alone(self, monkeypatch, tmp_path, qtbot):
        monkeypatch.delattr("napari.settings.get_plugin_settings", raising=False)
        assert napari_page() is None
        session = Session(home=tmp_path)
        PreferencesPage(session)
        session.set_reviewer("Ann")
        assert kept()[0].reviewer == "Ann"
