"""Bugs in the policy and in the methods of fine-tuning."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

POLICY, TRAINABLE = "rl/policy.py", "rl/trainable.py"
GRADIENTS, VALUE, BACKPROP = "rl/methods/gradients.py", "rl/methods/value.py", "rl/methods/backprop.py"
PREFERENCE, ADJOINT = "rl/methods/preference.py", "rl/methods/adjoint.py"

MUTANTS_METHODS: tuple[Mutant, ...] = (
    # -- the policy
    Mutant("control by σ²", POLICY, "(own.x0 - decisions.guess) / decisions.std", "(own.x0 - decisions.guess) / decisions.std**2"),
    Mutant("control by what x_t weighs", POLICY, "chain.row(chain.table.on_x0, decisions.k", "chain.row(chain.table.on_xt, decisions.k"),
    Mutant("control away from the policy", POLICY, "gain * (own.x0 - decisions.guess)", "gain * (decisions.guess - own.x0)"),
    Mutant("control at the level of s", POLICY, "chain.levels[decisions.k]", "chain.levels[decisions.k - 1]"),
    Mutant("control with the gain of another step", POLICY, "chain.row(chain.table.on_x0, decisions.k, decisions.x)", "chain.row(chain.table.on_x0, decisions.k - 1, decisions.x)"),
    Mutant("log-ratio without its ½", POLICY, "action - 0.5 * control)", "action - control)"),
    Mutant("log-ratio: a mean over D", POLICY, "(action - 0.5 * control)).flatten(1).sum(1)", "(action - 0.5 * control)).flatten(1).mean(1)"),
    Mutant("a walk's KL without its ½", POLICY, "return 0.5 * self.control.flatten(2)", "return self.control.flatten(2)"),
    Mutant("a walk's KL of its actions", POLICY, "0.5 * self.control.flatten(2)", "0.5 * self.action.flatten(2)"),
    Mutant("a walk's reward is the last step's mean", POLICY, "return self.paid.sum(0)", "return self.paid.mean(0)"),
    Mutant("a walk: what was done is the noise", POLICY, "kept.append((at.x, at.k[0], at.guess, at.std, control + noise,", "kept.append((at.x, at.k[0], at.guess, at.std, noise,"),
    Mutant("a walk pays the charge", POLICY, "control, outcome.reward + outcome.charge))", "control, outcome.reward))"),
    Mutant("a walk's steps chain by chain", POLICY, "self.k.repeat_interleave(chains)", "self.k.repeat(chains)"),
    # -- what is trained
    Mutant("correction by σ̄", TRAINABLE, "right_expand(torch.sigmoid(-level.log_snr), xt)", "right_expand(torch.sigmoid(-level.log_snr).sqrt(), xt)"),
    Mutant("correction by the signal", TRAINABLE, "torch.sigmoid(-level.log_snr)", "torch.sigmoid(level.log_snr)"),
    # -- policy gradients
    Mutant("the surrogate rises", GRADIENTS, "return -advantage * log_rho.exp()", "return advantage * log_rho.exp()"),
    Mutant("ratio to the reference", GRADIENTS, " - log_ratio(taken.control, taken.action)", ""),
    Mutant("PPO takes the better of the two", GRADIENTS, "torch.where(advantage < 0, log_rho", "torch.where(advantage > 0, log_rho"),
    Mutant("clip in nats, whatever D", GRADIENTS, "reach = clip * control[0].numel()", "reach = clip"),
    Mutant("clip of moves that come back", GRADIENTS, "log_rho.clamp(max=reach))", "log_rho.clamp(-reach, reach))"),
    Mutant("DDPO: a mean over steps", GRADIENTS, "return self.policy.mdp.horizon * each.mean()", "return each.mean()"),
    Mutant("z-scores that are not divided", GRADIENTS, "away / torch.where(spread > 0, spread, torch.ones_like(spread))", "away"),
    Mutant("z-scores with n − 1", GRADIENTS, "away.square()) / count).sqrt()", "away.square()) / (count - 1)).sqrt()"),
    Mutant("DPOK: an advantage without the later charges", GRADIENTS, "walk.paid - self.policy.mdp.beta * walk.kl", "walk.paid"),
    Mutant("DPOK: the charge is paid out", GRADIENTS, "(each + charge).mean()", "(each - charge).mean()"),
    Mutant("DPOK: the charge without its ½", GRADIENTS, "charge = 0.5 * self.policy.mdp.beta", "charge = self.policy.mdp.beta"),
    Mutant("DPOK: V learns the advantage", GRADIENTS, "(advantage + value).flatten()), told", "advantage.flatten()), told"),
    Mutant("DPOK: V's loss is halved", GRADIENTS, "+ error.square().mean()", "+ 0.5 * error.square().mean()"),
    Mutant("DPOK ignores its decay", GRADIENTS, "value, self.method.decay)", "value, 1.0)"),
    Mutant("advantages against V of the next state", VALUE, "error = earned + after - value", "error = earned + value - after"),
    Mutant("advantages forwards in time", VALUE, "ahead = error[h] + decay * ahead", "ahead = error[h] + decay * error[h - 1]"),
    Mutant("advantages: V outlives the chain", VALUE, "torch.zeros_like(value[:1])])", "value[-1:]])"),
    # -- backpropagation
    Mutant("backpropagation cuts one step late", BACKPROP, "if h <= mdp.horizon - reach:", "if h < mdp.horizon - reach:"),
    Mutant("backpropagation cuts everywhere", BACKPROP, "if h <= mdp.horizon - reach:", "if True:"),
    Mutant("backpropagation: a KL without its ½", BACKPROP, "kl = kl + 0.5 * control", "kl = kl + control"),
    Mutant("backpropagation charges nothing", BACKPROP, "(self.policy.mdp.beta * kl - earned)", "(0 * kl - earned)"),
    Mutant("backpropagation: the control is not scaled", BACKPROP, "law.std * (control + rows.noise[:, h])", "control + law.std * rows.noise[:, h]"),
    Mutant("backpropagation: the last step is left out", BACKPROP, "if mdp.last == 2:", "if False:"),
    # -- pairs
    Mutant("DPO prefers the loser", PREFERENCE, "-log_preference(self.policy.mdp.beta * (winner - loser)).mean()", "-log_preference(self.policy.mdp.beta * (loser - winner)).mean()"),
    Mutant("DPO: one step for all", PREFERENCE, "torch.full(k.shape, self.policy.mdp.horizon / m,", "torch.full(k.shape, 1 / m,"),
    Mutant("DPO: the constant weight's logarithm", PREFERENCE, "return 2 * (-2 * log_gain).exp()", "return 2 * (-2 * log_gain)"),
    Mutant("DPO: the constant weight of x̂_0", PREFERENCE, " - 0.5 * chain.levels.log_snr[1:]", ""),
    Mutant("DPO: steps crowd at one end", PREFERENCE, "/ m * mdp.horizon", "/ m * mdp.horizon * share"),
    Mutant("DPO: the action to x_0 by σ²", PREFERENCE, "gain * (repeated - at.guess) / at.std, k.shape", "gain * (repeated - at.guess) / at.std**2, k.shape"),
    Mutant("DPO: noised by σ²", PREFERENCE, "right_expand(level.sigma, repeated) * noise", "right_expand(level.sigma**2, repeated) * noise"),
    Mutant("DPO on walks: the state for the next", PREFERENCE, "for first in (mdp.last, mdp.last - 1))", "for first in (mdp.last, mdp.last))"),
    Mutant("DPO on walks: the action is not whitened", PREFERENCE, "(after - chain.mean(x, at.k, at.guess)) / at.std", "(after - chain.mean(x, at.k, at.guess))"),
    Mutant("DPO: the mean reduction by √D", PREFERENCE, "factor = factor / both[0][0].numel()", "factor = factor / both[0][0].numel() ** 0.5"),
    Mutant("D3PO: a reward's odds upside down", PREFERENCE, "first = torch.sigmoid(reward[:n] - reward[n:])", "first = torch.sigmoid(reward[n:] - reward[:n])"),
    Mutant("D3PO: a mean over steps", PREFERENCE, "(winner - loser)).sum() / len(rows)", "(winner - loser)).mean()"),
    Mutant("D3PO: every walk is a step", PREFERENCE, 'if self.method.level == "walk":', 'if self.method.level == "none":'),
    Mutant("D3PO: the loser is its own", PREFERENCE, "torch.where(wins, index + n, index)", "torch.where(wins, index + n, index + n)"),
    # -- adjoints
    Mutant("the adjoint at x_k", ADJOINT, "        found[h] = a\n        if h:\n", "        found[h] = a if h == len(states) - 1 else found[h + 1]\n        if h:\n"),
    Mutant("the adjoint climbs down", ADJOINT, "a = -reward_gradient(mdp, x0) / beta", "a = reward_gradient(mdp, x0) / beta"),
    Mutant("the adjoint without 1/β", ADJOINT, "reward_gradient(mdp, x0) / beta", "reward_gradient(mdp, x0)"),
    Mutant("the adjoint asks by σ²", ADJOINT, "-walk.std.flatten(0, 1) * adjoint", "-walk.std.square().flatten(0, 1) * adjoint"),
    Mutant("the adjoint's own word without σ", ADJOINT, "walk.control[h] / walk.std[h]", "walk.control[h]"),
    Mutant("the adjoint's own word added", ADJOINT, "decay * a - (1 - decay)", "decay * a + (1 - decay)"),
    Mutant("the adjoint through another step", ADJOINT, "int(mdp.chain.steps - h)", "int(mdp.chain.steps - h + (h > 1))"),
    Mutant("the adjoint skips the last step", ADJOINT, "a = pulled_back(mdp, before, 1, walk.condition, a)", "a = a + 0 * before"),
    Mutant("matching: a mean over steps", ADJOINT, "return 0.5 * self.policy.mdp.horizon * error.mean()", "return 0.5 * error.mean()"),
    Mutant("matching without its ½", ADJOINT, "return 0.5 * self.policy.mdp.horizon", "return self.policy.mdp.horizon"),
)  # fmt: skip
