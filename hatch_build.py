"""What hatch asks when the package is built: the README with links that lead on from PyPI and the napari hub.

On GitHub the README's links are relative. Here each becomes absolute, under the repository that ``[project.urls]``
names: at the tag of the version where that is a release, else on the main branch.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

LINK = re.compile(r"\]\((?![a-z]+:|#)([^()\s]+)\)")
"""The end of a Markdown link or picture that is a file of the repository."""

PICTURES = (".gif", ".jpg", ".png", ".svg")


def with_absolute_links(text: str, repository: str, version: str) -> str:
    """A page of the repository's root with its relative links and pictures made absolute.

    Parameters
    ----------
    text : str
        Markdown.
    repository : str
        Address of the repository on GitHub.
    version : str
        Version of the package: ``1.2.3`` is a release, ``1.2.3.dev4+g5678abc`` is none.

    Returns
    -------
    str
    """
    place = f"v{version}" if re.fullmatch(r"\d+(\.\d+)*((a|b|rc)\d+)?", version) else "main"

    def absolute(link: re.Match[str]) -> str:
        view = "raw" if link[1].endswith(PICTURES) else "blob"
        return f"]({repository}/{view}/{place}/{link[1]})"

    return LINK.sub(absolute, text)


class ReadmeHook(MetadataHookInterface):
    """Fills in ``project.readme``."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Read the README; hatch has found the version and the addresses before."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        text = with_absolute_links(text, metadata["urls"]["Repository"], metadata["version"])
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
