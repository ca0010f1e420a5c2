"""The segment pool of a study: compact arrays that are written once; decisions on segments are kept by the study.

A pool is a folder of parts. Each part is complete or absent, and never changed; corrections add a part. The rows of
100,000 segments are read in a fraction of a second; masks and thumbnails are read one at a time.
"""

from __future__ import annotations

import io
import json
import shutil
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from PIL import Image

from napari_histomix.records import Event, HistomixError, Job, Segment, Source

POOL = "pool"
THUMBNAIL = 96
"""Pixels a side."""
LIMIT = 128
"""Components of a vector (the paper's p)."""
MAP = ""
"""Name that the components of the map are kept under; no class has it."""
SAMPLE = 20_000
"""Segments that principal components are fitted to, at most."""
CHUNK = 10_000
UNDECIDED = "undecided"
DECIDED: tuple[str, str, str] = (UNDECIDED, "keep", "drop")
"""What the codes 0, 1 and 2 of decisions on segments stand for."""
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


@dataclass(frozen=True, eq=False)
class Projection:
    """Standardized features (dim,) onto p principal components: ((f − mean) / spread) @ axes, axes (dim, p)."""

    mean: NDArray[np.float32]
    spread: NDArray[np.float32]
    axes: NDArray[np.float32]

    @classmethod
    def fit(cls, features: NDArray[np.float32], members: NDArray[np.intp], components: int) -> Projection:
        """Fit to rows of features (N, dim); with fewer components where there are too few segments for them."""
        rng = np.random.default_rng(0)
        sample = members if len(members) <= SAMPLE else np.sort(rng.choice(members, SAMPLE, replace=False))
        seen = np.asarray(features[sample], np.float64)
        mean, spread = seen.mean(axis=0), seen.std(axis=0)
        spread[spread < 1e-6] = 1.0
        count = min(components, len(seen) - 1, seen.shape[1])
        axes = np.zeros((seen.shape[1], 0))
        if count > 0:
            from sklearn.decomposition import PCA

            axes = PCA(count, random_state=0).fit((seen - mean) / spread).components_.T
        return cls(mean.astype(np.float32), spread.astype(np.float32), axes.astype(np.float32))

    def transform(self, features: NDArray[np.float32], width: int) -> NDArray[np.float32]:
        """Vectors (n, width) of features (n, dim), zeros where there are no more components."""
        vectors = np.zeros((len(features), width), np.float32)
        vectors[:, : self.axes.shape[1]] = ((features - self.mean) / self.spread) @ self.axes
        return vectors


class PoolWriter:
    """Writes one part of a pool: ``add`` image by image, then ``finish``. A context manager; left early, nothing stays.

    ``folder`` is the study's. ``signature`` says what segments and vectors were computed by (prompter, encoder,
    settings), in plain JSON values.
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
        with _writing(self.root):
            self.partial.mkdir(parents=True)
            names = ("rows", "masks", "thumbnails", "features")
            self._files: dict[str, BinaryIO] = {name: (self.partial / f"{name}.bin").open("wb") for name in names}
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
        with _writing(self.root):
            for row, segment, thumbnail in zip(rows, segments, thumbnails, strict=True):
                row["image"], row["number"] = len(self.images), segment.number
                row["row"], row["col"] = segment.row, segment.col
                row["height"], row["width"] = segment.mask.shape
                row["area"], row["border"] = segment.area, segment.at_border(image.shape)
                row["vote_share"], row["stability"] = segment.vote_share, segment.stability
                row["mask"], row["thumbnail"] = self._files["masks"].tell(), self._files["thumbnails"].tell()
                packed = zlib.compress(np.packbits(segment.mask).tobytes(), 6)
                row["mask_bytes"] = self._files["masks"].write(packed)
                jpeg = io.BytesIO()
                Image.fromarray(thumbnail).save(jpeg, "JPEG", quality=85)
                row["thumbnail_bytes"] = self._files["thumbnails"].write(jpeg.getvalue())
            self._files["rows"].write(rows.tobytes())
            self._files["features"].write(np.asarray(features, np.float32).tobytes())
        self.images.append(image)
        self.count += len(segments)

    def finish(self, dim: int, components: int = LIMIT) -> Job[Path]:
        """Project the features (N, dim) to vectors, and put the part in its place; a long job.

        ``components`` bounds the principal components of each class. Raises HistomixError without a segment or room.
        """
        if self.count == 0:
            raise HistomixError("There is no segment to make a pool of.")
        with _writing(self.root):
            for file in self._files.values():
                file.close()
            yield from self._project(dim, components)
            about = {"signature": self.signature, "dim": dim, "images": [asdict(image) for image in self.images]}
            (self.partial / "part.json").write_text(json.dumps(about), encoding="utf-8")
            self.partial.rename(self.part)
        return self.part

    def _project(self, dim: int, components: int) -> Job[None]:
        """Write the segments' vectors and places on the map, and the projections that are new."""
        features = np.memmap(self.partial / "features.bin", np.float32, "r", shape=(self.count, dim))
        rows = np.fromfile(self.partial / "rows.bin", ROW)
        kinds = np.array([image.kind for image in self.images])[rows["image"]]
        known = _projections(self.root)

        def project(kind: str, members: NDArray[np.intp], projected: NDArray[np.float32], name: str) -> None:
            # A class, and the map, keep their first components, so that places and distances stay comparable.
            projection = known.get(kind) or Projection.fit(features, members, projected.shape[1])
            if kind not in known:
                np.savez(self.partial / f"projection-{name}.npz", kind=np.array(kind), **vars(projection))
            for start in range(0, len(members), CHUNK):
                chunk = members[start : start + CHUNK]
                projected[chunk] = projection.transform(features[chunk], projected.shape[1])

        names = sorted(set(kinds.tolist()))
        vectors = open_memmap(self.partial / "vectors.npy", "w+", np.float32, (self.count, components))
        for done, kind in enumerate(names):
            yield Event("Principal components", done, len(names))
            project(kind, np.flatnonzero(kinds == kind), vectors, f"{done:04d}")
        vectors.flush()
        yield Event("Drawing the map")
        places = np.empty((self.count, 2), np.float32)
        project(MAP, np.arange(self.count), places, "map")
        np.save(self.partial / "map.npy", places)


@dataclass(frozen=True, eq=False)
class _Part:
    folder: Path
    first: int  # number of its first segment in the pool
    dim: int
    count: int

    def array(self, name: str) -> NDArray[Any]:
        """Vectors or map places of all segments of the part, a memory map."""
        return np.load(self.folder / f"{name}.npy", mmap_mode="r")

    def features(self) -> NDArray[np.float32]:
        """Features from the encoder, (N, dim), a memory map."""
        return np.memmap(self.folder / "features.bin", np.float32, "r", shape=(self.count, self.dim))


class SegmentPool:
    """A pool on disk, opened for reading; segments are numbered from 0 in the order they were added.

    ``rows`` (N,) has the fields of ``ROW``; ``kinds`` are the class names in order, and ``image_kinds`` (N,) holds for
    each segment the index of its image's class in them.
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
                about = _about(part)
                added = np.fromfile(part / "rows.bin", ROW)
                added["image"] += len(images)
                for facts in about["images"]:
                    read = {"source": Source(**facts["source"]), "shape": tuple(facts["shape"])}
                    images.append(PoolImage(**facts | read))
                self._parts.append(_Part(part, sum(map(len, rows)), int(about["dim"]), len(added)))
                rows.append(added)
            self.signature: Mapping[str, Any] = about["signature"]
            self.projections = _projections(root)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise HistomixError(f"The segment pool in {folder} is damaged ({error}); build it again.") from None
        self.rows = np.concatenate(rows)
        self.images = tuple(images)
        if len(self.images) and int(self.rows["image"].max(initial=0)) >= len(self.images):
            raise HistomixError(f"The segment pool in {folder} is damaged; build it again.")
        self.kinds = tuple(sorted({image.kind for image in images}))
        self.image_kinds = np.array([self.kinds.index(image.kind) for image in images], np.intp)[self.rows["image"]]

    def __len__(self) -> int:
        return len(self.rows)

    def segment(self, number: int) -> Segment:
        """A segment with its mask."""
        row = self.rows[number]
        packed = np.frombuffer(zlib.decompress(self._piece(number, "mask")), np.uint8)
        shape = int(row["height"]), int(row["width"])
        mask = np.unpackbits(packed, count=shape[0] * shape[1]).reshape(shape).astype(bool)
        scores = float(row["vote_share"]), float(row["stability"])
        return Segment(int(row["number"]), int(row["row"]), int(row["col"]), mask, *scores)

    def image(self, number: int) -> PoolImage:
        """The image that a segment comes from."""
        return self.images[int(self.rows["image"][number])]

    def thumbnail(self, number: int) -> bytes:
        """JPEG of a segment."""
        return self._piece(number, "thumbnail")

    def places(self) -> NDArray[np.float32]:
        """Places (N, 2) of all segments on the map: the first two principal components over all classes."""
        return np.concatenate([part.array("map") for part in self._parts])

    def vectors(self, numbers: NDArray[np.intp], kind: str | None = None) -> NDArray[np.float32]:
        """Vectors (n, p) of segments; with ``kind``, also those of other classes' images are in that class's space."""
        numbers = np.asarray(numbers, np.intp)
        # Consecutive segments of one part are not copied: 1,000,000 vectors take half a gigabyte.
        consecutive = bool((np.diff(numbers) == 1).all()) and len(numbers) > 0
        for part in self._parts if consecutive else ():
            if part.first <= numbers[0] and numbers[-1] < part.first + part.count:
                vectors = part.array("vectors")[numbers[0] - part.first : numbers[-1] + 1 - part.first]
                break
        else:
            vectors = np.empty((len(numbers), self._parts[0].array("vectors").shape[1]), np.float32)
            for part in self._parts:
                here = np.flatnonzero((numbers >= part.first) & (numbers < part.first + part.count))
                vectors[here] = part.array("vectors")[numbers[here] - part.first]
        if kind is None:
            return vectors
        foreign = np.flatnonzero(np.array(self.kinds)[self.image_kinds[numbers]] != kind)
        if len(foreign):
            vectors = np.array(vectors)
            for place in foreign:
                part = self._part(int(numbers[place]))
                features = np.asarray(part.features()[[int(numbers[place]) - part.first]])
                vectors[place] = self.projections[kind].transform(features, vectors.shape[1])[0]
        return vectors

    def _part(self, number: int) -> _Part:
        return next(part for part in reversed(self._parts) if part.first <= number)

    def _piece(self, number: int, what: str) -> bytes:
        """The bytes of a segment's mask or thumbnail."""
        row = self.rows[number]
        with (self._part(number).folder / f"{what}s.bin").open("rb") as file:
            file.seek(int(row[what]))
            return file.read(int(row[f"{what}_bytes"]))


def decided(
    pool: SegmentPool, decisions: Mapping[str, Mapping[int, str]]
) -> tuple[NDArray[np.int8], NDArray[np.int16]]:
    """What people decided on the segments of a pool: codes of ``DECIDED`` (N,), and classes, as places in ``kinds``.

    ``decisions`` are by subject (``segment``, ``segment class``) and number. What the pool lacks is passed over.
    """
    decision, kind = np.zeros(len(pool), np.int8), pool.image_kinds.astype(np.int16)
    for number, word in decisions.get("segment", {}).items():
        if number < len(pool):
            decision[number] = DECIDED.index(word)
    places = {name: place for place, name in enumerate(pool.kinds)}
    for number, name in decisions.get("segment class", {}).items():
        if number < len(pool):
            kind[number] = places.get(name, kind[number])
    return decision, kind


def drawable(pool: SegmentPool, decision: NDArray[np.int8], kind: NDArray[np.int16], name: str) -> NDArray[np.intp]:
    """Numbers (n,) of the segments of a class that nobody dropped; none for a class that the pool lacks."""
    place = pool.kinds.index(name) if name in pool.kinds else -1
    return np.flatnonzero((kind == place) & (decision != DECIDED.index("drop")))


def has_pool(folder: Path) -> bool:
    """Whether a study's folder holds a segment pool; the remains of a killed build are not one."""
    return bool(_part_folders(Path(folder) / POOL))


def _part_folders(root: Path) -> list[Path]:
    return sorted(part for part in root.glob("part-[0-9][0-9][0-9][0-9]") if (part / "part.json").is_file())


def _about(part: Path) -> Any:
    return json.loads((part / "part.json").read_text(encoding="utf-8"))


def _check_signature(root: Path, signature: Mapping[str, Any]) -> None:
    """Raise HistomixError if the pool was made with another encoder, prompter or settings."""
    made = _about(_part_folders(root)[0])["signature"]
    wanted = json.loads(json.dumps(dict(signature)))
    for key in sorted(made.keys() | wanted.keys()):
        if made.get(key) != wanted.get(key):
            raise HistomixError(
                f"The segment pool was made with another {key} ({made.get(key)}, not {wanted.get(key)}); "
                "build it again, or choose what it was made with."
            )


def _projections(root: Path) -> dict[str, Projection]:
    projections: dict[str, Projection] = {}
    for part in _part_folders(root):
        for file in sorted(part.glob("projection-*.npz")):
            with np.load(file, allow_pickle=False) as fitted:
                projection = Projection(fitted["mean"], fitted["spread"], fitted["axes"])
                projections.setdefault(str(fitted["kind"]), projection)
    return projections


@contextmanager
def _writing(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise HistomixError(f"{root} cannot be written ({reason}); make room, or choose another folder.") from None
