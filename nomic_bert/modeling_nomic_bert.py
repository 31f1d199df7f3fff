"""Nomic BERT: a bidirectional encoder with RoPE and SwiGLU, and its heads (paper §4.1.2).

Weight names and shapes are those of the released checkpoints. The model unpads what it is given, so that padding is
never computed on, and scales RoPE by each text's own length, so that an embedding depends on its text alone.
"""

from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling, MaskedLMOutput, SequenceClassifierOutput

from .configuration_nomic_bert import NomicBertConfig
from .cpu_nomic_bert import CPU_CHUNK, CPU_ROW, NomicBertLinear, is_cpu_inference
from .loading_nomic_bert import NomicBertPreTrainedModel
from .rotary_nomic_bert import apply_rotary, inverse_frequencies, length_limit, rotary_tables, warn_if_too_long
from .unpadding_nomic_bert import Sequences, can_pack, exports, packed_attention, padded_attention, plan_layout

_TIED = {"cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight"}


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
            return words + self.token_type_embeddings.weight[0]
        return words + self.token_type_embeddings(token_type_ids)


class NomicBertAttention(nn.Module):
    """Multi-head self-attention with one fused query-key-value projection and no biases."""

    def __init__(self, config: NomicBertConfig) -> None:
        super().__init__()
        self.config = config
        self.is_causal = False
        self.Wqkv = NomicBertLinear(config.hidden_size, 3 * config.hidden_size)
        self.out_proj = NomicBertLinear(config.hidden_size, config.hidden_size)

    def forward(
        self, hidden: Tensor, rotary: tuple[Tensor, Tensor], sequences: Sequences | None, mask: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """(batch, tokens, hidden) -> the same, and the probabilities where attention is eager."""
        heads, head_dim = self.config.num_attention_heads, self.config.head_dim
        projected = self.Wqkv(hidden).unflatten(-1, (3, heads, head_dim))
        query, key = apply_rotary(projected[:, :, :2], *rotary).unbind(2)
        value = projected[:, :, 2]
        dropout = self.config.attention_probs_dropout_prob if self.training else 0.0
        if sequences is not None:
            attended, probabilities = packed_attention(self, query, key, value, sequences, dropout), None
        else:
            attended, probabilities = padded_attention(self, query, key, value, mask, dropout)
        return self.out_proj(attended.flatten(-2)), probabilities


class NomicBertMLP(nn.Module):
    """SwiGLU: `fc2(fc11(x) * silu(fc12(x)))`, without biases."""

    def __init__(self, config: NomicBertConfig) -> None:
        super().__init__()
        self.fc11 = NomicBertLinear(config.hidden_size, config.intermediate_size)
        self.fc12 = NomicBertLinear(config.hidden_size, config.intermediate_size)
        self.fc2 = NomicBertLinear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        """(batch, tokens, hidden) -> the same."""
        parts = hidden.split(CPU_CHUNK, dim=1) if is_cpu_inference(self, hidden) else (hidden,)
        mapped = [self.fc2(self.fc11(part) * F.silu(self.fc12(part))) for part in parts]
        return mapped[0] if len(mapped) == 1 else torch.cat(mapped, dim=1)


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
        self, hidden: Tensor, rotary: tuple[Tensor, Tensor], sequences: Sequences | None, mask: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """(batch, tokens, hidden) -> the same, and the attention probabilities where attention is eager."""
        attended, probabilities = self.attn(hidden, rotary, sequences, mask)
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
        sequences: Sequences | None,
        mask: Tensor | None,
        keep_states: bool = False,
        keep_attentions: bool = False,
    ) -> tuple[Tensor, list[Tensor], list[Tensor | None]]:
        """(batch, tokens, hidden) -> the same; where kept, the input of every layer and the last output; attentions."""
        if not keep_states and sequences is not None and is_cpu_inference(self, hidden):
            parts = sequences.split(CPU_ROW)
            if len(parts) > 1:
                return self._in_parts(hidden, rotary, parts), [], []
        states, attentions = [hidden] if keep_states else [], []
        for layer in self.layers:
            hidden, probabilities = layer(hidden, rotary, sequences, mask)
            if keep_states:  # else a pass without gradients need not hold them all
                states.append(hidden)
            if keep_attentions:
                attentions.append(probabilities)
        return hidden, states, attentions

    def _in_parts(self, hidden: Tensor, rotary: tuple[Tensor, Tensor], parts: list[Sequences]) -> Tensor:
        sizes = [part.total for part in parts]
        rows = zip(parts, *(tokens.split(sizes, dim=1) for tokens in (hidden, *rotary)), strict=True)
        return torch.cat([self(row, (cos, sin), part, mask=None)[0] for part, row, cos, sin in rows], dim=1)


class NomicBertPooler(nn.Module):
    """First token through a dense layer and tanh; the classifier's input, not the embedding."""

    def __init__(self, config: NomicBertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        """(batch, tokens, hidden) -> (batch, hidden)."""
        return torch.tanh(self.dense(hidden[:, 0]))


class NomicBertModel(NomicBertPreTrainedModel):
    """The encoder: token ids to one vector a token. Mean pooling and prefixes belong to `nomic_bert.embedder`."""

    _auto_class = "AutoModel"

    def __init__(self, config: NomicBertConfig, add_pooling_layer: bool = False) -> None:
        super().__init__(config)
        self.embeddings = NomicBertEmbeddings(config)
        self.emb_ln = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.emb_drop = nn.Dropout(config.hidden_dropout_prob)
        self.encoder = NomicBertEncoder(config)
        self.pooler = NomicBertPooler(config) if add_pooling_layer else None
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """The word embedding."""
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the word embedding."""
        self.embeddings.word_embeddings = value  # type: ignore[assignment]

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        cu_seq_lens_q: Tensor | None = None,
        cu_seq_lens_k: Tensor | None = None,
        max_length_q: int | None = None,
        max_length_k: int | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutputWithPooling | tuple:
        """Encode a padded batch, or sequences packed into one row.

        Args:
            input_ids: (batch, tokens). Give this or `inputs_embeds`.
            attention_mask: (batch, tokens), 0 at padding, left or right; None: no padding.
            token_type_ids: (batch, tokens); None: all 0.
            position_ids: (batch, tokens); None: counted inside each sequence. In one row without a mask, positions
                that return to 0 mark packed sequences, as transformers' flattening collator writes them.
            inputs_embeds: (batch, tokens, hidden) in place of the word embeddings.
            cu_seq_lens_q: int32 (sequences + 1,) offsets of sequences packed into one row (1, tokens).
            cu_seq_lens_k: what transformers' flattening collator adds, as the next two; not needed.
            max_length_q: not needed.
            max_length_k: not needed.
            output_attentions: also return probabilities (batch, heads, tokens, tokens) per layer; needs
                `attn_implementation="eager"`.
            output_hidden_states: also return the (batch, tokens, hidden) input of every layer and the last output.
            return_dict: False returns a tuple.

        Returns:
            `last_hidden_state` (batch, tokens, hidden), 0 at padding; `pooler_output` (batch, hidden) where there is
            a pooler; `hidden_states` and `attentions` where asked for.

        Raises:
            ValueError: inputs that contradict each other or have the wrong shape.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("NomicBertModel: give exactly one of input_ids and inputs_embeds.")
        output_attentions = self.config.output_attentions if output_attentions is None else output_attentions
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if output_attentions and self.config._attn_implementation != "eager":
            raise ValueError(
                "NomicBertModel: output_attentions needs the eager implementation; call "
                "set_attn_implementation('eager') or load with attn_implementation='eager'."
            )
        hidden = self.embeddings(input_ids, inputs_embeds, token_type_ids)
        dropout = self.config.attention_probs_dropout_prob if self.training else 0.0
        pack = can_pack(self.config._attn_implementation, hidden, dropout)
        layout = plan_layout(hidden, attention_mask, position_ids, cu_seq_lens_q, pack)
        if not exports() and layout.positions.shape[1] > length_limit(self.config):  # the cheap test first
            warn_if_too_long(self.config, layout.longest)
        hidden = self.emb_drop(self.emb_ln(layout.enter(hidden)))
        rotary = rotary_tables(layout.per_token(inverse_frequencies(self.config, layout.lengths)), layout.positions)
        hidden, states, attentions = self.encoder(
            hidden, rotary, layout.packed, layout.mask, bool(output_hidden_states), bool(output_attentions)
        )
        hidden = layout.leave(hidden)
        output = BaseModelOutputWithPooling(
            last_hidden_state=hidden,
            pooler_output=None if self.pooler is None else self.pooler(hidden),
            hidden_states=tuple(layout.leave(state) for state in states) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
        )
        return output if _wants_dict(return_dict, self.config) else output.to_tuple()


class NomicBertMLMTransform(nn.Module):
    """Dense layer, SiLU and layer norm before the decoder."""

    def __init__(self, config: NomicBertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., hidden) -> the same."""
        return self.layer_norm(F.silu(self.dense(hidden)))


class NomicBertMLMPredictions(nn.Module):
    """Transform and decoder; the decoder is the word embedding, without a bias."""

    def __init__(self, config: NomicBertConfig) -> None:
        super().__init__()
        self.transform = NomicBertMLMTransform(config)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., hidden) -> logits (..., vocab)."""
        return self.decoder(self.transform(hidden))


class SummedCrossEntropy(torch.autograd.Function):
    """Cross entropy summed over tokens, in float32, with two buffers of the logits' size less than autograd's own.

    Over a vocabulary these are the largest tensors of a training step.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        """Logits (tokens, vocab) and ids (tokens,) -> the sum."""
        log_probabilities = F.log_softmax(logits, dim=-1, dtype=torch.float32)
        ctx.save_for_backward(log_probabilities, targets)
        ctx.dtype = logits.dtype
        return -log_probabilities.gather(1, targets[:, None]).sum()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        """Probabilities, less 1 at the targets; in the buffer of the forward pass, so there is no second backward."""
        log_probabilities, targets = ctx.saved_tensors
        probabilities = log_probabilities.exp_()
        probabilities.scatter_add_(1, targets[:, None], probabilities.new_full((len(targets), 1), -1.0))
        return probabilities.mul_(gradient).to(ctx.dtype), None


class NomicBertMLMHead(nn.Module):
    """Holds the predictions under the released name `cls.predictions`."""

    def __init__(self, config: NomicBertConfig) -> None:
        super().__init__()
        self.predictions = NomicBertMLMPredictions(config)


class NomicBertForMaskedLM(NomicBertPreTrainedModel):
    """Encoder with a masked language modelling head, which runs on labelled tokens only."""

    _auto_class = "AutoModelForMaskedLM"
    _tied_weights_keys = _TIED if int(transformers.__version__.split(".")[0]) >= 5 else list(_TIED)  # type: ignore[assignment]

    def __init__(self, config: NomicBertConfig) -> None:
        super().__init__(config)
        self.bert = NomicBertModel(config)
        self.cls = NomicBertMLMHead(config)
        self.post_init()

    def get_output_embeddings(self) -> nn.Linear:
        """The decoder."""
        return self.cls.predictions.decoder

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Replace the decoder."""
        self.cls.predictions.decoder = new_embeddings

    def forward(
        self,
        input_ids: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        return_dict: bool | None = None,
        **encoder_inputs: Any,
    ) -> MaskedLMOutput | tuple:
        """Predict tokens.

        Args:
            input_ids: (batch, tokens), or (1, tokens) packed.
            labels: as `input_ids`; the original id at masked places, -100 elsewhere.
            num_items_in_batch: masked tokens that the loss is averaged over, of all accumulated batches and ranks;
                None: those of this batch.
            return_dict: False returns a tuple.
            **encoder_inputs: the other arguments of `NomicBertModel.forward`.

        Returns:
            Without labels, `logits` (batch, tokens, vocab). With labels, `loss` and the `logits` of the labelled
            tokens alone (labelled, vocab), in the order of `labels[labels != -100]`: the head is not computed
            elsewhere.
        """
        encoded = self.bert(input_ids, return_dict=True, **encoder_inputs)
        hidden, loss = encoded.last_hidden_state, None
        if labels is None:
            logits = self.cls.predictions(hidden)
        else:
            labelled = labels != -100
            targets = labels[labelled]
            logits = self.cls.predictions(hidden[labelled])
            total = SummedCrossEntropy.apply(logits, targets)
            loss = total / (max(len(targets), 1) if num_items_in_batch is None else num_items_in_batch)
        output = MaskedLMOutput(loss, logits, encoded.hidden_states, encoded.attentions)
        return output if _wants_dict(return_dict, self.config) else output.to_tuple()


NomicBertForPreTraining = NomicBertForMaskedLM  # the name in the released checkpoints


class NomicBertForSequenceClassification(NomicBertPreTrainedModel):
    """Encoder with a classifier (or, with one label, a regressor) on the pooled first token."""

    _auto_class = "AutoModelForSequenceClassification"

    def __init__(self, config: NomicBertConfig) -> None:
        super().__init__(config)
        self.num_labels = int(config.num_labels or 2)
        self.bert = NomicBertModel(config, add_pooling_layer=True)
        dropout = config.embd_pdrop if config.classifier_dropout is None else config.classifier_dropout
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(config.hidden_size, self.num_labels)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        return_dict: bool | None = None,
        **encoder_inputs: Any,
    ) -> SequenceClassifierOutput | tuple:
        """Classify texts.

        Args:
            input_ids: (batch, tokens).
            labels: class ids (batch,); numbers (batch,) with one label; 0 or 1 (batch, num_labels) for
                `problem_type="multi_label_classification"`.
            num_items_in_batch: labels that the loss is averaged over, of all accumulated batches and ranks; None:
                those of this batch.
            return_dict: False returns a tuple.
            **encoder_inputs: the other arguments of `NomicBertModel.forward`.

        Returns:
            `loss` where labels are given, and `logits` (batch, num_labels).

        Raises:
            ValueError: packed input; its first tokens are not at the start of rows.
        """
        if encoder_inputs.get("cu_seq_lens_q") is not None:
            raise ValueError("NomicBertForSequenceClassification takes padded batches, not packed rows.")
        encoded = self.bert(input_ids, return_dict=True, **encoder_inputs)
        logits = self.classifier(self.dropout(encoded.pooler_output))
        loss = None if labels is None else self._loss(logits.float(), labels, num_items_in_batch)
        output = SequenceClassifierOutput(loss, logits, encoded.hidden_states, encoded.attentions)
        return output if _wants_dict(return_dict, self.config) else output.to_tuple()

    def _loss(self, logits: Tensor, labels: Tensor, num_items: Tensor | int | None) -> Tensor:
        problem = self.config.problem_type
        if problem == "multi_label_classification":
            total = F.binary_cross_entropy_with_logits(logits, labels.float(), reduction="sum")
        elif problem == "regression" or (problem is None and self.num_labels == 1):
            total = F.mse_loss(logits.view(labels.shape), labels.float(), reduction="sum")
        else:
            total = F.cross_entropy(logits, labels.view(-1), reduction="sum")
        return total / ((labels != -100).sum() if num_items is None else num_items)


def _wants_dict(return_dict: bool | None, config: NomicBertConfig) -> bool:
    return config.return_dict is not False if return_dict is None else return_dict
