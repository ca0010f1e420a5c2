"""Training on several graphics cards: one process each, started by ``accelerate launch``."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

from napari_histomix.records import HistomixError


class Processes:
    """This process among those of one run; alone, it changes nothing.

    Parameters
    ----------
    device : torch.device
        Used where the process is alone; among several each gets its own.
    """

    def __init__(self, device: torch.device) -> None:
        self.count = int(os.environ.get("WORLD_SIZE", "1"))
        self.device, self.rank, self._accelerator = device, 0, None
        if self.count > 1:
            try:
                from accelerate import Accelerator
            except ImportError:
                raise HistomixError("Training in several processes needs 'pip install accelerate'.") from None
            self._accelerator = Accelerator(cpu=device.type == "cpu")
            self.device, self.rank = self._accelerator.device, self._accelerator.process_index

    @property
    def main(self) -> bool:
        """Whether this process writes checkpoints."""
        return self.rank == 0

    def prepare(self, network: Any, optimizer: Any) -> tuple[Any, Any]:
        """Network and optimizer that share their gradients with the other processes'."""
        return (network, optimizer) if self._accelerator is None else self._accelerator.prepare(network, optimizer)

    def backward(self, loss: Tensor) -> None:
        """Gradients of a loss."""
        if self._accelerator is None:
            loss.backward()
        else:
            self._accelerator.backward(loss)

    def agree(self, done: bool) -> bool:
        """The main process's answer, for all: clocks differ, and who stops alone leaves the others waiting."""
        if self._accelerator is None:
            return done
        from accelerate.utils import broadcast

        return bool(broadcast(torch.tensor([int(done)], device=self.device))[0])

    def end(self) -> None:
        """Leave the others in order."""
        if self._accelerator is not None:
            self._accelerator.end_training()
