from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from napari_histomix.devices import choose_device
from napari_histomix.diffusion import inpainter
from napari_histomix.diffusion.inpainter import Window, inpaint
from napari_histomix.diffusion.model_files import load_model
from napari_histomix.diffusion.models import InpaintingModel
from napari_histomix.diffusion.samplers import PRESETS, Sampler
from napari_histomix.records import HistomixError, drain
from napari_histomix.training.inpainting import SCHEDULE

FAST = Sampler("repaint", 250, 3, 2)
MCG = Sampler("mcg-fixed", 1000, 5, conditional=False, eta=0.0)


def window(seed: int = 0, size: int = 48, side: int = 0) -> Window:
    rng = np.random.default_rng(seed)
    hole = np.zeros((size, size), bool)
    row, col = rng.integers(5, size - 20, 2)
    hole[row : row + 12, col : col + 9] = True
    hole[row + 2 : row + 10, col + 2 : col + 7] = False
    return Window(rng.integers(0, 256, (size, size, 3), dtype=np.uint8), hole, seed, side)


class Network(torch.nn.Module):
    """Stands in for a U-Net: counts its calls, and answers with ``answer(noisy, call number)``."""

    def __init__(self, answer=lambda noisy, number: torch.zeros_like(noisy)):
        super().__init__()
        self.config = {"in_channels": 7}
        self.answer, self.batches = answer, []

    def __deepcopy__(self, memo):
        return self

    def forward(self, seen, steps):
        self.batches.append(len(seen))
        return SimpleNamespace(sample=self.answer(seen[:, :3], len(self.batches)))


def faked(answer=lambda noisy, number: torch.zeros_like(noisy)) -> InpaintingModel:
    return InpaintingModel(Network(answer), SCHEDULE, (0.25, 0.5), (48, 96), "fake", "")


@given(
    st.integers(0, 2**20),
    st.sampled_from([(32, 0), (48, 0), (40, 48), (90, 48)]),
    st.floats(0.02, 0.95),
    st.sampled_from([FAST, MCG]),
)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_known_pixels_come_back_bit_for_bit(small_model, seed, sizes, share, sampler):
    size, side = sizes
    rng = np.random.default_rng(seed)
    hole = rng.random((size, size)) < share
    hole[0, 0], hole[-1, -1] = True, False
    given_ = Window(rng.integers(0, 256, (size, size, 3), dtype=np.uint8), hole, seed, side)
    (result,) = drain(inpaint([given_], small_model, sampler, device="cpu"))
    assert result.dtype == np.uint8
    assert np.array_equal(result[~hole], given_.pixels[~hole])
    assert not np.array_equal(result[hole], given_.pixels[hole])


@pytest.mark.parametrize("sampler", [FAST, MCG], ids=["repaint", "mcg"])
@pytest.mark.parametrize("sizes", [(48, 0), (90, 48)], ids=["as it is", "resampled"])
def test_what_lies_inside_the_hole_is_never_looked_at(small_model, sampler, sizes):
    one = window(3, *sizes)
    other = one.pixels.copy()
    other[one.hole] = 255 - other[one.hole]
    results = [
        drain(inpaint([Window(pixels, one.hole, 3, one.side)], small_model, sampler, device="cpu"))[0]
        for pixels in (one.pixels, other)
    ]
    assert np.array_equal(*results)


@pytest.mark.parametrize("sampler", [FAST, MCG], ids=["repaint", "mcg"])
def test_a_windows_result_does_not_depend_on_its_batch(small_model, sampler):
    windows = [window(seed) for seed in range(3)]
    together = drain(inpaint(windows, small_model, sampler, device="cpu", batch=3))
    backwards = drain(inpaint(windows[::-1], small_model, sampler, device="cpu", batch=2))[::-1]
    alone = [drain(inpaint([one], small_model, sampler, device="cpu"))[0] for one in windows]
    for results in zip(together, backwards, alone, strict=True):
        assert np.array_equal(results[0], results[1]) and np.array_equal(results[0], results[2])


def test_grain_is_added_in_the_hole_only_and_is_the_windows_own(small_model):
    one = window(7)
    speckled = Window(np.full_like(one.pixels, 128) + one.pixels // 8, one.hole, 7)
    still, grainy, again = (
        drain(inpaint([speckled], small_model, Sampler("repaint", 20, 1, grain=grain), device="cpu"))[0]
        for grain in (False, True, True)
    )
    assert np.array_equal(grainy, again) and np.array_equal(grainy[~one.hole], still[~one.hole])
    assert not np.array_equal(grainy[one.hole], still[one.hole])


def test_a_processor_sees_one_window_at_a_time():
    """In bfloat16, and now and then in float32, larger passes are rounded otherwise."""
    model = faked()
    drain(inpaint([window(seed) for seed in range(5)], model, Sampler("conditional", 20, 1), device="cpu"))
    assert model.network.batches == [1] * 5


def test_results_keep_their_order_among_windows_of_several_sizes(small_model):
    windows = [window(0, 64), window(1, 48), window(2, 90, 48), window(3, 64), window(4, 48)]
    results = drain(inpaint(windows, small_model, FAST, device="cpu", batch=2))
    assert [len(pixels) for pixels in results] == [64, 48, 90, 64, 48]
    for one, pixels in zip(windows, results, strict=True):
        assert np.array_equal(pixels[~one.hole], one.pixels[~one.hole])


def test_windows_of_one_model_size_share_batches():
    model = faked()
    windows = [window(0, 64), window(1, 48), window(2, 90, 48), window(3, 64)]
    events = list(inpaint(windows, model, FAST, device="cpu"))
    assert len(events) == 2 * FAST.forwards
    assert model.network.batches == [1] * 4 * FAST.forwards


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("stage", ["ring", "disc", "large"])
def test_the_network_is_called_as_often_as_the_sampler_declares(preset, stage):
    sampler = getattr(PRESETS[preset], stage)
    model = faked()
    events = list(inpaint([window(seed) for seed in range(5)], model, sampler, device="cpu", batch=2))
    assert model.network.batches == [1] * 5 * sampler.forwards
    assert [event.done for event in events] == sorted({event.done for event in events})
    assert events[-1].done == events[-1].total == 5 * sampler.forwards


def test_previews_differ_only_in_the_hole(small_model, monkeypatch):
    monkeypatch.setattr(inpainter, "PREVIEWS", -1.0)
    one = window(0)
    events = list(inpaint([one], small_model, FAST, device="cpu", phase="Blending"))
    assert len(events) == FAST.forwards
    for event in events:
        assert event.preview.shape == (48, 48, 3) and event.preview.dtype == np.uint8
        assert np.array_equal(event.preview[~one.hole], one.pixels[~one.hole])
        assert event.phase.startswith("Blending 1 of 1, step ")


def test_a_network_that_knows_the_truth_restores_it(monkeypatch):
    # bfloat16, which some machines compute in, is not exact enough for this.
    monkeypatch.setattr(inpainter.models, "fast_dtype", lambda place: torch.float32)
    rows, cols = np.mgrid[:48, :48]
    truth = np.stack([5 * rows, 5 * cols, 250 - 2 * rows - 3 * cols], axis=-1).astype(np.uint8)
    clean = torch.from_numpy(truth).permute(2, 0, 1)[None].float() / 127.5 - 1
    alphas = DDPMScheduler.from_config(SCHEDULE).alphas_cumprod

    class Oracle(Network):
        def forward(self, seen, steps):
            alpha = alphas[steps[0]]
            noise = (seen[:, :3] - alpha.sqrt() * clean) / (1 - alpha).sqrt()
            return SimpleNamespace(sample=alpha.sqrt() * noise - (1 - alpha).sqrt() * clean)

    model = InpaintingModel(Oracle(), SCHEDULE, (0.25, 0.5), (48,), "oracle", "")
    one = window(5)
    for sampler in (PRESETS["fast"].disc, PRESETS["fast"].ring, MCG):
        (result,) = drain(inpaint([Window(truth, one.hole, 5)], model, sampler, device="cpu"))
        assert np.abs(result.astype(int) - truth).max() <= 1


@pytest.mark.parametrize("sampler", [FAST, MCG], ids=["repaint", "mcg"])
@pytest.mark.parametrize("count", [1, 3])
def test_closing_stops_within_one_call_of_the_network(sampler, count):
    model = faked()
    job = inpaint([window(0), window(1)], model, sampler, device="cpu", batch=1)
    for _ in range(count):
        next(job)
    before = len(model.network.batches)
    job.close()
    assert len(model.network.batches) <= before + 1
    assert before == count


@pytest.mark.parametrize("sampler", [FAST, MCG], ids=["repaint", "mcg"])
def test_not_a_number_is_an_error_that_names_the_step(sampler):
    model = faked(lambda noisy, number: torch.full_like(noisy, float("nan") if number == 4 else 0.0))
    with pytest.raises(HistomixError, match=r"'fake'.* step 4"):
        drain(inpaint([window()], model, sampler, device="cpu"))


@pytest.fixture
def quick(monkeypatch):
    """Without the second that it takes to look through all that the tests hold for what could be freed."""
    monkeypatch.setattr("napari_histomix.devices.gc.collect", lambda: 0)


@pytest.mark.parametrize("sampler", [FAST, MCG], ids=["repaint", "mcg"])
def test_running_out_of_memory_halves_the_batch_says_so_and_changes_nothing(small_model, sampler, quick):
    windows = [window(seed) for seed in range(5)]
    expected = drain(inpaint(windows, small_model, sampler, device="cpu", batch=1))
    passes = []

    def limited(network, arguments):
        passes.append(len(arguments[0]))
        if len(passes) in (2, 9):
            raise torch.OutOfMemoryError("CUDA out of memory")

    small_model.network.register_forward_pre_hook(limited)
    messages, job = [], inpaint(windows, small_model, sampler, device="cpu", batch=5)
    try:
        while True:
            event = next(job)
            if event.message:
                messages.append(event.message)
    except StopIteration as end:
        results = end.value
    assert messages == [f"Out of memory: going on with batches of {size}." for size in (2, 1)]
    assert all(np.array_equal(*pair) for pair in zip(results, expected, strict=True))


def test_no_memory_for_a_single_window_is_an_error(quick):
    def full(noisy, number):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(HistomixError, match="no memory left for a single window"):
        drain(inpaint([window(seed) for seed in range(4)], faked(full), FAST, device="cpu", batch=4))


def test_the_model_itself_is_left_as_it_was(small_model, small_model_folder, monkeypatch):
    """A device of another precision must not leave rounded weights behind for the next."""
    expected = drain(inpaint([window()], small_model, FAST, device="cpu"))[0]
    monkeypatch.setattr(inpainter.models, "fast_dtype", lambda place: torch.bfloat16)
    drain(inpaint([window()], small_model, FAST, device="cpu"))
    monkeypatch.undo()
    assert np.array_equal(drain(inpaint([window()], small_model, FAST, device="cpu"))[0], expected)
    fresh = load_model(small_model_folder).network.state_dict()
    for key, value in small_model.network.state_dict().items():
        assert torch.equal(value.float(), fresh[key].float()), key


@pytest.mark.parametrize("name", ["tpu", "", "cuda", "mps"])
def test_a_device_that_is_not_there_is_an_error(name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(HistomixError, match="choose auto or cpu"):
        drain(inpaint([window()], faked(), FAST, device=name))


def test_automatic_takes_what_there_is(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device("auto").type == "cpu"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("auto").type == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto").type == "cuda"


@pytest.mark.parametrize(("value", "words"), [(False, "without a pixel"), (True, "covers its whole window")])
def test_an_empty_and_a_full_hole_are_errors(value, words):
    with pytest.raises(HistomixError, match=words):
        Window(np.zeros((8, 8, 3), np.uint8), np.full((8, 8), value), 0)


def test_no_windows_no_work():
    model = faked()
    assert drain(inpaint([], model, FAST, device="cpu")) == []
    assert model.network.batches == []


@pytest.mark.parametrize("place", [np.s_[:9, 20:30], np.s_[30:, 40:], np.s_[:, :3], np.s_[5:-5, 2:]], ids=str)
def test_a_hole_at_the_border_of_its_window_hides_what_lies_in_it(small_model, place):
    pixels = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    hole = np.zeros((48, 48), bool)
    hole[place] = True
    other = np.where(hole[..., None], 255 - pixels, pixels)
    results = [drain(inpaint([Window(one, hole, 0)], small_model, FAST, device="cpu"))[0] for one in (pixels, other)]
    assert np.array_equal(*results)
