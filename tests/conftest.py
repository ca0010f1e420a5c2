"""Fixtures that every room's tests may use.

Factories are session-wide so that hypothesis tests may use them; each makes new objects at every call.
"""

from __future__ import annotations

import csv
import gc
import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from napari_histomix.records import LabeledImage, Location, NucleusClass, Source


@pytest.fixture(autouse=True)
def own_preferences(monkeypatch, tmp_path_factory, request) -> Path:
    """Preferences and logs of a test's own, in folders that do not exist yet; no environment variable goes before."""
    home = tmp_path_factory.getbasetemp() / "preferences" / hashlib.md5(request.node.nodeid.encode()).hexdigest()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(home / "state"))
    for variable in ("HISTOMIX_ONLINE", "HISTOMIX_WEIGHTS"):
        monkeypatch.delenv(variable, raising=False)
    return home


@pytest.fixture(autouse=True)
def keys_let_go(request) -> Iterator[None]:
    """No key is held when a test begins: after a click of a key with Ctrl, Qt goes on to take Ctrl for held."""
    yield
    if "qapp" in request.fixturenames:
        from qtpy.QtCore import Qt
        from qtpy.QtTest import QTest
        from qtpy.QtWidgets import QApplication, QWidget

        if QApplication.keyboardModifiers() != Qt.KeyboardModifier.NoModifier:
            QTest.keyRelease(QWidget(), Qt.Key.Key_Control)


@pytest.fixture(autouse=True)
def collecting_between_tests(request) -> Iterator[None]:
    """Where a test has widgets, garbage is collected only when it is over.

    While Qt destroys an object and holds a lock, PySide asks Python for overrides; a widget that is collected in there
    waits for that lock forever. Every test destroys its widgets; a window does so once.
    """
    if "qapp" not in request.fixturenames:
        yield
        return
    gc.disable()
    yield
    gc.enable()


RARE, COMMON, OTHER = 1, 2, 3
CLASSES = (
    NucleusClass(RARE, "rare", (255, 0, 0)),
    NucleusClass(COMMON, "common", (0, 0, 255)),
    NucleusClass(OTHER, "other", (0, 200, 0)),
)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data beside the repository; tests that need it are skipped where it is not there."""
    folder = Path(__file__).resolve().parents[1].parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip(f"needs the real data beside the repository ({folder.name}/data)")
    return folder


def paint_image(
    nuclei: int | Sequence[tuple[float, float, float, float, int]] = 12,
    *,
    shape: tuple[int, int] = (128, 128),
    seed: int = 0,
    mpp: float = 0.25,
    name: str = "image",
    split: str = "train",
    patient: str = "",
    slide: str = "",
    rare: int = 3,
    gap: int = 2,
) -> LabeledImage:
    """Violet ellipses on pink tissue.

    ``nuclei`` are (row, col, half height, half width, type), numbered from 1; or how many to strew at random, at least
    ``gap`` pixels apart, the first ``rare`` of them of type 1 and the others of type 2 (fewer where there is no room).
    """
    rng = np.random.default_rng(seed)
    height, width = shape
    rows, cols = np.mgrid[:height, :width]
    instances = np.zeros(shape, np.int32)
    types: dict[int, int] = {}

    def ellipse(row: float, col: float, a: float, b: float) -> np.ndarray:
        return ((rows - row) / a) ** 2 + ((cols - col) / b) ** 2 <= 1

    if isinstance(nuclei, int):
        for _ in range(30 * nuclei):
            if len(types) == nuclei:
                break
            mask = ellipse(rng.uniform(0, height), rng.uniform(0, width), *rng.uniform(3.5, 7, 2))
            near = ndimage.binary_dilation(mask, iterations=gap) if gap else mask
            if mask.sum() > 20 and not instances[near].any():
                instances[mask] = len(types) + 1
                types[len(types) + 1] = RARE if len(types) < rare else COMMON
    else:
        for number, (row, col, a, b, kind) in enumerate(nuclei, start=1):
            instances[ellipse(row, col, a, b) & (instances == 0)] = number
            types[number] = kind
    grain = cv2.GaussianBlur(rng.standard_normal(shape), (0, 0), 1.0)[..., None] * 12
    pixels = np.array([222, 165, 205]) + grain
    pixels = np.where((instances > 0)[..., None], np.array([105, 65, 140]) + grain, pixels)
    source = Source("made up", name, split, patient, slide)
    return LabeledImage(np.clip(np.rint(pixels), 0, 255).astype(np.uint8), instances, types, mpp, source)


def paint_tissue(seed: int, height: int = 128, width: int = 128) -> np.ndarray:
    """Pink tissue with three patches of other colors, (height, width, 3) uint8."""
    rng = np.random.default_rng(seed)
    pixels = np.full((height, width, 3), (225, 165, 205), float)
    rows, cols = np.mgrid[:height, :width]
    for color in ((130, 85, 160), (205, 60, 90), (160, 120, 190)):
        row, col = rng.uniform(25, min(height, width) - 25, 2)
        pixels[((rows - row) / rng.uniform(14, 24)) ** 2 + ((cols - col) / rng.uniform(14, 24)) ** 2 < 1] = color
    pixels += cv2.GaussianBlur(rng.standard_normal((height, width)), (0, 0), 1.0)[..., None] * 12
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def tissue_pixels() -> Callable[..., np.ndarray]:
    return paint_tissue


@pytest.fixture(scope="session")
def labeled_image() -> Callable[..., LabeledImage]:
    return paint_image


@pytest.fixture(scope="session")
def tissue_folder() -> Callable[..., Path]:
    """Write four training images each of two classes, of ``patients`` a class, and one image of the test split."""

    def write(root: Path, patients: int = 4, side: int = 128) -> Path:
        rows = []
        for kind in ("low", "high"):
            (root / kind).mkdir(parents=True)
            for number in range(4):
                name = f"{kind}/{number}.png"
                Image.fromarray(paint_tissue(number + 10 * (kind == "high"), side, side)).save(root / name)
                rows.append([name, kind, f"{kind}-{number % patients}", "train", 0.25])
        Image.fromarray(paint_tissue(99, side, side)).save(root / "low" / "held.png")
        rows.append(["low/held.png", "low", "other", "test", 0.25])
        with (root / "images.csv").open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([["image", "class", "patient", "split", "mpp"], *rows])
        return root

    return write


@pytest.fixture
def run(capsys) -> Callable[..., tuple[int, list[str], list[str]]]:
    """Run the command line: exit code, lines of standard output, lines of standard error."""
    from napari_histomix.cli import main

    def call(*arguments: object) -> tuple[int, list[str], list[str]]:
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
        shown = capsys.readouterr()
        return code, shown.out.splitlines(), shown.err.splitlines()

    return call


@pytest.fixture(scope="session")
def location() -> Callable[..., Location]:
    """Location of a nucleus by its id, or of a background place by its row and column."""

    def locate(image: LabeledImage, instance: int = 0, row: float = 0.0, col: float = 0.0) -> Location:
        name = image.source.image
        if not instance:
            return Location(name, "background", row, col)
        rows, cols = np.nonzero(image.instances == instance)
        kind = image.types[instance]
        where = "rare" if kind == RARE else "major"
        return Location(name, where, float(rows.mean()), float(cols.mean()), instance, kind, len(rows))

    return locate


@pytest.fixture(scope="session")
def dataset_folder() -> Callable[..., Path]:
    """Write labeled images as a HoVer-Net dataset; split, patient, slide and scale are those of the images."""

    def write(folder: Path, images: Sequence[LabeledImage], name: str = "made up") -> Path:
        from napari_histomix.datasets import write_dataset_json, write_hovernet, write_type_info

        for one in images:
            write_hovernet(folder, one.source.image, one.pixels, one.instances, one.types, one.mpp)
        write_type_info(folder, CLASSES)
        write_dataset_json(folder, name=name)
        with (folder / "images.csv").open("w", newline="", encoding="utf-8") as stream:
            table = csv.writer(stream)
            table.writerow(["image", "patient", "slide", "split", "mpp"])
            table.writerows(
                [one.source.image, one.source.patient, one.source.slide, one.source.split, one.mpp] for one in images
            )
        return folder

    return write


@pytest.fixture(scope="session")
def small_network() -> Callable[..., object]:
    """A factory of untrained networks of the real class with a few thousand weights."""

    def make(channels: int = 7, seed: int = 0, out: int = 3) -> object:
        import torch
        from diffusers import UNet2DModel

        torch.manual_seed(seed)
        return UNet2DModel(
            sample_size=48,
            in_channels=channels,
            out_channels=out,
            layers_per_block=1,
            block_out_channels=(8, 16),
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
            norm_num_groups=4,
            add_attention=False,
        )

    return make


@pytest.fixture(scope="session")
def small_model_folder(tmp_path_factory: pytest.TempPathFactory, small_network: Callable[..., object]) -> Path:
    """A whole model folder around a small untrained network; never write into it."""
    from napari_histomix.diffusion.model_files import save_model
    from napari_histomix.training.inpainting import SCHEDULE

    folder = tmp_path_factory.mktemp("models") / "small"
    save_model(folder, small_network(), SCHEDULE, name="small", mpp=(0.25, 0.5), windows=(48, 64, 96))
    return folder


@pytest.fixture(scope="session")
def small_pix2pix_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model folder around a small untrained pix2pix generator; never write into it."""
    import torch

    from napari_histomix.diffusion.model_files import save_model
    from napari_histomix.generation.pix2pix import Generator

    folder = tmp_path_factory.mktemp("models") / "pix2pix"
    torch.manual_seed(0)
    extra = {"kind": "pix2pix", "classes": ["rare", "common"]}
    network = Generator(["rare", "common"], 4, 3)
    save_model(folder, network, {}, name="small", mpp=(0.5, 0.5), windows=(64,), extra=extra)
    return folder


@pytest.fixture(scope="session")
def small_image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model folder around a small untrained network that paints layouts; never write into it."""
    from napari_histomix.generation.image_model import VECTOR

    return _small_generator(tmp_path_factory, "image", (7, 3, 8, VECTOR))


@pytest.fixture(scope="session")
def small_structure_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model folder around a small untrained network that draws layouts; never write into it."""
    return _small_generator(tmp_path_factory, "structure", (80, 80, 0, 4))


def _small_generator(tmp_path_factory: pytest.TempPathFactory, kind: str, channels: tuple[int, int, int, int]) -> Path:
    import torch

    from napari_histomix.diffusion.model_files import save_model
    from napari_histomix.generation.networks import ConditionedUNet

    folder = tmp_path_factory.mktemp("models") / kind
    torch.manual_seed(0)
    network = ConditionedUNet(*channels, block_out_channels=(8, 16), layers_per_block=1, spade_channels=4)
    with torch.no_grad():
        for weights in network.parameters():
            # Blocks that begin at zero would follow nothing.
            weights.add_(torch.randn(weights.shape) * 0.05)
    schedule = {"num_train_timesteps": 1000, "beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}
    extra = {"kind": kind, "classes": ["rare", "common"]}
    save_model(folder, network, schedule, name=f"small {kind}", mpp=(0.5, 0.5), windows=(64,), extra=extra)
    return folder


@pytest.fixture
def small_model(small_model_folder: Path) -> object:
    """A small untrained ``InpaintingModel`` for windows of 48, 64 and 96 pixels at 0.25 to 0.5 µm/px."""
    from napari_histomix.diffusion.model_files import load_model

    return load_model(small_model_folder)
