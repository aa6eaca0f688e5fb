"""Small bugs in the thermodynamic view: entropies, information, rates, what laws lose, and the work of paths."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

AVERAGES, INFORMATION, ESTIMATES, MODEL = (
    "thermo/averages.py", "thermo/information.py", "thermo/estimates.py", "thermo/model.py"
)  # fmt: skip
DIVERGENCE, BOUNDS, WORK, FREE = "thermo/divergence.py", "thermo/bounds.py", "thermo/work.py", "thermo/free_energy.py"
FLUCTUATIONS = "thermo/fluctuations.py"

MUTANTS_THERMODYNAMICS: tuple[Mutant, ...] = (
    # -- averages and information
    Mutant("relative score with the prior's sign reversed", AVERAGES, "check=False) + z / variance)", "check=False) - z / variance)"),
    Mutant("relative Fisher of a Gaussian forgets its mean", AVERAGES, " + (mean / variance).square().sum()\n", "\n"),
    Mutant("Fisher information with the covariance for its inverse", AVERAGES, "Estimate.exact((1 / self._spread()).sum())", "Estimate.exact(self._spread().sum())"),
    Mutant("KL of a Gaussian to the prior without its mean", AVERAGES, " + law.mean.square().sum() / variance)", ")"),
    Mutant("mmse of one coordinate's share", AVERAGES, "posterior.variance.flatten(1).sum(1)", "posterior.variance.flatten(1).mean(1)"),
    Mutant("components of a mixture weighted alike", "worlds/quadrature.py", "reshape(z.shape[:2]) @ weights)", "reshape(z.shape[:2]).mean(1))"),
    Mutant("nodes laid as if all components were as wide", "worlds/quadrature.py", "max(0, math.ceil(math.log2(2 * self.coarsest / ratio) - 1e-9))", "0"),
    Mutant("the other law's width not looked at", DIVERGENCE, "replace(first, beside=second.world)", "replace(first, beside=None)"),
    Mutant("information of a Gaussian without its ½", INFORMATION, "Estimate.exact(0.5 * F.softplus", "Estimate.exact(F.softplus"),
    Mutant("I-MMSE without its ½, by quadrature", INFORMATION, "return 0.5 * torch.stack(mmse)", "return torch.stack(mmse)"),
    Mutant("I-MMSE over λ, not SNR", INFORMATION, "torch.stack(mmse) * v.exp() / scale", "torch.stack(mmse) / scale"),
    Mutant("I-MMSE of draws without its ½", INFORMATION, "monte_carlo(0.5 * span * trace", "monte_carlo(span * trace"),
    Mutant("information from data without its ½", INFORMATION, "return 0.5 * span * error", "return span * error"),
    Mutant("information from data with the sigmoid's scale forgotten", INFORMATION, "torch.sigmoid(log_snr + math.log(scale))", "torch.sigmoid(log_snr)"),
    Mutant("v's inverse with a sign", INFORMATION, "torch.log(-torch.expm1(-v)) - math.log(scale)", "torch.log(-torch.expm1(-v)) + math.log(scale)"),
    Mutant("what is left at the last SNR is forgotten", ESTIMATES, "data_information(core, x0, last, high, generator) + last_information(x0, last)", "data_information(core, x0, last, high, generator)"),
    # -- rates
    Mutant("entropy rate without the drift", MODEL, "drift * dim + half", "0 * drift * dim + half"),
    Mutant("entropy rate forgets D", MODEL, "drift * dim + half", "drift + half"),
    Mutant("entropy rate with g² for ½g²", MODEL, "0.5 * self.core.schedule.diffusion2(t).detach()\n        found", "self.core.schedule.diffusion2(t).detach()\n        found"),
    Mutant("entropy production without its ½", MODEL, "half, variance = 0.5 * self.core", "half, variance = self.core"),
    Mutant("KL to N(0, 1) for every convention", MODEL, "self.core.schedule.prior_std**2 if vp else float(self.core.schedule.sigma(t).detach()) ** 2", "1.0"),
    Mutant("KL to the prior without log r", AVERAGES, "math.log(2 * math.pi * variance)", "math.log(2 * math.pi)"),
    Mutant("KL of a Gaussian to the prior plus the entropy", AVERAGES, "ratio - 1 - ratio.log()", "ratio - 1 + ratio.log()"),
    Mutant("Fisher information of data over σ", ESTIMATES, "sigma2 = float(core.schedule.sigma(t).detach()) ** 2", "sigma2 = float(core.schedule.sigma(t).detach())"),
    Mutant("Fisher information of data forgets D", ESTIMATES, "(x0[0].numel() - error)", "(1 - error)"),
    Mutant("relative Fisher of data with the prior's sign", ESTIMATES, ".score + xt / variance)", ".score - xt / variance)"),
    # -- laws' divergence
    Mutant("score gap with the wrong precision for the shift", DIVERGENCE, "shift = other @ (mine.mean", "shift = ours @ (mine.mean"),
    Mutant("decay without its ½", DIVERGENCE, "return 0.5 * level.sigma**2 * score_gap", "return level.sigma**2 * score_gap"),
    Mutant("decay with σ for σ²", DIVERGENCE, "0.5 * level.sigma**2 * score_gap", "0.5 * level.sigma * score_gap"),
    Mutant("KL of two laws the wrong way round", DIVERGENCE, "kl_divergence(q, p)", "kl_divergence(p, q)"),
    Mutant("decay from t to s", DIVERGENCE, "schedule.level(torch.tensor([s, t], dtype=torch.float64))\n    scales", "schedule.level(torch.tensor([t, s], dtype=torch.float64))\n    scales"),
    Mutant("Girsanov without its ½", DIVERGENCE, "return 0.5 * level.log_snr.exp() * (guess", "return level.log_snr.exp() * (guess"),
    Mutant("Girsanov with 1/SNR", DIVERGENCE, "0.5 * level.log_snr.exp() * (guess", "0.5 * (-level.log_snr).exp() * (guess"),
    Mutant("Girsanov's bound without the prior", DIVERGENCE, "self.prior.value + self.path.value", "self.path.value"),
    # -- bounds
    Mutant("noise entropy without the ½ log 2π's ½", BOUNDS, "0.5 * (1.0 + math.log(2 * math.pi))", "(1.0 + math.log(2 * math.pi))"),
    Mutant("noise entropy forgets e", BOUNDS, "0.5 * (1.0 + math.log(2 * math.pi))", "0.5 * math.log(2 * math.pi)"),
    Mutant("lower bound with s and t exchanged", BOUNDS, "for v in (s, t)]", "for v in (t, s)]"),
    Mutant("the step back plus the rise", BOUNDS, "Estimate(forward - rise", "Estimate(forward + rise"),
    Mutant("the upper bound told where entropy falls", BOUNDS, "forward if bool(rise >= _SURE * error) else None", "forward"),
    Mutant("the upper bound told where it does not hold alone", BOUNDS, "bool(rise >= _SURE * error)", "bool(rise <= 0)"),
    Mutant("the upper bound told where draws happened to rise", BOUNDS, "rise >= _SURE * error", "rise >= 0"),
    # -- paths
    Mutant("work is log w", WORK, "tuple(-v.reshape(times, len(x0)) for v in each)", "tuple(v.reshape(times, len(x0)) for v in each)"),
    Mutant("work without the reconstruction", WORK, "return self.prior + self.diffusion + self.reconstruction", "return self.prior + self.diffusion"),
    Mutant("work without the prior", WORK, "return self.prior + self.diffusion + self.reconstruction", "return self.diffusion + self.reconstruction"),
    Mutant("p_θ's paths end without the decoder's noise", WORK, "self.decoder.sample(x, level, guess, generator)", "(x if guess is None else guess)"),
    Mutant("p_θ's paths read upside down", WORK, "torch.stack(states[::-1])", "torch.stack(states)"),
    Mutant("the jumps of p_θ's paths forget what was kept", WORK, "(eps[:-1] - keep * eps[1:]) / add", "eps[:-1] / add"),
    Mutant("the jumps with Δ for ½Δ", WORK, "(0.5 * delta).exp(), (-torch.expm1(delta)).sqrt()))\n    return", "delta.exp(), (-torch.expm1(delta)).sqrt()))\n    return"),
    Mutant("Σ with its sign", FLUCTUATIONS, "return _of_data(weights, ladder, world) - weights.prior - weights.steps.sum(0)", "return weights.prior + weights.steps.sum(0) - _of_data(weights, ladder, world)"),
    Mutant("Σ without the prior", FLUCTUATIONS, "- weights.prior - weights.steps.sum(0)", "- weights.steps.sum(0)"),
    Mutant("joint Σ without the data's law", FLUCTUATIONS, "world.log_prob(ladder.x0.to(world.device, world.dtype)).to(ladder.x0) - weights.decoder", "-weights.decoder"),
    Mutant("Crooks: the forward path both ways", FLUCTUATIONS, "-paths.weigh(again).total, -paths.weigh(model).total)", "-paths.weigh(again).total, -paths.weigh(again).total)"),
    Mutant("Crooks: forward for reverse", FLUCTUATIONS, "Crooks(-paths.weigh(again).total, -paths.weigh(model).total)", "Crooks(-paths.weigh(model).total, -paths.weigh(again).total)"),
    Mutant("path KL without the prior's", FLUCTUATIONS, "end_law(paths.chain, ladder.x0).kl(prior_law(paths.chain, ladder.x0)) + step_costs(paths, ladder).sum(0)", "step_costs(paths, ladder).sum(0)"),
    Mutant("steps' KL, prior and posterior swapped", FLUCTUATIONS, "found.encoder.kl(found.decoder)", "found.decoder.kl(found.encoder)"),
    # -- free energy
    Mutant("log of the sum, not of the mean", FREE, "log_mean_exp(log_w, 0)", "torch.logsumexp(log_w, 0)"),
    Mutant("the mean's logarithm with W's sign", FREE, "log_w = -work.to(torch.float64)", "log_w = work.to(torch.float64)"),
    Mutant("the mean of logarithms", FREE, "log_mean = log_mean_exp(log_w, 0)", "log_mean = log_w.mean(0)"),
    Mutant("the interval of one path, not of the mean", FREE, "error = spread / math.sqrt(count)", "error = spread"),
    Mutant("an interval of the error over K", FREE, "error = spread / math.sqrt(count)", "error = spread / count"),
    Mutant("a one-sided quantile", FREE, "student.ppf(0.5 * (1 + level), count - 1)", "student.ppf(0.5, count - 1)"),
    Mutant("the floor is a ceiling", FREE, "log_mean + math.log1p(-level)", "log_mean - math.log1p(-level)"),
)  # fmt: skip
