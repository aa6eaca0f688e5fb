r"""DxMI's generator: the reverse chain with a trained variance for each step, or the value's own gradient.

    π(x_s|x_t) = N(μ_θ(x_t), e^{l_k} I)                    a core's chain, p_θ(x_s|x_t) with a table l of log-variances
    μ(x_t) = (x_t − v_k ∇V_k(x_t)/τ)/α_{t|s}                no network: the value's                (Yoon et al. 2025)

The second is the first when the value is the energy of the chain's own core and the velocities are the schedule's: by
Tweedie's formula for the kernel q̃, E[x_s|x_t] = (x_t + v ∇log q_t(x_t))/α_{t|s}, and V = −τ log q_t. Then one network is
score, energy, value and policy.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from unidiff.core.boundary import right_expand, send
from unidiff.core.chain import ReverseChain
from unidiff.core.denoiser import Denoiser
from unidiff.core.gaussian import Gaussian
from unidiff.ebm.dxmi.law import AuxiliaryLaw
from unidiff.ebm.dxmi.value import Value


class StepPolicy(nn.Module):
    """p_θ on a grid with a table of log-variances that is trained.

    Args:
        chain: the chain to start from: its core is the policy's network, its variances the table's first values.
        log_var: the table ``[N]``, log of x² units.
    """

    log_var: nn.Parameter

    def __init__(self, chain: ReverseChain, log_var: Tensor) -> None:
        super().__init__()
        self.log_var = nn.Parameter(log_var.detach().clone())
        self.core, self.grid = chain.core, chain.grid

    @property
    def steps(self) -> int:
        """N."""
        return self.grid.steps

    def chain(self) -> ReverseChain:
        """The chain with the table as it stands, which goes on changing with it."""
        return self.core.chain(self.grid, "given", log_var=self.log_var)

    def parameters_of_mean(self) -> list[nn.Parameter]:
        """What moves the mean."""
        return [p for p in self.core.denoiser.parameters() if p.requires_grad]  # pyright: ignore

    def kernel(self, chain: ReverseChain, x: Tensor, k: Tensor) -> Gaussian:
        """π(x_{t_{k−1}}|x_{t_k} = x) for ``x`` ``[R, *E]`` and steps ``[R]``; ``chain`` is :meth:`chain`'s, where x is."""
        denoiser, level = self.core.denoiser, chain.levels[k].to(x)
        known = denoiser.embed(chain.levels.log_snr.to(x)) if isinstance(denoiser, Denoiser) else None
        if isinstance(denoiser, Denoiser) and known is not None:
            return chain.kernel(x, k, denoiser(x, level, embedding=known[k]))
        return chain.kernel(x, k, denoiser(x, level))


class ValueGradient:
    """The chain whose mean is the value's gradient step and whose variances are a table.

    Args:
        policy: the table's holder.
        value: V, as it stands.
        law: whose velocities and α_{t|s} the step has.
    """

    def __init__(self, policy: StepPolicy, value: Value, law: AuxiliaryLaw) -> None:
        self.policy, self.value, self.law = policy, value, law

    def kernel(self, chain: ReverseChain, x: Tensor, k: Tensor) -> Gaussian:
        """π(x_{t_{k−1}}|x_{t_k} = x), as :meth:`StepPolicy.kernel`; the mean carries no gradient."""
        law = self.law
        level = self.value.levels[k]
        pull = right_expand(send(law.log_var[k - 1].exp() / level.sigma, x), x)
        with torch.no_grad():
            mean = (x - pull * self.value.noise(x, level)) / right_expand(send(law.keep[k - 1], x), x)
        return Gaussian(mean, chain.row(self.policy.log_var, k, x))


def walk(
    kernel: StepPolicy | ValueGradient, chain: ReverseChain, x: Tensor, generator: torch.Generator | None
) -> Tensor:
    """States ``[N + 1, B, *E]``, x_{t_0} first, of walks from ``x`` at t_N; no gradients."""
    states = [x]
    with torch.no_grad():
        for step in range(chain.steps, 0, -1):
            k = torch.full((x.shape[0],), step, device=x.device)
            states.append(drawn(kernel.kernel(chain, states[-1], k), generator))
    return torch.stack(states[::-1])


def drawn(law: Gaussian, generator: torch.Generator | None) -> Tensor:
    """A draw of a step's Gaussian, differentiable in its mean and variance."""
    noise = torch.randn(law.mean.shape, generator=generator, dtype=law.mean.dtype, device=law.mean.device)
    return law.mean + law.std * noise


def first_log_var(chain: ReverseChain, floor: float) -> Tensor:
    """A table to start from, ``[N]`` in the core's dtype: the chain's own rule, where it is one number a step, else between.

    Where the rule asks the state it is the geometric mean of posterior and prior; where that is zero (a noiseless last
    step), a quarter of the prior's. Never below ``floor``, a log-variance.
    """
    table, rule = chain.table, chain.variance
    like = chain.core.first_parameter()
    dtype = torch.float32 if like is None else like.dtype
    if rule == "given" and chain.given is not None:
        own = chain.given.detach().double()
    elif rule in ("posterior", "prior"):
        own = table.log_posterior_var if rule == "posterior" else table.log_prior_var
    else:
        own = 0.5 * (table.log_posterior_var + table.log_prior_var)
    own = torch.where(torch.isfinite(own), own, table.log_prior_var - math.log(4.0))
    return own.clamp(min=floor).to(dtype).to(like.device if like is not None else own.device)
