from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from napari_histomix.records import Event, HistomixError, drain

torch = pytest.importorskip("torch")
pytest.importorskip("segment_anything")

from sam_samples import one_by_one, scene, small_sam  # noqa: E402
from segment_anything.modeling import Sam  # noqa: E402

from napari_histomix.segmentation import sam, sam_network  # noqa: E402
from napari_histomix.segmentation.sam import SamPrompter, SamProposals  # noqa: E402


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Threads that meet at every small sum take longer than the sums, the more so beside other programs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def network() -> Sam:
    return small_sam()


@pytest.fixture(scope="module")
def weights(network: Sam, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "small.pth"
    torch.save(network.state_dict(), path)
    return path


@pytest.mark.parametrize("shape", [(128, 128), (90, 200), (300, 41), (50, 64)])
def test_answers_are_those_of_the_predictor_asked_point_by_point(network, weights, shape):
    pixels, points = scene(shape)
    proposals = drain(SamPrompter(weights, "cpu", batch=7)(pixels, points))
    masks, qualities, which = one_by_one(network, pixels, points)
    assert len(set(which)) > 1, "the points must differ in which mask is best, or its choice is not tested"
    np.testing.assert_allclose(proposals.scores, qualities, rtol=1e-4, atol=1e-4)
    found = proposals.masks(np.arange(len(points)))
    assert found.shape == masks.shape
    assert 0.05 < masks.mean() < 0.95
    assert np.mean(found != masks) < 1e-3
    np.testing.assert_array_equal(proposals.masks(np.array([5, 2])), found[[5, 2]])


@pytest.mark.parametrize("shape", [(1, 1), (1, 700), (700, 2)])
def test_images_of_any_size_are_answered(weights, shape):
    pixels, points = scene(shape, 3)
    proposals = drain(SamPrompter(weights, "cpu")(pixels, points))
    assert proposals.masks(np.arange(3)).shape == (3, *shape)
    centers = proposals.identities[:, :2]
    present = ~np.isnan(centers[:, 0])
    assert (centers[present] > -0.5).all() and (centers[present] < np.array(shape) - 0.5).all()


def test_no_point_gives_no_mask_and_encodes_nothing(weights):
    pixels, _ = scene((20, 30))
    job = SamPrompter(weights, "cpu")(pixels, np.empty((0, 2)))
    with pytest.raises(StopIteration) as end:
        next(job)
    proposals = end.value.value
    nothing = np.empty(0, np.intp)
    assert proposals.scores.shape == (0,) and proposals.identities.shape == (0, 3)
    assert proposals.masks(nothing).shape == (0, 20, 30) and proposals.overlaps(nothing, nothing).shape == (0, 0)


def discs(shape: tuple[int, int], circles: list[tuple[float, float, float]]) -> tuple[SamProposals, np.ndarray]:
    """Proposals whose logits are smooth discs (row, column, radius in pixels of the image), and their true masks."""
    side, low = 256, 64
    seen = sam._input_size(shape, side)
    centers = (np.arange(low) + 0.5) * side / low
    rows, cols = (centers * shape[axis] / seen[axis] - 0.5 for axis in (0, 1))
    logits = [r - np.hypot(rows[:, None] - y, cols[None] - x) for y, x, r in circles]
    y, x = np.mgrid[: shape[0], : shape[1]]
    true = np.array([np.hypot(y - row, x - col) < radius for row, col, radius in circles])
    scores = np.ones(len(circles))
    return SamProposals(torch.tensor(np.array(logits), dtype=torch.float32), scores, shape, seen, side), true


@pytest.mark.parametrize("shape", [(256, 256), (300, 500), (501, 333)])
def test_identities_and_overlaps_are_those_of_the_full_masks(shape):
    proposals, true = discs(shape, [(100, 120, 60), (110, 130, 60), (shape[0] - 5, shape[1] - 5, 90), (40, 40, -1)])
    for identity, mask in zip(proposals.identities[:3], true[:3], strict=True):
        rows, cols = np.nonzero(mask)
        np.testing.assert_allclose(identity, [rows.mean(), cols.mean(), np.sqrt(len(rows))], atol=1.5)
    assert np.isnan(proposals.identities[3]).all()
    flat = true.reshape(4, -1).astype(float)
    common = flat @ flat.T
    union = flat.sum(1)[:, None] + flat.sum(1) - common
    expected = np.where(union > 0, common / np.maximum(union, 1), 0)
    np.testing.assert_allclose(proposals.overlaps(np.arange(4), np.arange(4)), expected, atol=0.03)
    assert proposals.overlaps(np.array([1, 0]), np.array([2])).shape == (2, 1)


def test_what_lies_in_the_padding_counts_for_nothing():
    proposals, _ = discs((64, 256), [(40, 100, 500)])
    np.testing.assert_allclose(proposals.identities[0], [31.5, 127.5, 128], atol=1e-6)


def test_a_cell_that_lies_in_the_image_only_in_part_counts_in_part():
    logits = -torch.ones(2, 64, 64)
    logits[0, :2] = logits[1] = 1
    # Ten rows of pixels are two and a half rows of cells.
    proposals = SamProposals(logits, np.ones(2), (10, 256), (10, 256), 256)
    np.testing.assert_allclose(proposals.overlaps(np.array([0]), np.array([1])), [[0.8]], rtol=1e-6)
    np.testing.assert_allclose(proposals.identities[:, 2] ** 2, [8 * 256, 10 * 256])
    np.testing.assert_allclose(proposals.identities[:, 0], [3.5, 4.5])


def test_a_named_checkpoint_that_is_not_here_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setenv("HISTOMIX_WEIGHTS", str(tmp_path))
    monkeypatch.delenv("HISTOMIX_ONLINE", raising=False)
    with pytest.raises(HistomixError, match=r"sam_vit_b_01ec64\.pth.*HISTOMIX_ONLINE=1"):
        SamPrompter("vit_b", "cpu")


def test_without_the_package_it_says_what_to_install(weights, monkeypatch):
    monkeypatch.setitem(sys.modules, "segment_anything", None)
    with pytest.raises(HistomixError, match=r"pip install 'napari-histomix\[sam\]'"):
        SamPrompter(weights, "cpu")


# The job.


class Counted(torch.nn.Module):
    """Counts the passes of a module."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner, self.passes = inner, 0

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        return self.inner(given)


def counted(prompter: sam.SamPrompter) -> Counted:
    encoder = prompter._network.image_encoder
    encoder.neck = Counted(encoder.neck)
    return encoder.neck


def test_events_name_what_is_done_and_count_the_points(weights):
    pixels, points = scene((64, 64), 10)
    events = list(SamPrompter(weights, "cpu", batch=4)(pixels, points))
    assert events[0] == Event("Encoding the image", 0, 3)
    asking = [(one.done, one.total) for one in events if one.phase == "Asking SAM"]
    assert asking == [(0, 10), (4, 10), (8, 10), (10, 10)]


def test_an_image_is_encoded_once_however_often_it_is_asked(weights):
    pixels, points = scene((64, 64), 4)
    prompter = SamPrompter(weights, "cpu")
    encoder = counted(prompter)
    first, again = drain(prompter(pixels, points)), drain(prompter(pixels.copy(), points))
    assert encoder.passes == 1
    np.testing.assert_array_equal(first.identities, again.identities)
    changed = pixels.copy()
    changed[0, 0, 0] ^= 255
    drain(prompter(changed, points))
    drain(prompter(pixels.reshape(32, 128, 3), points))
    assert encoder.passes == 3


def test_memory_holds_only_the_last_images(weights, monkeypatch):
    monkeypatch.setattr(sam, "REMEMBERED", 2)
    prompter = SamPrompter(weights, "cpu")
    encoder = counted(prompter)
    images = [np.full((16, 16, 3), value, np.uint8) for value in (0, 100, 200)]
    for image in (images[0], images[1], images[0], images[2], images[0]):
        drain(prompter(image, np.array([[8.0, 8.0]])))
    assert encoder.passes == 3
    drain(prompter(images[1], np.array([[8.0, 8.0]])))
    assert encoder.passes == 4
    assert len(prompter._remembered) == 2


def test_closing_the_job_stops_it_before_the_next_layer(weights):
    pixels, points = scene((64, 64), 4)
    prompter = SamPrompter(weights, "cpu")
    encoder = counted(prompter)
    job = prompter(pixels, points)
    next(job)
    next(job)
    job.close()
    assert encoder.passes == 0 and not prompter._remembered
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    assert len(drain(prompter(pixels, points)).scores) == 4


def test_out_of_memory_halves_the_batch_says_so_and_changes_nothing(weights, monkeypatch):
    pixels, points = scene((64, 64), 11)
    expected = drain(SamPrompter(weights, "cpu")(pixels, points))
    whole = sam_network.PointDecoder.__call__
    asked: list[int] = []

    def hungry(self, scene, some):
        asked.append(len(some))
        if len(some) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(self, scene, some)

    monkeypatch.setattr(sam_network.PointDecoder, "__call__", hungry)
    events = []
    job = SamPrompter(weights, "cpu", batch=8)(pixels, points)
    while True:
        try:
            events.append(next(job))
        except StopIteration as end:
            proposals = end.value
            break
    assert asked == [8, 4, 2, 2, 2, 2, 2, 1]
    assert [one.message for one in events if one.message] == [
        "Out of memory: going on with batches of 4 points.",
        "Out of memory: going on with batches of 2 points.",
    ]
    np.testing.assert_allclose(proposals.scores, expected.scores, rtol=1e-5)
    np.testing.assert_allclose(proposals.identities, expected.identities, rtol=1e-3)


def test_no_memory_for_one_point_is_said(weights, monkeypatch):
    def full(*_given: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(sam_network.PointDecoder, "__call__", full)
    with pytest.raises(HistomixError, match="no memory left for a single point"):
        drain(SamPrompter(weights, "cpu", batch=2)(*scene((20, 20), 3)))


@pytest.mark.parametrize(
    ("key", "step"),
    [("image_encoder.neck.0.weight", "image encoder"), ("mask_decoder.output_upscaling.3.bias", "mask decoder")],
)
def test_what_is_not_a_number_is_refused_and_its_step_named(network, tmp_path, key, step):
    state = {name: value.clone() for name, value in network.state_dict().items()}
    state[key].view(-1)[0] = float("nan")
    torch.save(state, tmp_path / "nan.pth")
    prompter = SamPrompter(tmp_path / "nan.pth", "cpu")
    with pytest.raises(HistomixError, match=f"The {step} of 'sam-.*not a number"):
        drain(prompter(*scene((30, 30), 2)))


def test_few_bits_are_named_and_stay_near(weights):
    pixels, points = scene((128, 128))
    full = SamPrompter(weights, "cpu")
    few = SamPrompter(weights, "cpu", dtype=torch.bfloat16)
    assert few.name == full.name + "-bfloat16"
    exact, near = drain(full(pixels, points)), drain(few(pixels, points))
    difference = np.abs(exact.scores - near.scores)
    assert 0 < difference.max() < 0.1 * np.ptp(exact.scores) + 0.1


def test_a_device_that_is_not_there_is_said(weights):
    if torch.cuda.is_available():
        pytest.skip("this machine has it")
    with pytest.raises(HistomixError, match="no 'cuda' device"):
        SamPrompter(weights, "cuda")


def test_pixels_and_points_of_other_shapes_are_refused(weights):
    prompter = SamPrompter(weights, "cpu")
    with pytest.raises(ValueError, match="pixels must be"):
        drain(prompter(np.zeros((5, 5), np.uint8), np.zeros((1, 2))))
    with pytest.raises(ValueError, match="points must be"):
        drain(prompter(np.zeros((5, 5, 3), np.uint8), np.zeros((1, 3))))
