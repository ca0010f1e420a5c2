"""The segment pool of a study: compact arrays written once, and what a person decided on top of them, in SQLite.

A pool is a folder of parts. Each part is complete or absent, and never changed; corrections add a part. Rows of
100,000 segments are read in a fraction of a second, masks and thumbnails one at a time, where they are.
"""

from __future__ import annotations

import io
import json
import shutil
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from PIL import Image

from napari_histomix.records import Event, HistomixError, Job, Segment, Source
from napari_histomix.segmentation.pool_vectors import Projection, map_of

POOL = "pool"
THUMBNAIL = 96
"""Pixels a side."""
LIMIT = 128
"""Components of a vector (the paper's p)."""
MAP = ""
"""Name that the components of the map are kept under; no class has it."""
ROW = np.dtype(
    [
        ("image", "<u4"),
        ("number", "<i4"),
        ("row", "<i4"),
        ("col", "<i4"),
        ("height", "<i4"),
        ("width", "<i4"),
        ("area", "<i4"),
        ("vote_share", "<f4"),
        ("stability", "<f4"),
        ("border", "?"),
        ("mask", "<u8"),
        ("mask_bytes", "<u4"),
        ("thumbnail", "<u8"),
        ("thumbnail_bytes", "<u4"),
    ]
)
"""One segment: ``image`` indexes the pool's images, ``mask`` and ``thumbnail`` are places in the part's files."""


@dataclass(frozen=True, slots=True)
class PoolImage:
    """An image that segments come from: its source, its class, (H, W), µm/px and the SHA-256 of its pixels."""

    source: Source
    kind: str
    shape: tuple[int, int]
    mpp: float
    sha256: str


class PoolWriter:
    """Writes one part of a pool: ``add`` image by image, then ``finish``. A context; left early, nothing stays.

    Parameters
    ----------
    folder : Path
        The study's.
    signature : mapping
        What segments and vectors were computed by (prompter, encoder, settings), plain JSON values.
    """

    def __init__(self, folder: Path, signature: Mapping[str, Any]) -> None:
        self.signature = dict(signature)
        self.root = Path(folder) / POOL
        number = len(_part_folders(self.root))
        if number:
            _check_signature(self.root, self.signature)
        self.part = self.root / f"part-{number:04d}"
        self.partial = self.root / f"part-{number:04d}.partial"
        self.images: list[PoolImage] = []
        self.count = 0

    def __enter__(self) -> PoolWriter:
        shutil.rmtree(self.partial, ignore_errors=True)
        try:
            self.partial.mkdir(parents=True)
            self._files: dict[str, BinaryIO] = {
                name: (self.partial / f"{name}.bin").open("wb") for name in ("rows", "masks", "thumbnails", "features")
            }
        except OSError as error:
            raise _unwritten(self.root, error) from None
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            with suppress(OSError):
                file.close()
        if self.partial.exists():
            shutil.rmtree(self.partial, ignore_errors=True)
            with suppress(OSError):
                self.root.rmdir()

    def add(
        self,
        image: PoolImage,
        segments: Sequence[Segment],
        features: NDArray[np.float32],
        thumbnails: Iterable[NDArray[np.uint8]],
    ) -> None:
        """Add the segments of an image: (N, dim) features, and N thumbnails (h, w, 3) uint8."""
        rows = np.zeros(len(segments), ROW)
        try:
            for line, one, thumbnail in zip(rows, segments, thumbnails, strict=True):
                mask, jpeg = zlib.compress(np.packbits(one.mask).tobytes(), 6), _jpeg(thumbnail)
                height, width = one.mask.shape
                line["image"], line["number"] = len(self.images), one.number
                line["row"], line["col"], line["height"], line["width"] = one.row, one.col, height, width
                line["area"], line["border"] = one.area, one.at_border(image.shape)
                line["vote_share"], line["stability"] = one.vote_share, one.stability
                line["mask"], line["mask_bytes"] = self._files["masks"].tell(), len(mask)
                line["thumbnail"], line["thumbnail_bytes"] = self._files["thumbnails"].tell(), len(jpeg)
                self._files["masks"].write(mask)
                self._files["thumbnails"].write(jpeg)
            self._files["rows"].write(rows.tobytes())
            self._files["features"].write(np.asarray(features, np.float32).tobytes())
        except OSError as error:
            raise _unwritten(self.root, error) from None
        self.images.append(image)
        self.count += len(segments)

    def finish(self, dim: int, components: int = LIMIT) -> Job[Path]:
        """Project the features to vectors, and put the part in its place; a long job.

        Parameters
        ----------
        dim : int
            Of a feature vector.
        components : int
            Principal components for each class, at most.

        Raises
        ------
        HistomixError
            If there is no segment, or the disk is full.
        """
        if self.count == 0:
            raise HistomixError("There is no segment to make a pool of.")
        try:
            for file in self._files.values():
                file.close()
            features = np.memmap(self.partial / "features.bin", np.float32, "r", shape=(self.count, dim))
            rows = np.fromfile(self.partial / "rows.bin", ROW)
            kinds = np.array([one.kind for one in self.images])[rows["image"]]
            # A class, and the map, keep the components they were first given: places and distances stay comparable.
            known = _projections(self.root)
            vectors = open_memmap(self.partial / "vectors.npy", "w+", np.float32, (self.count, components))
            names = sorted(set(kinds.tolist()))
            for done, kind in enumerate(names):
                yield Event("Principal components", done, len(names))
                members = np.flatnonzero(kinds == kind)
                projection = known.get(kind) or Projection.fit(features, members, components)
                projection.write(features, members, vectors)
                if kind not in known:
                    projection.save(self.partial / f"projection-{done:04d}.npz", kind)
            yield Event("Drawing the map")
            over_all = known.get(MAP) or Projection.fit(features, np.arange(self.count), 2)
            if MAP not in known:
                over_all.save(self.partial / "projection-map.npz", MAP)
            np.save(self.partial / "map.npy", map_of(features, over_all))
            vectors.flush()
            del vectors, features
            about = {"signature": self.signature, "dim": dim, "images": [asdict(one) for one in self.images]}
            (self.partial / "part.json").write_text(json.dumps(about), encoding="utf-8")
            self.partial.rename(self.part)
        except OSError as error:
            raise _unwritten(self.root, error) from None
        return self.part


@dataclass(frozen=True, eq=False)
class _Part:
    folder: Path
    first: int
    """Number of its first segment in the pool."""
    dim: int
    count: int

    def array(self, name: str) -> NDArray[Any]:
        """Vectors or places of all segments of the part, a memory map."""
        return np.load(self.folder / f"{name}.npy", mmap_mode="r")

    def features(self) -> NDArray[np.float32]:
        """What the encoder gave, (N, dim), a memory map."""
        return np.memmap(self.folder / "features.bin", np.float32, "r", shape=(self.count, self.dim))

    def piece(self, name: str, start: int, size: int) -> bytes:
        """Some bytes of a file."""
        with (self.folder / f"{name}.bin").open("rb") as file:
            file.seek(start)
            return file.read(size)


class SegmentPool:
    """A pool on disk, opened for reading; segments are numbered from 0 in the order they were added.

    Attributes
    ----------
    rows : (N,) structured array of ``ROW``
    images : tuple of PoolImage
    image_kinds : (N,) int
        For each segment the index of its image's class in ``kinds``.
    kinds : tuple of str
        Class names in order.
    signature : mapping
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        root = self.folder / POOL
        parts = _part_folders(root)
        if not parts:
            raise HistomixError(f"{folder} has no segment pool; make one with: histomix pool build.")
        self._parts: list[_Part] = []
        images: list[PoolImage] = []
        rows: list[NDArray[Any]] = []
        try:
            for part in parts:
                about = json.loads((part / "part.json").read_text(encoding="utf-8"))
                found = np.fromfile(part / "rows.bin", ROW)
                found["image"] += len(images)
                images += [_pool_image(one) for one in about["images"]]
                first = sum(len(some) for some in rows)
                self._parts.append(_Part(part, first, int(about["dim"]), len(found)))
                rows.append(found)
            self.signature: Mapping[str, Any] = about["signature"]
            self.projections = _projections(root)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise HistomixError(f"The segment pool in {folder} is damaged ({error}); build it again.") from None
        self.rows = np.concatenate(rows)
        self.images = tuple(images)
        if len(self.images) and int(self.rows["image"].max(initial=0)) >= len(self.images):
            raise HistomixError(f"The segment pool in {folder} is damaged; build it again.")
        self.kinds = tuple(sorted({one.kind for one in images}))
        index = {kind: number for number, kind in enumerate(self.kinds)}
        self.image_kinds = np.array([index[one.kind] for one in images], np.intp)[self.rows["image"]]

    def __len__(self) -> int:
        return len(self.rows)

    def check(self, signature: Mapping[str, Any]) -> None:
        """Raise HistomixError where the pool was made by another encoder, prompter or settings."""
        _check_signature(self.folder / POOL, signature)

    def segment(self, number: int) -> Segment:
        """One segment with its mask."""
        part, line = self._place(number)
        packed = zlib.decompress(part.piece("masks", int(line["mask"]), int(line["mask_bytes"])))
        shape = int(line["height"]), int(line["width"])
        mask = np.unpackbits(np.frombuffer(packed, np.uint8), count=shape[0] * shape[1]).reshape(shape).astype(bool)
        figures = float(line["vote_share"]), float(line["stability"])
        return Segment(int(line["number"]), int(line["row"]), int(line["col"]), mask, *figures)

    def image(self, number: int) -> PoolImage:
        """Where a segment comes from."""
        return self.images[int(self.rows["image"][number])]

    def thumbnail(self, number: int) -> bytes:
        """JPEG of a segment."""
        part, line = self._place(number)
        return part.piece("thumbnails", int(line["thumbnail"]), int(line["thumbnail_bytes"]))

    def places(self) -> NDArray[np.float32]:
        """Where all segments lie on the map, (N, 2): the first two principal components over all classes."""
        return np.concatenate([part.array("map") for part in self._parts])

    def vectors(self, numbers: NDArray[np.intp], kind: str | None = None) -> NDArray[np.float32]:
        """Vectors (n, p) of segments; in the space of another class where a person gave them ``kind``."""
        numbers = np.asarray(numbers, np.intp)
        # A class that lies in one piece is not copied: 1,000,000 vectors take half a gigabyte.
        runs = bool((np.diff(numbers) == 1).all()) and len(numbers) > 0
        for part in self._parts if runs else ():
            if part.first <= numbers[0] and numbers[-1] < part.first + part.count:
                found = part.array("vectors")[numbers[0] - part.first : numbers[-1] + 1 - part.first]
                break
        else:
            found = np.empty((len(numbers), self._parts[0].array("vectors").shape[1]), np.float32)
            for part in self._parts:
                here = np.flatnonzero((numbers >= part.first) & (numbers < part.first + part.count))
                found[here] = part.array("vectors")[numbers[here] - part.first]
        if kind is None:
            return found
        foreign = np.flatnonzero(np.array(self.kinds)[self.image_kinds[numbers]] != kind)
        if len(foreign):
            found = np.array(found)
            for place in foreign:
                part = self._part(int(numbers[place]))
                one = np.asarray(part.features()[[int(numbers[place]) - part.first]])
                found[place] = self.projections[kind].transform(one, found.shape[1])[0]
        return found

    def _part(self, number: int) -> _Part:
        return next(part for part in reversed(self._parts) if part.first <= number)

    def _place(self, number: int) -> tuple[_Part, Any]:
        return self._part(number), self.rows[number]


def has_pool(folder: Path) -> bool:
    """Whether a study's folder holds a segment pool; what a killed build left is none."""
    return bool(_part_folders(Path(folder) / POOL))


def _part_folders(root: Path) -> list[Path]:
    return sorted(one for one in root.glob("part-[0-9][0-9][0-9][0-9]") if (one / "part.json").is_file())


def _check_signature(root: Path, signature: Mapping[str, Any]) -> None:
    made = json.loads((_part_folders(root)[0] / "part.json").read_text(encoding="utf-8"))["signature"]
    wanted = json.loads(json.dumps(dict(signature)))
    for key in sorted(made.keys() | wanted.keys()):
        if made.get(key) != wanted.get(key):
            raise HistomixError(
                f"The segment pool was made with another {key} ({made.get(key)}, not {wanted.get(key)}); "
                "build it again, or choose what it was made with."
            )


def _projections(root: Path) -> dict[str, Projection]:
    found: dict[str, Projection] = {}
    for part in _part_folders(root):
        for file in sorted(part.glob("projection-*.npz")):
            kind, projection = Projection.load(file)
            found.setdefault(kind, projection)
    return found


def _pool_image(facts: Mapping[str, Any]) -> PoolImage:
    height, width = facts["shape"]
    return PoolImage(Source(**facts["source"]), facts["kind"], (height, width), facts["mpp"], facts["sha256"])


def _jpeg(pixels: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=85)
    return stream.getvalue()


def _unwritten(root: Path, error: OSError) -> HistomixError:
    return HistomixError(f"{root} cannot be written ({error.strerror or error}); make room, or choose another folder.")
