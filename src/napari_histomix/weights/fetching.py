"""How a published weights file gets onto this disk: whole and verified, or not at all.

What was fetched before a connection was lost, or the job was stopped, is kept beside the file's place, and the next
time goes on from there (HTTP's ``Range``, RFC 9110). A file takes its name only after its SHA-256 has matched.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from filelock import FileLock, Timeout

from napari_histomix import __version__
from napari_histomix.preferences import preferences
from napari_histomix.records import Event, HistomixError, Job, drain
from napari_histomix.weights.known import HUB_FILE, PART, TIMM, Checkpoint, file_hash, known, look, weights_folder

BLOCK = 1 << 16
PATIENCE = 20
"""Seconds without a byte after which a connection counts as lost."""


def checkpoint_path(named: str | Checkpoint, folder: Path | None = None) -> Path:
    """The file of a checkpoint, verified; fetched first if it is absent and going online is allowed."""
    checkpoint, folder = known(named) if isinstance(named, str) else named, folder or weights_folder()
    found = drain(look(checkpoint, folder))
    if found.state == "damaged":
        raise _not_published(checkpoint, found.path)
    if found.state in ("present", "unverified"):
        return found.path
    if not preferences().online or not checkpoint.fetchable:
        raise HistomixError(by_hand(checkpoint, folder))
    return drain(fetch(checkpoint, folder))


def by_hand(checkpoint: Checkpoint, folder: Path | None = None) -> str:
    """How a person places a file: its name, the folder, and where it is from."""
    folder = folder or weights_folder()
    placed = f"copy it there from {checkpoint.source}"
    if checkpoint.family == TIMM:
        placed = f"copy {HUB_FILE} from {checkpoint.source} there under this name"
    if not checkpoint.fetchable:
        return f"'{checkpoint.file}' is not in {folder}; {placed}: its makers publish no SHA-256, so it is not fetched."
    allow = "set HISTOMIX_ONLINE=1 or allow downloads in the preferences to have it fetched"
    return f"'{checkpoint.file}' is not in {folder}; {placed}, or {allow}."


def fetch(named: str | Checkpoint, folder: Path | None = None) -> Job[Path]:
    """Fetch a checkpoint, complete and verified; a long job (see ``records.Job``) whose events count bytes.

    Closing the job keeps what came until then, with which the next call goes on. A file that is there already, and is
    the published one, is not fetched again. Returns the file's path; raises HistomixError where going online is not
    allowed, nothing can be fetched, or what came is not the published file.
    """
    checkpoint, folder = known(named) if isinstance(named, str) else named, folder or weights_folder()
    if not preferences().online:
        raise HistomixError(
            f"'{checkpoint.name}' is fetched only where HISTOMIX_ONLINE=1 is set or the preferences allow downloads; "
            f"{by_hand(checkpoint, folder)}"
        )
    if not checkpoint.fetchable:
        raise HistomixError(by_hand(checkpoint, folder))
    path, part = folder / checkpoint.file, folder / f"{checkpoint.file}{PART}"
    found = yield from look(checkpoint, folder)
    if found.state == "damaged":
        raise _not_published(checkpoint, path)
    if found.state in ("present", "unverified"):
        return found.path
    if checkpoint.family == TIMM:
        yield Event(f"Asking for {checkpoint.name}")
        checkpoint = _as_published(checkpoint)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(part, checkpoint):
            missing = checkpoint.size - (part.stat().st_size if part.is_file() else 0)
            if (free := shutil.disk_usage(folder).free) < missing:
                raise HistomixError(
                    f"'{checkpoint.file}' needs {missing / 1e6:,.0f} MB more, but the disk of {folder} has "
                    f"{free / 1e6:,.0f} MB left; free space or choose another model folder."
                )
            yield from _download(checkpoint, part)
            if (yield from file_hash(part)) != checkpoint.sha256:
                part.unlink()
                raise _not_published(checkpoint, path)
            part.replace(path)
    except OSError as error:
        kept = part.stat().st_size if part.is_file() else 0
        later = f"; {kept / 1e6:,.1f} MB are kept, fetch it again to go on" if kept else ""
        raise HistomixError(
            f"'{checkpoint.file}' could not be fetched into {folder} ({_reason(error)}){later}; check the connection "
            f"and the disk, or copy it there from {checkpoint.source}."
        ) from error
    return path


@contextmanager
def _alone(part: Path, checkpoint: Checkpoint) -> Iterator[None]:
    """Keep others from writing to the same part."""
    lock = FileLock(part.with_name(f"{part.name}.lock"), timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise HistomixError(f"'{checkpoint.file}' is being fetched already; wait for its end.") from None
    try:
        yield
    finally:
        # While it is still held, so that nobody else's is taken away; Windows does not let go of an open file.
        with suppress(OSError):
            Path(lock.lock_file).unlink()
        lock.release()


def _download(checkpoint: Checkpoint, part: Path) -> Job[None]:
    """Let a part grow to the size of the published file, from where it ends."""
    import requests

    phase, done = f"Fetching {checkpoint.file}", part.stat().st_size if part.is_file() else 0
    if done > checkpoint.size:
        part.unlink()
        done = 0
    yield Event(phase, done, checkpoint.size)
    if done == checkpoint.size:
        return
    headers = {"User-Agent": f"napari-histomix/{__version__}", "Accept-Encoding": "identity"}
    if done:
        headers["Range"] = f"bytes={done}-"
    with requests.get(checkpoint.url, headers=headers, stream=True, timeout=PATIENCE) as response:
        response.raise_for_status()
        # A server that knows no ranges begins again.
        goes_on = response.status_code == requests.codes.partial_content
        goes_on = goes_on and response.headers.get("Content-Range", "").startswith(f"bytes {done}-")
        done = done if goes_on else 0
        with part.open("ab" if goes_on else "wb") as stream:
            for block in response.iter_content(BLOCK):
                stream.write(block)
                done += len(block)
                # More than announced is not the published file, and might fill the disk.
                if done > checkpoint.size:
                    break
                yield Event(phase, done, checkpoint.size)
    if done > checkpoint.size:
        part.unlink()
        raise HistomixError(f"{checkpoint.url} gives more than the published file; try again later.")
    if done < checkpoint.size:
        raise ConnectionError("the connection ended early")


def _as_published(checkpoint: Checkpoint) -> Checkpoint:
    """A timm model's weights with the address, size and SHA-256 that its hub says."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    url = hf_hub_url(checkpoint.repository, HUB_FILE)
    try:
        said = get_hf_file_metadata(url)
    except (HfHubHTTPError, OSError) as error:
        raise HistomixError(
            f"'{checkpoint.name}' cannot be downloaded from {url} ({_reason(error)}); check the connection and "
            "the name."
        ) from error
    if not said.size or len(said.etag or "") != 64:
        raise HistomixError(f"{url} says no SHA-256; copy the file by hand: {by_hand(checkpoint)}")
    return replace(checkpoint, url=url, sha256=str(said.etag), size=int(said.size))


def _reason(error: BaseException) -> str:
    """Why something failed, in a few words."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())[:150]


def _not_published(checkpoint: Checkpoint, path: Path) -> HistomixError:
    return HistomixError(
        f"'{path.name}' is damaged or was changed (its SHA-256 is not the published one); delete it and get it again "
        f"from {checkpoint.source}."
    )
