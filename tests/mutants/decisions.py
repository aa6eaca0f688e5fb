"""Bugs in the chain as a decision process."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

MDP = "rl/mdp.py"

MUTANTS_DECISIONS: tuple[Mutant, ...] = (
    Mutant("charge without its ½", MDP, "return x, 0.5 * self.beta", "return x, self.beta"),
    Mutant("charge without β", MDP, "0.5 * self.beta * residual", "0.5 * residual"),
    Mutant("charge: a mean over D", MDP, "residual.flatten(1).square().sum(1)", "residual.flatten(1).square().mean(1)"),
    Mutant("residual times σ²", MDP, "law.mean + law.std * action", "law.mean + law.var * action"),
    Mutant("residual without a mean", MDP, "law.mean + law.std * action", "law.std * action"),
    Mutant("a state's residual is not whitened", MDP, "(action - law.mean) / law.std", "action - law.mean"),
    Mutant("a state's residual is not centred", MDP, "(action - law.mean) / law.std", "action / law.std"),
    Mutant("the charge is paid out", MDP, "self.paid - self.charge", "self.paid + self.charge"),
    Mutant("the charge is free", MDP, "self.paid - self.charge", "self.paid"),
    Mutant("the reward is of the state before", MDP, "self.reward(after.x)", "self.reward(state.x)"),
    Mutant(
        "the reference of the next level",
        MDP,
        "guess_at(chain, state.x, state.k, state.condition, guidance)",
        "guess_at(chain, state.x, state.k - 1, state.condition, guidance)",
    ),
    Mutant(
        "the kernel of the next step",
        MDP,
        "chain.kernel(state.x, state.k, guess",
        "chain.kernel(state.x, max(1, state.k - 1), guess",
    ),
    Mutant(
        "the time does not move",
        MDP,
        "State(x, state.k - 1, state.condition)",
        "State(x, state.k - (state.k < 3), state.condition)",
    ),
)
