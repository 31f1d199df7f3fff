"""Turn a checkpoint into a hub repository that every reader opens, or data into a data set, and upload it when told.

python hub_upload.py CHECKPOINT OWNER/NAME [--output_dir DIR] [--onnx] [--openvino] [--private] [--yes]
python hub_upload.py --dataset DIR OWNER/NAME [--output_dir DIR] [--license ID] [--private] [--yes]

DIR is the output of make_pairs, filter_pairs, mine_negatives, pack_corpus or embed; its rows become parquet files, with
a card of what its steps recorded.
The directory of a checkpoint is verified first: transformers and sentence-transformers, with and without this package,
and ONNX Runtime and OpenVINO where exported, must give the checkpoint's own embeddings up to the last length. Then the
command shows what it would upload. Without a token (`hf auth login`, or HF_TOKEN) or a network nothing is uploaded, and
the directory stays.
"""

import argparse
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import huggingface_hub

from textfiles.commands import one_line_errors, run_command
from textfiles.paths import existing_file, output_directory


def main(argv: Sequence[str]) -> None:
    """Do as the command line says."""
    parser = _parser()
    args = parser.parse_args(argv)
    if (args.checkpoint is None) == (args.dataset is None):
        parser.error("give a checkpoint or --dataset DIR, and then OWNER/NAME")
    from publishing.upload import require_repo_id

    with one_line_errors():
        require_repo_id(args.repo_id)
        directory = Path(args.output_dir or Path("outputs", "hub", *args.repo_id.split("/")))
        if args.dataset is not None:
            _write_dataset(args, directory)
            publish(directory, args)
            return
        # it imports torch, which --help and a data set do not need
        from publishing.directory import DirectorySettings, write_directory

        settings = DirectorySettings(
            checkpoint=args.checkpoint,
            repo_id=args.repo_id,
            rotary_scaling_factor=args.rotary_scaling_factor,
            onnx=args.onnx,
            onnx_int8=args.onnx_int8,
            openvino=args.openvino,
            openvino_int8=args.openvino_int8,
            license=args.license,
            languages=args.language,
            evaluation=args.evaluation,
        )
        print(f"Writing and verifying {directory}", flush=True)
        write_directory(settings, directory)
        publish(directory, args)


def _write_dataset(args: argparse.Namespace, directory: Path) -> None:
    """Write the directory of a data set."""
    from publishing.dataset import DatasetSettings, write_dataset

    print(f"Writing {directory}", flush=True)
    settings = DatasetSettings(
        directory=args.dataset, repo_id=args.repo_id, license=args.license, languages=args.language
    )
    write_dataset(settings, directory)


def publish(directory: Path, args: argparse.Namespace) -> None:
    """Show what an upload would do, and do it if told."""
    from publishing.upload import plan_upload, upload

    token = huggingface_hub.get_token()
    if token is None:
        print(
            f"No token, so nothing was uploaded: {directory} is ready. Log in (`hf auth login`) and "
            f"run this again, or: hf upload {'' if args.dataset is None else '--repo-type dataset '}"
            f"{args.repo_id} {shlex.quote(str(directory))}"
        )
        return
    api = huggingface_hub.HfApi(token=token)
    try:
        kind = "model" if args.dataset is None else "dataset"
        plan = plan_upload(api, directory, args.repo_id, args.revision, args.private, kind)
    except ConnectionError as error:
        raise ConnectionError(f"{error}\nNothing was uploaded; {directory} is ready.") from None
    print(plan.describe())
    if plan.is_done:
        print("Nothing to upload.")
        return
    if not (args.yes or _agreed()):
        print(f"Nothing was uploaded; {directory} is ready.")
        return
    print(f"Uploaded: {upload(api, directory, plan, args.overwrite)}")


def _agreed() -> bool:
    return sys.stdin.isatty() and input("Upload? [y/N] ").strip().lower() in ("y", "yes")


def _license(name: str) -> str:
    """As typed, if the hub could know it: it refuses others when everything has been made and uploaded."""
    if not re.fullmatch(r"[a-z0-9]+([.+-][a-z0-9]+)*", name):
        raise argparse.ArgumentTypeError(
            f"{name!r} is no identifier of the hub, such as apache-2.0, mit or cc-by-4.0; "
            "see https://huggingface.co/docs/hub/repositories-licenses"
        )
    return name


def _language(code: str) -> str:
    """As typed, if it may be a code of ISO 639 or what the hub knows beside them."""
    if not re.fullmatch(r"[a-z]{2,3}(-[A-Za-z0-9]+)*|multilingual|code", code):
        raise argparse.ArgumentTypeError(f"{code!r} is no code of ISO 639; write en for English, de for German")
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", help="directory or hub name of an encoder, a head or a PEFT adapter")
    parser.add_argument("repo_id", metavar="OWNER/NAME", help="the repository; created if it does not exist")
    parser.add_argument(
        "--output_dir", type=output_directory, help="where the directory is written (outputs/hub/OWNER/NAME)"
    )
    parser.add_argument(
        "--dataset",
        type=Path,
        metavar="DIR",
        help="publish data in place of a checkpoint: the output of a curation step",
    )
    parser.add_argument("--private", action="store_true", help="a new repository is private")
    parser.add_argument("--revision", metavar="BRANCH", help="branch to upload to; created if it does not exist (main)")
    parser.add_argument("--onnx", action="store_true", help="also write onnx/model.onnx")
    parser.add_argument(
        "--onnx_int8", action="store_true", help="and onnx/model_quantized.onnx for CPUs, a quarter of the size"
    )
    parser.add_argument(
        "--openvino", action="store_true", help="and openvino/openvino_model.xml, for sentence-transformers' backend"
    )
    parser.add_argument(
        "--openvino_int8",
        action="store_true",
        help="and openvino/input_maxima.safetensors, for this package's own int8",
    )
    parser.add_argument(
        "--license", type=_license, metavar="ID", help="as the hub names it, such as apache-2.0 (not stated)"
    )
    parser.add_argument(
        "--language", type=_language, nargs="+", default=[], metavar="CODE", help="such as en (not stated)"
    )
    parser.add_argument(
        "--evaluation",
        type=existing_file,
        metavar="REPORT",
        help="report.json of `python -m evaluation.report`, for the card",
    )
    parser.add_argument("--rotary_scaling_factor", type=float, metavar="ALPHA", help="publish with this alpha of Eq. 5")
    parser.add_argument("--yes", action="store_true", help="upload without asking")
    parser.add_argument("--overwrite", action="store_true", help="upload to a repository that is not of this project")
    return parser


if __name__ == "__main__":
    run_command(main, "Rerun the command to publish; it writes the directory anew.")
