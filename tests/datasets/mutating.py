"""Damaged datasets: one file of a good one changed in a random way, and read under limits.

As a program: ``mutating.py FOLDER FIRST COUNT`` reads COUNT mutations of the datasets in FOLDER, from seed FIRST on,
and prints a line for each, which ends with "well" where reading did: with a dataset, or with HistomixError.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import re
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import zlib
from pathlib import Path

import numpy as np

SECONDS, BYTES = 10, 4 * 2**30
NUMBERS = ["-1", "0", "1e308", "-1e308", "NaN", "Infinity", "99999999999999999999", "2147483648", "0.5", "null", "[]"]
TEXTS = (".json", ".geojson", ".xml", ".txt", ".csv", ".yaml", ".yml")
NAMES = ("../../../../tmp/outside", "/etc/passwd", "C:\\outside", "a\u0000b", "..", "", "x" * 300, "😀")


def mutate(folder: Path, seed: int) -> str:
    """Change one file of a dataset; says how."""
    rng = random.Random(seed)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    # Labels and lists are more worth than pictures, of which there are many.
    lists = [path for path in files if path.suffix.casefold() not in (".png", ".tif", ".tiff")]
    path = rng.choice(lists if lists and rng.random() < 0.7 else files)
    content = path.read_bytes()
    ways = [truncated, flipped, stuffed, emptied, swapped, gone, replaced]
    if path.suffix.casefold() in TEXTS or path.name.startswith(".z") or path.name == "zarr.json":
        ways += [renumbered, renumbered, renumbered, renamed, nested, exploding] * 2
    way = rng.choice(ways)
    way(path, content, rng, files)
    return f"{way.__name__} {path.relative_to(folder)}"


def truncated(path: Path, content: bytes, rng: random.Random, files: list[Path]) -> None:
    path.write_bytes(content[: rng.randrange(len(content) + 1)])


def flipped(path: Path, content: bytes, rng: random.Random, files: list[Path]) -> None:
    changed = bytearray(content)
    # Headers decide more than what follows them.
    reach = len(changed) if rng.random() < 0.5 else min(len(changed), 400)
    for _ in range(rng.choice([1, 1, 3, 30]) if reach else 0):
        changed[rng.randrange(reach)] = rng.randrange(256)
    path.write_bytes(bytes(changed))


def stuffed(path: Path, content: bytes, rng: random.Random, files: list[Path]) -> None:
    at = rng.randrange(len(content) + 1)
    path.write_bytes(content[:at] + rng.randbytes(rng.choice([1, 8, 4096])) + content[at:])


def emptied(path: Path, content: bytes, rng: random.Random, files: list[Path]) -> None:
    path.write_bytes(b"")


def swapped(path: Path, content: bytes, rng: random.Random, files: list[Path]) -> None:
    path.write_bytes(rng.choice(files).read_bytes())


def gone(path: Path, content: bytes, rng: random.Random, files: list[Path]) -> None:
    path.unlink()


def renumbered(path: Path, content: bytes, rng: random.Random, files: list[Path]) -> None:
    found = list(re.finditer(rb"-?\d+(\.\d+)?", content))
    if found:
        one = rng.choice(found)
        path.write_bytes(content[: one.start()] + rng.choice(NUMBERS).encode() + content[one.end() :])


def renamed(path: Path, content: bytes, rng: random.Random, files: list[Path]) -> None:
    found = list(re.finditer(rb'"[^"]*"', content))
    if found:
        one = rng.choice(found)
        name = json.dumps(rng.choice(NAMES), ensure_ascii=rng.random() < 0.5).encode()
        path.write_bytes(content[: one.start()] + name + content[one.end() :])


def nested(path: Path, content: bytes, rng: random.Random, files: list[Path]) -> None:
    deep = rng.choice([10_000, 200_000])
    text = "<a>" * deep if path.suffix == ".xml" else "[" * deep + "]" * deep
    path.write_text(text)


def exploding(path: Path, content: bytes, rng: random.Random, files: list[Path]) -> None:
    if path.suffix == ".xml":
        entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 12))
        path.write_text(f'<!DOCTYPE a [<!ENTITY e0 "boom">{entities}]><Annotations>&e11;</Annotations>')
    elif path.suffix in (".yaml", ".yml"):
        lines = ["a: &a [x, x, x, x, x, x, x, x, x]"] + [
            f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join(['*' + chr(97 + n)] * 9)}]" for n in range(9)
        ]
        path.write_text("\n".join(lines))
    else:
        path.write_bytes(b"[" + b"1e400," * 1_000_000 + b"0]")


def replaced(path: Path, content: bytes, rng: random.Random, files: list[Path]) -> None:
    """By something made to hurt."""
    kind = path.suffix.casefold()
    side = rng.choice([0, 1, 30_000, 60_000, 2**31 - 1])
    if kind == ".png":
        path.write_bytes(png(side, rng.choice([1, side]), rng.choice([8, 16]), rng.choice([0, 2, 3, 6])))
    elif kind == ".npy":
        path.write_bytes(npy(rng))
    elif kind == ".mat":
        path.write_bytes(mat(rng))
    elif kind in (".tif", ".tiff"):
        path.write_bytes(tiff(max(side, 1), rng))
    else:
        path.write_bytes(rng.choice([pickle.dumps(Bomb()), zlib.compress(bytes(10**8)), bytes(10**7)]))


class Bomb:
    """Leaves a file where it is unpickled."""

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(Path(tempfile.gettempdir()) / "unpickled"),)


def png(width: int, height: int, bits: int, color: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width % 2**32, height % 2**32, bits, color, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(10**7))) + chunk(b"IEND", b"")
    )


def npy(rng: random.Random) -> bytes:
    stream = io.BytesIO()
    if rng.random() < 0.4:
        np.save(stream, np.array([Bomb(), 1], object), allow_pickle=True)
    elif rng.random() < 0.5:
        kind = rng.choice(["int64", "float16", "complex64", "U5", "bool"])
        np.save(stream, np.zeros(rng.choice([(3,), (2, 256, 256, 6), (2, 256, 256), (0, 256, 256, 6)]), kind))
    else:
        shape = rng.choice(["(1000000, 256, 256, 6)", "(-1, 256, 256, 3)", "(2, 256, 256, 99999999999999)", "(" * 500])
        head = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
        stream.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head)
    return stream.getvalue()


def mat(rng: random.Random) -> bytes:
    head = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"
    count = rng.choice([10**6, 3 * 10**9 // 4])
    flags = struct.pack("<IIII", 6, 8, 6, 0)
    shape = struct.pack("<IIii", 5, 8, 30_000, max(count // 30_000, 1))
    name = struct.pack("<II", 1, 8) + b"inst_map"
    body = flags + shape + name + struct.pack("<II", 9, min(count * 8, 2**32 - 1))
    matrix = struct.pack("<II", 14, min(len(body) + count * 8, 2**32 - 1)) + body
    packed = zlib.compressobj(9)
    data = packed.compress(matrix)
    for _ in range(rng.choice([1, 300])):
        data += packed.compress(bytes(10**6))
    data += packed.flush()
    return head + struct.pack("<II", 15, len(data)) + data


def tiff(side: int, rng: random.Random) -> bytes:
    entries = [
        (256, side),
        (257, rng.choice([1, side])),
        (258, 8),
        (259, rng.choice([1, 8, 5])),
        (262, rng.choice([1, 2])),
    ]
    entries += [(273, 8), (277, rng.choice([1, 3])), (278, side), (279, rng.choice([10, 2**31]))]
    body = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return b"II*\x00" + struct.pack("<I", 8) + body + struct.pack("<I", rng.choice([0, 8]))


def read_all(folder: Path) -> str:
    """Open and read a damaged dataset; what is wrong with how that ended, or an empty string."""
    from napari_histomix.datasets import open_dataset, survey
    from napari_histomix.records import HistomixError, drain

    before = set(os.listdir(folder.parent))
    began = time.monotonic()
    try:
        dataset = open_dataset(folder, mpp=0.5)
        drain(survey(dataset))
    except HistomixError as error:
        if not str(error).strip() or "\n" in str(error):
            return f"no sentence: {error!r}"
    except TimeoutError:
        return "hangs"
    except BaseException:
        return traceback.format_exc()
    if time.monotonic() - began > SECONDS:
        return "takes too long"
    if set(os.listdir(folder.parent)) != before:
        return "leaves a file outside"
    if (Path(tempfile.gettempdir()) / "unpickled").exists():
        return "unpickles"
    return ""


def main(root: Path, first: int, count: int) -> None:
    """Mutations of all datasets below a folder."""
    import napari_histomix.datasets  # noqa: F401  before memory is limited

    def late(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, late)
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    goods = sorted(path for path in root.iterdir() if path.is_dir())
    with tempfile.TemporaryDirectory() as scratch:
        for seed in range(first, first + count):
            good = goods[seed % len(goods)]
            bad = Path(scratch) / "bad"
            shutil.copytree(good, bad)
            how = mutate(bad, seed)
            print(f"{seed} {good.name} {how}", end=": ", flush=True)
            signal.alarm(SECONDS + 5)
            wrong = read_all(bad)
            signal.alarm(0)
            print(wrong.replace("\n", "\\n") or "well", flush=True)
            shutil.rmtree(bad)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
