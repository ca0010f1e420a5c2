"""What readers make of damaged and hostile files: a right result or one sentence, and nothing else."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from xml.etree import ElementTree

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
    for name in ("asap-xml", "halo-xml", "qupath-packed"):
        add_unwritten(root, name)
        assert open_dataset(root / name, mpp=0.5).entries, name
    return root


def add_unwritten(root, name):
    """A dataset of a format that is only read, made from one that is written."""
    (root / name).mkdir()
    if name == "qupath-packed":
        shutil.copytree(root / "qupath" / "images", root / name / "images")
        (root / name / "geojson").mkdir()
        for path in (root / "qupath" / "geojson").iterdir():
            (root / name / "geojson" / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        return
    for path in sorted((root / "aperio-xml").rglob("*.xml")):
        shutil.copy(path.with_suffix(".tif"), root / name)
        layers = ElementTree.parse(path).getroot().iter("Annotation")
        text = "".join(map(asap_layer if name == "asap-xml" else halo_layer, layers))
        if name == "asap-xml":
            text = f"<ASAP_Annotations><Annotations>{text}</Annotations></ASAP_Annotations>"
        (root / name / path.name).write_text(text if name == "asap-xml" else f"<Annotations>{text}</Annotations>")


def asap_layer(layer):
    start = f'<Annotation Type="Polygon" PartOfGroup="{class_of(layer)}" Color="#F4FA58"><Coordinates>'
    end = "</Coordinates></Annotation>"
    return "".join(f"{start}{points(region, 'Coordinate')}{end}" for region in layer.iter("Region"))


def halo_layer(layer):
    start, end = '<Region Type="Polygon" NegativeROA="0"><Vertices>', "</Vertices></Region>"
    regions = "".join(f"{start}{points(region, 'V')}{end}" for region in layer.iter("Region"))
    head = f'<Annotation LineColor="9" Name="{class_of(layer)}" Visible="True">'
    return f"{head}<Regions>{regions}</Regions></Annotation>"


def class_of(layer):
    return layer.find("Attributes/Attribute").get("Name")


def points(region, tag):
    """The vertices of a region in a format's own words."""
    return "".join(
        f'<{tag} X="{vertex.get("X")}" Y="{vertex.get("Y")}" Order="{number}" />'
        for number, vertex in enumerate(region.iter("Vertex"))
    )


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
