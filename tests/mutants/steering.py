"""Bugs in steering without training."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

SMC, TWISTS, RESAMPLING, RIVALS = "rl/steering.py", "rl/twists.py", "rl/resampling.py", "rl/rivals.py"
MDP = "rl/mdp.py"

MUTANTS_STEERING: tuple[Mutant, ...] = (
    Mutant(
        "SMC: weights dropped where nothing is resampled",
        SMC,
        "log_weights = torch.where(flags[-1][:, None], mean, log_weights)",
        "log_weights = mean",
    ),
    Mutant(
        "SMC: the weight so far is lost in resampling",
        SMC,
        "mean = log_mean_exp(log_weights)[:, None].expand(runs, n)",
        "mean = 0 * log_mean_exp(log_weights)[:, None].expand(runs, n)",
    ),
    Mutant("SMC: a sum for the mean weight", SMC, "return log_mean_exp(self.log_weights)", "return torch.logsumexp(self.log_weights, -1)"),
    Mutant("SMC: another particle's twist goes out", SMC, "before = here.log_twist.reshape", "before = outlook.log_twist.reshape"),
    Mutant("SMC: the last twist stays in", SMC, "guide.gain(x0).reshape(runs, n) - before", "guide.gain(x0).reshape(runs, n)"),
    Mutant("SMC: twists never go out", SMC, "outlook.log_twist.reshape(runs, n) - before, state.k", "outlook.log_twist.reshape(runs, n), state.k"),
    Mutant("SMC: the proposal is not weighed", SMC, "_finite(log_weights + log_ratio.reshape(runs, n), state.k)", "_finite(log_weights + 0 * log_ratio.reshape(runs, n), state.k)"),
    Mutant("SMC: another particle's control", SMC, "None if control is None else control[index]", "None if control is None else control"),
    Mutant("SMC: another particle's step", SMC, "Gaussian(law.mean[index], log_var[index])", "Gaussian(law.mean, log_var[index])"),
    Mutant("SMC: parents from another run", SMC, "rows.gather(1, index).flatten()), roots", "(rows - rows[:, :1]).gather(1, index).flatten()), roots"),
    Mutant("SMC: resampled where many count", SMC, "sizes[-1] < threshold * n", "sizes[-1] > threshold * n"),
    Mutant("SMC: ancestors by equal weights", SMC, "ancestors(log_weights, n, scheme, generator)", "ancestors(0 * log_weights, n, scheme, generator)"),
    Mutant("proposal's weight without ½‖u‖²", TWISTS, "-(u * xi).sum(1) - cost, cost", "-(u * xi).sum(1), cost"),
    Mutant("proposal's weight with the wrong sign of uξ", TWISTS, "-(u * xi).sum(1) - cost, cost", "(u * xi).sum(1) - cost, cost"),
    Mutant("KL of a controlled step without its ½", TWISTS, "cost = 0.5 * u.square().sum(1)", "cost = u.square().sum(1)"),
    Mutant("KL of a controlled step: a mean over D", TWISTS, "cost = 0.5 * u.square().sum(1)", "cost = 0.5 * u.square().mean(1)"),
    Mutant("the gradient's control by σ²", TWISTS, "* law.std * _slope(", "* law.var * _slope("),
    Mutant("the gradient's control without its scale", TWISTS, "self.scale / unit *", "1 / unit *"),
    Mutant("the gradient's control without 1/β", TWISTS, "self.scale / unit *", "self.scale *"),
    Mutant("the last twist without 1/β", TWISTS, "x0), x0).detach().to(torch.float64) / self.beta", "x0), x0).detach().to(torch.float64)"),
    Mutant("the last step without noise is not taken", MDP, "return self.reference(state).mean if state.k else state.x", "return state.x"),
    Mutant("resampling: points that do not move", RESAMPLING, "device=log_weights.device) + points) / draws", "device=log_weights.device) + 0 * points + 0.5) / draws"),
    Mutant("resampling: points that miss the end", RESAMPLING, "device=log_weights.device) + points) / draws", "device=log_weights.device) + points) / (draws + 1)"),
    Mutant("resampling by √w", RESAMPLING, "torch.softmax(log_weights, 1)", "torch.softmax(0.5 * log_weights, 1)"),
    Mutant("best of n: the worst", RIVALS, "best, index = value.max(1)", "best, index = value.min(1)"),
    Mutant("best of n: the samples of another output", RIVALS, "x0.reshape(count, n, *x0.shape[1:])[", "x0.reshape(n, count, *x0.shape[1:]).transpose(0, 1)["),
    Mutant("best of n: a KL of log n", RIVALS, "math.log(self.n) - (self.n - 1) / self.n", "math.log(self.n)"),
    Mutant("guidance: the paths are not weighed", RIVALS, "log_weights + log_ratio\n", "log_weights\n"),
)  # fmt: skip
