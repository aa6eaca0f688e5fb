"""Other libraries' diffusion models as cores, and cores as theirs.

=============  ==========================================  ==========================================
adapter        a core of                                   and back
=============  ==========================================  ==========================================
diffusers      a UNet and a scheduler, or their folder     a DDPM or DDIM scheduler of a core
azula          a denoiser and its schedule                 a core as a denoiser
k_diffusion    ``model(x, sigma)``, the denoised state     a core as ``model(x, sigma)``
=============  ==========================================  ==========================================

An adapter is imported when it is first asked for, and its library with it: ``import unidiff`` imports none of them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unidiff.interop import azula, diffusers, k_diffusion

__all__ = ["azula", "diffusers", "k_diffusion"]


def __getattr__(name: str) -> Any:
    """The adapter ``name``. Raises ImportError, with the extra to install, where its library is not there."""
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
