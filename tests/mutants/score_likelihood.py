"""Small theory bugs in the score view's derivatives, objectives, flow and likelihood."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

DERIVATIVES, MODEL, OBJECTIVES = "score/derivatives.py", "score/model.py", "score/objectives.py"
ODE, FLOW, LIKELIHOOD, VOLUME = "score/ode.py", "score/flow.py", "score/likelihood.py", "score/volume.py"
INTERVAL = "worlds/interval.py"
TABLES, ARGUMENTS, ENTRY = "core/tables.py", "score/arguments.py", "score/entry.py"

MUTANTS_LIKELIHOOD: tuple[Mutant, ...] = (
    Mutant("probes of variance ¼", DERIVATIVES, ".to(like).mul_(2).sub_(1)", ".to(like).sub_(0.5)"),
    Mutant("Hutchinson with F for Jᵀv", DERIVATIVES, "(pulled * probes).flatten(2).sum(2)", "(value * probes).flatten(2).sum(2)"),
    Mutant("divergence averaged over the dimensions", DERIVATIVES, "(pulled * basis).flatten(2).sum((0, 2))", "(pulled * basis).flatten(2).mean(2).sum(0)"),
    Mutant("covariance with σ for σ²", MODEL, "level.sigma.square() / level.alpha, xt", "level.sigma / level.alpha, xt"),
    Mutant("covariance with the α of the score's formula", MODEL, "level.sigma.square() / level.alpha, xt", "level.sigma.square() / level.alpha.square(), xt"),
    Mutant("implicit score matching without Hyvärinen's 2", OBJECTIVES, "return eps.flatten(1).square().sum(1) - 2 * own.level.sigma * spread", "return eps.flatten(1).square().sum(1) - own.level.sigma * spread"),
    Mutant("implicit score matching with the divergence's sign of ε̂", OBJECTIVES, "sum(1) - 2 * own.level.sigma * spread", "sum(1) + 2 * own.level.sigma * spread"),
    Mutant("sliced score matching without σ", OBJECTIVES, "(along.square() - 2 * own.level.sigma * each)", "(along.square() - 2 * each)"),
    Mutant("explicit score matching on ε̂ − σs", OBJECTIVES, "own(own.z) + right_expand(own.level.sigma, own.z)", "own(own.z) - right_expand(own.level.sigma, own.z)"),
    Mutant("Anderson's drift with η for η²", FLOW, "return f * z - 0.5 * (1 + eta**2) * g2 * score", "return f * z - 0.5 * (1 + eta) * g2 * score"),
    Mutant("Anderson's drift without its ½", FLOW, "return f * z - 0.5 * (1 + eta**2)", "return f * z - (1 + eta**2)"),
    Mutant("the SDE's table with η² of the noise", TABLES, "eta * (-dt * schedule.diffusion2(steps.t)).sqrt()", "eta**2 * (-dt * schedule.diffusion2(steps.t)).sqrt()"),
    Mutant("the SDE's table with η for η² in the drift", TABLES, "rate = -0.5 * (1 + eta**2)", "rate = -0.5 * (1 + eta)"),
    Mutant("the flow's angle from λ, not ½λ", FLOW, "(-0.5 * self.ends.log_snr).exp().atan()", "(-self.ends.log_snr).exp().atan()"),
    Mutant("levels at twice the angle's log-SNR", FLOW, "log_snr = -2 * torch.tensor(angles", "log_snr = -torch.tensor(angles"),
    Mutant("the flow forgets the scale of a VE state", FLOW, "self.prediction(scale * y, level).v / scale", "self.prediction(scale * y, level).v"),
    Mutant("the step to data is a whole one", FLOW, "(x + 0.5 * (x - x0) if self.to_data else x)", "(x + (x - x0) if self.to_data else x)"),
    Mutant("the step to data has no Jacobian", VOLUME, "stretch = stretch + 0.5 * (dim - spread)", "stretch = stretch + 0.0 * (dim - spread)"),
    Mutant("the prior with σ for σ²", LIKELIHOOD, "torch.full((), 2 * math.log(std)", "torch.full((), math.log(std)"),
    Mutant("a density that forgets α at t_0", VOLUME, "stretch = dim * (level.alpha", "stretch = 0 * (level.alpha"),
    Mutant("a density that forgets ρ at t = 1", LIKELIHOOD, "gain + y[0].numel() * scale.log()", "gain"),
    Mutant("the prior's error with its sign reversed", LIKELIHOOD, "return self.log_prob + self.prior_error", "return self.log_prob - self.prior_error"),
    Mutant("the bound on the prior's cost the other way round", LIKELIHOOD, "law.log_var.detach()).kl(_prior_law(flow, code))", "law.log_var.detach()).kl(_prior_law(flow, code)) * 2"),
    Mutant("Heun's second weight", ODE, "((), (1.0,)), (0.5, 0.5)", "((), (1.0,)), (0.6, 0.4)"),
    Mutant("RK4 with Simpson's weights in the wrong order", ODE, "(1 / 6, 1 / 3, 1 / 3, 1 / 6)", "(1 / 3, 1 / 6, 1 / 6, 1 / 3)"),
    Mutant("a sign in Dormand and Prince's table", ODE, "-25360 / 2187", "-25360 / 2178"),
    Mutant("Heun's error estimate a tenth of what it is", ODE, "(0.5, 0.5), (-0.5, 0.5))", "(0.5, 0.5), (-0.05, 0.05))"),
    Mutant("a sign in Dormand and Prince's error estimate", ODE, "(71 / 57600, 0.0", "(-71 / 57600, 0.0"),
    Mutant("normal probes of variance 4", DERIVATIVES, "return torch.randn(count", "return 2 * torch.randn(count"),
    Mutant("curvature by the symmetric part", MODEL, "(slope - slope.mT, slope)", "(slope + slope.mT, slope)"),
    Mutant("probed curvature of the antisymmetric part", MODEL, "(pushed - pulled, pulled)", "(0.5 * (pushed - pulled), pulled)"),
    Mutant("objectives forget their weight", OBJECTIVES, "return scale.detach().to(x0) * error", "return error"),
    Mutant("the explicit objective of a labelled row is the whole law's", ARGUMENTS, "return world.given(condition)", "return world"),
    Mutant("log p by the first probe alone", LIKELIHOOD, "log_prob = gain.mean(1) + ", "log_prob = gain[:, 0] + "),
    Mutant("the probes' error over K, not √K", LIKELIHOOD, "gain.std(1) / math.sqrt(probes)", "gain.std(1) / probes"),
    Mutant("a 90% interval", INTERVAL, "student.ppf(0.975", "student.ppf(0.95"),
    Mutant("the interval of one value, not of the mean", INTERVAL, "float(wide.std()) / math.sqrt(n)", "float(wide.std())"),
    Mutant("bits of scaled data with the scale's sign reversed", INTERVAL, "+ math.log(scale)", "- math.log(scale)"),
    Mutant("the step from the data undone the wrong way", FLOW, "moved - 0.5 * (x - denoise(x))", "moved + 0.5 * (x - denoise(x))"),
    Mutant("the step from the data undone but once", FLOW, "if change <= allowed:", "if change <= 1e9:"),
    Mutant("the step's error without the volume", ENTRY, "(own - stretch).mean(1).abs() + ", "0 * (own - stretch).mean(1).abs() + "),
    Mutant("the step's error from one level twice", ENTRY, "_disagreement(path, once, there)", "_disagreement(path, flow.ends[0].to(there), path.start)"),
)  # fmt: skip
