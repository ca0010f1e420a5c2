"""What a person is asked before anything that they may miss is ended, lost or taken back."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtWidgets import QMessageBox, QWidget

from napari_histomix.widgets.session import NOT_TAKEN

KEPT = {
    "making images": "What the run has made is kept, and can be gone on with from its study.",
    "training a network": "The best network so far is kept, and its training can be resumed.",
}
"""By a job's title, what stays of it where it is ended."""
BACK = "Keep it and go back"


def ask_to_stop(parent: QWidget, titles: Sequence[str]) -> bool:
    """Ask whether what is under way, or not taken yet, may be ended; what a run has made is kept."""
    if not titles:
        return True
    edits_only = all(title.endswith(NOT_TAKEN) for title in titles)
    text, end = f"Not finished: {', '.join(titles)}.", "Continue without them" if edits_only else "End it and continue"
    return _ends(parent, "Not finished", text, stop_words(titles), end, BACK)


def stop_words(titles: Sequence[str]) -> str:
    """What becomes of what is not finished, in sentences on what there is alone."""
    running = [title for title in titles if not title.endswith(NOT_TAKEN)]
    sentences = [KEPT[title] for title in running if title in KEPT]
    if running:
        sentences.insert(0, "If you continue, it ends." if len(running) == 1 else "If you continue, they end.")
    if len(running) < len(titles):
        sentences.append("Hand edits are lost, unless you take them on the Project page before.")
    return " ".join(sentences)


def ask_to_keep(parent: QWidget, count: int) -> bool:
    """Ask, once a run was stopped, whether what it had made stays."""
    text = f"{count:,} synthetic {'change is' if count == 1 else 'changes are'} made already."
    more = "Keep what is made, to review it or to go on later, or discard it with all decisions on it?"
    return not _ends(parent, "Stopped", text, more, "Discard", "Keep")


def ask_to_discard(parent: QWidget, decided: int) -> bool:
    """Ask whether what a run made is taken back although a person has decided on some of it."""
    text = f"You decided on {decided:,} of what this run made."
    more = "If you discard the run, these decisions go too; Undo does not bring them back."
    return _ends(parent, "Discard", text, more, "Discard", BACK)


def _ends(parent: QWidget, title: str, text: str, more: str, end: str, keep: str) -> bool:
    """Whether a person presses ``end``; Enter, Escape and closing the question are ``keep``."""
    question = QMessageBox(parent)
    question.setWindowTitle(title)
    question.setText(text)
    question.setInformativeText(more)
    ending = question.addButton(end, QMessageBox.ButtonRole.DestructiveRole)
    keeping = question.addButton(keep, QMessageBox.ButtonRole.RejectRole)
    question.setDefaultButton(keeping)
    question.setEscapeButton(keeping)
    question.exec()
    return bool(question.clickedButton() is ending)
