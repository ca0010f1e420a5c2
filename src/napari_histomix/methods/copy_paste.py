"""Copy-and-paste: donors pasted hard at random places (Ghiasi et al., arXiv 2012.07177)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from napari_histomix.compositing.indexed_image import ImageCache, IndexedImage
from napari_histomix.methods.base import Work
from napari_histomix.methods.candidate_stage import CANDIDATES
from napari_histomix.methods.pasting import VISIBLE, CandidateDonorSettings, Pasting, Site, lay_donor, put_nucleus
from napari_histomix.records import Change, Job
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
        candidates = self.kept_candidates(work, settings.kept_only)
        donors = ((candidate.rank, candidate.donor) for candidate in candidates)
        return self.at_random(donors, work, settings, images)

    def lay(self, site: Site, target: IndexedImage, giver: IndexedImage, settings: CopyPasteSettings) -> Change | str:
        """Paste the donor's mask and nothing around it."""
        laid = lay_donor(site, target, giver, symmetries=settings.symmetries, stain_matching=settings.stain_matching)
        if isinstance(laid, str):
            return laid
        return put_nucleus(site, target, laid.box, laid, laid.within(laid.box, laid.pixels), visible=VISIBLE)


METHOD = CopyPaste()
