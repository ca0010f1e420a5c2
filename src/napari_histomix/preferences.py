"""What a person wants on this machine, whatever the study: kept in one file, overruled by environment variables.

The file is ``preferences.json`` in the user's configuration folder (`path`). A value that the file does not say, or
says wrongly, is the default of its field. Values are read from the file whenever they are needed, so that all docks,
processes and command lines of a person agree.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from napari_histomix.records import HistomixError
from napari_histomix.settings import DEVICES, Option, made_from, plain, settings_of

APP = "napari-histomix"
"""Name of the program's folders in those of the user."""
VARIABLES: Mapping[str, str] = MappingProxyType({"weights": "HISTOMIX_WEIGHTS", "online": "HISTOMIX_ONLINE"})
"""Environment variables that go before a preference, by its name."""
OUTLINES: Mapping[Any, str] = MappingProxyType(
    {"thin": "Thin lines", "thick": "Thick lines, to be seen from afar", "filled": "Filled nuclei"}
)
_PAGE = "napari"
"""Key of the file under which the values lie that napari's own Preferences window showed last."""
_ASKED = "asked for the reviewer"
"""Key of the file that says that a person was asked for their name."""

_RECENT = "recent"
"""Key of the file under which lies what was opened last."""
_MOST_RECENT = 24
"""More than are shown: some may be gone."""


@dataclass(frozen=True)
class Preferences:
    """What holds on this machine for a person."""

    weights: Annotated[
        str,
        Option(
            "Folder that networks are fetched to and looked for in.",
            label="Model folder",
            kind="folder",
            automatic="in the user's cache",
        ),
    ] = ""
    online: Annotated[
        bool,
        Option(
            "Whether networks may be fetched from the internet. Otherwise nothing goes online.", label="Allow downloads"
        ),
    ] = False
    device: Annotated[
        str,
        Option(
            "Where networks run if a form or a command says automatic; automatic: a graphics card if there is one.",
            label="Default device",
            choices=DEVICES,
        ),
    ] = "auto"
    reviewer: Annotated[str, Option("Who decides: written down with every decision.", automatic="nobody")] = ""
    outlines: Annotated[str, Option("How nuclei are drawn.", label="Nuclei", choices=OUTLINES)] = "thin"


def user_folder(kind: Literal["config", "log"]) -> Path:
    """The program's folder for settings or for logs, where the system keeps such things of a user.

    ``XDG_CONFIG_HOME`` and ``XDG_STATE_HOME`` go before what Windows and macOS are used to.
    """
    variable = {"config": "XDG_CONFIG_HOME", "log": "XDG_STATE_HOME"}[kind]
    if named := os.environ.get(variable):
        return Path(named) / APP
    home = Path.home()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / APP
    if sys.platform == "darwin":
        return home / "Library" / {"config": "Application Support", "log": "Logs"}[kind] / APP
    return home / {"config": ".config", "log": ".local/state"}[kind] / APP


def user_cache() -> Path:
    """The user's cache, for what can be fetched again: ``XDG_CACHE_HOME``, or ``~/.cache`` on every system."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def path() -> Path:
    """The file that preferences are kept in."""
    return user_folder("config") / "preferences.json"


def preferences() -> Preferences:
    """What is in force: what environment variables say, else the file, else the defaults."""
    wanted = kept()[0]
    said = {name: os.environ[variable] for name, variable in VARIABLES.items() if os.environ.get(variable)}
    if "weights" in said:
        wanted = replace(wanted, weights=said["weights"])
    if "online" in said:
        wanted = replace(wanted, online=said["online"] == "1")
    return wanted


def kept() -> tuple[Preferences, str]:
    """What the file says, and a sentence on what is wrong with it; empty where nothing is."""
    content, problem = _content()
    values, wrong = {}, []
    for setting in settings_of(Preferences):
        if setting.name in content:
            try:
                values[setting.name] = setting.check(content[setting.name])
            except HistomixError as error:
                wrong.append(str(error).rstrip("."))
    if wrong:
        problem = f"{path()} says what cannot be ({'; '.join(wrong)}); the defaults hold until it is mended."
    return made_from(Preferences, values), problem


def change(**values: Any) -> Preferences:
    """Keep other values of some preferences; returns what the file says then.

    Raises HistomixError for a value that cannot be, or where the file cannot be written.
    """
    before, problem = kept()
    after = made_from(Preferences, {**plain(before), **values})
    if after != before or problem:
        _write({**_content()[0], **plain(after)})
    return after


def overruled() -> dict[str, str]:
    """Environment variables that are set, by the preference before which they go."""
    return {name: variable for name, variable in VARIABLES.items() if os.environ.get(variable)}


def merge_page(shown: Mapping[str, Any]) -> Preferences:
    """Take over what a person changed in napari's own Preferences window; returns what both have to say then.

    ``shown`` is what that window has now. A value in which it differs from what it had the last time was changed there,
    be it while no dock was open; all others are as the file has them.
    """
    had = _content()[0].get(_PAGE)
    had = had if isinstance(had, dict) else plain(Preferences())
    changed = {name: value for name, value in shown.items() if value != had.get(name)}
    try:
        merged = change(**changed)
    except HistomixError:
        # Values of another version of the program: the file has the say.
        merged = kept()[0]
    if had != plain(merged):
        _write({**_content()[0], **plain(merged), _PAGE: plain(merged)})
    return merged


@dataclass(frozen=True)
class Recent:
    """A dataset or study that was opened: its folder, what it is (``nuclei``, ``tissue``, ``study``), when (UTC)."""

    path: str
    kind: str
    when: str


def recent() -> tuple[Recent, ...]:
    """What was opened last, the last first; none of it need be there any more."""
    listed = _content()[0].get(_RECENT)
    known = []
    for each in listed if isinstance(listed, list) else ():
        with suppress(TypeError, KeyError):
            known.append(Recent(*(str(each[key]) for key in ("path", "kind", "when"))))
    return tuple(known)


def remember(path: Path, kind: str) -> None:
    """Keep a dataset or study as the one that was opened last; HistomixError where the file cannot be written."""
    now = Recent(str(Path(path).resolve()), kind, datetime.now(UTC).isoformat(timespec="seconds"))
    listed = [now, *(each for each in recent() if each.path != now.path)][:_MOST_RECENT]
    _write({**_content()[0], _RECENT: [vars(each) for each in listed]})


def ask_reviewer() -> bool:
    """Whether a person is to be asked for their name now: nobody is named, and this is the first time."""
    content = _content()[0]
    if preferences().reviewer or content.get(_ASKED):
        return False
    with suppress(HistomixError):
        # Where it cannot be kept, it is asked again the next time.
        _write({**content, _ASKED: True})
    return True


def configuration() -> dict[str, Any]:
    """The page of napari's own Preferences window (napari 0.9), as the manifest declares it."""
    types = {bool: "boolean", str: "string"}
    properties = {
        setting.name: {
            "title": setting.label,
            "description": setting.option.help
            + (f" Empty: {automatic}." if (automatic := setting.option.automatic) else ""),
            "type": types[setting.type],
            "default": setting.default,
            **({"enum": list(setting.option.choices)} if setting.option.choices else {}),
        }
        for setting in settings_of(Preferences)
    }
    return {"preferences": {"title": "HistoMix", "properties": properties}}


def _content() -> tuple[dict[str, Any], str]:
    """What lies in the file, and a sentence where that is no table of preferences."""
    try:
        content = json.loads(path().read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}, ""
    except OSError as error:
        return {}, f"{path()} cannot be read ({error.strerror}); the defaults hold until its permissions are mended."
    except ValueError:
        content = None
    if isinstance(content, dict):
        return content, ""
    return {}, f"{path()} holds no preferences that can be read; the defaults hold until it is mended or deleted."


def _write(content: Mapping[str, Any]) -> None:
    """Put the file in its place, whole; one that cannot be read is put aside."""
    file = path()
    partial = file.with_name(f"{file.name}.{os.getpid()}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        if _content()[1]:
            os.replace(file, file.with_name(f"{file.name}.damaged"))
        os.replace(partial, file)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise HistomixError(
            f"The preferences could not be kept in {file} ({error.strerror}); free space or mend its permissions."
        ) from None
