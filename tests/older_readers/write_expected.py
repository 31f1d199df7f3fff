"""Write a model's directory, and the embeddings, token ids and prompts that older readers must find in it.

python -m tests.older_readers.write_expected OUTPUT [--model DIR]

Runs in the main environment; `check.py` reads OUTPUT in the older one. Without --model the model is a small one with
random weights, trained to 64 tokens and usable to 256, as a directory that `publishing` writes, ONNX included.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from sentence_transformers import SentenceTransformer

from nomic_bert.embedder import load_embedder, save_embedder
from nomic_bert.prompts import PROMPTS
from publishing.onnx_export import ONNX_FILE, export_onnx
from publishing.verification import make_probes, probe_lengths
from tests.checkpoints import save_nomic
from textfiles.atomic import atomic_directory, write_json

TEXTS = ["", "Naïve café, 東京 & co.", "THE  tokenizer's\n\tfiles: 1,024 (½) …", "a" * 300]


def main(argv: list[str]) -> None:
    """Do as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="directory to write, in place of what is there")
    parser.add_argument("--model", type=Path, metavar="DIR", help="a model's directory, copied; else a small one")
    args = parser.parse_args(argv)
    try:
        with atomic_directory(args.output) as written:
            if args.model:
                shutil.copytree(args.model, written / "model")
            else:
                write_small_model(written / "model")
            write_expected(written / "model", written)
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from error


def write_small_model(directory: Path) -> None:
    """A published directory with weights so large that attention and RoPE's scaling matter."""
    with tempfile.TemporaryDirectory() as scratch:
        save_embedder(load_embedder(save_nomic(Path(scratch)), device="cpu"), directory)
    export_onnx(directory, directory / ONNX_FILE)


def write_expected(model: Path, directory: Path) -> None:
    """Write expected.json (texts, token ids, prompts) and expected.safetensors (embeddings) beside the model."""
    embedder = load_embedder(model, device="cpu", dtype=torch.float32)
    config, longest = embedder[0].auto_model.config, embedder.max_seq_length
    lengths = probe_lengths(config, longest)
    texts = [*(probe.full_text for probe in make_probes(embedder.tokenizer, lengths)), *TEXTS]
    texts.append(" ".join(texts[: len(lengths)]))  # longer than the usable length, so it is cut
    ids = embedder.tokenizer(texts, truncation=True, max_length=longest)["input_ids"]
    short = [number for number, tokens in enumerate(ids) if len(tokens) < config.max_trained_positions]
    expected = {
        "texts": texts,
        "ids": ids,
        "together": [number for number, tokens in enumerate(ids) if len(tokens) < longest],
        "prompted": short,
        "prompts": dict(PROMPTS),
        "max_seq_length": longest,
    }
    write_json(directory / "expected.json", expected)
    arrays = {
        "token_means": np.stack([token_mean(embedder, text) for text in texts]),
        "embeddings": np.stack([embedder.encode(text) for text in texts]),
        # the prefix put before by hand: prompts are what the readers are tried on
        **{name: np.stack([embedder.encode(prompt + texts[n]) for n in short]) for name, prompt in PROMPTS.items()},
    }
    save_file(arrays, directory / "expected.safetensors")


@torch.no_grad()
def token_mean(embedder: SentenceTransformer, text: str) -> np.ndarray:
    """(hidden,): the encoder's mean token vector at unit length, without the modules that follow it."""
    inputs = embedder.tokenizer(text, truncation=True, max_length=embedder.max_seq_length, return_tensors="pt")
    mean = embedder[0].auto_model(**inputs).last_hidden_state[0].mean(0)
    return torch.nn.functional.normalize(mean, dim=0).numpy()


if __name__ == "__main__":
    main(sys.argv[1:])
