"""Slow versions straight from the formulas, for what no package implements.

Every token, expert and sum is a loop or one plain product; nothing is shared between functions but `dora_weight`.
Each names its formula. Notation: x (T, D); W (O, D); A (E, R, D); B (E, O, R); router (E, D); s = alpha / R.
"""

import torch
from torch import Tensor


def dense_moe_lora(x: Tensor, w: Tensor, bias: Tensor | None, router: Tensor, a: Tensor, b: Tensor, s: float) -> Tensor:
    """Dense MoE LoRA as its README describes it: W x + b + s * sum over all e of softmax(router x)_e B_e A_e x."""
    rows = []
    for token in x:
        gates = torch.softmax(router @ token, dim=0)
        y = w @ token if bias is None else w @ token + bias
        for e in range(len(a)):
            y = y + s * gates[e] * (b[e] @ (a[e] @ token))
        rows.append(y)
    return torch.stack(rows)


def lora_smoe(
    x: Tensor, w: Tensor, bias: Tensor | None, router: Tensor | None, a: Tensor, b: Tensor, s: float, k: int = 2
) -> Tensor:
    """LoRA-SMoE's layer with its module's count of experts E = len(a): top min(k, E), divided by their sum.

    One expert is a LoRA, none is the frozen layer.
    """
    rows = []
    for token in x:
        y = w @ token if bias is None else w @ token + bias
        if len(a) == 1:
            y = y + s * (b[0] @ (a[0] @ token))
        elif len(a) > 1:
            p = torch.softmax(router @ token, dim=0)
            best = sorted(range(len(a)), key=lambda e: -p[e].item())[: min(k, len(a))]
            total = sum(p[e] for e in best)
            for e in best:
                y = y + s * p[e] / total * (b[e] @ (a[e] @ token))
        rows.append(y)
    return torch.stack(rows)


def hydralora(x: Tensor, w: Tensor, bias: Tensor | None, router: Tensor, a: Tensor, b: Tensor, s: float) -> Tensor:
    """HydraLoRA: one A (R, D) for all, W x + b + s * sum over all e of softmax(router x)_e B_e (A x)."""
    rows = []
    for token in x:
        gates = torch.softmax(router @ token, dim=0)
        low = a @ token
        y = w @ token if bias is None else w @ token + bias
        for e in range(len(b)):
            y = y + s * gates[e] * (b[e] @ low)
        rows.append(y)
    return torch.stack(rows)


def localized_loss(weights: list[Tensor], expert_types: list[int], sample_types: list[int], delta: float, form: str):
    """LoRAMoE's localized balancing loss of one layer.

    Q_en sums expert e's weight over the tokens of sample n; I_en is 1 + delta where the types of expert and sample
    agree and 1 - delta elsewhere; Z = I * Q. The variance divides by the number of entries less one.

    Args:
        weights: For each sample its tokens' expert weights, (tokens, E).
        expert_types: 0 or 1 for each expert.
        sample_types: 0 or 1 for each sample.
        delta: How much more of its own samples an expert should serve.
        form: "paper", var(Z) / mean(Z); or "code", var(Z) / (mean(Z)^2 + 1e-10).
    """
    entries = []
    for n, sample in enumerate(weights):
        for e in range(sample.shape[1]):
            importance = 1 + delta if expert_types[e] == sample_types[n] else 1 - delta
            entries.append(importance * sample[:, e].sum())
    mean = sum(entries) / len(entries)
    variance = sum((entry - mean) ** 2 for entry in entries) / (len(entries) - 1)
    return variance / mean if form == "paper" else variance / (mean**2 + 1e-10)


def dora_weight(w: Tensor, a: Tensor, b: Tensor, magnitude: Tensor, s: float, detach_norm: bool = True) -> Tensor:
    """DoRA's weight diag(m / n) (W + s B A), n the row norms of W + s B A, taken as constants unless told otherwise."""
    adapted = w + s * b @ a
    norm = adapted.square().sum(dim=1).sqrt()
    return (magnitude / (norm.detach() if detach_norm else norm))[:, None] * adapted


def mixdora_block(x: Tensor, parts: dict[str, tuple[Tensor, Tensor, Tensor, Tensor]], router: Tensor, k: int, s: float):
    """MixDoRA's gated block: sum over the top k of g_e W2_e (silu(W1_e x) * W3_e x), every W_e a `dora_weight`.

    Args:
        x: Tokens, (T, D).
        parts: For gate_proj, up_proj and down_proj: W, A (E, R, in), B (E, out, R) and magnitudes (E, out).
        router: (E, D).
        k: Experts of a token; their probabilities are divided by their sum.
        s: alpha / R.
    """
    rows = []
    for token in x:
        p = torch.softmax(router @ token, dim=0)
        best = sorted(range(len(router)), key=lambda e: -p[e].item())[:k]
        total = sum(p[e] for e in best)
        y = 0
        for e in best:
            w1, w3, w2 = (
                dora_weight(w, a[e], b[e], m[e], s)
                for w, a, b, m in (parts[name] for name in ("gate_proj", "up_proj", "down_proj"))
            )
            gate = w1 @ token
            y = y + p[e] / total * (w2 @ (gate * torch.sigmoid(gate) * (w3 @ token)))
        rows.append(y)
    return torch.stack(rows)
