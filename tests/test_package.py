"""What importing the package brings along, and what it must not."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest

import napari_histomix

SOURCE = Path(napari_histomix.__file__).parent
ROOMS = (
    "records",
    "settings",
    "preferences",
    "logs",
    "stains",
    "scales",
    "devices",
    "weights",
    "datasets",
    "segmentation",
    "features",
    "sampling",
    "place_scores",
    "compositing",
    "diffusion",
    "generation",
    "training",
    "methods",
    "study",
    "jobs",
    "evaluation",
    "problem_report",
    "api",
    "cli",
    "widgets",
)
"""From bottom to top: imports run down only."""


def loaded_by(statement: str) -> set[str]:
    program = f"import json, sys; {statement}; print(json.dumps(sorted(name.split('.')[0] for name in sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "statement",
    [
        "import napari_histomix, napari_histomix.cli",
        "import napari_histomix.records, napari_histomix.datasets, napari_histomix.features",
        "import napari_histomix.compositing.placing, napari_histomix.sampling, napari_histomix.study.export",
        "import napari_histomix.methods.nucleimix, napari_histomix.methods.usegmix",
        "import napari_histomix.segmentation, napari_histomix.weights, napari_histomix.study.curation",
        "from napari_histomix.datasets import load_sample; load_sample()",
    ],
)
def test_the_core_loads_neither_a_window_nor_torch(statement):
    heavy = {
        "qtpy",
        "PySide6",
        "PyQt6",
        "PyQt5",
        "napari",
        "magicgui",
        "torch",
        "diffusers",
        "timm",
        "segment_anything",
    }
    assert not loaded_by(statement) & heavy


def test_the_window_opens_before_what_only_jobs_need_is_loaded():
    late = {"torch", "diffusers", "timm", "sklearn", "matplotlib", "zarr"}
    docks = "napari_histomix.widgets.dock, napari_histomix.widgets.pool.panel, napari_histomix.widgets.generate.panel"
    assert not late & loaded_by(f"import {docks}")


def test_help_needs_no_torch():
    program = (
        "import sys\nfrom napari_histomix.cli import main\n"
        "try: main(['--help'])\nfinally: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-1] == "False"


def imports_of(path: Path) -> set[str]:
    """Modules that a file imports anywhere, with those for type checkers left aside."""
    names: set[str] = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_run_down_only_and_only_widgets_know_the_window(path):
    room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    names = imports_of(path)
    if room != "widgets":
        assert not {name.split(".")[0] for name in names} & {"napari", "qtpy", "magicgui", "superqt", "PySide6"}
    if room == "__init__":
        return
    ours = {name.split(".")[1] for name in names if name.startswith("napari_histomix.")} & set(ROOMS)
    above = {other for other in ours if ROOMS.index(other) > ROOMS.index(room)}
    assert not above, f"{room} is below {', '.join(sorted(above))}"


def test_nothing_unpickles_unchecked():
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            call = ast.unparse(node)
            assert not call.startswith(("pickle.", "joblib.load", "dill.")), f"{path.name}: {call}"
            if call.startswith("torch.load("):
                assert "weights_only=True" in call, f"{path.name}: {call}"
            if call.startswith("np.load("):
                assert "allow_pickle=True" not in call, f"{path.name}: {call}"


def test_the_manifest_lies_in_the_package_and_names_it():
    package = resources.files("napari_histomix")
    text = (package / "napari.yaml").read_text(encoding="utf-8")
    assert "name: napari-histomix" in text
    assert re.match(r"\d+\.\d+\.\d+", napari_histomix.__version__)
    assert (package / "py.typed").is_file()


def test_links_of_the_readme_lead_on_from_the_page_of_a_package_index():
    pytest.importorskip("hatchling")
    root = SOURCE.parents[1]
    spec = importlib.util.spec_from_file_location("hatch_build", root / "hatch_build.py")
    hook = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hook)
    urls = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
    for version, place in (("1.2.3", "v1.2.3"), ("1.2.3.dev4+g5678abc", "main"), ("0.1.0.dev0", "main")):
        metadata = {"urls": urls, "version": version}
        hook.ReadmeHook(str(root), {}).update(metadata)
        targets = re.findall(r"\]\(([^)\s]+)\)", metadata["readme"]["text"])
        assert f"{urls['Repository']}/raw/{place}/docs/screenshots/4-review.png" in targets
        assert f"{urls['Repository']}/blob/{place}/docs/quickstart.md" in targets
        assert [target for target in targets if not target.startswith("https://")] == []


DISTRIBUTIONS = {
    "PIL": "pillow",
    "app_model": "app-model",
    "cv2": "opencv-python-headless",
    "huggingface_hub": "huggingface-hub",
    "segment_anything": "segment-anything",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "umap": "umap-learn",
    "yaml": "pyyaml",
}
"""Distributions whose names are not those of their packages."""

INDIRECT = {"pyside6", "pyqt6", "transformers"}
"""What qtpy, diffusers and segment-anything import for the package."""


def declared(requirements: list[str]) -> set[str]:
    return {re.split(r"[<>=!~\[; ]", text, maxsplit=1)[0].casefold() for text in requirements}


def test_what_is_imported_is_declared_and_what_is_declared_is_imported():
    project = tomllib.loads((SOURCE.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {name: texts for name, texts in project["optional-dependencies"].items() if name not in ("docs", "test")}
    listed = declared([*project["dependencies"], *(text for texts in extras.values() for text in texts)])
    known = {"napari_histomix", "__future__", *sys.stdlib_module_names}
    found = {name.split(".")[0] for path in SOURCE.rglob("*.py") for name in imports_of(path)} - known
    imported = {DISTRIBUTIONS.get(name, name).casefold() for name in found}
    assert imported - listed == set(), "imported and not declared"
    assert listed - imported - INDIRECT == set(), "declared and not imported"


def documented(item: object) -> Iterator[tuple[str, object, bool]]:
    """A public name and its own methods that take something: name, object, whether it takes something."""
    yield getattr(item, "__name__", ""), item, bool(inspect.signature(item).parameters)
    for name, method in inspect.getmembers(item, inspect.isfunction) if inspect.isclass(item) else ():
        if name in ("read", "export"):
            yield name, method, True


@pytest.mark.parametrize("name", [name for name in napari_histomix.__all__ if name != "HistomixError"])
def test_what_is_public_is_documented_with_an_example(name):
    for title, item, takes in documented(getattr(napari_histomix, name)):
        text = inspect.getdoc(item) or ""
        assert "Examples\n--------\n>>> " in text or title == "Made", title
        assert not takes or "Parameters\n----------\n" in text, title
        assert inspect.isclass(item) or "Returns\n-------\n" in text, title


def test_all_networks_come_with_the_package_and_fit_in_the_wheel():
    from napari_histomix.generation.models import load_generator
    from napari_histomix.weights import bundled

    folders = sorted(bundled().parent.glob("he-*"))
    assert [folder.name for folder in folders] == [
        "he-image",
        "he-inpaint",
        "he-pix2pix",
        "he-segmenter",
        "he-structure",
    ]
    for kind in ("image", "pix2pix", "segmenter", "structure"):
        model = load_generator("", kind)
        assert model.classes == ("lymphocyte", "stromal", "tumor") and model.mpp == 0.5
        # The leak guard knows what they learned from.
        assert len(model.card["training_pixels"]) > 100
    assert all("BSD-3-Clause" in (folder / "README.md").read_text(encoding="utf-8") for folder in folders)
    assert sum(path.stat().st_size for folder in folders for path in folder.iterdir()) < 40e6
