"""Run the line that docs/use.md has for a library, and say which embeddings come of it.

python -I tests/readers/read_library.py JOB_DIRECTORY LIBRARY OUTPUT

Without the project, as read.py. The job is `job.json` with `model` (the published directory, DIR in the lines), `text`,
without a prefix, and `lines`, of Python. OUTPUT gets {prompt name: embedding}; of a database, "document" is what it
stores, and "similarity" what it finds between the text as a query and that.
"""

import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

# Before anything imports huggingface_hub: no network, no telemetry, no copy of remote code that an earlier run left.
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HOME": tempfile.mkdtemp(prefix="readers-"), "ANONYMIZED_TELEMETRY": "False",
               "HAYSTACK_TELEMETRY_ENABLED": "False"}  # fmt: skip

Found = dict[str, Any]
Run = Callable[..., Any]


def run_langchain(run: Run, lines: list[str], text: str) -> Found:
    from langchain_huggingface import HuggingFaceEmbeddings

    embeddings = run(lines[0], HuggingFaceEmbeddings=HuggingFaceEmbeddings)
    return {"document": embeddings.embed_documents([text])[0], "query": embeddings.embed_query(text)}


def run_llama_index(run: Run, lines: list[str], text: str) -> Found:
    from llama_index.embeddings.huggingface import HuggingFaceEmbedding

    embedding = run(lines[0], HuggingFaceEmbedding=HuggingFaceEmbedding)
    return {"document": embedding.get_text_embedding(text), "query": embedding.get_query_embedding(text)}


def run_haystack(run: Run, lines: list[str], text: str) -> Found:
    from haystack import Document
    from haystack_integrations.components.embedders import sentence_transformers

    of_documents, of_texts = (run(line, **vars(sentence_transformers)) for line in lines)
    (document,) = of_documents.run(documents=[Document(content=text)])["documents"]
    return {"document": document.embedding, "query": of_texts.run(text=text)["embedding"]}


def run_bertopic(run: Run, lines: list[str], text: str) -> Found:
    from bertopic import BERTopic
    from bertopic.backend._utils import select_backend
    from sentence_transformers import SentenceTransformer

    topics = run(lines[0], BERTopic=BERTopic, SentenceTransformer=SentenceTransformer)
    topics.embedding_model = select_backend(topics.embedding_model)  # as `fit` does, which needs many texts
    return {"clustering": topics._extract_embeddings([text], method="document")[0]}


def run_chroma(run: Run, lines: list[str], text: str) -> Found:
    import chromadb

    names = {"collection": chromadb.EphemeralClient().create_collection("texts"), **of_model(run)}
    run(lines[0], ids=["0"], texts=[text], **names)
    found = run(lines[1], questions=[text], **names)
    stored = names["collection"].get(include=["embeddings"])["embeddings"][0]
    return {"document": stored, "similarity": 1 - found["distances"][0][0] / 2}  # it has squares of distances


def run_lancedb(run: Run, lines: list[str], text: str) -> Found:
    import lancedb

    names = {"connection": lancedb.connect(tempfile.mkdtemp()), **of_model(run)}
    table = run(lines[0], texts=[text], **names)
    (row,) = run(lines[1], table=table, question=text, **names).to_list()
    return {"document": row["vector"], "similarity": 1 - row["_distance"]}


def run_qdrant(run: Run, lines: list[str], text: str) -> Found:
    from qdrant_client import QdrantClient, models

    names = {"client": QdrantClient(":memory:"), **of_model(run)}
    size = names["model"].encode([text]).shape[1]
    vectors = models.VectorParams(size=size, distance=models.Distance.COSINE)
    names["client"].create_collection("texts", vectors_config=vectors)
    run(lines[0], texts=[text], **names)
    (point,) = run(lines[1], question=text, **names).points
    (stored,), _ = names["client"].scroll("texts", with_vectors=True)
    return {"document": stored.vector, "similarity": point.score}


def of_model(run: Run) -> Mapping[str, Any]:
    """`model`, which the databases' lines embed with."""
    from sentence_transformers import SentenceTransformer

    return {"model": run("SentenceTransformer(DIR, trust_remote_code=True)", SentenceTransformer=SentenceTransformer)}


def main(job_directory: str, library: str, output: str) -> None:
    job = json.loads(Path(job_directory, "job.json").read_text(encoding="utf-8"))

    def run(line: str, **names: Any) -> Any:
        return eval(line, {"DIR": job["model"], **names})

    found = globals()[f"run_{library}"](run, job["lines"], job["text"])
    listed = {key: value if isinstance(value, float) else list(map(float, value)) for key, value in found.items()}
    Path(output).write_text(json.dumps(listed), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
