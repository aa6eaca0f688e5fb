"""A state as a picture: a sheet of images, or the chains on their first two axes."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from unidiff.rl.mdp import DenoisingMDP, State

_SIDE, _MOST = 256, 64


def picture(mdp: DenoisingMDP, state: State) -> np.ndarray:
    """``[H, W, 3]``, bytes: at most 64 images as a sheet, [−1, 1] from black to white; else dots in ±3.5 of x_t's scale."""
    image = state.x.ndim == 4 and state.x.shape[1] in (1, 3)
    return _sheet(state.x[:_MOST]) if image else _dots(mdp, state)


def _sheet(x: Tensor) -> np.ndarray:
    n, channels, height, width = x.shape
    across = math.ceil(math.sqrt(n))
    down = math.ceil(n / across)
    values = ((x.detach().float().cpu().clamp(-1, 1) + 1) * 127.5).round().byte().numpy()
    sheet = np.zeros((down * height, across * width, channels), dtype=np.uint8)
    for i, one in enumerate(values):
        row, column = divmod(i, across)
        sheet[row * height : (row + 1) * height, column * width : (column + 1) * width] = one.transpose(1, 2, 0)
    scale = max(1, _SIDE // max(sheet.shape[:2]))
    return np.repeat(sheet, 3 // channels, 2).repeat(scale, 0).repeat(scale, 1)


def _dots(mdp: DenoisingMDP, state: State) -> np.ndarray:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    flat = state.x.detach().flatten(1).double().cpu().numpy()
    y = flat[:, 1] if flat.shape[1] > 1 else np.zeros(len(flat))
    level = mdp.chain.levels[state.k]
    reach = 3.5 * math.sqrt(float(level.alpha) ** 2 + float(level.sigma) ** 2)
    figure = Figure(figsize=(3, 3), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    axes.scatter(flat[:, 0], y, s=12, color="#1f6f8b", linewidths=0)
    axes.set_title(f"t = {float(mdp.chain.grid.times[state.k]):.3f}", fontsize=9)
    axes.tick_params(labelsize=7)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
