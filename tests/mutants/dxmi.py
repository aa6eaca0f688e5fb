"""Mutants of DxMI: its auxiliary law, its losses, its policies and its value."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

LAW, LOSSES, POLICY, VALUE = (f"ebm/dxmi/{name}.py" for name in ("law", "objectives", "policy", "value"))
CHAIN = "core/chain.py"

MUTANTS_DXMI: tuple[Mutant, ...] = (
    # -- the auxiliary law
    Mutant("DxMI levels: S for S²", LAW, "(self.start[1].square() + share)", "(self.start[1] + share)"),
    Mutant("DxMI levels: α for α² under the velocities", LAW, "/ kept[1:].square()", "/ kept[1:]"),
    Mutant("DxMI levels: the data's own α left out", LAW, "alpha, sigma = self.start[0] * kept, kept", "alpha, sigma = kept, kept"),
    Mutant("DxMI levels: data without noise at t_0", LAW, "(self.start[1].square() + share)", "share"),
    Mutant("DxMI cost: velocity counted once, not D times", LAW, "+ square.shape[1] * (log_var", "+ 1 * (log_var"),
    Mutant("DxMI cost: a mean for a sum", LAW, "return 0.5 * (square.sum(1)", "return 0.5 * (square.mean(1)"),
    Mutant("DxMI cost without its ½", LAW, "return 0.5 * (square", "return 1.0 * (square"),
    Mutant("DxMI cost: v for 1/v", LAW, "square.sum(1) * (-log_var).exp()", "square.sum(1) * log_var.exp()"),
    Mutant("DxMI cost without 2π", LAW, "(log_var + math.log(2 * math.pi))", "log_var"),
    Mutant("DxMI cost: a velocity late", LAW, "log_var = send(self.log_var[k - 1], later)", "log_var = send(self.log_var[k % len(self.log_var)], later)"),
    Mutant("DxMI cost forgets α", LAW, "(later - right_expand(send(self.keep[k - 1], later), later) * earlier)", "(later - earlier)"),
    Mutant("DxMI velocities averaged in their logs", LAW, "torch.lerp(self.log_var.exp(), moved.to(self.log_var), rate).log()", "torch.lerp(self.log_var, moved.to(self.log_var).log(), rate)"),
    Mutant("DxMI velocities: a sum over D", LAW, ".flatten(1).square().mean(1)", ".flatten(1).square().sum(1) / states.shape[1]"),
    Mutant("DxMI velocities forget α", LAW, "(states[1:] - wide * states[:-1])", "(states[1:] - states[:-1])"),
    Mutant("DxMI velocities: the share the wrong way round", LAW, "moved.to(self.log_var), rate)", "moved.to(self.log_var), 1 - rate)"),
    # -- the losses
    Mutant("DxMI contrast: the energy upside down", LOSSES, "return data.mean() - mean(drawn) + gamma", "return mean(drawn) - data.mean() + gamma"),
    Mutant("DxMI contrast: γ on E, not E²", LOSSES, "gamma * (data.square().mean() + mean(drawn.square()))", "gamma * (data.mean() + mean(drawn))"),
    Mutant("DxMI contrast: γ on the data alone", LOSSES, "(data.square().mean() + mean(drawn.square()))", "data.square().mean()"),
    Mutant("DxMI contrast: weights left out", LOSSES, "(weights * value).sum()", "value.mean()"),
    Mutant("DxMI cost to go: V_k for V_{k−1}", LOSSES, "paid = value(earlier, k - 1)", "paid = value(earlier, k)"),
    Mutant("DxMI cost to go: of the state it left", LOSSES, "paid = value(earlier, k - 1)", "paid = value(later, k - 1)"),
    Mutant("DxMI cost to go: the cost's sign", LOSSES, "paid = paid + share * choices.cost", "paid = paid - share * choices.cost"),
    Mutant("DxMI cost to go: entropy is paid for", LOSSES, "paid = paid - share * choices.entropy", "paid = paid + share * choices.entropy"),
    Mutant("DxMI cost to go without entropy", LOSSES, "paid = paid - share * choices.entropy * step.entropy()", "pass"),
    Mutant("DxMI cost to go: entropy of one number", LOSSES, "choices.entropy * step.entropy()", "choices.entropy * step.entropy() / earlier[0].numel()"),
    Mutant("DxMI target: the cost overwritten by the next value", LOSSES, "if choices.cost_in_value or not target:", "if not target:"),
    Mutant("DxMI target: entropy left out", LOSSES, "if choices.entropy_in_value or not target:", "if not target:"),
    Mutant("DxMI cost and entropy: means over D", LOSSES, "share = 1 / later[0].numel() if choices.mean else 1.0", "share = 1 / later[0].numel()"),
    Mutant("DxMI differences: not squared", LOSSES, "(value(x, k) - target).square().mean()", "(value(x, k) - target).abs().mean()"),
    Mutant("DxMI anchor: α for σ", LOSSES, "right_expand(level.sigma.to(x0), x0) * noise", "right_expand(level.alpha.to(x0), x0) * noise"),
    Mutant("DxMI anchor: the noise's sign", LOSSES, "(noise - value.noise(noised, level))", "(noise + value.noise(noised, level))"),
    Mutant("DxMI anchor: a mean over D", LOSSES, "level)).flatten(1).square().sum(1).mean()", "level)).square().mean()"),
    Mutant("DxMI ladder: the logit's sign", LOSSES, "(above - below).chunk(2)", "(below - above).chunk(2)"),
    Mutant("DxMI ladder: near and far change places", LOSSES, "zip(x0, (k - 1, k), noise", "zip(x0, (k, k - 1), noise"),
    Mutant("DxMI ladder: the near data alone", LOSSES, "F.softplus(-at_near).mean() + F.softplus(at_far).mean()", "2 * F.softplus(-at_near).mean()"),
    Mutant("DxMI ladder: noise without σ", LOSSES, "right_expand(level.sigma, x0) * noise", "noise"),
    Mutant("DxMI path weights without V_0", LOSSES, "log_ratio - value(last,", "log_ratio - 0 * value(last,"),
    Mutant("DxMI path weights: V_0's sign", LOSSES, "log_ratio - value(last,", "log_ratio + value(last,"),
    Mutant("DxMI path weights: of the first level", LOSSES, "torch.zeros(last.shape[0], dtype", "torch.ones(last.shape[0], dtype"),
    Mutant("DxMI path weights: all of them count", LOSSES, "effective_size(log_weights)", "effective_size(0 * log_weights)"),
    Mutant("DxMI contrast of levels: data noised to t_0", LOSSES, "noised(value.levels, x0, k, noise), states", "noised(value.levels, x0, 0 * k, noise), states"),
    Mutant("DxMI contrast of levels: all by V_0", LOSSES, "(value(x, k) for x in", "(value(x, 0 * k) for x in"),
    Mutant("DxMI contrast of levels: levels and walks change places", LOSSES, ".repeat_interleave(batch)", ".repeat(batch)"),
    Mutant("DxMI contrast of levels: upside down above t_0", LOSSES, "[contrast(*pair, gamma, weights) for pair in zip(data, drawn, strict=True)]", "[contrast(*pair[:: -1 if k else 1], gamma, weights) for k, pair in enumerate(zip(data, drawn, strict=True))]"),
    Mutant("DxMI contrast of levels: held above t_0", LOSSES, "[contrast(*pair, gamma, weights) for pair in zip(data, drawn, strict=True)]", "[contrast(*(v.detach() if k else v for v in pair), gamma, weights) for k, pair in enumerate(zip(data, drawn, strict=True))]"),
    # -- the policies
    Mutant("DxMI value gradient: ε̂ for the slope", POLICY, "law.log_var[k - 1].exp() / level.sigma", "law.log_var[k - 1].exp()"),
    Mutant("DxMI value gradient: √v", POLICY, "law.log_var[k - 1].exp() / level.sigma", "(0.5 * law.log_var[k - 1]).exp() / level.sigma"),
    Mutant("DxMI value gradient climbs", POLICY, "(x - pull *", "(x + pull *"),
    Mutant("DxMI value gradient forgets 1/α", POLICY, "/ right_expand(send(law.keep[k - 1], x), x)", ""),
    Mutant("DxMI value gradient: of the level it goes to", POLICY, "level = self.value.levels[k]", "level = self.value.levels[k - 1]"),
    Mutant("a table of variances read as deviations", CHAIN, "return self.row(self.given, k, xt)", "return 2 * self.row(self.given, k, xt)"),
    Mutant("a table of variances read a step late", CHAIN, "return self.row(self.given, k, xt)", "return self.row(self.given, k - 1, xt)"),
    # -- the value
    Mutant("DxMI value: in units of energy, not nats", VALUE, "self.model.at(x, level.to(x)) / self.model.tau", "self.model.at(x, level.to(x))"),
    Mutant("DxMI value: the noise's sign", VALUE, "return -sigma * descent(", "return sigma * descent("),
    Mutant("DxMI value: the noise in units of the slope", VALUE, "return -sigma * descent(", "return -descent("),
    Mutant("DxMI places: between levels in α, not log α", VALUE, "(between(v.log()).exp() for v", "(between(v) for v"),
    Mutant("DxMI places: a level too many", VALUE, "* (levels.alpha.shape[0] - 1)", "* levels.alpha.shape[0]"),
)  # fmt: skip
