"""Small theory bugs, each the kind that has shipped somewhere: a sign, a missing ½, σ for σ², s and t swapped.

``old`` must occur exactly once in ``file``; the mutant has ``new`` there instead.
"""

from __future__ import annotations

from tests.mutants.bounds import MUTANTS_BOUNDS
from tests.mutants.contrastive import MUTANTS_CONTRASTIVE
from tests.mutants.decisions import MUTANTS_DECISIONS
from tests.mutants.dxmi import MUTANTS_DXMI
from tests.mutants.energies import MUTANTS_ENERGIES
from tests.mutants.learning import MUTANTS_LEARNING
from tests.mutants.methods import MUTANTS_METHODS
from tests.mutants.mutant import Mutant
from tests.mutants.optima import MUTANTS_OPTIMA
from tests.mutants.paths import MUTANTS_PATHS
from tests.mutants.reaching import MUTANTS_REACHING
from tests.mutants.score_langevin import MUTANTS_LANGEVIN
from tests.mutants.score_likelihood import MUTANTS_LIKELIHOOD
from tests.mutants.score_readings import MUTANTS_READINGS
from tests.mutants.steering import MUTANTS_STEERING
from tests.mutants.thermodynamics import MUTANTS_THERMODYNAMICS
from tests.mutants.training_runs import MUTANTS_RUNS

GAUSSIAN, PROCESS, SCHEDULE = "core/gaussian.py", "core/process.py", "core/schedule.py"
KINDS, LEARNED, PREDICTION = "core/schedule_kinds.py", "core/schedule_learned.py", "core/prediction.py"
DENOISER, CHAIN, TABLES, SAMPLING = "core/denoiser.py", "core/chain.py", "core/tables.py", "core/sampling.py"
NORMALS, MIXTURE, CLOUD, GAUSSIAN_WORLD = (
    "worlds/normals.py",
    "worlds/mixture.py",
    "worlds/cloud.py",
    "worlds/gaussian.py",
)
ORACLE, WEIGHTING, LOSS, TIMES = "worlds/oracle.py", "train/weighting.py", "core/denoising.py", "core/times.py"
TRAINER, GRID, DIFFUSION = "train/trainer.py", "core/grid.py", "core/diffusion.py"
WORLD, REWARDS, ESTIMATE = "worlds/world.py", "worlds/rewards.py", "worlds/estimate.py"

MUTANTS: tuple[Mutant, ...] = (
    # -- Gaussians
    Mutant("KL without its ½", GAUSSIAN, "return 0.5 * terms.expand(", "return 1.0 * terms.expand("),
    Mutant("KL with the variances swapped", GAUSSIAN, "terms = torch.expm1(d) - d", "terms = torch.expm1(-d) + d"),
    Mutant("KL divides by its own variance", GAUSSIAN, "(-0.5 * other.log_var).exp()", "(-0.5 * self.log_var).exp()"),
    Mutant("log-density without 2π's half of log σ²", GAUSSIAN, "(z2 + self.log_var + _LOG_2PI)", "(z2 + 2 * self.log_var + _LOG_2PI)"),
    Mutant("log-density averaged over the event", GAUSSIAN, "self.log_var + _LOG_2PI).flatten(1).sum(1)", "self.log_var + _LOG_2PI).flatten(1).mean(1)"),
    Mutant("σ² for σ in a draw", GAUSSIAN, "return self.mean + self.std * noise", "return self.mean + self.var * noise"),
    Mutant("product weighted by the wrong factor", GAUSSIAN, "weight = (self.log_var - log_sum).exp()", "weight = (other.log_var - log_sum).exp()"),
    Mutant("entropy without the ½ of z²", GAUSSIAN, "(self.log_var + 1.0 + _LOG_2PI)", "(self.log_var + _LOG_2PI)"),
    Mutant("product's constant with one variance for the sum", GAUSSIAN, "Gaussian(other.mean, log_sum.expand", "Gaussian(other.mean, other.log_var.expand"),
    Mutant("KL without −log of the variances' ratio", GAUSSIAN, "terms = torch.expm1(d) - d +", "terms = torch.expm1(d) +"),
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
    Mutant("bridge: η² on the signal alone", PROCESS, "torch.log(rest + eta2 * delta.exp())", "torch.log(rest + delta.exp())"),
    Mutant("bridge: λ in float32", PROCESS, "log_s, log_t = schedule.log_snr(s), schedule.log_snr(t)\n    delta", "log_s, log_t = schedule.log_snr(s).float().double(), schedule.log_snr(t).float().double()\n    delta"),
    # -- schedules
    Mutant("VP: α² for α", SCHEDULE, "return 0.5 * F.logsigmoid(log_snr)", "return F.logsigmoid(log_snr)"),
    Mutant("VP: σ has α's sign", SCHEDULE, "return 0.5 * F.logsigmoid(-log_snr)", "return 0.5 * F.logsigmoid(log_snr)"),
    Mutant("drift without its ½", SCHEDULE, "_known(\"drift\", t, -0.5 * self._rate(t))", "_known(\"drift\", t, -self._rate(t))"),
    Mutant("drift with α² for σ²", SCHEDULE, "return -torch.sigmoid(-self._log_snr(t)) *", "return -torch.sigmoid(self._log_snr(t)) *"),
    Mutant("VE: g² with σ for σ²", SCHEDULE, "rate * (1 + torch.exp(-self._log_snr(t))))", "rate * (1 + torch.exp(-0.5 * self._log_snr(t))))"),
    Mutant("linear: twice the rate", KINDS, "return self.beta_min + (self.beta_max - self.beta_min) * t\n", "return self.beta_min + 2 * (self.beta_max - self.beta_min) * t\n"),
    Mutant("cosine: the rate by tan πu", KINDS, "        tan = (0.5 * math.pi * torch.where(early, u, w)).tan()\n", "        tan = (math.pi * torch.where(early, u, w)).tan()\n"),
    Mutant("DDPM: the rate of one step, not of time", KINDS, "        return self._integral(t)[1]\n", "        return self._integral(t)[1] / self.steps\n"),
    Mutant("linear: the integral of β without its ½", KINDS, "(self.beta_min + 0.5 * (self.beta_max - self.beta_min) * t)", "(self.beta_min + (self.beta_max - self.beta_min) * t)"),
    Mutant("linear: the derivative forgets expm1's sign", KINDS, "/ torch.expm1(-self._integral(t))", "/ -torch.expm1(self._integral(t))"),
    Mutant("cosine: half the derivative", KINDS, "return -2 * math.pi / (math.pi * torch.minimum(u, w)).sin()", "return -math.pi / (math.pi * torch.minimum(u, w)).sin()"),
    Mutant("cosine: inverse by tan, not atan", KINDS, "(2 / math.pi) * (0.5 * log_snr).exp().atan()", "(2 / math.pi) * (0.5 * log_snr).exp().tan()"),
    Mutant("sigmoid: the constant's sign", KINDS, "ratio = (log_snr - self._constant).exp()", "ratio = (log_snr + self._constant).exp()"),
    Mutant("polynomial: the derivative keeps the power", KINDS, "* self.power * t ** (self.power - 1)", "* self.power * t**self.power"),
    Mutant("Karras: ρ for 2ρ in the derivative", KINDS, "return -2 * self.rho * (last - first) /", "return -self.rho * (last - first) /"),
    Mutant("DDPM: β for −log(1 − β)", KINDS, "F.pad(-torch.log1p(-betas).cumsum(0), (1, 0))", "F.pad(betas.cumsum(0), (1, 0))"),
    Mutant("DDPM: one step late", KINDS, "F.pad(-torch.log1p(-betas).cumsum(0), (1, 0))", "F.pad(-torch.log1p(-betas.roll(1)).cumsum(0), (1, 0))"),
    Mutant("learned: σ′ without 1 − σ", LEARNED, "(weight * rate * units * (1 - units)).sum(-1)", "(weight * rate * units).sum(-1)"),
    Mutant("VE: the prior's variance for its deviation", SCHEDULE, "float(self.sigma(1.0).detach())", "float(self.sigma(1.0).detach()) ** 2"),
    Mutant("the prior forgets its deviation", DIFFUSION, "return self.schedule.prior_std * noise", "return noise"),
    Mutant("sigmoid: cosh upside down", KINDS, "math.log(math.cosh(0.5 * self.start / self.tau) / math.cosh(0.5 * self.end / self.tau))", "math.log(math.cosh(0.5 * self.end / self.tau) / math.cosh(0.5 * self.start / self.tau))"),
    Mutant("sigmoid: τ multiplies", KINDS, "return (self.end - self.start) / self.tau", "return (self.end - self.start) * self.tau"),
    Mutant("Karras: ρ/2", KINDS, "return self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)", "return self.sigma_min ** (2 / self.rho), self.sigma_max ** (2 / self.rho)"),
    Mutant("DDPM: betas end at 0.2", KINDS, "torch.linspace(1e-4, 0.02, 1000", "torch.linspace(1e-4, 0.2, 1000"),
    Mutant("DDPM: the derivative by T − 1", KINDS, "return inside, slope * self.steps", "return inside, slope * (self.steps - 1)"),
    Mutant("learned: the range for its half", LEARNED, "return self.log_span.to(t.device).exp()", "return 0.5 * self.log_span.to(t.device).exp()"),
    Mutant("Karras' grid even in σ", GRID, "(-log_snr / (2 * rho)).exp().tolist()", "(-log_snr / 2).exp().tolist()"),
    Mutant("quadratic grid even in t", GRID, '_spaced(start**0.5, 1.0, check_count("steps", steps)).square()', '_spaced(start, 1.0, check_count("steps", steps))'),
    # -- predictions
    Mutant("v with a plus", PREDICTION, '("x0", "v"): lambda a, s: (a / s, -_rho2(a, s) / s)', '("x0", "v"): lambda a, s: (a / s, _rho2(a, s) / s)'),
    Mutant("score from ε without σ", PREDICTION, '("eps", "score"): lambda a, s: (torch.zeros_like(s), -1 / s)', '("eps", "score"): lambda a, s: (torch.zeros_like(s), -1 / s**2)'),
    Mutant("Tweedie with σ for σ²", PREDICTION, '("score", "x0"): lambda a, s: (1 / a, s**2 / a)', '("score", "x0"): lambda a, s: (1 / a, s / a)'),
    Mutant("v to x_0 forgets VE's ρ²", PREDICTION, '("v", "x0"): lambda a, s: (a / _rho2(a, s), -s / _rho2(a, s))', '("v", "x0"): lambda a, s: (a, -s)'),
    Mutant("EDM: c_out without σ", DENOISER, "level.sigma * self.data_std / rho2.sqrt()", "self.data_std / rho2.sqrt()"),
    Mutant("EDM: c_skip with σ_d for σ_d²", DENOISER, "return level.alpha * self.data_std**2 / rho2,", "return level.alpha * self.data_std / rho2,"),
    Mutant("rescaled denoiser scales the wrong way", DENOISER, "right_expand(own.alpha / level.alpha, xt)", "right_expand(level.alpha / own.alpha, xt)"),
    Mutant("score to v forgets VE's ρ²", PREDICTION, "(-s / a, -s * _rho2(a, s) / a)", "(-s / a, -s / a)"),
    Mutant("v to score forgets VE's ρ²", PREDICTION, "(-1 / _rho2(a, s), -a / (s * _rho2(a, s)))", "(-torch.ones_like(s), -a / s)"),
    Mutant("guidance the wrong way round", DENOISER, "torch.lerp(without, with_condition, guidance)", "torch.lerp(with_condition, without, guidance)"),
    Mutant("guidance by 1 + g", DENOISER, "torch.lerp(without, with_condition, guidance)", "torch.lerp(without, with_condition, 1 + guidance)"),
    Mutant("the null class is class 0", DENOISER, "(xt.shape[0],), self.num_classes,", "(xt.shape[0],), 0,"),
    Mutant("learned fraction the wrong way round", DENOISER, "return mean, 0.5 * (raw + 1)", "return mean, 0.5 * (1 - raw)"),
    Mutant("learned fraction of the null class", DENOISER, "fraction.chunk(2)[0]", "fraction.chunk(2)[1]"),
    Mutant("learned variance in the mean's channels", DENOISER, "mean, raw = output.chunk(2, dim=1)", "raw, mean = output.chunk(2, dim=1)"),
    Mutant("EDM: c_in without σ_d", DENOISER, "return self._variance(level).rsqrt()", "return (level.alpha**2 + level.sigma**2).rsqrt()"),
    # -- chains and samplers
    Mutant("chain: steps off by one in the table", CHAIN, "self.row(self.table.on_xt, k, xt)", "self.row(self.table.on_xt, k - 1, xt)"),
    Mutant("chain: the level of s, not t", CHAIN, "self.core.denoiser(xt, self.levels[k].to(xt)", "self.core.denoiser(xt, self.levels[k - 1].to(xt)"),
    Mutant("optimal variance with b for b²", CHAIN, "2 * self.row(self.table.on_x0.log(), k, xt)", "self.row(self.table.on_x0.log(), k, xt)"),
    Mutant("prior variance is the posterior's", CHAIN, "torch.where(torch.isneginf(posterior), posterior, prior)", "torch.where(torch.isneginf(posterior), prior, posterior)"),
    Mutant("ancestral noise: variance for deviation", TABLES, "noise = (0.5 * member.log_var).exp()", "noise = member.log_var.exp()"),
    Mutant("2M: the extrapolation loses its ½", TABLES, "half_inverse_r[1:] = 0.5 * torch", "half_inverse_r[1:] = torch"),
    Mutant("2M: r upside down", TABLES, "torch.where(torch.isfinite(h[1:]), h[1:], 0.0) / h[:-1]", "h[:-1] / h[1:]"),
    Mutant("flow by Euler with the SDE's drift", TABLES, "rate = -0.5 * (1 + eta**2) * schedule", "rate = -1.0 * schedule"),
    Mutant("Euler–Maruyama: variance for deviation", TABLES, "eta * (-dt * schedule.diffusion2(steps.t)).sqrt())", "eta * (-dt * schedule.diffusion2(steps.t)))"),
    Mutant("Heun corrects with Euler's slope twice", TABLES, "keep_x0=-(target.alpha * half_t)", "keep_x0=-(target.alpha * half_s)"),
    Mutant("folding drops the network's share of x", SAMPLING, "table.on_xt + table.on_x0 * skip,", "table.on_xt,"),
    Mutant("folding in the state's dtype", SAMPLING, "level = NoiseLevel(table.t, table.log_snr, table.alpha, table.sigma)\n        skip, out = network.x0_coefficients(level)", "level = NoiseLevel(table.t, table.log_snr, table.alpha, table.sigma).to(like)\n        skip, out = network.x0_coefficients(level)"),
    Mutant("learned variance between the rules, reversed", CHAIN, "prior.lerp(lower, 1 - fraction)", "prior.lerp(lower, fraction)"),
    Mutant("optimal variance: the table of the step before", CHAIN, "return self.row(self.x0_variance, k, xt)", "return self.row(self.x0_variance, k - 1, xt)"),
    Mutant("optimal variance at the level of s", CHAIN, "self._x0_variance(xt, k, level)", "self._x0_variance(xt, k, self.levels[k - 1].to(xt))"),
    Mutant("Euler with α of s", TABLES, "on_x0 = -dt * rate * schedule.alpha(steps.t)", "on_x0 = -dt * rate * schedule.alpha(steps.s)"),
    Mutant("Euler with the drift of s", TABLES, "on_xt = 1 + dt * (schedule.drift(steps.t) + rate)", "on_xt = 1 + dt * (schedule.drift(steps.s) + rate)"),
    Mutant("Euler–Maruyama with the noise of s", TABLES, "eta * (-dt * schedule.diffusion2(steps.t)).sqrt()", "eta * (-dt * schedule.diffusion2(steps.s)).sqrt()"),
    Mutant("SDE 2M with half of η", TABLES, "_family(steps, 1.0, multistep=True)", "_family(steps, 0.5, multistep=True)"),
    # -- worlds
    Mutant("noised variance with α for α²", NORMALS, "alpha**2 * self.values + sigma**2)", "alpha * self.values + sigma**2)"),
    Mutant("posterior mean without α", NORMALS, "alpha * self.values / noised * y)", "self.values / noised * y)"),
    Mutant("mixture: the mean by the evidence alone", MIXTURE, "torch.softmax(self.log_weights + evidence, -1), means", "torch.softmax(evidence, -1), means"),
    Mutant("posterior variance of the prior", NORMALS, "self.values * sigma**2 / noised)", "self.values * sigma / noised)"),
    Mutant("tilt: log Z without its ½", NORMALS, "at_mean - 0.5 * log_det + 0.5 * aligned", "at_mean - 0.5 * log_det + aligned"),
    Mutant("tilt by r instead of r/β", NORMALS, "slope = (b - mean @ A) / beta", "slope = b - mean @ A"),
    Mutant("responsibilities without the weights", MIXTURE, "return self.log_weights + self.components.log_prob(x[:, None])", "return self.components.log_prob(x[:, None])"),
    Mutant("posterior weights are the prior's", MIXTURE, "torch.log_softmax(self.log_weights + evidence, -1), components)", "self.log_weights + 0 * evidence, components)"),
    Mutant("mixture covariance without the between part", MIXTURE, "spread = self.components.variance + self._centred().square()", "spread = self.components.variance + 0 * self._centred().square()"),
    Mutant("cloud: σ for σ² in the logits", CLOUD, "(distance2 - least[:, None]) / sigma[:, None] / sigma[:, None]", "(distance2 - least[:, None]) / sigma[:, None]"),
    Mutant("cloud: the points are not scaled by α", CLOUD, "less = -alpha[:, None, None]", "less = -torch.ones_like(alpha)[:, None, None]"),
    Mutant("cloud: the score forgets α", CLOUD, "((alpha * torch.cat(means) - flat)", "((torch.cat(means) - flat)"),
    Mutant("cloud: log-density without its constant", CLOUD, "- self.dim * half_log", "- half_log"),
    Mutant("flow map with variances for deviations", GAUSSIAN_WORLD, "xt - start.mean) / start.values.sqrt()", "xt - start.mean) / start.values"),
    Mutant("oracle: the score of the clean world's level", ORACLE, "level.sigma).score(xt, check=False)", "level.sigma).score(xt, check=False) / level.sigma.mean()"),
    Mutant("tilt: + ½ log|M|", NORMALS, "log_z = at_mean - 0.5 * log_det", "log_z = at_mean + 0.5 * log_det"),
    Mutant("tilt: A is not over β", NORMALS, "root.mT @ (A / beta) @ root", "root.mT @ A @ root"),
    Mutant("tilt: the constant is not over β", WORLD, "return world, log_z + constant / beta", "return world, log_z + constant"),
    Mutant("log-density's constant without its mean", REWARDS, "-0.5 * (normals.mean @ b + log_det)", "-0.5 * log_det"),
    Mutant("draws turn the wrong way", NORMALS, "return self.mean + _rotate(self.basis, self.values.sqrt() * noise)", "return self.mean + _align(self.basis, self.values.sqrt() * noise)"),
    Mutant("draws of a component with the first's covariance", NORMALS, "values = self.values.expand(n, components, self.dim)[rows, index]", "values = self.values.expand(n, components, self.dim)[rows, 0 * index]"),
    Mutant("draws of components alike", MIXTURE, "index = draw_index(weights, n, generator)", "index = draw_index(0 * weights + 1, n, generator)"),
    Mutant("null class: components alike", MIXTURE, "torch.where(column == k, self.log_weights, chosen)", "torch.where(column == k, 0 * self.log_weights, chosen)"),
    Mutant("oracle: guidance the wrong way round", ORACLE, "torch.lerp(free[kind], known[kind], guidance)", "torch.lerp(known[kind], free[kind], guidance)"),
    Mutant("cloud noised again: σ not scaled by α", CLOUD, "torch.hypot(a * self.sigma, s)", "torch.hypot(self.sigma, s)"),
    Mutant("cloud: covariance without the noise", CLOUD, "return alpha2 * spread + sigma2 * eye", "return alpha2 * spread"),
    Mutant("cloud: variance with α for α²", CLOUD, "self._scale(self.alpha.square(), self._shape(spread))", "self._scale(self.alpha, self._shape(spread))"),
    Mutant("cloud: posterior covariance with weights squared", CLOUD, "rows.append((weights[b, :, None] * centred).mT @ centred)", "rows.append((weights[b, :, None].square() * centred).mT @ centred)"),
    Mutant("cloud: tilt by +½xᵀAx", CLOUD, "(flat @ b - 0.5 * (flat @ A * flat).sum(1))", "(flat @ b + 0.5 * (flat @ A * flat).sum(1))"),
    Mutant("cloud: distances by the expanded square", CLOUD, "torch.addcmul(flat[b, None], points, less[b]).square_().sum(2)", "(flat[b].square().sum(1)[:, None] - 2 * alpha[b, None] * (flat[b] @ points.mT) + alpha[b, None].square() * points.square().sum(1))"),
    Mutant("Gaussian's entropy without its D/2", GAUSSIAN_WORLD, "(log_values + 1.0 + math.log(2 * math.pi))", "(log_values + math.log(2 * math.pi))"),
    Mutant("standard error over n, not √n", ESTIMATE, "wide.std() / math.sqrt(wide.numel())", "wide.std() / wide.numel()"),
    # -- training
    Mutant("ELBO weight without its ½", WEIGHTING, "    return log_rate - math.log(2.0)\n", "    return log_rate\n"),
    Mutant("min-SNR clamps from the wrong side", WEIGHTING, "log_snr.clamp(max=math.log(options.gamma)) - log_snr", "log_snr.clamp(min=math.log(options.gamma)) - log_snr"),
    Mutant("sigmoid weighting with the bias reversed", WEIGHTING, "F.logsigmoid(options.bias - log_snr)", "F.logsigmoid(log_snr - options.bias)"),
    Mutant("EDM's density in σ², not σ", WEIGHTING, "log_sigma = -0.5 * log_snr\n    z", "log_sigma = -log_snr\n    z"),
    Mutant("x_0-loss weighted by 1/SNR", LOSS, "        return on_x0\n", "        return 1 / on_x0\n"),
    Mutant(
        "loss: v's scale is that of x_0", LOSS, 'return conversion(denoiser.prediction, "eps", level.alpha, level.sigma)[1]',
        'return conversion("x0", "eps", level.alpha, level.sigma)[1]',
    ),
    Mutant("loss: the target v with a plus", LOSS, "return alpha * noise - sigma * x0", "return alpha * noise + sigma * x0"),
    Mutant("loss: the target ε negated", LOSS, "            return noise\n", "            return -noise\n"),
    Mutant("loss: the target score negated", LOSS, "return -noise / sigma", "return noise / sigma"),
    Mutant("loss: the target x_0 scaled by α", LOSS, "            return x0\n", "            return alpha * x0\n"),
    Mutant("loss: EDM's target without 1/σ_d", LOSS, "return (sigma / std * x0 - alpha * std * noise) / rho", "return (sigma * x0 - alpha * std * noise) / rho"),
    Mutant("loss: EDM's scale without c_out", LOSS, "return on_x0 * denoiser.x0_coefficients(level)[1]", "return on_x0"),
    Mutant("EDM weighting: σ_d for σ_d²", WEIGHTING, "log_data = 2 * math.log(options.data_std)", "log_data = math.log(options.data_std)"),
    Mutant("times drawn apart, not stratified", TIMES, "torch.arange(n, dtype=torch.float64, device=device) / n)", "torch.rand(n, generator=generator, dtype=torch.float64, device=device))"),
    Mutant("times on a fixed lattice", TIMES, "t = (start + torch.arange", "t = (0 * start + torch.arange"),
    Mutant("times keep a tenth from an infinite end", TIMES, "MARGIN = 1e-5", "MARGIN = 1e-1"),
    Mutant("times bunched to the left", TIMES, "/ n) % 1.0", "/ n) % 1.0 * 0.9"),
    Mutant("EMA with the decay of the square root", TRAINER, "ema_decay(config.ema, self.step)", "ema_decay(config.ema**0.5, self.step)"),
    *MUTANTS_LIKELIHOOD, *MUTANTS_READINGS,
    *MUTANTS_LANGEVIN,
    *MUTANTS_RUNS,
    *MUTANTS_ENERGIES,
    *MUTANTS_LEARNING,
    *MUTANTS_BOUNDS,
    *MUTANTS_THERMODYNAMICS,
    *MUTANTS_DECISIONS,
    *MUTANTS_OPTIMA,
    *MUTANTS_REACHING,
    *MUTANTS_STEERING,
    *MUTANTS_METHODS,
    *MUTANTS_CONTRASTIVE,
    *MUTANTS_DXMI,
    *MUTANTS_PATHS,
)  # fmt: skip
