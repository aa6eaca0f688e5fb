"""Mutants of the path view: its costs, its shortest paths, the walk and the distance that a grid descends by."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

DYNAMIC, ELBO, DEVIATION, PAIRS, BOUND, ENERGY, DESCENT = (
    f"paths/{name}.py" for name in ("dynamic", "elbo", "deviation", "pairs", "girsanov", "energy", "gradient")
)
POLICY, TEACHING = "paths/policy.py", "train/schedule_policy.py"
WALKS = "paths/walks.py"
TABLES, CHAIN, SAMPLING = "core/tables.py", "core/chain.py", "core/sampling.py"

MUTANTS_PATHS: tuple[Mutant, ...] = (
    # -- shortest paths
    Mutant("paths: the dearest for the cheapest", DYNAMIC, "torch.amin(known[:, :j] + into[j, :j], 1, out=new[:, j])", "torch.amax(known[:, :j] + into[j, :j], 1, out=new[:, j])"),
    Mutant("paths: the last step before may not be taken", DYNAMIC, "torch.amin(known[:, :j] + into[j, :j], 1,", "torch.amin(known[:, : max(j - 1, 1)] + into[j, : max(j - 1, 1)], 1,"),
    Mutant("paths: the cost of the step is forgotten", DYNAMIC, "torch.amin(known[:, :j] + into[j, :j], 1,", "torch.amin(known[:, :j] + 0.9 * into[j, :j], 1,"),
    Mutant("paths: back-tracking is off by one step", DYNAMIC, "at = (least[first - back : high - back] + into", "at = (least[first - back + 1 : high - back + 1] + into"),
    Mutant("paths: back-tracking by the next step's cost alone", DYNAMIC, "at = (least[first - back : high - back] + into", "at = (0 * least[first - back : high - back].nan_to_num(posinf=0) + into"),
    Mutant("beam: the width is ignored", DYNAMIC, "torch.isfinite(ranked[:width])", "torch.isfinite(ranked[:1])"),
    Mutant("beam: the dearest are kept", DYNAMIC, "costs.sort(dim=0, stable=True)", "costs.nan_to_num(posinf=-1e9).sort(dim=0, stable=True, descending=True)"),
    Mutant("beam: a step's cost for the path's", DYNAMIC, "costs[row, i] = spent[row] + _costs(", "costs[row, i] = _costs("),
    Mutant("beam: a state from before the step", DYNAMIC, "torch.cat([_asked(step, states, at, r, to)[1] for", "torch.cat([states[r] for"),
    # -- costs
    Mutant("ELBO cost: the errors of the earlier time", ELBO, "errors[:, j]", "errors[:, i]"),
    Mutant("ELBO cost: one number for D", ELBO, "dim * Gaussian(mean, own).kl(model)", "Gaussian(mean, own).kl(model)"),
    Mutant("ELBO cost: optimal variance without the posterior's", ELBO, "torch.logaddexp(own, 2 * on_x0.log() + everyones.log())", "2 * on_x0.log() + everyones.log()"),
    Mutant("ELBO cost: b for b²", ELBO, "2 * on_x0.log() + everyones.log()", "on_x0.log() + everyones.log()"),
    Mutant("ELBO cost: the variance's KL upside down", ELBO, "Gaussian(mean, own).kl(model)", "model.kl(Gaussian(mean, own))"),
    Mutant("deviation: from where it came", DEVIATION, "- teacher.x[:k])", "- teacher.x[k])"),
    Mutant("deviation: another sampler's step", DEVIATION, "times.times[j], self.method)", 'times.times[j], "ddim")'),
    Mutant("deviation: a mean for a mean of squares", DEVIATION, ".flatten(2).square().sum(2)\n            found", ".flatten(2).abs().sum(2)\n            found"),
    Mutant("deviation: absolute is relative", DEVIATION, "if relative else torch.ones_like(levels.alpha)", "if True else torch.ones_like(levels.alpha)"),
    Mutant("multistep price: extrapolates the other way", PAIRS, "change = x0[j] - x0[j + 1 :]", "change = x0[j + 1 :] - x0[j]"),
    Mutant("multistep price: half a cross term", PAIRS, "square + 2 * pull", "square + pull"),
    Mutant("multistep price: κ twice in x̂_0", PAIRS, "(now.on_x0 + now.on_kept)", "now.on_x0"),
    Mutant("paths of pairs: the pair before, turned round", PAIRS, "path[-2], path[-1]", "path[-1], path[-2]"),
    Mutant("paths of pairs: no step before counts as one", PAIRS, "before = torch.cat([path[2:], path[-1:]])", "before = torch.cat([path[1:-1], path[-1:]])"),
    Mutant("KL bound: the guess of the fine step's end", BOUND, "(said[1 : j + 1] - said[j])", "(said[:j] - said[j])"),
    Mutant("KL bound: SNR for half of it", BOUND, "0.5 * (snr[:-1] - snr[1:])", "(snr[:-1] - snr[1:])"),
    Mutant("KL bound: summed from the data", BOUND, "terms.flip(1).cumsum(1).flip(1)", "terms.cumsum(1)"),
    Mutant("energy's price: the value upside down", ENERGY, "+ self._asked(xs, float(t[earlier])) - here", "- self._asked(xs, float(t[earlier])) + here"),
    Mutant("energy's price: entropy left out", ENERGY, "cost = step.log_prob(xs) - forward", "cost = -forward"),
    Mutant("energy's price: an energy of the wrong level", ENERGY, "self._asked(xs, float(t[earlier]))", "self._asked(xs, float(t[later]))"),
    # -- descent
    Mutant("descent: the register forgotten", DESCENT, "a * x + b * x0 + g * kept, c", "a * x + b * x0, c"),
    Mutant("energy distance without the cross term's two", DESCENT, "2 * torch.cdist(x, y).mean()", "torch.cdist(x, y).mean()"),
    Mutant("energy distance with the diagonal", DESCENT, "return torch.pdist(v).mean()", "return torch.cdist(v, v).mean()"),
    # -- a policy of grids
    Mutant("path policy: the reference is not divided out of Z", POLICY, "ways.logsumexp(2) - mask.sum(2).clamp(min=1).double().log()", "ways.logsumexp(2)"),
    Mutant("path policy: β in the wrong place", POLICY, "            ways = (log_z[:, None, :] - price)", "            ways = (log_z[:, None, :] - price * beta[:, m - 1, None, None] ** 2)"),
    Mutant("path policy: β of another number of steps", POLICY, "            ways = (log_z[:, None, :] - price)", "            ways = (log_z[:, None, :] - price * (beta[:, m - 1] / beta[:, 0])[:, None, None])"),
    Mutant("path policy: the best for the sum of all", POLICY, ".logsumexp(2)", ".amax(2)"),
    Mutant("path policy: log π alone", POLICY, ".double() + mask.sum(1).double().log()", ".double()"),
    Mutant("path policy: what is closed is not left out", POLICY, "logits.masked_fill(~mask, -math.inf).log_softmax(1)", "logits.log_softmax(1)"),
    Mutant("path policy: KL by the likeliest path", POLICY, "value = (chance * told).sum(2)", "value = told.gather(2, chance.argmax(2, keepdim=True))[:, :, 0]"),
    Mutant("path policy: KL without what comes after", POLICY, "price + log_ratio + value[:, None, :], 0.0)", "price + log_ratio + 0 * value[:, None, :], 0.0)"),
    Mutant("path policy: KL with log Z's sign", POLICY, "found.append(value[:, -1] + log_z[:, m - 1])", "found.append(value[:, -1] - log_z[:, m - 1])"),
    Mutant("path policy: retraced upwards", POLICY, "mask, node = mdp.mask(state), path[:, h - 1]", "mask, node = mdp.mask(state), path[:, h]"),
    Mutant("path teaching: dear paths are good", TEACHING, "worth = -cost / beta[:, :, None] - log_ratio", "worth = cost / beta[:, :, None] - log_ratio"),
    Mutant("path teaching: KL left out", TEACHING, "beta[:, :, None] - log_ratio.detach()", "beta[:, :, None] - 0 * log_ratio.detach()"),
    Mutant("path teaching: no baseline", TEACHING, "return -(worth - worth.mean(2, keepdim=True)) * log_ratio", "return -worth * log_ratio"),
    # -- what the core gained
    Mutant("tables: a lone step of another method", TABLES, "rows_of(Steps(schedule, s, t), method)", 'rows_of(Steps(schedule, s, t), "ddim")'),
    Mutant("chain: other steps with this grid's table", CHAIN, "there.table, there._beside = ChainTable(step.on_xt, step.on_x0, step.log_var, log_prior), {}", "there._beside = {}"),
    Mutant("trajectory: a state that goes on changing", SAMPLING, "states.append(now.clone())", "states.append(now)"),
    # -- walks where no table is
    Mutant("path walks: the step from the wrong node", WALKS, "c[action, state.node]", "c[action, (state.node - 1).clamp(min=0)]"),
    Mutant("path walks: x̂_0 of the node left", WALKS, "return self._arrived(action, (state.left - 1)", "return self._arrived(state.node, (state.left - 1)"),
    Mutant("path walks: paid again after the end", WALKS, "now = (ended & (state.left > 0))", "now = (ended & (state.left >= 0))"),
    Mutant("path walks: a sum over D", WALKS, ".square().mean(1).cpu()", ".square().sum(1).cpu()"),
    Mutant("path walks: worth for cost", WALKS, "return after, -paid, ended", "return after, paid, ended"),
)  # fmt: skip
