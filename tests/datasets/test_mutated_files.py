"""What readers make of damaged and hostile files: a right result or one sentence, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import mutating
import pytest

from napari_histomix.datasets import load_sample, open_dataset, sample_folder
from napari_histomix.datasets.formats import FORMATS

COUNT = int(os.environ.get("HISTOMIX_MUTATIONS", "400"))
"""Mutations to read; 10,000 take about five minutes."""


@pytest.fixture(scope="module")
def goods(tmp_path_factory):
    """Corners of two images of the sample in every format that is read."""
    root = tmp_path_factory.mktemp("goods")
    sample = load_sample()
    images = [
        replace(image, pixels=image.pixels[:160, :160].copy(), instances=image.instances[:160, :160].copy())
        for image in map(sample.read, sample.training[:2])
    ]
    for name, one in FORMATS.items():
        if one.holds != "nuclei" or not one.writes:
            continue
        (root / name).mkdir()
        writer = one.writer()(root / name, "sample", sample.classes)
        for image in images:
            writer.add(image, synthetic=False)
        writer.finish()
        assert open_dataset(root / name, mpp=0.5).entries, name
    return root


@pytest.mark.skipif(os.name != "posix", reason="limits of memory are set as POSIX does it")
@pytest.mark.timeout(3600)
def test_damaged_files_end_in_a_sentence(goods):
    assert sample_folder().is_dir()
    first, wrong = 0, []
    while first < COUNT:
        program = [sys.executable, mutating.__file__, str(goods), str(first), str(COUNT - first)]
        done = subprocess.run(program, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        lines = done.stdout.splitlines()
        wrong += [line for line in lines if not line.endswith(": well")]
        if done.returncode == 0:
            break
        # A crash ends the process: the line it was at is wrong, and the next one follows.
        wrong.append(f"exit {done.returncode}: {lines[-1] if lines else done.stderr[-500:]}")
        first = int(lines[-1].split()[0]) + 1 if lines else COUNT
    assert not wrong, "\n".join(wrong[:20])
