r"""Many paths for one datum: the importance-weighted bound (Burda et al. 2016, eq. 8).

    L_K = E log (1/K) Σ_j w_j,   w_j = p_θ(x_0, x_{t_0:1})/q(x_{t_0:1}|x_0):   ELBO = L_1 ≤ L_K ≤ L_{K+1} ≤ log p_θ(x_0).

How many of the K count is Kish's effective sample size, (Σ w)²/Σ w².
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from unidiff.core.boundary import check_count
from unidiff.core.weights import effective_size, log_mean_exp
from unidiff.worlds import Interval, bits_per_dim


@dataclass(frozen=True, eq=False)
class ImportanceWeights:
    """log w of K paths of each datum.

    Attributes:
        log_weights: in nats, ``[K, B]``.
        dim: D, the numbers in a datum.
    """

    log_weights: Tensor
    dim: int

    @property
    def bound(self) -> Tensor:
        """log (1/K) Σ w, ``[B]``: in expectation between the ELBO and log p_θ(x_0)."""
        return log_mean_exp(self.log_weights, 0)

    @property
    def elbo(self) -> Tensor:
        """The mean of log w, ``[B]``: the ELBO on the same paths."""
        return self.log_weights.mean(0)

    @property
    def ess(self) -> Tensor:
        """The effective number of paths, ``[B]``, from 1 to K."""
        return effective_size(self.log_weights, 0)

    def first(self, k: int) -> Tensor:
        """The bound by every group of k paths in turn, ``[K // k, B]``: L_k from the same paths."""
        if check_count("k", k) > self.log_weights.shape[0]:
            raise ValueError(f"k must lie in 1 … {self.log_weights.shape[0]}, the number of paths, got {k}")
        groups = self.log_weights.shape[0] // k
        grouped = self.log_weights[: groups * k].reshape(groups, k, -1)
        return log_mean_exp(grouped, 1)

    def nats(self) -> Interval:
        """The mean bound of the batch. Raises ValueError for fewer than two examples."""
        return Interval.of(self.bound)

    def bits_per_dim(self, scale: float = 1.0) -> Interval:
        """As :meth:`unidiff.vae.bound.ELBO.bits_per_dim`."""
        return Interval.of(bits_per_dim(self.bound, self.dim, scale))
