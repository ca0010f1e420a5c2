"""What a study keeps of its images' counts."""

from collections import Counter

import numpy as np
import pytest

from napari_histomix.datasets import Survey, load_sample, survey
from napari_histomix.records import drain
from napari_histomix.study.store import SURVEY as FILE
from napari_histomix.study.store import keep_survey, kept_survey


def test_a_survey_comes_back_as_it_was(tmp_path):
    found = drain(survey(load_sample()))
    keep_survey(tmp_path, found)
    assert kept_survey(tmp_path) == found and [one.name for one in tmp_path.iterdir()] == [FILE]
    assert drain(survey(load_sample(), kept_survey(tmp_path))) == found


def test_images_that_are_to_be_read_again_are_not_kept(tmp_path):
    keep_survey(tmp_path, Survey({"a": Counter({1: 2})}, (), {"a": (3, 4)}, {"a": "0"}))
    assert kept_survey(tmp_path) == Survey({}, (), {})


def test_numbers_of_arrays_are_kept_too(tmp_path):
    counts = {"a": Counter({np.int32(1): np.int64(2)})}
    keep_survey(tmp_path, Survey(counts, (), {"a": (3, 4)}, {"a": "0"}, {"a": "s"}))
    assert kept_survey(tmp_path).counts == {"a": {1: 2}}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"a": 1}',
        '{"a": {"counts": {"x": 1}}}',
        '{"a": {"counts": {"1": Infinity}}}',
        '{"a": {"counts": {}, "shape": []}}',
        "[" * 100_000,
        "\xff",
    ],
    ids=lambda text: text[:12],
)
def test_one_that_is_damaged_is_none(tmp_path, text):
    (tmp_path / FILE).write_text(text, encoding="latin-1")
    assert kept_survey(tmp_path) is None


def test_a_folder_that_can_only_be_read_gets_none(tmp_path):
    keep_survey(tmp_path / "absent", Survey({}, (), {}))
    assert not (tmp_path / "absent").exists()
