"""What the studies of a window must hold by all that was decided in it, taken back and done again."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from napari_histomix.study.candidates import CandidateStore
from napari_histomix.study.decision_log import DecisionLog, family
from napari_histomix.study.runs import ChangeStore


class DecisionLedger:
    """What every study must hold by what was done to it: acts, and those taken back and done again."""

    SUBJECTS = ("candidate", "layout", "change", "change note", "change reasons")

    def __init__(self) -> None:
        self.acts: dict[tuple[str, str], list[tuple[dict[Any, Any], dict[Any, Any]]]] = defaultdict(list)
        self.done: Counter[tuple[str, str]] = Counter()
        self.wrong: list[str] = []

    def _state(self, study: Any, kind: str) -> dict[tuple[str, int], str]:
        subjects = [subject for subject in self.SUBJECTS if family(subject) == kind]
        return {(subject, item): what for subject in subjects for item, what in study.decisions(subject).items()}

    @contextmanager
    def following(self) -> Iterator[None]:
        """Check each act as it is written."""
        ledger, act, turn = self, DecisionLog.act, DecisionLog._turn

        def acted(study: Any, entries: Any) -> None:
            entries = list(entries)
            kind = family(entries[0][0]) if entries else ""
            before = ledger._state(study, kind) if kind else {}
            act(study, entries)
            if kind and (after := ledger._state(study, kind)) != before:
                key = str(study.folder), kind
                wanted = {**before, **{(subject, item): what for subject, item, what in entries}}
                if after != {name: what for name, what in wanted.items() if what is not None}:
                    ledger.wrong.append(f"an act wrote something else than {entries}")
                del ledger.acts[key][ledger.done[key] :]
                ledger.acts[key].append((before, after))
                ledger.done[key] += 1

        def turned(study: Any, subject: Any, side: str, *rest: Any) -> Any:
            key = str(study.folder), family(subject)
            at, acts = ledger.done[key], ledger.acts[key]
            known = at > 0 if side == "before" else at < len(acts)
            entries = turn(study, subject, side, *rest)
            if known:
                wanted = acts[at - 1][0] if side == "before" else acts[at][1]
                ledger.done[key] += -1 if side == "before" else 1
                if ledger._state(study, family(subject)) != wanted:
                    ledger.wrong.append(f"{'undo' if side == 'before' else 'redo'} of {subject} gave something else")
            elif side == "after" and entries:
                ledger.wrong.append(f"redo of {subject} did {entries} without an undo before it")
            return entries

        def discarded(study: Any, run: int) -> None:
            gone, key = set(study.ids_of_run(run)), (str(study.folder), "change")
            discard(study, run)
            left = [tuple(_without(state, gone) for state in states) for states in ledger.acts[key]]
            ledger.done[key] = sum(before != after for before, after in left[: ledger.done[key]])
            ledger.acts[key] = [(before, after) for before, after in left if before != after]

        def found(study: Any, *facts: Any) -> None:
            search(study, *facts)
            key = str(study.folder), "candidate"
            # What was taken back was about the candidates of before.
            del ledger.acts[key][ledger.done[key] :]

        discard, search = ChangeStore.discard_run, CandidateStore.set_candidates
        with (
            patch.object(DecisionLog, "act", acted),
            patch.object(DecisionLog, "_turn", turned),
            patch.object(ChangeStore, "discard_run", discarded),
            patch.object(CandidateStore, "set_candidates", found),
        ):
            yield

    def compare(self, session: Any) -> None:
        """What the window shows as decided is what is on disk."""
        study = session.study
        if study is None:
            return
        for subject in self.SUBJECTS:
            if session.decisions[subject] != study.decisions(subject):
                self.wrong.append(f"decisions on {subject} differ between window and disk")


def _without(state: dict[Any, Any], items: set[int]) -> dict[Any, Any]:
    return {name: what for name, what in state.items() if name[1] not in items}
