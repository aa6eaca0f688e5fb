"""``python -m unidiff.bench.env [--device cuda]``: the environments' chain-steps a second.

On the CPU the batched environment beside Gymnasium's SyncVectorEnv of single ones, whole episodes of each, in turn: in
parity mode the two must first agree bit for bit. Where the reference network runs inside (whitened actions) the figure is
how many times as fast a chain's step is; where a policy runs outside (states for actions, nothing charged) it is the
environment's own cost, beside SyncVectorEnv's and beside the policy's forward.

On a GPU a replayed decision beside the eager one and beside the floor, the bare network replayed as a CUDA graph. Replays
must first end where the eager loop ends: in float64, and in what is timed.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from unidiff.bench.step import floor, milliseconds
from unidiff.bench.timing import medians
from unidiff.core import networks
from unidiff.core.boundary import check_device
from unidiff.core.denoiser import Denoiser
from unidiff.core.diffusion import Diffusion
from unidiff.core.grid import TimeGrid
from unidiff.core.schedule import Schedule
from unidiff.rl.env import DenoiseEnv
from unidiff.rl.mdp import DenoisingMDP
from unidiff.rl.policy import Policy
from unidiff.rl.replay import Chains
from unidiff.rl.trainable import trainable
from unidiff.rl.vector import DenoiseVectorEnv

CHAINS, STEPS, RUNS, SLOW_RUNS = 4096, 8, 15, 2
WARM, GPU_RUNS = 3, 9
KINDS = {"float64": torch.float64, "float32/tf32": torch.float32, "bfloat16": torch.bfloat16}
KINDS["bfloat16, compiled"] = torch.bfloat16
# Of the largest |x| of an eager episode: the same kernels, some of whose sums a capture may take in another order, which
# 50 steps of a smooth network carry on; of tf32 and of bfloat16 (autocast, the network alone), 11 and 8 bits.
TOLERANCE = {"float64": 1e-9, "float32/tf32": 1e-2, "bfloat16": 1e-1, "bfloat16, compiled": 1e-1}


def first(x0: Tensor) -> Tensor:
    """The reward: the first of a datum's numbers."""
    return x0[:, 0]


def network(seed: int = 0, width: int = 256) -> Diffusion:
    """A perceptron on the plane whose weights are drawn."""
    torch.manual_seed(seed)
    module = networks.MLP(2, width=width, depth=3)
    torch.nn.init.normal_(module.last.weight, std=0.02)
    return Diffusion(Schedule.cosine(), Denoiser(module, (2,), "v")).eval()


def episode(env: gymnasium.vector.VectorEnv[Any, Any, Any], actions: np.ndarray, seed: int) -> list[Any]:
    """All that an environment tells of one episode under ``actions`` ``[H, n, *E]``."""
    return [env.reset(seed=seed), *(env.step(action) for action in actions)]


def numbers(told: Any) -> list[np.ndarray]:
    """Every array of what was told, in a fixed order."""
    if isinstance(told, dict):
        return [array for name in sorted(told) for array in numbers(told[name])]
    return [array for part in told for array in numbers(part)] if isinstance(told, list | tuple) else [np.asarray(told)]


def agree(found: Any, expected: Any, rtol: float = 0.0) -> float:
    """The largest difference of two tellings, of the largest number told; a RuntimeError where it is over ``rtol``."""
    pairs = list(zip(numbers(found), numbers(expected), strict=True))
    size = np.max([np.abs(b.astype(float)).max() for _, b in pairs])
    off = float(np.max([np.abs(a.astype(float) - b.astype(float)).max() for a, b in pairs]) / size)
    if not off <= rtol or any(a.dtype != b.dtype for a, b in pairs):
        raise RuntimeError(f"the environments differ by {off:.1e} of their largest number; nothing to compare")
    return off


def beside_sync(core: Diffusion, chains: int = CHAINS, steps: int = STEPS, **options: Any) -> dict[str, float]:
    """Seconds a chain-step of both, the network's forward a chain, and how far the batched run is from parity mode."""
    options = {"core": core, "reward": first, "grid": TimeGrid.uniform(steps), **options}
    single = gymnasium.vector.SyncVectorEnv([lambda: DenoiseEnv(**options) for _ in range(chains)])
    many, twin = (DenoiseVectorEnv(chains, parity=parity, **options) for parity in (False, True))
    shape = (many.mdp.horizon, *many.action_space.shape)  # pyright: ignore
    actions = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    alone = episode(twin, actions, 7)
    agree(alone, episode(single, actions, 7))
    # Without parity chains draw by one generator, and matrices of another shape round otherwise: the same start is lent.
    many.reset(seed=7)
    twin.reset(seed=7)
    many.state = twin.state
    off = agree([many.step(action) for action in actions], alone[1:], 1e-4)
    cpu, x = torch.device("cpu"), torch.randn(chains, 2)
    with torch.no_grad():
        works: dict[str, Callable[[], object]] = {
            "sync": lambda: episode(single, actions, 8), "ours": lambda: episode(many, actions, 8),
            "forward": lambda: core.predict(x, 0.5).x0,
        }  # fmt: skip
        found = {name: value / chains for name, value in medians(works, cpu, RUNS, SLOW_RUNS).items()}
    each = len(actions)
    return {"sync": found["sync"] / each, "ours": found["ours"] / each, "forward": found["forward"], "off": off}


def on_cpu(console: Console) -> None:
    """Print the two figures of a CPU."""
    table = Table(
        title=f"CPU, {torch.get_num_threads()} threads, torch {torch.__version__}, 2-D, MLP 256, {CHAINS} chains, "
        f"episodes of {STEPS} steps; microseconds a chain-step"
    )
    for name in ("network", "actions", "SyncVectorEnv", "batched", "ratio", "bar", "policy's forward", "of it", "bar"):
        table.add_column(name, justify="right")
    rows: list[tuple[str, int, dict[str, Any]]] = [("inside", 30, {"beta": 0.5}), ("outside", 20, {"action": "state"})]
    for where, bar, options in rows:
        found = beside_sync(network(), CHAINS, STEPS, **options)
        share = found["ours"] / found["forward"]
        table.add_row(
            where, str(options.get("action", "residual")), f"{1e6 * found['sync']:.1f}", f"{1e6 * found['ours']:.3f}",
            f"{found['sync'] / found['ours']:.1f}", f"≥ {bar}", f"{1e6 * found['forward']:.3f}",
            *((f"{share:.1%}", "≤ 10%") if where == "outside" else ("", "")),
        )  # fmt: skip
    console.print(table)
    console.print(
        "parity mode equal to SyncVectorEnv bit for bit; without it, to 1e-4 of the largest number from one start"
    )


def taken(chains: Chains, mdp: DenoisingMDP, generator: torch.Generator) -> Tensor:
    """An episode in which every action is drawn outside."""
    chains.start(generator)
    for _ in range(mdp.horizon):
        chains.action.normal_(generator=generator)
        chains.step()
    return chains.x


def distance(mdp: DenoisingMDP, policy: Policy, n: int, like: Tensor) -> float:
    """How far replayed episodes end from eager ones, relative; actions from outside, and a policy's walk."""
    far = []
    for run in (
        lambda chains, g: taken(chains, mdp, g), lambda chains, g: chains.walk(g).action,
        lambda chains, g: chains.walk(g).x0,
    ):  # fmt: skip
        own, eager = (
            run(Chains(mdp, n, policy.control, like=like, graph=graph), torch.Generator(like.device).manual_seed(1))
            for graph in (True, False)
        )
        far.append(float((own - eager).abs().max() / eager.abs().max()))
    return max(far)


def ended(mdp: DenoisingMDP, n: int, like: Tensor) -> Tensor:
    """Where a replayed episode under given draws ends, in float64: the same draws whatever the dtype."""
    generator = torch.Generator(like.device).manual_seed(4)
    chains = Chains(mdp, n, like=like)
    draws = (torch.randn(chains.x.shape, generator=generator, dtype=torch.float64, device=like.device).to(like.dtype)
             for _ in range(mdp.horizon + 1))  # fmt: skip
    chains.start(x=next(draws))
    for action in draws:
        chains.step(action)
    return chains.x.double()


def on_gpu(console: Console, device: torch.device, batches: tuple[int, ...], steps: int) -> None:
    """Print what a decision takes on a GPU. Raises SystemExit where replays do not end where the eager loop ends."""
    torch.backends.cuda.matmul.allow_tf32 = True
    table = Table(
        title=f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}, 2-D, MLP 256, {steps} steps; "
        "milliseconds a step of all chains, and chain-steps a second"
    )
    for name in (
        "chains", "in", "floor", "eager", "step", "chain-steps/s", "walk", "chain-steps/s", "off eager", "off float64",
    ):  # fmt: skip
        table.add_column(name, justify="right")
    apart, exact = [], torch.empty(0)
    for n in batches:
        for name, kind in KINDS.items():
            core = network().to(device, torch.float64 if kind == torch.float64 else torch.float32)
            like = next(core.parameters()).detach()
            mdp = DenoisingMDP(core.chain(TimeGrid.uniform(steps)), first, beta=0.5)
            policy = Policy(mdp, trainable(core))
            with torch.no_grad():
                for p in policy.core.parameters():
                    p.add_(0.01 * torch.randn(p.shape, generator=torch.Generator().manual_seed(2)).to(p))
            if "compiled" in name:
                compile_body(core)
                compile_body(policy.core)
            with torch.autocast("cuda", torch.bfloat16) if kind == torch.bfloat16 else contextlib.nullcontext():
                off, end = distance(mdp, policy, n, like), ended(mdp, n, like)
                base, eager, step, walk = gpu_times(mdp, policy, core, n, like)
            exact = end if kind == torch.float64 else exact
            rounding = float((end - exact).abs().max() / exact.abs().max())
            if not off <= TOLERANCE[name]:
                apart.append(f"{n} chains in {name}: {off:.1e} > {TOLERANCE[name]:.0e}")
            table.add_row(
                str(n), name, f"{base:.4f}", f"{eager:.4f}", f"{step:.4f}", f"{1e3 * n / step:.3g}", f"{walk:.4f}",
                f"{1e3 * n / walk:.3g}", f"{off:.0e}", f"{rounding:.0e}",
            )  # fmt: skip
    console.print(table)
    console.print(
        "step: an action drawn outside, the reference's law, the charge and the next state, starts and rewards included;\n"
        "walk: the policy's network besides. bar: 1.5e8 chain-steps/s at 65536 chains, the reference's network inside"
    )
    if apart:
        raise SystemExit("replays end elsewhere than the eager loop: " + "; ".join(apart))


def compile_body(core: Diffusion) -> None:
    """Compile what a core's network does at an embedded level, as a user would: a graph takes it as it is."""
    module = core.denoiser.network  # pyright: ignore
    module.body = torch.compile(module.body)


def gpu_times(
    mdp: DenoisingMDP, policy: Policy, core: Diffusion, n: int, like: Tensor
) -> tuple[float, float, float, float]:
    """Milliseconds a step: the bare network, eager, replayed with an action from outside, and a walk of the policy."""
    generator = torch.Generator(like.device).manual_seed(3)
    chains, eager = (Chains(mdp, n, policy.control, like=like, graph=graph) for graph in (True, False))
    bare = floor(core, chains.x, mdp.horizon)
    works = (
        bare, lambda: taken(eager, mdp, generator), lambda: taken(chains, mdp, generator),
        lambda: chains.walk(generator),
    )  # fmt: skip
    rows = [[milliseconds(work) for work in works] for _ in range(WARM + GPU_RUNS)][WARM:]
    base, plain, step, walk = (statistics.median(column) / mdp.horizon for column in zip(*rows, strict=True))
    return base, plain, step, walk


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--chains", type=int, nargs="*", default=[4096, 65536, 262144], help="of the GPU's table")
    parser.add_argument("--steps", type=int, default=50, help="of the GPU's table")
    asked = parser.parse_args()
    device, console = check_device(asked.device), Console(width=130)
    if device.type == "cuda":
        on_gpu(console, device, tuple(asked.chains), asked.steps)
    else:
        on_cpu(console)


if __name__ == "__main__":
    main()
