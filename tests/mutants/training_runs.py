"""Small bugs in what surrounds a loss: the trainer's steps, its rates and data, the metrics, and what a sampler draws."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

TRAINER, PACE, ORDER, CONFIG = "train/trainer.py", "train/pace.py", "train/order.py", "train/config.py"
BUILD, DATA, METRICS, WEIGHTING = "train/build.py", "train/data.py", "train/metrics.py", "train/weighting.py"
SAMPLING, CLOUD, REWARDS = "core/sampling.py", "worlds/cloud.py", "worlds/rewards.py"
KINDS = "core/schedule_kinds.py"

MUTANTS_RUNS: tuple[Mutant, ...] = (
    Mutant("fit returns the last parameters, not the average", TRAINER, "copy.deepcopy(self.ema.module)", "copy.deepcopy(self.network)"),
    Mutant("label dropout reversed", TRAINER, "device=self.device) < self.config.label_dropout", "device=self.device) > self.config.label_dropout"),
    Mutant("dropped labels become class 0", TRAINER, "torch.where(drop, self.num_classes, labels)", "torch.where(drop, 0, labels)"),
    Mutant("clip ten times too late", TRAINER, "self.trained, config.clip)", "self.trained, 10 * config.clip)"),
    Mutant("clip by value", TRAINER, "torch.nn.utils.clip_grad_norm_(self.trained, config.clip)", "torch.nn.utils.clip_grad_norm_(self.trained, 1e9); torch.nn.utils.clip_grad_value_(self.trained, config.clip)"),
    Mutant("weight decay forgotten", TRAINER, "weight_decay=config.weight_decay", "weight_decay=0.0"),
    Mutant("the trainer ignores its weighting", TRAINER, "weighting=config.weighting,", "weighting='simple',"),
    Mutant("times and noise from one seed", TRAINER, "manual_seed(config.seed + 1)", "manual_seed(config.seed)"),
    Mutant("the trainer's times end at 0.9", TRAINER, "span=self.span", "span=(0.0, 0.9)"),
    Mutant("the trainer's loss is not per number", TRAINER, "mean = whole.mean() / dim", "mean = whole.mean()"),
    Mutant("the average forgets twice as fast", TRAINER, "        self.ema.update(decay)\n", "        self.ema.update(0.5 * decay)\n"),
    Mutant("rate: 1 − cos", PACE, "0.5 * (1.0 + math.cos(math.pi * progress))", "0.5 * (1.0 - math.cos(math.pi * progress))"),
    Mutant("rate: cosine over a whole period", PACE, "math.cos(math.pi * progress)", "math.cos(2 * math.pi * progress)"),
    Mutant("rate: cosine without its ½", PACE, "0.5 * (1.0 + math.cos", "(1.0 + math.cos"),
    Mutant("rate: warm-up from zero", PACE, "(step + 1) / config.warmup", "step / config.warmup"),
    Mutant("rate: warm-up without an end", PACE, "min(1.0, (step + 1) / config.warmup)", "(step + 1) / config.warmup"),
    Mutant("every epoch in one order", ORDER, "_EPOCHS_PER_SEED + epoch)", "_EPOCHS_PER_SEED)"),
    Mutant("no shuffling", ORDER, "torch.randperm(self.n, generator=generator)", "torch.arange(self.n)"),
    Mutant("σ_d does not reach the weighting", CONFIG, "bias=self.sigmoid_bias, data_std=data_std)", "bias=self.sigmoid_bias)"),
    Mutant("γ does not reach min-SNR", CONFIG, "gamma=self.min_snr_gamma, ", ""),
    Mutant("EDM preconditioning for unit data", BUILD, "data_std=data.spread(\"preconditioning 'edm'\") if config.preconditioning == \"edm\" else 1.0", "data_std=1.0"),
    Mutant("EDM's log-normal at +1.2", WEIGHTING, "log_sigma_mean: float = -1.2", "log_sigma_mean: float = 1.2"),
    Mutant("data's deviation from zero", DATA, "(self.x - self.x.mean(0)).to", "self.x.to"),
    Mutant("MMD: the cross term without its 2", METRICS, "within - 2 * ab.mean()", "within - ab.mean()"),
    Mutant("MMD with its diagonal", METRICS, "within = (aa.sum() - n) / (n * (n - 1)) + (bb.sum() - m) / (m * (m - 1))", "within = aa.mean() + bb.mean()"),
    Mutant("MMD: 1/h² for 1/2h²", METRICS, "gamma = 0.5 /", "gamma = 1.0 /"),
    Mutant("directions of any length", METRICS, "return v / v.norm(dim=1, keepdim=True)", "return v"),
    Mutant("NLL with its sign", METRICS, "values = -world.log_prob", "values = world.log_prob"),
    Mutant("NLL's standard error over n", METRICS, "/ math.sqrt(len(values)))", "/ len(values))"),
    Mutant("one noise for all steps", SAMPLING, "self.table[:, -self.ahead :].normal_(generator=generator)", "self.table[:, -self.ahead :] = torch.randn(self.ahead, generator=generator, dtype=x.dtype, device=x.device)"),
    Mutant("one noise for the whole batch", SAMPLING, "noise = row[-self.ahead :].view_as(x)", "noise = row[-self.ahead :].view_as(x)[:1].expand_as(x)"),
    Mutant("sample drops its guidance", SAMPLING, "eta=eta, variance=variance, guidance=guidance)\n    check_dtype", "eta=eta, variance=variance)\n    check_dtype"),
    Mutant("sample drops its condition", SAMPLING, "return sampler(x, generator, condition=condition, on_row=on_row)", "return sampler(x, generator, on_row=on_row)"),
    Mutant("sample drops its η", SAMPLING, "Sampler(core, grid, method, eta=eta, variance", "Sampler(core, grid, method, variance"),
    Mutant("a noised data set's draws forget α", CLOUD, "self._scale(self.alpha, x) + self._scale(self.sigma, noise)", "x + self._scale(self.sigma, noise)"),
    Mutant("a reward's own ½", REWARDS, "curved = -0.5 * (flat", "curved = -1.0 * (flat"),
    Mutant("entropy's integral cut at 3", "worlds/mixture.py", "reach=9.0", "reach=3.0"),
    Mutant("betas: the right slope at a knot", KINDS, "(position.ceil() - 1).clamp", "position.floor().clamp"),
)  # fmt: skip
