"""Nomic BERT: a bidirectional encoder with RoPE and SwiGLU, and its heads (paper §4.1.2).

Weight names and shapes are those of the released checkpoints. The model unpads what it is given, so that padding is
never computed on, and scales RoPE by each text's own length, so that an embedding depends on its text alone.
"""

from typing import TYPE_CHECKING

import transformers
from torch import Tensor, nn
from transformers.modeling_outputs import (
    BaseModelOutputWithPooling,
    MaskedLMOutput,
    MultipleChoiceModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)

from .attention_nomic_bert import can_pack
from .configuration_nomic_bert import NomicBertConfig
from .cpu_nomic_bert import linear_map  # noqa: F401 (transformers < 5 copies the files that this one names, no others)
from .heads_nomic_bert import (
    EncoderInputs,
    MaskedLMScore,
    NomicBertMLMHead,
    SummedCrossEntropy,
    classification_loss,
    span_loss,
)
from .layers_nomic_bert import NomicBertEmbeddings, NomicBertEncoder, NomicBertPooler
from .loading_nomic_bert import NomicBertPreTrainedModel
from .rotary_nomic_bert import inverse_frequencies, length_limit, rotary_tables, warn_if_too_long
from .unpadding_nomic_bert import exports, plan_layout

if TYPE_CHECKING:
    from typing import Unpack  # Python >= 3.11

_TIED = {"cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight"}


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
        use_cache: bool | None = None,
        head_mask: Tensor | None = None,
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
            output_attentions: also return probabilities (batch, heads, tokens, tokens) per layer. The pass is then
                computed on padded tokens by eager attention, whatever the implementation.
            output_hidden_states: also return the (batch, tokens, hidden) input of every layer and the last output.
            return_dict: False returns a tuple.
            use_cache: has no effect, because an encoder has no cache; some callers pass it to every model.
            head_mask: refused.

        Returns:
            `last_hidden_state` (batch, tokens, hidden), 0 at padding; `pooler_output` (batch, hidden) where there is
            a pooler; `hidden_states` and `attentions` where asked for.

        Raises:
            ValueError: inputs that contradict each other or have the wrong shape.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("NomicBertModel: give exactly one of input_ids and inputs_embeds.")
        shape = tuple((input_ids if inputs_embeds is None else inputs_embeds).shape)  # type: ignore[union-attr]
        if len(shape) != (2 if inputs_embeds is None else 3):
            raise ValueError(
                "NomicBertModel: input_ids must be (batch, tokens) and inputs_embeds (batch, tokens, hidden); "
                f"got {shape}."
            )
        if head_mask is not None:
            raise ValueError("NomicBertModel: head_mask is not supported; leave it out.")
        output_attentions = self.config.output_attentions if output_attentions is None else output_attentions
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        hidden = self.embeddings(input_ids, inputs_embeds, token_type_ids)
        pack = not output_attentions and can_pack(self.config)
        layout = plan_layout(hidden, attention_mask, position_ids, cu_seq_lens_q, pack)
        if not exports() and layout.positions.shape[1] > length_limit(self.config):  # the cheap test first
            warn_if_too_long(self.config, layout.longest)
        hidden = self.emb_drop(self.emb_ln(layout.enter(hidden)))
        rotary = rotary_tables(layout.per_token(inverse_frequencies(self.config, layout.lengths)), layout.positions)
        hidden, states, attentions = self.encoder(
            hidden, rotary, layout, bool(output_hidden_states), bool(output_attentions)
        )
        output = BaseModelOutputWithPooling(
            last_hidden_state=hidden,
            pooler_output=None if self.pooler is None else self.pooler(hidden, attention_mask),
            hidden_states=tuple(states) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
        )
        return output if _wants_dict(return_dict, self.config) else output.to_tuple()


class NomicBertForMaskedLM(NomicBertPreTrainedModel):
    """Encoder with a masked language modelling head; training scores the labelled tokens alone (`score_only`)."""

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
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        num_items_in_batch: Tensor | int | None = None,
        masked_places: Tensor | None = None,
        score_only: bool = False,
        return_dict: bool | None = None,
        **encoder_inputs: "Unpack[EncoderInputs]",
    ) -> MaskedLMOutput | MaskedLMScore | tuple:
        """Predict tokens.

        Args:
            input_ids: (batch, tokens), and as in `NomicBertModel.forward` the next four.
            attention_mask: (batch, tokens), 0 at padding.
            token_type_ids: (batch, tokens).
            position_ids: (batch, tokens).
            inputs_embeds: (batch, tokens, hidden) in place of `input_ids`.
            labels: (batch, tokens); the original id at masked places, -100 elsewhere.
            num_items_in_batch: masked tokens that the loss is averaged over, of all accumulated batches and ranks;
                None: those of this batch.
            masked_places: (masked,) places of the labelled tokens in the flattened `labels`; None: they are looked
                for, which waits for a GPU. Trainer takes any name with "label" in it for labels.
            score_only: with labels, return a `MaskedLMScore` of the labelled tokens. Training needs no logits, and
                they are most of its memory.
            return_dict: False returns a tuple.
            **encoder_inputs: as in `NomicBertModel.forward`.

        Returns:
            `loss` where labels are given, and `logits` (batch, tokens, vocab).

        Raises:
            ValueError: labels of another shape than the input.
        """
        encoded = self.bert(
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, return_dict=True, **encoder_inputs
        )
        hidden = encoded.last_hidden_state
        if labels is None:
            output = MaskedLMOutput(None, self.cls.predictions(hidden), encoded.hidden_states, encoded.attentions)
            return output if _wants_dict(return_dict, self.config) else output.to_tuple()
        if labels.shape != hidden.shape[:2]:
            raise ValueError(
                f"labels must have the input's shape {tuple(hidden.shape[:2])}, not {tuple(labels.shape)}."
            )
        if masked_places is None:
            masked_places = (labels.flatten() != -100).nonzero().flatten()
        targets = labels.flatten()[masked_places]
        average_over = max(len(targets), 1) if num_items_in_batch is None else num_items_in_batch
        if score_only:
            total, hits = self.cls.predictions.score(hidden.flatten(0, 1).index_select(0, masked_places), targets)
            score = MaskedLMScore(total / average_over, hits)
            return score if _wants_dict(return_dict, self.config) else score.to_tuple()
        logits = self.cls.predictions(hidden)
        loss = SummedCrossEntropy.apply(logits.flatten(0, 1).index_select(0, masked_places), targets) / average_over
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
        self.dropout = nn.Dropout(_classifier_dropout(config))
        self.classifier = nn.Linear(config.hidden_size, self.num_labels)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        num_items_in_batch: Tensor | int | None = None,
        return_dict: bool | None = None,
        **encoder_inputs: "Unpack[EncoderInputs]",
    ) -> SequenceClassifierOutput | tuple:
        """Classify texts.

        Args:
            input_ids: (batch, tokens), and as in `NomicBertModel.forward` the next four.
            attention_mask: (batch, tokens), 0 at padding.
            token_type_ids: (batch, tokens).
            position_ids: (batch, tokens).
            inputs_embeds: (batch, tokens, hidden) in place of `input_ids`.
            labels: class ids (batch,); numbers (batch,) with one label; 0.0 or 1.0 (batch, num_labels) for several
                labels at once. `config.problem_type` decides where it is set.
            num_items_in_batch: labels that the loss is averaged over, of all accumulated batches and ranks; None:
                those of this batch.
            return_dict: False returns a tuple.
            **encoder_inputs: as in `NomicBertModel.forward`.

        Returns:
            `loss` where labels are given, and `logits` (batch, num_labels).

        Raises:
            ValueError: packed input; its first tokens are not at the start of rows.
        """
        self._refuse_packed(encoder_inputs.get("cu_seq_lens_q"), attention_mask, position_ids)
        encoded = self.bert(
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, return_dict=True, **encoder_inputs
        )
        logits = self.classifier(self.dropout(encoded.pooler_output))
        loss = classification_loss(self.config.problem_type, logits, labels, num_items_in_batch)
        output = SequenceClassifierOutput(loss, logits, encoded.hidden_states, encoded.attentions)
        return output if _wants_dict(return_dict, self.config) else output.to_tuple()


class NomicBertForTokenClassification(NomicBertPreTrainedModel):
    """Encoder with a classifier on every token."""

    _auto_class = "AutoModelForTokenClassification"

    def __init__(self, config: NomicBertConfig) -> None:
        super().__init__(config)
        self.num_labels = int(config.num_labels or 2)
        self.bert = NomicBertModel(config)
        self.dropout = nn.Dropout(_classifier_dropout(config))
        self.classifier = nn.Linear(config.hidden_size, self.num_labels)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        num_items_in_batch: Tensor | int | None = None,
        return_dict: bool | None = None,
        **encoder_inputs: "Unpack[EncoderInputs]",
    ) -> TokenClassifierOutput | tuple:
        """Classify tokens.

        The arguments are those of `NomicBertForSequenceClassification.forward`, with `labels` (batch, tokens), -100
        where a token has none. Packed rows are taken too.

        Returns:
            `loss` where labels are given, and `logits` (batch, tokens, num_labels).
        """
        encoded = self.bert(
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, return_dict=True, **encoder_inputs
        )
        logits = self.classifier(self.dropout(encoded.last_hidden_state))
        loss = classification_loss("single_label_classification", logits, labels, num_items_in_batch)
        output = TokenClassifierOutput(loss, logits, encoded.hidden_states, encoded.attentions)
        return output if _wants_dict(return_dict, self.config) else output.to_tuple()


class NomicBertForQuestionAnswering(NomicBertPreTrainedModel):
    """Encoder that finds the first and last token of an answer in a text."""

    _auto_class = "AutoModelForQuestionAnswering"
    accepts_loss_kwargs = False  # Trainer counts `labels`, and these have another name

    def __init__(self, config: NomicBertConfig) -> None:
        super().__init__(config)
        self.bert = NomicBertModel(config)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        *,
        return_dict: bool | None = None,
        **encoder_inputs: "Unpack[EncoderInputs]",
    ) -> QuestionAnsweringModelOutput | tuple:
        """Find answers.

        The arguments are those of `NomicBertForSequenceClassification.forward`, with `start_positions` and
        `end_positions` (batch,) of the answers' first and last tokens in place of labels; those beyond the last token
        of the batch are left out.

        Returns:
            `loss` where positions are given, and `start_logits` and `end_logits` (batch, tokens).

        Raises:
            ValueError: packed input; positions count from the start of rows.
        """
        self._refuse_packed(encoder_inputs.get("cu_seq_lens_q"), attention_mask, position_ids)
        encoded = self.bert(
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, return_dict=True, **encoder_inputs
        )
        start_logits, end_logits = self.qa_outputs(encoded.last_hidden_state).unbind(-1)
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = span_loss(start_logits, end_logits, start_positions, end_positions)
        output = QuestionAnsweringModelOutput(loss, start_logits, end_logits, encoded.hidden_states, encoded.attentions)
        return output if _wants_dict(return_dict, self.config) else output.to_tuple()


class NomicBertForMultipleChoice(NomicBertPreTrainedModel):
    """Encoder that scores the choices of a question by their pooled first tokens."""

    _auto_class = "AutoModelForMultipleChoice"

    def __init__(self, config: NomicBertConfig) -> None:
        super().__init__(config)
        self.bert = NomicBertModel(config, add_pooling_layer=True)
        self.dropout = nn.Dropout(_classifier_dropout(config))
        self.classifier = nn.Linear(config.hidden_size, 1)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        num_items_in_batch: Tensor | int | None = None,
        return_dict: bool | None = None,
        **encoder_inputs: "Unpack[EncoderInputs]",
    ) -> MultipleChoiceModelOutput | tuple:
        """Choose.

        The arguments are those of `NomicBertForSequenceClassification.forward`, each with a second dimension of
        choices: `input_ids` (batch, choices, tokens). `labels` (batch,) are the right choices.

        Returns:
            `loss` where labels are given, and `logits` (batch, choices).

        Raises:
            ValueError: packed input; its first tokens are not at the start of rows.
        """
        given = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        rows = [None if each is None else each.flatten(0, 1) for each in given]
        self._refuse_packed(encoder_inputs.get("cu_seq_lens_q"), rows[1], rows[3])
        encoded = self.bert(*rows, return_dict=True, **encoder_inputs)
        choices = next(each.shape[1] for each in (input_ids, inputs_embeds) if each is not None)
        logits = self.classifier(self.dropout(encoded.pooler_output)).view(-1, choices)
        loss = classification_loss("single_label_classification", logits, labels, num_items_in_batch)
        output = MultipleChoiceModelOutput(loss, logits, encoded.hidden_states, encoded.attentions)
        return output if _wants_dict(return_dict, self.config) else output.to_tuple()


def _classifier_dropout(config: NomicBertConfig) -> float:
    return config.embd_pdrop if config.classifier_dropout is None else config.classifier_dropout


def _wants_dict(return_dict: bool | None, config: NomicBertConfig) -> bool:
    return config.return_dict is not False if return_dict is None else return_dict
