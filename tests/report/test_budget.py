"""The budget's picture draws the numbers that it is given, each where it belongs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import image

import unidiff as ud
from unidiff.report import budget
from unidiff.thermo import Budget
from unidiff.worlds import OracleDenoiser, library


@pytest.fixture(scope="module")
def found() -> Budget:
    law, schedule = library.gaussian(), ud.Schedule.cosine()
    view = ud.Thermodynamics(ud.Diffusion(schedule, OracleDenoiser(law)), law)
    return view.budget([0.05, 0.2, 0.4, 0.7], grid=ud.TimeGrid.uniform(6, first=0.05), draws=64)


def drawn(axes: Any) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {str(line.get_label()): (line.get_xdata(), line.get_ydata()) for line in axes.lines}


def test_every_curve_is_a_column_over_log_snr(found: Budget) -> None:
    entropy, known, rate, steps = budget(found).axes
    x = found.log_snr.numpy()
    for axes, label, column in (
        (entropy, "H(x_t)", found.entropy),
        (entropy, "H(x_t|x₀), the noise's", found.noise_entropy),
        (known, "I(x₀; x_t)", found.information),
        (known, "KL(q_t ‖ π_t)", found.kl),
    ):
        np.testing.assert_array_equal(drawn(axes)[label][0], x)
        np.testing.assert_array_equal(drawn(axes)[label][1], column.numpy())
    (curve,) = rate.lines
    # Per unit of λ: its integral over λ is what the KL loses.
    np.testing.assert_allclose(np.asarray(curve.get_ydata()), (found.production / -found.slope).numpy())
    assert found.back is not None
    paid = drawn(known)["paid by 6 steps"]
    np.testing.assert_array_equal(paid[0], found.back.log_snr.numpy())
    np.testing.assert_array_equal(paid[1], found.back.spent.numpy())
    area = drawn(steps)["information"]
    np.testing.assert_allclose(area[1] * (x[:-1] - x[1:]), (found.information[:-1] - found.information[1:]).numpy())
    (stairs,) = steps.patches
    values, edges, _ = stairs.get_data()  # pyright: ignore
    np.testing.assert_allclose(np.sum(values * np.diff(edges)), float(found.back.steps.sum()))
    for axes in (entropy, known, rate, steps):
        low, high = axes.get_xlim()
        assert (low, high) == (x.min(), x.max()) and "log-SNR" in axes.get_xlabel()


def test_the_picture_is_saved_and_needs_no_way_back(found: Budget, tmp_path: Path) -> None:
    path = tmp_path / "budget.png"
    budget(found).savefig(path)
    assert image.imread(path)[..., 3].max() > 0
    columns = {name: getattr(found, name) for name in Budget.__dataclass_fields__ if name != "back"}
    entropy, known, _, steps = budget(Budget(**columns)).axes
    assert list(drawn(known)) == ["I(x₀; x_t)", "KL(q_t ‖ π_t)"]
    assert len(steps.patches) == 0 and len(entropy.lines) == 2


def test_what_is_no_budget_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match="found must be a Budget, got 3"):
        budget(3)  # pyright: ignore[reportArgumentType]
