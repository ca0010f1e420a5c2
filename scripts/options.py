"""Write docs/methods.md, the options at the end of other pages, and the manifest's page of preferences, from the code.

Usage: python scripts/options.py
"""

from pathlib import Path

import yaml

from napari_histomix.evaluation.blending import BlendSettings
from napari_histomix.evaluation.detector import DetectorSettings
from napari_histomix.evaluation.generator_test import GeneratorTestSettings
from napari_histomix.evaluation.reader_test.specimens import ReaderTestSettings
from napari_histomix.methods import method_names, method_of
from napari_histomix.preferences import Preferences, configuration
from napari_histomix.settings import options_table
from napari_histomix.training import KINDS, settings_class

ROOT = Path(__file__).resolve().parents[1]
DOCS, MANIFEST = ROOT / "docs", ROOT / "src" / "napari_histomix" / "napari.yaml"
OPTIONS = "\n## Options\n\n"
"""What the options of a page begin with; they are its end."""
HEAD = """# Methods and their settings

Made from the code by `scripts/options.py`: the same fields give the command line its options, the dock its form and a
dataset its record. Choose a method with `histomix synthesize --method NAME`, in the dock, or in Python with
`napari_histomix.augment(dataset, NAME, option=value)`. A new one is one file: [architecture](architecture.md).
"""


def page() -> str:
    """The whole page."""
    parts, stages = [HEAD], {}
    for name in method_names():
        method = method_of(name)
        lines = [f"## {method.title} (`{name}`)", f"Makes {method.makes} Needs {method.needs.words}."]
        if method.citation:
            lines.append(method.citation)
        if method.stage is not None:
            stages[method.stage.name] = method.stage
            lines.append(f"Before anything is made: [{method.stage.title.lower()}](#{method.stage.name}).")
        parts.append("\n\n".join([*lines, options_table(method.settings)]) + "\n")
    for stage in stages.values():
        parts.append(f"## {stage.name}\n\n{stage.title}: found and vetted before.\n\n{options_table(stage.settings)}\n")
    return "\n".join(parts)


def end_page(name: str, options: str) -> None:
    """Put options at the end of a page, in place of those that it has."""
    path = DOCS / name
    path.write_text(path.read_text(encoding="utf-8").partition(OPTIONS)[0] + OPTIONS + options + "\n", encoding="utf-8")


def end_manifest() -> None:
    """Put the page of napari's Preferences window at the end of the manifest, in place of the one that it has."""
    begun = MANIFEST.read_text(encoding="utf-8").partition("  configurations:\n")[0]
    page = yaml.safe_dump({"configurations": configuration()}, sort_keys=False, width=120, allow_unicode=True)
    indented = "".join(f"  {line}\n" for line in page.splitlines())
    MANIFEST.write_text(begun + indented, encoding="utf-8")


if __name__ == "__main__":
    end_manifest()
    (DOCS / "methods.md").write_text(page(), encoding="utf-8")
    kinds = (f"### {kind}\n\n{what}\n\n{options_table(settings_class(kind))}" for kind, what in KINDS.items())
    end_page("training.md", "\n\n".join(kinds))
    end_page("preferences.md", f"Of `histomix preferences`:\n\n{options_table(Preferences)}")
    end_page("reader-test.md", f"Of `histomix reader-test make`:\n\n{options_table(ReaderTestSettings)}")
    end_page("samplers.md", f"Of `histomix blend-test`:\n\n{options_table(BlendSettings)}")
    end_page("detector.md", f"Of `histomix detect-test`:\n\n{options_table(DetectorSettings)}")
    end_page("generators.md", f"Of `histomix generate-test`:\n\n{options_table(GeneratorTestSettings)}")
