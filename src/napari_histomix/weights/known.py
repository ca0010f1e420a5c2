"""Every network that the program knows: what it is for, its license and size, its hash, and where it must lie.

Bundled ones come with the package; published ones lie in the model folder (`weights_folder`), fetched or placed there
by hand; a person's own lie there, too. Where its makers publish no SHA-256 or no size, none is said.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from napari_histomix.preferences import APP, preferences, user_cache
from napari_histomix.records import Event, HistomixError, Job

BUNDLED, SAM, PATHO_SAM, CTRANSPATH, TIMM, OWN = "bundled", "SAM", "PathoSAM", "CTransPath", "timm", "own"
CARD, WEIGHTS = "histomix.json", "diffusion_pytorch_model.safetensors"
HUB, HUB_FILE = "https://huggingface.co/", "model.safetensors"
"""Where timm's weights are published, and the name of each file there."""
SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt")
PART = ".part"
"""End of the name of a file that is fetched in part."""
_BLOCK = 1 << 22

State = Literal["present", "unverified", "partial", "missing", "damaged"]
STATES: Mapping[State, str] = {
    "present": "present",
    "unverified": "present; no hash to compare with",
    "partial": "fetched in part",
    "missing": "missing",
    "damaged": "damaged or changed",
}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A network's weights file.

    ``file`` is its name in the model folder, or its whole path; ``url`` gives it byte by byte, ``page`` tells people
    about it. ``sha256`` is empty and ``size`` (bytes) 0 where they are not known.
    """

    name: str
    family: str
    purpose: str
    license: str
    file: str
    url: str = ""
    page: str = ""
    sha256: str = ""
    size: int = 0

    @property
    def fetchable(self) -> bool:
        """Whether it can be fetched: from an address, and with a hash to compare with or one that its hub says."""
        return bool(self.url and self.sha256) or self.family == TIMM

    @property
    def repository(self) -> str:
        """Its repository on the hub; empty for what is elsewhere."""
        return self.page.removeprefix(HUB) if self.page.startswith(HUB) else ""

    @property
    def source(self) -> str:
        """Where a person gets it."""
        return self.url or self.page


@dataclass(frozen=True, slots=True)
class Found:
    """A network as it is on this disk: its file's place, its state, and how many bytes are there."""

    network: Checkpoint
    path: Path
    state: State
    there: int


_SAM_URL = "https://dl.fbaipublicfiles.com/segment_anything/"
_SAM_USE = "proposes tissue segments (USegMix)"
_PATHO_SAM_URL = "https://owncloud.gwdg.de/index.php/s/"
CHECKPOINTS: Mapping[str, Checkpoint] = {
    each.name: each
    for each in (
        *(
            Checkpoint(
                name, SAM, _SAM_USE, "Apache-2.0", file, _SAM_URL + file,
                "https://github.com/facebookresearch/segment-anything", sha256, size,
            )
            for name, file, sha256, size in (
                (
                    "vit_b", "sam_vit_b_01ec64.pth",
                    "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912", 375_042_383,
                ),
                (
                    "vit_l", "sam_vit_l_0b3195.pth",
                    "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622", 1_249_524_607,
                ),
                (
                    "vit_h", "sam_vit_h_4b8939.pth",
                    "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e", 2_564_550_879,
                ),
            )
        ),
        *(
            Checkpoint(
                f"{name}_histopathology", PATHO_SAM, f"{_SAM_USE}, trained on H&E", "see its page",
                f"{name}_histopathology.pt", f"{_PATHO_SAM_URL}{share}/download",
                "https://github.com/computational-cell-analytics/patho-sam",
            )
            for name, share in (
                ("vit_b", "sBB4H8CTmIoBZsQ"), ("vit_l", "IZgnn1cpBq2PHod"), ("vit_h", "L7AcvVz7DoWJ2RZ"),
            )
        ),
        Checkpoint(
            "ctranspath", CTRANSPATH, "compares tissue (--encoder ctranspath:ctranspath.pth)",
            "GPL-3.0, for non-commercial academic purposes", "ctranspath.pth",
            page="https://github.com/Xiyue-Wang/TransPath",
        ),
    )
}  # fmt: skip
"""Published weights files that lie in the model folder, by name.

Segment Anything (Kirillov et al., arXiv 2304.02643) as its makers publish it; PathoSAM (Griebel et al., MIDL 2025) as
micro-sam's registry names it; CTransPath (Wang et al., Medical Image Analysis 81, 2022).
"""

TIMM_LISTED = ("resnet18.a1_in1k", "resnet50.a1_in1k")
"""timm models that are listed although they are not there; any other has a name ``timm:NAME``, too."""
_BUNDLED_USE = {
    "he-inpaint": "paints holes (NucleiMix, USegMix)",
    "he-segmenter": "finds nuclei and their classes",
    "he-structure": "draws layouts of nuclei",
    "he-image": "paints layouts (NuDiff)",
    "he-pix2pix": "paints layouts (edge-enhanced pix2pix)",
}


def bundled() -> Path:
    """Folder of the bundled inpainter."""
    return bundled_model("he-inpaint")


def bundled_model(name: str) -> Path:
    """Folder of a bundled model: he-inpaint, he-segmenter, he-structure, he-image or he-pix2pix."""
    return Path(__file__).parent / name


def weights_folder() -> Path:
    """The model folder: the one that is preferred, or ``napari-histomix/weights`` in the user's cache."""
    if named := preferences().weights:
        return Path(named).expanduser()
    return user_cache() / APP / "weights"


def located(path: str | Path) -> Path:
    """A weights file: as it is named, or, by its name alone, in the model folder."""
    path = Path(path).expanduser()
    if not path.exists() and path.name == str(path) and (inside := weights_folder() / path).is_file():
        return inside
    return path


def timm_network(repository: str, license: str = "see its page") -> Checkpoint:
    """A timm model's published weights, by their repository on the hub, such as "timm/resnet18.a1_in1k"."""
    model = repository.rpartition("/")[2]
    return Checkpoint(
        f"timm:{model}",
        TIMM,
        f"compares tissue (--encoder timm:{model})",
        license,
        f"{model}.safetensors",
        page=f"{HUB}{repository}",
    )


def known(name: str) -> Checkpoint:
    """A published network by its name; ``timm:NAME`` stands for any of timm's. Raises HistomixError for others."""
    if name in CHECKPOINTS:
        return CHECKPOINTS[name]
    kind, _, model = name.partition(":")
    if kind != "timm" or not model or set(model) & set("/\\:@"):
        raise HistomixError(
            f"There are no weights named '{name}'; choose {', '.join(CHECKPOINTS)}, timm:NAME or a file."
        )
    if "." in model:
        return timm_network(f"timm/{model}", "Apache-2.0" if model in TIMM_LISTED else "see its page")
    # Without the tag of its weights, a model stands for those that timm takes.
    import timm

    published = timm.get_pretrained_cfg(model) if timm.is_model(model) else None
    if published is None or not published.hf_hub_id:
        raise HistomixError(f"timm publishes no weights for '{model}'; timm.list_pretrained() lists those it has.")
    return timm_network(published.hf_hub_id)


def networks(folder: Path | None = None) -> Iterator[Checkpoint]:
    """Every network that is known: bundled, published, and what a person has in the model folder."""
    folder = folder or weights_folder()
    for name, purpose in _BUNDLED_USE.items():
        yield _with_card(name, BUNDLED, purpose, "BSD-3-Clause", bundled_model(name))
    yield from CHECKPOINTS.values()
    yield from (known(f"timm:{model}") for model in TIMM_LISTED)
    named = {each.file for each in CHECKPOINTS.values()} | {f"{model}.safetensors" for model in TIMM_LISTED}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if (path / CARD).is_file():
            yield _with_card(path.name, OWN, "your own", "yours", path)
        elif path.is_file() and path.suffix in SUFFIXES and path.name not in named:
            yield Checkpoint(path.name, OWN, "a weights file in the model folder", "see where it came from", path.name)


def _with_card(name: str, family: str, purpose: str, license: str, folder: Path) -> Checkpoint:
    """A network with a card beside its weights, such as ``histomix train`` writes."""
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        card = {}
    card = card if isinstance(card, dict) else {}
    # A latent model's hash is that of several files; only its loader compares it.
    alone = (folder / WEIGHTS).is_file()
    purpose = f"{purpose}: {card['kind']}" if family == OWN and card.get("kind") else purpose
    return Checkpoint(
        name,
        family,
        purpose,
        license,
        str(folder / WEIGHTS if alone or family == BUNDLED else folder),
        sha256=str(card.get("sha256", "")) if alone else "",
    )


def survey(folder: Path | None = None) -> Job[tuple[Found, ...]]:
    """Look at every network's file, and compare it with its hash; a long job (see ``records.Job``)."""
    folder = folder or weights_folder()
    found: list[Found] = []
    listed = list(networks(folder))
    for place, network in enumerate(listed):
        yield Event("Looking at networks", place, len(listed))
        found.append((yield from look(network, folder)))
    yield Event("Looking at networks", len(listed), len(listed))
    return tuple(found)


def look(network: Checkpoint, folder: Path) -> Job[Found]:
    """A network as it is on this disk."""
    path, part = folder / network.file, folder / f"{network.file}{PART}"
    if network.family == TIMM and not path.exists():
        path = _in_hub_cache(network.repository) or path
    if not path.exists():
        there = part.stat().st_size if part.is_file() else 0
        return Found(network, path, "partial" if there else "missing", there)
    files = [path] if path.is_file() else sorted(inner for inner in path.rglob("*") if inner.is_file())
    there = sum(file.stat().st_size for file in files)
    state: State = "present" if network.sha256 else "unverified"
    if network.sha256 and ((network.size and network.size != there) or (yield from file_hash(path)) != network.sha256):
        state = "damaged"
    return Found(network, path, state, there)


def file_hash(path: Path) -> Job[str]:
    """A file's SHA-256 in hexadecimal digits; a long job. A file that cannot be read has none, the empty text."""
    digest, done = hashlib.sha256(), 0
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            while block := stream.read(_BLOCK):
                digest.update(block)
                done += len(block)
                yield Event(f"Checking {path.name}", done, size)
    except OSError:
        return ""
    return digest.hexdigest()


def _in_hub_cache(repository: str) -> Path | None:
    """A hub repository's ``model.safetensors`` in huggingface_hub's cache, if it is there; nothing goes online."""
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(repository, HUB_FILE)
    return Path(cached) if isinstance(cached, str) else None
