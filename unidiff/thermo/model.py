r"""The core read as thermodynamics: entropy, information and work, on the way from data to noise and back.

    dH(x_t)/dt = fD + ½g²R,   R = E‖∇ log q_t‖²                                (de Bruijn; Stam 1959, eq. 2.2; item 32)
    −d/dt KL(q_t ‖ π_t) = ½g²E‖∇ log q_t + x_t/r_t²‖² ≥ 0,   π_t = N(0, r_t²I)

π_t is the law that the forward process carries into the prior: when VP, N(0, I), which stays; when VE, N(0, σ_t²I), the
noise alone, which ends as N(0, prior_std²). Against a fixed N(0, prior_std²) the VE process has no such law: its KL may
rise. With the right π_t both are item 33, its second law a Gaussian.

With a world, values are those of the world's noised laws: exact on Gaussians, by quadrature on mixtures in one and two
dimensions, else from draws. Without one they are a network's, from data ``x0``: see :mod:`unidiff.thermo.estimates` for
which way each errs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unidiff.core.boundary import check_count, check_flag, check_floating, check_generator, check_times
from unidiff.core.diffusion import Diffusion
from unidiff.core.grid import TimeGrid
from unidiff.thermo import estimates
from unidiff.thermo.arguments import as_network, asked, check_heard, check_noisy, check_one, given, known
from unidiff.thermo.bounds import EntropyBounds, entropy_bounds, noise_entropy
from unidiff.thermo.budget import Budget, measured
from unidiff.thermo.divergence import Decay, GirsanovBound, decay, girsanov_path
from unidiff.thermo.fluctuations import Crooks, Fluctuation, crooks, fluctuation
from unidiff.thermo.free_energy import FreeEnergy, check_level, free_energy
from unidiff.thermo.information import world_information
from unidiff.thermo.work import Paths, Work, work
from unidiff.worlds import Estimate, World

DRAWS = 16384


@dataclass(frozen=True, eq=False)
class Thermodynamics:
    """A core as a thermodynamic process. It reads the core and changes nothing in it.

    Attributes:
        core: the diffusion core.
        world: the law of the data, if it is known. Then entropies, information and rates are its own, whatever the core's
            denoiser; without it they are the denoiser's, from data, and each method needs ``x0``.

    Every estimate is a :class:`unidiff.worlds.Estimate`, on the CPU wherever it was made; ``draws`` and ``generator``
    serve where it is Monte Carlo's.

    Raises:
        TypeError: core is no Diffusion, or world no World.
        ValueError: a batch of laws, or a world of another shape than the core's data.
    """

    core: Diffusion
    world: World | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.core, Diffusion):
            raise TypeError(f"core must be a unidiff Diffusion, got {type(self.core).__name__}")
        if self.world is None:
            return
        if not isinstance(self.world, World):
            raise TypeError(f"world must be a unidiff World, got {type(self.world).__name__}")
        if self.world.batch is not None:
            raise ValueError(f"world must be one law, got a batch of {self.world.batch}")
        if self.world.event_shape != self.core.event_shape:
            raise ValueError(
                f"world must have the core's shape {list(self.core.event_shape)}, got {list(self.world.event_shape)}"
            )

    # -- along the forward process -----------------------------------------------------------------------------------

    def entropy(
        self, t: float, x0: Tensor | None = None, draws: int = DRAWS, generator: torch.Generator | None = None
    ) -> Estimate:
        """H(x_t) in nats, ``[]``. A network's is H(x_t|x_0) + I(x_0; x_t) by its denoising error, too large by its excess.

        Args:
            t: a time with noise (σ > 0).
            x0: data ``[B, *E]``, two or more, without a world; must be left out with one.
            draws: of the world, where neither closed form nor quadrature is known.
            generator: of all draws.

        Raises:
            TypeError: x0 is no floating-point tensor.
            ValueError: t outside [0, 1], not one time, or without noise; x0 missing, not wanted, or as
                :meth:`unidiff.Diffusion.check_batch`; draws below 2. So for the methods that follow.
        """
        t, noised = asked(self.core, self.world, t, x0, draws, generator)
        if noised is not None:
            return noised.entropy().cpu()
        known = estimates.information(self.core, given(x0), t, generator).cpu()
        own = noise_entropy(math.prod(self.core.event_shape), self.core.schedule.log_sigma(t).detach())
        return Estimate(own + known.value, known.standard_error, known.law)

    def fisher_information(
        self, t: float, x0: Tensor | None = None, draws: int = DRAWS, generator: torch.Generator | None = None
    ) -> Estimate:
        """R = E‖∇ log q_t‖², ``[]``, in units of 1/x². Arguments and errors of :meth:`entropy`."""
        t, noised = asked(self.core, self.world, t, x0, draws, generator)
        found = estimates.fisher(self.core, given(x0), t, generator) if noised is None else noised.fisher()
        return found.cpu()

    def entropy_rate(
        self, t: float, x0: Tensor | None = None, draws: int = DRAWS, generator: torch.Generator | None = None
    ) -> Estimate:
        """dH(x_t)/dt = fD + ½g²R, ``[]``, in nats per unit of t. As :meth:`entropy`; an error too where λ has no slope."""
        check_noisy(self.core, t)
        drift, half = self.core.schedule.drift(t).detach(), 0.5 * self.core.schedule.diffusion2(t).detach()
        found = self.fisher_information(t, x0, draws, generator)
        dim = math.prod(self.core.event_shape)
        return Estimate(drift * dim + half * found.value, half * found.standard_error, found.law)

    def entropy_production(
        self, t: float, x0: Tensor | None = None, draws: int = DRAWS, generator: torch.Generator | None = None
    ) -> Estimate:
        """½g²E‖∇ log q_t + x_t/r²‖² ≥ 0, ``[]``, in nats per unit of t: how fast :meth:`kl_to_prior` falls."""
        t, noised = asked(self.core, self.world, t, x0, draws, generator)
        half, variance = 0.5 * self.core.schedule.diffusion2(t).detach(), self.reference_variance(t)
        if noised is None:
            found = estimates.relative_fisher(self.core, given(x0), t, variance, generator)
        else:
            found = noised.relative_fisher(variance)
        found = found.cpu()
        return Estimate(half * found.value, half * found.standard_error, found.law)

    def kl_to_prior(
        self, t: float, x0: Tensor | None = None, draws: int = DRAWS, generator: torch.Generator | None = None
    ) -> Estimate:
        """KL(q_t ‖ N(0, r_t²I)) in nats, ``[]``; at t = 1 to the prior itself. Arguments and errors of :meth:`entropy`."""
        t, noised = asked(self.core, self.world, t, x0, draws, generator)
        variance = self.reference_variance(t)
        if noised is None:
            return estimates.relative_entropy(self.core, given(x0), t, variance, generator).cpu()
        return noised.kl_to_round(variance).cpu()

    def mutual_information(
        self, t: float, x0: Tensor | None = None, draws: int = DRAWS, generator: torch.Generator | None = None
    ) -> Estimate:
        """I(x_0; x_t) = ½∫_0^SNR mmse dSNR, in nats, ``[]``. Arguments and errors of :meth:`entropy`."""
        t, noised = asked(self.core, self.world, t, x0, draws, generator)
        if noised is None:
            return estimates.information(self.core, given(x0), t, generator).cpu()
        high = float(self.core.schedule.log_snr(t).detach())
        return world_information(noised.world, -math.inf, high, draws, generator).cpu()

    def reference_variance(self, t: float) -> float:
        """r_t² of the law N(0, r_t²I) that the forward process carries into the prior: 1 when VP, σ_t² when VE.

        Raises ValueError for t outside [0, 1] or not one time.
        """
        t = check_one("t", t)
        vp = self.core.schedule.variance_preserving
        return self.core.schedule.prior_std**2 if vp else float(self.core.schedule.sigma(t).detach()) ** 2

    def entropy_bounds(
        self, s: float, t: float, x0: Tensor | None = None, draws: int = DRAWS, generator: torch.Generator | None = None
    ) -> EntropyBounds:
        """H(x_s|x_t) and its bounds, s < t. Arguments and errors of :meth:`entropy`; not s < t."""
        s, t = self._pair(s, t)
        at_s, at_t = (self.entropy(v, x0, draws, generator) for v in (s, t))
        return entropy_bounds(self.core.schedule, math.prod(self.core.event_shape), s, t, at_s, at_t)

    # -- between laws ------------------------------------------------------------------------------------------------

    def relative_entropy_decay(
        self, other: World, s: float, t: float, draws: int = DRAWS, generator: torch.Generator | None = None
    ) -> Decay:
        """KL(q_s ‖ p_s) and KL(q_t ‖ p_t) of this world and another, s < t, and ½∫g²E‖∇log q − ∇log p‖² between.

        Raises:
            TypeError: other is no World, generator no generator.
            ValueError: no world of its own, another shape, not s < t, no noise at s, no signal at t, draws below 2, a
                generator of another device than the world's.
        """
        world = known(self.world, "relative_entropy_decay")
        if not isinstance(other, World):
            raise TypeError(f"other must be a unidiff World, got {type(other).__name__}")
        if other.event_shape != world.event_shape or other.batch is not None:
            raise ValueError(f"other must be one law of shape {list(world.event_shape)}, got {other!r}")
        s, t = self._pair(s, t)
        check_heard(self.core, t)
        check_count("draws", draws, 2)
        check_generator(generator, world.device)
        return decay(self.core.schedule, world, other, s, t, draws, generator)

    def girsanov_bound(self, s: float, draws: int = DRAWS, generator: torch.Generator | None = None) -> GirsanovBound:
        """A bound on KL(q_s ‖ p_θ), p_θ what the reverse SDE makes of the prior by the core's own score.

        Raises:
            TypeError: generator is no generator.
            ValueError: no world, no noise at s, s = 1, zero SNR at t = 1, draws below 2, a generator of another device than
                the world's.
        """
        world = known(self.world, "girsanov_bound")
        s, _ = self._pair(s, 1.0)
        check_count("draws", draws, 2)
        check_generator(generator, world.device)
        if float(self.core.schedule.alpha(1.0).detach()) == 0.0:
            raise ValueError("schedule must end where the SNR is positive for girsanov_bound's integral over it, got 0")
        path = girsanov_path(self.core, world, s, draws, generator)
        return GirsanovBound(self.kl_to_prior(1.0, draws=draws, generator=generator), path)

    def _pair(self, s: float, t: float) -> tuple[float, float]:
        """Two times, s < t, both with noise."""
        s, t = check_one("s", s), check_one("t", t)
        check_times(s, t)
        return check_noisy(self.core, s, "s"), check_noisy(self.core, t)

    # -- along paths ---------------------------------------------------------------------------------------------------

    def paths(self, grid: TimeGrid, **options: Any) -> Paths:
        """What paths on ``grid`` are drawn and weighed by; options and errors of :meth:`Paths.of`."""
        return Paths.of(self.core, grid, **options)

    def work(
        self, x0: Tensor, grid: TimeGrid, paths: int = 1, generator: torch.Generator | None = None, **options: Any
    ) -> Work:
        """W = −log w of ``paths`` paths of q(z|x_0) for each datum ``[B, *E]``, in nats.

        Args:
            x0: data.
            grid: the chain's.
            paths: K.
            generator: of the paths, on x0's device.
            options: ``variance``, ``decoder``, ``x0_variance``, ``condition``, ``guidance``; see :meth:`Paths.of`.

        Raises:
            TypeError, ValueError: as :meth:`Paths.of` and :meth:`unidiff.Diffusion.check_batch`; paths below 1; data that
                the decoder gives no likelihood.
        """
        return work(self.paths(grid, **options), x0, paths, generator)

    def free_energy(
        self,
        x0: Tensor,
        grid: TimeGrid,
        paths: int = 256,
        level: float = 0.995,
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> FreeEnergy:
        """F = −log p_θ(x_0) of each datum by Jarzynski's equality; as :meth:`work`, and a level outside (0, 1)."""
        check_level(level)
        return free_energy(self.work(x0, grid, paths, generator, **options).total, level)

    def fluctuation(
        self,
        x0: Tensor | int,
        grid: TimeGrid,
        joint: bool = False,
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> Fluctuation:
        """Σ = log dQ/dP_θ on a path for each datum, and on as many of the chain's own.

        Args:
            x0: data ``[B, *E]``; with a world, or how many to draw of it.
            grid, generator, options: as :meth:`work`; data drawn of the world are given the network's dtype and device.
            joint: of whole paths, data included: Q is the world's law of (x_0, z); else of z given each x_0.

        Raises:
            TypeError, ValueError: as :meth:`work`; fewer than two data; a joint that is no bool; joint,
                or a number for x0, without a world; a world without a density.
        """
        if not isinstance(x0, (Tensor, int)):
            raise TypeError(f"x0 must be data [B, *E], or how many to draw of the world, got {type(x0).__name__}")
        check_flag("joint", joint)
        law = known(self.world, "joint fluctuation") if joint else None
        paths = self.paths(grid, **options)
        if not isinstance(x0, Tensor):
            world = known(self.world, "fluctuation of data to be drawn")
            check_generator(generator, world.device)
            x0 = as_network(self.core, world.sample(check_count("x0", x0, 2), generator))
        check_generator(generator, x0.device)
        return fluctuation(paths, x0, law, generator)

    def crooks(
        self,
        n: int,
        grid: TimeGrid,
        like: Tensor | None = None,
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> Crooks:
        """W both ways for n data that the chain itself draws; in ``like``'s dtype and on its device (float32, CPU).

        Raises:
            TypeError, ValueError: as :meth:`paths`; n below 2; a like that is no floating-point tensor, in half precision,
                or of another dtype or device than the network's.
        """
        check_count("n", n, 2)
        like = check_floating("like", torch.empty(0) if like is None else like)
        return crooks(self.paths(grid, **options), n, like, generator)

    # -- all of it -----------------------------------------------------------------------------------------------------

    def budget(
        self,
        times: Sequence[float] | Tensor,
        x0: Tensor | None = None,
        grid: TimeGrid | None = None,
        draws: int = DRAWS,
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> Budget:
        """The budget at increasing times, and on the way back along ``grid`` if one is given.

        Args:
            times: two or more, each with noise.
            x0, draws, generator: as :meth:`entropy`; the way back takes ``draws`` of the world, 1024 at the most, in
                the network's dtype and on its device.
            grid, options: of the way back; as :meth:`work`.

        Raises:
            ValueError: as :meth:`entropy` and :meth:`work`; times that do not increase; options without a grid.
        """
        return measured(self, times, x0, grid, draws, generator, options)
