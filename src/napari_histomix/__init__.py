"""Grow the rare nuclei that labeled H&E datasets lack: candidates, synthesis, review and export.

Importing the package loads neither Qt nor torch; each room loads what it needs when it is used.
"""

from importlib.metadata import version

__version__ = version("napari-histomix")
