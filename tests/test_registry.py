from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

import napari_histomix.weights as registry
from napari_histomix.records import HistomixError
from napari_histomix.weights import CHECKPOINTS, Checkpoint, checkpoint_path, fetch, weights_folder

CONTENT = b"weights" * 400_000


class SlowHandler(SimpleHTTPRequestHandler):
    """Serves a folder, not all of a file at once."""

    def copyfile(self, source, outputfile) -> None:
        while block := source.read(1 << 19):
            outputfile.write(block)
            time.sleep(0.06)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A published file, known as "small"."""
    file = tmp_path / "published" / "small.pth"
    file.parent.mkdir()
    file.write_bytes(CONTENT)
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0),
        lambda *args: SlowHandler(*args, directory=str(file.parent)),  # type: ignore[arg-type]
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/{file.name}"
    one = Checkpoint("small", "none", url, hashlib.sha256(CONTENT).hexdigest(), len(CONTENT), "CC0-1.0")
    monkeypatch.setattr(registry, "CHECKPOINTS", {"small": one})
    yield file
    server.shutdown()
    server.server_close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "weights"


def online(monkeypatch: pytest.MonkeyPatch, allowed: bool = True) -> None:
    monkeypatch.setenv("HISTOMIX_ONLINE", "1" if allowed else "0")


def test_every_checkpoint_says_all_that_is_needed_to_trust_it():
    assert {"vit_b", "vit_l", "vit_h"} <= set(CHECKPOINTS)
    for name, one in CHECKPOINTS.items():
        assert name == one.name and one.url.startswith("https://") and one.filename.endswith((".pth", ".safetensors"))
        assert len(one.sha256) == 64 and int(one.sha256, 16) and one.size > 1e8 and one.license and one.architecture
    assert len({one.sha256 for one in CHECKPOINTS.values()}) == len(CHECKPOINTS)


def test_a_file_that_lies_there_is_used_offline(published, folder, monkeypatch):
    online(monkeypatch, allowed=False)
    folder.mkdir(parents=True)
    (folder / "small.pth").write_bytes(CONTENT)
    assert checkpoint_path("small", folder) == folder / "small.pth"


def test_a_file_of_another_hash_is_refused_and_kept(published, folder, monkeypatch):
    online(monkeypatch)
    folder.mkdir(parents=True)
    (folder / "small.pth").write_bytes(CONTENT[:-1])
    with pytest.raises(HistomixError, match="SHA-256 is not the published one"):
        checkpoint_path("small", folder)
    assert (folder / "small.pth").is_file()


def test_nothing_is_fetched_unless_the_user_asked(published, folder, monkeypatch):
    for value in (None, "0", "true"):
        monkeypatch.delenv("HISTOMIX_ONLINE", raising=False)
        if value is not None:
            monkeypatch.setenv("HISTOMIX_ONLINE", value)
        with pytest.raises(HistomixError, match="set HISTOMIX_ONLINE=1"):
            checkpoint_path("small", folder)
        with pytest.raises(HistomixError, match="only where HISTOMIX_ONLINE=1"):
            next(fetch("small", folder))
    assert not folder.exists()


def test_fetching_counts_bytes_and_leaves_the_file_alone_in_its_folder(published, folder, monkeypatch):
    online(monkeypatch)
    events = list(fetch("small", folder))
    assert [one.done for one in events][-1] == len(CONTENT) == events[0].total
    assert len(events) > 1
    assert [one.name for one in folder.iterdir()] == ["small.pth"]
    published.unlink()
    assert checkpoint_path("small", folder).read_bytes() == CONTENT


@pytest.mark.parametrize("came", [CONTENT[:-1], CONTENT[:-1] + b"?", CONTENT * 2], ids=["cut", "changed", "more"])
def test_what_is_not_the_published_file_is_not_kept(published, folder, monkeypatch, came):
    online(monkeypatch)
    published.write_bytes(came)
    with pytest.raises(HistomixError, match="published"):
        checkpoint_path("small", folder)
    assert not list(folder.iterdir())


def test_a_lost_connection_is_said_and_leaves_nothing(published, folder, monkeypatch):
    online(monkeypatch)
    published.unlink()
    with pytest.raises(HistomixError, match="could not be fetched"):
        checkpoint_path("small", folder)
    assert not list(folder.iterdir())


def test_closing_the_job_leaves_nothing(published, folder, monkeypatch):
    online(monkeypatch)
    job = fetch("small", folder)
    while not next(job).done:
        pass
    assert list(folder.iterdir())
    job.close()
    assert not list(folder.iterdir())


def test_a_disk_that_is_too_small_is_refused_before_anything_is_fetched(published, folder, monkeypatch):
    online(monkeypatch)
    monkeypatch.setattr(registry.shutil, "disk_usage", lambda _: SimpleNamespace(free=len(CONTENT) - 1))
    with pytest.raises(HistomixError, match="free space"):
        next(fetch("small", folder))
    assert not list(folder.iterdir())


def test_an_unknown_name_lists_the_known_ones(folder):
    with pytest.raises(HistomixError, match="vit_b, vit_l, vit_h"):
        checkpoint_path("vit_x", folder)


def test_the_folder_can_be_named(monkeypatch, tmp_path):
    monkeypatch.setenv("HISTOMIX_WEIGHTS", str(tmp_path))
    assert weights_folder() == tmp_path
    monkeypatch.delenv("HISTOMIX_WEIGHTS")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert weights_folder() == tmp_path / "cache" / "napari-histomix" / "weights"
