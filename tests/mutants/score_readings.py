"""Small bugs in what is told of a reading: guidance and labels lost on the way, step control, tallies, the step's error."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

FLOW, MODEL, TARGET, ENTRY = "score/flow.py", "score/model.py", "mcmc/target.py", "score/entry.py"
ANNEALED, CORRECTOR, ODE = "score/annealed.py", "score/corrector.py", "score/ode.py"
RUNNING, BLOCKS, ADAPTATION = "mcmc/running.py", "mcmc/blocks.py", "mcmc/adaptation.py"
METROPOLIS = "mcmc/metropolis.py"

MUTANTS_READINGS: tuple[Mutant, ...] = (
    # -- guidance and labels
    Mutant("reverse drift drops its guidance", FLOW, "score = core.predict(z, t, condition, guidance).score", "score = core.predict(z, t, condition).score"),
    Mutant("reverse drift drops its labels", FLOW, "score = core.predict(z, t, condition, guidance).score", "score = core.predict(z, t).score"),
    Mutant("reverse SDE drops its guidance", FLOW, "\"sde\", eta=eta, guidance=guidance)", "\"sde\", eta=eta)"),
    Mutant("reverse SDE drops its η", FLOW, "\"sde\", eta=eta, guidance=guidance)", "\"sde\", guidance=guidance)"),
    Mutant("the flow drops its guidance", FLOW, "self.core.denoiser(z, level, condition, self.guidance)", "self.core.denoiser(z, level, condition)"),
    Mutant("the flow gives every row the first label", FLOW, "self.condition.expand(z.shape[0])", "self.condition[:1].expand(z.shape[0])"),
    Mutant("a target drops its guidance", TARGET, "core.denoiser(x, casts[key], each, guidance)", "core.denoiser(x, casts[key], each)"),
    Mutant("a target drops its labels", TARGET, "core.denoiser(x, casts[key], each, guidance)", "core.denoiser(x, casts[key])"),
    Mutant("a score drops its guidance", MODEL, "self.core.predict(xt, t, condition, guidance).score", "self.core.predict(xt, t, condition).score"),
    Mutant("a mean drops its guidance", MODEL, "self.core.predict(xt, t, condition, guidance).x0", "self.core.predict(xt, t, condition).x0"),
    Mutant("a covariance drops its guidance", MODEL, "self.core.denoiser(z, level, condition, guidance).x0", "self.core.denoiser(z, level, condition).x0"),
    Mutant("a covariance of a lopsided Jacobian", MODEL, "0.5 * (slope + slope.mT)", "slope"),
    Mutant("annealed chains drop their guidance", ANNEALED, "level_of(row), condition, self.guidance).score", "level_of(row), condition).score"),
    Mutant("annealed chains end without guidance", ANNEALED, "self.core.predict(x, self.last, condition, self.guidance)", "self.core.predict(x, self.last, condition)"),
    Mutant("a corrector drops its guidance", CORRECTOR, "self.core.denoiser(x, level, condition, self.guidance).score", "self.core.denoiser(x, level, condition).score"),
    Mutant("a predictor drops its guidance", CORRECTOR, "level_of(row[4:]), condition, self.guidance).x0", "level_of(row[4:]), condition).x0"),
    # -- step control
    Mutant("step control: a safety of 0.8", ODE, "_SAFETY, _LEAST, _MOST = 0.9,", "_SAFETY, _LEAST, _MOST = 0.8,"),
    Mutant("step control: cut to a tenth", ODE, "= 0.9, 0.2, 5.0", "= 0.9, 0.1, 5.0"),
    Mutant("step control: no most", ODE, "= 0.9, 0.2, 5.0", "= 0.9, 0.2, 50.0"),
    Mutant("step control: the last error's sign", ODE, "before ** (0.4 / tableau.order)", "before ** (-0.4 / tableau.order)"),
    Mutant("step control: the order of the solution in a refusal", ODE, "ratio ** (-1 / tableau.order)", "ratio ** (-1 / (tableau.order + 1))"),
    Mutant("step control: an absolute tolerance alone", ODE, "(tolerance * (1 + torch.maximum(y.abs(), moved.abs())))", "(tolerance * torch.ones_like(y))"),
    Mutant("step control: the mean error", ODE, "moved.abs())))).max())", "moved.abs())))).mean())"),
    Mutant("step control: a refused step goes on from its end's slope", ODE, "first = stages[0]", "first = stages[-1]"),
    Mutant("step control: the first step by a tenth", ODE, "0.01 / (speed * abs(span))", "0.1 / (speed * abs(span))"),
    Mutant("step control: twice the tolerance is kept", ODE, "if ratio <= 1.0:", "if ratio <= 2.0:"),
    # -- the error of the step from the data
    Mutant("the step's error: growth without its −1", ENTRY, "four / two - 1, 2.0)", "four / two, 2.0)"),
    Mutant("the step's error: divided by all of its growth", ENTRY, ".clamp(_SHRINKS, 1.0)", ".clamp(_SHRINKS, 10.0)"),
    Mutant("the step's error: the slope at one end", ENTRY, "((0, 1 / 6), (0.5, 2 / 3), (1, 1 / 6))", "((0, 1.0), (0.5, 0.0), (1, 0.0))"),
    Mutant("the step's error: narrow data without the ½", ENTRY, "0.5 * (values - 1 - values.log())", "(values - 1 - values.log())"),
    Mutant("the step's error: narrow data as ten doublings", ENTRY, "torch.where(endless, torch.maximum(told, _unresolved(path)), told)", "told"),
    # -- tallies
    Mutant("acceptance of the steps that held", RUNNING, "accepted / steps", "accepted / steady"),
    Mutant("the energy error over all steps", RUNNING, "torch.nan, v / steady)", "torch.nan, v / steps)"),
    Mutant("the trace a step early", RUNNING, "(k + 1) * every - before - 1]", "(k + 1) * every - before - 2]"),
    Mutant("a fall counts whole", BLOCKS, "log_accept.clamp(max=DIVERGENT).abs()", "log_accept.abs()"),
    Mutant("a fall diverges", BLOCKS, "divergent = log_accept < -DIVERGENT", "divergent = log_accept.abs() > DIVERGENT"),
    Mutant("a divergence from 100 nats", BLOCKS, "DIVERGENT = 1000.0", "DIVERGENT = 100.0"),
    Mutant("a NaN far out stops a run", BLOCKS, "lost < self.beyond", "lost < torch.inf"),
    Mutant("a NaN of the law is a rejection", RUNNING, "held & ~chains.tally[LOST:].any()", "held"),
    Mutant("a NaN in a short run is a rejection", "ebm/learning/chains.py", "if self.kernel.metropolis:", "if False:"),
    Mutant("a NaN slope of a wall is a NaN of the law", METROPOLIS, "nan = nan & ~torch.isinf(log_prob)", "nan = nan & True"),
    Mutant("a NaN is looked for at the end alone", METROPOLIS, "seen.append(_glance(x, score, log_prob))\n        momentum", "pass\n        momentum"),
    # -- the warm-up
    Mutant("dual averaging: γ = 0.1", ADAPTATION, "GAMMA, DELAY, KAPPA = 0.05,", "GAMMA, DELAY, KAPPA = 0.1,"),
    Mutant("dual averaging: κ = ½", ADAPTATION, "10.0, 0.75", "10.0, 0.5"),
    Mutant("dual averaging: no delay", ADAPTATION, "0.05, 10.0, 0.75", "0.05, 0.0, 0.75"),
    Mutant("dual averaging: ratios above 1", ADAPTATION, "log_accept.clamp(max=0).exp()", "log_accept.exp()"),
    Mutant("dual averaging: about its start", ADAPTATION, "math.log(10 * step_size)", "math.log(step_size)"),
    Mutant("a warm-up ends with its last step size", RUNNING, "chains.adaptation.result()", "float(chains.adaptation.step_size)"),
    Mutant("a warm-up steps by its first step size", BLOCKS, "step_size = self.adaptation.step_size", "step_size = kernel.step_size"),
)  # fmt: skip
