"""Long documents by the paper's protocol (§5.2.2): the same tasks, read to several lengths.

    python -m evaluation.long_context MODEL               # Jina's four tasks (Table 5) and LoCo's five (Table 6)
    python -m evaluation.long_context MODEL --benchmark LoCo --data_dir DIR
    python -m evaluation.long_context MODEL --local_tasks mine.yaml --lengths 512 2048 8192
    python -m evaluation.long_context --endpoint http://localhost:8000/v1 --model NAME --tokenizer NAME

Jina's tasks are read to 128, 512 and 8,191 tokens, LoCo's to 2,048, 4,096 and 8,192, others to all six lengths. Beyond
the trained length RoPE is scaled by dynamic NTK (Eq. 5) with alpha 2. A model that reads less than a length is run once
at its own length. Results are kept and shared as by evaluation.mteb_run.
"""

from collections.abc import Sequence

from evaluation.harness.arguments import parse_shared, shared_parser
from evaluation.protocol import LEAST_TOKENS, LENGTHS
from textfiles.commands import run_command
from textfiles.settings import whole_number


def main(argv: Sequence[str]) -> None:
    """Run the command line."""
    parser = shared_parser("evaluation.long_context", __doc__)
    parser.add_argument("--benchmark", choices=list(LENGTHS), help="one of the two; default: both")
    parser.add_argument(
        "--lengths",
        nargs="+",
        type=whole_number(LEAST_TOKENS),
        metavar="TOKENS",
        help="in place of the benchmark's",
    )
    arguments = parse_shared(parser, argv)
    from evaluation.harness.commands import run_long_context  # imports torch and mteb, which --help does not need

    run_long_context(arguments)


if __name__ == "__main__":
    run_command(main)
