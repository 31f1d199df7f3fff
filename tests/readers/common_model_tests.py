"""Run transformers' own common model tests on our classes, and list what differs from its models by contract.

python tests/readers/common_model_tests.py --sdist FILE --output FILE

`make readers` runs it in an environment that has what those tests import (`programs.MODEL_TESTS`). They are in the
source distribution of the installed transformers. Writes JSON: counts, the tests that differ with the reason, and as
surprises those that fail without a reason listed below, or pass in spite of one.
"""

import argparse
import importlib
import json
import sys
import tarfile
import tempfile
import unittest
from pathlib import Path
from typing import Any

import torch
import transformers

sys.path.insert(0, str(Path(__file__).parents[2]))
import nomic_bert

CLASSES = [
    nomic_bert.NomicBertModel,
    nomic_bert.NomicBertForMaskedLM,
    nomic_bert.NomicBertForSequenceClassification,
    nomic_bert.NomicBertForTokenClassification,
    nomic_bert.NomicBertForQuestionAnswering,
    nomic_bert.NomicBertForMultipleChoice,
]

# Test -> why our classes fail it, by contract.
_ROPE = "rope_parameters are derived from the released fields; setting them is refused rather than ignored"
_TIED = "the decoder is the word embedding, as in the released weights; tie_word_embeddings=False is refused"
BY_CONTRACT = {
    "test_load_save_without_tied_weights": _TIED,
    "test_load_with_mismatched_shapes": "ignore_mismatched_sizes resizes a head; a misshapen encoder is refused",
    "test_model_rope_scaling_from_config_0_linear": _ROPE,
    "test_model_rope_scaling_from_config_1_dynamic": _ROPE,
    "test_model_rope_scaling_from_config_2_yarn": _ROPE,
    "test_model_weights_reload_no_missing_tied_weights": "an encoder without its weights is refused, not left random",
    "test_resize_embeddings_untied": _TIED,
    "test_resize_embeddings_untied_no_reinit_on_post_init": _TIED,
}


class ModelTester:
    """What the common tests ask of a model's own tests: a tiny configuration and inputs."""

    batch_size, seq_length, num_choices = 3, 7, 4
    hidden_size, num_hidden_layers, num_attention_heads = 32, 2, 4
    is_training = True

    def __init__(self, parent: unittest.TestCase) -> None:
        self.parent = parent

    def get_config(self) -> nomic_bert.NomicBertConfig:
        """Two layers of 32."""
        return nomic_bert.NomicBertConfig(
            vocab_size=99,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            intermediate_size=37,
            max_trained_positions=512,
        )

    def prepare_config_and_inputs_for_common(self) -> tuple[nomic_bert.NomicBertConfig, dict[str, torch.Tensor]]:
        """Three texts, of which the first has padding."""
        shape = (self.batch_size, self.seq_length)
        mask = torch.ones(shape, dtype=torch.long)
        mask[0, -2:] = 0
        inputs = {"input_ids": torch.randint(1, 99, shape), "attention_mask": mask}
        return self.get_config(), {**inputs, "token_type_ids": torch.randint(0, 2, shape)}


def load_mixin(sdist: Path, scratch: Path) -> Any:
    """`ModelTesterMixin` of a source distribution, which lacks two modules that it imports for other models."""
    package = scratch / "transformers_tests"
    for name, content in {
        "__init__.py": "",
        "exporters/__init__.py": "",
        "exporters/test_export.py": "class ExportTesterMixin: pass\n",
        "generation/__init__.py": "",
        "generation/test_utils.py": "class GenerationTesterMixin: pass\n",
    }.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(content, encoding="utf-8")
    with tarfile.open(sdist) as archive:
        for member in archive.getmembers():
            parts = Path(member.name).parts
            if len(parts) == 3 and parts[1] == "tests" and parts[2].endswith(".py"):
                content = archive.extractfile(member)
                assert content is not None
                (package / parts[2]).write_bytes(content.read())
    sys.path.insert(0, str(scratch))
    return importlib.import_module("transformers_tests.test_modeling_common").ModelTesterMixin


def make_test(mixin: Any) -> type[unittest.TestCase]:
    """The mixin on our classes."""

    class NomicBertCommonTest(mixin, unittest.TestCase):  # type: ignore[misc]
        all_model_classes = tuple(CLASSES)

        def setUp(self) -> None:
            self.model_tester = ModelTester(self)

        def _prepare_for_class(self, inputs: dict, model_class: type, return_labels: bool = False) -> dict:
            # transformers looks the class up by name among its own, which has neither of these two
            inputs = dict(super()._prepare_for_class(inputs, model_class, return_labels))
            labels = torch.ones(ModelTester.batch_size, dtype=torch.long)
            if model_class is nomic_bert.NomicBertForMultipleChoice:
                choices = (-1, ModelTester.num_choices, -1)
                for name, value in inputs.items():
                    if isinstance(value, torch.Tensor):
                        inputs[name] = value[:, None].expand(choices).contiguous()
                return {**inputs, "labels": labels} if return_labels else inputs
            if model_class is nomic_bert.NomicBertForQuestionAnswering and return_labels:
                return {**inputs, "start_positions": labels, "end_positions": labels}
            return inputs

    return NomicBertCommonTest


def main(argv: list[str]) -> None:
    """Run them, and write what they found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sdist", type=Path, required=True, help="transformers-*.tar.gz of the installed version")
    parser.add_argument("--output", type=Path, required=True, help="JSON file that is written")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        mixin = load_mixin(args.sdist, Path(scratch))
        suite = unittest.defaultTestLoader.loadTestsFromTestCase(make_test(mixin))
        result = unittest.TextTestRunner(sys.stderr, verbosity=2).run(suite)
    failed = {}
    for case, text in [*result.failures, *result.errors]:
        name = getattr(case, "test_case", case).id().rsplit(".", 1)[-1]  # of a subtest, the test
        failed[name] = text.strip().splitlines()[-1]
    # once where a test is skipped for each class by itself
    skipped = {getattr(case, "test_case", case).id().rsplit(".", 1)[-1] for case, _ in result.skipped} - failed.keys()
    found = {
        "version": transformers.__version__,
        "passed": result.testsRun - len(failed) - len(skipped),
        "failed": len(failed),
        "skipped": len(skipped),
        "differences": {name: BY_CONTRACT.get(name, failed[name]) for name in sorted(failed)},
        "surprises": sorted(failed.keys() ^ BY_CONTRACT.keys()),
    }
    args.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
