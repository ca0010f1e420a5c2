"""Step 2 of methods that paint layouts: make layouts, look at them, keep or drop them."""

from __future__ import annotations

from napari_histomix.methods.layout_stage import LayoutBook
from napari_histomix.widgets.plan_panel import PlanPage


class LayoutsPage(PlanPage):
    """Settings, and the making of layouts."""

    run_text, run_tip = "Make layouts", "Make layouts of nuclei for the method to paint; those that are there stay."

    def words(self) -> str:
        """How many layouts there are."""
        study = self.session.study
        return f"{len(LayoutBook(study.folder)):,} layouts" if study is not None and self.stage.ready(study) else ""
