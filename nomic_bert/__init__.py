"""Nomic BERT for transformers and sentence-transformers.

Importing this package registers the classes with transformers' Auto classes, so that Nomic BERT checkpoints load
here without `trust_remote_code`, in place of transformers' own `nomic_bert`, which ignores released configurations.
"""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForMultipleChoice,
    AutoModelForPreTraining,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTextEncoding,
    AutoModelForTokenClassification,
)

from .configuration_nomic_bert import NomicBertConfig
from .modeling_nomic_bert import (
    NomicBertForMaskedLM,
    NomicBertForMultipleChoice,
    NomicBertForPreTraining,
    NomicBertForQuestionAnswering,
    NomicBertForSequenceClassification,
    NomicBertForTokenClassification,
    NomicBertModel,
)

AutoConfig.register(NomicBertConfig.model_type, NomicBertConfig, exist_ok=True)
AutoModel.register(NomicBertConfig, NomicBertModel, exist_ok=True)
AutoModelForMaskedLM.register(NomicBertConfig, NomicBertForMaskedLM, exist_ok=True)
AutoModelForPreTraining.register(NomicBertConfig, NomicBertForMaskedLM, exist_ok=True)
AutoModelForSequenceClassification.register(NomicBertConfig, NomicBertForSequenceClassification, exist_ok=True)
AutoModelForTokenClassification.register(NomicBertConfig, NomicBertForTokenClassification, exist_ok=True)
AutoModelForQuestionAnswering.register(NomicBertConfig, NomicBertForQuestionAnswering, exist_ok=True)
AutoModelForMultipleChoice.register(NomicBertConfig, NomicBertForMultipleChoice, exist_ok=True)
AutoModelForTextEncoding.register(NomicBertConfig, NomicBertModel, exist_ok=True)

__all__ = [
    "NomicBertConfig",
    "NomicBertForMaskedLM",
    "NomicBertForMultipleChoice",
    "NomicBertForPreTraining",
    "NomicBertForQuestionAnswering",
    "NomicBertForSequenceClassification",
    "NomicBertForTokenClassification",
    "NomicBertModel",
]
