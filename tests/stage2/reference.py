"""Stage 2 for ONE configuration: plain, slow, float64, by autograd.

Written from METHODS.md §3 (heads), §4 (losses) and §5 (optimiser, schedules); shares nothing with
the implementation but the names of settings and parameters. Axes as everywhere: N rows, D features,
K classes, B batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

Settings = Mapping[str, Any]

TRAINED = {
    "linear": ("weight", "bias"),
    "cosine": ("weight", "scale"),
    "lws": ("scale",),
    "mislas": ("weight", "bias", "scale"),
    "disalign": ("alpha", "beta", "v", "c"),
    "marc": ("omega", "beta"),
    "tde": ("weight",),
    "mlp": ("hidden_weight", "hidden_bias", "weight", "bias"),
    "vmf": ("weight", "concentration"),
    "etf": ("projection", "offset"),
    "samn": ("weight", "bias", "norm", "lift"),
}
"""What training may change, by head; see `trained_by`."""

BIASES = {
    "linear": ("bias",),
    "mislas": ("bias",),
    "disalign": ("beta", "c"),
    "marc": ("beta",),
    "mlp": ("hidden_bias", "bias"),
    "vmf": ("concentration",),
    "etf": ("offset",),
    "samn": ("bias", "lift"),
}
"""What `decay_bias=False` spares, by head."""


# Heads, METHODS §3 -------------------------------------------------------------------------------


def logits(
    head: str,
    p: Mapping[str, Tensor],
    x: Tensor,
    w0: Tensor,
    b0: Tensor,
    s: Settings | None = None,
) -> Tensor:
    """Logits [B, K] of a trained head with the parameters `p` of one configuration and settings `s`
    of which formulas depend."""
    s = s or {}
    z0 = stage1_logits(x, w0, b0, s)
    formulas = {
        "linear": lambda: _affine(x, p["weight"], p["bias"]),
        "cosine": lambda: p["scale"] * _cosines(x, p["weight"]),
        "lws": lambda: p["scale"] * z0,
        # W = W₀ + ΔW; the bias inside the scale, as released
        "mislas": lambda: p["scale"] * _affine(x, p["weight"], p["bias"]),
        "disalign": lambda: disalign(p, x, z0, s),
        "marc": lambda: p["omega"] * z0 + p["beta"] * w0.square().sum(1).sqrt(),
        "tde": lambda: tde(p, x, alpha=0.0),
        "mlp": lambda: _affine(hidden(p, x), p["weight"], p["bias"]),
        "vmf": lambda: vmf(p, x),
        "etf": lambda: etf(p, x),
        "samn": lambda: samn(p, x),
    }
    return formulas[head]()


def stage1_logits(x: Tensor, w0: Tensor, b0: Tensor, s: Settings) -> Tensor:
    """z⁰ [B, K]: W₀x + b₀, or with ``z0=cosine`` s·⟨w_k/‖w_k‖, x/‖x‖⟩."""
    if s.get("z0") == "cosine":
        return s["z0_scale"] * _cosines(x, w0)
    return torch.einsum("bd,kd->bk", x, w0) + b0


def disalign(p: Mapping[str, Tensor], x: Tensor, z0: Tensor, s: Settings) -> Tensor:
    """DisAlign eq. 6 or 5, with the confidence σ(x) or 1."""
    sigma = _confidence(p, x) if s.get("confidence") != "off" else torch.ones_like(z0[:, :1])
    if s.get("form") == "eq5":
        return (1 + sigma * (p["alpha"] - 1)) * z0 + sigma * p["beta"]
    return (1 + sigma * p["alpha"]) * z0 + sigma * p["beta"]


def _affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.einsum("bd,kd->bk", x, weight) + bias


def _cosines(x: Tensor, weight: Tensor) -> Tensor:
    """cos(x, w_k), [B, K]."""
    return torch.einsum("bd,kd->bk", x, weight) / torch.outer(x.norm(dim=1), weight.norm(dim=1))


def _confidence(p: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """σ(x) of disalign, [B, 1]."""
    return 1 / (1 + torch.exp(-(x @ p["v"].reshape(-1) + p["c"].reshape(()))))[:, None]


def hidden(p: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """relu(Vx + a) of mlp, [B, H]."""
    return torch.relu(_affine(x, p["hidden_weight"], p["hidden_bias"]))


def vmf(p: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """log C_D(κ)exp(κ cos) less log C_D(0), by the power series of ₀F₁(; D/2; κ²/4), [B, K]."""
    kappa, b = p["concentration"].clamp(min=1.0), torch.tensor(x.shape[1] / 2, dtype=x.dtype)
    m = torch.arange(400, dtype=x.dtype)[:, None]
    terms = 2 * m * torch.log(kappa / 2) - torch.lgamma(m + 1) - torch.lgamma(b + m)
    return kappa * _cosines(x, p["weight"]) - torch.logsumexp(terms, 0) - torch.lgamma(b)


def etf(p: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """s·⟨m_k, h/‖h‖⟩ with the m_k of a simplex written out, [B, K]."""
    h = _affine(x, p["projection"], p["offset"])
    classes = h.shape[1]
    simplex = torch.eye(classes, dtype=x.dtype) - 1 / classes
    simplex = simplex / simplex.norm(dim=1, keepdim=True)
    return p["scale"] * (h / h.norm(dim=1, keepdim=True)) @ simplex.T


def samn(p: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """exp(1/softplus(r))·⟨ŵ, x⟩ + exp(1/softplus(r')) + b, [B, K]."""
    norm, lift = (torch.exp(1 / torch.log1p(torch.exp(p[r]))) for r in ("norm", "lift"))
    unit = p["weight"] / p["weight"].norm(dim=1, keepdim=True)
    return _affine(x, norm[:, None] * unit, p["bias"] + lift)


def isotonic(r: Tensor, n: Tensor) -> Tensor:
    """The isotonic fit of r [K] by counts n: max over a ≤ i of min over b ≥ i of mean r_a … r_b."""
    order = n.argsort(stable=True)
    values, fit = r[order].tolist(), r.clone()
    for i, k in enumerate(order.tolist()):
        fit[k] = max(
            min(sum(values[a : b + 1]) / (b + 1 - a) for b in range(i, len(values)))
            for a in range(i + 1)
        )
    return fit


def own_cosine(head: str, p: Mapping[str, Tensor], x: Tensor, y: Tensor, w0: Tensor) -> Tensor:
    """Cosine between what the last linear layer sees and the weight of the own class, [B].

    0 where all it sees is 0.
    """
    if head == "etf":
        return (etf(p, x) / p["scale"])[torch.arange(len(y)), y]
    rows = hidden(p, x) if head == "mlp" else x
    return _cosines(rows, p.get("weight", w0))[torch.arange(len(y)), y].nan_to_num(0.0)


def tde(p: Mapping[str, Tensor], x: Tensor, *, alpha: float) -> Tensor:
    """τ/H Σ_h ⟨x̂_h − α cos(x_h, d_h) d̂_h, w_kh⟩/(‖w_kh‖ + γ), [B, K], part by part."""
    parts, size = p["direction"].shape
    z = torch.zeros(len(x), len(p["weight"]), dtype=x.dtype)
    for h in range(parts):
        own = slice(h * size, (h + 1) * size)
        unit = x[:, own] / x[:, own].norm(dim=1, keepdim=True)
        d = p["direction"][h] / p["direction"][h].norm()
        left = unit - alpha * (unit @ d)[:, None] * d
        w = p["weight"][:, own]
        z = z + p["scale"] / parts * left @ (w / (w.norm(dim=1, keepdim=True) + p["gamma"])).T
    return z


def attentive(p: Mapping[str, Tensor], tokens: Tensor) -> Tensor:
    """Σ_h W_h V_h Σ_t a_ht x_t + b with a_ht = softmax_t ⟨u_h, x_t⟩/√D of tokens [B, T, D], where
    there is a ``layer`` after LayerNorm."""
    dim, z = tokens.shape[2], p["bias"]
    if "layer" in p:
        tokens = torch.nn.functional.layer_norm(tokens, (dim,))
    width = p["weight"].shape[1] // len(p["query"])
    for h, u in enumerate(p["query"]):
        share = torch.softmax((tokens * u).sum(2) / math.sqrt(dim), dim=1)
        pooled = (share[:, :, None] * tokens).sum(1)
        y = pooled @ p["value"][h].T if "value" in p else pooled
        z = z + y @ p["weight"][:, h * width : (h + 1) * width].T
    return z


def pooled(p: Mapping[str, Tensor], tokens: Tensor) -> Tensor:
    """W g(x) + b of tokens [B, T, D]: the generalised mean, the maximum or the mean."""
    if "power" in p:
        g = (torch.clamp(tokens, min=1e-6) ** p["power"]).mean(1) ** (1 / p["power"])
    else:
        g = tokens.max(1).values if "largest" in p else tokens.mean(1)
    return _affine(g, p["weight"], p["bias"])


def tau_norm(x: Tensor, w0: Tensor, b0: Tensor, *, tau: float, keep_bias: bool) -> Tensor:
    """(w_k/‖w_k‖^τ)·x, [B, K]."""
    rows = [w / w.norm() ** tau for w in w0]
    z = torch.stack([x @ row for row in rows], dim=1)
    return z + b0 if keep_bias else z


def logit_adjust(x: Tensor, w0: Tensor, b0: Tensor, counts: Tensor, *, tau: float) -> Tensor:
    """z⁰ − τ log π, [B, K]."""
    return x @ w0.T + b0 - tau * torch.log(counts / counts.sum())


def p2p(x: Tensor, w0: Tensor, b0: Tensor, train_x: Tensor, *, tau: float) -> Tensor:
    """z⁰ − τ log of the mean posterior of the training rows, [B, K]."""
    posterior = [torch.softmax(w0 @ row + b0, 0) for row in train_x]
    return x @ w0.T + b0 - tau * torch.log(sum(posterior) / len(posterior))


def logn(x: Tensor, w0: Tensor, b0: Tensor, train_x: Tensor, *, offset: str) -> Tensor:
    """(z⁰ − μ + β)/σ with the statistics of the training rows' logits, [B, K]."""
    z = train_x @ w0.T + b0
    beta = z.mean(0).min() if offset == "minimum" else 0.0
    return (x @ w0.T + b0 - z.mean(0) + beta) / z.std(0, correction=0)


def ncm(x: Tensor, train_x: Tensor, train_y: Tensor, *, transform: str, metric: str) -> Tensor:
    """−‖t(x) − c_k‖² or the cosine, [B, K], over classes that all have samples."""

    def t(rows: Tensor) -> Tensor:
        if transform == "un":
            return rows
        moved = rows - train_x.mean(0) if transform == "cl2n" else rows
        return moved / moved.norm(dim=1, keepdim=True)

    means = torch.stack([t(train_x)[train_y == k].mean(0) for k in range(int(train_y.max()) + 1)])
    if metric == "l2":
        return -((t(x)[:, None] - means[None]) ** 2).sum(2)
    return torch.nn.functional.cosine_similarity(t(x)[:, None], means[None], dim=2)


# Losses, METHODS §4 ------------------------------------------------------------------------------


def class_weights(loss: str, s: Settings, n: Tensor) -> Tensor:
    """ω_k with Σω = K: (1/n)^ρ, or (1−β)/(1−β^n)."""
    if loss == "weighted":
        raw = (1 / n) ** s["rho"]
    else:
        raw = torch.stack([(1 - s["beta"]) / (1 - s["beta"] ** n_k) for n_k in n])
    return raw * len(n) / raw.sum()


def las_smoothing(s: Settings, n: Tensor) -> Tensor:
    """ε_k of label-aware smoothing [MiSLAS eq. 1–3, 7]; ε_1 everywhere if all n are equal."""
    first, last, shape = s["smooth_head"], s["smooth_tail"], s["smooth_shape"]
    low, high = float(n.min()), float(n.max())
    if low == high:
        return torch.full_like(n, first)
    epsilon = []
    for n_k in n.tolist():
        part = (n_k - low) / (high - low)
        epsilon.append(
            {
                "concave": last + (first - last) * math.sin(math.pi * part / 2),
                "linear": last + (first - last) * part,
                "convex": first + (first - last) * math.sin(3 * math.pi / 2 + math.pi * part / 2),
                "exponential": last + (first - last) * part ** s["power"],
            }[shape]
        )
    return torch.tensor(epsilon, dtype=torch.float64)


def smoothed(z: Tensor, y: Tensor, epsilon: Tensor, over: str) -> Tensor:
    """Cross-entropy with the target (1−ε_y)·1[k=y] + ε_y·o_k, row by row, [B]."""
    classes, eps = z.shape[1], epsilon[y]
    other = eps / classes if over == "uniform" else eps / (classes - 1)
    target = other[:, None].repeat(1, classes)
    target[torch.arange(len(y)), y] = 1 - eps + (eps / classes if over == "uniform" else 0)
    return -(target * torch.log_softmax(z, 1)).sum(1)


def _per_row(u: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of every row, [B]."""
    return -torch.log_softmax(u, 1)[torch.arange(len(y)), y]


def _log_prior(n: Tensor) -> Tensor:
    return torch.log(n / n.sum())


def _grown(epoch: int, epochs: int, base: float) -> float:
    """(c^e − 1)/(c − 1) with e from 0 in the first epoch to 1 in the last, and e where c = 1."""
    e = epoch / (epochs - 1) if epochs > 1 else 0.0
    return e if base == 1 else (base**e - 1) / (base - 1)


def _p_y(u: Tensor, y: Tensor) -> Tensor:
    return torch.softmax(u, 1)[torch.arange(len(y)), y]


def _focal(z: Tensor, y: Tensor, s: Settings) -> Tensor:
    return (1 - _p_y(z, y)) ** s["gamma"] * _per_row(z, y)


def _sigmoid_focal(z: Tensor, y: Tensor, s: Settings) -> Tensor:
    x = torch.where(torch.nn.functional.one_hot(y, z.shape[1]) == 1, z, -z)
    terms = (1 - torch.sigmoid(x)) ** s["gamma"] * -torch.nn.functional.logsigmoid(x)
    return terms.sum(1)


def _softmax_bce(z: Tensor, y: Tensor) -> Tensor:
    log_p, total = torch.log_softmax(z, 1), torch.zeros_like(z[:, 0])
    for k in range(z.shape[1]):
        others = torch.cat([log_p[:, :k], log_p[:, k + 1 :]], 1)
        total = total - torch.where(y == k, log_p[:, k], others.logsumexp(1))  # Σ = 1 − p_k
    return total / z.shape[1]


def _balanced_softmax(z: Tensor, y: Tensor, n: Tensor) -> Tensor:
    mass = n * torch.exp(z - z.max(1, keepdim=True).values)
    return -torch.log(mass[torch.arange(len(y)), y] / mass.sum(1))


def _ldam(z: Tensor, y: Tensor, s: Settings, n: Tensor) -> Tensor:
    u = z.clone()
    margin = s["scale"] * s["max_margin"] * (n.min() / n[y]) ** s.get("exponent", 0.25)
    u[torch.arange(len(y)), y] -= margin
    return _per_row(u, y)


def _sla(z: Tensor, y: Tensor, s: Settings, n: Tensor) -> Tensor:
    u = z + s["tau_prior"] * _log_prior(n)
    return (1 - _p_y(u, y)).detach() ** s["gamma"] * _per_row(u, y)


def _gcl(z: Tensor, y: Tensor, s: Settings) -> Tensor:
    """Without noise, for which z is lowered before."""
    u = z.clone()
    u[torch.arange(len(y)), y] -= s["scale"] * s["margin"]
    return (1 - _p_y(u, y)).detach() ** s["gamma"] * _per_row(u, y)


def gcl_amplitude(s: Settings, n: Tensor) -> Tensor:
    """What lowers the logits of each class by a noise of 1, [K]."""
    behind = torch.log(n.max() / n)
    return s["scale"] * s["cloud"] * behind / behind.max().clamp(min=1e-300)


def lade_regulariser(z: Tensor, y: Tensor, s: Settings, n: Tensor, share: Tensor) -> Tensor:
    """Σ_k π_k (S_k + λS_k² − mean of z_k over the rows of class k), class by class."""
    total = torch.zeros((), dtype=z.dtype)
    for k in range(z.shape[1]):
        prior, own = n[k] / n.sum(), y == k
        s_k = torch.log((share * torch.exp(z[:, k] - z[:, k].max().detach())).sum())
        s_k = s_k + z[:, k].max().detach() - torch.log(prior) - math.log(z.shape[1])
        mean = (share * z[:, k])[own].sum() / share[own].sum() if own.any() else 0.0
        total = total + prior * (s_k + s["penalty"] * s_k**2 - mean)
    return total


def _omega(name: str, s: Settings, n: Tensor, epoch: int) -> tuple[Tensor, bool]:
    """Class weights ω [K], and whether to divide by the batch's sum of them."""
    defer = s.get("defer", 0)
    weighted = name in ("weighted", "class_balanced", "cb_focal", "sigmoid_focal", "cb_bce")
    if (name == "ldam" and defer and epoch >= defer) or (weighted and epoch >= defer):
        by_weights = name in ("weighted", "class_balanced") and s.get("normalise") != "batch"
        return class_weights(name, s, n), by_weights or name == "ldam"
    if name in ("balanced_softmax", "logit_adjusted") and epoch >= defer:
        if s.get("rho"):
            return class_weights("weighted", s, n), not s.get("gamma")
        if s.get("beta"):
            return class_weights("class_balanced", s, n), not s.get("gamma")
    return torch.ones_like(n), False


def divergence(
    z: Tensor, y: Tensor, teacher: Tensor, s: Settings, n: Tensor, *, epoch: int, epochs: int
) -> Tensor:
    """α·T²·KL(softmax(z⁰/T) ‖ softmax(z/T)) of the rows of chosen groups, 0 of the others, [B]."""

    def now(name: str) -> float:
        end, base = s.get(f"{name}_end"), s.get(f"{name}_base", 1.0)
        return s[name] if end is None else s[name] + (end - s[name]) * _grown(epoch, epochs, base)

    alpha, temperature = now("distil_weight"), now("temperature")
    p, p0 = torch.softmax(z / temperature, 1), torch.softmax(teacher.to(z.dtype) / temperature, 1)
    kl = (p0 * torch.log(p0 / p)).sum(1)
    groups = s["distil_groups"].split("+")
    group = ["many" if n_k > 100 else "few" if n_k < 20 else "medium" for n_k in n.tolist()]
    chosen = torch.tensor([name in groups for name in group], dtype=z.dtype)
    return kl * alpha * temperature**2 * chosen[y]


def loss(
    name: str,
    z: Tensor,
    y: Tensor,
    s: Settings,
    n: Tensor,
    *,
    epoch: int = 0,
    epochs: int = 1,
    kappa: Tensor | None = None,
    teacher: Tensor | None = None,
    row_weight: Tensor | None = None,
) -> Tensor:
    """Batch loss for logits z [B, K], labels y [B], settings and class counts n [K].

    `kappa` [B] multiplies each row's loss, `teacher` [B, K] are the logits of stage 1, and
    `row_weight` [B] replaces 1/B.
    """

    def focused(rows: Tensor) -> Tensor:
        """−log p_y under (1−p_y)^γ from epoch `defer` on, where there is a γ."""
        late = epoch >= s.get("defer", 0)
        return (1 - torch.exp(-rows)) ** s["gamma"] * rows if late and s.get("gamma") else rows

    formulas = {
        "ce": lambda: _per_row(z, y),
        "weighted": lambda: _per_row(z, y),
        "class_balanced": lambda: _per_row(z, y),
        "focal": lambda: _focal(z, y, s),
        "cb_focal": lambda: _focal(z, y, s),
        "sigmoid_focal": lambda: _sigmoid_focal(z, y, s),
        "cb_bce": lambda: _softmax_bce(z, y),
        "balanced_softmax": lambda: focused(_balanced_softmax(z, y, n)),
        "logit_adjusted": lambda: focused(_per_row(z + s["tau"] * _log_prior(n), y)),
        "gradual": lambda: _per_row(
            z + s["strength"] * _grown(epoch, epochs, s["base"]) * _log_prior(n), y
        ),
        "vs": lambda: _per_row(z * (n / n.max()) ** s["gamma"] + s["tau"] * _log_prior(n), y),
        "sla": lambda: _sla(z, y, s, n),
        "distil": lambda: _per_row(z, y),
        "ldam": lambda: _ldam(z, y, s, n),
        "las": lambda: smoothed(z, y, las_smoothing(s, n), s["smooth_over"]),
        "gcl": lambda: _gcl(z, y, s),
        "lade": lambda: _per_row(z + _log_prior(n), y),
        "dot_regression": lambda: (z[torch.arange(len(y)), y] / s["scale"] - 1) ** 2 / 2,
        "los": lambda: smoothed(z, y, torch.full_like(n, s["smoothing"]), s["smooth_over"]),
    }
    share = torch.full_like(z[:, 0], 1 / len(y)) if row_weight is None else row_weight
    omega, by_weights = _omega(name, s, n, epoch)
    weight = share * omega[y]
    weight = weight / weight.sum() if by_weights else weight
    weight = weight if kappa is None else weight * kappa
    total = (weight * formulas[name]()).sum()
    if name == "distil":
        assert teacher is not None
        extra = divergence(z, y, teacher, s, n, epoch=epoch, epochs=epochs)
        total = total + (share * extra).sum()
    if name == "lade":
        total = total + s["alpha"] * lade_regulariser(z, y, s, n, share)
    return total


def best_cosines(
    head: str, p: Mapping[str, Tensor], x: Tensor, y: Tensor, w0: Tensor, b0: Tensor
) -> Tensor:
    """cosθ* of the row of each class with the largest logit for it, [K]; 0 without a row."""
    z, cosines = logits(head, p, x, w0, b0), own_cosine(head, p, x, y, w0)
    best = torch.zeros_like(z[0])
    largest = [-math.inf] * len(best)
    for i, y_i in enumerate(y.tolist()):
        if z[i, y_i] > largest[y_i]:
            best[y_i], largest[y_i] = cosines[i], float(z[i, y_i])
    return best


# Training, METHODS §5 ----------------------------------------------------------------------------


def learning_rate(s: Settings, epoch: int, step: int, steps: int) -> float:
    """Learning rate of one step: epoch 0…T−1, step 0…steps−1."""
    total = s["epochs"]
    if epoch < s["warmup"]:
        return s["lr"] * (epoch + 1) / s["warmup"]
    if s["schedule"] == "cosine":
        return s["lr"] * 0.5 * (1 + math.cos(math.pi * epoch / total))
    if s["schedule"] == "cosine_prestep":
        return s["lr"] * 0.5 * (1 + math.cos(math.pi * (epoch + 1) / total))
    if s["schedule"] == "cosine_step":
        return s["lr"] * 0.5 * (1 + math.cos(math.pi * (epoch * steps + step) / (total * steps)))
    if s["schedule"] == "multistep":  # 160 and 180 of 200: four fifths and nine tenths
        return s["lr"] * 0.1 ** ((10 * epoch >= 8 * total) + (10 * epoch >= 9 * total))
    return s["lr"]


def multiplier(head: str, name: str, s: Settings) -> float:
    """Learning-rate multiplier of a parameter."""
    if head == "mislas":
        return s["scale_lr"] if name == "scale" else s["delta_lr"]
    return 1.0


def trained_by(head: str, s: Settings) -> list[str]:
    """The parameters that training may change under these settings."""
    left_out = set()
    if head == "cosine" and not s["learn_scale"]:
        left_out = {"scale"}
    if head == "disalign":
        left_out |= {"v", "c"} if s["confidence"] == "off" else set()
        left_out |= {"magnitude": {"beta"}, "margin": {"alpha"}, "both": set()}[s["learn"]]
    return [name for name in TRAINED[head] if name not in left_out]


def train(
    head: str,
    s: Settings,
    start: Mapping[str, Tensor],
    stream: Tensor,
    *,
    x: Tensor,
    y: Tensor,
    n: Tensor,
    w0: Tensor,
    b0: Tensor,
    made: Callable[[int, Tensor, dict[str, Tensor]], Iterable[tuple[Tensor, ...]]] | None = None,
) -> dict[str, Tensor]:
    """Train one configuration.

    Parameters
    ----------
    head, s
        The head and every setting of the recipe, the loss's among them.
    start
        Initial parameters.
    stream
        Row indices [epochs, steps, B].
    x, y, n, w0, b0
        Training split, class counts, stage-1 classifier; float64.
    made
        ``(epoch, row indices [steps, B], parameters) → (x [B, D], y [B]) or (x, y, other label [B],
        share of the first [B])`` of every step, where rows are made and not those of `x`.
    """
    trained = trained_by(head, s)
    delta = head == "mislas" and s.get("decay") == "delta"  # then ΔW and Δb are what is trained
    origin = {"weight": s["retention"] * w0, "bias": s["retention"] * b0} if delta else {}
    free = {k: value.detach().double() - origin.get(k, 0.0) for k, value in start.items()}
    optimiser = _optimiser(head, s, {k: free[k].requires_grad_() for k in trained})
    for epoch, batches in enumerate(stream):
        p = {k: value.detach() + origin.get(k, 0.0) for k, value in free.items()}
        best = best_cosines(head, p, x, y, w0, b0) if s["loss"] == "sla" else None
        drawn = made(epoch, batches, p) if made else [(x[rows], y[rows]) for rows in batches]
        for step, rows in enumerate(drawn):
            rate = learning_rate(s, epoch, step, len(batches))
            for group in optimiser.param_groups:
                group["lr"] = rate * multiplier(head, group["name"], s)
            p = {k: value + origin.get(k, 0.0) for k, value in free.items()}
            x_b, y_b, row_weight = _as_one_label(*rows)
            z = logits(head, p, x_b, w0, b0, s)
            kappa = None
            if best is not None:
                cosine = own_cosine(head, p, x_b, y_b, w0).detach()
                kappa = torch.exp(s["tau"] * (best[y_b] - cosine))
            value = loss(
                s["loss"],
                z,
                y_b,
                s,
                n,
                epoch=epoch,
                epochs=len(stream),
                kappa=kappa,
                teacher=stage1_logits(x_b, w0, b0, s),
                row_weight=row_weight,
            )
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
            if s.get("max_norm_when") == "step" or step == len(batches) - 1:
                _shorten(free, origin, row_limit(s, w0))
        if head == "samn":
            with torch.no_grad():
                for name in ("norm", "lift"):
                    free[name].copy_(isotonic(free[name], n))
    return {k: value.detach() + origin.get(k, 0.0) for k, value in free.items()}


def _as_one_label(
    x: Tensor, y: Tensor, other: Tensor | None = None, share: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """A row with two labels as two rows, weighted by their shares."""
    if other is None or share is None:
        return x, y, None
    weight = torch.cat([share, 1 - share]).double() / len(y)
    return torch.cat([x, x]), torch.cat([y, other]), weight


def row_limit(s: Settings, w0: Tensor) -> float:
    """How long a row of W may be [LTWB]: given, or min+f·(max−min) of the rows of W₀."""
    if s.get("max_norm") is not None:
        return s["max_norm"]
    if s.get("max_norm_fraction") is None:
        return math.inf
    lengths = [math.sqrt(sum(v * v for v in row)) for row in w0.tolist()]
    return min(lengths) + s["max_norm_fraction"] * (max(lengths) - min(lengths))


def _shorten(free: Mapping[str, Tensor], origin: Mapping[str, Tensor], limit: float) -> None:
    """Rows of W = free + origin that are longer than `limit` become that long."""
    if limit == math.inf:
        return
    with torch.no_grad():
        for k, row in enumerate(free["weight"] + origin.get("weight", 0.0)):
            if row.norm() > limit:
                free["weight"][k] += row * (limit / row.norm() - 1)


def _optimiser(head: str, s: Settings, trained: Mapping[str, Tensor]) -> torch.optim.Optimizer:
    spared = () if s.get("decay_bias", True) else BIASES.get(head, ())
    groups = [
        {"params": [p], "name": name, "weight_decay": 0.0 if name in spared else s["weight_decay"]}
        for name, p in trained.items()
    ]
    if s["optimiser"] == "adamw":
        betas = (s.get("beta1", 0.9), s.get("beta2", 0.999))
        return torch.optim.AdamW(groups, lr=s["lr"], betas=betas, eps=s.get("eps", 1e-8))
    return torch.optim.SGD(groups, lr=s["lr"], momentum=s["momentum"], nesterov=s["nesterov"])
