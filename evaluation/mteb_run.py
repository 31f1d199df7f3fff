"""MTEB by the paper's protocol (§5.2.1).

    python -m evaluation.mteb_run MODEL                                       # the 56 tasks of the paper's Table 4
    python -m evaluation.mteb_run MODEL --benchmark "MTEB(eng, v2)"
    python -m evaluation.mteb_run MODEL --tasks SciFact STSBenchmark
    python -m evaluation.mteb_run MODEL --local_tasks mine.yaml
    python -m evaluation.mteb_run --endpoint https://api.openai.com/v1 --model text-embedding-3-small

Texts are truncated to 512 tokens. Nomic models get the prefix of the task's type, and unit length except for
Classification; other models use their own prompts and their embeddings as they are. Finished tasks are kept under
OUTPUT_DIR/results in mteb's own layout, by model, weights and length. Rerun the command to resume. On several GPUs
start it once for each, with CUDA_VISIBLE_DEVICES: the processes share the tasks.
"""

from collections.abc import Sequence

from evaluation.harness.arguments import parse_shared, shared_parser
from evaluation.protocol import LEAST_TOKENS, PAPER_BENCHMARK, PAPER_LENGTH
from textfiles.commands import run_command
from textfiles.settings import whole_number


def main(argv: Sequence[str]) -> None:
    """Run the command line."""
    parser = shared_parser("evaluation.mteb_run", __doc__)
    parser.add_argument(
        "--benchmark", help=f'a benchmark of mteb, "JinaLongContext" or "LoCo"; default {PAPER_BENCHMARK}'
    )
    parser.add_argument(
        "--max_seq_length",
        type=whole_number(LEAST_TOKENS),
        default=PAPER_LENGTH,
        help="tokens; default 512 (paper §5.2.1)",
    )
    arguments = parse_shared(parser, argv)
    from evaluation.harness.commands import run_mteb  # imports torch and mteb, which --help does not need

    run_mteb(arguments)


if __name__ == "__main__":
    run_command(main)
