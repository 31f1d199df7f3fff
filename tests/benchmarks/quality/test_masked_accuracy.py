import datasets
import numpy as np
import pytest
import torch
from tokenizers import processors

from benchmarks.quality.masked_accuracy import (
    MaskedText,
    Scores,
    Unigram,
    accuracy_difference,
    grouped_mean,
    score_model,
)
from nomic_bert import NomicBertConfig, NomicBertForMaskedLM
from tests.trainers.toys import WORDS, mlm, mlm_trainer, tokenizer

CLS, MASK = 2, 4


def texts() -> list[str]:
    """Of 300, 130 and 20 tokens, [CLS] not counted."""
    random = np.random.default_rng(0)
    return [" ".join(random.choice(WORDS, size)) for size in (300, 130, 20)]


@pytest.fixture(scope="module")
def text() -> MaskedText:
    return MaskedText.of(texts(), tokenizer(), (16, 32, 64))


def test_blocks_of_every_length_hold_the_same_text_behind_their_cls(text):
    """301, 131 and 21 tokens with [CLS]: 4, 2 and 0 blocks of 64, cut by hand from the words."""
    words = [[CLS, *(5 + WORDS.index(word) for word in each.split())] for each in texts()]
    expected = np.array(words[0][:256] + words[1][:128])
    assert text.tokens.shape == (6, 64) and (text.tokens.ravel() == expected).all()
    for length in (16, 32, 64):
        inputs, labels = text.blocks(length)
        assert inputs.shape == labels.shape == (384 // length, length)
        assert (inputs[:, 0] == CLS).all() and (inputs[:, 1:] != CLS).all()
        unmasked = (labels == -100) & (np.arange(length) > 0)
        assert (inputs[unmasked] == expected.reshape(-1, length)[unmasked]).all()
        assert (labels[labels != -100] == expected.reshape(-1, length)[labels != -100]).all()


def test_masks_are_the_same_at_every_length_and_every_time(text):
    again = MaskedText.of(texts(), tokenizer(), (64, 16, 32))
    inputs, labels = (part.ravel() for part in text.blocks(64))
    assert 0.10 < (labels != -100).mean() < 0.20
    assert (inputs == MASK).sum() > 0.6 * (labels != -100).sum()
    for length in (16, 32, 64):
        shorter, its_labels = (part.ravel() for part in again.blocks(length))
        assert (its_labels == labels).all()
        changed = np.flatnonzero(shorter != inputs)
        assert len(changed) == 384 // length - 6 and (changed % length == 0).all()  # only the [CLS] that begin blocks


def test_at_most_so_many_blocks_of_a_text_spread_evenly(text):
    few = MaskedText.of(texts(), tokenizer(), (16, 32, 64), blocks_per_text=2)
    assert (few.tokens == text.tokens[[0, 3, 4, 5]]).all()


def test_lengths_that_do_not_fit_and_texts_that_are_too_short_are_refused(text):
    for lengths in (16, 24), (16, 48, 64), (1, 2):
        with pytest.raises(ValueError, match="each must be a multiple of the shortest and divide the longest"):
            MaskedText.of(texts(), tokenizer(), lengths)
    with pytest.raises(ValueError, match="the texts fill 1 blocks of 256 tokens"):
        MaskedText.of(texts(), tokenizer(), (256,))
    with pytest.raises(ValueError, match="length 128: the text was masked for"):
        text.blocks(128)


def test_a_tokenizer_without_cls_is_refused():
    plain = tokenizer()
    plain.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    with pytest.raises(ValueError, match=r"writes no \[CLS\]"):
        MaskedText.of(texts(), plain, (16, 32))


@pytest.mark.parametrize("length", [16, 64])
def test_scores_equal_those_of_full_logits(text, length):
    model = mlm(rotary_scaling_factor=None).eval()
    inputs, labels = (torch.from_numpy(part) for part in text.blocks(length))
    with torch.no_grad():
        log_probabilities = torch.stack([model(input_ids=row[None]).logits[0] for row in inputs]).log_softmax(-1)
    masked = labels != -100
    losses = -log_probabilities.gather(-1, labels.clamp(min=0)[..., None])[..., 0][masked]
    hits = (log_probabilities.argmax(-1) == labels)[masked]
    for tokens_at_once in (1, 100, 10_000):
        scores = score_model(model, text, length, tokens_at_once)
        np.testing.assert_allclose(scores.losses, losses, rtol=1e-4, atol=1e-5)
        assert (scores.hits == hits.numpy()).all()
        assert (scores.positions == np.nonzero(labels.numpy() != -100)[1]).all()
    summary = scores.summary()
    assert summary["masked_tokens"] == int(masked.sum())
    assert summary["accuracy"] == pytest.approx(hits.float().mean().item())
    assert summary["perplexity"] == pytest.approx(losses.mean().exp().item(), rel=1e-4)


def test_scores_equal_the_trainers_evaluation_of_the_same_blocks(tmp_path):
    whole = MaskedText.of(texts(), tokenizer(), (64,))
    starting = whole.tokens.copy()
    starting[:, 0] = CLS
    rows = datasets.Dataset.from_dict({"input_ids": starting, "document_lengths": [[64]] * len(starting)})
    trainer = mlm_trainer(tmp_path, mlm())
    evaluated = trainer.evaluate(rows)
    summary = score_model(trainer.model.eval(), whole, 64).summary()
    assert summary["loss"] == pytest.approx(evaluated["eval_loss"], rel=1e-5)
    assert summary["accuracy"] == pytest.approx(evaluated["eval_accuracy"])
    assert summary["perplexity"] == pytest.approx(evaluated["eval_perplexity"], rel=1e-5)


def test_unigram_equals_a_count_by_hand():
    """Words 0, 0, 0, 1 of 90 were seen: their chances are 4/94 and 2/94, any other word's is 1/94."""
    unigram = Unigram([[CLS, 5, 5, 3], [CLS, 6, 5, 3]], tokenizer())
    labels = np.full((2, 8), -100)
    labels[0, [2, 5]], labels[1, 3] = (5, 6), 40
    text = MaskedText((8,), labels, labels, labels)
    scores = unigram.score(text)
    assert scores.hits.tolist() == [True, False, False]
    np.testing.assert_allclose(scores.losses, -np.log([4 / 94, 2 / 94, 1 / 94]))
    assert scores.summary()["perplexity"] == pytest.approx((94**3 / 8) ** (1 / 3))
    assert scores.groups.tolist() == [0, 0, 1] and scores.positions.tolist() == [2, 5, 3]
    with pytest.raises(ValueError, match="no tokens"):
        Unigram([[CLS, 3]], tokenizer())


def test_accuracy_by_position_counts_each_bucket():
    hits = np.array([1, 0, 1, 1, 0, 0], dtype=bool)
    scores = Scores(hits, np.zeros(6), np.array([0, 0, 0, 1, 1, 1]), np.array([0, 3, 4, 1, 6, 11]))
    found = [(row["start"], row["masked_tokens"], row["accuracy"]) for row in scores.by_position(4)]
    assert found == [(0, 3, pytest.approx(2 / 3)), (4, 2, 0.5), (8, 1, 0.0)]


def test_standard_error_is_that_of_the_groups():
    """Groups of one size: the textbook error of the mean of their means; the same values alone: smaller."""
    random = np.random.default_rng(1)
    values = (random.normal(size=(40, 1)) + random.normal(size=(40, 25))).ravel()
    groups = np.repeat(np.arange(40), 25)
    mean, error = grouped_mean(values, groups)
    means = values.reshape(40, 25).mean(axis=1)
    assert mean == pytest.approx(values.mean()) and error == pytest.approx(means.std(ddof=1) / 40**0.5)
    assert grouped_mean(values, np.arange(1000))[1] < error / 2


def test_standard_error_of_groups_of_different_sizes_is_what_repeated_draws_show():
    random = np.random.default_rng(2)

    def draw() -> tuple[float, float]:
        sizes = random.integers(1, 30, size=60)
        groups = np.repeat(np.arange(60), sizes)
        return grouped_mean(random.normal(size=60)[groups] + random.normal(size=len(groups)), groups)

    means, errors = np.array([draw() for _ in range(2_000)]).T
    assert errors.mean() == pytest.approx(means.std(), rel=0.1)


def test_a_difference_is_paired_by_token(text):
    first = score_model(mlm().eval(), text, 16)
    torch.manual_seed(1)
    other = NomicBertForMaskedLM(NomicBertConfig(**{**mlm().config.to_dict(), "initializer_range": 0.3})).eval()
    second = score_model(other, text, 64)
    difference, error = accuracy_difference(second, first)
    assert difference == pytest.approx(second.summary()["accuracy"] - first.summary()["accuracy"])
    assert error == pytest.approx(grouped_mean(second.hits.astype(int) - first.hits.astype(int), first.groups)[1])
    assert accuracy_difference(first, first) == (0.0, 0.0)
    fewer = MaskedText.of(texts(), tokenizer(), (16, 32, 64), blocks_per_text=1)
    with pytest.raises(ValueError, match="not scored on the same masked tokens"):
        accuracy_difference(first, score_model(mlm().eval(), fewer, 16))
