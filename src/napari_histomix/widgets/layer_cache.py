"""The layers of each image in a viewer, held by object, never by name; those of images long unseen are used again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from napari.layers import Layer

from napari_histomix.records import LabeledImage
from napari_histomix.widgets.layer_making import take_over

if TYPE_CHECKING:
    from napari.components import ViewerModel

KEPT = 6
"""Images whose layers stay; with more, each further one gets the layers of the one looked at longest ago.

A layer takes napari half a second to add and another to remove, a move of the camera takes longer the more there are,
and the six of a small image hold 100 MB.
"""
CHANGES = "name", "scale", "translate", "data", "paint"
"""Events of a layer that a person has worked on."""


@dataclass(eq=False)
class Stack:
    """The layers of one image, by what they show; a layer the user deleted is not there."""

    layers: dict[str, Layer] = field(default_factory=dict)
    target: LabeledImage | None = None
    spare: dict[str, Layer] = field(default_factory=dict)
    """Hidden layers of another image, to be used for this one."""


class Stacks:
    """Stacks of a viewer by image, the one looked at longest ago first."""

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

    @property
    def composed(self) -> list[str]:
        return [image for image, stack in self._stacks.items() if "synthetic" in stack.layers]

    def layers(self, *, without: Stack | None = None) -> list[Layer]:
        """All layers of all images but one."""
        return [layer for stack in self._stacks.values() if stack is not without for layer in stack.layers.values()]

    def begin(self, image: str) -> Stack:
        """The stack of an image, an empty one where it has none."""
        return self._stacks.setdefault(image, Stack())

    def look_at(self, image: str) -> Stack:
        """The stack of an image that is to be shown now; where it has none, one with layers to use again."""
        stack = self._stacks.pop(image, None) or Stack(spare=self._let_go())
        self._stacks[image] = stack
        return stack

    def _let_go(self) -> dict[str, Layer]:
        if len(self._stacks) < KEPT:
            return {}
        for image, stack in self._stacks.items():
            layers = stack.layers.values()
            # What a person sees or has worked on stays theirs.
            if not stack.spare and not any(layer.visible or layer in self._touched for layer in layers):
                return self._stacks.pop(image).layers
        return {}

    def clear(self) -> list[Layer]:
        """Forget all; returns the layers, which are to be removed."""
        old = [layer for stack in self._stacks.values() for layer in (*stack.layers.values(), *stack.spare.values())]
        self._stacks.clear()
        self._touched.clear()
        return old

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
