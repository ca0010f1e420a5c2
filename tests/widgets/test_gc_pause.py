import gc

from napari_histomix.widgets.jobs import RARELY, GcPause


class Node:
    """Something only the cyclic collector can free."""

    alive = 0

    def __init__(self) -> None:
        self.me = self
        Node.alive += 1

    def __del__(self) -> None:
        Node.alive -= 1


def test_old_garbage_waits_for_the_last_to_end_and_new_garbage_does_not() -> None:
    gc.collect()
    usual = gc.get_threshold()
    Node.alive = 0
    old = Node()
    one, two = GcPause(), GcPause()
    one.begin()
    two.begin()
    two.begin()
    assert gc.get_threshold() == (RARELY, *usual[1:])
    del old
    Node()
    gc.collect()
    assert Node.alive == 1
    two.end()
    gc.collect()
    assert Node.alive == 1
    one.end()
    gc.collect()
    assert Node.alive == 0 and gc.get_threshold() == usual
