"""The public face: an augmented dataset in three lines, in a notebook or a script."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_histomix import jobs
from napari_histomix.compositing.composing import compose, new_image
from napari_histomix.datasets import Dataset
from napari_histomix.methods import DEFAULT, method_names, method_of
from napari_histomix.records import Change, HistomixError, LabeledImage, drain
from napari_histomix.settings import made_from, presets_of, settings_of
from napari_histomix.study import Study


def list_methods() -> dict[str, str]:
    """The methods there are.

    Returns
    -------
    dict of str to str
        By name what each makes.

    Examples
    --------
    >>> "copypaste" in list_methods()
    True
    """
    return {name: method_of(name).makes for name in method_names()}


@dataclass(frozen=True, eq=False, repr=False)
class Made(Sequence[Change]):
    """What a method made of a dataset: its changes in the order of their ids.

    Parameters
    ----------
    dataset : Dataset
    study : Study
        Holds the changes, and the decisions on them.
    ids : tuple of int
        Of the changes.
    refusals : Counter of str
        How often something was refused, by reason.
    """

    dataset: Dataset
    study: Study
    ids: tuple[int, ...]
    refusals: Counter[str]
    _folder: Any = None

    def __repr__(self) -> str:
        return f"<Made: {len(self)} of {self.dataset.name}, {self.refusals.total()} refused>"

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self.study.change(number) for number in self.ids[index]]
        return self.study.change(self.ids[index])

    def images(self) -> Iterator[LabeledImage]:
        """Every synthetic image, with its labels.

        Examples
        --------
        >>> from napari_histomix import augment, load_sample
        >>> made = augment(load_sample(), "copypaste", rare=["lymphocyte"], count=2)
        >>> all(image.synthetic for image in made.images())
        True
        """
        in_place: dict[str, list[Change]] = {}
        for change in self:
            if change.in_place:
                in_place.setdefault(change.image, []).append(change)
            elif change.image:
                yield compose(self.dataset.read(change.image), [change]).image
            else:
                yield new_image(change, float(change.provenance["mpp"]), self.dataset.name).image
        for name, changes in in_place.items():
            yield compose(self.dataset.read(name), changes).image

    def export(self, out: Path | str, format: str | None = None, *, report: bool = False) -> Path:
        """Write the training images and all that was made as a dataset, complete or absent.

        Parameters
        ----------
        out : path
            A folder that is not there yet.
        format : str, optional
            Such as ``coco``; what fits the dataset by default.
        report : bool
            Also write ``report.png``: class counts, and changes before and after.

        Returns
        -------
        Path
            The folder.

        Raises
        ------
        HistomixError
            If ``out`` exists, splits share a patient, or the format cannot hold the dataset.

        Examples
        --------
        >>> from napari_histomix import augment, load_sample
        >>> made = augment(load_sample(), "copypaste", rare=["lymphocyte"], count=2)
        >>> made.export("augmented", "coco").name
        'augmented'
        """
        from napari_histomix.study.export import export_study

        job = export_study(
            self.study, self.dataset, Path(out), format=format, ids=self.ids, reviewed=False, report=report
        )
        return drain(job)


def augment(
    dataset: Dataset, method: str = DEFAULT, *, study: Path | str | Study | None = None, **options: Any
) -> Made:
    """Make synthetic images of a dataset with a method.

    Parameters
    ----------
    dataset : Dataset
        See ``open_dataset`` and ``load_sample``; only its training split is used.
    method : str
        A name that ``methods`` lists.
    study : path or Study, optional
        A new folder where all that is made, and every decision on it, is kept; or a study of the dataset that is open
        already. Without it the study is gone with the result.
    **options
        Settings of the method and of what it looks for before, by name: ``histomix methods NAME`` lists them. A
        ``preset`` that it lists gives those that are not given.

    Returns
    -------
    Made

    Raises
    ------
    HistomixError
        If there is no such method or setting, the dataset is not what the method needs, or nothing could be made.

    Examples
    --------
    >>> from napari_histomix import augment, load_sample
    >>> made = augment(load_sample(), "copypaste", rare=["lymphocyte"], count=2, seed=1)
    >>> [change.method for change in made]
    ['copypaste', 'copypaste']
    """
    chosen = method_of(method)
    stage: Any = None
    jobs.check(chosen, dataset)
    own = {setting.name for setting in settings_of(chosen.settings)}
    before = {setting.name for setting in settings_of(chosen.stage.settings)} if chosen.stage is not None else set()
    presets = presets_of(*([chosen.stage.settings] if chosen.stage is not None else []), chosen.settings)
    if presets and (name := options.pop("preset", None)) is not None:
        if name not in presets:
            raise HistomixError(f"{chosen.title} has no preset '{name}'; it has {', '.join(presets)}.")
        options = {**presets[name], **options}
    if unknown := sorted(options.keys() - own - before):
        raise HistomixError(f"{chosen.title} has no setting '{unknown[0]}'; it has {', '.join(sorted(own | before))}.")
    settings: Any = made_from(chosen.settings, {name: options[name] for name in own & options.keys()})
    folder = None
    if not isinstance(study, Study):
        folder = tempfile.TemporaryDirectory(prefix="histomix-") if study is None else None
        place = Path(folder.name) / "study" if folder is not None else Path(str(study))
        study = Study.create(place, dataset.root, dataset.name, split_parts=dataset.split_parts)
        study.carry_edits(dataset)
    if chosen.stage is not None and not chosen.stage.ready(study):
        stage = made_from(chosen.stage.settings, {name: options[name] for name in before & options.keys()})
    outcome = drain(jobs.run(chosen, dataset, settings, study, stage=stage))
    if not outcome.ids:
        raise jobs.nothing_made(chosen.title, outcome.wanted, outcome.refusals)
    return Made(dataset, study, outcome.ids, outcome.refusals, folder)


def open_study(folder: Path | str) -> Study:
    """Open a study folder.

    Parameters
    ----------
    folder : path

    Returns
    -------
    Study
        Its ``changes``, ``decisions`` and ``settings`` are what the docks show.

    Raises
    ------
    HistomixError
        If it is none, is damaged, or was made by a newer version.

    Examples
    --------
    >>> from napari_histomix import augment, load_sample
    >>> made = augment(load_sample(), "copypaste", study="my study", rare=["lymphocyte"], count=2)
    >>> made.study.let_go()
    >>> len(open_study("my study").changes())
    2
    """
    return Study.open(Path(folder))
