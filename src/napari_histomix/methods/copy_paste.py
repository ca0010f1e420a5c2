"""Copy-and-paste: donors pasted hard at random places (Ghiasi et al., arXiv 2012.07177)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from napari_histomix.compositing import ImageCache, IndexedImage
from napari_histomix.methods.base import Work
from napari_histomix.methods.nucleimix import CANDIDATES
from napari_histomix.methods.pasting import (
    VISIBLE,
    CandidateDonorSettings,
    Pasting,
    Site,
    at_random,
    in_place,
    kept_candidates,
    lay_donor,
)
from napari_histomix.records import DONOR, KEEP, REAL, Change, Job
from napari_histomix.settings import Option


@dataclass(frozen=True, kw_only=True)
class CopyPasteSettings(CandidateDonorSettings):
    """How donors are pasted."""

    stain_matching: Annotated[bool, Option("Match each donor's stain to the target's surroundings.")] = True
    symmetries: Annotated[bool, Option("Turn and mirror donors at random (lossless).", advanced=True)] = True


class CopyPaste(Pasting[CopyPasteSettings]):
    """A donor's own mask at a random place; nuclei under it are clipped, or dropped where hardly any is left to see."""

    name, title = "copypaste", "CopyPaste"
    makes = "rare nuclei pasted with hard edges at random places in the tissue."
    citation = "Ghiasi et al., Simple Copy-Paste, CVPR 2021, arXiv 2012.07177"
    settings, stage = CopyPasteSettings, CANDIDATES

    def sites(self, work: Work, settings: CopyPasteSettings, images: ImageCache) -> Job[Iterable[Site]]:
        """The donors of the candidates, by rank, each at a random place."""
        yield from ()
        candidates = kept_candidates(work, self.name, settings.kept_only)
        donors = ((candidate.rank, candidate.donor) for candidate in candidates)
        return at_random(donors, work.dataset, images, settings.seed)

    def lay(self, site: Site, target: IndexedImage, giver: IndexedImage, settings: CopyPasteSettings) -> Change | str:
        """Paste the donor's mask and nothing around it."""
        laid = lay_donor(site, target, giver, symmetries=settings.symmetries, stain_matching=settings.stain_matching)
        if isinstance(laid, str):
            return laid
        nucleus = laid.within(laid.box, laid.crop.nucleus)
        return in_place(
            site,
            target,
            (laid.box[0].start, laid.box[1].start),
            laid.within(laid.box, laid.pixels),
            np.where(nucleus, DONOR, REAL).astype(np.uint8),
            np.where(nucleus, site.instance, KEEP).astype(np.int32),
            {site.instance: site.donor.type},
            laid.facts,
            visible=VISIBLE,
        )


METHOD = CopyPaste()
