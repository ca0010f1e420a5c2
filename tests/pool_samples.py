"""Small segment pools in small studies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from napari_histomix.records import Segment, Source, drain
from napari_histomix.segmentation.pool import PoolImage, PoolWriter, SegmentPool
from napari_histomix.study import Study

SIGNATURE = {"prompter": "tree", "encoder": "texture"}
DIM = 6


def segment(number: int, side: int = 10, at: tuple[int, int] = (20, 30), vote_share: float = 1.0) -> Segment:
    return Segment(number, *at, np.ones((side, side), bool), vote_share, 1 - vote_share / 2)


def add_part(
    folder: Path, images: Sequence[tuple[str, str, str, Sequence[Segment]]], features: np.ndarray | None = None
) -> None:
    """Images as (name, class, patient, segments), of 200 by 200 pixels at 0.5 µm."""
    count = sum(len(one[3]) for one in images)
    if features is None:
        features = np.random.default_rng(0).normal(size=(count, DIM)).astype(np.float32)
    at = 0
    with PoolWriter(folder, SIGNATURE) as writer:
        for name, kind, patient, segments in images:
            thumbnails = [np.full((96, 96, 3), 40 + 7 * one.number % 200, np.uint8) for one in segments]
            image = PoolImage(Source("tiny", name, patient=patient), kind, (200, 200), 0.5, "0" * 64)
            writer.add(image, segments, features[at : at + len(segments)], thumbnails)
            at += len(segments)
        drain(writer.finish(DIM))


def plain_images() -> list[tuple[str, str, str, list[Segment]]]:
    """Eight segments: four and three of two classes, one of a third; numbers 3 and 6 touch the border."""
    return [
        (
            "g2/one",
            "grade 2",
            "Ann",
            [segment(1, 10, vote_share=0.9), segment(2, 20, vote_share=0.5), segment(3, 30), segment(4, 10, (0, 50))],
        ),
        ("g3/two", "grade 3", "Bob", [segment(1, 12), segment(2, 14), segment(7, 16, (100, 184))]),
        ("g4/three", "grade 4", "Bob", [segment(1, 40, (60, 60))]),
    ]


def make_study(folder: Path, images: Sequence[tuple[str, str, str, Sequence[Segment]]] | None = None) -> Study:
    study = Study.create(folder, folder.parent, "tiny")
    add_part(folder, plain_images() if images is None else images)
    return study


def make_pool(folder: Path) -> tuple[Study, SegmentPool]:
    study = make_study(folder)
    return study, SegmentPool(folder)
