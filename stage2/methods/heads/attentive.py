"""Attentive probing: learned queries attend to the tokens of a row [EP §3, AIM, CAE, ALF]."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from featbank.settings import Setting
from stage2.methods.heads.algebra import cosines_of_logits, project, weight_gradient
from stage2.methods.heads.interface import Batch, Context, Parameters, Settings, Size
from stage2.methods.heads.reduction import Reduction
from stage2.methods.heads.starts import fresh_linear, uniform
from stage2.methods.heads.tokens import (
    BOUND,
    TokenHead,
    rows_of,
    split_tokens,
    token_dim,
    tokens_of,
)
from stage2.methods.on_demand import torch
from stage2.methods.precision import product
from stage2.methods.seeding import seeded

if TYPE_CHECKING:
    from torch import Tensor

START = 0.02
"""Standard deviation of fresh queries, in every release."""
EPSILON = 1e-5
"""Added to the variance of a token, as by `torch.nn.LayerNorm`."""


class Attentive(TokenHead):
    """z = Σ_h W_h V_h p_h + b with p_h = Σ_t a_ht x_t and a_ht = softmax_t ⟨u_h, x_t⟩/√D.

    The u_h are the ``query`` [C, H, D], ``weight`` is [C, K, H·E]. Without ``values`` V_h is the
    identity and E = D; with ``values`` v it is trained, the parameter ``value`` [C, H, E, D] with
    E = v·⌊D/H⌋, so that all heads together have v·D. Fresh u ~ N(0, 0.02²) attend to all tokens
    about alike; V and W are drawn like `torch.nn.Linear`.

    Releases with one query token and H attention heads have projections of query and keys, which
    only occur in u_h = W_kᵀW_q q: trained here as one. Their batch normalisation of pooled tokens,
    affine layers of LayerNorm, output projection and biases are affine behind the softmax, or
    constant over tokens in front of it, and absorbed by W, b and u. ``token_norm=layer`` leaves
    x̂ = (x − mean)/√(var + 10⁻⁵) of LayerNorm; the constant 1 ``layer`` among the parameters stands
    for it.
    """

    description = "learned queries that attend to tokens, then a linear classifier"
    source = "ep"
    settings = (
        Setting("queries", 1, "number H of queries; 0 for one per token", low=0),
        Setting("values", 0, "width of all V_h x together, in D; 0 for tokens as they are", low=0),
        Setting(
            "token_norm",
            "none",
            "tokens as they are, or each less its mean, over its standard deviation",
            choices=("none", "layer"),
        ),
        *BOUND,
    )
    shared = ("queries", "values", "token_norm")
    biases = ("bias",)

    def size(self, settings: Settings, dim: int, classes: int, tokens: int = 1) -> Size:
        queries, own, width = _shape(settings, tokens, dim // tokens)
        below = queries * (dim // tokens)
        parameters = below * (1 + own * width) + queries * width * classes
        return Size(parameters, 2 * classes + 3 * queries * tokens + 2 * (below + queries * width))

    def init(self, settings: Sequence[Settings], context: Context) -> Parameters:
        dim, device = token_dim(context), context.device
        queries, own, width = _shape(settings[0], context.tokens or 1, dim)
        parameters = {
            "query": torch.stack([_query(s["seed"], queries, dim) for s in settings]).to(device),
            **fresh_linear(settings, (len(context.counts), queries * width), device),
        }
        if own:
            shape, bound = (queries, width, dim), 1 / math.sqrt(dim)
            drawn = [uniform(s["seed"], shape, bound, "value") for s in settings]
            parameters["value"] = torch.stack(drawn).to(device)
        if settings[0]["token_norm"] == "layer":
            parameters["layer"] = torch.ones(len(settings), 1, device=device)
        return parameters

    def numbers(self, parameters: Parameters, batch: Batch) -> int:
        configs, queries, dim = parameters["query"].shape
        features = batch.source[0].numel() * (1 + ("layer" in parameters))
        return features + configs * queries * (3 * features // dim + 2 * dim)

    def piece_logits(self, parameters: Parameters, batch: Batch) -> Tensor:
        pooled = _attention(parameters, batch).pooled
        return project(_valued(parameters, pooled), parameters["weight"], parameters["bias"])

    def piece_gradients(self, parameters: Parameters, batch: Batch, grad: Tensor) -> Parameters:
        # With y_h = V_h p_h:  ∂L/∂W = Gᵀy,  ∂L/∂y = GW,  ∂L/∂V_h = (∂L/∂y_h)ᵀp_h,
        # ∂L/∂p_h = V_hᵀ ∂L/∂y_h =: d_h.  With s_ht = ⟨u_h, x_t⟩/√D and e_ht = ⟨d_h, x_t⟩:
        # ∂L/∂s_ht = a_ht (e_ht − Σ_t' a_ht' e_ht'),  ∂L/∂u_h = Σ_bt ∂L/∂s_ht x_t/√D.
        tokens, share, pooled = _attention(parameters, batch)
        query = parameters["query"]
        configs, queries, dim = query.shape
        y = _valued(parameters, pooled)
        found = {"weight": weight_gradient(grad, y), "bias": grad.sum(0)}
        back = project(grad, parameters["weight"].transpose(1, 2))
        if "value" in parameters:
            flat, rows = parameters["value"].flatten(0, 1), pooled.unflatten(2, (queries, dim))
            back = back.view(len(back), configs * queries, -1)
            found["value"] = weight_gradient(back, rows.flatten(1, 2)).view_as(parameters["value"])
            back = project(back, flat.transpose(1, 2))
        slope = product(back.view(len(tokens), -1, dim), tokens.transpose(1, 2))
        slope.sub_((slope * share).sum(2, keepdim=True)).mul_(share).mul_(1 / math.sqrt(dim))
        found["query"] = _query_gradient(slope, tokens, query)
        return found

    def cosine(self, parameters: Parameters, batch: Batch, z: Tensor, y: Tensor) -> Tensor:
        lengths = torch.cat(
            [
                _valued(parameters, _attention(parameters, piece).pooled).norm(dim=2)
                for piece in self._pieces(parameters, batch)
            ]
        )
        return cosines_of_logits(z, y, lengths, parameters["weight"], parameters["bias"])

    def form(self, parameters: Parameters, settings: Settings, context: Context) -> Reduction:
        query, weight = parameters["query"], parameters["weight"]
        weight = weight.unflatten(1, (len(query), -1))
        if "value" in parameters:  # W_h V_h
            weight = torch.einsum("khe,hed->khd", weight, parameters["value"])
        tensors = {"query": query, "weight": weight.contiguous(), "bias": parameters["bias"]}
        return Reduction("attentive", tensors, {"token_norm": settings["token_norm"]})


class _Attention(NamedTuple):
    """Tokens [R, T, D] as the queries see them, R = B or B·C rows; the share a of each in each
    query [R, Q, T], of Q = C·H or H queries; pooled tokens [B, C, H·D]."""

    tokens: Tensor
    share: Tensor
    pooled: Tensor


def _shape(settings: Settings, tokens: int, dim: int) -> tuple[int, bool, int]:
    """H, whether V is trained, and E."""
    queries, values = settings["queries"] or tokens, settings["values"]
    return queries, values > 0, max(1, values * (dim // queries)) if values else dim


def _query(seed: int, queries: int, dim: int) -> Tensor:
    return torch.empty(queries, dim).normal_(0, START, generator=seeded(seed, "query"))


def _attention(parameters: Parameters, batch: Batch) -> _Attention:
    """The attention of these queries; the last one of a batch is kept, for its gradients."""
    query = parameters["query"]
    kept = batch.kept.get("attention")
    if kept is not None and kept[0] is query and kept[1] == query._version:
        return kept[2]
    tokens = _normalised(batch) if "layer" in parameters else tokens_of(batch)
    rows, (configs, queries, dim) = rows_of(batch), query.shape
    if batch.source.dim() == 2:
        each = query.view(1, configs * queries, dim).expand(len(tokens), -1, -1)
    else:
        each = query.expand(rows, -1, -1, -1).reshape(len(tokens), queries, dim)
    scores = product(each, tokens.transpose(1, 2)).mul_(1 / math.sqrt(dim))
    share = scores.softmax(2)
    pooled = product(share, tokens).view(rows, configs, queries * dim)
    found = _Attention(tokens, share, pooled)
    batch.kept["attention"] = query, query._version, found
    return found


def _normalised(batch: Batch) -> Tensor:
    """(x − mean)/√(var + 10⁻⁵) of each token, in a new tensor; faster than to gather rows and call
    LayerNorm."""
    x = batch.source.clone() if batch.rows is None else batch.source.index_select(0, batch.rows)
    tokens = split_tokens(x, batch.context)
    tokens.sub_(tokens.mean(2, keepdim=True))
    length = torch.linalg.vector_norm(tokens, dim=2, keepdim=True)
    return tokens.mul_(length.square_().div_(tokens.shape[2]).add_(EPSILON).rsqrt_())


def _valued(parameters: Parameters, pooled: Tensor) -> Tensor:
    """V_h p_h of all h side by side, [B, C, H·E], from pooled tokens [B, C, H·D]."""
    value = parameters.get("value")
    if value is None:
        return pooled
    configs, queries, _, dim = value.shape
    rows = pooled.view(len(pooled), configs * queries, dim)
    return project(rows, value.flatten(0, 1)).view(len(pooled), configs, -1)


def _query_gradient(slope: Tensor, tokens: Tensor, query: Tensor) -> Tensor:
    """Σ_bt of slopes [R, Q, T] and tokens [R, T, D], [C, H, D]."""
    rows, each, count = slope.shape
    if each == query.shape[0] * query.shape[1]:
        flat = slope.transpose(0, 1).reshape(each, rows * count)
        return product(flat, tokens.reshape(rows * count, -1)).view_as(query)
    own = product(slope, tokens)  # [B·C, H, D]
    return own.view(-1, *query.shape).sum(0)
