"""Bugs in the optimum of KL-regularised control, in the chains that it is made of, and in what draws say of it."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

OPTIMUM, LINEAR, ESTIMATES = "rl/optimum.py", "rl/linear.py", "rl/estimates.py"

MUTANTS_OPTIMA: tuple[Mutant, ...] = (
    # -- the optimum
    Mutant("log Z without its ½ log det", OPTIMUM, "(b @ narrowed @ b - curved.log1p().sum())", "(b @ narrowed @ b - 2 * curved.log1p().sum())"),
    Mutant("soft value: −log det is +log det", OPTIMUM, "b @ narrowed @ b - curved.log1p().sum()", "b @ narrowed @ b + curved.log1p().sum()"),
    Mutant("soft value: the mean for the soft mean of a linear part", OPTIMUM, "0.5 * (b @ narrowed @ b - curved", "0.5 * (0 * b @ narrowed @ b - curved"),
    Mutant("soft value: C for the narrowed C", OPTIMUM, "0.5 * (b @ narrowed @ b", "0.5 * (b @ covariance @ b"),
    Mutant("soft value keeps its curvature", OPTIMUM, "symmetric(torch.linalg.solve(factor, A))", "symmetric(A)"),
    Mutant("soft value keeps its slope", OPTIMUM, "torch.linalg.solve(factor, A)), torch.linalg.solve(factor, b)", "torch.linalg.solve(factor, A)), b"),
    Mutant("soft value: no shift in the slope", OPTIMUM, "gain.mT @ (slope - flat @ shift)", "gain.mT @ slope"),
    Mutant("soft value: no shift in the constant", OPTIMUM, "+ slope @ shift - 0.5 * shift @ flat @ shift", "+ slope @ shift"),
    Mutant("soft value: M for its transpose", OPTIMUM, "beta * gain.mT @ (slope", "beta * gain @ (slope"),
    Mutant("soft value: A before the step over β", OPTIMUM, "Quadratic(beta * symmetric(gain.mT", "Quadratic(symmetric(gain.mT"),
    Mutant("the constant is lost on the way", OPTIMUM, "constant = c + 0.5", "constant = 0 * c + 0.5"),
    Mutant("the optimum keeps its covariance", OPTIMUM, "symmetric(torch.linalg.solve(factor.mT, covariance))", "covariance"),
    Mutant("the optimum is pulled without C", OPTIMUM, "(shift + covariance @ b)", "(shift + b)"),
    Mutant("the optimum is pushed away", OPTIMUM, "(shift + covariance @ b)", "(shift - covariance @ b)"),
    Mutant("the optimum's gain is the reference's", OPTIMUM, "moved[:, :-1], moved[:, -1], narrowed", "gain, moved[:, -1], narrowed"),
    Mutant("F for its transpose in the policy", OPTIMUM, "moved = torch.linalg.solve(factor.mT,", "moved = torch.linalg.solve(factor,"),
    Mutant("the gap without its ½", OPTIMUM, "short = 0.5 * (curved", "short = 1.0 * (curved"),
    Mutant("the gap without its logarithm", OPTIMUM, "(curved - curved.log1p()).sum()", "(0.5 * curved.square()).sum()"),
    Mutant("the gap in nats for units of reward", OPTIMUM, "objective - beta * gap", "objective - gap"),
    Mutant("the start counts in the gap where it is kept", OPTIMUM, "gap = gap + short if free else gap", "gap = gap + short"),
    Mutant("a kept start moves", OPTIMUM, "rows.append(tilted if free else parts)", "rows.append(tilted)"),
    Mutant("a free start is kept", OPTIMUM, "rows.append(tilted if free else parts)", "rows.append(tilted if row < chain.steps else parts)"),
    Mutant("a kept start's worth is log Z", OPTIMUM, 'objective = nowhere.constant if start == "free"', 'objective = nowhere.constant if start != ""'),
    Mutant("a kept start's worth is the value at its mean", OPTIMUM, "- 0.5 * (self.polynomial.A * covariance).sum()", "- 0.0 * (self.polynomial.A * covariance).sum()"),
    Mutant("log Z in units of reward", OPTIMUM, "LinearChain(gain, shift, chain.covariance), nowhere.constant / beta", "LinearChain(gain, shift, chain.covariance), nowhere.constant"),
    Mutant("the steady policy narrows", OPTIMUM, "LinearChain(gain, shift, chain.covariance)", "LinearChain(gain, shift, covariance)"),
    Mutant("the control is of the next value", OPTIMUM, "self.values[k - 1].gradient(mean)", "self.values[k].gradient(mean)"),
    Mutant("the control without β", OPTIMUM, "@ _root(self.reference.covariance[k - 1]) / self.beta", "@ _root(self.reference.covariance[k - 1])"),
    Mutant("the control with σ² for σ", OPTIMUM, "@ _root(self.reference.covariance[k - 1])", "@ self.reference.covariance[k - 1]"),
    Mutant("the gradient without its curvature", OPTIMUM, "b.to(x) - x @ A.to(x)", "b.to(x) - 0 * x @ A.to(x)"),
    # -- the linear chain
    Mutant("linear chain: the gain's columns for its rows", LINEAR, "gain = ((mean[1:-1] - mean[0]) / size).mT", "gain = (mean[1:-1] - mean[0]) / size"),
    Mutant("linear chain: the variance of the level before", LINEAR, "covariances.append(var[0].diag())", "covariances.append(covariances[-1] if covariances else var[0].diag())"),
    Mutant("linear chain: a start of unit variance", LINEAR, "prior = core.schedule.prior_std**2 * eye", "prior = eye"),
    Mutant("path KL without its ½", LINEAR, "total = total + 0.5 * (", "total = total + 1.0 * ("),
    Mutant("path KL forgets the means' spread", LINEAR, "moved.square().sum() + spread)", "moved.square().sum())"),
    Mutant("path KL forgets the start", LINEAR, "enumerate(laws)", "enumerate(laws[:-1])"),
    Mutant("path KL: the laws of the step after", LINEAR, "laws = [*self.moments()[1:],", "laws = [*self.moments()[:-1],"),
    Mutant("path KL without the covariances", LINEAR, "(excess - excess.log1p()).sum()", "0 * excess.sum()"),
    Mutant("path KL under the other's laws", LINEAR, "laws = [*self.moments()[1:],", "laws = [*other.moments()[1:],"),
    Mutant("marginal: covariances without the step's", LINEAR, "symmetric(gain @ covariance @ gain.mT) + self.covariance[row]", "symmetric(gain @ covariance @ gain.mT)"),
    Mutant("another start keeps its covariance", LINEAR, "covariance=torch.cat([self.covariance[:-1], covariance[None]])", "covariance=self.covariance"),
    # -- by draws
    Mutant("weights e^{βr}", ESTIMATES, "gained = (r - most) / beta", "gained = (r - most) * beta"),
    Mutant("log Z: a sum for a mean", ESTIMATES, "log_mean = log_mean_exp(gained)", "log_mean = gained.logsumexp(-1)"),
    Mutant("E*r under the reference", ESTIMATES, "(weight * r).mean(-1)", "r.mean(-1)"),
    Mutant("KL of the reference to the optimum", ESTIMATES, "_estimate((weight * log_weight).mean(-1)", "_estimate(-log_weight.mean(-1)"),
    Mutant("ESS: a mean for a sum", ESTIMATES, "effective_size(gained), n,", "effective_size(gained) / n, n,"),
    Mutant("error of a draw for that of a mean", ESTIMATES, "influence.std(-1) / math.sqrt(influence.shape[-1])", "influence.std(-1)"),
    Mutant("path KL by draws: the reward is a cost", ESTIMATES, "found.kl - found.reward / mdp.beta", "found.kl + found.reward / mdp.beta"),
    Mutant("path KL by draws: log Z subtracted", ESTIMATES, "Estimate(cost.value + z,", "Estimate(cost.value - z,"),
    Mutant("path KL by draws: log Z is certain", ESTIMATES, "torch.hypot(cost.standard_error, error)", "cost.standard_error"),
    Mutant("walk: KL the other way", ESTIMATES, "kl += own.kl(law)", "kl += law.kl(own)"),
    Mutant("walk: the policy's mean in x for units of σ", ESTIMATES, "(own.mean - law.mean) / law.std + own.std", "(own.mean - law.mean) + own.std"),
    Mutant("walk: the charge is paid", ESTIMATES, "outcome.paid", "outcome.reward"),
)  # fmt: skip
