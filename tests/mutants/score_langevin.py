"""Theory bugs for the Langevin family."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

FREE, METROPOLIS, PATH = "mcmc/unadjusted.py", "mcmc/metropolis.py", "mcmc/path.py"
ANNEALED, CORRECTOR = "score/annealed.py", "score/corrector.py"
TARGET, ADAPTATION = "mcmc/target.py", "mcmc/adaptation.py"

MUTANTS_LANGEVIN: tuple[Mutant, ...] = (
    # -- without rejection
    Mutant("ULA: √δ for √(2δ)", FREE, "(2 * step_size) ** 0.5, normal, out=drifted", "step_size**0.5, normal, out=drifted"),
    Mutant("ULA: half the drift", FREE, "drifted = add_scaled(x, step_size, score)", "drifted = add_scaled(x, 0.5 * step_size, score)"),
    Mutant("ULA: δ for √(2δ)", FREE, "(2 * step_size) ** 0.5, normal, out=drifted", "2 * step_size, normal, out=drifted"),
    Mutant("BAOAB: friction twice", FREE, "return math.exp(-friction * step_size)", "return math.exp(-2 * friction * step_size)"),
    Mutant("BAOAB: √(1 − e^{−γh})", FREE, "math.sqrt(-math.expm1(-2 * friction * step_size))", "math.sqrt(-math.expm1(-friction * step_size))"),
    Mutant("BAOAB: the last kick is whole", FREE, "velocity = add_scaled(velocity, 0.5 * step_size, score)", "velocity = add_scaled(velocity, step_size, score)"),
    Mutant("BAOAB: the second drift forgets its ½", FREE, "x = add_scaled(x, 0.5 * step_size, velocity)\n        score", "x = add_scaled(x, step_size, velocity)\n        score"),
    # -- Metropolis
    Mutant("leapfrog: the first kick is whole", METROPOLIS, "momentum = add_scaled(momentum, 0.5 * step_size, score)", "momentum = add_scaled(momentum, step_size, score)"),
    Mutant("leapfrog: the last kick uses no ½", METROPOLIS, "add_scaled(momentum, 0.5 * step_size, score), lost", "add_scaled(momentum, step_size, score), lost"),
    Mutant("leapfrog: half kicks between", METROPOLIS, "    momentum = add_scaled(momentum, step_size, score)", "    momentum = add_scaled(momentum, 0.5 * step_size, score)"),
    Mutant("MALA: ε = √δ", METROPOLIS, "(2 * step_size) ** 0.5, 1, normal", "step_size**0.5, 1, normal"),
    Mutant("kinetic energy without its ½", METROPOLIS, "kinetic = 0.5 * (", "kinetic = 1.0 * ("),
    Mutant("the kinetic term forgotten: random-walk acceptance", METROPOLIS, "log_accept = potential + kinetic", "log_accept = potential"),
    Mutant("Metropolis' ratio upside down", METROPOLIS, "potential, path_error = end.log_prob - state.log_prob, None", "potential, path_error = state.log_prob - end.log_prob, None"),
    Mutant("u compared with the log ratio", METROPOLIS, "accepted = torch.log1p(-uniform) < log_accept", "accepted = uniform < log_accept"),
    Mutant("one decision for the whole batch", METROPOLIS, "accepted = torch.log1p(-uniform) < log_accept", "accepted = (torch.log1p(-uniform) < log_accept.mean()).all().expand(uniform.shape)"),
    Mutant("a rejected chain keeps the proposal's score", METROPOLIS, "torch.where(wide, end.score, state.score)", "end.score"),
    Mutant("Lobatto's inner nodes", PATH, "_OFFSET = math.sqrt(3 / 7)", "_OFFSET = 3 / 7"),
    Mutant("Lobatto's middle weight", PATH, "49 / 180, 16 / 45,", "49 / 180, 16 / 90,"),
    Mutant("every panel begins at 0", PATH, "u = (panel + node) / panels", "u = node / panels"),
    # -- annealed
    Mutant("annealed: α_i without its ½", ANNEALED, "delta = 0.5 * step_size * sigma.square()", "delta = step_size * sigma.square()"),
    Mutant("annealed: σ_i for σ_i²", ANNEALED, "delta = 0.5 * step_size * sigma.square()", "delta = 0.5 * step_size * sigma"),
    Mutant("annealed: x is not rescaled between levels", ANNEALED, "scale[1:, 0] = alpha[1:] / alpha[:-1]", "scale[1:, 0] = 1.0"),
    Mutant("corrector: r for r²", CORRECTOR, "2 * (snr * size / slope).square()", "2 * snr * (size / slope).square()"),
    Mutant("corrector: the norms swapped", CORRECTOR, "(snr * size / slope)", "(snr * slope / size)"),
    Mutant("corrector: δ without its 2", CORRECTOR, "2 * (snr * size / slope).square()", "(snr * size / slope).square()"),
    Mutant("corrector at the level that was left", CORRECTOR, "level = level_of(row)", "level = level_of(row[4:])"),
    Mutant("corrector without its bound", CORRECTOR, "torch.fmin(2 * (snr * size / slope).square(), 0.5 * sigma.square())", "2 * (snr * size / slope).square()"),
    Mutant("corrector bounded by ½, whatever the level", CORRECTOR, "0.5 * sigma.square())", "0.5 * torch.ones_like(sigma))"),
    Mutant("predictor–corrector starts at N(0, I) on a VE state", CORRECTOR, "begin(core, n, x, core.schedule.prior_std,", "begin(core, n, x, 1.0,"),
    Mutant("annealed: the start in y, not x", ANNEALED, "float(sigma[0])", "float(sigma[0] / alpha[0])"),
    Mutant("annealed: denoised at the first level", ANNEALED, "level.t[-1].detach()", "level.t[0].detach()"),
    # -- targets and the warm-up
    Mutant("the energy's own sign in its score", TARGET, "torch.full_like(value, -1.0", "torch.full_like(value, 1.0"),
    Mutant("the energy for the log-density", TARGET, "return score, -value.detach()", "return score, value.detach()"),
    Mutant("a warm-up that runs from the wanted acceptance", ADAPTATION, "self.gap.lerp_(self.acceptance - accept", "self.gap.lerp_(accept - self.acceptance"),
    Mutant("the path's error is Simpson's value", PATH, "return total, total - coarse", "return total, coarse"),
    Mutant("BAOAB: friction twice, on the device", FREE, "return torch.exp(-friction * step_size)", "return torch.exp(-2 * friction * step_size)"),
)  # fmt: skip
