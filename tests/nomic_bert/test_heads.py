"""The heads: transformers' signatures, shapes and losses, whoever calls them."""

import inspect

import pytest
import torch
import torch.nn.functional as F
from accelerate import cpu_offload
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Trainer, TrainingArguments
from transformers.models.nomic_bert import modeling_nomic_bert as native
from transformers.utils.generic import find_labels

from nomic_bert import (
    NomicBertForMaskedLM,
    NomicBertForMultipleChoice,
    NomicBertForQuestionAnswering,
    NomicBertForSequenceClassification,
    NomicBertForTokenClassification,
    NomicBertModel,
    heads_nomic_bert,
)
from tests.tensors import assert_close, pad

HEADS = [
    NomicBertForMaskedLM,
    NomicBertForSequenceClassification,
    NomicBertForTokenClassification,
    NomicBertForQuestionAnswering,
    NomicBertForMultipleChoice,
]


def test_a_text_is_classified_alike_whichever_side_is_padded(tiny_config, texts):
    model = NomicBertForSequenceClassification(tiny_config).eval()
    alone = torch.cat([model(text[None]).logits for text in texts])
    for left in (False, True):
        ids, mask = pad(texts, left=left)
        assert_close(model(ids, mask).logits, alone, 1e-5)


def test_labels_of_another_shape_are_refused(tiny_config):
    ids = torch.arange(6, 18).reshape(2, 6)
    for labels in (ids[:, 1:], ids.flatten(), ids[:1]):
        with pytest.raises(ValueError, match=r"labels must have the input's shape \(2, 6\)"):
            NomicBertForMaskedLM(tiny_config)(ids, labels=labels)


@pytest.mark.parametrize("head", [NomicBertModel, *HEADS])
def test_arguments_come_in_the_order_of_transformers(head):
    names = list(inspect.signature(head.forward).parameters)
    theirs = getattr(native, head.__name__, native.NomicBertForTokenClassification)
    expected = [name for name in inspect.signature(theirs.forward).parameters if name != "kwargs"]
    if head is NomicBertForQuestionAnswering:
        expected = [*expected[:-1], "start_positions", "end_positions"]
    assert names[: len(expected)] == expected


@torch.no_grad()
@pytest.mark.parametrize("head", HEADS)
def test_a_head_reads_mask_and_segments_by_position_and_by_keyword(tiny_config, texts, head):
    torch.manual_seed(0)
    model = head(tiny_config).eval()
    ids, mask = pad(texts[:3], width=70)
    types = (torch.arange(70) % 2).expand(3, -1)
    if head is NomicBertForMultipleChoice:
        ids, mask, types = (each[None] for each in (ids, mask, types))

    def scores(*inputs, **more):
        return model(*inputs, **more)[0]

    rows = [each.flatten(0, -2) for each in (ids, mask, types)]
    by_position, by_keyword = scores(ids, mask, types), scores(ids, attention_mask=mask, token_type_ids=types)
    assert torch.equal(by_position, by_keyword)
    assert not torch.allclose(scores(ids, mask), by_position, atol=1e-3), "segments matter"
    for row in range(3):  # alone, without padding
        length = int(rows[1][row].sum())
        alone = [each[row : row + 1, :length] for each in rows]
        if head is NomicBertForMultipleChoice:
            assert_close(scores(*(each[None] for each in alone))[0, 0], by_position[0, row])
        elif head is NomicBertForSequenceClassification:
            assert_close(scores(*alone)[0], by_position[row])
        else:
            assert_close(scores(*alone)[0], by_position[row, :length])


@torch.no_grad()
def test_the_stock_trainer_hands_on_masks_and_segments(tiny_config, tmp_path):
    """Texts padded to a fixed width, as in transformers' tutorials: Trainer keeps the columns that forward names."""
    tiny_config.num_labels = 3
    torch.manual_seed(0)
    model = NomicBertForSequenceClassification(tiny_config).eval()
    torch.nn.init.normal_(model.classifier.weight, std=1.0)
    generator = torch.Generator().manual_seed(2)
    rows = []
    for length in (4, 9, 17, 30):
        ids = torch.zeros(32, dtype=torch.long)
        ids[:length] = torch.randint(5, 500, (length,), generator=generator)
        real = (torch.arange(32) < length).long()
        rows.append({"input_ids": ids, "attention_mask": real, "token_type_ids": real * (torch.arange(32) > 2)})
    from datasets import Dataset

    dataset = Dataset.from_list([{key: value.tolist() for key, value in row.items()} for row in rows])
    arguments = TrainingArguments(tmp_path, report_to="none", use_cpu=True, per_device_eval_batch_size=4)
    found = torch.tensor(Trainer(model, arguments).predict(dataset).predictions)
    expected = [
        model(row["input_ids"][None, :n], token_type_ids=row["token_type_ids"][None, :n]).logits[0]
        for row, n in zip(rows, (4, 9, 17, 30), strict=True)
    ]
    assert_close(found, torch.stack(expected), 1e-4)


@pytest.mark.parametrize("head", HEADS)
def test_the_stock_trainer_finds_the_labels(head):
    """It takes every argument with "label" in its name for one that must be there, or gives no loss in evaluation."""
    names = ["start_positions", "end_positions"] if head is NomicBertForQuestionAnswering else ["labels"]
    assert find_labels(head) == names


def test_the_stock_trainer_evaluates_a_masked_lm(tiny_config, tmp_path):
    from datasets import Dataset

    model = NomicBertForMaskedLM(tiny_config).eval()
    ids = torch.randint(5, 500, (4, 16), generator=torch.Generator().manual_seed(0))
    rows = {"input_ids": ids.tolist(), "labels": ids.tolist()}
    arguments = TrainingArguments(tmp_path, report_to="none", use_cpu=True)
    found = Trainer(model, arguments, eval_dataset=Dataset.from_dict(rows)).evaluate()
    assert found["eval_loss"] == pytest.approx(model(ids, labels=ids).loss.item(), rel=1e-5)


def test_the_masked_lm_loss_is_the_mean_over_labelled_tokens_or_over_a_given_number(tiny_config, texts):
    torch.manual_seed(0)
    model = NomicBertForMaskedLM(tiny_config)
    ids, mask = pad(texts)
    labels = torch.where((torch.rand(ids.shape) < 0.3) & (mask == 1), ids, -100)
    output = model(ids, attention_mask=mask, labels=labels)
    full = model(ids, attention_mask=mask).logits
    assert_close(output.logits, full, 1e-4)
    assert_close(output.loss, F.cross_entropy(full.flatten(0, 1), labels.flatten()), 1e-5)
    shared = model(ids, attention_mask=mask, labels=labels, num_items_in_batch=1000).loss
    assert_close(shared * 1000, output.loss * (labels != -100).sum(), 1e-3)
    nothing = model(ids, attention_mask=mask, labels=torch.full_like(labels, -100)).loss
    nothing.backward()
    assert nothing == 0


def test_masked_lm_gradients_are_those_of_cross_entropy_over_all_logits(tiny_config, texts):
    torch.manual_seed(0)
    model = NomicBertForMaskedLM(tiny_config)
    ids, mask = pad(texts)
    labels = torch.where((torch.rand(ids.shape) < 0.3) & (mask == 1), ids, -100)
    full = F.cross_entropy(model(ids, attention_mask=mask).logits.flatten(0, 1), labels.flatten())
    expected = torch.autograd.grad(full, list(model.parameters()))
    for how in ({}, {"score_only": True}):
        loss = model(ids, attention_mask=mask, labels=labels, **how).loss
        found = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
        for gradient, value in zip(found, expected, strict=True):
            assert_close(gradient, value, 1e-6)
        with pytest.raises(
            RuntimeError, match="modified by an inplace operation|differentiated before"
        ):  # never a wrong one in silence
            loss.backward()


class LargestTensor(TorchDispatchMode):
    """Values of the largest tensor that an operation makes."""

    def __init__(self):
        super().__init__()
        self.values = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        made = result if isinstance(result, tuple | list) else [result]
        self.values = max(self.values, *(each.numel() for each in made if isinstance(each, torch.Tensor)), 0)
        return result


@pytest.mark.parametrize("autocast", [False, True])
def test_a_score_holds_the_logits_of_few_tokens_and_is_that_of_all(tiny_config, autocast, monkeypatch):
    """More labelled tokens than fit at once, the last part smaller; places are given, as a trainer knows them."""
    torch.manual_seed(0)
    model = NomicBertForMaskedLM(tiny_config)
    ids = torch.randint(5, 500, (4, 64))
    labels = torch.where(torch.rand(ids.shape) < 0.6, ids, -100)
    places = (labels.flatten() != -100).nonzero().flatten()
    inputs = {"input_ids": ids, "labels": labels, "masked_places": places, "num_items_in_batch": 1000}
    scores = {}
    for at_once in (2**24, 100 * tiny_config.vocab_size):
        monkeypatch.setattr(heads_nomic_bert, "_LOGITS_AT_ONCE_ON_CPU", at_once)
        with LargestTensor() as largest, torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            score = model(**inputs, score_only=True)
        gradients = torch.autograd.grad(score.loss, list(model.parameters()))
        scores[at_once] = score.loss.item(), score.hits.item(), torch.cat([each.flatten() for each in gradients])
    assert len(places) > 100 and largest.values == 100 * tiny_config.vocab_size
    (all_loss, all_hits, all_gradient), (loss, hits, gradient) = scores.values()
    assert hits == all_hits and loss == pytest.approx(all_loss, rel=1e-6)
    assert (gradient - all_gradient).norm() < (5e-3 if autocast else 1e-6) * all_gradient.norm()
    with torch.no_grad():
        logits = model(ids).logits[labels != -100]
        assert model(**inputs, score_only=True).hits == (logits.argmax(-1) == labels[labels != -100]).sum()


def test_a_decoder_of_another_kind_is_called(tiny_config):
    model = NomicBertForMaskedLM(tiny_config)
    ids = torch.randint(5, 500, (2, 16))
    plain = model(ids, labels=ids, score_only=True)
    model.cls.predictions.decoder = with_bias = torch.nn.Linear(64, 512)
    with_bias.weight.data.copy_(model.bert.embeddings.word_embeddings.weight)
    with_bias.bias.data.fill_(0.5)  # the same for every token, so it changes no probability
    assert_close(model(ids, labels=ids, score_only=True).loss, plain.loss)


@pytest.mark.parametrize("head", [NomicBertModel, *HEADS])
def test_every_weight_is_read_by_its_module(tiny_config, texts, head):
    """accelerate's offloading, as adapters and hooks of others, knows modules: elsewhere a weight is not there."""
    model = head(tiny_config).eval()
    ids, mask = pad(texts)
    if head is NomicBertForMultipleChoice:
        ids, mask = ids[:, None], mask[:, None]
    score = {"labels": ids, "score_only": True} if head is NomicBertForMaskedLM else {}
    with torch.no_grad():
        expected = model(ids, mask, **score)[0]
        cpu_offload(model, torch.device("cpu"))
        assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
        assert_close(model(ids, mask, **score)[0], expected)


@pytest.mark.parametrize(
    ("num_labels", "problem", "labels"),
    [
        (3, None, torch.tensor([0, 2, 1])),
        (1, None, torch.tensor([0.5, 2.0, -1.0])),
        (2, "multi_label_classification", torch.tensor([[0, 1], [1, 1], [0, 0]])),
        (2, None, torch.tensor([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])),
        (2, "regression", torch.tensor([[0.5, -100.0], [2.0, 1.0], [-1.0, 0.0]])),
    ],
)
def test_classification_losses(tiny_config, texts, num_labels, problem, labels):
    tiny_config.num_labels, tiny_config.problem_type = num_labels, problem
    model = NomicBertForSequenceClassification(tiny_config).eval()
    ids, mask = pad(texts[:3])
    output = model(ids, attention_mask=mask, labels=labels)
    if problem == "regression" or num_labels == 1:
        expected = F.mse_loss(output.logits.view(labels.shape), labels)
    elif labels.dim() == 2:
        expected = F.binary_cross_entropy_with_logits(output.logits, labels.float())
    else:
        expected = F.cross_entropy(output.logits, labels)
    assert_close(output.loss, expected)
    halved = model(ids, attention_mask=mask, labels=labels, num_items_in_batch=2 * labels.numel()).loss
    assert_close(halved, output.loss / 2)


def test_the_other_heads_compute_transformers_losses(tiny_config, texts):
    """BERT's heads are the reference: the encoder's output stands in for theirs."""
    from transformers import BertConfig, BertForMultipleChoice, BertForQuestionAnswering, BertForTokenClassification

    torch.manual_seed(0)
    ids, mask = pad(texts[:2])
    tiny_config.num_labels = 3
    bert_config = BertConfig(hidden_size=64, num_hidden_layers=1, num_attention_heads=4, intermediate_size=8,
                             num_labels=3, vocab_size=512)  # fmt: skip
    classes = torch.where(torch.rand(ids.shape) < 0.5, torch.randint(0, 3, ids.shape), -100)
    cases = [
        (NomicBertForTokenClassification, BertForTokenClassification, {"labels": classes}),
        (
            NomicBertForQuestionAnswering,
            BertForQuestionAnswering,
            {"start_positions": torch.tensor([[0], [7]]), "end_positions": torch.tensor([2, 4000])},
        ),
        (NomicBertForMultipleChoice, BertForMultipleChoice, {"labels": torch.tensor([1])}),
    ]
    for ours, theirs, labels in cases:
        bert_config.num_labels = 2 if ours is NomicBertForQuestionAnswering else 3
        model, reference = ours(tiny_config).eval(), theirs(bert_config).eval()
        choices = ours is NomicBertForMultipleChoice
        inputs = [each[None] if choices else each for each in (ids, mask)]
        found = model(*inputs, **labels)
        states = model.bert(ids, mask)
        encoder = torch.nn.Module()
        encoder.forward = lambda *_, states=states, **__: states
        reference.bert = encoder
        weights = {name: value for name, value in model.state_dict().items() if not name.startswith("bert.")}
        reference.load_state_dict(weights)
        expected = reference(*inputs, **labels)
        assert_close(found.loss, expected.loss)
        assert_close(found[1], expected[1])


@pytest.mark.parametrize(
    "head", [NomicBertForSequenceClassification, NomicBertForQuestionAnswering, NomicBertForMultipleChoice]
)
def test_a_head_on_first_tokens_refuses_packed_rows(tiny_config, head):
    ids = torch.tensor([[5, 6, 7, 8]])
    with pytest.raises(ValueError, match="cu_seq_lens_q"):
        head(tiny_config)(ids, cu_seq_lens_q=torch.tensor([0, 2, 4]))
    if head is NomicBertForMultipleChoice:
        ids = ids[None]
    positions = torch.tensor([0, 1, 0, 1]).expand(ids.shape)  # DataCollatorWithFlattening's way to say the same
    with pytest.raises(ValueError, match="DataCollatorWithFlattening"):
        head(tiny_config)(ids, position_ids=positions)
    assert head(tiny_config)(ids, torch.ones_like(ids), position_ids=positions)[0].isfinite().all()


@torch.no_grad()
def test_token_classification_reads_packed_rows(tiny_config, texts):
    model = NomicBertForTokenClassification(tiny_config).eval()
    offsets = torch.tensor([0, *torch.tensor([len(text) for text in texts]).cumsum(0)])
    packed = model(torch.cat(texts)[None], cu_seq_lens_q=offsets).logits[0]
    assert_close(packed, torch.cat([model(text[None]).logits[0] for text in texts]))


@pytest.mark.parametrize("head", HEADS)
def test_keywords_of_generic_callers_are_used_or_refused_by_name(tiny_config, head):
    model, ids = head(tiny_config).eval(), torch.full((2, 8), 7)
    if head is NomicBertForMultipleChoice:
        ids = ids[None]
    assert torch.equal(model(ids, use_cache=True)[0], model(ids)[0])
    with pytest.raises(ValueError, match="head_mask"):
        model(ids, head_mask=torch.ones(2, 4))
    with pytest.raises(TypeError, match="past_key_values"):
        model(ids, past_key_values=None)
    additive = torch.zeros(2, 1, 8, 8)
    with pytest.raises(ValueError, match="attention_mask"):
        model(ids, additive[None] if head is NomicBertForMultipleChoice else additive)
    assert isinstance(model(ids, return_dict=False), tuple)
    assert len(model(ids, output_hidden_states=True).hidden_states) == 3
