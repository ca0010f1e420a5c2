"""One name in other bytes."""

import unicodedata

import pytest

from napari_histomix.datasets.names import Lookup, paired, stated_path

NAME = "Präparat Ångström 1"


@pytest.mark.parametrize(
    "text",
    [
        "C:\\slides\\set 1\\a.png",
        "set 1/a.png",
        "file:///home/me/set%201/a.png",
        "https://host/data/set%201/a.png",
        "/data/local-files/?d=set%201/a.png",
        " set 1\\a.png ",
    ],
)
def test_paths_of_other_machines(text):
    assert stated_path(text).parts[-2:] == ("set 1", "a.png")


def test_what_means_the_same_name():
    lookup = Lookup({unicodedata.normalize("NFD", NAME): 1, "b": 2, "sub/c.png": 3, "100%25.png": 4})
    assert lookup.get(NAME) == lookup.get(unicodedata.normalize("NFD", NAME)) == lookup.get(NAME.upper()) == 1
    assert lookup.get("elsewhere/b") == lookup.get("B") == lookup.get("d:\\x\\b") == 2
    assert lookup.get("sub/c.png") == lookup.get("C:\\my\\sub\\c.PNG") == 3
    assert lookup.get("100%25.png") == 4
    assert lookup.get("c.png") is lookup.get("../b") is lookup.get("") is lookup.get("other") is None


def test_a_name_that_means_two_finds_none():
    lookup = Lookup({"A": 1, "a": 2})
    assert (lookup.get("A"), lookup.get("a")) == (1, 2)
    assert Lookup({"Ab": 1, "aB": 2}).get("ab") is None


def test_pairs_differ_in_case_at_most():
    assert paired(["a", "B", "c"], ["b", "c", "a", "d"]) == {"a": "a", "B": "b", "c": "c"}
    assert paired(["a"], ["A", "a"]) == {"a": "a"}
    assert paired(["x"], ["X", "x.", "Y"]) == {"x": "X"}
    assert paired(["Ab"], ["aB", "AB"]) == {}
