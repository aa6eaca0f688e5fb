"""Small bugs in how an energy is learned by itself: signs, what is held, constants, and where chains stand."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

CHAINS, CONTRAST, DENOISING = "ebm/learning/chains.py", "ebm/learning/contrast.py", "ebm/learning/denoising.py"
NOISE, RECOVERY, MODEL = "ebm/learning/noise.py", "ebm/learning/recovery.py", "ebm/model.py"

MUTANTS_CONTRASTIVE: tuple[Mutant, ...] = (
    Mutant("contrast: data and chains swapped", CONTRAST, "at_data.mean() - at_model.mean()", "at_model.mean() - at_data.mean()"),
    Mutant("contrast: without τ", CONTRAST, "return contrast / tau", "return contrast"),
    Mutant("contrast: γ on energies, not their squares", CONTRAST, "(at_data.square().mean() + at_model.square().mean())", "(at_data.mean() + at_model.mean())"),
    Mutant("contrast: γ on the data alone", CONTRAST, "(at_data.square().mean() + at_model.square().mean())", "at_data.square().mean()"),
    Mutant("contrast: γ on the difference of squares", CONTRAST, "(at_data.square().mean() + at_model.square().mean())", "(at_data.square().mean() - at_model.square().mean())"),
    Mutant("contrast: γ stays what it was", CONTRAST, "self.method.regulariser * (1 - progress)", "self.method.regulariser"),
    Mutant("contrast: γ rises with the run", CONTRAST, "self.method.regulariser * (1 - progress)", "self.method.regulariser * progress"),
    Mutant("contrast: chains run on E, not E/τ", CONTRAST, "NoiseLevel(*level) if level else None) / self.model.tau", "NoiseLevel(*level) if level else None)"),
    Mutant("contrast: chains climb the energy", CONTRAST, "return self.model.at(x, NoiseLevel(*level)", "return -self.model.at(x, NoiseLevel(*level)"),
    Mutant("contrast: the data are not noised", CONTRAST, "x = level.alpha * x + level.sigma * noise", "x = level.alpha * x + 0 * level.sigma * noise"),
    Mutant("persistent: chains are not put back", CONTRAST, "self.buffer[taken] = chains", "self.buffer[taken] = self.buffer[taken]"),
    Mutant("persistent: all but the share start anew", CONTRAST, "device=x.device) < self.method.restart", "device=x.device) > self.method.restart"),
    Mutant("short run: a step short", CHAINS, "enumerate(zip(normal.unbind(), uniform, strict=True))", "enumerate(zip(normal.unbind()[1:], uniform[1:], strict=True))"),
    Mutant("short run: the law is not asked before the last step", CHAINS, "ends = k == self.steps - 1 and", "ends = k >= self.steps - 2 and"),
    Mutant("denoising: the inverted energy", DENOISING, "(noise + sigma * score)", "(noise - sigma * score)"),
    Mutant("denoising: without σ", DENOISING, "(noise + sigma * score)", "(noise + score)"),
    Mutant("denoising: σ² for σ", DENOISING, "(noise + sigma * score)", "(noise + sigma**2 * score)"),
    Mutant("denoising: a mean over D", DENOISING, ".flatten(1).square().sum(1)", ".flatten(1).square().mean(1)"),
    Mutant("denoising: the score of E, not of E/τ", DENOISING, "model.at(z, at) / model.tau", "model.at(z, at)"),
    Mutant("noise contrast: ν dropped from the logit", NOISE, " - math.log(m / n)\n", "\n"),
    Mutant("noise contrast: ν dropped from the loss", NOISE, "m / n * F.softplus(logit[n:]).mean()", "F.softplus(logit[n:]).mean()"),
    Mutant("noise contrast: data taken for noise", NOISE, "F.softplus(-logit[:n]).mean() +", "F.softplus(logit[:n]).mean() +"),
    Mutant("noise contrast: the noise's density left out", NOISE, "logit = log_prob - law.log_prob(both, check=False)", "logit = log_prob - 0 * law.log_prob(both, check=False)"),
    Mutant("noise contrast: the constant's sign", NOISE, "else value - self.module.log_z[0]", "else value + self.module.log_z[0]"),
    Mutant("ratios: a level against itself", NOISE, "after = right_expand(k == last, x), (k + 1).clamp(max=last)", "after = right_expand(k == last, x), k.clamp(max=last)"),
    Mutant("ratios: the prior's variance for its deviation", NOISE, "log_std = torch.full_like(both, self.schedule.prior_std).log()", "log_std = 0.5 * torch.full_like(both, 2 * self.schedule.prior_std).log()"),
    Mutant("ratios: the last level against no prior", NOISE, "torch.where(index == last, log_prior, log_far)", "log_far"),
    Mutant("ratios: one constant for all levels", NOISE, "self.module.log_z[index]", "self.module.log_z[0]"),
    Mutant("recovery: the pull without its ½", RECOVERY, "+ 0.5 * pull", "+ pull"),
    Mutant("recovery: the pull pushes", RECOVERY, "+ 0.5 * pull", "- 0.5 * pull"),
    Mutant("recovery: the energy at x_t's level", RECOVERY, "        exact = schedule.level(s)\n", "        exact = schedule.level(t)\n"),
    Mutant("recovery: σ for σ/α in the pull", RECOVERY, "(0.5 * log_var - alpha_ts.log()).detach()", "(0.5 * log_var).detach()"),
    Mutant("recovery: chains start at x_t", RECOVERY, "return self.start + self.scale * u", "return self.centre + self.scale * u"),
    Mutant("recovery: data and chains at two levels", RECOVERY, "xs = process.marginal(x, s)", "xs = process.marginal(x, t)"),
    Mutant("an energy model forgets τ of a core", MODEL, "return self.tau * self.source.denoiser.energy(", "return self.source.denoiser.energy("),
)  # fmt: skip
