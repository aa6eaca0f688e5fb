"""Small bugs in what is learned beside a network: its variance, its schedule's ends and inside, and the best variance."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

SCHEDULE, FITTING, VARIANCE, TRAINER = "train/schedule.py", "train/fitting.py", "train/variance.py", "train/trainer.py"
HYBRID, OPTIMAL, BUILD, LEARNED = "vae/hybrid.py", "vae/optimal.py", "train/build.py", "core/schedule_learned.py"

MUTANTS_LEARNING: tuple[Mutant, ...] = (
    Mutant("hybrid: the mean is not held", HYBRID, "found.decoder.mean.detach()", "found.decoder.mean"),
    Mutant("hybrid: everything is held", HYBRID, "found.decoder.log_var)", "found.decoder.log_var.detach())"),
    Mutant("hybrid: one step for the sum of N", HYBRID, "return chain.steps * found", "return found"),
    Mutant("hybrid: the KL the wrong way round", HYBRID, "found.encoder.kl(held)", "held.kl(found.encoder)"),
    Mutant("hybrid: λ a tenth", HYBRID, "HYBRID = 1e-3", "HYBRID = 1e-4"),
    Mutant("hybrid: steps from 0", VARIANCE, "k = 1 + (share * self.grid.steps).long()", "k = 1 + (share * (self.grid.steps - 1)).long()"),
    Mutant("the trainer forgets the bound", TRAINER, "whole = loss if self.bound is None else loss + self.bound(", "whole = loss if self.bound is None else loss + 0 * self.bound("),
    Mutant("optimal variance: SNR for 1/SNR", OPTIMAL, "(-levels.log_snr[:, None]).exp()", "levels.log_snr[:, None].exp()"),
    Mutant("optimal variance: summed over numbers", OPTIMAL, "/ (dim * draws)", "/ draws"),
    Mutant("optimal variance: a level late", OPTIMAL, "core.schedule.level(grid.times)[1:]", "core.schedule.level(grid.times)[:-1]"),
    Mutant("optimal variance: the error of one datum", OPTIMAL, "each.std(1) / math.sqrt(batch)", "each.std(1)"),
    Mutant("inside by the mean, not the square", SCHEDULE, "2 * slopes.loss / (sampled.t.numel() * dim**2)", "torch.full_like(slopes.loss, 2 / (sampled.t.numel() * dim**2))"),
    Mutant("inside: λ' has no part", SCHEDULE, "[scale * slopes.by_log_snr, scale * slopes.by_rate]", "[scale * slopes.by_log_snr, 0 * slopes.by_rate]"),
    Mutant("inside: λ has no part", SCHEDULE, "[scale * slopes.by_log_snr, scale * slopes.by_rate]", "[0 * slopes.by_log_snr, scale * slopes.by_rate]"),
    Mutant("ends by the square", SCHEDULE, "slopes.by_log_snr / n, slopes.by_rate / n,", "slopes.loss * slopes.by_log_snr / n, slopes.loss * slopes.by_rate / n,"),
    Mutant("ends without what they cost", SCHEDULE, "torch.full_like(costs, 1 / dim)", "torch.zeros_like(costs)"),
    Mutant("ends: the decoder's sign", SCHEDULE, "(prior - decoder.log_prob(", "(prior + decoder.log_prob("),
    Mutant("ends: levels one short", SCHEDULE, "Levels(round(2 / data.scale) + 1)", "Levels(round(2 / data.scale))"),
    Mutant("slopes of the weighted loss, not the bound's", SCHEDULE, 'ratio = (log_weight("elbo", sampled, t) - log_weight(weighting, sampled, t, options)).exp()', "ratio = torch.ones_like(t)"),
    Mutant("the averaged core keeps the first schedule", TRAINER, "copy.deepcopy(self.learner.ema.module)", "type(self.core.schedule)()  # pyright: ignore"),
    Mutant("fitting by the mean", FITTING, 'learn_inside(sampled, Slopes.of(sampled, loss, 1 / batch_size, "elbo"), x0[0].numel())', 'learn_inside(sampled, Slopes.of(sampled, loss.sign(), 1 / batch_size, "elbo"), x0[0].numel())'),
    Mutant("fitting forgets the core's ends", FITTING, "    return high, low\n", "    return high + 1, low\n"),
    Mutant("the least moment without its root", FITTING, ".square().mean().sqrt())\n", ".square().mean())\n"),
    Mutant("spread: the variance over √n", FITTING, "float(loss.mean()), math.sqrt(variance / draws)", "float(loss.mean()), math.sqrt(variance) / draws"),
)  # fmt: skip
