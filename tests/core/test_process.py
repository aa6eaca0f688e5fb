"""Forward kernels: errors at the boundary, and float32 beside float64."""

from __future__ import annotations

import pytest
import torch

from unidiff import ForwardProcess, Schedule

X = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
Q = ForwardProcess(Schedule.cosine())


@pytest.mark.parametrize(("s", "t"), [(0.5, 0.5), (0.6, 0.4), (torch.tensor([0.1, 0.5, 0.2]), 0.4)])
def test_s_not_before_t_is_refused(s, t) -> None:
    with pytest.raises(ValueError, match="s must be earlier than t"):
        Q.transition(X, s, t)
    with pytest.raises(ValueError, match="s must be earlier than t"):
        Q.posterior(X, X, s, t)


def test_times_of_another_batch_are_refused() -> None:
    with pytest.raises(ValueError, match=r"t must be a number or have shape \[3\]"):
        Q.marginal(X, torch.tensor([0.1, 0.2]))


def test_states_that_do_not_match_are_refused() -> None:
    with pytest.raises(ValueError, match="xt and x0 must have one shape"):
        Q.posterior(X, X[:2], 0.1, 0.2)
    with pytest.raises(ValueError, match="xt and x0 must have one dtype"):
        Q.posterior(X, X.double(), 0.1, 0.2)
    with pytest.raises(ValueError, match="xt and x0 must have one device"):
        Q.posterior(X, torch.empty(3, 2, device="meta"), 0.1, 0.2)
    with pytest.raises(TypeError, match="x0 must be a floating-point tensor"):
        Q.marginal(torch.zeros(2, 2, dtype=torch.long), 0.5)
    with pytest.raises(ValueError, match="batch first"):
        Q.marginal(torch.zeros(3), 0.5)


def test_per_member_times_are_the_single_times_side_by_side() -> None:
    s, t = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.4, 0.9, 1.0])
    both = Q.posterior(X, 2 * X, s, t)
    for k in range(3):
        one = Q.posterior(X[k : k + 1], 2 * X[k : k + 1], float(s[k]), float(t[k]))
        torch.testing.assert_close(both.mean[k], one.mean[0])
        torch.testing.assert_close(both.log_var[k], one.log_var.reshape(1))


def test_a_step_to_the_data_is_a_point() -> None:
    law = ForwardProcess(Schedule.linear()).posterior(X, X, 0.0, 0.5)
    assert torch.isneginf(law.log_var).all()
    torch.testing.assert_close(law.mean, X)


def test_short_steps_at_high_snr_keep_their_digits_in_float32() -> None:
    s, t = 0.0100000, 0.0100001
    wide = Q.posterior(X.double(), X.double(), s, t)
    narrow = Q.posterior(X, X, s, t)
    torch.testing.assert_close(narrow.log_var.double(), wide.log_var, rtol=1e-6, atol=0)
