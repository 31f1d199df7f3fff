"""Scores against scikit-learn and SciPy, and against their definitions written out."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sklearn_metrics

from evaluation.glue.metrics import GlueMetric, score, score_logits
from evaluation.glue.tasks import GLUE

RANDOM = np.random.default_rng(0)
REFERENCES = RANDOM.integers(0, 2, 200)
PREDICTIONS = np.where(RANDOM.random(200) < 0.7, REFERENCES, 1 - REFERENCES)
HITS = ((PREDICTIONS == 1) & (REFERENCES == 1)).sum()
FALSE_ALARMS = ((PREDICTIONS == 1) & (REFERENCES == 0)).sum()
MISSES = ((PREDICTIONS == 0) & (REFERENCES == 1)).sum()
REJECTIONS = ((PREDICTIONS == 0) & (REFERENCES == 0)).sum()


def test_classes_are_scored_by_their_definitions():
    accuracy = (HITS + REJECTIONS) / 200
    f1 = 2 * HITS / (2 * HITS + FALSE_ALARMS + MISSES)
    margins = np.prod([HITS + FALSE_ALARMS, HITS + MISSES, REJECTIONS + FALSE_ALARMS, REJECTIONS + MISSES], dtype=float)
    matthews = (HITS * REJECTIONS - FALSE_ALARMS * MISSES) / np.sqrt(margins)
    assert score("cola", PREDICTIONS, REFERENCES) == pytest.approx({"matthews": matthews})
    for task in ("sst2", "mnli", "qnli", "rte"):
        assert score(task, PREDICTIONS, REFERENCES) == pytest.approx({"accuracy": accuracy})
    for task in ("mrpc", "qqp"):
        assert score(task, PREDICTIONS, REFERENCES) == pytest.approx({"accuracy": accuracy, "f1": f1})
    assert f1 == pytest.approx(sklearn_metrics.f1_score(REFERENCES, PREDICTIONS))


def test_numbers_are_scored_by_pearson_and_spearman():
    references = np.round(RANDOM.random(80) * 5, 1)
    predictions = np.exp(references + RANDOM.normal(size=80))
    found = score("stsb", predictions, references)
    assert found["pearson"] == pytest.approx(np.corrcoef(references, predictions)[0, 1])
    ranks = [stats.rankdata(values) for values in (references, predictions)]
    assert found["spearman"] == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert score_logits("stsb", predictions[:, None], references) == pytest.approx(found)


def test_logits_are_scored_by_their_largest():
    logits = np.eye(3)[[0, 2, 1, 1]] - 5.0
    assert score_logits("mnli", logits, np.array([0, 2, 1, 0])) == {"accuracy": 0.75}


def test_a_constant_prediction_correlates_with_nothing():
    assert score("cola", np.zeros(4), np.array([0, 1, 1, 0])) == {"matthews": 0.0}
    assert score("stsb", np.full(4, 2.5), np.arange(4.0)) == {"pearson": 0.0, "spearman": 0.0}


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(ValueError, match="differ, or are empty"):
        score("cola", np.zeros(3), np.zeros(4))
    with pytest.raises(ValueError, match="differ, or are empty"):
        score("cola", np.zeros(0), np.zeros(0))
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="diverged"):
            score_logits("cola", np.array([[0.0, bad]]), np.zeros(1))


@pytest.mark.parametrize("task", GLUE)
def test_the_reported_metric_is_among_the_scores(task):
    assert next(iter(score(task, PREDICTIONS, REFERENCES))) == GLUE[task].metric


def test_the_evaluate_metric_gives_the_same_offline(tmp_path):
    for task in ("mrpc", "stsb"):
        metric = GlueMetric(config_name=task, cache_dir=str(tmp_path))
        for part in (slice(0, 70), slice(70, None)):
            metric.add_batch(predictions=PREDICTIONS[part], references=REFERENCES[part])
        assert metric.compute() == pytest.approx(score(task, PREDICTIONS, REFERENCES))
    with pytest.raises(ValueError, match="wnli"):
        GlueMetric(config_name="wnli", cache_dir=str(tmp_path))
