"""Keeping the parameters of the epoch with the best validation accuracy."""

import torch
from torch import Tensor, nn


class BestEpoch:
    """The first epoch of a task that no other exceeds, and its parameters.

    Attributes:
        epochs, accuracies: per task, the best epoch (from 0; -1: none was offered) and its
            validation accuracy in percent.
    """

    def __init__(self) -> None:
        self.epochs: list[int] = []
        self.accuracies: list[float] = []
        self._parameters: dict[str, Tensor] = {}

    def start(self) -> None:
        """A new task begins."""
        self.epochs.append(-1)
        self.accuracies.append(-1.0)
        self._parameters = {}

    def offer(self, epoch: int, accuracy: float, parameters: dict[str, nn.Parameter]) -> None:
        """Keep a copy of the parameters if `accuracy` is strictly above all before it."""
        if accuracy > self.accuracies[-1]:
            self.epochs[-1], self.accuracies[-1] = epoch, accuracy
            self._parameters = {name: value.detach().clone() for name, value in parameters.items()}

    @torch.no_grad()
    def restore(self, parameters: dict[str, nn.Parameter]) -> None:
        """Copy the best epoch's values into the parameters; nothing was offered: leave them."""
        for name, value in self._parameters.items():
            parameters[name].copy_(value)
        self._parameters = {}

    def state_dict(self) -> dict[str, Tensor]:
        """Epochs and accuracies of all tasks; parameters of the task being learned."""
        state = {f"parameters.{name}": value for name, value in self._parameters.items()}
        if not self.epochs:
            return state
        accuracies = torch.tensor(self.accuracies, dtype=torch.float64)
        return state | {"epochs": torch.tensor(self.epochs), "accuracies": accuracies}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Inverse of `state_dict`."""
        self.epochs = state["epochs"].tolist() if "epochs" in state else []
        self.accuracies = state["accuracies"].tolist() if "accuracies" in state else []
        prefix = "parameters."
        self._parameters = {
            name.removeprefix(prefix): value.clone()
            for name, value in state.items()
            if name.startswith(prefix)
        }
