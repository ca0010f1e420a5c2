"""MixUp: two images and their classes averaged (Zhang et al., arXiv 1710.09412)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from napari_histomix.datasets import Entry
from napari_histomix.methods.base import Needs, Plan, Work
from napari_histomix.methods.deriving import Derivation, Derived, Deriving, fitted, mixed_shares, partner_pixel
from napari_histomix.methods.pasting import DonorSettings
from napari_histomix.methods.record import Record
from napari_histomix.records import DONOR, HistomixError, Job, LabeledImage
from napari_histomix.settings import Option


@dataclass(frozen=True, kw_only=True)
class MixUpSettings(DonorSettings):
    """How images are mixed."""

    alpha: Annotated[
        float, Option("Of Beta(α, α), which the target's share is drawn from.", label="α", low=0.01, high=100.0)
    ] = 0.2


class MixUp(Deriving[MixUpSettings]):
    """λ · target + (1 − λ) · partner, of pixels and classes alike."""

    name, title = "mixup", "MixUp"
    makes = "weighted means of two images, with the classes shared in proportion."
    citation = "Zhang et al., mixup: Beyond Empirical Risk Minimization, ICLR 2018, arXiv 1710.09412"
    needs, settings = Needs(kinds=True), MixUpSettings

    def plan(self, work: Work, settings: MixUpSettings) -> Job[Plan[Derivation]]:
        """As for all derived images, of images without nuclei alone."""
        if work.dataset.has_nuclei:
            raise HistomixError(
                "MixUp averages whole images, and the nuclei that are labeled in these would lie half in each; "
                "choose a method for labeled nuclei."
            )
        return (yield from super().plan(work, settings))

    def mixes(self, target: Entry, other: Entry) -> bool:
        """Any other image will do."""
        return other != target

    def derive(
        self, target: LabeledImage, partner: LabeledImage | None, rng: np.random.Generator, settings: MixUpSettings
    ) -> Derived:
        """Draw λ and average."""
        assert partner is not None
        share = float(rng.beta(settings.alpha, settings.alpha))
        other, facts = fitted(partner, target, rng)
        mean = share * target.pixels.astype(np.float64) + (1 - share) * other
        pixels = np.rint(mean).astype(np.uint8)
        origin = np.full(pixels.shape[:2], DONOR, np.uint8)
        shares = mixed_shares(target.kind, partner.kind, share)
        return Derived(pixels, origin, class_shares=shares, facts={"lambda": share, "partner": facts})

    def trace(self, record: Record, row: int, col: int, painted: bool) -> Mapping[str, Any]:
        """The partner's pixel, and the share of the target's."""
        return {**partner_pixel(record, row, col), "target_share": record.provenance["lambda"]}


METHOD = MixUp()
