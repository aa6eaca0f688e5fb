"""Small bugs in the VAE view: the ladder, the weight of a path, the last step's likelihoods, the ledger, its estimates."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

LADDER, DECODERS, TRAJECTORY = "core/ladder.py", "core/decoders.py", "core/trajectory.py"
BOUND, SAMPLED, WEIGHTS, LOGS = "vae/bound.py", "vae/sampled.py", "vae/weights.py", "core/weights.py"
MODEL, VERBS, DEQUANTISE, NOISING = "vae/model.py", "vae/verbs.py", "vae/dequantise.py", "core/denoising.py"

MUTANTS_BOUNDS: tuple[Mutant, ...] = (
    # -- the ladder
    Mutant("ladder: the noise is kept without its ½", LADDER, "(0.5 * delta).exp()", "delta.exp()"),
    Mutant("ladder: c for √c", LADDER, "(-torch.expm1(delta)).sqrt())", "(-torch.expm1(delta)))"),
    Mutant("ladder: the jump of a step late", LADDER, "noise[k - 1], out=eps[k - 1]", "noise[k], out=eps[k - 1]"),
    Mutant("ladder: σ² for σ in the states", LADDER, "return alpha * self.x0 + sigma * self.eps", "return alpha * self.x0 + sigma.square() * self.eps"),
    Mutant("rows: 1/SNR for its root", LADDER, "return (-0.5 * level.log_snr).exp()", "return (-level.log_snr).exp()"),
    Mutant("rows: the gain of a level early", LADDER, "_noise_to_signal(chain.levels)[1:]", "_noise_to_signal(chain.levels)[:-1]"),
    Mutant("rows: the prior's variance for the posterior's", LADDER, "log_var = chain.row(chain.table.log_posterior_var, k, x0)", "log_var = chain.row(chain.table.log_prior_var, k, x0)"),
    Mutant("rows: the error's sign", LADDER, "Gaussian(gain * error - gain * eps, own)", "Gaussian(-gain * error - gain * eps, own)"),
    Mutant("rows: the network is asked a level early", LADDER, "level, row = chain.levels[k], k - 1", "level, row = chain.levels[k - 1], k - 1"),
    Mutant("rows: the embedding of a level late", LADDER, "embed(chain.levels.log_snr[1:].to(like))", "embed(chain.levels.log_snr[:-1].to(like))"),
    Mutant("rows: the state's noise without σ", NOISING, "* x0 + right_expand(level.sigma, x0) * noise", "* x0 + noise"),
    # -- the weight of a path
    Mutant("path: log q/p for log p/q", TRAJECTORY, "return rows.decoder.log_prob(arrived) - rows.encoder.log_prob(arrived)", "return rows.encoder.log_prob(arrived) - rows.decoder.log_prob(arrived)"),
    Mutant("path: the jump by σ²", TRAJECTORY, "rows.encoder.mean + rows.encoder.std * jumps", "rows.encoder.mean + rows.encoder.var * jumps"),
    Mutant("path: the mean over its steps", TRAJECTORY, "return self.prior + self.steps.sum(0) + self.decoder", "return self.prior + self.steps.mean(0) + self.decoder"),
    Mutant("path: the encoder's end left out", TRAJECTORY, ".log_prob(arrived) - end_law(chain, x0).log_prob(arrived)", ".log_prob(arrived)"),
    Mutant("path: the prior's σ for σ²", TRAJECTORY, "log_var = 2 * torch.as_tensor(chain", "log_var = torch.as_tensor(chain"),
    Mutant("the prior meets the last state but one", TRAJECTORY, "chain.grid.times[-1])", "chain.grid.times[-2])"),
    Mutant("the last step decodes from t_1", TRAJECTORY, "level = chain.levels[0].to(x0)", "level = chain.levels[1].to(x0)"),
    # -- decoders
    Mutant("decoder: a cell twice as wide", DECODERS, "half, at = 0.5 * self.levels.width,", "half, at = self.levels.width,"),
    Mutant("decoder: the lowest cell ends", DECODERS, "torch.where(x0 <= self.levels.low + half, -math.inf, below)", "torch.where(x0 <= self.levels.low - half, -math.inf, below)"),
    Mutant("decoder: the highest cell ends", DECODERS, "torch.where(x0 >= self.levels.high - half, math.inf, above)", "torch.where(x0 >= self.levels.high + half, math.inf, above)"),
    Mutant("decoder: the tail that cancels", DECODERS, "flip = below + above > 0", "flip = below + above < 0"),
    Mutant("decoder: s is (σ/α)^½", DECODERS, "log_var = -level.log_snr if std", "log_var = -0.5 * level.log_snr if std"),
    Mutant("decoder: log s for log s²", DECODERS, "2 * math.log(std))", "math.log(std))"),
    Mutant("decoder: the state is not divided by α", DECODERS, "mean = xt / right_expand(level.alpha, xt) if guess is None", "mean = xt if guess is None"),
    Mutant("decoder: levels one too many", DECODERS, "return (self.high - self.low) / (self.count - 1)", "return (self.high - self.low) / self.count"),
    Mutant("decoder: a mean over numbers", DECODERS, "return _log_between(below, above).flatten(1).sum(1)", "return _log_between(below, above).flatten(1).mean(1)"),
    Mutant("categorical: without its ½", DECODERS, "return -0.5 * (scale[..., None]", "return -1.0 * (scale[..., None]"),
    Mutant("categorical: SNR for its root", DECODERS, "scale = right_expand((0.5 * level.log_snr).exp(), xt)", "scale = right_expand(level.log_snr.exp(), xt)"),
    Mutant("categorical: a mean over numbers", DECODERS, "[..., 0].flatten(1).sum(1)", "[..., 0].flatten(1).mean(1)"),
    Mutant("categorical: not normalised", DECODERS, "log_p = torch.log_softmax(self._logits(xt, level), -1)", "log_p = self._logits(xt, level)"),
    Mutant("draws on levels are floored", DECODERS, "/ self.levels.width).round().clamp(0,", "/ self.levels.width).floor().clamp(0,"),
    Mutant("draws of levels are the likeliest", DECODERS, "drawn = torch.multinomial(chances.flatten(0, -2), 1, generator=generator)", "drawn = chances.flatten(0, -2).argmax(-1, keepdim=True)"),
    # -- the ledger
    Mutant("ledger: the mean over steps", BOUND, "return -(self.prior + self.diffusion.sum(0) + self.reconstruction)", "return -(self.prior + self.diffusion.mean(0) + self.reconstruction)"),
    Mutant("ledger: the reconstruction's sign", BOUND, "        -reconstruction(", "        reconstruction("),
    Mutant("ledger: KL the wrong way round", BOUND, "costs.append(found.encoder.kl(found.decoder))", "costs.append(found.decoder.kl(found.encoder))"),
    Mutant("ledger: the prior's KL the wrong way round", BOUND, "        end_law(chain, x0).kl(prior_law(chain, x0)),", "        prior_law(chain, x0).kl(end_law(chain, x0)),"),
    Mutant("ledger: the noise of a level early", BOUND, "eps = noise[1:].flatten(0, 1)", "eps = noise[:-1].flatten(0, 1)"),
    Mutant("ledger: steps and data change places", BOUND, "k, member = 1 + index // batch, index % batch", "k, member = 1 + index % steps, index % batch"),
    Mutant("ledger: the last block is short of a row's noise", BOUND, "[start : start + rows]", "[: rows]"),
    # -- estimates of it
    Mutant("sampled: one step for the sum of N", SAMPLED, "weight = torch.full_like(u, steps)", "weight = torch.ones_like(u)"),
    Mutant("sampled: the last step is never drawn", SAMPLED, "k = 1 + (u * steps).long().clamp(max=steps - 1)", "k = 1 + (u * (steps - 1)).long()"),
    Mutant("sampled: importance without 1/p", SAMPLED, "k, weight = 1 + index, 1 / p[index]", "k, weight = 1 + index, torch.full_like(u, steps)"),
    Mutant("sampled: importance a step early", SAMPLED, "torch.searchsorted(p.cumsum(0), u, right=True).clamp(max=steps - 1)", "(torch.searchsorted(p.cumsum(0), u, right=True) - 1).clamp(min=0)"),
    Mutant("sampled: KL the wrong way round", SAMPLED, "parts.append(found.encoder.kl(found.decoder))", "parts.append(found.decoder.kl(found.encoder))"),
    Mutant("sampled: every term of the first datum", SAMPLED, "device=x0.device) % x0.shape[0]", "device=x0.device) // count"),
    Mutant("sampled: the integral's blocks start anew", SAMPLED, "(high + (low - high) * u[index])", "(high + (low - high) * u[: index.stop - index.start])"),
    Mutant("sampled: all the draws in the first stratum", SAMPLED, "(torch.arange(draws, dtype=torch.float64)[None, :, None] + u) / draws", "(0 * torch.arange(draws, dtype=torch.float64)[None, :, None] + u) / draws"),
    Mutant("importance by the mean square", SAMPLED, ".square().mean(1).sqrt()", ".square().mean(1)"),
    Mutant("sampled: the repeats' spread for their mean's", SAMPLED, "return self.repeats.std(0) / math.sqrt(self.repeats.shape[0])", "return self.repeats.std(0)"),
    Mutant("sampled: an error bar of draws that are not apart", SAMPLED, "return float(means.std()) / math.sqrt(len(means))", "return float(self.repeats.std()) / math.sqrt(self.repeats.numel())"),
    Mutant("integral: in time without its ½", SAMPLED, "torch.log(-0.5 * (1 - first) *", "torch.log(-1.0 * (1 - first) *"),
    Mutant("integral: in log-SNR without its ½", SAMPLED, "torch.log(0.5 * (high - low).detach())", "torch.log((high - low).detach())"),
    Mutant("integral: the span of time is 1", SAMPLED, "torch.log(-0.5 * (1 - first) *", "torch.log(-0.5 *"),
    # -- many paths
    Mutant("importance weights: K for log K", LOGS, "- math.log(log_weights.shape[dim])", "- log_weights.shape[dim]"),
    Mutant("importance weights: their sum, not their mean", WEIGHTS, "return log_mean_exp(self.log_weights, 0)", "return self.log_weights.logsumexp(0)"),
    Mutant("importance weights: groups' count for their size", WEIGHTS, "return log_mean_exp(grouped, 1)", "return grouped.logsumexp(1) - grouped.new_tensor(groups).log()"),
    Mutant("effective size: Σw for its square", LOGS, "(2 * torch.logsumexp(log_weights, dim) -", "(torch.logsumexp(log_weights, dim) -"),
    Mutant("effective size: Σw²'s root", LOGS, "- torch.logsumexp(2 * log_weights, dim))", "- 0.5 * torch.logsumexp(2 * log_weights, dim))"),
    Mutant("effective size of the other axis", WEIGHTS, "effective_size(self.log_weights, 0)", "effective_size(self.log_weights, 1)"),
    Mutant("log-weights: a sum for the mean", LOGS, "- math.log(log_weights.shape[dim])", "- 0 * math.log(log_weights.shape[dim])"),
    Mutant("log-weights: the mean over the other axis", LOGS, "- math.log(log_weights.shape[dim])", "- math.log(log_weights.shape[0])"),
    Mutant("many paths share their noise", MODEL, "        return ImportanceWeights(finite(torch.stack(log_w)", "        log_w = log_w[:1] * k\n        return ImportanceWeights(finite(torch.stack(log_w)"),
    # -- the verbs
    Mutant("decode leaves the last step out", VERBS, 'range(_place("start", start, grid), 0, -1)', 'range(_place("start", start, grid), 1, -1)'),
    Mutant("decode walks on the means", VERBS, "x = chain.kernel(x, k, prediction).sample(generator, check=False)", "x = chain.kernel(x, k, prediction).mean"),
    Mutant("dequantise: cells are twice as wide", DEQUANTISE, "levels.width * (u - 0.5)", "2 * levels.width * (u - 0.5)"),
    Mutant("dequantise: cells above their levels", DEQUANTISE, "levels.width * (u - 0.5)", "levels.width * u"),
)  # fmt: skip
