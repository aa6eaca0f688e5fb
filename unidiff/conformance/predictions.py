"""What a network of each kind says where x̂_0 is known, in the words that diffusers' configurations use."""

from __future__ import annotations

from torch import Tensor

PREDICTIONS = ("epsilon", "sample", "v_prediction")


def output(predicts: str, x0: Tensor, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The network's answer at states x = α x_0 + σ ε: ε̂, x̂_0, α ε̂ − σ x̂_0, or a flow's ε̂ − x̂_0 ("flow")."""
    eps = (x - alpha * x0) / sigma
    return {"epsilon": eps, "sample": x0, "v_prediction": alpha * eps - sigma * x0, "flow": eps - x0}[predicts]
