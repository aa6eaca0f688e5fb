r"""One round of DxMI as work on fixed tensors, so that a GPU can replay it: walk, value, policy, averages.

    walk      x_{t_N} … x_{t_0} ~ π; v_k ← average of ‖x_{t_k} − α x_{t_{k−1}}‖²/D
    value     contrast + difference + anchor + ladder, one step of AdamW
    policy    control, one step of AdamW on the network and the table of variances
    averages  of the value for targets, of both for the end

The rates, γ and the averages' weights are registers that the host writes before each round. What a run is told of are
registers that it reads now and then.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unidiff.core.chain import ReverseChain
from unidiff.core.denoising import noise_error
from unidiff.core.gaussian import Gaussian
from unidiff.ebm.dxmi.law import AuxiliaryLaw
from unidiff.ebm.dxmi.objectives import anchor, compared, contrasts, cost_to_go, difference, ladder, path_weights
from unidiff.ebm.dxmi.policy import StepPolicy, ValueGradient, drawn, first_log_var, walk
from unidiff.ebm.dxmi.value import Value, trainable
from unidiff.ebm.model import EnergyModel
from unidiff.train.dxmi_config import DxMIConfig

FIGURES = (
    "energy_data",
    "energy_chain",
    "contrast",
    "difference",
    "anchor",
    "ladder",
    "control",
    "effective",
    "value_norm",
)
"""What a round is told by, each a mean over the rounds since the last line."""


class Round:
    """The tensors of a run and the work on them.

    Args:
        chain: where the policy starts; its core is trained in place.
        model: energy and value, trained in place.
        data: ``[n, *E]``, on the core's device and in its dtype.
        config: the run's options.
        generator: of all draws, on that device.
    """

    def __init__(
        self, chain: ReverseChain, model: EnergyModel, data: Tensor, config: DxMIConfig, generator: torch.Generator
    ) -> None:
        # A step is asked for more than once, and must be one law: no layer may draw by itself.
        chain.core.eval()
        self.model, self.data, self.config, self.generator = model.eval(), data, config, generator
        self.least = 2 * math.log(config.floor)
        self.policy = StepPolicy(chain, first_log_var(chain, self.least)).to(data.device)
        self.chain = self.policy.chain().beside(data)
        self.law = AuxiliaryLaw(chain).to(data.device)
        self.shared = model.source is chain.core
        # Asked once: that of a VE schedule may wait for a GPU.
        self._prior_std = float(chain.core.schedule.prior_std)
        self.lagged = copy.deepcopy(model).requires_grad_(False)
        self.mean_model = copy.deepcopy(model).requires_grad_(False)
        self.mean_policy = copy.deepcopy(self.policy).requires_grad_(False)
        captured = data.is_cuda

        def optimizer(parameters: Sequence[Tensor], rate: float, momentum: float) -> torch.optim.AdamW:
            start = torch.tensor(rate, device=data.device) if captured else rate
            return torch.optim.AdamW(parameters, start, betas=(momentum, 0.99), weight_decay=0.0, capturable=captured)

        # An energy chases a chain that chases it: momentum there swings (Gulrajani et al. 2017; Mescheder et al. 2018).
        self.value_parameters = trainable(model)
        self.value_optimizer = optimizer(self.value_parameters, config.value_lr, 0.0)
        own = [] if self.shared else self.policy.parameters_of_mean()
        self.policy_parameters: list[Tensor] = [*own, self.policy.log_var]
        self.policy_optimizer = optimizer(self.policy_parameters, config.policy_lr, 0.5)
        if own:
            self.policy_optimizer.param_groups[0]["params"] = own
            table = {"params": [self.policy.log_var], "lr": self.policy_optimizer.defaults["lr"]}
            self.policy_optimizer.add_param_group(table)
        device = data.device
        self.gamma = torch.zeros((), device=device, dtype=data.dtype)
        self.weights = torch.zeros(2, device=device, dtype=data.dtype)
        self.sums = torch.zeros(len(FIGURES), device=device, dtype=torch.float64)
        self.rounds = torch.zeros((), device=device, dtype=torch.float64)
        self.done = torch.zeros((), device=device, dtype=torch.long)
        # Energies, and numbers of losses and gradients, not finite in the first round with any; and which round: 0 for none.
        self.bad = torch.zeros(3, device=device, dtype=torch.long)

    def registers(self) -> list[Tensor]:
        """All that a round changes in place."""
        moments = [
            t for o in (self.value_optimizer, self.policy_optimizer) for slot in o.state.values() for t in slot.values()
        ]
        modules = (self.model, self.policy, self.lagged, self.mean_model, self.mean_policy, self.law)
        held = [t for m in modules for t in (*m.parameters(), *m.buffers())]
        changed = {id(t): t.detach() for t in (*held, *moments)}
        return [self.sums, self.rounds, self.done, self.bad, *changed.values()]

    def set_rates(self, share: float) -> None:
        """Multiply the configured rates and γ by ``share`` for the rounds to come."""
        config = self.config
        self.gamma.fill_(config.gamma * share)
        rates = [(self.value_optimizer.param_groups[0], config.value_lr)]
        wanted = [config.policy_lr, config.variance_lr] if not self.shared else [config.variance_lr]
        rates += list(zip(self.policy_optimizer.param_groups, wanted, strict=True))
        for group, rate in rates:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate * share)
            else:
                group["lr"] = rate * share

    def set_averages(self, lagged: float, mean: float) -> None:
        """The weights of a round in the two averages."""
        self.weights.copy_(torch.tensor([lagged, mean]))

    # -- work ------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """A round in which policy and value learn to denoise, each by itself."""
        value = Value(self.model, self.law.levels())
        config = self.config
        parts = self._held(value)
        loss = sum(share * part for share, part in zip((config.anchor, config.ladder), parts, strict=True))
        if config.anchor or config.ladder:
            self._descend(self.value_optimizer, self.value_parameters, loss)  # pyright: ignore
        if not self.shared:
            self._descend(self.policy_optimizer, self.policy_parameters, self._denoising())
        self._average()
        zero = parts[0].detach() * 0
        self._tell([zero, zero, zero, zero, *parts, zero, zero, zero])

    def play(self) -> None:
        """A round of DxMI."""
        config, law, chain = self.config, self.law, self.chain
        value = Value(self.model, law.levels())
        kernel = ValueGradient(self.policy, value, law) if self.shared else self.policy
        states = walk(kernel, chain, self._prior(), self.generator)
        later, k = states[1:].flatten(0, 1), torch.arange(1, law.steps + 1, device=states.device)
        k = k.repeat_interleave(states.shape[1])
        # Before the velocities move: a step along the value is of those that the walk was made with.
        step = kernel.kernel(chain, later, k)
        if config.velocity == "adaptive":
            law.adapt(states, config.velocity_rate)
            value.levels = law.levels()
        earlier = drawn(step, self.generator)
        figures = self._learn_value(value, step, states, earlier.detach(), later, k)
        control = cost_to_go(value, law, step, earlier, later, k, config.choices).mean()
        self._descend(self.policy_optimizer, self.policy_parameters, control)
        with torch.no_grad():
            self.policy.log_var.clamp_(min=self.least)
        self._average()
        self._tell([*figures[:-2], control, *figures[-2:]])

    def _learn_value(
        self, value: Value, step: Gaussian, states: Tensor, earlier: Tensor, later: Tensor, k: Tensor
    ) -> list[Tensor]:
        """A step of the energy and value, before the policy's; returns what it is told by."""
        config, law, choices = self.config, self.law, self.config.choices
        weights, effective, none = None, later.new_full((), float(states.shape[1])), later.new_zeros(())
        if config.weighted:
            weights, effective = self._weighed(value, step, states, later, k)
        at_data, at_chain = self._compared(value, states)
        parts = [contrasts(at_data, at_chain, self.gamma, weights), none]
        if config.difference:
            known = Value(self.lagged, value.levels) if choices.lagged else value
            with torch.no_grad():
                target = cost_to_go(known, law, step, earlier, later, k, choices, target=True)
            parts[1] = difference(value, later, k, target)
            self._count(0, target)
        parts += self._held(value)
        shares = (config.contrast, config.difference, config.anchor, config.ladder)
        loss = sum(share * part for share, part in zip(shares, parts, strict=True) if share)
        self._count(0, at_data, at_chain)
        norm = self._descend(self.value_optimizer, self.value_parameters, loss)  # pyright: ignore
        return [at_data[0].mean(), at_chain[0].mean(), *parts, effective, norm]

    def _compared(self, value: Value, states: Tensor) -> tuple[Tensor, Tensor]:
        """V_k at noised data and at the walks' own states, ``[K, B]`` each: at t_0, or at all levels but the prior's."""
        asked = states[: self.law.steps] if self.config.everywhere else states[:1]
        x0 = self._drawn(asked.shape[0] * asked.shape[1])
        return compared(value, x0, self._normal(x0), asked)

    @torch.no_grad()
    def _weighed(self, value: Value, step: Gaussian, states: Tensor, later: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """The weights of the walks that were made, whose steps have the laws ``step``."""
        earlier = states[:-1].flatten(0, 1)
        ratio = -self.law.cost(earlier, later, k) - step.log_prob(earlier)
        wide = torch.full_like(states[-1], 2 * math.log(self._prior_std))
        start = Gaussian(torch.zeros_like(states[-1]), wide)
        total = ratio.reshape(states.shape[0] - 1, -1).sum(0) - start.log_prob(states[-1])
        return path_weights(value, total, states[0])

    def _descend(self, optimizer: torch.optim.AdamW, parameters: Sequence[Tensor], loss: Tensor) -> Tensor:
        slopes = torch.autograd.grad(loss, parameters, allow_unused=True)
        self._count(1, loss, *(slope for slope in slopes if slope is not None))
        for parameter, slope in zip(parameters, slopes, strict=True):
            parameter.grad = torch.zeros_like(parameter) if slope is None else slope
        norm = nn.utils.clip_grad_norm_(parameters, self.config.clip)
        optimizer.step()
        return norm

    def _count(self, kind: int, *found: Tensor) -> None:
        """Count what is not finite, of energies (0) or losses and gradients (1), to the end of the first round with any."""
        wrong = sum((~torch.isfinite(f)).sum() for f in found)
        now, first = self.done + 1, self.bad[2]
        early = (first == 0) | (first == now)
        self.bad[kind] += torch.where(early, wrong, 0)
        self.bad[2] = torch.where((first == 0) & (wrong > 0), now, first)

    def _denoising(self) -> Tensor:
        """‖ε − ε̂‖² of the policy at the chain's own levels, summed over D and averaged."""
        x0 = self._drawn(self.config.batch)
        k = torch.randint(1, self.chain.steps + 1, (len(x0),), generator=self.generator, device=x0.device)
        error, _, _ = noise_error(self.policy.core, x0, self._normal(x0), self.chain.levels[k])
        return error.flatten(1).square().sum(1).mean()

    def _held(self, value: Value) -> list[Tensor]:
        """The two losses that hold the value to the noised data's; 0 for one that is not wanted."""
        config, none = self.config, self.data.new_zeros(())
        found = [none, none]
        if config.anchor:
            x0 = self._drawn(config.batch)
            share = torch.rand(len(x0), generator=self.generator, device=x0.device, dtype=x0.dtype)
            # A function of the grid's times is held at those; a function of the level between them too.
            share = share if value.anywhere else (share * (self.law.steps + 1)).floor() / self.law.steps
            found[0] = anchor(value, x0, share, self._normal(x0))
        if config.ladder:
            x0 = self._drawn(2 * config.batch).reshape(2, config.batch, *self.data.shape[1:])
            k = torch.randint(1, self.law.steps + 1, (config.batch,), generator=self.generator, device=x0.device)
            found[1] = ladder(value, x0, k, self._normal(x0))
        return found

    def _drawn(self, count: int) -> Tensor:
        rows = torch.randint(len(self.data), (count,), generator=self.generator, device=self.data.device)
        return self.data[rows]

    def _normal(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self.generator, device=like.device, dtype=like.dtype)

    def _prior(self) -> Tensor:
        return self._prior_std * self._normal(self.data.new_empty(self.config.batch, *self.data.shape[1:]))

    @torch.no_grad()
    def _average(self) -> None:
        for weight, into, source in (
            (self.weights[0], self.lagged, self.model),
            (self.weights[1], self.mean_model, self.model),
            (self.weights[1], self.mean_policy, self.policy),
        ):
            for mean, now in zip(into.parameters(), source.parameters(), strict=True):
                mean.lerp_(now, weight.to(mean.dtype))

    def _tell(self, figures: Sequence[Tensor]) -> None:
        self.sums += torch.stack([f.detach().to(self.sums) for f in figures])
        self.rounds += 1
        self.done += 1
