"""What README and docs show: their Python runs, their commands are commands with these options, their links lead on."""

from __future__ import annotations

import doctest
import importlib
import inspect
import os
import pkgutil
import re
import shlex
import shutil
import sys
import tomllib
import types
from pathlib import Path

import matplotlib
import matplotlib.pyplot
import pytest
import yaml

import napari_histomix as hm
from napari_histomix.cli import main
from napari_histomix.cli.program import build_parser
from napari_histomix.methods import method_names, method_of

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md")), *NOTEBOOKS]
BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
CELL = re.compile(r"^```{code-cell} ipython3\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^!histomix (.*)$", re.MULTILINE)
LONG = {"training.md"}
"""Pages whose Python trains a network for an hour: it is compiled only."""


def blocks(language: str) -> list[tuple[str, str]]:
    return [
        (page.name, body)
        for page in PAGES
        for kind, body in BLOCK.findall(page.read_text(encoding="utf-8"))
        if kind == language
    ]


def commands() -> list[tuple[str, str]]:
    lines = [
        (page, line) for kind in ("", "bash", "console") for page, body in blocks(kind) for line in body.splitlines()
    ]
    shown = [(page, line.split("  #")[0].strip()) for page, line in lines]
    return [(page, line) for page, line in shown if line.startswith("histomix ")]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with what the pages speak of: an export ``out``, and the study ``my-study`` it came from."""
    folder = tmp_path_factory.mktemp("docs")
    made = hm.augment(hm.load_sample(), "copypaste", study=folder / "my-study", rare=["lymphocyte"], count=6)
    made.export(folder / "out")
    return folder


@pytest.mark.parametrize(("page", "body"), blocks("python"), ids=[page for page, _ in blocks("python")])
def test_python_runs(page, body, place, monkeypatch):
    code = compile(body, page, "exec")
    if page in LONG:
        return
    monkeypatch.chdir(place)
    for folder in ("out2", "augmented"):
        shutil.rmtree(folder, ignore_errors=True)
    module = types.ModuleType("docs")
    monkeypatch.setitem(sys.modules, "docs", module)  # dataclasses look their module up
    exec(code, module.__dict__)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_tutorials_run(notebook, tmp_path, monkeypatch):
    cells = CELL.findall(notebook.read_text(encoding="utf-8"))
    assert len(cells) > 3
    monkeypatch.chdir(tmp_path)
    matplotlib.use("agg")
    names: dict[str, object] = {"run_command": lambda words: pytest.fail(words) if main(shlex.split(words)) else None}
    for cell in cells:
        exec(compile(COMMAND.sub(r"run_command(r'\1')", cell), notebook.name, "exec"), names)
    matplotlib.pyplot.close("all")


def test_the_gallery_shows_every_method():
    page = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
    for name in method_names():
        method = method_of(name)
        if not type(method).__module__.startswith("napari_histomix"):
            continue
        assert method.makes[1:] in page, "run scripts/gallery.py"
        picture = ROOT / "docs" / "screenshots" / "methods" / f"{name}.jpg"
        assert f"](screenshots/methods/{picture.name})" in page
        assert picture.stat().st_size < 150_000


def test_every_page_is_on_the_site():
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    listed = "\n".join(re.findall(r"^```{toctree}\n(.*?)^```", index, re.MULTILINE | re.DOTALL)).splitlines()
    files = [*(ROOT / "docs").glob("*.*"), *NOTEBOOKS]
    pages = {
        path.relative_to(ROOT / "docs").with_suffix("").as_posix() for path in files if path.suffix in (".md", ".rst")
    }
    assert {line for line in listed if line and not line.startswith(":")} == pages - {"index"}


def test_what_to_cite_names_the_papers_of_all_methods():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
    assert cited["repository-code"] == urls["Repository"]
    papers = " ".join(reference.get("url", "") for reference in cited["references"])
    for name in method_names():
        for number in re.findall(r"arXiv (\S+)", method_of(name).citation):
            assert number in papers, name


@pytest.mark.parametrize(("page", "line"), commands(), ids=[f"{page}:{line[:40]}" for page, line in commands()])
def test_commands_are_commands(page, line):
    words = [word for word in shlex.split(line)[1:] if word != "…"]
    try:
        build_parser(words).parse_args(words)
    except SystemExit as stop:
        pytest.fail(f"{page}: {line} (exit code {stop.code})")


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} → {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_are_there(page):
    named = re.findall(r"`([\w./-]+\.(?:py|sh))`", page.read_text(encoding="utf-8"))
    folders = (ROOT, ROOT / "src" / "napari_histomix")
    assert [name for name in named if not any((folder / name).exists() for folder in folders)] == []


def test_the_architecture_page_names_every_module_but_formats_and_methods():
    words = set(
        re.findall(r"`(?:\w+/)?(\w+)(?:\.py)?`", (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"))
    )
    source = ROOT / "src" / "napari_histomix"
    listed_elsewhere = {"formats": "formats.md", "methods": "methods.md"}
    modules = [path for path in source.rglob("*.py") if path.stem != "__init__" and "sample" not in path.parts]
    missing = [path.relative_to(source) for path in modules if path.stem not in words]
    assert [path for path in missing if path.parent.name not in listed_elsewhere] == []


def test_the_architecture_page_shows_the_toy_method_as_it_is():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert (ROOT / "tests" / "contract" / "stamps.py").read_text(encoding="utf-8") in page


def modules() -> list[str]:
    package = importlib.import_module("napari_histomix")
    names = [found.name for found in pkgutil.walk_packages(package.__path__, "napari_histomix.")]
    return [name for name in names if ".widgets" not in name]


@pytest.mark.parametrize("name", ["napari_histomix", *modules()])
def test_examples_of_docstrings_run(name, tmp_path, monkeypatch):
    if ">>>" not in Path(importlib.util.find_spec(name).origin).read_text(encoding="utf-8"):
        return
    monkeypatch.chdir(tmp_path)
    outcome = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert outcome.failed == 0 and outcome.attempted > 0


@pytest.mark.parametrize("name", hm.__all__)
def test_public_names_are_documented_in_full(name):
    public = getattr(hm, name)
    text = public.__doc__ or ""
    assert len(text.splitlines()) > 1 or (isinstance(public, type) and issubclass(public, Exception))
    if callable(public) and not isinstance(public, type):
        code = public.__code__
        if code.co_argcount + code.co_kwonlyargcount:
            assert "Parameters\n" in text
        assert "Returns\n" in text and ("Raises\n" in text or "raise " not in inspect.getsource(public))


def test_importing_the_package_loads_nothing_heavy():
    import subprocess
    import sys

    program = "import napari_histomix as hm, sys; dir(hm); print(sorted({'numpy', 'torch', 'qtpy'} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=os.environ)
    assert shown.stdout.strip() == "[]"


def test_the_first_command_of_the_readme_works(capsys):
    assert main(["methods"]) == 0
    assert "nucleimix" in capsys.readouterr().out
