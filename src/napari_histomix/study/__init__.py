"""What must never be lost: candidates, results and decisions in a study folder, and their export."""

from napari_histomix.study.store import Study

__all__ = ["Study"]
