from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def frame() -> pd.DataFrame:
    from widgets_samples import candidate

    from napari_histomix.widgets.loading import candidate_frame

    many = [candidate(rank, "ab"[rank % 2], ("major", "background")[rank % 3 == 0]) for rank in range(30_000)]
    return candidate_frame(many, lambda number: {1: "rare", 2: "common"}[number])
