"""Plans painted by the inpainting engine: model-sized windows around holes, and the way back to changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from napari_histomix.compositing.donors import Mask
from napari_histomix.compositing.planning import TOO_LARGE, Plan
from napari_histomix.datasets.formats.polygons import mask_text
from napari_histomix.records import DONOR, INPAINTED, KEEP, REAL, Change, Event, Job, LabeledImage, SourceRef, relayed
from napari_histomix.sampling import item_seed

if TYPE_CHECKING:
    from napari_histomix.diffusion.inpainter import Engine, Window
    from napari_histomix.diffusion.models import AnyModel
    from napari_histomix.diffusion.samplers import Sampler

T = TypeVar("T")

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

    @property
    def window(self) -> tuple[slice, slice]:
        return self.plan.window

    @property
    def changed(self) -> Mask:
        """Pixels of the patch that will change, (h, w)."""
        return self.plan.changed

    @property
    def replaces(self) -> bool:
        """Whether a nucleus is erased before the donor is laid there."""
        return bool(self.plan.erased.any())

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
    first = max(top - plan.row, 0), max(left - plan.col, 0)
    height, width = plan.donor.shape
    stop = min(height, top + len(pixels) - plan.row), min(width, left + len(pixels) - plan.col)
    inside = slice(first[0], stop[0]), slice(first[1], stop[1])
    row, col = plan.row + first[0], plan.col + first[1]
    arrays = ("donor_pixels", "nucleus", "donor", "erased", "blended")
    parts: dict[str, Any] = {name: np.ascontiguousarray(getattr(plan, name)[inside]) for name in arrays}
    return WindowedPlan(replace(plan, row=row, col=col, **parts), pixels.copy(), row - top, col - left, fitting[0])


def first_stage(planned: WindowedPlan) -> Window:
    """Stage 1: the replaced nucleus hidden, to be inpainted to clean background."""
    from napari_histomix.diffusion.inpainter import Window

    return Window(planned.pixels, planned.in_window(planned.plan.erased), item_seed(planned.plan.seed, 1), planned.side)


def second_stage(planned: WindowedPlan, background: NDArray[np.uint8]) -> Window:
    """Stage 2: the donor laid on ``background`` (S, S, 3), its transition zone hidden."""
    from napari_histomix.diffusion.inpainter import Window

    pixels = background.copy()
    donor = planned.in_window(planned.plan.donor)
    pixels[donor] = planned.plan.donor_pixels[planned.plan.donor]
    return Window(pixels, planned.in_window(planned.plan.blended), item_seed(planned.plan.seed, 2), planned.side)


@dataclass(frozen=True, eq=False)
class PaintItem:
    """A plan to be painted, with the id of its change and the provenance that it gets beside the plan's own."""

    id: int
    plan: WindowedPlan
    how: Mapping[str, Any]

    @property
    def image(self) -> str:
        return self.plan.plan.candidate.target.image


def paint_changes(
    items: Sequence[PaintItem], model: AnyModel, stages: Mapping[str, Sampler], *, method: str, device: str, batch: int
) -> Job[None]:
    """Paint plans in chunks of ``batch``; a long job whose events hand over the changes of each (``Event.made``).

    What is replaced is erased with the sampler ``stages["disc"]``, then donors are blended in with ``stages["ring"]``.
    Raises HistomixError as ``inpainter.inpaint`` does.
    """
    from napari_histomix.diffusion.inpainter import opened

    disc, ring = stages["disc"], stages["ring"]
    # Alike windows side by side: only those of one size share a denoising batch.
    waiting = sorted(items, key=lambda item: (item.plan.side, item.plan.replaces))
    steps = [ring.forwards + (disc.forwards if item.plan.replaces else 0) for item in waiting]
    engine = opened(model, device)
    for start in range(0, len(waiting), batch):
        chunk = waiting[start : start + batch]
        painting = _painted([item.plan for item in chunk], engine, disc, ring)
        blended = yield from _counted(painting, sum(steps[:start]), sum(steps))
        made = tuple(
            finished_change(item.plan, pixels, number=item.id, method=method, how=item.how)
            for item, pixels in zip(chunk, blended, strict=True)
        )
        yield Event("Blending nuclei", sum(steps[: start + batch]), sum(steps), made=made)


def finished_change(
    planned: WindowedPlan, pixels: NDArray[np.uint8], *, number: int, method: str, how: Mapping[str, Any]
) -> Change:
    """The change with the id ``number`` of a blended window (S, S, 3); ``how`` is added to the plan's provenance."""
    plan, instance, changed = planned.plan, planned.instance, planned.changed
    target, donor = plan.candidate.target, plan.candidate.donor
    height, width = plan.donor.shape
    patch = pixels[planned.row : planned.row + height, planned.col : planned.col + width]
    place = {"row": plan.row, "col": plan.col, **mask_text(changed)}
    return Change(
        id=number,
        image=target.image,
        name=target.image,
        row=plan.row,
        col=plan.col,
        pixels=np.where(changed[..., None], patch, 0).astype(np.uint8),
        origin=np.where(plan.donor, DONOR, np.where(changed, INPAINTED, REAL)).astype(np.uint8),
        labels=np.where(plan.nucleus, instance, KEEP).astype(np.int32),
        added={instance: donor.type},
        removed=(target.instance,) if target.instance else (),
        class_shares=None,
        method=method,
        seed=plan.seed,
        sources=(SourceRef.of("target", target), SourceRef.of("donor", donor)),
        score=plan.candidate.percentile,
        provenance={**plan.provenance, "changed": place, **how},
    )


def _painted(
    plans: Sequence[WindowedPlan], engine: Engine, disc: Sampler, ring: Sampler
) -> Job[list[NDArray[np.uint8]]]:
    """Erase what is replaced, then blend the donors in; returns the blended window (S, S, 3) of each plan."""
    from napari_histomix.diffusion.inpainter import inpaint

    replacing = [number for number, plan in enumerate(plans) if plan.replaces]
    windows = [first_stage(plans[number]) for number in replacing]
    cleared = yield from inpaint(windows, engine, disc, batch=len(plans), phase="Erasing nuclei")
    background = dict(zip(replacing, cleared, strict=True))
    windows = [second_stage(plan, background.get(number, plan.pixels)) for number, plan in enumerate(plans)]
    blending = inpaint(windows, engine, ring, batch=len(plans), phase="Blending nuclei")
    return (yield from _counted(blending, len(replacing) * disc.forwards))


def _counted(job: Job[T], before: int, total: int = 0) -> Job[T]:
    """A job that is a part of a larger one: ``before`` steps of ``total`` were done when it began."""
    return relayed(job, lambda event: replace(event, done=before + event.done, total=total))
