r"""A policy that chooses a grid node by node, and the best that one can do for its price of leaving the reference.

π(i | j, m, features) is a softmax over the allowed nodes A(j, m) of q(j, m, features)·k(i); the reference takes any of them
alike. With a price β on KL(π ‖ reference) in nats, all is known by one recursion:

    Z(j, m) = Σ_{i ∈ A(j, m)} e^{−c[i, j]/β} Z(i, m − 1)/|A(j, m)|,    Z(0, 0) = 1
    min_π E C + β KL(π ‖ ref) = −β log Z(N, K),    π*(path) = ref(path) e^{−C/β}/Z(N, K)

(Todorov 2006, linearly solvable control). As β → 0 the best path is the shortest, and −β log Z its cost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unidiff.core.boundary import check_count, check_positive, check_seed, check_type
from unidiff.paths.env import ScheduleMDP, ScheduleState


@dataclass(frozen=True, eq=False)
class ScheduleWalk:
    """Paths that a policy took, B of them, K decisions each; one that has ended decides nothing more.

    Attributes:
        path: nodes from 0 to N, ``[B, K + 1]``; a path of fewer steps has more zeros at its beginning.
        cost: C ``[B]``, float64.
        log_ratio: log π − log reference of the path, nats, ``[B]``, float64, and differentiable.
    """

    path: Tensor
    cost: Tensor
    log_ratio: Tensor


class SchedulePolicy(nn.Module):
    """π over the nodes of a process: at first the reference, but for its last layer's small numbers.

    Args:
        mdp: the process, whose positions and number of features it is made for.
        width: of two hidden layers.
        seed: of the first parameters.

    Raises:
        TypeError, ValueError: naming the argument.
    """

    position: Tensor
    omega: Tensor

    def __init__(self, mdp: ScheduleMDP, width: int = 128, seed: int = 0) -> None:
        super().__init__()
        check_type("mdp", mdp, ScheduleMDP)
        check_count("width", width)
        # Half a wave for every second node: neighbours can be told apart, and what is near starts alike.
        self.register_buffer("position", mdp.position.float())
        self.width = mdp.width
        self.register_buffer("omega", math.pi * torch.arange(1.0, mdp.last // 2 + 2))
        waves = 2 * len(self.omega) + 1
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(check_seed(seed))
            self.query = _perceptron(waves + mdp.width - 1, width)
            self.key = _perceptron(waves, width)
        with torch.no_grad():
            self.query[-1].weight.mul_(0.01)  # pyright: ignore
            self.query[-1].bias.zero_()  # pyright: ignore

    def forward(self, observation: Tensor, mask: Tensor) -> Tensor:
        """log π ``[B, N + 1]`` of what is observed ``[B, 2 + F]``, −∞ where the mask ``[B, N + 1]`` is False."""
        observation = observation.to(self.position.dtype)
        asked = self.query(torch.cat([self._waves(observation[:, 0]), observation[:, 1:]], 1))
        logits = asked @ self.key(self._waves(self.position)).T / math.sqrt(asked.shape[1])
        return logits.masked_fill(~mask, -math.inf).log_softmax(1)

    def _check_made_for(self, mdp: ScheduleMDP) -> None:
        if not torch.equal(mdp.position.float().to(self.position.device), self.position.float()):
            raise ValueError(f"mdp must have the {len(self.position)} positions that the policy was made for")
        if mdp.width != self.width:
            raise ValueError(
                f"mdp must tell {self.width - 2} features, as that of the policy, got one that tells {mdp.width - 2}"
            )

    def _waves(self, position: Tensor) -> Tensor:
        phase = position[:, None] * self.omega
        return torch.cat([position[:, None], phase.sin(), phase.cos()], 1)

    def walk(
        self,
        mdp: ScheduleMDP,
        instance: Tensor,
        steps: Tensor | None = None,
        generator: torch.Generator | None = None,
        *,
        greedy: bool = False,
    ) -> ScheduleWalk:
        """Paths of ``instance`` ``[B]``, of ``steps`` ``[B]`` steps or K: drawn, or the likeliest node at every step.

        Raises:
            ValueError: a process of other positions, or that tells of another number of features.
        """
        self._check_made_for(mdp)
        state, paid = mdp.start(instance, steps), torch.zeros(len(instance), dtype=torch.float64)
        nodes, ratio = [state.node], torch.zeros(len(instance), dtype=torch.float64)
        for _ in range(mdp.steps):
            mask = mdp.mask(state)
            log_prob = self(mdp.observe(state), mask)
            told = log_prob.detach()
            node = told.argmax(1) if greedy else torch.multinomial(told.exp(), 1, generator=generator)[:, 0]
            ratio = ratio + _ratio(log_prob, mask, node)
            state, reward, _ = mdp.step(state, node)
            paid = paid - reward
            nodes.append(node)
        return ScheduleWalk(torch.stack(nodes[::-1], 1), paid, ratio)

    def retraced(self, mdp: ScheduleMDP, path: Tensor, instance: Tensor) -> ScheduleWalk:
        """Given paths ``[B, S + 1]`` of nodes from 0 to N, S ≤ K, as if they had been walked; nodes are trusted."""
        steps = path.shape[1] - 1
        state = mdp.start(instance, torch.full_like(instance, steps))
        ratio = torch.zeros(len(instance), dtype=torch.float64)
        for h in range(steps, 0, -1):
            mask, node = mdp.mask(state), path[:, h - 1]
            ratio = ratio + _ratio(self(mdp.observe(state), mask), mask, node)
            state = mdp.after(state, node)
        return ScheduleWalk(path, mdp.cost(path, instance), ratio)

    @torch.no_grad()
    def path(self, mdp: ScheduleMDP, steps: int | None = None, instance: int = 0) -> Tensor:
        """The likeliest nodes of one instance, from 0 to N, ``[steps + 1]``.

        Raises:
            ValueError: a number of steps, or an instance, that the process does not have.
        """
        self._check_made_for(mdp)
        steps = mdp.steps if steps is None else check_count("steps", steps)
        if steps > mdp.steps or check_count("instance", instance, 0) >= mdp.instances:
            raise ValueError(
                f"steps and instance must be at most {mdp.steps} and {mdp.instances - 1}, got {steps} and {instance}"
            )
        mdp.check_paths("steps", torch.tensor([steps]))
        found = self.walk(mdp, torch.tensor([instance]), torch.tensor([steps]), greedy=True)
        return found.path[0, mdp.steps - steps :]


def log_partition(mdp: ScheduleMDP, beta: Tensor) -> Tensor:
    """log Z(N, m) of every m = 1 … K, ``[n, K]``, float64, −∞ where there is no path.

    Args:
        mdp: the process, of n instances.
        beta: β > 0, ``[n, K]``.

    Raises:
        TypeError, ValueError: no process, no tensor; a β that is not positive, or of another shape.
    """
    _check_beta(mdp, beta)
    allowed, found = [mdp.mask(state).view_as(mdp.costs) for state in _everywhere(mdp)], []
    for m in range(1, mdp.steps + 1):
        price = mdp.costs.transpose(1, 2) / beta[:, m - 1, None, None]
        log_z = torch.full((mdp.instances, mdp.last + 1), -torch.inf, dtype=torch.float64)
        log_z[:, 0] = 0.0
        for mask in allowed[:m]:
            ways = (log_z[:, None, :] - price).masked_fill(~mask, -torch.inf)
            log_z = ways.logsumexp(2) - mask.sum(2).clamp(min=1).double().log()
        found.append(log_z[:, -1])
    return torch.stack(found, 1)


@torch.no_grad()
def policy_kl(policy: SchedulePolicy, mdp: ScheduleMDP, beta: Tensor) -> Tensor:
    """KL(π ‖ π*) over paths of every m = 1 … K, nats, ``[n, K]``, float64: exact, by Bellman's equation of the policy.

    Its arguments, and what is raised, are those of :func:`log_partition`. NaN where there is no path.
    """
    log_z = log_partition(mdp, beta)
    laws = []
    for state in _everywhere(mdp):
        mask = mdp.mask(state)
        log_ratio = policy(mdp.observe(state), mask).double() + mask.sum(1, keepdim=True).clamp(min=1).double().log()
        laws.append((mask.view_as(mdp.costs), log_ratio.view_as(mdp.costs)))
    found = []
    for m in range(1, mdp.steps + 1):
        price = mdp.costs.transpose(1, 2) / beta[:, m - 1, None, None]
        value = torch.zeros(mdp.instances, mdp.last + 1, dtype=torch.float64)
        for mask, log_ratio in laws[:m]:
            chance = torch.where(mask, log_ratio.exp() / mask.sum(2, keepdim=True).clamp(min=1), 0.0)
            told = torch.where(chance > 0, price + log_ratio + value[:, None, :], 0.0)
            value = (chance * told).sum(2)
        found.append(value[:, -1] + log_z[:, m - 1])
    return torch.stack(found, 1)


def _check_beta(mdp: ScheduleMDP, beta: Tensor) -> None:
    check_type("mdp", mdp, ScheduleMDP)
    if not mdp.tabular:
        raise ValueError(f"mdp must have a table of costs for its best policy to be known, got {type(mdp).__name__}")
    check_type("beta", beta, Tensor)
    if beta.shape != (mdp.instances, mdp.steps):
        raise ValueError(f"beta must have shape [{mdp.instances}, {mdp.steps}], one each, got {list(beta.shape)}")
    for value in beta.flatten().tolist():
        check_positive("beta", value)


def _everywhere(mdp: ScheduleMDP) -> list[ScheduleState]:
    """Every node of every instance, ``[n (N + 1)]``, with 1 … K steps left."""
    size = mdp.last + 1
    node = torch.arange(size).repeat(mdp.instances)
    instance = torch.arange(mdp.instances).repeat_interleave(size)
    return [ScheduleState(node, torch.full_like(node, left), instance) for left in range(1, mdp.steps + 1)]


def _ratio(log_prob: Tensor, mask: Tensor, node: Tensor) -> Tensor:
    """log π − log reference of the nodes taken, ``[B]``, float64."""
    return log_prob.gather(1, node[:, None])[:, 0].double() + mask.sum(1).double().log()


def _perceptron(inputs: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width)
    )
