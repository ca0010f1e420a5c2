"""napari layers made from the house's records, and held by object, never by name; each image uses those of the last."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from napari.components import ViewerModel
from napari.layers import Image, Labels, Layer, Points
from napari.utils.colormaps import DirectLabelColormap
from napari.utils.colormaps.standardize_color import transform_color
from numpy.typing import NDArray

from napari_histomix.compositing.composing import Synthetic, compose, new_image
from napari_histomix.datasets import Dataset
from napari_histomix.datasets.entries import UNCLASSIFIED_COLOR
from napari_histomix.datasets.writing import class_table
from napari_histomix.preferences import preferences
from napari_histomix.records import DONOR, Change, LabeledImage, NucleusClass
from napari_histomix.widgets.decisions import APPROVE, DELETE, DROP, KEEP, REJECT, UNDECIDED, WORDS

CONTOURS = {"thin": 1, "thick": 3, "filled": 0}
"""Width of outlines in pixels of the image, by preference; 0 fills nuclei."""
DECISION_COLORS = {
    WORDS[KEEP]: "#00a651",
    WORDS[APPROVE]: "#00a651",
    WORDS[DROP]: "#ffb000",
    WORDS[REJECT]: "#ffb000",
    WORDS[DELETE]: "transparent",
    UNDECIDED: "#00e5ff",
}
"""None of them occurs in H&E, pale or dark; a dark green and a light amber differ also to those who see no red."""
DECISION_SYMBOLS = dict.fromkeys((WORDS[DROP], WORDS[REJECT]), "x") | dict.fromkeys(
    (WORDS[KEEP], WORDS[APPROVE]), "square"
)
"""Beside the colors; what is undecided is a disc."""
DRAWN_COLORS = ((255, 0, 255), (0, 255, 255), (255, 225, 0), (0, 255, 0))
"""Of nuclei that were drawn by hand and have no class yet."""
CANDIDATE_MICROMETERS = 3.0
RING_WIDTH, THICK, HALO = 0.06, 0.18, 0.07
"""Of the rings around synthetic nuclei, as a share of their size: of most, of one that stands out, and how much wider
the dark halo below each is, by which it is seen on pale tissue."""
HALO_COLOR = (0.06, 0.07, 0.09, 0.8)
CHANGES = "name", "scale", "translate", "data", "paint"
"""Events of a layer that a person has worked on."""


@dataclass(frozen=True, eq=False)
class Composed:
    """A synthetic image with its target, if any, all of its changes, rejected ones too, and how each was made."""

    name: str
    target: LabeledImage | None
    synthetic: Synthetic
    changes: list[Change]
    facts: list[dict[str, Any]]

    @property
    def in_place(self) -> bool:
        return self.changes[0].in_place


def composed_image(
    target: LabeledImage | None, changes: Sequence[Change], decisions: Mapping[int, str], dataset: Dataset
) -> Synthetic:
    """The synthetic image in which changes are seen; of those in place, without the rejected and deleted ones."""
    first = changes[0]
    if target is None:
        return new_image(first, new_image_mpp(first, dataset), dataset.name)
    if not first.in_place:
        return compose(target, [first])
    return compose(target, [change for change in changes if decisions.get(change.id) not in (REJECT, DELETE)])


def new_image_mpp(change: Change, dataset: Dataset) -> float:
    """µm per pixel of a new image: what its method says, else as the images that it was learned from."""
    return float(change.provenance.get("mpp") or dataset.entries[0].mpp or 1.0)


def image_layer(name: str, image: LabeledImage, space: Mapping[str, Any], **about: Any) -> Image:
    """An RGB layer; ``space`` is scale, translate and units, ``about`` joins the provenance in its metadata."""
    metadata = {"histomix": {**facts(image), **about}}
    return Image(image.pixels, rgb=True, name=name, visible=False, metadata=metadata, **space)


def nuclei_layer(
    name: str,
    image: LabeledImage,
    types: Mapping[int, int],
    classes: Sequence[NucleusClass],
    space: Mapping[str, Any],
    **about: Any,
) -> Labels:
    """The instance map, each nucleus outlined in its class's color; ``about`` joins the provenance in its metadata.

    The layer gets its own copy: painting in it must not change the target that a rejection gives back.
    """
    # What a person draws in a real image is seen at once; what a rejection took out of a synthetic one is not.
    drawn = {} if about.get("synthetic") else {"other": 1.0, "color": unlike(classes)}
    keywords = nuclei_keywords(types, classes, {**facts(image), **about}, **drawn)
    if image.synthetic:
        keywords["features"]["synthetic"] = keywords["features"]["index"].isin(image.synthetic)
    layer = Labels(image.instances.copy(), name=name, visible=False, **keywords, **space)
    return outlined(layer)


def outlined(layer: Labels) -> Labels:
    """A layer of nuclei, drawn as a person prefers."""
    layer.contour = CONTOURS[preferences().outlines]
    return layer


def nuclei_keywords(
    types: Mapping[int, int],
    classes: Sequence[NucleusClass],
    about: Mapping[str, Any],
    other: float = 0.0,
    color: tuple[int, int, int] = UNCLASSIFIED_COLOR,
) -> dict[str, Any]:
    """What a Labels layer of nuclei is made with: colors and a feature ``class`` by id, the classes in its metadata.

    ``other`` is the opacity of the ``color`` in which ids without a class are shown.
    """
    by_class = {kind.number: np.array([*kind.color, 255]) / 255 for kind in classes}
    names = {kind.number: kind.name for kind in classes}
    colors: dict[int | None, Any] = {None: np.array([*np.array(color) / 255, other]), 0: np.zeros(4)}
    colors.update((number, by_class[kind]) for number, kind in types.items())
    return {
        "opacity": 0.8,
        "colormap": DirectLabelColormap(color_dict=colors),
        "features": pd.DataFrame({"index": list(types), "class": [names[kind] for kind in types.values()]}),
        "metadata": {"histomix": {**about, "classes": class_table(classes)}},
    }


def unlike(classes: Sequence[NucleusClass]) -> tuple[int, int, int]:
    """Of a few colors that stand out from H&E, the one that is least like those of the classes."""
    known = np.array([kind.color for kind in classes], float).reshape(-1, 1, 3)
    apart = np.linalg.norm(known - np.array(DRAWN_COLORS, float), axis=2).min(axis=0, initial=np.inf)
    return DRAWN_COLORS[int(apart.argmax())]


def candidates_layer(image: str, rows: pd.DataFrame, mpp: float, space: Mapping[str, Any]) -> Points:
    """Candidate locations of one image, colored by how rare-like their surroundings are; ``rows`` may be empty."""
    features = candidate_features(rows)
    return Points(
        # A copy: what pandas hands out cannot be written, and points are dragged.
        rows[["row", "col"]].to_numpy(copy=True),
        features=features,
        face_color="percentile",
        face_colormap="viridis",
        face_contrast_limits=(0, 100),
        border_color=decision_colors(features["decision"]) if len(features) else DECISION_COLORS[UNDECIDED],
        symbol=decision_symbols(features["decision"]) if len(features) else "disc",
        border_width=0.18,
        size=CANDIDATE_MICROMETERS / mpp,
        # Those of size 0 are not to be seen; napari draws none below two pixels of the screen by itself.
        canvas_size_limits=(0, 10_000),
        opacity=0.9,
        visible=False,
        name=f"{image} candidates",
        metadata={"histomix": {"image": image}},
        **space,
    )


def candidate_features(rows: pd.DataFrame) -> pd.DataFrame:
    """What a candidates layer carries for each point."""
    return rows.drop(columns=["image", "row", "col"]).reset_index(drop=True)


def changes_layer(
    composed: Composed, decisions: Mapping[int, str], class_name: Callable[[int], str], space: Mapping[str, Any]
) -> Points:
    """Changes in place of one image as rings in the color of the decision; the halos of all lie below all rings."""
    changes = [*composed.changes] * 2
    halo = np.arange(len(changes)) < len(composed.changes)
    donors = [change.donor for change in changes]
    words = [WORDS[decisions.get(change.id, UNDECIDED)] for change in changes]
    features = pd.DataFrame(
        {
            "number": [change.id for change in changes],
            "class": [", ".join(map(class_name, dict.fromkeys(change.added.values()))) for change in changes],
            "replaced": [", ".join(map(str, change.removed)) for change in changes],
            "fit": [change.score for change in changes],
            "donor": [f"{donor.image} #{donor.item}" if donor is not None else "" for donor in donors],
            "method": [change.method for change in changes],
            "seed": [str(change.seed) for change in changes],
            "decision": words,
            "halo": halo,
        }
    )
    radii = [np.sqrt(_ringed_area(change) / np.pi) for change in changes]
    return Points(
        np.array([center(change) for change in changes]),
        features=features,
        face_color="transparent",
        border_color=ring_colors(words, halo),
        symbol=decision_symbols(words),
        border_width=ring_widths(np.zeros(len(changes), bool), halo),
        size=[3.1 * radius for radius in radii],
        visible=False,
        name=f"{composed.name} changes",
        metadata={"histomix": {"image": changes[0].image, "synthetic": True, "changes": composed.facts}},
        **space,
    )


def _ringed_area(change: Change) -> int:
    """Pixels that a ring goes around: of the donor, or of the nuclei that were painted without one."""
    added = 0 if change.labels is None else np.count_nonzero(np.isin(change.labels, list(change.added)))
    return int(np.count_nonzero(change.origin == DONOR) or max(added, 1))


def space_like(layer: Layer | None, mpp: float | None) -> dict[str, Any]:
    """Scale, translation and units of a layer; where there is none, those of so many µm per pixel, if known."""
    if layer is not None:
        return {"scale": tuple(layer.scale), "translate": tuple(layer.translate), "units": layer.units}
    return {"scale": (mpp, mpp), "units": ("um", "um")} if mpp else {}


def take_over(old: Layer, new: Layer) -> None:
    """Give a layer that is shown the content of a newly made one of its kind."""
    if isinstance(old, Labels):
        # What was selected in another image says nothing here; napari cannot draw all of its labels below 0.
        old.selected_label = new.selected_label
    old.data = new.data
    old.metadata = new.metadata
    if isinstance(old, Labels):
        # Other data have made it editable.
        old.editable = new.editable
        old.colormap = new.colormap
        old.features = new.features
    elif isinstance(old, Points):
        # A hidden layer would still draw by the places of what it held before, which may be more.
        old.set_view_slice()
        old.features = new.features
        if len(new.data):
            old.size = new.size
            old.border_color = new.border_color
            old.border_width = new.border_width
            old.symbol = new.symbol
    if not old.visible:
        # While it is hidden, napari goes on to know the extent of what it held before, and so would a camera.
        old.scale = old.scale


def center(change: Change) -> tuple[float, float]:
    """Middle of a change in the image that it is seen in, as row and column."""
    height, width = change.shape
    return change.row + height / 2, change.col + width / 2


def facts(image: LabeledImage) -> dict[str, Any]:
    """Where an image comes from, for a layer's metadata."""
    # By this key no network learns from a layer, and its files say that they are synthetic.
    made = {"synthetic": True} if image.synthetic else {}
    return {**asdict(image.source), "mpp": image.mpp, **made}


def provenance(change: Change, facts: Mapping[str, Any]) -> dict[str, Any]:
    """How a change was made, for a layer's metadata; ``facts``: its own."""
    about: dict[str, Any] = {
        "number": change.id,
        "method": change.method,
        "seed": change.seed,
        "sources": [asdict(source) for source in change.sources],
        "added": dict(change.added),
        "removed": list(change.removed),
    }
    if change.class_shares is not None:
        about["class_shares"] = dict(change.class_shares)
    return {**facts, **about}


def write_labels(layer: Labels, window: tuple[slice, slice], values: NDArray[Any]) -> None:
    """Write ids (H, W) into a window of a layer; no undo of napari's takes that back."""
    if not layer.visible:
        layer.data[window] = values
        return
    # As napari's own tools write: only the window is drawn anew. All outlines of an image of 1500² take 40 ms.
    history = layer._undo_history.copy(), layer._redo_history.copy()
    layer.data_setitem(tuple(np.mgrid[window].reshape(2, -1)), values.ravel())
    layer._undo_history, layer._redo_history = history


def decision_colors(words: Iterable[str]) -> NDArray[np.float64]:
    """Border colors (N, 4) by decision."""
    # As numbers: napari takes long to read the names of many colors.
    colors = {word: transform_color(color)[0] for word, color in DECISION_COLORS.items()}
    return np.array([colors[word] for word in words], np.float64).reshape(-1, 4)


def ring_colors(words: Iterable[str], halo: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Border colors (N, 4) of rings by decision, and of those that are halos; one that is hidden has none."""
    colors = decision_colors(words)
    colors[halo & (colors[:, 3] > 0)] = HALO_COLOR
    return colors


def ring_widths(thick: NDArray[np.bool_], halo: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Border widths (N,) of rings and halos, of those that are to stand out and others."""
    return np.where(thick, THICK, RING_WIDTH) + np.where(halo, HALO, 0.0)


def decision_symbols(words: Iterable[str]) -> list[str]:
    """What a point of each decision looks like."""
    return [DECISION_SYMBOLS.get(word, "disc") for word in words]


@dataclass(eq=False)
class Stack:
    """The layers of one image, by what they show; a layer the user deleted is not there."""

    layers: dict[str, Layer] = field(default_factory=dict)
    target: LabeledImage | None = None
    spare: dict[str, Layer] = field(default_factory=dict)
    """Layers of the image that was shown before, to be used for this one."""


class Stacks:
    """Stacks of a viewer by image, the one looked at longest ago first.

    Each image takes over the layers of the one before it, so that the layer list holds what is on the screen. Layers
    that a person has worked on stay as they are. (A layer takes napari up to half a second to add and another to
    remove, a move of the camera takes longer the more there are, and the six of a small image hold 20 MB.)
    """

    def __init__(self, viewer: ViewerModel) -> None:
        self.viewer = viewer
        self._stacks: dict[str, Stack] = {}
        self._touched: set[Layer] = set()
        self._writing = False
        viewer.layers.events.removed.connect(self._on_removed)

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._stacks))

    def __contains__(self, image: str) -> bool:
        return image in self._stacks

    def get(self, image: str) -> Stack | None:
        return self._stacks.get(image)

    def layer(self, image: str, what: str) -> Layer | None:
        stack = self._stacks.get(image)
        return stack.layers.get(what) if stack else None

    def layers(self, *, without: Stack | None = None) -> list[Layer]:
        return [layer for stack in self._stacks.values() if stack is not without for layer in stack.layers.values()]

    def begin(self, image: str) -> Stack:
        """The stack of an image, an empty one where it has none."""
        return self._stacks.setdefault(image, Stack())

    def look_at(self, image: str) -> Stack:
        """The stack of an image that is to be shown now; where it has none, one with the layers of the one before."""
        stack = self._stacks.pop(image, None) or Stack(spare=self._let_go())
        self._stacks[image] = stack
        return stack

    def _let_go(self) -> dict[str, Layer]:
        last = next(reversed(self._stacks), None)
        for image, stack in self._stacks.items():
            layers = {**stack.spare, **stack.layers}
            # What a person has worked on, or brought back onto the screen, stays theirs.
            theirs = any(layer in self._touched or (layer.visible and image != last) for layer in layers.values())
            if not theirs:
                del self._stacks[image]
                return layers
        return {}

    def clear(self) -> list[Layer]:
        """Forget all; returns the layers, which are to be removed."""
        old = [layer for stack in self._stacks.values() for layer in (*stack.layers.values(), *stack.spare.values())]
        self._stacks.clear()
        self._touched.clear()
        return old

    def outline(self, before: str, now: str) -> None:
        """Draw nuclei by another preference, but where a person gave a layer a width of its own."""
        with self.writing():
            for stack in self._stacks.values():
                for layer in (*stack.layers.values(), *stack.spare.values()):
                    if isinstance(layer, Labels) and layer.contour == CONTOURS[before]:
                        layer.contour = CONTOURS[now]

    def put(self, image: str, what: str, new: Layer) -> bool:
        """Show something of an image with a layer that is there already, as ``new`` would; False where none is."""
        stack = self._stacks[image]
        with self.writing():
            if what not in stack.layers:
                if what not in stack.spare:
                    return False
                stack.layers[what] = old = stack.spare.pop(what)
                old.name, old.scale, old.translate, old.units = new.name, new.scale, new.translate, new.units
            take_over(stack.layers[what], new)
        return True

    def own(self, image: str, what: str, layer: Layer) -> None:
        """Take a layer that has been added to the viewer for what it shows of an image."""
        self._stacks[image].layers[what] = layer
        for change in CHANGES:
            if hasattr(layer.events, change):
                getattr(layer.events, change).connect(lambda _event, layer=layer: self._touch(layer))

    def _touch(self, layer: Layer) -> None:
        if not self._writing:
            self._touched.add(layer)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """What changes in here is no person's work."""
        before, self._writing = self._writing, True
        try:
            yield
        finally:
            self._writing = before

    def _on_removed(self, event: Any) -> None:
        self._touched.discard(event.value)
        for stack in self._stacks.values():
            for layers in (stack.layers, stack.spare):
                for what in [what for what, layer in layers.items() if layer is event.value]:
                    del layers[what]
