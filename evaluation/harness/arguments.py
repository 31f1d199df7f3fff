"""What the command lines that run mteb tasks share: arguments about the model and the tasks, and how they end."""

import argparse
import json
import logging
import warnings
from pathlib import Path
from typing import get_args

import datasets
import torch
from mteb.abstasks import AbsTask

from evaluation.harness.bm25 import Bm25Search
from evaluation.harness.encoder import ProtocolEncoder, Rules, load_encoder
from evaluation.harness.runner import Outcome
from evaluation.tasks.lists import resolve_tasks
from evaluation.tasks.local import read_local_tasks
from nomic_bert.prompts import MTEB_PROMPTS


def add_shared_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments about the model, the data and the place of results."""
    parser.add_argument("model", help='directory or hub name of any sentence-transformers model, or "bm25"')
    parser.add_argument("--tasks", nargs="+", metavar="TASK", help="names of tasks, in place of a whole benchmark")
    parser.add_argument(
        "--local_tasks",
        type=Path,
        metavar="FILE.yaml",
        help="tasks on files of your own; see evaluation/tasks/local.py",
    )
    parser.add_argument("--data_dir", type=Path, help="data sets, as TASK or as owner/name; others come from the hub")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/evaluation"), help="root of the results")
    parser.add_argument(
        "--name", help='"organization/model" in the results; default: hub name, or end of the directory'
    )
    parser.add_argument(
        "--rules",
        choices=get_args(Rules),
        help="paper: unit length but for Classification (default for Nomic models); model: as it is (for others)",
    )
    parser.add_argument(
        "--prompts",
        help='JSON of mteb\'s names and texts, "none", or "nomic" for the four prefixes; default: the model\'s',
    )
    parser.add_argument(
        "--rotary_scaling_factor",
        type=float,
        help="alpha of Eq. 5 (Nomic models); default: the model's, or 2 where it has none and needs it",
    )
    parser.add_argument("--tokens_per_batch", type=int, help="default 2048 on a CPU; by memory on a GPU, 65536 at most")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ...")
    parser.add_argument(
        "--dtype", choices=["float32", "float16", "bfloat16"], help="default bfloat16 on a GPU, else float32"
    )
    parser.add_argument("--trust_remote_code", action="store_true", help="run the code of the model's repository")


def quiet_libraries() -> None:
    """Leave out what libraries say of each task: bars of reading files, and that there are successors."""
    datasets.disable_progress_bars()
    warnings.filterwarnings("ignore", "The task '.*' is superseded")
    logging.getLogger("mteb.abstasks.abstask").setLevel(logging.ERROR)


def model_at_length(arguments: argparse.Namespace, max_seq_length: int) -> ProtocolEncoder | Bm25Search:
    """The model of a command line, reading texts to a length in tokens."""
    if arguments.model == "bm25":
        return Bm25Search()
    return load_encoder(
        arguments.model,
        max_seq_length=max_seq_length,
        name=arguments.name,
        rules=arguments.rules,
        prompts=_prompts(arguments.prompts),
        rotary_scaling_factor=arguments.rotary_scaling_factor,
        tokens_per_batch=arguments.tokens_per_batch,
        device=arguments.device,
        dtype=getattr(torch, arguments.dtype) if arguments.dtype else None,
        trust_remote_code=arguments.trust_remote_code,
    )


def chosen_tasks(arguments: argparse.Namespace) -> list[AbsTask]:
    """Tasks that are named one by one, and those of one's own files; none if neither is given."""
    tasks = resolve_tasks(arguments.tasks, data_dir=arguments.data_dir) if arguments.tasks else []
    return tasks + (read_local_tasks(arguments.local_tasks) if arguments.local_tasks else [])


def show_outcome(model: ProtocolEncoder | Bm25Search, outcome: Outcome) -> None:
    """Print the main scores."""
    length = f", {model.protocol.max_seq_length} tokens" if isinstance(model, ProtocolEncoder) else ""
    print(f"\n{model.mteb_model_meta.name}{length}")
    width = max(map(len, outcome.scores), default=0)
    for name, (score, metric) in outcome.scores.items():
        print(f"  {name:{width}}  {score:6.2f}  {metric}")
    for name in outcome.elsewhere:
        print(f"  {name}: another process is at it")


def finish(failures: dict[str, str], output_dir: Path) -> None:
    """Say where results are, and which tasks failed.

    Raises:
        SystemExit: A task failed.
    """
    print(f"\nresults: {output_dir}; set them beside the paper's with\n  python -m evaluation.report {output_dir}")
    if failures:
        lines = [f"  {name}: {message}" for name, message in failures.items()]
        what = "1 task" if len(lines) == 1 else f"{len(lines)} tasks"
        raise SystemExit("\n".join([f"error: {what} failed; the others are kept:", *lines]))


def _prompts(given: str | None) -> dict[str, str] | None:
    if given is None:
        return None
    if given in ("none", "nomic"):
        return {} if given == "none" else MTEB_PROMPTS
    try:
        prompts = json.loads(given)
        if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values()):
            raise ValueError("it is no mapping of names to texts")
    except ValueError as error:
        raise ValueError(
            f"""--prompts {given!r}: {error}; write '{{"query": "query: ", ...}}', none or nomic."""
        ) from error
    return prompts
