"""``python -m unidiff.bench.ddpo [--device cuda]``: an update of DDPO beside a loop that takes one step at a time.

The loop is written here after ddpo-pytorch's (Black et al. 2024): chains are walked; then, chain by chain in minibatches,
their steps are shuffled, and each is asked again for its log-probability with a forward and a backward pass of its own;
gradients add up over all of them before the optimiser's one step. Ours takes all decisions as rows of one batch. Both walk
from the same noise with the same network, clip the same ratios and the same norm, and take the same AdamW step; in float64
they must first walk to the same data, and find the same gradient at a policy that has moved so far that ratios are clipped.

The loop is measured as it ships for eight GPUs, walks of 8 chains and passes of 4, 32 chains in all, and with all chains in
each pass, its fastest way. The median of runs taken in turn.
"""

from __future__ import annotations

import argparse
import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from unidiff.bench import machine
from unidiff.bench.env import first, network
from unidiff.bench.timing import medians
from unidiff.core.boundary import check_device
from unidiff.core.diffusion import Diffusion
from unidiff.core.grid import TimeGrid
from unidiff.rl.mdp import DenoisingMDP
from unidiff.rl.methods.gradients import DDPO, Weighed
from unidiff.rl.policy import Policy, Walk
from unidiff.rl.trainable import trainable

STEPS, CLIP, NORM, RATE = 50, 0.05, 1.0, 1e-4
RUNS, SLOW_RUNS = 15, 5
ROWS = {"cpu": 2**11, "cuda": 2**16}
"""How many of our rows a pass takes at most; more are more passes, their gradients added up. On a CPU they stay in cache."""


@dataclass(frozen=True)
class Batches:
    """How many chains the loop walks at once, and how many are in a pass."""

    walked: int
    passed: int


@dataclass(frozen=True)
class Samples:
    """What the loop keeps: ``[n, H]`` of steps k, states before and after, log-probabilities; and advantages ``[n]``."""

    k: Tensor
    x: Tensor
    after: Tensor
    log_prob: Tensor
    score: Tensor


class Loop:
    """DDPO by hand: one step at a time.

    Args:
        core: the policy, whose network predicts v; it is trained.
        grid: the times.
        batches: how many chains at once.
    """

    def __init__(self, core: Diffusion, grid: TimeGrid, batches: Batches) -> None:
        self.core, self.batches = core, batches
        self.optimizer = torch.optim.AdamW(core.parameters(), lr=RATE)
        first_parameter = next(core.parameters())
        later, earlier = core.schedule.level(grid.times[1:]), core.schedule.level(grid.times[:-1])
        # DDPM's ancestral step, its coefficients in a table as such loops have them.
        c = -torch.expm1(later.log_snr - earlier.log_snr)
        on_x0, on_xt = earlier.alpha * c, (1 - c) * earlier.alpha / later.alpha
        std = earlier.sigma * c.sqrt()
        columns = [later.log_snr.clamp(-30, 30), later.alpha, later.sigma, on_xt, on_x0, std]
        self.table = torch.stack(columns, 1).to(first_parameter)
        self.steps, self.last = grid.steps, 2 if std[0] == 0 else 1

    @property
    def horizon(self) -> int:
        """How many steps have noise."""
        return self.steps - self.last + 1

    def law(self, x: Tensor, k: Tensor | int) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the step from x_{t_k}, for one k or one for each chain."""
        row = self.table[k - 1]
        noise = row[..., 0].expand(len(x))
        alpha, sigma, on_xt, on_x0, std = row[..., 1:, None].unbind(-2)
        v = self.core.denoiser.network(x, noise, None)  # pyright: ignore
        return on_xt * x + on_x0 * (alpha * x - sigma * v), std

    @torch.no_grad()
    def walk(self, noise: Tensor) -> tuple[Tensor, Samples]:
        """The chains' data from ``noise`` ``[1 + H, n, *E]``, and the samples with z-scores of the reward."""
        parts = [self._walked(part) for part in noise.split(self.batches.walked, 1)]
        data, x, after, log_prob = (torch.cat(column) for column in zip(*parts, strict=True))
        reward = first(data)
        k = torch.arange(self.steps, self.last - 1, -1, device=data.device).repeat(len(data), 1)
        score = (reward - reward.mean()) / reward.std(correction=0)
        return data, Samples(k, x, after, log_prob, score)

    def _walked(self, noise: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        states, log_probs = [noise[0]], []
        for h, xi in enumerate(noise[1:]):
            mean, std = self.law(states[-1], self.steps - h)
            after = mean + std * xi
            log_probs.append(log_density(after, mean, std))
            states.append(after)
        data = states[-1] if self.last == 1 else self.law(states[-1], 1)[0]
        x, after = (torch.stack(some, 1) for some in (states[:-1], states[1:]))
        return data, x, after, torch.stack(log_probs, 1)

    def gradient(self, samples: Samples) -> dict[str, Tensor]:
        """Add up the gradient of the clipped ratios' loss, step by step; returns what such loops log."""
        n, steps = samples.k.shape
        device = samples.k.device
        order = torch.randperm(n, device=device)
        places = torch.stack([torch.randperm(steps, device=device) for _ in range(n)])
        k, x, after, old = (
            v[order[:, None], places] for v in (samples.k, samples.x, samples.after, samples.log_prob)
        )  # fmt: skip
        score = samples.score[order]
        reach = CLIP * x[0, 0].numel()
        low, high = torch.tensor([-reach, reach], dtype=torch.float64).exp().tolist()
        self.optimizer.zero_grad(set_to_none=True)
        told: dict[str, list[Tensor]] = {"loss": [], "kl": [], "clipped": []}
        for rows in torch.arange(n, device=device).split(self.batches.passed):
            some = [v[rows] for v in (k, x, after, old, score)]
            for j in range(steps):
                at, before, reached, was = (v[:, j] for v in some[:4])
                log_prob = log_density(reached, *self.law(before, at))
                ratio = (log_prob - was).exp()
                loss = torch.maximum(-some[4] * ratio, -some[4] * ratio.clamp(low, high)).mean()
                (loss * (len(rows) / n)).backward()
                told["loss"].append(loss.detach())
                told["kl"].append(0.5 * (log_prob.detach() - was).square().mean())
                told["clipped"].append(((ratio.detach() < low) | (ratio.detach() > high)).to(ratio).mean())
        return {name: torch.stack(values).mean() for name, values in told.items()}

    def update(self, noise: Tensor) -> None:
        """One round."""
        self.gradient(self.walk(noise)[1])
        torch.nn.utils.clip_grad_norm_(self.core.parameters(), NORM)
        self.optimizer.step()


def log_density(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """log N(x; mean, std²) of each row, ``[n]``, as such loops write it."""
    return (-0.5 * ((x - mean) / std).square() - std.log() - 0.5 * math.log(2 * math.pi)).sum(1)


class Ours:
    """The same by the library: a policy, a learner, rows.

    Args:
        core: the reference.
        start: the policy's parameters; a copy is trained.
        grid: the times.
    """

    def __init__(self, core: Diffusion, start: Diffusion, grid: TimeGrid) -> None:
        self.policy = Policy(DenoisingMDP(core.chain(grid), first), copy.deepcopy(start))
        self.learner = DDPO(clip=CLIP).learner(self.policy)
        self.parameters = [p for p in self.policy.core.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=RATE)

    def gradient(self, rows: Weighed) -> None:
        """Add up the gradient over all rows."""
        self.optimizer.zero_grad(set_to_none=True)
        for part in torch.arange(len(rows), device=rows.advantage.device).split(ROWS[rows.advantage.device.type]):
            loss = self.learner.loss(rows if len(part) == len(rows) else rows[part])
            (loss * (len(part) / len(rows))).backward(inputs=self.parameters)

    def update(self, n: int, generator: torch.Generator) -> None:
        """One round."""
        self.gradient(self.learner.gather(n, generator, None)[0])
        torch.nn.utils.clip_grad_norm_(self.parameters, NORM)
        self.optimizer.step()


def policies(device: torch.device, dtype: torch.dtype, width: int) -> tuple[Diffusion, Diffusion]:
    """A reference, and a policy that has left it."""
    core = network(width=width).to(device, dtype)
    own = trainable(core)
    moved(own, 0.02)
    return core, own


@torch.no_grad()
def moved(core: Diffusion, far: float) -> None:
    """Move every parameter by normal draws of deviation ``far``, the same on each device."""
    generator = torch.Generator().manual_seed(1)
    for p in core.parameters():
        p.add_(far * torch.randn(p.shape, generator=generator).to(p))


def noise_of(walk: Walk) -> Tensor:
    """What a walk was drawn from, ``[1 + H, n, *E]``."""
    return torch.cat([walk.x[:1], walk.action - walk.control])


def agreement(device: torch.device, n: int = 16, steps: int = 10, width: int = 64) -> tuple[float, float]:
    """How far the loop's gradient is from ours, relative, in float64, and the share of ratios that were clipped.

    Raises:
        RuntimeError: the data or the gradients differ by more than 1e-9, or no ratio was clipped.
    """
    core, start = policies(device, torch.float64, width)
    grid = TimeGrid.uniform(steps)
    ours, loop = Ours(core, start, grid), Loop(copy.deepcopy(start), grid, Batches(4, 4))
    walk = ours.policy.walk(n, torch.Generator(device).manual_seed(2))
    rows, _ = ours.learner.gather(n, torch.Generator(device).manual_seed(2), None)
    data, samples = loop.walk(noise_of(walk))
    apart = float((data - walk.x0).abs().max() / walk.x0.abs().max())
    for one in (ours.policy.core, loop.core):
        moved(one, 0.01)
    ours.gradient(rows)
    clipped = float(loop.gradient(samples)["clipped"])
    found, expected = (
        torch.cat([p.grad.flatten() for p in one.parameters() if p.grad is not None])
        for one in (ours.policy.core, loop.core)
    )
    off = float((found - expected).abs().max() / expected.abs().max())
    if not (off < 1e-9 and apart < 1e-9 and clipped > 0):
        raise RuntimeError(
            f"data differ by {apart:.1e}, gradients by {off:.1e}, {clipped:.0%} of the ratios clipped: not the same update, "
            "or not all of it; nothing to compare"
        )
    return off, clipped


def measure(device: torch.device, n: int, width: int, batches: Batches) -> dict[str, float]:
    """Seconds of a walk, a gradient and a whole update, of both, in float32."""
    core, start = policies(device, torch.float32, width)
    grid = TimeGrid.uniform(STEPS)
    ours, loop = Ours(core, start, grid), Loop(copy.deepcopy(start), grid, batches)
    generator = torch.Generator(device).manual_seed(3)
    shape = (1 + loop.horizon, n, *core.event_shape)

    def noise() -> Tensor:
        return torch.randn(shape, generator=generator, device=device)

    _, samples = loop.walk(noise())
    rows, _ = ours.learner.gather(n, generator, None)
    works: dict[str, Callable[[], object]] = {
        "loop walk": lambda: loop.walk(noise()), "our walk": lambda: ours.learner.gather(n, generator, None),
        "loop gradient": lambda: loop.gradient(samples), "our gradient": lambda: ours.gradient(rows),
        "loop": lambda: loop.update(noise()), "ours": lambda: ours.update(n, generator),
    }  # fmt: skip
    return medians(works, device, RUNS, SLOW_RUNS)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--chains", type=int, nargs="*", default=[32, 256], help="32 is the loop's own number")
    parser.add_argument("--width", type=int, default=256)
    asked = parser.parse_args()
    device, console = check_device(asked.device), Console(width=120)
    if device.type == "cpu":
        torch.set_num_threads(1)
    off, clipped = agreement(device)
    table = Table(
        title=f"{machine.named(device)}, torch {torch.__version__}, float32, 2-D, MLP {asked.width}, {STEPS} steps; "
        "ms: loop → ours"
    )
    for name in ("chains", "loop walks, passes", "walk", "gradient", "ratio", "update", "ratio"):
        table.add_column(name, justify="right")
    for n in asked.chains:
        for batches in (Batches(8, 4), Batches(n, n)):
            found = {name: 1e3 * value for name, value in measure(device, n, asked.width, batches).items()}
            table.add_row(
                str(n), f"{batches.walked}, {batches.passed}", *_beside(found, " walk"), *_beside(found, " gradient", True),
                *_beside(found, "", True),
            )  # fmt: skip
    console.print(table)
    console.print(f"gradients equal to {off:.0e} in float64, {clipped:.0%} of the ratios clipped. bar: ≥ 3")


def _beside(found: dict[str, float], what: str, ratio: bool = False) -> list[str]:
    loop, ours = found["loop" + what], found["our" + what if what else "ours"]
    return [f"{loop:.1f} → {ours:.1f}", *([f"{loop / ours:.1f}"] if ratio else [])]


if __name__ == "__main__":
    main()
