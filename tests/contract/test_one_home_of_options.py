"""A setting is said once: command line, form, record and documentation agree with its field, for every method."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

import pytest

from napari_histomix import augment, load_sample
from napari_histomix.cli.common import Options, add_settings, settings_from
from napari_histomix.evaluation.blending import BlendSettings
from napari_histomix.evaluation.detector import DetectorSettings
from napari_histomix.evaluation.generator_test import GeneratorTestSettings
from napari_histomix.evaluation.reader_test.specimens import ReaderTestSettings
from napari_histomix.methods import method_names, method_of
from napari_histomix.preferences import Preferences
from napari_histomix.records import HistomixError
from napari_histomix.settings import check_settings, made_from, options_table, plain, presets_of, settings_of
from napari_histomix.training import KINDS, settings_class

ROOT = Path(__file__).resolve().parents[2]


def classes(name: str) -> list[type]:
    method = method_of(name)
    return [method.settings] if method.stage is None else [method.stage.settings, method.settings]


TRAINED = [(kind, settings_class(kind)) for kind in KINDS]
TESTS = [
    ("reader-test", ReaderTestSettings),
    ("blend-test", BlendSettings),
    ("generate-test", GeneratorTestSettings),
    ("detect-test", DetectorSettings),
    ("preferences", Preferences),
]
PACKAGES = ("napari_histomix", "stamps")
"""The package's own methods and the toy of its documentation; other tests register others."""
OWN = [name for name in method_names() if type(method_of(name)).__module__.startswith(PACKAGES)]
ALL = [*((name, cls) for name in OWN for cls in classes(name)), *TRAINED, *TESTS]


def example(setting):
    """A value that is not the default."""
    option = setting.option
    if option.choices:
        value = next(value for value in option.choices if value != setting.default)
        return (value,) if setting.many else value
    if setting.type is bool:
        return not setting.default
    if setting.type is str:
        return ("rare", "other") if setting.many else "something"
    low = option.low if option.low is not None else 0
    high = option.high if option.high is not None else low + 8
    middle = setting.type((low + high) / 2)
    if setting.pair:
        return setting.type(low + (high - low) / 4), setting.type(low + (high - low) / 2)
    return (middle,) if setting.many else middle


def said(setting, value) -> list[str]:
    if setting.type is bool:
        return [setting.flag if value else setting.flag.replace("--", "--no-", 1)]
    values = value if setting.pair or setting.many else [value]
    return [setting.flag, *map(str, values)]


@pytest.mark.parametrize(("name", "cls"), ALL, ids=lambda part: getattr(part, "__name__", part))
class TestEverySetting:
    def test_the_command_line_can_say_it(self, name, cls):
        parser = argparse.ArgumentParser()
        add_settings(parser, [cls])
        for setting in settings_of(cls):
            needed = [part for other in settings_of(cls) if other.required for part in said(other, example(other))]
            value = example(setting)
            options = parser.parse_args([*needed, *said(setting, value)])
            assert getattr(settings_from(cls, options), setting.name) == value, setting.name

    def test_what_nobody_says_is_the_field_s_own_default(self, name, cls):
        parser = argparse.ArgumentParser()
        add_settings(parser, [cls])
        needed = {other.name: example(other) for other in settings_of(cls) if other.required}
        assert settings_from(cls, {**vars(parser.parse_args([])), **needed}) == made_from(cls, needed)
        for other in settings_of(cls):
            if other.required:
                with pytest.raises(HistomixError, match=other.flag):
                    settings_from(cls, parser.parse_args([]))

    def test_the_help_says_what_the_field_says(self, name, cls):
        parser = argparse.ArgumentParser()
        add_settings(parser, [cls])
        actions = {action.dest: action for action in parser._actions}
        for setting in settings_of(cls):
            text = (actions[setting.name].help or "").replace("%%", "%")
            assert setting.option.help.rstrip(".") in text
            assert setting.option.choices or not setting.bounds() or setting.bounds() in text

    def test_the_record_gives_it_back(self, name, cls):
        values = {setting.name: example(setting) for setting in settings_of(cls)}
        settings = made_from(cls, values)
        assert made_from(cls, plain(settings)) == settings
        recorded = plain(settings, recorded_only=True)
        assert recorded.keys() == {one.name for one in settings_of(cls) if one.option.recorded}

    def test_values_out_of_bounds_are_refused_by_name(self, name, cls):
        needed = {other.name: example(other) for other in settings_of(cls) if other.required}
        for setting in settings_of(cls):
            if setting.option.low is not None and not setting.pair and not setting.many:
                wrong = setting.type(setting.option.low - 1)
                with pytest.raises(HistomixError, match=setting.name):
                    made_from(cls, {**needed, setting.name: wrong})

    def test_defaults_are_within_their_bounds(self, name, cls):
        needed = {other.name: example(other) for other in settings_of(cls) if other.required}
        check_settings(made_from(cls, needed))

    def test_the_documentation_has_it(self, name, cls):
        table = options_table(cls)
        for setting in settings_of(cls):
            assert f"`{setting.flag}`" in table and setting.option.help in table
        pages = {"blend-test": "samplers", "generate-test": "generators", **dict.fromkeys(KINDS, "training")}
        pages |= {"reader-test": "reader-test", "detect-test": "detector", "preferences": "preferences"}
        page = ROOT / "docs" / f"{pages.get(name, 'methods')}.md"
        assert name == "stamps" or table in page.read_text(encoding="utf-8"), "run scripts/options.py"


PRESETS = [(name, preset) for name in OWN for preset in presets_of(*classes(name))]


@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_a_preset_gives_what_the_command_line_does_not_say(name, preset):
    def parsed(*words):
        parser = argparse.ArgumentParser()
        add_settings(parser, classes(name))
        options = parser.parse_args([*needed, "--preset", preset, *words], Options())
        options.take_preset()
        return {key: value for cls in classes(name) for key, value in vars(settings_from(cls, options)).items()}

    known = {setting.name: setting for cls in classes(name) for setting in settings_of(cls)}
    needed = [part for other in known.values() if other.required for part in said(other, example(other))]
    values = presets_of(*classes(name))[preset]
    assert all(known[key].check(value) != known[key].default for key, value in values.items())
    assert parsed().items() >= values.items()
    for key, default in ((key, known[key].default) for key in values if known[key].default is not None):
        assert parsed(*said(known[key], default)).items() >= {**values, key: default}.items()


def test_methods_of_the_papers_have_the_paper_s_form():
    assert PRESETS == [("nucleimix", "paper"), ("usegmix", "paper")]
    paper = presets_of(*classes("usegmix"))["paper"]
    assert (paper["new_area"], paper["outline"], paper["sampler"]) == ((0.3, 1.0), "segment", "paper")


def test_a_preset_is_in_force_in_python_and_in_the_record():
    made = augment(load_sample(), "nucleimix", rare=["lymphocyte"], count=1, preset="paper", sampler="fast")
    how = made[0].provenance
    assert (how["search"]["density"], how["search"]["neighborhood"]) == ("gaussian", False)
    assert (how["settings"]["symmetries"], how["settings"]["sampler"]) == (False, "fast")
    with pytest.raises(HistomixError, match="no preset 'papr'; it has paper"):
        augment(load_sample(), "nucleimix", rare=["lymphocyte"], preset="papr")


def test_no_room_but_that_of_methods_knows_a_method_by_name():
    """Citations name papers (NucleiMix), code names methods (nucleimix): only examples and a method's own page may."""
    own = ("api.py", "__init__.py", "records.py", "widgets/mix_donors.py", "widgets/mix_panel.py")
    built_in = ("nucleimix", "usegmix", "copypaste", "gradmix", "cutmix", "cutout", "mixup")
    assert set(built_in) <= set(method_names())
    names = re.compile("|".join(built_in))
    room = ROOT / "src" / "napari_histomix"
    files = [path.relative_to(room).as_posix() for path in room.rglob("*.py")]
    known = [file for file in files if names.search((room / file).read_text(encoding="utf-8"))]
    assert [file for file in known if not file.startswith("methods/") and file not in own] == []


def test_importing_methods_loads_neither_qt_nor_torch():
    program = (
        "import sys\n"
        "from napari_histomix.methods import method_names, method_of\n"
        "[method_of(name).settings for name in method_names()]\n"
        "from napari_histomix.cli.program import build_parser\n"
        "build_parser(['synthesize'])\n"
        "print(sorted({'torch', 'torchvision', 'qtpy', 'napari', 'magicgui'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
