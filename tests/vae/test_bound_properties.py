"""Every term of the bound over random schedules, grids, networks and shapes: ½(SNR_s − SNR_t)‖x_0 − x̂_0‖²."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import unidiff as ud
from unidiff.core.schedule import Schedule
from unidiff.testing import assert_algebraic
from unidiff.testing import strategies as kit


@settings(max_examples=30)
@given(st.data(), kit.schedules(), kit.event_shapes(axes=2, side=3))
def test_terms_are_the_textbooks(data: st.DataObject, schedule: Schedule, shape: tuple[int, ...]) -> None:
    grid = data.draw(kit.grids(schedule, most=4), label="grid")
    core = ud.Diffusion(schedule, data.draw(kit.denoisers(shape, "x0"), label="denoiser"))
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    noise = torch.randn(grid.steps + 1, 2, *shape, generator=generator, dtype=torch.float64)
    terms = ud.HierarchicalVAE(core).elbo(x0, grid, noise=noise).diffusion
    for k in range(1, grid.steps + 1):
        log_snr = schedule.log_snr(grid.times[[k - 1, k]]).detach().double()
        t = float(grid.times[k])
        xt = schedule.alpha(t).detach() * x0 + schedule.sigma(t).detach() * noise[k]
        guess = core.predict(xt, t).x0.detach()
        off = (x0 - guess).flatten(1)
        weight = 0.5 * (log_snr[0].exp() - log_snr[1].exp())
        # What the weight loses by its λ and its subtraction, what x_0 − x̂_0 loses of their digits, and ε − ε̂ of ε’s: 1/α_t.
        gap = 1 - (log_snr[1] - log_snr[0]).exp()
        lost = (off.abs() * (x0.abs() + guess.abs()).flatten(1)).sum(1)
        kappa = (
            (1 + 1 / schedule.alpha(t).detach())
            * weight
            * ((1 + log_snr.abs().sum()) / gap * off.square().sum(1) + (1 + log_snr.abs().sum()) * lost)
        )
        expected = weight * off.square().sum(1)
        assert_algebraic(terms[k - 1], expected, kappa, what=f"term {k}")
