"""What contrastive.py trains on and what it keeps aside, from files of text pairs and of NLI judgements."""

import csv
import gzip
import json
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from curation.duplicates import normalize_text, overlapping_rows
from curation.files import read_jsonl, write_jsonl
from evaluation.retrieval import RetrievalSet
from nomic_bert.files import atomic_directory
from nomic_bert.prompts import prefix_text

STS_SETS = ("stsb_dev", "sts13_minus_stsb_test", "sick_trial")
RETRIEVAL_SETS = ("scifact_train_queries", "cranfield", "cisi")
KEPT_ASIDE = ("medquad", "squad")
_IN_BOTH_STAGES = ("squad", "medquad", "manual_sections")
_STAGE_2_SHARE = 0.6  # of these; stage 3 on pairs that stage 2 has seen teaches nothing

Row = dict[str, Any]


@dataclass(frozen=True)
class Pairs:
    """A source as it is read: files under the data directory, and the prefixes of its two sides (paper §4.2.2).

    The prefixes are those of the source's kin in the paper's Table 7: questions and answers, and a heading or term and
    what a search for it should find, as its question and answer sets; a short and a long description as Reddit's titles
    and bodies; a word and its definition as Wikipedia's titles and texts.
    """

    files: tuple[str, ...]
    prefixes: tuple[str, str]


_SEARCH = ("search_query", "search_document")
_SYMMETRIC = ("classification", "classification")
PAIRS = {
    "debian_descriptions": Pairs(("debian_descriptions",), ("clustering", "clustering")),
    "foldoc": Pairs(("foldoc",), _SEARCH),
    "gcide": Pairs(("gcide_sample",), _SYMMETRIC),
    "manual_sections": Pairs(("manual_sections",), _SEARCH),
    "medquad": Pairs(("medquad_qa",), _SEARCH),
    "squad": Pairs(("squad_question_sentence",), _SEARCH),
    "unix": Pairs(("manpages", "jargon_file"), _SEARCH),  # each is too small for a batch of its own
    "wordnet": Pairs(("wordnet_gloss",), _SYMMETRIC),
}
_TRIVIA = "opentriviaqa"
_NLI_FILES = ("mnli_dev_80pct", "snli_dev_80pct")


class Preparation:
    """Reads the pairs, parts them in training and kept aside, and counts what was left out, by source.

    Args:
        data: directory with `pairs`, `nli`, `sts` and `retrieval`.
        caps: most rows of a source in stage 2 and in stage 3.
        kept_aside: pairs of each of `KEPT_ASIDE`.
        seed: of every choice.
    """

    def __init__(self, data: Path, caps: tuple[int, int], kept_aside: int, seed: int) -> None:
        self.data, self.caps, self.num_kept, self.seed = data, caps, kept_aside, seed
        self.counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        self.kept_aside: dict[str, list[Row]] = {}
        self._evaluated = self._evaluation_texts()

    def _evaluation_texts(self) -> list[str]:
        texts = []
        for name in STS_SETS:
            for row in read_tsv(self.data / "sts" / f"{name}.tsv.gz", ("sentence1", "sentence2")):
                texts += [row["sentence1"], row["sentence2"]]
        for name in RETRIEVAL_SETS:
            retrieval = RetrievalSet.from_beir(self.data / "retrieval" / name)
            texts += [*retrieval.queries.values(), *retrieval.documents.values()]
        return texts

    def pairs(self) -> dict[str, tuple[list[Row], list[Row]]]:
        """Source -> training rows of stage 2 and of stage 3, with `query` and `document`; fills `kept_aside`."""
        shuffled = {}
        for name, source in PAIRS.items():
            rows = [row for file in source.files for row in self._read_pairs(file)]
            random.Random(f"{self.seed} {name}").shuffle(rows)
            if name in KEPT_ASIDE:
                if len(rows) <= self.num_kept:
                    raise ValueError(f"{source.files[0]}: {len(rows):,} rows; keep fewer aside than {self.num_kept:,}.")
                self.kept_aside[name], rows = rows[: self.num_kept], rows[self.num_kept :]
            shuffled[name] = rows
        kept = {
            side: {normalize_text(row[side]) for rows in self.kept_aside.values() for row in rows}
            for side in ("query", "document")
        }
        parted = {}
        for name, rows in shuffled.items():
            apart = [row for row in rows if not any(normalize_text(row[side]) in kept[side] for side in kept)]
            self.counts[name]["same_as_kept_aside"] = len(rows) - len(apart)
            cut = round(_STAGE_2_SHARE * len(apart)) if name in _IN_BOTH_STAGES else len(apart)
            parts = apart[:cut][: self.caps[0]], apart[cut:][: self.caps[1]]
            parted[name] = (self.without_evaluated(name, parts[0]), self.without_evaluated(name, parts[1]))
        return parted

    def without_evaluated(self, name: str, rows: list[Row]) -> list[Row]:
        """The rows, without those of which a text stands, in whole or half, in an evaluation set."""
        texts, owners = [], []
        for number, row in enumerate(rows):
            parts = row.pop("parts", [row["document"]])
            for text in (row["query"], *parts, *row.get("negatives", ())):
                texts.append(text)
                owners.append(number)
        overlapping = overlapping_rows(texts, self._evaluated)
        removed = {owner for owner, found in zip(owners, overlapping, strict=True) if found}
        self.counts[name]["in_evaluation_sets"] += len(removed)
        return [row for number, row in enumerate(rows) if number not in removed]

    def _read_pairs(self, file: str) -> list[Row]:
        rows = []
        for row in read_jsonl(self.data / "pairs" / f"{file}.jsonl.gz"):
            parts = [row["document"], *row.get("examples", ())]  # wordnet's gloss, then its examples
            rows.append({"query": row["query"], "document": "; ".join(parts), "parts": parts})
        return rows

    def trivia(self) -> list[Row]:
        """Question, answer, and wrong choices as hard negatives, without blank ones and copies of the answer."""
        rows = []
        for row in read_jsonl(self.data / "pairs" / f"{_TRIVIA}.jsonl.gz"):
            answer = normalize_text(row["document"])
            wrong = [text for text in row["negatives"] if text.strip() and normalize_text(text) != answer]
            self.counts[_TRIVIA]["negatives_left_out"] += len(row["negatives"]) - len(wrong)
            self.counts[_TRIVIA]["without_negatives"] += not wrong
            if wrong:
                rows.append({"query": row["query"], "document": row["document"], "negatives": wrong})
        return self._sampled(_TRIVIA, rows)

    def nli(self) -> list[Row]:
        """A premise, a hypothesis that follows from it, and those that contradict it as hard negatives."""
        rows = []
        for file in _NLI_FILES:
            hypotheses: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
            for row in read_tsv(self.data / "nli" / f"{file}.tsv.gz", ("premise", "hypothesis", "label")):
                hypotheses[row["premise"]][row["label"]].append(row["hypothesis"])
            for premise, by_label in hypotheses.items():
                if by_label["entailment"] and by_label["contradiction"]:
                    entailed = by_label["entailment"][0]
                    rows.append({"query": premise, "document": entailed, "negatives": by_label["contradiction"]})
        return self._sampled("nli", rows)

    def _sampled(self, name: str, rows: list[Row]) -> list[Row]:
        random.Random(f"{self.seed} {name}").shuffle(rows)
        return self.without_evaluated(name, rows[: self.caps[1]])


def read_tsv(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a gzipped table with a header, separated by tabs, without quoting.

    Raises:
        ValueError: a column is missing, or a row has not as many fields as the header; names file and line.
    """
    with gzip.open(path, "rt", encoding="utf-8", newline="") as lines:
        table = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        header = next(table, [])
        if missing := [column for column in columns if column not in header]:
            raise ValueError(f"{path}: no column {missing[0]!r}; the columns are {', '.join(header)}.")
        rows = []
        for number, fields in enumerate(table, start=2):
            if len(fields) != len(header):
                raise ValueError(f"{path}, line {number}: {len(fields)} fields, not {len(header)}; correct the line.")
            rows.append(dict(zip(header, fields, strict=True)))
    return rows


def prepare(data: Path, output_dir: Path, caps: tuple[int, int], kept_aside: int, seed: int) -> dict[str, Any]:
    """Write sources, sets kept aside, and a config overlay for each run; returns the counts.

    `stage2.yaml`, `stage2-mixed.yaml`, `stage2-no_prefixes.yaml` and `stage3.yaml` hold the key `sources`; a source of
    stage 3 without `negatives` is still to be mined. `kept_aside/NAME.jsonl.gz` are pairs.

    Raises:
        ValueError: the directory exists, or data cannot be read.
    """
    if output_dir.exists():
        raise ValueError(f"{output_dir} exists. Choose another --output_dir or remove it.")
    preparation = Preparation(data, caps, kept_aside, seed)
    parted = preparation.pairs()
    final = output_dir.resolve()
    stage2 = {name: rows for name, (rows, _) in parted.items()}
    stage3 = {name: parted[name][1] for name in _IN_BOTH_STAGES}
    mined = {"nli": preparation.nli(), _TRIVIA: preparation.trivia()}
    with atomic_directory(output_dir) as files:
        for name, rows in preparation.kept_aside.items():
            write_jsonl(_pairs_only(rows), files / "kept_aside" / f"{name}.jsonl.gz")
        for stage, sources in ("stage2", stage2), ("stage3", stage3 | mined):
            for name, rows in sources.items():
                write_jsonl(rows, files / stage / f"{name}.jsonl.gz")
        write_jsonl(_mixed(stage2), files / "stage2-mixed" / "mixed.jsonl.gz")
        overlays = {
            "stage2": [_source(final / "stage2", name, PAIRS[name].prefixes) for name in stage2],
            "stage2-no_prefixes": [_source(final / "stage2", name, ("", "")) for name in stage2],
            "stage2-mixed": [_source(final / "stage2-mixed", "mixed", ("", ""))],  # its texts have their prefixes
            "stage3": [
                *(_source(final / "stage3", name, PAIRS[name].prefixes) for name in stage3),
                _source(final / "stage3", "nli", _SYMMETRIC) | {"negatives": "negatives"},
                _source(final / "stage3", _TRIVIA, _SEARCH) | {"negatives": "negatives"},
            ],
        }
        for name, entries in overlays.items():
            (files / f"{name}.yaml").write_text(yaml.safe_dump({"sources": entries}, sort_keys=False))
        counts = {
            "stage2": {name: len(rows) for name, rows in stage2.items()},
            "stage3": {name: len(rows) for name, rows in (stage3 | mined).items()},
            "kept_aside": {name: len(rows) for name, rows in preparation.kept_aside.items()},
            "left_out": {name: dict(reasons) for name, reasons in preparation.counts.items()},
            "seed": seed,
        }
        (files / "counts.json").write_text(json.dumps(counts, indent=2) + "\n")
    return counts


def _source(directory: Path, name: str, prefixes: tuple[str, str]) -> dict[str, str]:
    path = str(directory / f"{name}.jsonl.gz")
    return {"name": name, "path": path, "query_prefix": prefixes[0], "document_prefix": prefixes[1]}


def _pairs_only(rows: Iterable[Row]) -> Iterable[Row]:
    return ({"query": row["query"], "document": row["document"]} for row in rows)


def _mixed(sources: dict[str, list[Row]]) -> Iterable[Row]:
    """All rows as one source, with the prefixes of their own sources in their texts."""
    for name, rows in sources.items():
        query, document = map(prefix_text, PAIRS[name].prefixes)
        for row in rows:
            yield {"query": query + row["query"], "document": document + row["document"]}
