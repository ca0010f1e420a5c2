"""What one viewer's person is working on: dataset, study, candidates, placements and every decision. No widgets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from qtpy.QtCore import QObject, QSettings, Signal

from napari_histomix.datasets import SAMPLE_MAJORS, SAMPLE_RARE, Dataset, Survey, sample_folder
from napari_histomix.datasets.splits import with_splits
from napari_histomix.records import Candidate, Event, HistomixError, Job, Placement
from napari_histomix.study.decision_log import Change, Subject, items_of
from napari_histomix.study.lock import READ_ONLY, Claim
from napari_histomix.widgets.images import ImageReader
from napari_histomix.widgets.loading import Candidates, Found, Opened
from napari_histomix.widgets.preload import prepare_torch, warm_networks
from napari_histomix.widgets.tables import APPROVE, DELETE, DROP, KEEP, REJECT

if TYPE_CHECKING:
    from napari_histomix.methods.nucleimix import CandidateSet, CandidateSettings, Synthesis, SynthesisSettings
    from napari_histomix.study import Study

NAME = "napari-histomix-session"
PLACEMENT: tuple[Subject, Subject, Subject] = ("placement", "placement note", "placement reasons")


class Session(QObject):
    """State of one viewer. Panels change it through its methods and follow its signals.

    Long work is handed out as jobs (``*_job``), which touch nothing here; a panel's runner runs them in a thread and
    gives what they return to the matching ``take_*`` method, on the main thread.
    """

    dataset_changed = Signal()
    classes_changed = Signal()
    splits_changed = Signal()
    study_changed = Signal()
    candidates_changed = Signal()
    candidates_decided = Signal(object)
    """Ranks of the candidates whose decision changed."""
    placements_changed = Signal()
    placements_decided = Signal(object)
    """Numbers of the placements whose decision changed."""
    image_changed = Signal(str)
    place_requested = Signal(str, float, float)
    """Image, row, column a person wants to see."""
    model_changed = Signal()
    tissue_changed = Signal(object, object)
    """Folder of the study with a segment pool that one dock opened, or whose pool it changed; and that dock."""
    tissue_image_wanted = Signal(str)
    """Name of an image of that pool a person wants to see."""
    reviewer_changed = Signal(str)
    notice = Signal(str)

    def __init__(self, parent: QObject | None = None, home: Path | None = None) -> None:
        super().__init__(parent)
        self.setObjectName(NAME)
        self.home = home or Path.home() / "HistoMix"
        self.reader = ImageReader(self)
        self.reader.failed.connect(lambda _name, sentence: self.notice.emit(sentence))
        self.reader.loaded.connect(self._on_loaded)
        self._wanted = ""
        self._claims: dict[Path, Claim] = {}
        # Not kept from ending here: a study that nobody has any more lets others write.
        self._studies: WeakSet[Study] = WeakSet()
        self.study: Study | None = None
        # A window that closes lets others write, whoever else still holds a study.
        self.destroyed.connect(partial(_release, self._claims))
        self.model_folder: Path | None = None
        self.tissue_folder: Path | None = None
        self.shows_tissue = False
        """Whether a dock follows ``tissue_image_wanted``."""
        self._clear()

    def release(self) -> None:
        """Let other windows write to what this one has open."""
        _release(self._claims)

    def _clear(self) -> None:
        if self.study is not None:
            self.study.let_go()
        self.dataset: Dataset | None = None
        self.survey: Survey | None = None
        self.mpp: float | None = None
        self.splits: dict[str, str] = {}
        """Split of each image where a person chose them; empty: as the dataset has them."""
        self.study = None
        self.study_folder: Path | None = None
        self.rare: tuple[int, ...] = ()
        self.major: tuple[int, ...] = ()
        self.candidates: Candidates | None = None
        self.candidate_decisions: dict[int, str] = {}
        self.placements: tuple[Placement, ...] = ()
        self._of_image: dict[str, list[Placement]] = {}
        self._by_rank: dict[int, Placement] = {}
        self._tally: Counter[str] | None = None
        """How often each decision was made; counted anew after one has changed."""
        self.placement_decisions: dict[int, str] = {}
        self.placement_notes: dict[int, str] = {}
        self.placement_reasons: dict[int, str] = {}
        self.refusals: Counter[str] = Counter()
        self.image = ""

    # Opening.

    def take_opened(self, opened: Opened) -> None:
        """Begin with what was opened; everything before is let go (it is on disk)."""
        warm_networks()
        dataset = opened.dataset
        self._clear()
        self.dataset, self.survey = dataset, opened.survey
        self.mpp = opened.mpp
        self.splits = dict(opened.settings.get("splits") or {})
        self.study, self.candidates = opened.study, opened.candidates
        self.study_folder = Path(opened.study.folder) if opened.study else self.free_folder()
        self._set_placements(opened.placements)
        self.candidate_decisions = dict(opened.candidate_decisions)
        if opened.study is not None:
            self._begin(opened.study)
        self.rare, self.major = self._default_classes()
        if chosen := opened.settings.get("candidate_settings"):
            self.rare, self.major = tuple(chosen["rare"]), tuple(chosen["major"])
        self.reader.set_dataset(None if dataset.missing_scale else dataset)
        for signal in (self.dataset_changed, self.classes_changed, self.study_changed):
            signal.emit()
        if self.read_only:
            self.notice.emit(READ_ONLY)
        self.candidates_changed.emit()
        self.placements_changed.emit()
        if opened.survey.counts and not dataset.missing_scale:
            first = opened.settings.get("image")
            self.show(first if first in opened.survey.counts else next(iter(opened.survey.counts)))

    def _default_classes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        dataset, counted = self.dataset, self.survey
        assert dataset is not None and counted is not None
        numbers = [one.number for one in dataset.classes if counted.total[one.number]]
        if Path(dataset.root) == sample_folder():
            return (
                (dataset.class_number(SAMPLE_RARE),),
                tuple(dataset.class_number(name) for name in SAMPLE_MAJORS),
            )
        if len(numbers) < 2:
            return (), tuple(numbers)
        rare = min(numbers, key=lambda number: counted.total[number])
        return (rare,), tuple(number for number in numbers if number != rare)

    @property
    def ready(self) -> bool:
        """Whether candidates can be looked for: images with a scale, and a rare class."""
        return self.dataset is not None and not self.dataset.missing_scale and bool(self.rare)

    # Images.

    @property
    def images(self) -> tuple[str, ...]:
        """Names of the images that can be read."""
        return tuple(self.survey.counts) if self.survey else ()

    def show(self, name: str) -> None:
        """Make an image the one on the screen; ``image_changed`` follows when it is read."""
        self._wanted = name
        self.reader.request(name)

    def step(self, by: int) -> None:
        """Show the next image, or the one before."""
        names = self.images
        if names:
            at = names.index(self.image) if self.image in names else 0
            self.show(names[(at + by) % len(names)])

    def fly(self, image: str, row: float, col: float) -> None:
        """Bring a place onto the screen."""
        if image != self.image:
            self.show(image)
        self.place_requested.emit(image, row, col)

    def _on_loaded(self, name: str) -> None:
        if name == self._wanted and name != self.image:
            self.image = name
            self.image_changed.emit(name)

    # Classes.

    def choose_classes(self, rare: Iterable[int], major: Iterable[int]) -> None:
        """Set the rare classes and those they may replace; a class cannot be both."""
        rare = tuple(rare)
        major = tuple(number for number in major if number not in rare)
        if (rare, major) != (self.rare, self.major):
            self.rare, self.major = rare, major
            self.classes_changed.emit()

    # Splits.

    def choose_splits(self, splits: Mapping[str, str]) -> None:
        """Give every image its split: in the study at once, or when it begins. ``notice`` says where that fails."""
        if self.dataset is None:
            return
        try:
            dataset = with_splits(self.dataset, splits)
            if self.study is not None:
                self.study.save_settings({"splits": dict(splits)})
        except (HistomixError, OSError) as error:
            self.notice.emit(str(error))
            return
        self.dataset, self.splits = dataset, dict(splits)
        self.splits_changed.emit()

    # Study.

    def free_folder(self, home: Path | None = None) -> Path:
        """Where a new study of this dataset goes: a folder in ``home`` that does not exist yet."""
        assert self.dataset is not None
        home = home or self.home
        name = "".join(c if c.isalnum() or c in " -_." else "-" for c in self.dataset.name).strip(" .") or "study"
        folder, number = home / name, 2
        while folder.exists():
            folder, number = home / f"{name} {number}", number + 1
        return folder

    def choose_study_folder(self, folder: Path) -> None:
        """Put the study elsewhere; only before it has begun."""
        if self.study is None:
            self.study_folder = folder
            self.study_changed.emit()

    @property
    def worked(self) -> bool:
        """Whether the study holds decisions or synthetic nuclei, which a new search would take the sense from."""
        return bool(self.candidate_decisions or self.placement_decisions or self.placements)

    # Candidates.

    def candidates_job(self, settings: CandidateSettings) -> Callable[[], Job[Found]]:
        """Look for candidates and write them to the study, which begins here if it has not."""
        dataset, study, folder, mpp = self.dataset, self.study, self.study_folder, self.mpp
        assert dataset is not None and folder is not None
        if self.worked:
            # What was decided belongs to the candidates it was decided on: that study stays as it is.
            study, folder = None, self.free_folder(folder.parent)
        image, counted = self.image, self.survey
        splits = {"splits": self.splits} if self.splits else {}

        def job() -> Job[Found]:
            if settings.encoder != "texture":
                prepare_torch()
            from napari_histomix.methods.nucleimix import find_candidates
            from napari_histomix.study import Study
            from napari_histomix.study.survey_cache import keep_survey

            found: CandidateSet = yield from find_candidates(dataset, settings)
            if not found.candidates:
                raise HistomixError("No place fits a rare nucleus; add images, or choose other classes.")
            yield Event("Writing candidates to the study")
            with nullcontext(study) if study else Study.begin(folder, dataset.root, dataset.name, mpp) as ours:
                ours.set_candidates(found)
                if counted is not None:
                    ours.remember_images(counted.hashes)
                    keep_survey(ours.folder, counted)
                ours.save_settings({"image": image, **splits})
            size, warnings = found.effective_sample_size, found.warnings
            made = Candidates.of(found.candidates, dataset.class_name, size, warnings)
            return Found(ours, made, tuple(one.sentence for one in found.problems))

        return job

    def take_candidates(self, found: Found) -> None:
        """Begin with new candidates; decisions and placements of earlier ones are over."""
        study = found.study
        if study is not self.study:
            if self.study is not None:
                self.study.let_go()
            self.study, self.study_folder = study, Path(study.folder)
            self._begin(study)
            self.study_changed.emit()
            if self.splits and study.settings().get("splits") != self.splits:
                # They were chosen while the search was under way.
                self.choose_splits(self.splits)
        self.candidates = found.candidates
        self.candidate_decisions = dict(study.decisions("candidate"))
        self._set_placements(study.placements(found.candidates.items))
        self._read_decisions(study)
        self.refusals = Counter()
        self.candidates_changed.emit()
        self.placements_changed.emit()

    def decided(self, decision: str) -> int:
        """How many candidates or placements have a decision (keep, drop, approve, reject)."""
        if self._tally is None:
            self._tally = Counter(self.candidate_decisions.values()) + Counter(self.placement_decisions.values())
        return self._tally[decision]

    def usable_candidates(self, kept_only: bool) -> tuple[Candidate, ...]:
        """The kept candidates, or all that were not dropped; in order of rank."""
        if self.candidates is None:
            return ()
        decisions = self.candidate_decisions
        if kept_only:
            return tuple(one for one in self.candidates.items if decisions.get(one.rank) == KEEP)
        return tuple(one for one in self.candidates.items if decisions.get(one.rank) != DROP)

    # Placements.

    def use_model(self, folder: Path | str | None) -> None:
        """Synthesize with the model in this folder from now on; None: with the bundled one."""
        folder = Path(folder) if folder is not None else None
        if folder != self.model_folder:
            self.model_folder = folder
            self.model_changed.emit()

    def synthesis_job(
        self, settings: SynthesisSettings, kept_only: bool, model: Any = None
    ) -> Callable[[], Job[Synthesis]]:
        """Make placements on the chosen candidates and write them to the study.

        ``model`` is a loaded one; without it the session's is used.
        """
        dataset, study, existing = self.dataset, self.study, self.placements
        if dataset is None or study is None or self.candidates is None:
            raise HistomixError("Find candidates first.")
        chosen, folder = self.usable_candidates(kept_only), self.model_folder

        def job() -> Job[Synthesis]:
            prepare_torch()
            from napari_histomix.methods.nucleimix import synthesize
            from napari_histomix.methods.provenance import search_facts

            yield Event("Preparing")
            kept = study.settings()
            search = search_facts(kept["candidate_settings"], kept["encoder"], kept["temperature"])
            used = model
            if used is None and folder is not None:
                from napari_histomix.diffusion.model_files import load_model

                used = load_model(folder)
            made: Synthesis = yield from synthesize(
                dataset, chosen, settings, model=used, existing=existing, search=search
            )
            yield Event("Writing placements to the study")
            study.add_placements(made.placements)
            study.save_settings({"synthesis_settings": asdict(settings), "refusals": dict(made.refusals)})
            return made

        return job

    def take_synthesis(self, made: Synthesis) -> None:
        """Add new placements to those there are."""
        self._set_placements((*self.placements, *made.placements))
        self.refusals = Counter(made.refusals)
        self.placements_changed.emit()

    def _set_placements(self, placements: tuple[Placement, ...]) -> None:
        self.placements = placements
        self._by_rank = {one.candidate.rank: one for one in placements}
        self._of_image = {}
        for one in placements:
            self._of_image.setdefault(one.candidate.target.image, []).append(one)

    def placement(self, rank: int) -> Placement | None:
        """The placement on a candidate, if there is one."""
        return self._by_rank.get(rank)

    def placements_of(self, image: str, *, rejected: bool = False) -> tuple[Placement, ...]:
        """Placements of an image, without the rejected and deleted ones unless asked for."""
        decisions, found = self.placement_decisions, self._of_image.get(image, ())
        return tuple(one for one in found if rejected or decisions.get(one.candidate.rank) not in (REJECT, DELETE))

    @property
    def approved(self) -> tuple[Placement, ...]:
        """What may be exported."""
        return tuple(one for one in self.placements if self.placement_decisions.get(one.candidate.rank) == APPROVE)

    # Tissue.

    def share_tissue(self, folder: Path | str, by: QObject, *, changed: bool = False) -> None:
        """Let the docks for tissue work on one study: ``by`` has opened it, or changed its pool."""
        folder = Path(folder)
        if changed or folder != self.tissue_folder:
            self.tissue_folder = folder
            self.tissue_changed.emit(folder, by)

    # Who may write.

    @property
    def read_only(self) -> bool:
        """Whether the study can be looked at only: another window writes to it."""
        return self.study is not None and self.study.read_only

    def claim(self, folder: Path | str) -> Claim:
        """This window's right to write to a study that several of its docks have open."""
        folder = Path(folder).resolve()
        return self._claims.setdefault(folder, Claim(folder))

    def _begin(self, study: Study) -> None:
        self.introduce(study)
        study.use(self.claim(study.folder))
        self._read_decisions(study)

    def _read_decisions(self, study: Study) -> None:
        self.placement_decisions, self.placement_notes, self.placement_reasons = map(study.decisions, PLACEMENT)
        self._tally = None

    @property
    def reviewer(self) -> str:
        """Who decides in this window; written down with every decision. Kept from one session to the next."""
        return str(QSettings("napari-histomix", "napari-histomix").value("reviewer", ""))

    def set_reviewer(self, name: str) -> None:
        """Say who decides from now on."""
        QSettings("napari-histomix", "napari-histomix").setValue("reviewer", name)
        for study in self._studies:
            study.reviewer = name
        self.reviewer_changed.emit(name)

    def introduce(self, study: Study) -> None:
        """Have a study write down who decides in this window, now and from now on."""
        study.reviewer = self.reviewer
        self._studies.add(study)

    # Decisions: on disk first, then on the screen.

    def decide(self, subject: Subject, items: Iterable[int], decision: str | None) -> None:
        """Decide on candidates or placements; on disk before the screen shows it."""
        self.act([(subject, item, decision) for item in items])

    def act(self, changes: Iterable[Change]) -> None:
        """Decide on several items, or on a placement, its note and its reasons, as one act."""
        changes = list(changes)
        if self.study is None or not changes:
            return
        try:
            self.study.act(changes)
        except (HistomixError, OSError) as error:
            self.notice.emit(str(error))
            return
        self._take(changes)

    def undo(self, subject: Subject) -> tuple[int, ...]:
        """Take the last act back; returns whom it concerned."""
        return self._turn(partial(self.study.undo, subject)) if self.study is not None else ()

    def redo(self, subject: Subject) -> tuple[int, ...]:
        """Do the act again that was taken back last; returns whom it concerned."""
        return self._turn(partial(self.study.redo, subject)) if self.study is not None else ()

    def _turn(self, way: Callable[[], tuple[Change, ...]]) -> tuple[int, ...]:
        try:
            return self._take(way())
        except (HistomixError, OSError) as error:
            self.notice.emit(str(error))
            return ()

    def _take(self, changes: Sequence[Change]) -> tuple[int, ...]:
        for subject, item, decision in changes:
            decisions = self._decisions(subject)
            if decision is None:
                decisions.pop(item, None)
            else:
                decisions[item] = decision
        concerned = items_of(changes)
        if concerned:
            self._tally = None
            candidates = changes[0][0] == "candidate"
            (self.candidates_decided if candidates else self.placements_decided).emit(concerned)
        return concerned

    def _decisions(self, subject: Subject) -> dict[int, str]:
        if subject == "candidate":
            return self.candidate_decisions
        kept = (self.placement_decisions, self.placement_notes, self.placement_reasons)
        return kept[PLACEMENT.index(subject)]


def _release(claims: Mapping[Path, Claim]) -> None:
    for claim in claims.values():
        claim.release(force=True)


def window_of(viewer: Any) -> QObject | None:
    """The main window of a viewer; None for a viewer model without one."""
    viewer = getattr(viewer, "__wrapped__", viewer)
    return getattr(getattr(viewer, "window", None), "_qt_window", None)


def session_of(viewer: Any) -> Session:
    """The session of a viewer, made on first use: a child of its window, so that it lives and ends with it."""
    window = window_of(viewer)
    if window is None:
        return Session()
    return window.findChild(Session, NAME) or Session(window)
