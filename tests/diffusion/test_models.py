from __future__ import annotations

import pytest
import torch

from napari_histomix import __version__
from napari_histomix.devices import threads
from napari_histomix.diffusion.models import fast_dtype, machine_facts, model_facts
from napari_histomix.records import HistomixError


def test_a_record_says_what_computed_and_with_what(small_model):
    told = model_facts(small_model)
    assert told == {
        "model": "small",
        "model_sha256": small_model.sha256,
        "model_mpp": [0.25, 0.5],
        "model_windows": [48, 64, 96],
    }
    facts = machine_facts(small_model, "cpu")
    assert facts["device"] == "cpu" and facts["threads"] == torch.get_num_threads()
    assert f"torch.{facts['precision']}" == str(fast_dtype(torch.device("cpu")))
    assert torch.backends.cpu.get_cpu_capability() in facts["processor"]
    named = {"napari-histomix", "torch", "numpy", "scikit-image", "diffusers", "python"}
    assert named <= set(facts["versions"]) and facts["versions"]["napari-histomix"] == __version__
    assert facts["versions"]["torch"] == torch.__version__


def test_a_device_that_is_not_here_is_one_sentence(small_model):
    if torch.backends.mps.is_available():
        pytest.skip("needs a machine without mps")
    with pytest.raises(HistomixError, match="no 'mps' device"):
        machine_facts(small_model, "mps")


def test_threads_are_lent():
    before = torch.get_num_threads()
    with threads(before + 1):
        assert torch.get_num_threads() == before + 1
    with threads(None):
        assert torch.get_num_threads() == before
    assert torch.get_num_threads() == before
