"""Small theory bugs, each the kind that has shipped somewhere: a sign, a missing ½, σ for σ², s and t swapped.

``old`` must occur exactly once in ``file``; the mutant has ``new`` there instead.
"""

from __future__ import annotations

from tests.mutants.mutant import Mutant
from tests.mutants.score_langevin import MUTANTS_LANGEVIN
from tests.mutants.score_likelihood import MUTANTS_LIKELIHOOD

GAUSSIAN, PROCESS, SCHEDULE = "core/gaussian.py", "core/process.py", "core/schedule.py"
KINDS, LEARNED, PREDICTION = "core/schedule_kinds.py", "core/schedule_learned.py", "core/prediction.py"
DENOISER, CHAIN, TABLES, SAMPLING = "core/denoiser.py", "core/chain.py", "core/tables.py", "core/sampling.py"
NORMALS, MIXTURE, CLOUD, GAUSSIAN_WORLD = (
    "worlds/normals.py",
    "worlds/mixture.py",
    "worlds/cloud.py",
    "worlds/gaussian.py",
)
ORACLE, WEIGHTING, LOSS, TIMES = "worlds/oracle.py", "train/weighting.py", "train/loss.py", "train/times.py"
TRAINER = "train/trainer.py"

MUTANTS: tuple[Mutant, ...] = (
    # -- Gaussians
    Mutant("KL without its ½", GAUSSIAN, "return 0.5 * terms.expand(", "return 1.0 * terms.expand("),
    Mutant("KL with the variances swapped", GAUSSIAN, "terms = torch.expm1(d) - d", "terms = torch.expm1(-d) + d"),
    Mutant("KL divides by its own variance", GAUSSIAN, "(-0.5 * other.log_var).exp()", "(-0.5 * self.log_var).exp()"),
    Mutant("log-density without 2π's half of log σ²", GAUSSIAN, "(z2 + self.log_var + _LOG_2PI)", "(z2 + 2 * self.log_var + _LOG_2PI)"),
    Mutant("log-density averaged over the event", GAUSSIAN, "self.log_var + _LOG_2PI).flatten(1).sum(1)", "self.log_var + _LOG_2PI).flatten(1).mean(1)"),
    Mutant("σ² for σ in a draw", GAUSSIAN, "return self.mean + self.std * noise", "return self.mean + self.var * noise"),
    Mutant("product weighted by the wrong factor", GAUSSIAN, "weight = (self.log_var - log_sum).exp()", "weight = (other.log_var - log_sum).exp()"),
    # -- forward kernels
    Mutant("bridge: the mean's expm1 loses its ½", PROCESS, "torch.expm1(0.5 * (log_keep + delta))", "torch.expm1(log_keep + delta)"),
    Mutant("bridge: σ_t for σ_s in the variance", PROCESS, "c.log() + 2 * log_sigma_s)", "c.log() + 2 * schedule.log_sigma(t))"),
    Mutant("bridge: η for η²", PROCESS, "eta2.log() + c.log()", "0.5 * eta2.log() + c.log()"),
    Mutant("bridge: the kept noise is √ short", PROCESS, "schedule.log_sigma(t) + 0.5 * log_keep)", "schedule.log_sigma(t) + log_keep)"),
    Mutant("bridge: α_t for α_s", PROCESS, "on_x0 = -schedule.alpha(s)", "on_x0 = -schedule.alpha(t)"),
    Mutant("transition: σ_s for σ_t", PROCESS, "torch.log(-torch.expm1(delta)) + 2 * self.schedule.log_sigma(t)", "torch.log(-torch.expm1(delta)) + 2 * self.schedule.log_sigma(s)"),
    Mutant("transition: s and t swapped in α", PROCESS, "self.schedule.log_alpha(t) - self.schedule.log_alpha(s)", "self.schedule.log_alpha(s) - self.schedule.log_alpha(t)"),
    Mutant("transition: a naive 1 − ratio that cancels", PROCESS, "torch.log(-torch.expm1(delta)) + 2", "torch.log((1 - delta.exp().float()).double()) + 2"),
    Mutant("marginal: σ where log σ² is stored", PROCESS, "x0, 2 * self.schedule.log_sigma(t))", "x0, self.schedule.log_sigma(t))"),
    # -- schedules
    Mutant("VP: α² for α", SCHEDULE, "return 0.5 * F.logsigmoid(log_snr)", "return F.logsigmoid(log_snr)"),
    Mutant("VP: σ has α's sign", SCHEDULE, "return 0.5 * F.logsigmoid(-log_snr)", "return 0.5 * F.logsigmoid(log_snr)"),
    Mutant("drift without its ½", SCHEDULE, "return 0.5 * torch.sigmoid(-self._log_snr(t))", "return torch.sigmoid(-self._log_snr(t))"),
    Mutant("drift with α² for σ²", SCHEDULE, "0.5 * torch.sigmoid(-self._log_snr(t))", "0.5 * torch.sigmoid(self._log_snr(t))"),
    Mutant("g² with σ for σ²", SCHEDULE, "return -(2.0 * self.log_sigma(t)).exp()", "return -self.log_sigma(t).exp()"),
    Mutant("linear: the integral of β without its ½", KINDS, "(self.beta_min + 0.5 * (self.beta_max - self.beta_min) * t)", "(self.beta_min + (self.beta_max - self.beta_min) * t)"),
    Mutant("linear: the derivative forgets expm1's sign", KINDS, "/ torch.expm1(-self._integral(t))", "/ -torch.expm1(self._integral(t))"),
    Mutant("cosine: half the derivative", KINDS, "return -2 * math.pi / (math.pi * torch.minimum(u, w)).sin()", "return -math.pi / (math.pi * torch.minimum(u, w)).sin()"),
    Mutant("cosine: inverse by tan, not atan", KINDS, "(2 / math.pi) * (0.5 * log_snr).exp().atan()", "(2 / math.pi) * (0.5 * log_snr).exp().tan()"),
    Mutant("sigmoid: the constant's sign", KINDS, "ratio = (log_snr - self._constant).exp()", "ratio = (log_snr + self._constant).exp()"),
    Mutant("polynomial: the derivative keeps the power", KINDS, "* self.power * t ** (self.power - 1)", "* self.power * t**self.power"),
    Mutant("Karras: ρ for 2ρ in the derivative", KINDS, "return -2 * self.rho * (last - first) /", "return -self.rho * (last - first) /"),
    Mutant("DDPM: β for −log(1 − β)", KINDS, "F.pad(-torch.log1p(-betas).cumsum(0), (1, 0))", "F.pad(betas.cumsum(0), (1, 0))"),
    Mutant("DDPM: one step late", KINDS, "F.pad(-torch.log1p(-betas).cumsum(0), (1, 0))", "F.pad(-torch.log1p(-betas).cumsum(0), (2, 0))[:-1]"),
    Mutant("learned: σ′ without 1 − σ", LEARNED, "(weight * rate * units * (1 - units)).sum(-1)", "(weight * rate * units).sum(-1)"),
    # -- predictions
    Mutant("v with a plus", PREDICTION, '("x0", "v"): lambda a, s: (a / s, -_rho2(a, s) / s)', '("x0", "v"): lambda a, s: (a / s, _rho2(a, s) / s)'),
    Mutant("score from ε without σ", PREDICTION, '("eps", "score"): lambda a, s: (torch.zeros_like(s), -1 / s)', '("eps", "score"): lambda a, s: (torch.zeros_like(s), -1 / s**2)'),
    Mutant("Tweedie with σ for σ²", PREDICTION, '("score", "x0"): lambda a, s: (1 / a, s**2 / a)', '("score", "x0"): lambda a, s: (1 / a, s / a)'),
    Mutant("v to x_0 forgets VE's ρ²", PREDICTION, '("v", "x0"): lambda a, s: (a / _rho2(a, s), -s / _rho2(a, s))', '("v", "x0"): lambda a, s: (a, -s)'),
    Mutant("EDM: c_out without σ", DENOISER, "level.sigma * self.data_std / rho2.sqrt()", "self.data_std / rho2.sqrt()"),
    Mutant("EDM: c_skip with σ_d for σ_d²", DENOISER, "return level.alpha * self.data_std**2 / rho2,", "return level.alpha * self.data_std / rho2,"),
    Mutant("rescaled denoiser scales the wrong way", DENOISER, "right_expand(own.alpha / level.alpha, xt)", "right_expand(level.alpha / own.alpha, xt)"),
    # -- chains and samplers
    Mutant("chain: steps off by one in the table", CHAIN, "on_xt, on_x0 = self.table.on_xt[k - 1].to(xt), self.table.on_x0[k - 1].to(xt)", "on_xt, on_x0 = self.table.on_xt[k - 2].to(xt), self.table.on_x0[k - 1].to(xt)"),
    Mutant("chain: the level of s, not t", CHAIN, "self.core.denoiser(xt, self.levels[k].to(xt)", "self.core.denoiser(xt, self.levels[k - 1].to(xt)"),
    Mutant("optimal variance with b for b²", CHAIN, "spread = 2 * self.table.on_x0", "spread = self.table.on_x0"),
    Mutant("prior variance is the posterior's", CHAIN, "torch.where(torch.isneginf(posterior), posterior, prior)", "torch.where(torch.isneginf(posterior), prior, posterior)"),
    Mutant("ancestral noise: variance for deviation", TABLES, "noise = (0.5 * member.log_var).exp()", "noise = member.log_var.exp()"),
    Mutant("2M: the extrapolation loses its ½", TABLES, "half_inverse_r[1:] = 0.5 * h[1:] / h[:-1]", "half_inverse_r[1:] = h[1:] / h[:-1]"),
    Mutant("2M: r upside down", TABLES, "0.5 * h[1:] / h[:-1]", "0.5 * h[:-1] / h[1:]"),
    Mutant("flow by Euler with the SDE's drift", TABLES, "rate = -0.5 * (1 + eta**2) * schedule", "rate = -1.0 * schedule"),
    Mutant("Euler–Maruyama: variance for deviation", TABLES, "eta * (-dt * schedule.diffusion2(steps.t)).sqrt())", "eta * (-dt * schedule.diffusion2(steps.t)))"),
    Mutant("Heun corrects with Euler's slope twice", TABLES, "keep_x0=-(target.alpha * half_t).detach()", "keep_x0=-(target.alpha * half_s).detach()"),
    Mutant("folding drops the network's share of x", SAMPLING, "table.on_xt + table.on_x0 * skip,", "table.on_xt,"),
    # -- worlds
    Mutant("noised variance with α for α²", NORMALS, "alpha**2 * self.values + sigma**2)", "alpha * self.values + sigma**2)"),
    Mutant("posterior mean without α", NORMALS, "alpha * self.values / noised * y)", "self.values / noised * y)"),
    Mutant("posterior variance of the prior", NORMALS, "self.values * sigma**2 / noised)", "self.values * sigma / noised)"),
    Mutant("tilt: log Z without its ½", NORMALS, "at_mean - 0.5 * log_det + 0.5 * aligned", "at_mean - 0.5 * log_det + aligned"),
    Mutant("tilt by r instead of r/β", NORMALS, "slope = (b - mean @ A) / beta", "slope = b - mean @ A"),
    Mutant("responsibilities without the weights", MIXTURE, "return self.log_weights + self.components.log_prob(x[:, None])", "return self.components.log_prob(x[:, None])"),
    Mutant("posterior weights are the prior's", MIXTURE, "torch.log_softmax(self.log_weights + evidence, -1), components)", "self.log_weights + 0 * evidence, components)"),
    Mutant("mixture covariance without the between part", MIXTURE, "spread = self.components.variance + self._centred().square()", "spread = self.components.variance + 0 * self._centred().square()"),
    Mutant("cloud: σ for σ² in the logits", CLOUD, "(distance2 - least[:, None]) / sigma[:, None] / sigma[:, None]", "(distance2 - least[:, None]) / sigma[:, None]"),
    Mutant("cloud: the points are not scaled by α", CLOUD, "alpha[b, None, None] * points", "points"),
    Mutant("cloud: the score forgets α", CLOUD, "((alpha * (weights @ self.points.flatten(1)) - flat)", "((weights @ self.points.flatten(1) - flat)"),
    Mutant("cloud: log-density without its constant", CLOUD, "- self.dim * half_log", "- half_log"),
    Mutant("flow map with variances for deviations", GAUSSIAN_WORLD, "xt - start.mean) / start.values.sqrt()", "xt - start.mean) / start.values"),
    Mutant("oracle: the score of the clean world's level", ORACLE, "level.sigma).score(xt, check=False)", "level.sigma).score(xt, check=False) / level.sigma.mean()"),
    # -- training
    Mutant("ELBO weight without its ½", WEIGHTING, "    return log_rate - math.log(2.0)\n", "    return log_rate\n"),
    Mutant("min-SNR clamps from the wrong side", WEIGHTING, "log_snr.clamp(max=math.log(options.gamma)) - log_snr", "log_snr.clamp(min=math.log(options.gamma)) - log_snr"),
    Mutant("sigmoid weighting with the bias reversed", WEIGHTING, "F.logsigmoid(options.bias - log_snr)", "F.logsigmoid(log_snr - options.bias)"),
    Mutant("EDM's density in σ², not σ", WEIGHTING, "log_sigma = -0.5 * log_snr\n    z", "log_sigma = -log_snr\n    z"),
    Mutant("x_0-loss weighted by 1/SNR", LOSS, "return 2 * on_eps.abs().log()", "return -2 * on_eps.abs().log()"),
    Mutant("loss: v's scale is not squared", LOSS, "return 2 * conversion(denoiser.prediction", "return conversion(denoiser.prediction"),
    Mutant("loss: the target v with a plus", LOSS, "return alpha * noise - sigma * x0", "return alpha * noise + sigma * x0"),
    Mutant("times bunched to the left", TIMES, "/ n) % 1.0", "/ n) % 1.0 * 0.9"),
    Mutant("EMA with the decay of the square root", TRAINER, "ema_decay(self.config.ema, self.step)", "ema_decay(self.config.ema**0.5, self.step)"),
    *MUTANTS_LIKELIHOOD,
    *MUTANTS_LANGEVIN,
)  # fmt: skip
