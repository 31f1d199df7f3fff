"""Scores of GLUE's tasks, computed by scikit-learn and SciPy."""

from collections.abc import Callable
from typing import Any

import datasets
import evaluate
import numpy as np
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from evaluation.glue.tasks import GLUE

_CITATION = "Wang et al., GLUE: A multi-task benchmark and analysis platform for natural language understanding, 2019"


def _pearson(references: np.ndarray, predictions: np.ndarray) -> float:
    return _correlation(stats.pearsonr, references, predictions)


def _spearman(references: np.ndarray, predictions: np.ndarray) -> float:
    return _correlation(stats.spearmanr, references, predictions)


def _correlation(statistic: Callable[..., Any], references: np.ndarray, predictions: np.ndarray) -> float:
    # undefined where all values are equal; 0 as scikit-learn's Matthews correlation says then
    if np.ptp(references) == 0 or np.ptp(predictions) == 0:
        return 0.0
    return float(statistic(references, predictions).statistic)


# The first of each is the reported one (paper §5.1).
_METRICS: dict[str, dict[str, Callable[[np.ndarray, np.ndarray], float]]] = {
    "cola": {"matthews": matthews_corrcoef},
    "mrpc": {"accuracy": accuracy_score, "f1": f1_score},
    "qqp": {"accuracy": accuracy_score, "f1": f1_score},
    "stsb": {"pearson": _pearson, "spearman": _spearman},
}
_ACCURACY: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {"accuracy": accuracy_score}


def score(task: str, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
    """Scores of predictions, as fractions; the one that Table 2 reports comes first.

    A correlation (Matthews, Pearson, Spearman) with predictions that are all equal is undefined and returned as 0.

    Args:
        task: GLUE task.
        predictions: (rows,) class numbers; for stsb numbers of any range.
        references: (rows,) likewise.

    Raises:
        ValueError: there are no rows, the numbers of rows differ, or a value is not finite.
    """
    predictions, references = np.asarray(predictions), np.asarray(references)
    if predictions.ndim != 1 or predictions.shape != references.shape or not len(references):
        raise ValueError(
            f"{task}: predictions {predictions.shape} and references {references.shape} differ, or are empty."
        )
    if not (np.isfinite(predictions).all() and np.isfinite(references).all()):
        raise ValueError(f"{task}: a prediction or reference is not finite; training has diverged.")
    functions = _METRICS.get(task, _ACCURACY)
    return {name: float(function(references, predictions)) for name, function in functions.items()}


def score_logits(task: str, logits: np.ndarray, references: np.ndarray) -> dict[str, float]:
    """Scores of a model's outputs.

    Args:
        task: GLUE task.
        logits: (rows, classes); for stsb (rows, 1).
        references: (rows,).

    Raises:
        ValueError: see `score`; also for logits that are not finite.
    """
    if not np.isfinite(logits).all():
        raise ValueError(f"{task}: the model's outputs are not finite; training has diverged.")
    predictions = logits.argmax(axis=-1) if GLUE[task].labels else np.asarray(logits, dtype=np.float64).squeeze(-1)
    return score(task, predictions, references)


class GlueMetric(evaluate.Metric):
    """The scores as an `evaluate.Metric`, without the hub that `evaluate.load("glue", task)` needs.

    Make it with `GlueMetric(config_name="mrpc")`, then `add_batch` and `compute` as usual. Processes that share a cache
    need different `experiment_id`s.
    """

    def _info(self) -> evaluate.MetricInfo:
        if self.config_name not in GLUE:
            raise ValueError(f"config_name must be one of {', '.join(GLUE)}, not {self.config_name!r}.")
        kind = datasets.Value("int64" if GLUE[self.config_name].labels else "float64")
        return evaluate.MetricInfo(
            description="Scores of GLUE's tasks by scikit-learn and SciPy.",
            citation=_CITATION,
            features=datasets.Features({"predictions": kind, "references": kind}),
        )

    def _compute(self, predictions: list, references: list) -> dict[str, float]:
        return score(self.config_name, np.asarray(predictions), np.asarray(references))
