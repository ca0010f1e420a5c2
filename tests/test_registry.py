from __future__ import annotations

import hashlib
import json
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

import napari_histomix.weights.fetching as fetching
import napari_histomix.weights.known as known
from napari_histomix.cli import main, terminal
from napari_histomix.preferences import change
from napari_histomix.records import HistomixError, drain
from napari_histomix.weights import CHECKPOINTS, Checkpoint, bundled, checkpoint_path, fetch, weights_folder
from napari_histomix.weights.known import survey

CONTENT = hashlib.shake_256(b"weights").digest(2_800_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Publisher(ThreadingHTTPServer):
    """Serves one file, block by block; answers ranges, and may end a connection early."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content: bytes | None = CONTENT
        self.ranges = True
        self.ends_after = 10**9
        self.asked: list[str] = []
        self.sent = 0


class Handler(BaseHTTPRequestHandler):
    server: Publisher

    def do_GET(self) -> None:
        wanted = self.headers.get("Range", "")
        self.server.asked.append(wanted)
        if self.server.content is None:
            self.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.server.ranges else 0
        body = self.server.content[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header(
                "Content-Range", f"bytes {start}-{len(self.server.content) - 1}/{len(self.server.content)}"
            )
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        for at in range(0, min(len(body), self.server.ends_after), 1 << 18):
            try:
                self.wfile.write(body[at : at + (1 << 18)])
            except OSError:
                return
            self.server.sent += len(body[at : at + (1 << 18)])
            time.sleep(0.01)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> Iterator[Publisher]:
    """A published file, known as "small"; "by-hand" has no hash."""
    server = Publisher()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/small.pth"
    small = Checkpoint("small", "SAM", "tests", "CC0-1.0", "small.pth", url, "https://page", SHA256, len(CONTENT))
    by_hand = Checkpoint("by-hand", "CTransPath", "tests", "GPL-3.0", "by-hand.pth", page="https://page")
    monkeypatch.setattr(known, "CHECKPOINTS", {"small": small, "by-hand": by_hand})
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HISTOMIX_WEIGHTS", str(tmp_path / "deep" / "weights"))
    return tmp_path / "deep" / "weights"


def online(monkeypatch: pytest.MonkeyPatch, allowed: bool = True) -> None:
    monkeypatch.setenv("HISTOMIX_ONLINE", "1" if allowed else "0")


def stopped_after(folder: Path, most: int) -> int:
    """Fetch, and close the job once this much is there; returns how many bytes are kept."""
    job = fetch("small", folder)
    while next(job).done < most:
        pass
    job.close()
    return (folder / "small.pth.part").stat().st_size


def test_every_checkpoint_says_all_that_is_needed_to_trust_it():
    assert {"vit_b", "vit_l", "vit_h", "ctranspath", "vit_b_histopathology"} <= set(CHECKPOINTS)
    for name, one in CHECKPOINTS.items():
        assert name == one.name and one.license and one.purpose and one.page.startswith("https://")
        assert one.file.endswith((".pth", ".pt", ".safetensors"))
        if one.fetchable:
            assert one.url.startswith("https://") and one.size > 1e8
            assert len(one.sha256) == 64 and int(one.sha256, 16)
    fetched = [one for one in CHECKPOINTS.values() if one.fetchable]
    assert [one.name for one in fetched] == ["vit_b", "vit_l", "vit_h"]
    assert len({one.sha256 for one in fetched}) == len(fetched)


def test_a_file_that_lies_there_is_used_offline(published, folder, monkeypatch):
    online(monkeypatch, allowed=False)
    folder.mkdir(parents=True)
    (folder / "small.pth").write_bytes(CONTENT)
    assert checkpoint_path("small", folder) == folder / "small.pth"


def test_a_file_of_another_hash_is_refused_and_kept(published, folder, monkeypatch):
    online(monkeypatch)
    folder.mkdir(parents=True)
    (folder / "small.pth").write_bytes(CONTENT[:-1] + b"?")
    for attempt in (lambda: checkpoint_path("small", folder), lambda: drain(fetch("small", folder))):
        with pytest.raises(HistomixError, match="SHA-256 is not the published one"):
            attempt()
    assert (folder / "small.pth").is_file() and not published.asked


def test_nothing_is_fetched_unless_the_user_asked(published, folder, monkeypatch):
    for value in (None, "0", "true"):
        monkeypatch.delenv("HISTOMIX_ONLINE", raising=False)
        if value is not None:
            monkeypatch.setenv("HISTOMIX_ONLINE", value)
        with pytest.raises(HistomixError, match="set HISTOMIX_ONLINE=1"):
            checkpoint_path("small", folder)
        with pytest.raises(HistomixError, match="only where HISTOMIX_ONLINE=1"):
            next(fetch("small", folder))
    assert not folder.exists() and not published.asked


def test_the_preference_allows_it_as_the_variable_does_and_the_variable_forbids_it(published, folder, monkeypatch):
    change(online=True)
    online(monkeypatch, allowed=False)
    with pytest.raises(HistomixError, match="only where"):
        next(fetch("small", folder))
    monkeypatch.delenv("HISTOMIX_ONLINE")
    assert drain(fetch("small", folder)).read_bytes() == CONTENT


def test_fetching_counts_bytes_and_leaves_the_file_alone_in_its_folder(published, folder, monkeypatch):
    online(monkeypatch)
    events = [one for one in fetch("small", folder) if one.phase.startswith("Fetching")]
    assert events[0].done == 0 and events[-1].done == len(CONTENT) == events[0].total
    assert len(events) > 10 and published.asked == [""]
    assert [one.name for one in folder.iterdir()] == ["small.pth"]
    published.content = None
    assert checkpoint_path("small", folder).read_bytes() == CONTENT
    assert drain(fetch("small", folder)) == folder / "small.pth" and published.asked == [""]


def test_what_was_stopped_goes_on_where_it_ended(published, folder, monkeypatch):
    online(monkeypatch)
    kept = stopped_after(folder, 1_000_000)
    assert 1_000_000 <= kept < len(CONTENT) and not (folder / "small.pth").exists()
    first = next(fetch("small", folder))
    while not first.phase.startswith("Fetching"):
        first = next(fetch("small", folder))
    assert first.done == kept
    assert drain(fetch("small", folder)).read_bytes() == CONTENT
    assert published.asked == ["", f"bytes={kept}-"]
    assert [one.name for one in folder.iterdir()] == ["small.pth"]


def test_a_server_without_ranges_begins_again(published, folder, monkeypatch):
    online(monkeypatch)
    stopped_after(folder, 1_000_000)
    published.ranges = False
    assert drain(fetch("small", folder)).read_bytes() == CONTENT


def test_a_connection_that_ends_early_keeps_the_part_and_says_so(published, folder, monkeypatch):
    online(monkeypatch)
    published.ends_after = 1 << 20
    with pytest.raises(HistomixError, match=r"could not be fetched .*; 1\.0 MB are kept, fetch it again to go on"):
        drain(fetch("small", folder))
    published.ends_after = 10**9
    assert drain(fetch("small", folder)).read_bytes() == CONTENT
    assert published.asked == ["", f"bytes={1 << 20}-"]


@pytest.mark.parametrize("came", [CONTENT[:-1] + b"?", CONTENT * 2], ids=["changed", "more"])
def test_what_is_not_the_published_file_is_not_kept(published, folder, monkeypatch, came):
    online(monkeypatch)
    published.content = came
    with pytest.raises(HistomixError, match="published"):
        checkpoint_path("small", folder)
    assert not list(folder.iterdir())


def test_a_part_of_another_file_is_found_out_and_the_next_time_begins_anew(published, folder, monkeypatch):
    online(monkeypatch)
    folder.mkdir(parents=True)
    (folder / "small.pth.part").write_bytes(b"?" * 1000)
    with pytest.raises(HistomixError, match="not the published one"):
        drain(fetch("small", folder))
    assert drain(fetch("small", folder)).read_bytes() == CONTENT


def test_a_missing_page_is_said_and_leaves_nothing(published, folder, monkeypatch):
    online(monkeypatch)
    published.content = None
    with pytest.raises(HistomixError, match=r"could not be fetched .*404"):
        checkpoint_path("small", folder)
    assert not list(folder.iterdir())


def test_two_windows_do_not_write_to_the_same_part(published, folder, monkeypatch):
    online(monkeypatch)
    job = fetch("small", folder)
    while not next(job).done:
        pass
    with pytest.raises(HistomixError, match="is being fetched already"):
        drain(fetch("small", folder))
    job.close()


def test_a_disk_that_is_too_small_is_refused_before_anything_is_fetched(published, folder, monkeypatch):
    online(monkeypatch)
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda _: SimpleNamespace(free=len(CONTENT) - 1))
    with pytest.raises(HistomixError, match="free space"):
        drain(fetch("small", folder))
    assert not published.asked


def test_what_has_no_hash_is_placed_by_hand_even_online(published, folder, monkeypatch):
    online(monkeypatch)
    for attempt in (lambda: checkpoint_path("by-hand"), lambda: drain(fetch("by-hand"))):
        with pytest.raises(HistomixError, match=rf"'by-hand.pth' is not in {folder}; copy it there from https://page"):
            attempt()
    folder.mkdir(parents=True)
    (folder / "by-hand.pth").write_bytes(b"anything")
    assert checkpoint_path("by-hand") == folder / "by-hand.pth"


def test_timm_weights_are_checked_against_the_hash_that_the_hub_says(published, folder, monkeypatch):
    online(monkeypatch)
    url = f"http://127.0.0.1:{published.server_port}/model.safetensors"
    monkeypatch.setattr("huggingface_hub.hf_hub_url", lambda repository, name: url)
    said = SimpleNamespace(size=len(CONTENT), etag="0" * 64)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda asked: said)
    monkeypatch.setattr("napari_histomix.weights.known._in_hub_cache", lambda repository: None)
    with pytest.raises(HistomixError, match="not the published one"):
        drain(fetch("timm:small.tag"))
    said.etag = SHA256
    assert drain(fetch("timm:small.tag")) == folder / "small.tag.safetensors"
    said.etag = "abc"
    with pytest.raises(HistomixError, match="says no SHA-256"):
        drain(fetch("timm:other.tag"))


def test_an_unknown_name_lists_the_known_ones(folder):
    for name in ("vit_x", "timm:", "timm:../x", "hub:x"):
        with pytest.raises(HistomixError, match="vit_b, vit_l, vit_h"):
            checkpoint_path(name, folder)


def test_the_model_folder_can_be_named(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert weights_folder() == tmp_path / "cache" / "napari-histomix" / "weights"
    change(weights=str(tmp_path / "preferred"))
    assert weights_folder() == tmp_path / "preferred"
    monkeypatch.setenv("HISTOMIX_WEIGHTS", str(tmp_path))
    assert weights_folder() == tmp_path


def test_the_survey_tells_what_is_there_in_part_missing_damaged_and_own(published, folder, monkeypatch):
    online(monkeypatch)
    monkeypatch.setattr("napari_histomix.weights.known._in_hub_cache", lambda repository: None)
    states = lambda: {found.network.name: found.state for found in drain(survey())}  # noqa: E731
    before = states()
    assert before["he-inpaint"] == "present" and before["small"] == before["timm:resnet18.a1_in1k"] == "missing"
    kept = stopped_after(folder, 1_000_000)
    assert {found.network.name: found.there for found in drain(survey())}["small"] == kept
    assert states()["small"] == "partial"
    drain(fetch("small"))
    (folder / "by-hand.pth").write_bytes(b"anything")
    (folder / "mine.pt").write_bytes(b"anything")
    shutil.copytree(bundled(), folder / "trained")
    after = states()
    assert (after["small"], after["by-hand"], after["mine.pt"]) == ("present", "unverified", "unverified")
    assert after["trained"] == "present"
    (folder / "small.pth").write_bytes(CONTENT[:-1] + b"?")
    (folder / "trained" / known.WEIGHTS).write_bytes(b"")
    assert (states()["small"], states()["trained"]) == ("damaged", "damaged")


def test_the_command_line_lists_fetches_and_refuses(published, folder, monkeypatch, capsys):
    monkeypatch.setattr("napari_histomix.weights.known._in_hub_cache", lambda repository: None)
    assert main(["models", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    small = next(one for one in told["networks"] if one["name"] == "small")
    assert small["state"] == "missing" and small["sha256"] == SHA256 and small["path"] == str(folder / "small.pth")
    assert told["folder"] == str(folder) and not told["online"]
    assert main(["models", "fetch", "small"]) == 1
    said = capsys.readouterr().err.splitlines()
    assert "is fetched only where HISTOMIX_ONLINE=1" in said[-1] and "Traceback" not in "".join(said)
    online(monkeypatch)
    assert main(["models", "fetch", "small"]) == 0
    assert main(["models"]) == 0
    shown = capsys.readouterr().out
    assert "small" in shown and "unknown" in shown and str(folder) in shown


def test_ctrl_c_keeps_the_part_and_the_second_call_goes_on(published, folder, monkeypatch, capsys):
    online(monkeypatch)
    seen = []

    def check() -> None:
        seen.append(1)
        if len(seen) == 20:
            raise terminal.Stopped(signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(terminal.signals, "check", check)
        assert main(["models", "fetch", "small"]) == 130
    kept = (folder / "small.pth.part").stat().st_size
    assert 0 < kept < len(CONTENT) and not (folder / "small.pth").exists()
    assert main(["models", "fetch", "small"]) == 0
    assert published.asked == ["", f"bytes={kept}-"] and (folder / "small.pth").read_bytes() == CONTENT
