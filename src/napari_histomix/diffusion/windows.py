"""Between a plan and the inpainting engine: model-sized windows around holes, and the way back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_histomix.compositing.contours import Mask
from napari_histomix.compositing.planning import TOO_LARGE, Plan
from napari_histomix.datasets.run_lengths import mask_text
from napari_histomix.records import DONOR, INPAINTED, REAL, Job, LabeledImage, Placement

if TYPE_CHECKING:
    from napari_histomix.diffusion.inpainter import Window
    from napari_histomix.diffusion.prompted import AnyModel
    from napari_histomix.diffusion.samplers import Sampler

CONTEXT = 8
"""Pixels of the model that are kept between a hole and its window's border."""


@dataclass(frozen=True, eq=False)
class WindowedPlan:
    """A plan in its window: ``pixels`` (S, S, 3) of the target, the patch at (``row``, ``col``) in the window.

    ``side`` is the window's side at the model's scale, ``instance`` the id the new nucleus gets once it is accepted.
    """

    plan: Plan
    pixels: NDArray[np.uint8]
    row: int
    col: int
    side: int
    instance: int = 0

    def in_window(self, mask: Mask) -> Mask:
        """A mask of the patch (h, w) as a mask of the window (S, S)."""
        whole = np.zeros(self.pixels.shape[:2], bool)
        whole[self.row : self.row + mask.shape[0], self.col : self.col + mask.shape[1]] = mask
        return whole


def windowed(plan: Plan, image: LabeledImage, model: AnyModel) -> WindowedPlan | str:
    """Center the smallest fitting window of the model on a plan's hole, or say that none fits.

    The window is moved into the image where it would stick out; an image smaller than the window is mirrored at its
    border. Images outside the model's range of µm/px get windows that the engine resamples.
    """
    low, high = model.mpp
    factor = image.mpp / min(max(image.mpp, low), high)
    rows, cols = np.nonzero(plan.changed)
    extent = max(int(np.ptp(rows)), int(np.ptp(cols))) + 1
    fitting = [side for side in model.windows if side >= extent * factor + 2 * CONTEXT]
    if not fitting:
        return TOO_LARGE
    side = max(extent + 2, round(fitting[0] / factor))
    corner = []
    for axis, size in zip((rows + plan.row, cols + plan.col), image.instances.shape, strict=True):
        middle = (int(axis.min()) + int(axis.max()) + 1) // 2
        corner.append(min(max(middle - side // 2, 0), max(size - side, 0)))
    top, left = corner
    pixels = image.pixels[top : top + side, left : left + side]
    short = [(0, side - size) for size in pixels.shape[:2]]
    if any(after for _, after in short):
        pixels = np.pad(pixels, [*short, (0, 0)], mode="symmetric")
    # The patch has a margin that may stick out of the window; the changed pixels never do.
    return _cropped(plan, pixels.copy(), top, left, fitting[0])


def _cropped(plan: Plan, pixels: NDArray[np.uint8], top: int, left: int, side: int) -> WindowedPlan:
    """The plan with its patch cut to the window."""
    height, width = plan.donor.shape
    first = max(top - plan.row, 0), max(left - plan.col, 0)
    stop = min(height, top + len(pixels) - plan.row), min(width, left + len(pixels) - plan.col)
    cut = slice(first[0], stop[0]), slice(first[1], stop[1])
    row, col = plan.row + first[0], plan.col + first[1]
    nucleus, donor, erased, blended = (
        np.ascontiguousarray(mask[cut]) for mask in (plan.nucleus, plan.donor, plan.erased, plan.blended)
    )
    inner = Plan(
        plan.candidate,
        plan.seed,
        row,
        col,
        plan.donor_pixels[cut],
        nucleus,
        donor,
        erased,
        blended,
        plan.provenance,
    )
    return WindowedPlan(inner, pixels, row - top, col - left, side)


def _seed(seed: int, stage: int) -> int:
    return int(np.random.SeedSequence([seed, stage]).generate_state(1, np.uint64)[0] >> 1)


def first_stage(planned: WindowedPlan) -> Window:
    """Stage 1: the replaced nucleus hidden, to be inpainted to clean background."""
    from napari_histomix.diffusion.inpainter import Window

    return Window(planned.pixels, planned.in_window(planned.plan.erased), _seed(planned.plan.seed, 1), planned.side)


def second_stage(planned: WindowedPlan, background: NDArray[np.uint8]) -> Window:
    """Stage 2: the donor laid on ``background`` (S, S, 3), its transition zone hidden."""
    from napari_histomix.diffusion.inpainter import Window

    pixels = background.copy()
    donor = planned.in_window(planned.plan.donor)
    pixels[donor] = planned.plan.donor_pixels[planned.plan.donor]
    return Window(pixels, planned.in_window(planned.plan.blended), _seed(planned.plan.seed, 2), planned.side)


def painted(
    plans: Sequence[WindowedPlan], model: AnyModel, disc: Sampler, ring: Sampler, *, device: str, batch: int
) -> Job[list[NDArray[np.uint8]]]:
    """Erase what is replaced, then blend the donors in; a long job (see ``records.Job``).

    Parameters
    ----------
    plans : sequence of WindowedPlan
    model : InpaintingModel or PromptedModel
    disc, ring : Sampler
        For erased nuclei, and for transition zones.
    device, batch
        As for ``inpainter.inpaint``.

    Returns
    -------
    list of (S, S, 3) uint8
        The blended window of each plan.

    Raises
    ------
    HistomixError
        As ``inpainter.inpaint``.
    """
    from napari_histomix.diffusion.inpainter import inpaint

    replacing = [number for number, plan in enumerate(plans) if plan.plan.erased.any()]
    jobs = [first_stage(plans[number]) for number in replacing]
    cleared = yield from inpaint(jobs, model, disc, device=device, batch=batch, phase="Erasing nuclei")
    background = dict(zip(replacing, cleared, strict=True))
    jobs = [second_stage(plan, background.get(number, plan.pixels)) for number, plan in enumerate(plans)]
    blended: list[NDArray[np.uint8]] = yield from inpaint(
        jobs, model, ring, device=device, batch=batch, phase="Blending nuclei"
    )
    return blended


def finished_placement(planned: WindowedPlan, pixels: NDArray[np.uint8], how: Mapping[str, Any]) -> Placement:
    """The placement a blended window (S, S, 3) gives; ``how`` is added to its provenance."""
    plan = planned.plan
    height, width = plan.donor.shape
    patch = pixels[planned.row : planned.row + height, planned.col : planned.col + width]
    origin = np.where(plan.donor, DONOR, np.where(plan.erased | plan.blended, INPAINTED, REAL)).astype(np.uint8)
    patch = np.where((origin != REAL)[..., None], patch, 0).astype(np.uint8)
    place = {"row": plan.row, "col": plan.col, **mask_text(origin != REAL)}
    provenance = {**plan.provenance, "changed": place, **how}
    return Placement(
        plan.candidate, planned.instance, plan.row, plan.col, patch, origin, plan.nucleus, plan.seed, provenance
    )
