"""The parts of the encoder: embeddings, attention, SwiGLU, their stack, and the pooler (paper §4.1.2)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention_nomic_bert import packed_attention, padded_attention
from .configuration_nomic_bert import NomicBertConfig
from .cpu_nomic_bert import CPU_CHUNK, CPU_ROW, is_cpu_inference, linear_map, rotated_dtype
from .rotary_nomic_bert import apply_rotary, is_traced, rotate_projection
from .unpadding_nomic_bert import Layout, Sequences

try:  # transformers >= 4.52; older ones read and train, without gradient checkpointing
    from transformers.modeling_layers import GradientCheckpointingLayer
except ImportError:
    GradientCheckpointingLayer = nn.Module  # type: ignore[assignment,misc]


class NomicBertEmbeddings(nn.Module):
    """Sum of word and token type embeddings; positions enter by RoPE alone."""

    def __init__(self, config: NomicBertConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)

    def forward(self, input_ids: Tensor | None, inputs_embeds: Tensor | None, token_type_ids: Tensor | None) -> Tensor:
        """(batch, tokens) ids or (batch, tokens, hidden) embeddings -> (batch, tokens, hidden)."""
        words = self.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        if token_type_ids is None:
            token_type_ids = torch.zeros((1, 1), dtype=torch.long, device=words.device)
        return words + self.token_type_embeddings(token_type_ids)


class NomicBertAttention(nn.Module):
    """Multi-head self-attention with one fused query-key-value projection and no biases."""

    def __init__(self, config: NomicBertConfig) -> None:
        super().__init__()
        self.config = config
        self.is_causal = False
        self.Wqkv = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=False)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.drop = nn.Dropout(config.attention_probs_dropout_prob)

    @property
    def dropout_probability(self) -> float:
        """What attention probabilities are dropped with, now: 0 outside training."""
        return self.drop.p if self.drop.training else 0.0

    def forward(
        self,
        hidden: Tensor,
        rotary: tuple[Tensor, Tensor],
        sequences: Sequences | None,
        mask: Tensor | None,
        keep_probabilities: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """(batch, tokens, hidden) -> the same, and where attention is eager, its probabilities."""
        heads, head_dim = self.config.num_attention_heads, self.config.head_dim
        projected = linear_map(self.Wqkv, hidden).unflatten(-1, (3, heads, head_dim))
        if self.training and not is_traced():
            query, key, value = rotate_projection(projected, *rotary, rotated_dtype(projected, sequences)).unbind(2)
        else:
            query, key = apply_rotary(projected[:, :, :2], *rotary).unbind(2)
            value = projected[:, :, 2]
        dropout = self.dropout_probability
        if sequences is not None:
            attended, probabilities = packed_attention(self, query, key, value, sequences, dropout), None
        else:
            attended, probabilities = padded_attention(self, query, key, value, mask, dropout, keep_probabilities)
        return linear_map(self.out_proj, attended.flatten(-2)), probabilities


class NomicBertMLP(nn.Module):
    """SwiGLU: `fc2(fc11(x) * silu(fc12(x)))`, without biases."""

    def __init__(self, config: NomicBertConfig) -> None:
        super().__init__()
        self.fc11 = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.fc12 = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """(batch, tokens, hidden) -> the same."""
        parts = hidden.split(CPU_CHUNK, dim=1) if is_cpu_inference(self, hidden) else (hidden,)
        mapped = [self._swiglu(part) for part in parts]
        return mapped[0] if len(mapped) == 1 else torch.cat(mapped, dim=1)

    def _swiglu(self, hidden: Tensor) -> Tensor:
        gated = linear_map(self.fc11, hidden) * F.silu(linear_map(self.fc12, hidden))
        return linear_map(self.fc2, gated)


class NomicBertLayer(GradientCheckpointingLayer):
    """Attention, then SwiGLU, each with a layer norm after its residual sum."""

    def __init__(self, config: NomicBertConfig) -> None:
        super().__init__()
        self.attn = NomicBertAttention(config)
        self.mlp = NomicBertMLP(config)
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self,
        hidden: Tensor,
        rotary: tuple[Tensor, Tensor],
        sequences: Sequences | None,
        mask: Tensor | None,
        keep_probabilities: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """(batch, tokens, hidden) -> the same, and where attention is eager, its probabilities."""
        attended, probabilities = self.attn(hidden, rotary, sequences, mask, keep_probabilities)
        hidden = self.norm1(self.dropout(attended) + hidden)
        return self.norm2(self.dropout(self.mlp(hidden)) + hidden), probabilities


class NomicBertEncoder(nn.Module):
    """The stack of layers."""

    def __init__(self, config: NomicBertConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(NomicBertLayer(config) for _ in range(config.num_hidden_layers))

    def forward(
        self,
        hidden: Tensor,
        rotary: tuple[Tensor, Tensor],
        layout: Layout,
        keep_states: bool = False,
        keep_attentions: bool = False,
    ) -> tuple[Tensor, list[Tensor], list[Tensor | None]]:
        """Run the layers.

        Args:
            hidden: (rows, tokens, hidden) in the layout of the pass.
            rotary: cosines and sines of its tokens.
            layout: of the pass.
            keep_states: return the states too.
            keep_attentions: return the attentions too; the layout is then padded.

        Returns:
            In the caller's layout, the last output (batch, tokens, hidden); where kept, the input of every layer and
            that output; where kept, the attentions.
        """
        if not keep_states and layout.packed is not None and is_cpu_inference(self, hidden):
            parts = layout.packed.split(CPU_ROW)
            if len(parts) > 1:
                return layout.leave(self._in_parts(hidden, rotary, parts)), [], []
        states, attentions = [], []
        for layer in self.layers:
            if keep_states:  # else a pass without gradients need not hold them all
                states.append(layout.leave(hidden))
                hidden = layout.enter(states[-1])  # so that what is returned lies on the way to the loss
            hidden, probabilities = layer(hidden, rotary, layout.packed, layout.mask, keep_attentions)
            if keep_attentions:
                attentions.append(probabilities)
        hidden = layout.leave(hidden)
        return hidden, [*states, hidden] if keep_states else [], attentions

    def _in_parts(self, hidden: Tensor, rotary: tuple[Tensor, Tensor], parts: list[Sequences]) -> Tensor:
        sizes = [part.total for part in parts]
        rows = zip(parts, *(tokens.split(sizes, dim=1) for tokens in (hidden, *rotary)), strict=True)
        outputs = []
        for part, row, *tables in rows:
            for layer in self.layers:
                row, _ = layer(row, tuple(tables), part, None)
            outputs.append(row)
        return torch.cat(outputs, dim=1)


class NomicBertPooler(nn.Module):
    """First token through a dense layer and tanh; the classifier's input, not the embedding."""

    def __init__(self, config: NomicBertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """(batch, tokens, hidden), mask (batch, tokens), 0 at padding on either side -> (batch, hidden)."""
        if attention_mask is None:
            first = hidden[:, 0]
        else:
            places = (attention_mask != 0).int().argmax(dim=1)  # of equal values the first
            first = hidden[torch.arange(len(hidden), device=hidden.device), places]
        return torch.tanh(self.dense(first))
