r"""Chains of a process on tensors that stay where they are, so that on a GPU a decision is one CUDA graph, replayed.

A decision reads x_{t_k} and k and leaves x_{t_{k−1}}, what it cost and k − 1 in their places:

    x ← μ_ref(x, k) + σ_ref(k) a,   charge ← ½β‖a‖²,   k ← k − 1,   a given, or a = u(x, k) + ξ.

k is on the device, so one capture serves every step. Rewards are anybody's functions, and are called between replays.
Where nothing is captured the same lines run one by one; by the same generator they take the same draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from unidiff.core.boundary import check_alike, check_count, check_generator, check_type
from unidiff.core.gaussian import Gaussian
from unidiff.core.replay import Replay, lent, recorded
from unidiff.rl.mdp import DenoisingMDP, Outcome, State, check_start, checked
from unidiff.rl.policy import Decisions, Walk, check_control, seen

Control = Callable[[Decisions], Tensor]
"""u of a policy N(u, I) in whitened actions: decisions ``[n]``, whose k ``[1]`` is of all, to ``[n, *E]``."""


class Chains:
    """n chains of a process, all at one step, to be walked many times.

    Args:
        mdp: the process.
        n: how many chains.
        control: of the policy that :meth:`walk` follows, :meth:`unidiff.rl.Policy.control` say; None is the reference's, 0.
            It is captured: it may not look at values, and what it reads must stay where it is.
        like: the dtype and device of states; None takes the reference's parameters', or float32 on the CPU.
        graph: whether decisions are captured; None captures on a GPU, True makes another device an error.

    Attributes:
        x: the states, ``[n, *E]``; x_0 after the end.
        action: the next decision's, ``[n, *E]``, to be written to.

    Raises:
        TypeError, ValueError: of an argument, by name; half precision.
    """

    def __init__(
        self,
        mdp: DenoisingMDP,
        n: int,
        control: Control | None = None,
        *,
        like: Tensor | None = None,
        graph: bool | None = None,
    ) -> None:
        check_type("mdp", mdp, DenoisingMDP)
        check_count("n", n)
        if control is not None and not callable(control):
            raise TypeError(f"control must be callable, got {type(control).__name__}")
        core = mdp.chain.core
        first = core.first_parameter()
        like = (torch.empty(0) if first is None else first) if like is None else like
        check_type("like", like, Tensor)
        if like.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"like must be float32 or float64 (a chain's state is never half precision), got {like.dtype}"
            )
        if graph and not like.is_cuda:
            raise ValueError(
                f"like must be on a GPU with graph=True (only there is a step captured), got {like.device}"
            )
        self.mdp, self.control = mdp, control
        self.graph = like.is_cuda if graph is None else graph
        self.x = torch.zeros((n, *core.event_shape), dtype=like.dtype, device=like.device)
        self.action = torch.zeros_like(self.x)
        self._charge = self.x.new_zeros(n)
        self._k = torch.zeros(1, dtype=torch.long, device=like.device)
        self._left = 0
        self._labels = torch.zeros(n, dtype=torch.long, device=like.device)
        self._condition: Tensor | None = None
        self._chain = mdp.chain.beside(self.x)
        self._columns: list[Tensor] = []
        self._draws: torch.Generator | None = torch.Generator(like.device) if self.graph else None
        self._captured: dict[object, Replay] = {}

    @torch.no_grad()
    def start(
        self, generator: torch.Generator | None = None, condition: Tensor | None = None, *, x: Tensor | None = None
    ) -> State:
        """All chains to t = 1: drawn from the prior, or ``x`` ``[n, *E]``.

        Raises:
            TypeError, ValueError: labels as :meth:`unidiff.Diffusion.predict`; x of another shape, dtype or device.
        """
        return self._begin(generator, condition, None if x is None else check_start("x", x, self.x))

    def _begin(self, generator: torch.Generator | None, condition: Tensor | None, x: Tensor | None) -> State:
        check_generator(generator, self.x.device)
        state = self.mdp.start(len(self.x), generator, condition, self.x)
        self.x.copy_(state.x if x is None else x)
        self._condition = None if state.condition is None else self._labels.copy_(state.condition)
        self._left = self.mdp.chain.steps
        self._k.fill_(self._left)
        return State(self.x, self._left, self._condition)

    @torch.no_grad()
    def step(self, action: Tensor | None = None) -> Outcome:
        """Take ``action`` ``[n, *E]``, or what is written in :attr:`action`. The outcome's tensors are good until the next.

        Raises:
            ValueError: chains that have ended or were never started; an action of another shape, dtype or device.
            TypeError, ValueError, FloatingPointError: of a reward, as :meth:`~unidiff.rl.DenoisingMDP.step`.
        """
        if self._left < self.mdp.last:
            raise ValueError("chains have ended or were never started; start anew")
        if action is not None and action is not self.action:
            check_alike(state=self.x, action=action)
            self.action.copy_(action)
        before = self.x.clone() if self.mdp.step_reward is not None else None
        self._run(self._decide)
        return self._landed(before)

    @torch.no_grad()
    def walk(
        self, generator: torch.Generator | None = None, condition: Tensor | None = None, *, start: Tensor | None = None
    ) -> Walk:
        """From the prior, or ``start`` ``[n, *E]``, to the data, under ``control``: as :meth:`unidiff.rl.Policy.walk`.

        Raises:
            ValueError: actions that are states; as :meth:`start`.
            TypeError, ValueError, FloatingPointError: of a reward; a control that is not finite, with the step.
        """
        mdp = self.mdp
        if mdp.action != "residual":
            raise ValueError(f"mdp must have residuals for actions, which a walk draws, got action = {mdp.action!r}")
        self._begin(generator, condition, None if start is None else check_start("start", start, self.x))
        if not self._columns:  # x, x̂_ref, σ_ref, a and u of every decision
            self._columns = [self.x.new_zeros((mdp.horizon, *self.x.shape)) for _ in range(5)]
        paid = []
        with self._drawing(generator):
            for h in range(mdp.horizon):
                self._run(self._draw)
                if h == mdp.horizon - 1:
                    check_control(self._columns[4], mdp.chain.steps)  # once: on a GPU looking waits
                paid.append(self._landed(self._columns[0][h]).paid)
        k = torch.arange(mdp.chain.steps, mdp.last - 1, -1, device=self.x.device)
        labels = None if self._condition is None else self._condition.clone()
        x, known, std, action, control = (v.clone() for v in self._columns)
        return Walk(x, k, known, std, action, control, torch.stack(paid), self.x.clone(), labels)

    def _decide(self) -> None:
        law = seen(self.mdp, self._chain, self.x, self._k, self._condition)[0] if self.mdp.asks else None
        self._take(law, self.action)

    def _draw(self) -> None:
        law, at = seen(self.mdp, self._chain, self.x, self._k, self._condition)
        control = torch.zeros_like(self.x) if self.control is None else self.control(at)
        noise = torch.randn(self.x.shape, generator=self._draws, dtype=self.x.dtype, device=self.x.device)
        action, slot = control + noise, self.mdp.chain.steps - self._k
        for column, value in zip(self._columns, (self.x, at.guess, at.std, action, control), strict=True):
            column.index_copy_(0, slot, value[None].to(column.dtype))  # under autocast a network may answer in half
        self._take(law, action)

    def _take(self, law: Gaussian | None, action: Tensor) -> None:
        after, charge = self.mdp.act(law, action)
        self.x.copy_(after)
        self._charge.copy_(charge)
        self._k.sub_(1)

    def _finish(self) -> None:
        law, _ = seen(self.mdp, self._chain, self.x, self._k, self._condition)
        self.x.copy_(law.mean)
        self._k.sub_(1)

    def _run(self, work: Callable[[], None]) -> None:
        if not self.graph:
            work()
            return
        key = work.__name__, recorded(self.x, self._condition, self.mdp.chain.core.training)
        if key not in self._captured:
            draws = work == self._draw
            registers = [self.x, self._charge, self._k, *(self._columns if draws else [])]
            self._captured[key] = Replay(work, registers, self._draws if draws else None)
        self._captured[key]()

    def _landed(self, before: Tensor | None) -> Outcome:
        """What was earned by the decision just taken from ``before``, and the noiseless step after the last."""
        mdp, times = self.mdp, self.mdp.chain.grid.times
        self._left -= 1
        earned = torch.zeros_like(self._charge)
        if mdp.step_reward is not None:
            assert before is not None
            paid = mdp.step_reward(before, self.x, float(times[self._left + 1]), float(times[self._left]))
            earned = earned + checked("step_reward", paid, self.x)
        done = self._left < mdp.last
        if done and self._left:
            self._run(self._finish)
            self._left = 0
        if done and mdp.reward is not None:
            earned = earned + checked("reward", mdp.reward(self.x), self.x)
        return Outcome(State(self.x, self._left, self._condition), earned, self._charge, done)

    @contextmanager
    def _drawing(self, generator: torch.Generator | None) -> Iterator[None]:
        if self.graph:
            assert self._draws is not None
            with lent(self._draws, generator):
                yield
            return
        self._draws = generator
        try:
            yield
        finally:
            self._draws = None
