"""What a study keeps of its images' counts, so that opening it again need not read them all."""

from __future__ import annotations

import json
import os
from collections import Counter
from contextlib import suppress
from pathlib import Path

from napari_histomix.datasets import Survey

FILE = "survey.json"


def keep_survey(folder: Path, survey: Survey) -> None:
    """Write a survey into a study folder, where one can be written: it saves time, and nothing else hangs on it."""
    images = {
        name: {
            "stamp": stamp,
            "counts": {int(kind): int(count) for kind, count in survey.counts[name].items()},
            "shape": survey.shapes[name],
            "sha256": survey.hashes[name],
            "synthetic": {int(kind): int(count) for kind, count in survey.synthetic.get(name, {}).items()},
        }
        for name, stamp in survey.stamps.items()
    }
    file = Path(folder) / FILE
    partial = file.with_name(f"{FILE}.{os.getpid()}.partial")
    try:
        partial.write_text(json.dumps(images), encoding="utf-8")
        os.replace(partial, file)
    except OSError:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def kept_survey(folder: Path) -> Survey | None:
    """The survey that was written last; None where there is none to be read."""
    try:
        images = json.loads((Path(folder) / FILE).read_text(encoding="utf-8"))
        return Survey(
            {name: Counter({int(kind): int(n) for kind, n in one["counts"].items()}) for name, one in images.items()},
            (),
            {name: (int(one["shape"][0]), int(one["shape"][1])) for name, one in images.items()},
            {name: str(one["sha256"]) for name, one in images.items()},
            {name: str(one["stamp"]) for name, one in images.items()},
            {
                name: Counter({int(kind): int(n) for kind, n in one["synthetic"].items()})
                for name, one in images.items()
                if one.get("synthetic")
            },
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError):
        return None
