"""Settings as people see them: one annotated field is the home of a default, its bounds, unit, choices and help.

A settings class is a frozen dataclass whose fields are ``Annotated[type, Option(...)]``. The options of the command
line, the form of the dock, the record of a run and the tables of the documentation are made from it, and agree by
construction. A class may also name ``presets``: values of some of its settings that belong together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from inspect import get_annotations
from types import MappingProxyType, NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from napari_histomix.records import HistomixError

S = TypeVar("S")

Kind = Literal["", "classes", "encoder", "model", "file", "folder", "samplers"]
"""What a text or a tuple of texts stands for, where a form can offer more than a line to type in."""

Presets = Mapping[str, Mapping[str, Any]]
"""Values of settings by the name of the preset that sets them."""


@dataclass(frozen=True, slots=True)
class Option:
    """What people are told of a setting, and what it may be.

    Parameters
    ----------
    help : str
        What it does, in one sentence or two.
    label : str
        Its name in a form; made from the field's name where empty.
    low, high : float, optional
        Bounds, both included; of a pair, of each of its values.
    unit : str
        Such as ``µm`` or ``%``.
    choices : mapping
        Values that are possible, with what each is called in a form; empty: any.
    kind : str
        ``classes`` of the dataset, an ``encoder``, a ``model``, a ``file``, a ``folder``: what a form offers
        to choose from.
    network : str
        Of a ``model``: which kind of network it is, as ``histomix train`` calls them.
    automatic : str
        What None stands for, such as "chosen from the data".
    advanced : bool
        Rarely used: folded away in a form.
    recorded : bool
        Whether it shapes the result. What only says how the work is spread over a machine is not part of a record.
    flags : tuple of str
        Short spellings on the command line, beside ``--name``.
    """

    help: str
    label: str = ""
    low: float | None = None
    high: float | None = None
    unit: str = ""
    choices: Mapping[Any, str] = field(default_factory=dict)
    kind: Kind = ""
    network: str = "inpainter"
    automatic: str = ""
    advanced: bool = False
    recorded: bool = True
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Setting:
    """A field of a settings class, taken apart."""

    name: str
    type: type  # of a single value: bool, int, float or str
    default: Any  # ``dataclasses.MISSING`` where there is none
    optional: bool  # whether it may be None
    pair: bool  # whether it has a lower and an upper value
    many: bool  # whether it has any number of values
    option: Option

    @property
    def label(self) -> str:
        """Its name in a form."""
        return self.option.label or self.name.replace("_", " ").capitalize()

    @property
    def required(self) -> bool:
        """Whether a person has to say it."""
        return self.default is MISSING

    @property
    def flag(self) -> str:
        """Its name on the command line; a switch that is on by default has a ``--no-`` form beside it."""
        return "--" + self.name.replace("_", "-")

    def said(self, value: Any) -> str:
        """A value of it as an option of the command line."""
        if self.type is bool:
            return self.flag if value else self.flag.replace("--", "--no-", 1)
        return f"{self.flag} {in_words(value)}"

    def bounds(self) -> str:
        """What it may be, in words; empty where it may be anything."""
        option = self.option
        if option.choices:
            return ", ".join(str(value) for value in option.choices)
        unit = f" {option.unit}" if option.unit else ""
        low, high = (None if bound is None else _number(bound) for bound in (option.low, option.high))
        if low and high:
            return f"{low} to {high}{unit}"
        if low:
            return f"at least {low}{unit}"
        return f"at most {high}{unit}" if high else ""

    def check(self, value: Any) -> Any:
        """The value as the settings class holds it."""
        if value is None:
            if self.optional:
                return None
            raise HistomixError(f"'{self.name}' needs a value.")
        if not (self.pair or self.many):
            return self._check_one(value)
        if isinstance(value, str | bytes) or not hasattr(value, "__iter__"):
            raise HistomixError(f"'{self.name}' needs several values, not {value!r}.")
        values = tuple(self._check_one(each) for each in value)
        if self.pair and (len(values) != 2 or values[0] > values[1]):
            raise HistomixError(f"'{self.name}' needs a lower and an upper value, not {value!r}.")
        return values

    def _check_one(self, value: Any) -> Any:
        allowed = (int, float) if self.type is float else self.type
        if not isinstance(value, allowed) or (isinstance(value, bool) and self.type is not bool):
            raise HistomixError(f"'{self.name}' must be {_WORDS[self.type]}, not {value!r}.")
        value = self.type(value)
        option = self.option
        too_low = option.low is not None and not value >= option.low
        too_high = option.high is not None and not value <= option.high
        if too_low or too_high or (option.choices and value not in option.choices):
            wanted = f"one of {self.bounds()}" if option.choices else self.bounds()
            raise HistomixError(f"'{self.name}' must be {wanted}, not {value!r}.")
        return value


def _number(value: float) -> str:
    return f"{value:,}" if float(value).is_integer() and abs(value) >= 10_000 else f"{value:g}"


_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def settings_of(cls: type) -> tuple[Setting, ...]:
    """The settings of a settings class in their order; its own before those that it shares with others.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Stamps:
    ...     count: Annotated[int, Option("How many stamps.", low=1)] = 3
    >>> [(one.flag, one.default, one.bounds()) for one in settings_of(Stamps)]
    [('--count', 3, 'at least 1')]
    """
    hints = get_type_hints(cls, include_extras=True)
    own = get_annotations(cls)
    ordered = sorted(fields(cls), key=lambda each: each.name not in own)
    return tuple(_setting(each, hints[each.name]) for each in ordered)


def _setting(each: Field[Any], hint: Any) -> Setting:
    options = [extra for extra in get_args(hint)[1:] if isinstance(extra, Option)]
    if get_origin(hint) is not Annotated or not options:
        raise TypeError(f"the setting {each.name!r} must be written as Annotated[type, Option(...)]")
    bare = get_args(hint)[0]
    optional = pair = many = False
    if get_origin(bare) in (Union, UnionType):
        (bare,) = (part for part in get_args(bare) if part is not NoneType)
        optional = True
    if get_origin(bare) is tuple:
        parts = get_args(bare)
        bare, many = parts[0], parts[-1] is Ellipsis
        pair = not many
    if bare not in _WORDS:
        raise TypeError(f"the setting {each.name!r} is of a type that no form and no option can show: {bare!r}")
    default = each.default if each.default_factory is MISSING else each.default_factory()
    return Setting(each.name, bare, default, optional, pair, many, options[0])


def check_settings(settings: S) -> S:
    """The settings themselves, all values of the right type and within their bounds."""
    cls = type(settings)
    return made_from(cls, {known.name: getattr(settings, known.name) for known in settings_of(cls)})


def made_from(cls: type[S], values: Mapping[str, Any]) -> S:
    """Settings with these values, the defaults for all others; as they come from JSON, a form or the command line."""
    known = {setting.name: setting for setting in settings_of(cls)}
    if unknown := sorted(values.keys() - known.keys()):
        raise HistomixError(f"There is no setting '{unknown[0]}'; there are {', '.join(known)}.")
    if missing := [name for name, setting in known.items() if setting.required and name not in values]:
        raise HistomixError(f"'{missing[0]}' must be given: {known[missing[0]].option.help}")
    return cls(**{name: known[name].check(value) for name, value in values.items()})


def plain(settings: Any, *, recorded_only: bool = False) -> dict[str, Any]:
    """Settings as plain JSON values; ``recorded_only``: only what shapes the result."""
    wanted = (setting for setting in settings_of(type(settings)) if setting.option.recorded or not recorded_only)
    values = {setting.name: getattr(settings, setting.name) for setting in wanted}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def presets_of(*classes: type) -> Presets:
    """The presets of the last of some settings classes, with what all of them say under their names.

    A class has its presets, values by name, in a class attribute ``presets``.
    """
    named = [getattr(cls, "presets", {}) for cls in classes]
    return {name: {key: value for each in named for key, value in each.get(name, {}).items()} for name in named[-1]}


def preset_help(presets: Presets, classes: Iterable[type]) -> str:
    """What presets of settings classes stand for, in the words of the command line."""
    settings = {setting.name: setting for cls in classes for setting in settings_of(cls)}
    said = (
        f"{name} is {' '.join(settings[key].said(value) for key, value in values.items())}"
        for name, values in presets.items()
    )
    return f"Values of several settings, where they are not given: {'; '.join(said)}."


def options_table(cls: type) -> str:
    """The settings of a class as a Markdown table, for the documentation."""
    lines = ["| option | default | may be | what it does |", "|---|---|---|---|"]
    for setting in settings_of(cls):
        lines.append(f"| `{setting.flag}` | {shown(setting)} | {setting.bounds()} | {setting.option.help} |")
    if presets := presets_of(cls):
        lines.append(f"| `--preset` | none | {', '.join(presets)} | {preset_help(presets, [cls])} |")
    return "\n".join(lines)


def shown(setting: Setting) -> str:
    """A setting's default in words."""
    default = setting.default
    if setting.required:
        return "required"
    if isinstance(default, bool):
        return "yes" if default else "no"
    return ("" if default is None else in_words(default)) or setting.option.automatic or "none"


def in_words(value: Any) -> str:
    """A value, or several, as a person would type it."""
    values = value if isinstance(value, tuple) else (value,)
    return " ".join(f"{each:.7g}" if isinstance(each, float) else str(each) for each in values)


DEVICES: Mapping[Any, str] = MappingProxyType(
    {"auto": "Automatic", "cpu": "Processor (CPU)", "cuda": "NVIDIA graphics (CUDA)", "mps": "Apple graphics (MPS)"}
)
SAMPLERS: Mapping[Any, str] = MappingProxyType(
    {"fast": "Fast", "quality": "Quality (more steps)", "paper": "As in the papers (250 or 500 steps)"}
)

LARGEST_SEED = 2**31 - 1
"""That a person may set for a run; items of a run have larger ones of their own."""
Seed = Annotated[
    int, Option("The same seed gives the same result, pixel for pixel.", low=0, high=LARGEST_SEED, advanced=True)
]
Device = Annotated[
    str,
    Option(
        "Where the network runs; automatic: as the preferences say, else on a graphics card if there is one.",
        choices=DEVICES,
        recorded=False,
    ),
]
Encoder = Annotated[
    str,
    Option(
        "How tissue is compared: texture, timm:NAME, timm:NAME@FILE or ctranspath:FILE.", kind="encoder", advanced=True
    ),
]

WindowsAtOnce = Annotated[
    int, Option("Windows that are denoised together.", low=1, high=4096, advanced=True, recorded=False)
]


@dataclass(frozen=True, kw_only=True)
class PaintingSettings:
    """What all methods share that let a diffusion model paint."""

    sampler: Annotated[
        str, Option("Few steps, three times as many, or the papers': 250 for nuclei, 500 for tissue.", choices=SAMPLERS)
    ] = "fast"
    model: Annotated[
        str,
        Option(
            "The network that paints: a folder or a checkpoint.",
            label="Network",
            kind="model",
            automatic="the bundled one",
        ),
    ] = ""
    model_mpp: Annotated[
        tuple[float, ...],
        Option(
            "µm per pixel of a network that does not say it: one value, or the range.",
            label="Network's scale",
            low=0.0,
            unit="µm/px",
            automatic="as the network says",
            advanced=True,
        ),
    ] = ()
    prompt: Annotated[str, Option("What holes are to hold, for a network that follows a prompt.", advanced=True)] = ""
    device: Device = "auto"
    batch: WindowsAtOnce = 16
