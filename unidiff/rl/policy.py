r"""A trained chain beside the reference that it left: the policy, and what a walk under it leaves behind.

In the reference's whitened actions, x_s = μ_ref + σa, a chain with another denoiser and the same variance is

    π_θ(a|x_t) = N(u_θ, I),   u_θ = (μ_θ − μ_ref)/σ = b (x̂_θ − x̂_ref)/σ,

so a policy is its control u, and all that the methods need is known of it without a density in D dimensions:

    log π_θ(a)/π_ref(a) = u·a − ½‖u‖²,   KL(π_θ‖π_ref) = ½‖u‖²     (Girsanov's theorem, step by step)

with sums over the D numbers of a datum, never means. The noiseless last step is the reference's own.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from unidiff.core.boundary import check_count, check_flag, check_generator, check_type
from unidiff.core.chain import ReverseChain
from unidiff.core.diffusion import Diffusion
from unidiff.core.gaussian import Gaussian
from unidiff.rl.mdp import DenoisingMDP, State, ask, check_start, fixed_variance, guess_at
from unidiff.rl.trainable import CorrectedDenoiser

if TYPE_CHECKING:
    from unidiff.rl.replay import Chains


@dataclass(frozen=True, eq=False)
class Rows:
    """Tensors of one length, taken by rows together."""

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))

    def __getitem__(self, rows: Tensor) -> Self:
        kept = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: v[rows] for name, v in kept.items() if v is not None})


@dataclass(frozen=True, eq=False)
class Walk:
    """A batch of chains from t_N to their data, every decision of it: the rollout buffer, on the chains' own device.

    Attributes:
        x: x_{t_k} at each decision, k = N first, ``[H, B, *E]``.
        k: which steps they are, ``[H]``.
        guess: x̂_ref at each, ``[H, B, *E]``.
        std: σ_ref of each, ``[H, B, *E]``.
        action: a, ``[H, B, *E]``.
        control: u of the policy that acted, ``[H, B, *E]``.
        paid: what each step earned, the last one's reward included, without any charge, ``[H, B]``.
        x0: the data, ``[B, *E]``.
        condition: labels ``[B]``, or None.
    """

    x: Tensor
    k: Tensor
    guess: Tensor
    std: Tensor
    action: Tensor
    control: Tensor
    paid: Tensor
    x0: Tensor
    condition: Tensor | None = None

    @property
    def reward(self) -> Tensor:
        """All that a chain earned, ``[B]``."""
        return self.paid.sum(0)

    @property
    def kl(self) -> Tensor:
        """½‖u‖² of each decision, ``[H, B]``, in nats; its mean over chains, summed, is KL(path_θ‖path_ref)."""
        return 0.5 * self.control.flatten(2).square().sum(2)

    def decisions(self) -> Decisions:
        """Every (step, chain) as a row, ``[H·B]``, step by step."""
        steps, chains = self.x.shape[:2]
        x, known, std = (v.flatten(0, 1) for v in (self.x, self.guess, self.std))
        labels = None if self.condition is None else self.condition.repeat(steps)
        return Decisions(x, self.k.repeat_interleave(chains), known, std, labels)

    def taken(self) -> Taken:
        """The same rows, with what was done."""
        return Taken(self.decisions(), self.action.flatten(0, 1), self.control.flatten(0, 1))


@dataclass(frozen=True, eq=False)
class Decisions(Rows):
    """Decisions of many chains and steps, one a row.

    Attributes:
        x, k, guess, std, condition: as in :class:`Walk`, ``[R, …]``.
    """

    x: Tensor
    k: Tensor
    guess: Tensor
    std: Tensor
    condition: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Taken(Rows):
    """Decisions and what was done at each.

    Attributes:
        at: where.
        action: a, ``[R, *E]``.
        control: the u that acted, ``[R, *E]``.
    """

    at: Decisions
    action: Tensor
    control: Tensor


class Policy:
    """A core on the chain of a decision process.

    Args:
        mdp: the process, whose actions are residuals; its chain is the reference.
        core: what is trained, a core under the reference's schedule.
        graph: whether walks are captured and replayed; None captures on a GPU, True makes another device an error.

    Raises:
        TypeError: mdp is none, core is none.
        ValueError: actions that are states, data of another shape, another schedule on the grid.
    """

    def __init__(self, mdp: DenoisingMDP, core: Diffusion, graph: bool | None = None) -> None:
        check_type("mdp", mdp, DenoisingMDP)
        check_type("core", core, Diffusion)
        if mdp.action != "residual":
            raise ValueError(f"mdp must have residuals for actions, got action = {mdp.action!r}")
        reference = mdp.chain
        if core.event_shape != reference.core.event_shape:
            raise ValueError(
                f"core must have the reference's event shape, {list(reference.core.event_shape)}, "
                f"got {list(core.event_shape)}"
            )
        own = core.schedule.level(reference.grid.times)
        if not torch.equal(own.log_snr, reference.levels.log_snr) or not torch.equal(own.alpha, reference.levels.alpha):
            raise ValueError("core must have the reference's schedule: its levels on the chain's grid are others")
        core.check_levels(own.alpha[1:])
        if graph is not None:
            check_flag("graph", graph)
        self.mdp, self.core, self.graph = mdp, core, graph
        self._chains: tuple[object, Chains] | None = None

    def control(self, decisions: Decisions) -> Tensor:
        """u_θ of each row, ``[R, *E]``, differentiable in θ; arguments are trusted. k ``[1]`` is of all rows."""
        x, k, reference = decisions.x, decisions.k, self.mdp.chain
        chain, denoiser = reference.beside(x), self.core.denoiser
        if isinstance(denoiser, CorrectedDenoiser) and denoiser.reference is reference.core.denoiser:
            return self.departure(denoiser.change(x, chain.levels[k].to(x), decisions.condition), decisions.std, k)
        own = ask(denoiser, chain, x, k, decisions.condition, self.mdp.guidance).x0
        return self.departure(own - decisions.guess, decisions.std, k)

    def departure(self, change: Tensor, std: Tensor, k: Tensor) -> Tensor:
        """u for x̂_θ − x̂_ref = ``change`` at steps k, one for each row or one for all."""
        chain = self.mdp.chain.beside(change)
        return chain.row(chain.table.on_x0, k, change) * change / std

    @torch.no_grad()
    def look(self, state: State) -> Decisions:
        """The reference's word on a state, one row a chain: what :meth:`control` asks for."""
        at = seen(self.mdp, self.mdp.chain.beside(state.x), state.x, _step(state), state.condition)[1]
        return replace(at, k=at.k.expand(len(at)))

    @torch.no_grad()
    def law(self, state: State) -> Gaussian:
        """π_θ(x_{t_{k−1}}|x_{t_k}), with the reference's σ: what :func:`unidiff.rl.walk` and ``path_kl`` ask of a policy."""
        reference, at = seen(self.mdp, self.mdp.chain.beside(state.x), state.x, _step(state), state.condition)
        return Gaussian(reference.mean + reference.std * self.control(at), reference.log_var)

    @torch.no_grad()
    def walk(
        self,
        n: int,
        generator: torch.Generator | None = None,
        condition: Tensor | None = None,
        *,
        like: Tensor | None = None,
        start: Tensor | None = None,
    ) -> Walk:
        """n chains from the prior, or from ``start`` ``[n, *E]``, to their data; noise from ``generator``.

        Raises:
            TypeError, ValueError, FloatingPointError: as :meth:`~unidiff.rl.DenoisingMDP.start` and ``step``; start of
                another shape, dtype or device; a control that is not finite, with the step.
        """
        from unidiff.rl.replay import Chains
        from unidiff.rl.walking import walk_ahead

        like = self.like if like is None else like
        check_type("like", like, Tensor)
        check_generator(generator, like.device)
        graph = like.is_cuda if self.graph is None else self.graph
        if not graph and fixed_variance(self.mdp.chain) and not isinstance(self.core.denoiser, CorrectedDenoiser):
            state = self.mdp.start(check_count("n", n), generator, condition, like)
            if start is not None:
                state = State(check_start("start", start, state.x), state.k, state.condition)
            return walk_ahead(self, state, generator)
        key = n, like.dtype, like.device, self.core.training
        if self._chains is None or self._chains[0] != key:
            self._chains = key, Chains(self.mdp, n, self.control, like=like, graph=graph)
        return self._chains[1].walk(generator, condition, start=start)

    @property
    def like(self) -> Tensor:
        """What states are like: the trained parameters' dtype and device; float32 on the CPU without any."""
        first = self.core.first_parameter()
        return torch.empty(0) if first is None else torch.empty(0, dtype=first.dtype, device=first.device)


def _step(state: State) -> Tensor:
    return torch.full((1,), state.k, device=state.x.device)


def seen(
    mdp: DenoisingMDP, chain: ReverseChain, x: Tensor, k: Tensor, condition: Tensor | None
) -> tuple[Gaussian, Decisions]:
    """The reference's law at states ``[R, *E]``, and what a control asks for; the reference is asked once.

    Args:
        mdp: the process.
        chain: its chain, beside ``x``.
        x: the states.
        k: the step of each, ``[R]``, or of all, ``[1]``.
        condition: labels ``[R]``, or None.
    """
    prediction = guess_at(chain, x, k, condition, mdp.guidance)
    law = chain.kernel(x, k, prediction)
    return law, Decisions(x, k, prediction.x0, law.std.expand_as(x), condition)


def check_control(control: Tensor, steps: int) -> None:
    """Refuse controls ``[H, n, *E]``, the first at step N = ``steps``, that are not finite. Raises FloatingPointError."""
    lost = ~torch.isfinite(control).flatten(1).all(1)
    if bool(lost.any()):
        step = steps - int(lost.nonzero()[0])
        raise FloatingPointError(f"the policy's control is not finite at step {step} of {steps}")


def log_ratio(control: Tensor, action: Tensor) -> Tensor:
    """log π(a)/π_ref(a) = u·a − ½‖u‖² of each row, ``[R]``, in nats."""
    return (control * (action - 0.5 * control)).flatten(1).sum(1)
