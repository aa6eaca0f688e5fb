"""Mutants of energies: what one is, of which network, and what is composed, annealed and integrated of them."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

FIELD, DENOISER, ENERGY = "core/networks/gradient.py", "core/denoiser.py", "ebm/model.py"
COMPOSITION, IMPORTANCE, NORMALISER = "ebm/composition.py", "ebm/importance.py", "ebm/normaliser.py"

MUTANTS_ENERGIES: tuple[Mutant, ...] = (
    # -- of a network
    Mutant("residual energy: f − u without its Jacobian", FIELD, "return 0.5 * (x - answer).flatten(1)", "return 0.5 * (x - answer.detach()).flatten(1)"),
    Mutant("residual energy without its ½", FIELD, "return 0.5 * (x - answer)", "return (x - answer)"),
    Mutant("inner energy: the sign of ⟨u, f⟩", FIELD, "return -(x * answer)", "return (x * answer)"),
    Mutant("a gradient field climbs", FIELD, "torch.full_like(value, -1.0, requires_grad=False)", "torch.full_like(value, 1.0, requires_grad=False)"),
    Mutant("a denoiser's energy without the ½ of ‖x‖²", DENOISER, "factor * value - 0.5 * on_x *", "factor * value - on_x *"),
    Mutant("a denoiser's energy: EDM's c left in", DENOISER, "factor = on_output if scale is None else on_output / scale", "factor = on_output"),
    Mutant("a denoiser's energy: c on the wrong side", DENOISER, "on_output if scale is None else on_output / scale", "on_output if scale is None else on_output * scale"),
    Mutant("a guided energy: class and none change places", DENOISER, "value = torch.lerp(free, given, guidance)", "value = torch.lerp(given, free, guidance)"),
    Mutant("EDM's score: −1/ρ for −1/ρ²", DENOISER, "return -1 / rho2, level.alpha * self.data_std / (level.sigma", "return -1 / rho2.sqrt(), level.alpha * self.data_std / (level.sigma"),
    # -- of a law
    Mutant("the score forgets the temperature", ENERGY, "descent(lambda z: function(z) / self.tau, x)", "descent(function, x)"),
    Mutant("chains forget the temperature", ENERGY, "Target.from_energy(lambda x: function(x) / self.tau)", "Target.from_energy(function)"),
    Mutant("a core's energy is not in units of τ", ENERGY, "return self.tau * self.source.denoiser.energy(", "return self.source.denoiser.energy("),
    Mutant("a core of an energy forgets the temperature", ENERGY, "return self.model.at(xt, level, condition, guidance) / self.model.tau", "return self.model.at(xt, level, condition, guidance)"),
    Mutant("an energy is told λ for t", ENERGY, "(level.t.to(x).expand(x.shape[0]),)", "(level.log_snr.to(x).expand(x.shape[0]),)"),
    # -- composed
    Mutant("product: weights left out", COMPOSITION, "torch.stack([w * e for w, e in zip(self.weights,", "torch.stack([e for w, e in zip(self.weights,"),
    Mutant("product: a mean of energies", COMPOSITION, "self.nats(x, level), strict=True)]).sum(0)", "self.nats(x, level), strict=True)]).mean(0)"),
    Mutant("composition forgets its members' temperatures", COMPOSITION, "return [member.at(x, level) / member.tau for", "return [member.at(x, level) for"),
    Mutant("mixture: its energies' sign", COMPOSITION, "joint = [w - e for w, e in", "joint = [w + e for w, e in"),
    Mutant("mixture: Z_i for 1/Z_i", COMPOSITION, "shares.sum().log() - known)", "shares.sum().log() + known)"),
    Mutant("mixture: weights that do not sum to one", COMPOSITION, "(shares.log() - shares.sum().log() - known)", "(shares.log() - known)"),
    Mutant("negation multiplies", COMPOSITION, '[-check_positive("scale", scale)]', '[check_positive("scale", scale)]'),
    # -- annealed and integrated
    Mutant("annealed weights upside down", IMPORTANCE, "(laws[k - 1](x) - laws[k](x))", "(laws[k](x) - laws[k - 1](x))"),
    Mutant("annealed weights of the next law but one", IMPORTANCE, "Target.from_energy(laws[k]), kernels[k - 1], x, steps", "Target.from_energy(laws[k - 1]), kernels[k - 1], x, steps"),
    Mutant("annealing: the start's density is left in", IMPORTANCE, "- ((1 - b) * log_prob(x) if b < 1 else 0.0)", "- log_prob(x)"),
    Mutant("annealing forgets the temperature", IMPORTANCE, "return lambda x: b * own(x) / model.tau", "return lambda x: b * own(x)"),
    Mutant("annealing along the noise forgets the temperature", IMPORTANCE, "return lambda x: function(x) / model.tau", "return lambda x: function(x)"),
    Mutant("annealing: a start whose draws are not its density's", IMPORTANCE, "(lambda n: law(like.expand", "(lambda n: 1.5 * law(like.expand"),
    Mutant("the rate's sign", NORMALISER, "else -slope.to(value) / model.tau", "else slope.to(value) / model.tau"),
    Mutant("the rate forgets the temperature", NORMALISER, "else -slope.to(value) / model.tau", "else -slope.to(value)"),
    Mutant("the flow runs the other way", NORMALISER, "return -torch.cat([whole,", "return torch.cat([whole,"),
    Mutant("the flow by rectangles", NORMALISER, "pieces = 0.5 * (times[1:] - times[:-1])[:, None] * (rates[1:] + rates[:-1])", "pieces = (times[1:] - times[:-1])[:, None] * rates[1:]"),
    Mutant("the flow begins at the wrong end", NORMALISER, "whole = pieces.flip(0).cumsum(0).flip(0)", "whole = pieces.cumsum(0)"),
)  # fmt: skip
