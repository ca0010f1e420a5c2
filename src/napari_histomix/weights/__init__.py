"""Bundled weights and published checkpoints: where each comes from, its hash and license, how it gets onto this disk.

A checkpoint is looked up in a folder of this machine. Only where the environment variable ``HISTOMIX_ONLINE`` is 1 is
it fetched, and it is used only after its SHA-256 matched. Checkpoints whose makers publish no SHA-256 (micro-sam,
PathoSAM) are not named here; they are opened as files.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_histomix.records import Event, HistomixError, Job, drain

if TYPE_CHECKING:
    import torch


def bundled() -> Path:
    """Folder of the bundled inpainter."""
    return bundled_model("he-inpaint")


def bundled_model(name: str) -> Path:
    """Folder of a bundled model: he-inpaint, he-segmenter, he-structure, he-image or he-pix2pix."""
    return Path(__file__).parent / name


FOLDER_VARIABLE = "HISTOMIX_WEIGHTS"
_BLOCK = 1 << 20
_TIMEOUT = 60
"""Seconds without a byte after which a connection counts as lost."""
_POLL = 0.05
"""Seconds between two events of a download."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A published weights file."""

    name: str
    architecture: str  # the network it was made for
    url: str
    sha256: str
    size: int  # bytes
    license: str  # SPDX identifier

    @property
    def filename(self) -> str:
        """Name of the file on this disk."""
        return self.url.rsplit("/", 1)[-1]


_SAM = "https://dl.fbaipublicfiles.com/segment_anything/"
CHECKPOINTS: Mapping[str, Checkpoint] = {
    name: Checkpoint(name, f"sam-{name}", f"{_SAM}sam_{name}_{mark}.pth", sha256, size, "Apache-2.0")
    for name, mark, sha256, size in (
        ("vit_b", "01ec64", "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912", 375_042_383),
        ("vit_l", "0b3195", "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622", 1_249_524_607),
        ("vit_h", "4b8939", "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e", 2_564_550_879),
    )
}
"""Segment Anything (Kirillov et al., arXiv 2304.02643), as its makers publish it."""


def weights_folder() -> Path:
    """Folder that checkpoints lie in: ``HISTOMIX_WEIGHTS``, or ``napari-histomix/weights`` in the user's cache."""
    if named := os.environ.get(FOLDER_VARIABLE):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "napari-histomix" / "weights"


def checkpoint_path(name: str, folder: Path | None = None) -> Path:
    """The file of a named checkpoint, verified; fetched first if it is absent and going online is allowed."""
    checkpoint, folder = _known(name), folder or weights_folder()
    path = folder / checkpoint.filename
    if path.is_file():
        import pooch

        if pooch.file_hash(str(path)) != checkpoint.sha256:
            raise _not_published(checkpoint)
        return path
    if os.environ.get("HISTOMIX_ONLINE") != "1":
        raise HistomixError(
            f"'{checkpoint.filename}' is not in {folder}; copy it there from {checkpoint.url}, or set "
            "HISTOMIX_ONLINE=1 to have it fetched."
        )
    return drain(fetch(name, folder))


def fetch(name: str, folder: Path | None = None) -> Job[Path]:
    """Fetch a named checkpoint, complete and verified or not at all; a long job (see ``records.Job``)."""
    checkpoint, folder = _known(name), folder or weights_folder()
    path = folder / checkpoint.filename
    if os.environ.get("HISTOMIX_ONLINE") != "1":
        raise HistomixError(
            f"'{name}' is fetched only where HISTOMIX_ONLINE=1 is set; set it or copy {checkpoint.url} here."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if (free := shutil.disk_usage(folder).free) < checkpoint.size:
            raise HistomixError(
                f"'{checkpoint.filename}' needs {checkpoint.size / 1e6:,.0f} MB, but the disk of {folder} has "
                f"{free / 1e6:,.0f} MB left; free space or name another folder in {FOLDER_VARIABLE}."
            )
        yield from _retrieve(checkpoint, folder)
        # pooch's temporary files are their owner's alone; weights are an ordinary file.
        path.chmod(0o644)
    except ValueError:
        raise _not_published(checkpoint) from None
    except OSError as error:
        reason = getattr(error, "strerror", None) or getattr(error, "reason", None) or error
        raise HistomixError(
            f"'{checkpoint.filename}' could not be fetched into {folder} ({reason}); check the connection and the "
            f"disk, or copy it there from {checkpoint.url}."
        ) from error
    return path


class _Progress:
    """Counts the bytes of a download for pooch, in whose thread it ends a download that is too long or was stopped."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint, self.total, self.done, self.stopped = checkpoint, 0, 0, False

    def update(self, count: int) -> None:
        self.done += count
        # More than announced is not the published file, and might fill the disk. pooch counts whole blocks.
        if self.done >= self.checkpoint.size + _BLOCK:
            raise HistomixError(f"{self.checkpoint.url} gives more than the published file; try again later.")
        if self.stopped:
            raise HistomixError(f"Fetching {self.checkpoint.filename} was stopped.")

    def reset(self) -> None:
        """Begin anew, as pooch does before it reports all bytes at the end."""
        self.done = 0

    def close(self) -> None: ...


def _retrieve(checkpoint: Checkpoint, folder: Path) -> Job[None]:
    """Have pooch fetch a file into a folder: under another name until its hash has matched."""
    import pooch

    pooch.get_logger().setLevel("WARNING")
    progress, phase = _Progress(checkpoint), f"Fetching {checkpoint.filename}"
    download = pooch.HTTPDownloader(progressbar=progress, chunk_size=_BLOCK, timeout=_TIMEOUT)
    known_hash, name = f"sha256:{checkpoint.sha256}", checkpoint.filename
    with ThreadPoolExecutor(1) as threads:
        fetched = threads.submit(pooch.retrieve, checkpoint.url, known_hash, name, folder, downloader=download)
        try:
            while wait([fetched], _POLL).not_done:
                yield Event(phase, min(progress.done, checkpoint.size), checkpoint.size)
        finally:
            progress.stopped = True
        fetched.result()
    yield Event(phase, checkpoint.size, checkpoint.size)


def _known(name: str) -> Checkpoint:
    if name not in CHECKPOINTS:
        raise HistomixError(f"There are no weights named '{name}'; choose {', '.join(CHECKPOINTS)} or give a file.")
    return CHECKPOINTS[name]


def _not_published(checkpoint: Checkpoint) -> HistomixError:
    return HistomixError(
        f"'{checkpoint.filename}' is damaged or was changed (its SHA-256 is not the published one); delete it and get "
        f"it again from {checkpoint.url}."
    )


def read_checkpoint(path: Path) -> tuple[Any, str]:
    """What a ``.safetensors`` file or a torch checkpoint holds, tensors and plain containers only, and its SHA-256."""
    import torch
    from safetensors.torch import load_file

    if not path.is_file():
        raise HistomixError(f"There is no weights file '{path}'; check the path or copy the file there.")
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        if path.suffix == ".safetensors":
            return load_file(path), sha256
        return torch.load(path, map_location="cpu", weights_only=True), sha256
    except OSError as error:
        raise HistomixError(f"'{path}' cannot be read ({error.strerror}); check its permissions.") from error
    # Bytes that are no checkpoint make the readers fail in any way there is.
    except Exception as error:
        raise HistomixError(
            f"'{path.name}' is damaged or holds more than weights; download it again or convert it to .safetensors."
        ) from error


def read_weights(path: str | Path) -> tuple[dict[str, torch.Tensor], str]:
    """A state dict on the CPU, and the first 12 hexadecimal digits of its file's SHA-256.

    The file is read as by ``read_checkpoint``; the state dict is alone in it or under the key "model" or "state_dict".
    """
    import torch

    path = Path(path).expanduser()
    loaded, sha256 = read_checkpoint(path)
    state = unwrapped(loaded, "model", "state_dict")
    items = state.items() if isinstance(state, Mapping) else ()
    if not items or not all(isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in items):
        raise HistomixError(f"'{path.name}' holds no table of weights; choose the network's checkpoint file.")
    return dict(state), sha256[:12]


def unwrapped(loaded: Any, *keys: str) -> Any:
    """What a checkpoint holds, without the mappings of these keys around it."""
    for key in keys:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    return loaded


def fit_weights(
    network: torch.nn.Module, state: Mapping[str, torch.Tensor], what: str, ignored: tuple[str, ...] = ()
) -> None:
    """Load weights into a network; every parameter must be there, in its shape, and nothing else.

    ``what`` names both in the error's sentence. Keys that begin with one of ``ignored`` (a classifier head) may be left
    out. Where the weights do not fit, the network is unchanged.
    """
    if fault := misfit(network, state, ignored):
        raise HistomixError(f"{what}: the weights {fault}; choose the file made for this network.")
    network.load_state_dict({key: state[key] for key in network.state_dict()})


def misfit(
    network: torch.nn.Module,
    state: Mapping[str, torch.Tensor],
    ignored: tuple[str, ...] = (),
    verbs: tuple[str, str] = ("lack", "have"),
) -> str:
    """What keeps weights from fitting a network, as the end of a sentence ("lack 'conv.bias' and 3 more"), or ""."""
    own = network.state_dict()
    faults = {
        verbs[0]: own.keys() - state.keys(),
        f"{verbs[1]} unexpected": {key for key in state.keys() - own.keys() if not key.startswith(ignored)},
        f"{verbs[1]} another shape for": {key for key in own.keys() & state if own[key].shape != state[key].shape},
    }
    for fault, keys in faults.items():
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            return f"{fault} '{min(keys)}'{more}"
    return ""
