"""What a search of candidates learned, kept beside them: it scores one more place and chooses a donor for it."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_histomix.methods.candidate_places import Scores
from napari_histomix.records import HistomixError, Location
from napari_histomix.sampling import ContextModel

LEARNED = "learned_places"
"""Where a study's ``settings`` keep the name of the file."""
ABSENT = (
    "What the search learned is not kept with these candidates: an earlier version found them, or they were read from "
    "a table. Find candidates in a new study to place nuclei by hand."
)
Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LearnedPlaces:
    """What a search learned of d features of surroundings.

    Parameters
    ----------
    arrays : mapping of str to array
        ``shift``, ``scale`` and ``center`` (d,) and ``axes`` (p, d) lead to p principal components; ``mean`` (p,) and
        ``covariance`` (p, p) are those of rare surroundings. ``own`` (r,) are the scores of rare surroundings in
        ascending order. Of n donors, ``donors`` (n, p) are the components and ``areas`` (n,) are in µm². Density
        ratios are linear: ``weights`` (K, d) and ``biases`` (K,), a row for each model, and ``calibration`` (2, m).
    donors : tuple of Location
        In the order of the arrays.
    folds : mapping of str to int
        Row of the model that did not learn from an image, by its name; empty under the Gaussian.
    """

    arrays: Mapping[str, Array]
    donors: tuple[Location, ...]
    folds: Mapping[str, int]

    @classmethod
    def of(
        cls, model: ContextModel, donors: Sequence[Location], components: Array, areas: Array, scores: Scores
    ) -> LearnedPlaces:
        """From the parts of a search; ``components`` (n, p) and ``areas`` (n,) are those of the donors."""
        arrays = {
            "shift": model.scaler.mean_,
            "scale": model.scaler.scale_,
            "center": model.pca.mean_,
            "axes": model.pca.components_,
            "mean": model.mean,
            "covariance": model.covariance,
            "own": scores.own,
            "donors": components,
            "areas": areas,
        }
        ratios = scores.ratios
        if ratios is not None:
            weights = np.array([each.coefficients / each.scale for each in ratios.models])
            means = np.array([each.mean for each in ratios.models])
            biases = np.array([each.intercept for each in ratios.models]) - (weights * means).sum(axis=1)
            arrays |= {"weights": weights, "biases": biases, "calibration": ratios.calibration}
        kept = {name: np.asarray(values, np.float64) for name, values in arrays.items()}
        return cls(kept, tuple(donors), dict(ratios.folds) if ratios is not None else {})

    def save(self, folder: Path) -> str:
        """Write it into a folder under a name that tells its content; returns the name."""
        about = json.dumps({"donors": [asdict(donor) for donor in self.donors], "folds": self.folds}, sort_keys=True)
        stream = io.BytesIO()
        np.savez_compressed(stream, about=np.array(about), **self.arrays)  # type: ignore[arg-type]
        content = stream.getvalue()
        name = f"search-{hashlib.sha256(content).hexdigest()[:16]}.npz"
        partial = folder / f"{name}.{os.getpid()}.partial"
        try:
            partial.write_bytes(content)
            os.replace(partial, folder / name)
        except OSError as error:
            raise HistomixError(f"{folder / name} cannot be written ({error.strerror}); check the disk.") from None
        return name

    @classmethod
    def load(cls, folder: Path, settings: Mapping[str, Any]) -> LearnedPlaces:
        """Read what was kept in a study's folder, by the study's ``settings``; HistomixError where nothing was."""
        path = folder / str(settings.get(LEARNED, ""))
        if not path.is_file():
            raise HistomixError(ABSENT)
        try:
            content = path.read_bytes()
            if path.name != f"search-{hashlib.sha256(content).hexdigest()[:16]}.npz":
                raise ValueError("its name is not that of its content")
            with np.load(io.BytesIO(content), allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files if name != "about"}
                about = json.loads(str(stored["about"]))
            return cls(arrays, tuple(Location(**donor) for donor in about["donors"]), about["folds"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise HistomixError(f"{path} is damaged ({error}); restore it from a backup.") from None

    def components(self, features: NDArray[np.float32]) -> Array:
        """Principal components (p,) of the features (d,) of a place."""
        scaled = (features - self.arrays["shift"]) / self.arrays["scale"]
        return np.asarray((scaled - self.arrays["center"]) @ self.arrays["axes"].T)

    def score(self, features: NDArray[np.float32], image: str) -> tuple[float, float]:
        """The score of a place of an image, and its percentile among those of rare nuclei, as a search gives them."""
        own = self.arrays["own"]
        if "weights" in self.arrays:
            row = self.folds.get(image, 0)
            raw = float(self.arrays["weights"][row] @ features + self.arrays["biases"][row])
            value = float(np.interp(raw, *self.arrays["calibration"]))
        else:
            from scipy.stats import multivariate_normal

            density = multivariate_normal(self.arrays["mean"], self.arrays["covariance"])
            raw = value = float(density.logpdf(self.components(features)))
        return value, 100.0 * int(np.searchsorted(own, raw, side="right")) / len(own)
