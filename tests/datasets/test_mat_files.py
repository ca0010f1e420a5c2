from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from napari_histomix.datasets.formats.mat_files import read_arrays
from napari_histomix.records import HistomixError

MAP = np.array([[0, 1, 1], [0, 2, 250]])


def element(kind: int, content: bytes, order: str = "<") -> bytes:
    return struct.pack(f"{order}II", kind, len(content)) + content + bytes(-len(content) % 8)


def matrix(
    name: str = "inst_map", shape=(2, 3), kind: int = 9, content: bytes | None = None, flags: int = 6, order: str = "<"
) -> bytes:
    """A variable as the format describes it, of doubles unless told otherwise."""
    content = MAP.astype(f"{order}f8").tobytes("F") if content is None else content
    parts = (
        element(6, struct.pack(f"{order}II", flags, 0), order),
        element(5, struct.pack(f"{order}{len(shape)}i", *shape), order),
        element(1, name.encode(), order),
        element(kind, content, order),
    )
    return element(14, b"".join(parts), order)


def saved(path: Path, *variables: bytes, order: str = "<", compressed: bool = True) -> Path:
    head = b"MATLAB 5.0".ljust(124) + (b"\0\1IM" if order == "<" else b"\1\0MI")
    if compressed:
        packed = [zlib.compress(one) for one in variables]
        variables = tuple(struct.pack(f"{order}II", 15, len(one)) + one for one in packed)
    path.write_bytes(head + b"".join(variables))
    return path


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8", "bool"])
def test_numbers_as_scipy_writes_and_reads_them(tmp_path, dtype, compressed):
    path = tmp_path / "x.mat"
    content = {"inst_map": (MAP % 100).astype(dtype), "other": [[1]], "cell": np.array(["a", [1]], dtype=object)}
    scipy.io.savemat(path, content | {"s": {"a": 1}, "text": "abc"}, do_compression=compressed)
    found = read_arrays(path, ("inst_map", "missing"))
    assert list(found) == ["inst_map"]
    assert np.array_equal(found["inst_map"], scipy.io.loadmat(path)["inst_map"])


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_either_byte_order_and_numbers_stored_in_fewer_bytes(tmp_path, order, compressed):
    small = matrix("small", kind=2, content=MAP.astype("u1").tobytes("F"), order=order)
    path = saved(tmp_path / "x.mat", matrix(order=order), small, order=order, compressed=compressed)
    found = read_arrays(path, ("inst_map", "small"))
    assert np.array_equal(found["inst_map"], MAP) and np.array_equal(found["small"], MAP)
    assert np.array_equal(scipy.io.loadmat(path)["inst_map"], MAP)


def test_what_is_not_asked_for_stays_compressed(tmp_path):
    bomb = matrix("bomb", (2**12, 2**12), 2, bytes(2**24))
    path = saved(tmp_path / "x.mat", bomb[: -(2**23)], matrix())
    assert np.array_equal(read_arrays(path, ("inst_map",))["inst_map"], MAP)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(
    ("variable", "words"),
    [
        (matrix(shape=(2**20, 2**20)), "at most .* are read"),
        (matrix(shape=(-2, 3)), "at most .* are read"),
        (matrix(shape=(6,)), "at most .* are read"),
        (matrix(shape=(3, 3)), "another size than it says"),
        (matrix(content=bytes(2**24)), "another size than it says"),
        (matrix(kind=17), "stored in a way"),
        (matrix(flags=1), "inst_map does not hold numbers"),
        (matrix(flags=4), "inst_map does not hold numbers"),
        (matrix(flags=6 | 0x800), "inst_map does not hold numbers"),
        (matrix(name="inst_map" * 2000), "name of a variable is too long"),
        (matrix()[:60], "cannot be read"),
        (element(13, b"12345678"), "cannot be read"),
    ],
)
def test_what_does_not_fit_is_one_sentence(tmp_path, variable, words, compressed):
    with pytest.raises(HistomixError, match=words):
        read_arrays(saved(tmp_path / "x.mat", variable, compressed=compressed), ("inst_map",))


def test_other_versions_are_named(tmp_path):
    path = tmp_path / "x.mat"
    scipy.io.savemat(path, {"inst_map": MAP}, format="4")
    with pytest.raises(HistomixError, match="no header of version 5 to 7"):
        read_arrays(path, ("inst_map",))
    path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM")
    with pytest.raises(HistomixError, match=r"MATLAB 7\.3 file; save it in version 7"):
        read_arrays(path, ("inst_map",))
    path.unlink()
    with pytest.raises(HistomixError, match="no longer there"):
        read_arrays(path, ("inst_map",))


@pytest.mark.parametrize("compressed", [False, True])
def test_any_byte_may_be_wrong(tmp_path, compressed):
    """scipy's own reader ends the process for some of these."""
    rng = np.random.default_rng(0)
    variable = matrix() + matrix("inst_type", (3, 1), 2, b"\1\2\3")
    for _ in range(400):
        changed = bytearray(variable)
        for place in rng.integers(0, len(changed), rng.integers(1, 5)):
            changed[place] = rng.choice([0, 1, 14, 15, 127, 128, 255])
        path = saved(tmp_path / "x.mat", bytes(changed), compressed=compressed)
        try:
            found = read_arrays(path, ("inst_map", "inst_type"))
        except HistomixError:
            continue
        assert all(one.dtype.kind in "iuf" for one in found.values())
