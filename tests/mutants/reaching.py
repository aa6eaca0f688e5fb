"""Bugs in what a policy with the reference's σ can reach, and in the lattices and envelopes that it is found by."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

REACH, ENVELOPE, LATTICE = "rl/reachable.py", "rl/envelope.py", "rl/lattice.py"

MUTANTS_REACHING: tuple[Mutant, ...] = (
    Mutant("reach: the value in units of reward on the way", REACH, "value, log_z, astray = earned / beta, earned / beta,", "value, log_z, astray = earned, earned / beta,"),
    Mutant("reach: log Z of e^r", REACH, "value, log_z, astray = earned / beta, earned / beta,", "value, log_z, astray = earned / beta, earned,"),
    Mutant("reach: log Z as a mean", REACH, "log_z = after.spline(after.log_mean(log_z, std))(mean)", "log_z = after.spline(after.mean(log_z[:, None], std)[:, 0])(mean)"),
    Mutant("reach: log Z under the policy", REACH, "after.spline(after.log_mean(log_z, std))(mean)", "after.spline(after.log_mean(log_z, std))(best)"),
    Mutant("reach: log Z with its start kept", REACH, "start.log_mean(log_z, std)", "start.mean(log_z[:, None], std)[:, 0]"),
    Mutant("reach: the value before the noise", REACH, "gain = after.spline(smooth[:, 0])", "gain = after.spline(value)"),
    Mutant("reach: what is earned is the reference's", REACH, "after.spline(smooth[:, 1:])(best).T", "after.spline(smooth[:, 1:])(mean).T"),
    Mutant("reach: a control in x for units of σ", REACH, "u = (best - mean) / std", "u = best - mean"),
    Mutant("reach: a start of half the width", REACH, "middle = np.zeros((1, chain.dim))", "middle, std = np.zeros((1, chain.dim)), std / 2"),
    Mutant("reach: the KL without the value's β", REACH, "kl = found.reward / mdp.beta - found.value", "kl = found.reward - found.value"),
    Mutant("reach: the gap the other way", REACH, "return self.log_z - self.value", "return self.value - self.log_z"),
    Mutant("reach: the value in nats", REACH, "mdp, mdp.beta * found.value, found.reward", "mdp, found.value, found.reward"),
    Mutant("reach: the control of the step before", REACH, "self.controls[k - last]", "self.controls[max(0, k - last - 1)]"),
    Mutant("reach: σ² for σ", REACH, "float(var.mean()) ** 0.5", "float(var.mean())"),
    Mutant("reach: a lattice of two deviations", REACH, "wide = reach * np.sqrt(np.diag(covariance))", "wide = 0.3 * reach * np.sqrt(np.diag(covariance))"),
    Mutant("envelope: the charge without its ½", ENVELOPE, "gain(m) - 0.5 * (((m", "gain(m) - 1.0 * (((m"),
    Mutant("envelope: a charge in x", ENVELOPE, "(((m - mean[of]) / std) ** 2)", "((m - mean[of]) ** 2)"),
    Mutant("envelope: the slope times σ", ENVELOPE, "mean[open_] + std**2 * gain.gradient", "mean[open_] + std * gain.gradient"),
    Mutant("envelope: where the search began", ENVELOPE, "m[open_[up]], reached[open_[up]] = tried[up], found[up]", "pass"),
    Mutant("lattice: the noise twice as wide", LATTICE, "np.exp(-0.5 * node**2)", "np.exp(-0.125 * node**2)"),
    Mutant("lattice: weights of the logarithm half as deep", LATTICE, "+ np.log(weight).reshape", "+ 0.5 * np.log(weight).reshape"),
    Mutant("lattice: a slope a lattice's step", LATTICE, "found / np.prod([lattice.spacing[axis] for axis in axes])", "found"),
)  # fmt: skip
