"""What is drawn: paired where two means cancel, in float64, on one device, of the network's dtype, and asked in time."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import unidiff as ud
from tests.thermo.conftest import GRID, draws, exact, line, network, of, seeded
from unidiff.core.decoders import DiscretisedDecoder
from unidiff.core.level import NoiseLevel
from unidiff.core.prediction import Prediction
from unidiff.thermo import Fluctuation
from unidiff.thermo.averages import Noised
from unidiff.thermo.divergence import relative_entropy, score_gap
from unidiff.worlds import GaussianMixture, PointCloud, World, library


@pytest.mark.statistical
@pytest.mark.parametrize("schedule", ["cosine", "karras"])
def test_the_kl_to_the_prior_by_draws_is_paired(schedule: str) -> None:
    # Near the prior −E log q and −E log π cancel draw by draw. A mixture of one in eight dimensions has draws alone and a
    # Gaussian's value: z < 5 (false alarm 6e-7). Its error is under 5% of √(D/2n), which −E log q alone leaves.
    spread = torch.linspace(0.1, 1.5, 8, dtype=torch.float64)
    centre = torch.linspace(-1, 1, 8, dtype=torch.float64)
    alike = ud.worlds.Gaussian(centre, spread.diag())
    one = GaussianMixture([1.0], centre[None], spread.diag()[None])
    kind = ud.Schedule.named(schedule)
    due, found = (of(law, kind).kl_to_prior(1.0, draws=4096, generator=seeded(0)) for law in (alike, one))
    assert (due.law, found.law) == ("exact", "monte_carlo")
    assert float(found.standard_error) < 0.05 * math.sqrt(8 / (2 * 4096))
    assert abs(float(found.value - due.value)) < 5 * float(found.standard_error)


@pytest.mark.statistical
def test_girsanovs_bound_tells_its_error() -> None:
    # 40 repeats against the closed form: Σz² ~ χ²(40), over 98 by chance in 1e-6, under 9 in 1e-9.
    centre, spread = torch.linspace(-0.5, 0.5, 8, dtype=torch.float64), torch.linspace(0.2, 1.5, 8, dtype=torch.float64)
    law = GaussianMixture([1.0], centre[None], spread.diag()[None])
    alike = ud.worlds.Gaussian(centre, spread.diag())
    other = ud.worlds.Gaussian(0 * centre, torch.eye(8, dtype=torch.float64))
    core, generator = exact(other), seeded(1)
    truth = of(alike).relative_entropy_decay(other, 0.3, 1.0)
    due = of(alike).kl_to_prior(1.0).value + truth.lost.value
    found = [ud.Thermodynamics(core, law).girsanov_bound(0.3, 1000, generator) for _ in range(40)]
    z = torch.stack([(bound.total - due) / bound.total_error for bound in found])
    assert 9 < float(z.square().sum()) < 98
    assert float(found[0].total_error) > 0.0


def test_a_float32_worlds_values_are_float64s() -> None:
    law = library.gaussian()
    found, due = (of(w).kl_to_prior(1.0).value for w in (law.to(torch.float32), law))
    # Its parameters are rounded, and no more: the KL, 6e-8, is known to a millionth.
    assert found.dtype == torch.float64
    assert abs(float(found / due) - 1) < 1e-6
    for world in (library.gaussian(), library.mixture_8d(), line(), library.digits(20)):
        view = of(world.to(torch.float32))
        for name in ("entropy", "fisher_information", "entropy_production", "kl_to_prior", "mutual_information"):
            estimate = getattr(view, name)(0.5, draws=16)
            assert estimate.value.dtype == estimate.standard_error.dtype == torch.float64, name
        assert view.entropy_bounds(0.3, 0.6, draws=16).value.value.dtype == torch.float64


@pytest.mark.parametrize("first", ["mixture-2d", "digits"])
def test_two_laws_are_compared_where_the_firsts_means_are_taken(first: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The first is averaged on the host if by quadrature, else where it is; the second must be there, wherever it was.
    mine = library.mixture_2d() if first == "mixture-2d" else PointCloud(library.digits(20).points[:, :2])
    theirs, asked = PointCloud(library.digits(9).points[:, :2]), []
    moved = PointCloud.to

    def to(self: PointCloud, dtype: Any = None, device: Any = None) -> PointCloud:
        if len(self.points) == 9:
            asked.append(device)
        return moved(self, dtype, device)

    monkeypatch.setattr(PointCloud, "to", to)
    for compare in (relative_entropy, score_gap):
        asked.clear()
        compare(Noised(mine, 0.6, 0.8, 16), Noised(theirs, 0.6, 0.8))
        assert asked == [torch.device("cpu")]


def test_a_float32_network_reads_a_float64_worlds_draws() -> None:
    law, core = library.gaussian(), network()
    view = ud.Thermodynamics(core, law)
    found = view.budget([0.3, 0.6], grid=GRID, draws=8, generator=seeded(0))
    assert found.back is not None and torch.isfinite(found.back.spent).all()
    for joint in (False, True):
        told = view.fluctuation(8, GRID, joint, seeded(0))
        assert told.forward.dtype == torch.float32 and torch.isfinite(told.forward).all()
        assert told.integral.value.dtype == torch.float64


class Counted:
    """An exact denoiser that counts how often it is asked."""

    def __init__(self, world: World) -> None:
        self.own, self.event_shape, self.calls = ud.worlds.OracleDenoiser(world), world.event_shape, 0

    def __call__(
        self, xt: Tensor, level: NoiseLevel, condition: Tensor | None = None, guidance: float = 1.0
    ) -> Prediction:
        self.calls += 1
        return self.own(xt, level, condition, guidance)


def test_a_budget_is_refused_before_anything_is_computed() -> None:
    law = library.gaussian()
    counted = Counted(law)
    core, x0 = ud.Diffusion(ud.Schedule.cosine(), counted), draws(law, 4)
    own, known = ud.Thermodynamics(core), ud.Thermodynamics(core, law)
    labels: Tensor = torch.tensor([0, 1, 2, 0])
    for message, ask in (
        ("x0", lambda: own.budget([0.3, 0.6], x0 + 0.123, GRID, decoder=DiscretisedDecoder())),
        ("x0", lambda: known.budget([0.3, 0.6], grid=GRID, draws=8, decoder=DiscretisedDecoder())),
        ("condition", lambda: own.budget([0.3, 0.6], x0, GRID, condition=labels)),
    ):
        with pytest.raises(ValueError, match=message):
            ask()
        assert counted.calls == 0


def test_a_generator_is_one_of_the_draws_device() -> None:
    known, law = of(library.gaussian()), library.gaussian()
    for wrong in (3, "seed"):
        for ask in (
            lambda g: known.relative_entropy_decay(law, 0.3, 0.6, generator=g),
            lambda g: known.girsanov_bound(0.3, generator=g),
            lambda g: known.fluctuation(8, GRID, generator=g),
            lambda g: known.fluctuation(draws(law, 4), GRID, generator=g),
        ):
            with pytest.raises(TypeError, match="generator must be a Generator, got"):
                ask(wrong)
    with pytest.raises(TypeError, match="joint must be True or False, got 1"):
        known.fluctuation(8, GRID, joint=1)  # pyright: ignore[reportArgumentType]


def test_a_mean_of_exponentials_is_taken_in_float64() -> None:
    # e^{100} is no float32.
    told = Fluctuation(*[torch.full((4,), -100.0) + torch.arange(4.0)] * 3)
    assert torch.isfinite(told.integral.value) and told.conclusion() == "inconclusive"
