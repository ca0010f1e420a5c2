from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from napari_histomix.cli import main
from napari_histomix.datasets import open_dataset, read_pixels
from napari_histomix.datasets.pixels import pixels_sha256
from napari_histomix.diffusion.samplers import PRESETS, SAMPLERS
from napari_histomix.evaluation.blend_windows import CLASSIC_FILLS
from napari_histomix.evaluation.blending import (
    HOLE_COLOR,
    UNLISTED,
    BlendSettings,
    blend_test,
    contact_sheet,
    report_lines,
    report_values,
    samplers_named,
    trained_on,
)
from napari_histomix.evaluation.figures import FIGURES
from napari_histomix.evaluation.sheets import write_sheet
from napari_histomix.records import HistomixError, drain

SHORT = "repaint:100:2:1"
SETTINGS = BlendSettings(samplers=(SHORT,), count=3, device="cpu", spread=True)


@pytest.fixture(scope="module")
def folder(labeled_image, dataset_folder, tmp_path_factory) -> Path:
    """Two images; never write into it."""
    spots = [(40 + 55 * i, 40 + 50 * j, 8, 7, 1) for i in range(2) for j in range(2)]
    images = [labeled_image(spots, shape=(150, 150), seed=seed, name=f"i{seed}") for seed in range(2)]
    return dataset_folder(tmp_path_factory.mktemp("blending") / "data", images)


@pytest.fixture(scope="module")
def loaded(small_model_folder):
    from napari_histomix.diffusion.model_files import load_model

    return load_model(small_model_folder)


@pytest.fixture(scope="module")
def tested(folder, loaded):
    """A report, and the messages on the way to it."""
    job, messages = blend_test(open_dataset(folder), loaded, SETTINGS), []
    while True:
        try:
            event = next(job)
        except StopIteration as end:
            return end.value, messages
        messages += [event.message] if event.message else []


class TestReport:
    def test_classic_fills_are_always_beside_the_samplers(self, tested):
        report, _ = tested
        assert list(report.fills) == ["ring", "disc", "large"]
        for fills in report.fills.values():
            assert [fill.name for fill in fills] == [*CLASSIC_FILLS, SHORT]
            assert [fill.forwards for fill in fills] == [*[0] * len(CLASSIC_FILLS), 2]
            assert all(set(fill.figures) >= set(FIGURES) and fill.seconds > 0 for fill in fills)
            assert [fill.peak_mb is not None for fill in fills][-1] and "spread" in fills[-1].figures

    def test_no_fill_changes_a_pixel_outside_its_hole(self, tested):
        report, _ = tested
        for kind, fills in report.fills.items():
            for fill in fills:
                for window, pixels in zip(report.windows[kind], fill.pixels, strict=True):
                    assert np.array_equal(pixels[~window.hole], window.pixels[~window.hole])
                    assert not np.array_equal(pixels, window.pixels)

    def test_intervals_hold_their_medians(self, tested):
        for fills in tested[0].fills.values():
            for fill in fills:
                for one in fill.figures.values():
                    assert one.low <= one.median <= one.high
                assert fill.figures["rmse"].median > 0
            # An untrained network from fresh noise: five fills are five different ones.
            assert fills[-1].figures["spread"].median > 1

    def test_the_same_seed_gives_the_same_figures_in_other_batches(self, folder, loaded, tested):
        settings = replace(SETTINGS, holes=("ring",), batch=2, spread=False)
        again = drain(blend_test(open_dataset(folder), loaded, settings))
        for fill, same in zip(again.fills["ring"], tested[0].fills["ring"], strict=True):
            assert all(np.array_equal(*pair) for pair in zip(fill.pixels, same.pixels, strict=True))
            assert all(fill.figures[key] == same.figures[key] for key in fill.figures)

    def test_tables_line_up_and_values_are_json(self, tested):
        report, _ = tested
        lines = report_lines(report)
        tables = [line for line in lines if line.startswith("|")]
        length = 2 + len(CLASSIC_FILLS) + 1
        assert len(tables) == 3 * length
        for table in (tables[:length], tables[length : 2 * length], tables[2 * length :]):
            assert len({len(line) for line in table}) == 1 and len({line.count("|") for line in table}) == 1
        assert "high-water mark" in "\n".join(lines)
        values = json.loads(json.dumps(report_values(report), allow_nan=False))
        rmse = values["holes"]["disc"]["fills"][0]["figures"]["rmse"]
        assert rmse["median"] == report.fills["disc"][0].figures["rmse"].median
        assert values["holes"]["large"]["side"] == 128 and values["notes"] == [UNLISTED]


class TestTheModelsOwnImages:
    def test_a_silent_card_is_told(self, tested):
        assert tested[1] == [UNLISTED]

    def test_an_image_that_trained_the_model_is_refused_by_name(self, folder, loaded):
        own = pixels_sha256(read_pixels(folder / "Images" / "i1.png"))
        model = replace(loaded, card={**loaded.card, "training_pixels": ["0" * 64, own]})
        with pytest.raises(HistomixError, match=r"^1 of the 2 images of made up trained the model 'small' \(i1\);"):
            drain(blend_test(open_dataset(folder), model, SETTINGS))

    def test_a_card_that_lists_others_is_silent(self, folder, loaded):
        model = replace(loaded, card={**loaded.card, "training_pixels": ["0" * 64]})
        report = drain(blend_test(open_dataset(folder), model, replace(SETTINGS, holes=("ring",), spread=False)))
        assert report.notes == ()

    def test_a_fingerprint_knows_shape_and_every_pixel(self):
        pixels = np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8)
        other = pixels.copy()
        other[5, 3, 2] ^= 1
        prints = {pixels_sha256(one) for one in (pixels, other, pixels.reshape(4, 6, 3), pixels[::-1])}
        assert len(prints) == 4 and all(len(one) == 64 for one in prints)
        assert pixels_sha256(np.asfortranarray(pixels)) == pixels_sha256(pixels)
        card = {"training_pixels": [pixels_sha256(pixels)]}
        assert trained_on(card, pixels) and not trained_on(card, other) and not trained_on({}, pixels)


class TestSamplers:
    def test_presets_have_their_own_for_each_hole_and_names_come_once(self):
        found = samplers_named(["fast", "mcg-fixed:1000:20", "fast"], "large")
        assert list(found) == ["fast", "mcg-fixed:1000:20"]
        assert found["fast"] == PRESETS["fast"].large and found["mcg-fixed:1000:20"].steps == 20

    def test_all_are_all(self):
        assert set(samplers_named(["all"], "ring")) == {*PRESETS, *SAMPLERS}

    def test_a_wrong_name_stops_before_any_image_is_read(self, folder, loaded):
        with pytest.raises(HistomixError, match="slow"):
            next(blend_test(open_dataset(folder), loaded, replace(SETTINGS, samplers=("slow",))))


def test_too_few_windows_are_an_error(labeled_image, dataset_folder, loaded, tmp_path):
    folder = dataset_folder(tmp_path / "data", [labeled_image([(60, 60, 8, 7, 1)], shape=(120, 120), name="a")])
    with pytest.raises(HistomixError, match="room for 1 ring windows"):
        drain(blend_test(open_dataset(folder), loaded, replace(SETTINGS, holes=("ring",))))
    with pytest.raises(HistomixError, match="room for 0 large windows of 128²"):
        drain(blend_test(open_dataset(folder), loaded, replace(SETTINGS, holes=("large",))))


class TestSheet:
    def test_windows_in_rows_fills_in_columns(self, tested):
        sheet = contact_sheet(tested[0])
        columns, rows = 2 + len(CLASSIC_FILLS) + 1, 3
        assert sheet.shape[1] == 6 + columns * (3 * 128 + 6)
        assert sheet.shape[0] == sum(34 + 24 + rows * (3 * side + 6) for side in (64, 64, 128))
        green = (sheet == np.array(HOLE_COLOR)).all(axis=2)
        assert green[:, : 6 + 3 * 64].sum() == 0 and green.any(), "the truth shows no hole"

    def test_it_is_never_written_over_another(self, tested, tmp_path):
        write_sheet(tmp_path / "s.png", contact_sheet(tested[0]))
        before = (tmp_path / "s.png").read_bytes()
        for path, words in (
            (tmp_path / "s.png", "already exists"),
            (tmp_path / "s.jpg", "must end in .png"),
            (tmp_path / "s.png" / "t.png", "is a file, not a folder"),
        ):
            with pytest.raises(HistomixError, match=words):
                write_sheet(path, contact_sheet(tested[0]))
        assert (tmp_path / "s.png").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


class TestCommand:
    def test_table_json_and_sheet(self, folder, small_model_folder, tmp_path, capsys):
        arguments = ["blend-test", str(folder), "--model", str(small_model_folder), "--samplers", SHORT]
        arguments += ["--hole", "disc", "--count", "2", "--device", "cpu", "--sheet", str(tmp_path / "s.png")]
        assert main(arguments) == 0
        shown = capsys.readouterr()
        assert "## disc: 2 windows of 64²" in shown.out and f"| {SHORT}" in shown.out and UNLISTED in shown.err
        with Image.open(tmp_path / "s.png") as sheet:
            assert sheet.format == "PNG"
        # What is there already stops it before any work.
        assert main([*arguments, "--json"]) == 1
        assert "already exists" in json.loads(capsys.readouterr().out)["error"]
        assert main([*arguments[:-2], "--json"]) == 0
        (line,) = capsys.readouterr().out.splitlines()
        result = json.loads(line)
        assert result["model"] == "small" and result["dataset"] == "made up" and result["sheet"] is None
        names = [fill["name"] for fill in result["holes"]["disc"]["fills"]]
        assert names == [*CLASSIC_FILLS, SHORT] and list(result["holes"]) == ["disc"]

    def test_an_unknown_hole_is_wrong_usage(self, folder, capsys):
        assert main(["blend-test", str(folder), "--holes", "square"]) == 2
        assert "usage: histomix" in capsys.readouterr().err
