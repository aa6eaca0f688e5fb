"""Ctrl-C, held back until a step is whole.

Python raises KeyboardInterrupt between any two instructions: after the optimiser's update, say, and before the average's.
A state saved there would be no state of the run. So the first Ctrl-C is only noted, and the loop asks for it where the
state is whole; a second one is raised at once, for a step that hangs.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def held() -> Iterator[Callable[[], None]]:
    """Within it Ctrl-C waits; call what it yields to raise the KeyboardInterrupt that waits, if one does.

    Outside the main thread, where Python delivers no signals, and where the program has a handler of its own, it does
    nothing.
    """
    noted: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        noted.append(number)

    def check() -> None:
        if noted:
            raise KeyboardInterrupt

    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield check
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
