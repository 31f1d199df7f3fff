"""Arguments that the commands for mteb tasks share: about the model, the data and the directory of results."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from textfiles.paths import existing_file, output_directory
from textfiles.settings import whole_number


def shared_parser(module: str, usage: str | None) -> argparse.ArgumentParser:
    """A parser of a command's arguments about the model, the data and the place of results."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}", description=usage, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "model",
        nargs="?",
        default=argparse.SUPPRESS,
        help='directory or hub name of any sentence-transformers model, or "bm25"',
    )
    parser.add_argument("--model", dest="model", metavar="NAME", help="the same; with --endpoint, the served model")
    parser.add_argument(
        "--endpoint",
        metavar="URL",
        help="of an OpenAI-compatible server that embeds, such as http://localhost:8000/v1; the key comes from the "
        "environment variable OPENAI_API_KEY",
    )
    parser.add_argument(
        "--tokenizer", help="with which texts are truncated before they go to --endpoint; default: they go whole"
    )
    parser.add_argument(
        "--texts_per_request", type=whole_number(1), default=32, help="of a request to --endpoint; default 32"
    )
    parser.add_argument("--tasks", nargs="+", metavar="TASK", help="names of tasks, in place of a whole benchmark")
    parser.add_argument(
        "--local_tasks",
        type=existing_file,
        metavar="FILE.yaml",
        help="a list of tasks on files of your own, all of which are run; docs/evaluate.md shows one",
    )
    parser.add_argument("--data_dir", type=Path, help="data sets, as TASK or owner/name; others come from the hub")
    parser.add_argument(
        "--output_dir",
        type=output_directory,
        default=Path("outputs/evaluation"),
        help="where results go; default outputs/evaluation",
    )
    parser.add_argument(
        "--name", help='"organization/model" in the results; default: hub name, or end of the directory'
    )
    parser.add_argument(
        "--rules",
        choices=["paper", "model"],
        help="paper: unit length except for Classification (default for Nomic models); model: as it is (for others)",
    )
    parser.add_argument(
        "--prompts",
        help='JSON of mteb\'s prompt names and texts, "none", or "nomic" for the four prefixes; default: the model\'s',
    )
    parser.add_argument(
        "--rotary_scaling_factor",
        type=float,
        help="alpha of Eq. 5 (Nomic models); default: the model's, or 2 where it has none and needs it",
    )
    parser.add_argument(
        "--tokens_per_batch", type=whole_number(1), help="default 2048 on a CPU; by memory on a GPU, 65536 at most"
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ...")
    parser.add_argument(
        "--dtype", choices=["float32", "float16", "bfloat16"], help="default bfloat16 on a GPU, else float32"
    )
    parser.add_argument("--trust_remote_code", action="store_true", help="run the code of the model's repository")
    return parser


def parse_shared(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """Read a command line of `shared_parser`, which must name a model."""
    arguments = parser.parse_args(argv)
    if arguments.model is None:
        parser.error("name a model: a directory, a hub name, or with --endpoint URL the served model")
    return arguments
