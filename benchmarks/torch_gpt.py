"""The prior in PyTorch, without a cache: the yardstick of `sampling.py` and `gpt_step.py`."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from geovq_jax.models.gpt import Architecture


class Block(nn.Module):
    """One pre-norm transformer block."""

    def __init__(self, arch: Architecture):
        super().__init__()
        width = arch.embed_dim
        self.num_heads, self.rate = arch.num_heads, arch.dropout
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.mlp_in = nn.Linear(width, arch.mlp_ratio * width)
        self.mlp_out = nn.Linear(arch.mlp_ratio * width, width)
        self.dropout = nn.Dropout(arch.dropout)

    def forward(self, x):
        b, t, d = x.shape
        query, key, value = (
            part.view(b, t, self.num_heads, -1).transpose(1, 2)
            for part in self.query_key_value(self.norm_attention(x)).split(d, dim=2)
        )
        attended = functional.scaled_dot_product_attention(
            query, key, value, dropout_p=self.rate if self.training else 0.0, is_causal=True
        )
        x = x + self.dropout(self.attention_out(attended.transpose(1, 2).reshape(b, t, d)))
        return x + self.dropout(self.mlp_out(functional.gelu(self.mlp_in(self.norm_mlp(x)), approximate="tanh")))


class TorchGPT(nn.Module):
    """Tokens [b, t], the first one BOS, and labels [b] to logits [b, t, K]; 1-D positions, tied head."""

    def __init__(self, arch: Architecture):
        super().__init__()
        self.arch = arch
        self.tokens = nn.Parameter(torch.empty(arch.num_codes + 3, arch.embed_dim))
        self.classes = nn.Parameter(torch.empty(arch.num_classes + 1, arch.embed_dim))
        self.positions = nn.Parameter(torch.empty(arch.length, arch.embed_dim))
        self.blocks = nn.ModuleList(Block(arch) for _ in range(arch.num_layers))
        self.norm = nn.LayerNorm(arch.embed_dim)
        self.dropout = nn.Dropout(arch.dropout)

    def forward(self, tokens, labels, last_only: bool = False):
        x = self.dropout(self.tokens[tokens] + self.classes[labels][:, None] + self.positions[: tokens.shape[1]])
        for block in self.blocks:
            x = block(x)
        return self.norm(x[:, -1:] if last_only else x) @ self.tokens[: self.arch.num_codes].T


def from_jax(params, arch: Architecture) -> TorchGPT:
    """The same network with the same parameters."""
    model = TorchGPT(arch)

    def copy(target, source):
        target.data = torch.tensor(np.array(source))

    def copy_layer(layer, source):
        copy(layer.weight, source["scale"] if "scale" in source else np.array(source["kernel"]).T)
        copy(layer.bias, source["bias"])

    for name in ("tokens", "classes", "positions"):
        copy(getattr(model, name), params[name])
    copy_layer(model.norm, params["norm"])
    for i, block in enumerate(model.blocks):
        for name, source in params[f"block_{i}"].items():
            copy_layer(getattr(block, name), source)
    return model


@torch.no_grad()
def sample(model: TorchGPT, labels: torch.Tensor, length: int, temperature: float = 1.0) -> torch.Tensor:
    """The loop as usually written: the whole prefix through the network for every new code."""
    model.eval()
    tokens = torch.full((labels.shape[0], 1), model.arch.bos)
    for _ in range(length):
        logits = model(tokens, labels, last_only=True)[:, -1] / temperature
        drawn = torch.multinomial(torch.softmax(logits, dim=-1), 1)
        tokens = torch.cat([tokens, drawn], dim=1)
    return tokens[:, 1:]


def adamw(model: TorchGPT, learning_rate: float) -> torch.optim.Optimizer:
    """AdamW with decay on matrices only, fused."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate, fused=True)


def train_step(model: TorchGPT, optimizer: torch.optim.Optimizer, codes: torch.Tensor, labels: torch.Tensor) -> float:
    """One step on one batch; returns the loss in nats per code."""
    model.train()
    tokens = functional.pad(codes, (1, 0), value=model.arch.bos)[:, :-1]
    logits = model(tokens, labels)
    loss = functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), codes.reshape(-1))
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()
