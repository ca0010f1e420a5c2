"""How the network learns that paints layouts: structure-conditioned diffusion with dropped conditions.

Windows are hidden whole, or of a few nuclei with their surroundings shown: the same weights paint whole tiles, and
inside real images. Labels are dropped now and then, so that guidance can compare (Ho & Salimans, arXiv 2207.12598); the
classes alone, so that nuclei without one can be painted; and the stain, so that none has to be asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from napari_histomix.datasets import Dataset
from napari_histomix.diffusion.inpainter import as_pixels
from napari_histomix.diffusion.model_files import WEIGHTS_FILE, load_part, read_card, read_json
from napari_histomix.generation.denoising import denoise
from napari_histomix.generation.image_model import VECTOR, stain_vector
from napari_histomix.generation.layout import Layout
from napari_histomix.generation.models import adapted, load_generator
from napari_histomix.generation.networks import ConditionedUNet, adopt_weights
from napari_histomix.generation.structure import CONDITION_MAPS, condition_maps
from napari_histomix.records import HistomixError, Job, instance_ids
from napari_histomix.training.consistency import Consistency
from napari_histomix.training.inpainting import few_bits
from napari_histomix.training.labeled_diffusion import LabeledDiffusion, mean_error
from napari_histomix.training.labeled_windows import (
    LabeledBatches,
    LabeledPicture,
    LabeledWindow,
    class_names,
    labeled_pictures,
)
from napari_histomix.training.settings import ImageSettings

CHECKED = 24
SHOWN = 4
NO_STAIN = 0.15
"""Share of windows whose stain is not given."""


def as_tensor(pixels: Sequence[NDArray[np.uint8]]) -> Tensor:
    """(N, 3, H, W) in [−1, 1] of RGB pixels (H, W, 3)."""
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1


class ImageRecipe(LabeledDiffusion):
    """The network that paints layouts."""

    columns = ("Labels", "Painted", "Real")
    what = (
        "A network that paints H&E from labels, in pixels or inside a real image. Input: noisy RGB, known RGB, hole; "
        "maps of the labels; stain. Output: v-prediction."
    )
    windows = (64, 96, 128, 192, 256)

    def __init__(self, settings: ImageSettings, start: Path | None, _autoencoder: Path | None = None) -> None:
        super().__init__(settings, start)
        if settings.window % 4:
            raise HistomixError("Windows of this network must be multiples of 4 pixels.")
        self.consistency: Consistency | None = None

    def pictures(
        self, sources: Sequence[Path | Dataset], seed: int, splits: Mapping[str, str] | None
    ) -> Job[tuple[list[LabeledPicture], list[LabeledPicture]]]:
        """Labeled pictures; their classes are those that the network will know."""
        learned, checked = yield from labeled_pictures(sources, self.settings, splits)
        self.classes = class_names(learned)
        self.network = begun(self.start, self.classes)
        if (settings := self.settings).consistency:
            segmenter = load_generator(settings.segmenter, "segmenter")
            self.consistency = Consistency(segmenter, self.classes, settings.window_mpp, settings.window)
        return learned, checked

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the model card says beside the run; images that the segmenter learned from shaped this network, too."""
        if self.consistency is None:
            return super().facts
        segmenter = self.consistency.model
        learned = {"training_pixels": segmenter.card.get("training_pixels", [])}
        return {**super().facts, "segmenter": segmenter.name, "segmenter_sha256": segmenter.sha256, **learned}

    def fixed(self, pictures: Sequence[LabeledPicture]) -> tuple[Tensor, ...]:
        """The windows of the validation loss."""
        rng = np.random.default_rng(0)
        batches = LabeledBatches(pictures, self.settings, self.prepare)
        windows = [window for step in range(CHECKED) for window in batches.windows(step)][:CHECKED]
        return self.prepare(windows, rng, dropped=False)

    def prepare(
        self, windows: Sequence[LabeledWindow], rng: np.random.Generator, dropped: bool = True
    ) -> tuple[Tensor, ...]:
        """Images, holes and where the loss counts (N, 1, S, S), maps (N, M, S, S) and vectors (N, V) of windows."""
        settings = self.settings
        holes, maps, vectors = [], [], []
        for window in windows:
            holes.append(random_hole(window, settings.holes if dropped else 0.0, rng))
            layout, present = window.layout, not (dropped and rng.random() < settings.dropout)
            if dropped and rng.random() < settings.unclassed:
                layout = Layout(layout.instances, dict.fromkeys(layout.classes, ""), layout.mpp)
            maps.append(condition_maps(layout, self.classes, window.ignore, present))
            vectors.append(stain_vector(None if dropped and rng.random() < NO_STAIN else window.stain))
        hole = torch.from_numpy(np.stack(holes))[:, None].float()
        ignored = torch.from_numpy(np.stack([window.ignore for window in windows]))[:, None].float()
        return (
            as_tensor([window.pixels for window in windows]),
            hole,
            hole * (1 - ignored),
            torch.from_numpy(np.stack(maps)),
            torch.from_numpy(np.stack(vectors)),
        )

    def _predicted(self, network: Any, batch: Any, noisy: Tensor, times: Tensor) -> Tensor:
        images, hole, _, maps, vectors = batch
        seen = torch.cat([noisy, images * (1 - hole), hole], dim=1)
        with few_bits(images.device):
            predicted: Tensor = network(seen.contiguous(memory_format=torch.channels_last), times, maps, vectors)
        return predicted

    def _error(self, predicted: Tensor, batch: Any, times: Tensor, noise: Tensor) -> Tensor:
        return mean_error(predicted, self.scheduler.get_velocity(batch[0], noise, times), batch[2])

    def _besides(self, predicted: Tensor, batch: Any, noisy: Tensor, times: Tensor) -> Tensor | float:
        """What a segmenter misses in the estimate, most of all where signal and noise are alike.

        With more noise the estimate is a blur; with less, borders are settled and what is left is chromatin, which a
        segmenter would do without.
        """
        if self.consistency is None:
            return 0.0
        images, hole, counted, maps, _ = batch
        alphas = self.scheduler.alphas_cumprod.to(images.device)[times].view(-1, 1, 1, 1)
        clean = alphas.sqrt() * noisy - (1 - alphas).sqrt() * predicted.float()
        painted = images * (1 - hole) + clean * hole
        loss = self.consistency.loss(painted, maps, counted * maps[:, -1:] * 4 * alphas * (1 - alphas))
        return self.settings.consistency * loss

    @torch.no_grad()
    def shown(self, network: Any, batch: Any) -> NDArray[np.uint8]:
        """Labels, painted and real side by side, one row a window."""
        images, _, _, maps, vectors = (tensor[:SHOWN] for tensor in batch)
        size = maps.shape[-1]
        blank = torch.zeros(len(maps), 4, size, size, device=maps.device)
        blank[:, 3] = 1
        *_, made = denoise(
            network, self.schedule, (3, size, size), maps, vectors, range(len(maps)), beside=blank, steps=15
        )
        labels = (maps[:, :3] * 255).permute(0, 2, 3, 1).cpu().numpy().astype(np.uint8)
        columns = [labels, as_pixels(made), as_pixels(images)]
        return np.concatenate(np.concatenate(columns, axis=2))


def random_hole(window: LabeledWindow, share: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Everything, or with the probability ``share`` one to three nuclei and a little more, or a disc."""
    size = window.pixels.shape[0]
    ids = instance_ids(window.layout.instances)
    if rng.random() >= share:
        return np.ones((size, size), np.bool_)
    hole: Any = np.zeros((size, size), np.uint8)
    if ids and rng.random() < 0.8:
        chosen = rng.choice(ids, size=min(int(rng.integers(1, 4)), len(ids)), replace=False)
        hole |= np.isin(window.layout.instances, chosen).astype(np.uint8)
        reach = 2 * int(rng.integers(2, 6)) + 1
        hole = cv2.dilate(hole, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach)))
    else:
        row, col = rng.integers(size // 5, size - size // 5, 2).tolist()
        cv2.circle(hole, (col, row), int(rng.integers(5, 14)), 1, -1)
    return hole > 0


def begun(start: Path | None, classes: Sequence[str]) -> ConditionedUNet:
    """A network for these classes; with the weights of an earlier one, or of an inpainting network, to begin with."""
    network = ConditionedUNet(7, 3, len(classes) + CONDITION_MAPS, VECTOR)
    if start is None:
        return network
    config = read_json(start / "config.json", "a diffusers network")
    if config.get("_class_name") == "ConditionedUNet":
        return adapted(load_part(ConditionedUNet, start)[0], read_card(start).get("classes", []), classes)
    weights = load_file(start / WEIGHTS_FILE)
    inputs = weights["conv_in.weight"].shape[1]
    # Channels beyond the seven of an inpainting network are maps, in the order of ``condition_maps``.
    channels = [*range(7), *([None] * network.config["map_channels"] if inputs == 7 else range(7, inputs))]
    if len(channels) != 7 + network.config["map_channels"]:
        raise HistomixError(f"{start} was trained for other classes; start from the bundled network.")
    adopt_weights(network, weights, channels)
    return network
