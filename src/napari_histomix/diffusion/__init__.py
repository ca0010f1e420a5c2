"""Diffusion models in pixel space: loading, samplers, the inpainting engine, and training.

What is asked of training runs before torch is loaded is here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SUMMARY = "run.json"


def state_folder(out: Path) -> Path:
    """Where a run that writes ``out`` keeps what is needed to take it up again."""
    return out.with_name(out.name + ".training")


def unfinished(out: Path) -> dict[str, Any] | None:
    """``step``, ``minutes`` and ``saved`` (ISO date) of a run that can be taken up again; None where there is none."""
    try:
        summary = json.loads((state_folder(out) / SUMMARY).read_text(encoding="utf-8"))
        return {key: summary[key] for key in ("step", "minutes", "saved")}
    except (OSError, ValueError, KeyError, TypeError):
        return None
