"""Long documents by the paper's protocol (§5.2.2): the same tasks, read to several lengths.

    python -m evaluation.long_context MODEL               # Jina's four tasks (Table 5) and LoCo's five (Table 6)
    python -m evaluation.long_context MODEL --benchmark LoCo --data_dir DIR
    python -m evaluation.long_context MODEL --local_tasks mine.yaml --lengths 512 2048 8192

Jina's tasks are read to 128, 512 and 8,191 tokens, LoCo's to 2,048, 4,096 and 8,192, all others to the six. Beyond the
trained length RoPE is scaled by dynamic NTK (Eq. 5) with alpha 2. A model that reads less than a length is run once at
what it reads. Results are kept and shared as by evaluation.mteb_run.
"""

import argparse
from collections.abc import Sequence

from mteb.abstasks import AbsTask

from evaluation.harness.arguments import (
    add_shared_arguments,
    chosen_tasks,
    finish,
    model_at_length,
    quiet_libraries,
    show_outcome,
)
from evaluation.harness.encoder import ProtocolEncoder
from evaluation.harness.runner import run_tasks
from evaluation.tasks.lists import BENCHMARKS, LENGTHS, benchmark_tasks


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_shared_arguments(parser)
    parser.add_argument("--benchmark", choices=list(LENGTHS), help="one of the two; default: both")
    parser.add_argument("--lengths", nargs="+", type=int, metavar="TOKENS", help="in place of the benchmark's")
    arguments = parser.parse_args(argv)
    quiet_libraries()
    failures: dict[str, str] = {}
    try:
        for length, tasks in _by_length(arguments).items():
            model = model_at_length(arguments, length)
            if isinstance(model, ProtocolEncoder) and model.protocol.max_seq_length < length:
                print(f"{arguments.model} reads {model.protocol.max_seq_length} tokens, not {length}.")
            outcome = run_tasks(model, tasks, arguments.output_dir, data_dir=arguments.data_dir)
            show_outcome(model, outcome)
            failures |= {f"{name}, {length} tokens": message for name, message in outcome.failures.items()}
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from error
    finish(failures, arguments.output_dir)


def _by_length(arguments: argparse.Namespace) -> dict[int, list[AbsTask]]:
    """Which tasks are read to which length, the shortest first."""
    groups = [(_lengths_of(task), [task]) for task in chosen_tasks(arguments)]
    if arguments.benchmark or not groups:
        for name in [arguments.benchmark] if arguments.benchmark else LENGTHS:
            groups.append((LENGTHS[name], benchmark_tasks(name, data_dir=arguments.data_dir)))
    by_length: dict[int, list[AbsTask]] = {}
    for lengths, tasks in groups:
        # BM25 reads words and knows no length
        for length in [0] if arguments.model == "bm25" else arguments.lengths or lengths:
            by_length.setdefault(length, []).extend(tasks)
    return dict(sorted(by_length.items()))


def _lengths_of(task: AbsTask) -> Sequence[int]:
    for name, tasks in BENCHMARKS.items():
        if task.metadata.name in tasks:
            return LENGTHS[name]
    return sorted({length for lengths in LENGTHS.values() for length in lengths})


if __name__ == "__main__":
    main()
