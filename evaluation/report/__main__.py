"""Compare results with the paper's tables: report.md, report.json and plots.

    python -m evaluation.report outputs/evaluation outputs/glue --output_dir outputs/report
    python -m evaluation.report outputs/evaluation --output_dir outputs/report --compare nomic-embed-text-v1 bge-base

RESULTS are output directories of evaluation.mteb_run, evaluation.long_context and evaluation.glue, or trees that mteb
wrote itself, such as its public repository of results. They are only read.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from evaluation.reported import PAPER_ENCODERS, PAPER_MODELS
from textfiles.atomic import remove_leftovers, write_json, write_text
from textfiles.commands import one_line_errors, run_command
from textfiles.paths import output_directory


def main(argv: Sequence[str]) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", nargs="+", type=Path, metavar="RESULTS", help="directories of results")
    parser.add_argument(
        "--output_dir",
        type=output_directory,
        default=Path("outputs/report"),
        help="where report.md, report.json and plots go",
    )
    parser.add_argument(
        "--compare",
        nargs="+",
        default=[],
        metavar="MODEL",
        help="rows of the paper to show, first the one that differences are from; by default "
        f"{', '.join(PAPER_MODELS)}, and {', '.join(PAPER_ENCODERS)} for GLUE",
    )
    parser.add_argument("--note", default="", help="Markdown under the title, such as the date and the hardware")
    arguments = parser.parse_args(argv)
    # These import torch and mteb, which --help does not need.
    from evaluation.report.facts import as_json, build_report
    from evaluation.report.page import report_page
    from evaluation.report.pictures import draw_plots
    from evaluation.report.results import read_results

    with one_line_errors():
        report = build_report(read_results(arguments.results), arguments.compare)
        arguments.output_dir.mkdir(parents=True, exist_ok=True)
        remove_leftovers(arguments.output_dir)
        plots = draw_plots(report, arguments.output_dir)
        write_json(arguments.output_dir / "report.json", {**as_json(report), "plots": plots, "note": arguments.note})
        write_text(arguments.output_dir / "report.md", report_page(report, plots, arguments.note))
    for model in report.models:
        print(f"{model.label}: {len(model.tasks)} tasks")
    for encoder in report.encoders:
        print(f"{encoder.label}: {len(encoder.tasks)} GLUE tasks")
    print(f"report: {arguments.output_dir / 'report.md'}")


if __name__ == "__main__":
    run_command(main, "Rerun the command to write the report.")
