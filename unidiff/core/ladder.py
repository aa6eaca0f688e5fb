r"""The encoder's ladder x_{t_0}, …, x_{t_N} of data x_0, and what a chain says of it, all steps at once.

In units of its noise, x_{t_k} = α_k x_0 + σ_k ε_k, the ladder forgets x_0 and is a first-order autoregression, downwards

    ε_{k−1} = e^{Δ/2} ε_k + √c ξ_k,   Δ = λ_k − λ_{k−1} < 0,   c = −expm1(Δ),   ε_N, ξ_k ~ N(0, I)

which is q(x_{k−1}|x_k, x_0) of :mod:`unidiff.core.process` read off its coefficients: a σ_k/σ_{k−1} = e^{Δ/2}. Each ε_k
is N(0, I), and the decoder's step differs from the encoder's by its error alone. Seen from (a + b/α_k) x_k, both means
are of the size of the noise:

    q(x_{k−1}|x_k, x_0) = N(−g ε_k, v),   p_θ(x_{k−1}|x_k) = N(−g ε̂_k, v_θ),   g = b σ_k/α_k.

So no KL and no log-ratio here is a difference of nearly equal states (Kingma et al. 2021, appendix A, for the shared
variance: KL = ½ expm1(−Δ)‖ε − ε̂‖²).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from unidiff.core.boundary import check_alike, check_finite, check_floating, check_state
from unidiff.core.chain import ReverseChain
from unidiff.core.denoiser import Denoiser, DenoiserLike
from unidiff.core.denoising import noise_error
from unidiff.core.gaussian import Gaussian
from unidiff.core.grid import TimeGrid
from unidiff.core.level import NoiseLevel
from unidiff.core.schedule import Schedule


@dataclass(frozen=True, eq=False)
class Ladder:
    """x_{t_0:1} given x_0, as noises.

    Attributes:
        x0: data, ``[B, *E]``.
        eps: ε_0 … ε_N, ``[N + 1, B, *E]``.
        jumps: ξ_1 … ξ_N, the noise of each step down, ``[N, B, *E]``.
        levels: of t_0 … t_N, float64, on the host.
    """

    x0: Tensor
    eps: Tensor
    jumps: Tensor
    levels: NoiseLevel

    @property
    def states(self) -> Tensor:
        """x_{t_0}, …, x_{t_N}, ``[N + 1, B, *E]``."""
        alpha, sigma = (_columns(v, self.x0) for v in (self.levels.alpha, self.levels.sigma))
        return alpha * self.x0 + sigma * self.eps


@torch.no_grad()
def draw_ladder(
    schedule: Schedule,
    x0: Tensor,
    grid: TimeGrid,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
) -> Ladder:
    """A draw of q(x_{t_0:1}|x_0), the whole of it.

    Args:
        x0: data, ``[B, *E]``.
        grid: t_0 … t_N.
        generator: the source of the noise, on x0's device.
        noise: in its place ``[N + 1, B, *E]``: ξ_1 … ξ_N, then ε_N.

    Raises:
        TypeError, ValueError: x0 is no state, or noise of another shape, dtype or device.
    """
    check_state("x0", x0)
    shape = (grid.steps + 1, *x0.shape)
    if noise is None:
        noise = torch.randn(shape, generator=generator, dtype=x0.dtype, device=x0.device)
    else:
        check_draws(noise, x0, grid.steps)
    levels = schedule.level(grid.times)
    delta = levels.log_snr.diff()
    keep, add = (_columns(v, x0) for v in ((0.5 * delta).exp(), (-torch.expm1(delta)).sqrt()))
    eps = torch.empty_like(noise)
    eps[-1] = noise[-1]
    for k in range(grid.steps, 0, -1):
        torch.addcmul(keep[k - 1] * eps[k], add[k - 1], noise[k - 1], out=eps[k - 1])
    return Ladder(x0, eps, noise[:-1], levels)


def check_draws(noise: Tensor, x0: Tensor, steps: int) -> None:
    """Refuse noise that is not one draw of N(0, I) for each of the N + 1 levels of x0's ladder.

    Raises:
        TypeError: no floating-point tensor.
        ValueError: another shape, dtype or device, or values that are not finite (read on the CPU only).
    """
    check_floating("noise", noise)
    shape = [steps + 1, *x0.shape]
    if list(noise.shape) != shape:
        raise ValueError(f"noise must have shape {shape}, one draw a level, got {list(noise.shape)}")
    check_alike(x0=x0, noise=noise[0])
    if not noise.is_cuda:
        check_finite("noise", noise)


@dataclass(frozen=True, eq=False)
class Rows:
    """Steps k of a chain at draws of x_{t_k}, one a row: both kernels, centred as above.

    Attributes:
        encoder: q(x_{k−1}|x_k, x_0), its mean −g ε, ``[R, *E]``.
        decoder: p_θ(x_{k−1}|x_k), its mean −g ε̂, ``[R, *E]``.
        error: ε − ε̂, ``[R, *E]``.
    """

    encoder: Gaussian
    decoder: Gaussian
    error: Tensor


def chain_rows(
    chain: ReverseChain,
    x0: Tensor,
    eps: Tensor,
    k: Tensor,
    condition: Tensor | None = None,
    guidance: float = 1.0,
    embedding: Tensor | None = None,
) -> Rows:
    """The two kernels of steps k ``[R]`` in 1 … N, on the chain's device, at x_{t_k} = α x_0 + σ ε; x0 and ε ``[R, *E]``.

    The network is asked once, and embeds each level once, unless ``embedding`` is that of all steps (:func:`embed_steps`).
    Arguments are trusted.

    Raises:
        FloatingPointError: the network's answer is not finite (read on the CPU only: on a GPU, look at the end).
    """
    core = chain.core
    level, row = chain.levels[k], k - 1
    if embedding is None and isinstance(core.denoiser, Denoiser):
        which, row = torch.unique(k, return_inverse=True)
        embedding = core.denoiser.embed(chain.levels.log_snr[which].to(x0))
    embedding = None if embedding is None else embedding.index_select(0, row.to(x0.device))
    error, fraction, xt = noise_error(core, x0, eps, level, condition, guidance, embedding)
    if not error.is_cuda and not bool(torch.isfinite(error.detach()).all()):
        bad = int((~torch.isfinite(error.detach())).flatten(1).any(1).sum())
        raise FloatingPointError(
            f"the denoiser must be finite, got NaN or infinity in {bad} of {len(error)} states, or data far outside"
        )
    gain = chain.row(chain.table.on_x0 * _noise_to_signal(chain.levels)[1:], k, x0)
    log_var = chain.row(chain.table.log_posterior_var, k, x0)
    own = chain.log_var(xt, k, level.to(x0), fraction)
    return Rows(Gaussian(-gain * eps, log_var), Gaussian(gain * error - gain * eps, own), error)


def embed_steps(chain: ReverseChain, like: Tensor, denoiser: DenoiserLike | None = None) -> Tensor | None:
    """The network's embedding of t_1 … t_N, ``[N, ·]``, for states like ``like``, if it makes one apart from the state.

    Args:
        chain: the grid.
        like: a state.
        denoiser: of another core on that grid; None for the chain's own.
    """
    denoiser = chain.core.denoiser if denoiser is None else denoiser
    return denoiser.embed(chain.levels.log_snr[1:].to(like)) if isinstance(denoiser, Denoiser) else None


def row_blocks(ladder: Ladder, most: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(k, member) and ε_k of all steps 1 … N and all members, at most ``most`` rows at a time: k, member ``[R]``.

    All on the ladder's device: a chain beside it asks the host for nothing, and a GPU is never waited for.
    """
    steps, batch = ladder.jumps.shape[:2]
    flat = ladder.eps[1:].flatten(0, 1)
    for start in range(0, steps * batch, most):
        index = torch.arange(start, min(start + most, steps * batch), device=flat.device)
        yield 1 + index // batch, index % batch, flat[start : start + most]


def _noise_to_signal(level: NoiseLevel) -> Tensor:
    return (-0.5 * level.log_snr).exp()


def _columns(values: Tensor, x0: Tensor) -> Tensor:
    """``[K]`` on the host as ``[K, 1, …]`` beside a ladder of x0."""
    return values.to(x0).reshape(-1, *[1] * x0.ndim)
