r"""Work on fixed tensors as a CUDA graph: captured once, replayed without the host.

What is captured reads and writes the same memory each time: its registers. It is run twice on a side stream before the
capture, as CUDA graphs ask; registers and generator are then put back as they were, so that a capture leaves no trace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


class Replay:
    """``work`` as one CUDA graph; calling it is one launch.

    Args:
        work: reads and writes ``registers`` and what does not change.
        registers: the tensors that work changes in place, on one CUDA device.
        generator: the source of work's draws, on that device.
    """

    def __init__(self, work: Callable[[], None], registers: Sequence[Tensor], generator: torch.Generator) -> None:
        device = registers[0].device
        before, seed = [r.clone() for r in registers], generator.get_state()
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for _ in range(2):
                work()
        torch.cuda.current_stream(device).wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        self._graph.register_generator_state(generator)
        with torch.cuda.graph(self._graph):
            work()
        for register, value in zip(registers, before, strict=True):
            register.copy_(value)
        generator.set_state(seed)

    def __call__(self) -> None:
        """Launch it."""
        self._graph.replay()


@contextmanager
def lent(own: torch.Generator, source: torch.Generator | None) -> Iterator[None]:
    """``own``, which captures know, goes on from where ``source`` (torch's own, for None) stands, and back after."""
    lender = torch.cuda.default_generators[own.device.index or 0] if source is None else source
    own.set_state(lender.get_state())
    try:
        yield
    finally:
        lender.set_state(own.get_state())
