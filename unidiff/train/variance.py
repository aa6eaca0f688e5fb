"""A trainer's share in its network's variance output: the bound of :mod:`unidiff.vae.hybrid`, one step a datum."""

from __future__ import annotations

import torch
from torch import Tensor

from unidiff.core.chain import ReverseChain
from unidiff.core.denoiser import Denoiser
from unidiff.core.diffusion import Diffusion
from unidiff.core.grid import TimeGrid
from unidiff.core.schedule_learned import Learned
from unidiff.core.times import antithetic_times, finite_span
from unidiff.train.config import TrainConfig
from unidiff.vae.hybrid import HYBRID, variance_bound


class VarianceLoss:
    """λ L_vlb of a batch, on ``steps`` even steps from the first time with noise to 1.

    Args:
        core: whose network has the output.
        steps: N.

    Raises:
        ValueError: a schedule without finite log-SNR at t = 1, an eps- or score-network where there is no signal.
    """

    def __init__(self, core: Diffusion, steps: int) -> None:
        self.core, self.grid = core, TimeGrid.uniform(steps, first=finite_span(core.schedule)[0])
        self.chain = self._chain()

    @staticmethod
    def of(core: Diffusion, config: TrainConfig) -> VarianceLoss | None:
        """That of a run; None for a fixed variance.

        Raises:
            ValueError: a core whose network has no variance output, or a loss other than denoising.
        """
        if config.variance == "fixed":
            return None
        if not (isinstance(core.denoiser, Denoiser) and core.denoiser.learned_variance):
            raise ValueError(
                "variance must be 'fixed' for a core whose network says none (learned_variance), got 'learned'"
            )
        if config.loss != "denoising":
            raise ValueError(f"loss must be 'denoising' with variance 'learned', got {config.loss!r}")
        return VarianceLoss(core, config.vlb_steps)

    def __call__(
        self,
        x0: Tensor,
        condition: Tensor | None,
        times: torch.Generator,
        noise: torch.Generator,
        autocast: torch.dtype | None = None,
    ) -> Tensor:
        """λ L_vlb of each member of x0 ``[B, *E]``, in nats, ``[B]``; steps from ``times``, ε from ``noise``."""
        if isinstance(self.core.schedule, Learned):
            self.chain = self._chain()  # it has moved
        share = antithetic_times(x0.shape[0], times).cpu()
        k = 1 + (share * self.grid.steps).long()
        return HYBRID * variance_bound(self.chain, x0, k, condition=condition, generator=noise, autocast=autocast)

    @torch.no_grad()
    def _chain(self) -> ReverseChain:
        return self.core.chain(self.grid, "learned")
