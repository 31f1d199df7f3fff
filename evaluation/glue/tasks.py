"""The eight GLUE tasks of Table 2: their columns, labels and metrics."""

from dataclasses import dataclass


@dataclass(frozen=True)
class GlueTask:
    """One task.

    Attributes:
        name: as in the hub's `nyu-mll/glue`.
        title: as Table 2 writes it.
        columns: that hold the text, or the two texts.
        labels: names of the classes in the order of their numbers; empty: the target is a number from 0 to 5.
        metric: which score is reported.
        train_rows: of the data set as published, for estimates of cost.
        from_mnli: whether the paper starts it from an MNLI checkpoint.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    labels: tuple[str, ...]
    metric: str
    train_rows: int
    from_mnli: bool = False

    @property
    def targets(self) -> tuple[str, ...]:
        """Possible names of the column of the label, or of the number."""
        return ("label",) if self.labels else ("score", "label")  # the hub calls both a label


_PAIR = ("sentence1", "sentence2")
# In the order of Table 2. Metrics and starts: paper §5.1.
GLUE = {
    task.name: task
    for task in (
        GlueTask("cola", "Cola", ("sentence",), ("unacceptable", "acceptable"), "matthews", 8_551),
        GlueTask("sst2", "SST2", ("sentence",), ("negative", "positive"), "accuracy", 67_349),
        GlueTask("mrpc", "MRPC", _PAIR, ("not_equivalent", "equivalent"), "accuracy", 3_668, from_mnli=True),
        GlueTask("stsb", "STSB", _PAIR, (), "pearson", 5_749, from_mnli=True),
        GlueTask("qqp", "QQP", ("question1", "question2"), ("not_duplicate", "duplicate"), "accuracy", 363_846),
        GlueTask(
            "mnli", "MNLI", ("premise", "hypothesis"), ("entailment", "neutral", "contradiction"), "accuracy", 392_702
        ),
        GlueTask("qnli", "QNLI", ("question", "sentence"), ("entailment", "not_entailment"), "accuracy", 104_743),
        GlueTask("rte", "RTE", _PAIR, ("entailment", "not_entailment"), "accuracy", 2_490, from_mnli=True),
    )
}
