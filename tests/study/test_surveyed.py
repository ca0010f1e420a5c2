"""What a study keeps of its images' counts."""

from collections import Counter

import pytest

from napari_histomix.datasets import Survey, load_sample, survey
from napari_histomix.records import drain
from napari_histomix.study.surveyed import FILE, keep_survey, kept_survey


def test_a_survey_comes_back_as_it_was(tmp_path):
    found = drain(survey(load_sample()))
    keep_survey(tmp_path, found)
    assert kept_survey(tmp_path) == found and [one.name for one in tmp_path.iterdir()] == [FILE]
    assert drain(survey(load_sample(), kept_survey(tmp_path))) == found


def test_images_that_are_to_be_read_again_are_not_kept(tmp_path):
    keep_survey(tmp_path, Survey({"a": Counter({1: 2})}, (), {"a": (3, 4)}, {"a": "0"}))
    assert kept_survey(tmp_path) == Survey({}, (), {})


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"a": 1}', '{"a": {"counts": {"x": 1}}}', '{"a": {"shape": []}}', "\xff"]
)
def test_one_that_is_damaged_is_none(tmp_path, text):
    (tmp_path / FILE).write_text(text, encoding="latin-1")
    assert kept_survey(tmp_path) is None


def test_a_folder_that_can_only_be_read_gets_none(tmp_path):
    keep_survey(tmp_path / "absent", Survey({}, (), {}))
    assert not (tmp_path / "absent").exists()
