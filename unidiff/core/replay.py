r"""Work on fixed tensors as a CUDA graph: captured once, replayed without the host.

What is captured reads and writes the same memory each time, so that whoever replays it keeps alive what it reads; what it
writes are its registers. It is run twice on a side stream before the capture, as CUDA graphs ask; registers and generator
are put back as they were, so that a capture leaves no trace.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


class Replay:
    """``work`` as one CUDA graph; calling it is one launch.

    Args:
        work: reads and writes ``registers`` and what does not change.
        registers: the tensors, at least one, that work changes in place, on one CUDA device. What work reads of its own
            earlier runs must be among them.
        generator: the source of work's draws, on that device; None if it makes none.
    """

    def __init__(
        self, work: Callable[[], None], registers: Sequence[Tensor], generator: torch.Generator | None = None
    ) -> None:
        device = registers[0].device
        before = [r.clone() for r in registers]
        seed = None if generator is None else generator.get_state()
        self._graph = torch.cuda.CUDAGraph()
        if generator is not None:
            self._graph.register_generator_state(generator)
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with _uncached():
            with torch.cuda.stream(stream):
                for _ in range(2):
                    work()
                    for register, value in zip(registers, before, strict=True):
                        register.copy_(value)
            torch.cuda.current_stream(device).wait_stream(stream)
            try:
                with _uncollected(), torch.cuda.graph(self._graph, stream=stream):
                    work()
            except RuntimeError as error:
                raise RuntimeError(
                    "this work cannot be captured as a CUDA graph: it reads values on the host, or calls what CUDA does not "
                    f"record; graph=False runs it as it stands ({str(error).splitlines()[0]})"
                ) from error
        # PyTorch sets the graph's place in the generator's stream by work it leaves on the stream of the capture.
        torch.cuda.current_stream(device).wait_stream(stream)
        if generator is not None and seed is not None:
            generator.set_state(seed)

    def __call__(self) -> None:
        """Launch it."""
        self._graph.replay()


def recorded(x: Tensor, condition: Tensor | None, training: bool) -> tuple[object, ...]:
    """What a capture on ``x`` is bound to: runs that agree in it may share one.

    Autocast and the modules' mode change what is recorded; parameters are read through their storage.
    """
    return x.shape, x.dtype, x.device, condition is None, torch.is_autocast_enabled(x.device.type), training


@contextmanager
def _uncached() -> Iterator[None]:
    # Autocast's copies of the weights live as long as its context: a replay must make its own.
    caching = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(caching)


@contextmanager
def _uncollected() -> Iterator[None]:
    # A dead graph that Python collects during a capture is freed by a call that CUDA forbids there.
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@contextmanager
def lent(own: torch.Generator, source: torch.Generator | None) -> Iterator[None]:
    """``own``, which captures know, goes on from where ``source`` (torch's own, for None) stands, and back after."""
    lender = torch.cuda.default_generators[own.device.index or 0] if source is None else source
    own.set_state(lender.get_state())
    try:
        yield
    finally:
        lender.set_state(own.get_state())
