"""``histomix`` in a process of its own: signals, pipes that are closed, full disks, and encodings with few letters."""

from __future__ import annotations

import argparse
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from napari_histomix.cli import main, terminal
from napari_histomix.cli.program import build_parser
from napari_histomix.datasets import sample_folder
from napari_histomix.datasets.dataset_writer import WrittenDataset
from napari_histomix.logs import log_file
from napari_histomix.records import HistomixError

PROGRAM = "import sys; from napari_histomix.cli import main; sys.exit(main())"
INPUTS = {"dataset", "study", "splits", "candidates", "image", "images", "start", "autoencoder", "test", "truth"} | {
    "manifest",
    "pred",
    "learned",
    "studies",
}
"""Options and arguments that name a file or folder which a command reads, or a study that it writes on."""
posix = pytest.mark.skipif(os.name == "nt", reason="signals and devices of other systems")


def started(*arguments: object, **how) -> subprocess.Popen[str]:
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "encoding": "utf-8", **how}
    if os.name == "posix":
        # Where tests run in the background SIGINT is ignored, by what they start as well.
        streams["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen([sys.executable, "-c", PROGRAM, *map(str, arguments)], **streams)


def ended(*arguments: object, **how) -> tuple[int, str, str]:
    process = started(*arguments, **how)
    out, err = process.communicate(timeout=120)
    return process.returncode, out or "", err or ""


@posix
class TestSignals:
    @pytest.fixture(autouse=True)
    def heard(self):
        """SIGINT as a terminal's processes have it, though those of a background job ignore it."""
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        yield
        signal.signal(signal.SIGINT, before)

    def test_while_modules_are_loaded(self):
        process = started("inspect", sample_folder(), "--json")
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 130 and err.splitlines()[-1] == "histomix: Cancelled."
        assert json.loads(out) == {"error": "Cancelled."} and "Traceback" not in err

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_at_work_nothing_half_written_stays(self, run, tmp_path, monkeypatch, number):
        monkeypatch.setattr(WrittenDataset, "add", lambda *_, **__: signal.raise_signal(number))
        before = signal.getsignal(number)
        code, out, err = run("convert", sample_folder(), "--to", "coco", "--out", tmp_path / "out", "--json")
        assert code == 128 + number and err[-1] == "histomix: Cancelled."
        assert [json.loads(line) for line in out] == [{"error": "Cancelled."}]
        assert list(tmp_path.iterdir()) == [] and signal.getsignal(number) is before

    def test_one_that_a_library_took_for_its_own_still_cancels(self, run, monkeypatch):
        def swallowed(*_, **__):
            try:
                signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt as error:
                raise ValueError("no image") from error

        monkeypatch.setattr("napari_histomix.cli.common.open_any", swallowed)
        before = signal.getsignal(signal.SIGINT)
        assert run("inspect", sample_folder())[0::2] == (130, ["histomix: Cancelled."])
        assert signal.getsignal(signal.SIGINT) is before


@posix
class TestStreams:
    @pytest.mark.parametrize("stream", ["stdout", "stderr"])
    def test_a_closed_pipe_ends_it_quietly(self, stream):
        reading, writing = os.pipe()
        os.close(reading)
        code, out, err = ended("inspect", sample_folder(), **{stream: writing})
        os.close(writing)
        assert code == 141
        assert all(line.endswith(" …") for line in err.splitlines()) and out == ""

    def test_a_full_disk_is_one_sentence(self):
        with open("/dev/full", "w") as full:
            code, _, err = ended("inspect", sample_folder(), stdout=full)
            assert code == 1 and "Standard output cannot be written (No space left" in err.splitlines()[-1]
            assert "Traceback" not in err and "ignored" not in err
            assert ended("nonsense", stderr=full)[::2] == (2, "")

    @pytest.mark.parametrize(("encoding", "scale"), [("cp1252", "µm/px"), ("ascii", "um/px")])
    def test_an_encoding_without_the_letters(self, monkeypatch, encoding, scale):
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2))
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        assert main(["inspect", str(sample_folder())]) == 0
        shown = out.buffer.getvalue().decode(encoding)
        assert "  ######\n" in shown and f"\n{scale}: 0.5\n" in shown
        assert "Reading labels " in err.buffer.getvalue().decode(encoding)

    def test_json_keeps_letters_that_the_encoding_does_not_have(self, monkeypatch, capsysbinary):
        with open(os.devnull, "w", encoding="ascii") as stream:
            written: list[str] = []
            monkeypatch.setattr(terminal, "write", lambda _, text: written.append(text))
            monkeypatch.setattr(sys, "stdout", stream)
            terminal.write_json({"name": "müde → wach"})
        assert written[0].isascii() and json.loads(written[0]) == {"name": "müde → wach"}


def commands(parser: argparse.ArgumentParser, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    """All commands with their parsers."""
    inner = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    for action in inner:
        for word, below in action.choices.items():
            yield from commands(below, (*words, word))
    if not inner:
        yield words, parser


ALL = dict(commands(build_parser()))
OUTPUTS = [
    (words, action, kind)
    for words, parser in ALL.items()
    for name, kind in parser.get_default("outputs")
    for action in parser._actions
    if action.dest == name
]


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_every_path_is_known_to_be_read_or_to_be_written(words):
    parser = ALL[words]
    paths = {action.dest for action in parser._actions if action.type is Path}
    outputs = {name for name, _ in parser.get_default("outputs")}
    assert paths - outputs <= INPUTS, "an option that names an output is added with add_output"


def needed(parser: argparse.ArgumentParser) -> list[str]:
    """What a command needs beside its outputs; none of it is there."""
    words: list[str] = []
    written = {name for name, _ in parser.get_default("outputs")}
    for action in parser._actions:
        value = action.choices[0] if action.choices else "1"
        if not action.option_strings and action.nargs != "?":
            words.insert(0, value)
        elif action.required and action.dest not in written:
            words += [action.option_strings[-1], value]
    return words


@pytest.mark.parametrize(("words", "action", "kind"), OUTPUTS, ids=lambda part: getattr(part, "dest", str(part)))
def test_outputs_are_tried_before_any_work(run, tmp_path, monkeypatch, words, action, kind):
    def working(*_, **__):
        raise AssertionError("work has begun")

    parser = ALL[words]
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setattr("napari_histomix.cli.program.build_parser", lambda _: build_parser_with(words, working))
    others = [
        word
        for name, _ in parser.get_default("outputs")
        for other in parser._actions
        if other.dest == name and other is not action and other.required
        for word in (other.option_strings[-1], tmp_path / name)
    ]
    flag = action.option_strings[-1]
    code, _, err = run(*words, *needed(parser), *others, flag, file / "in" / "between")
    assert code == 1 and "is a file, not a folder; choose another place" in err[-1], err
    code, _, err = run(*words, *needed(parser), *others, flag, tmp_path / ("a" * 300))
    assert code == 1 and "could not be written" in err[-1], err
    if kind in ("file", "folder"):
        code, _, err = run(*words, *needed(parser), *others, flag, file)
        assert code == 1 and f"already exists; name a new {kind}" in err[-1], err
    assert list(tmp_path.iterdir()) == [file]


def build_parser_with(words, work):
    parser = build_parser()
    dict(commands(parser))[words].set_defaults(run=work)
    return parser


def test_two_outputs_are_two_places(run, tmp_path):
    code, _, err = run("synthesize", tmp_path, "--rare", "1", "--out", tmp_path / "a", "--study", tmp_path / "a" / "b")
    assert code == 1 and "name two places" in err[-1]


class TestProblems:
    def test_all_problems_are_shown_where_no_image_can_be_read(self, run, tmp_path, labeled_image, dataset_folder):
        folder = dataset_folder(tmp_path / "data", [labeled_image(4, name=f"a{number:02}") for number in range(25)])
        for file in (folder / "Labels").iterdir():
            file.write_bytes(b"damaged")
        for command in (("inspect", folder), ("convert", folder, "--to", "coco", "--out", tmp_path / "out")):
            code, _, err = run(*command)
            shown = [line for line in err if line.startswith("problem: ")]
            assert code == 1 and len(shown) == 20 and "a19" in shown[-1] and "and 5 more problems." in err
            assert "No image of" in err[-1] or "could be used" in err[-1]
            code, out, _ = run(*command, "--json")
            result = json.loads(out[-1])
            assert code == 1 and len(result["problems"]) == 25 and result["error"] in err[-1]

    def test_what_nobody_foresaw_is_one_sentence_and_a_log(self, run, monkeypatch):
        def broken(*_, **__):
            raise ZeroDivisionError("by nothing")

        monkeypatch.setattr("napari_histomix.cli.common.open_any", broken)
        code, out, err = run("inspect", sample_folder(), "--json")
        assert code == 1 and len(err) == 1 and str(log_file()) in err[0] and "ZeroDivisionError: by nothing" in err[0]
        logged = log_file().read_text(encoding="utf-8")
        assert json.loads(out[0])["error"] in err[0] and "napari_histomix.cli.data:" in logged
        assert "ZeroDivisionError: by nothing" in logged and sample_folder().name not in logged


def test_an_error_may_name_all_that_led_to_it():
    assert HistomixError("one").problems == () and str(HistomixError("one", problems=["a", "b"])) == "one"
    assert HistomixError("one", problems=["a", "b"]).problems == ("a", "b")
