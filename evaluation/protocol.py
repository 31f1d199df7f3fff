"""The paper's protocol for MTEB and long documents: benchmarks, lengths and scaling."""

PAPER_BENCHMARK = "MTEB(eng, v1)"  # paper §5.2.1, Table 4: its 56 tasks
PAPER_LENGTH = 512  # paper §5.2.1, in tokens, of that benchmark
PAPER_SCALING = 2.0  # paper §5.2.2: alpha of Eq. 5, beyond the trained length
LEAST_TOKENS = 4  # [CLS], [SEP] and a text
# Lengths in tokens at which the paper has the other two benchmarks
LENGTHS = {
    "JinaLongContext": (128, 512, 8191),  # paper §5.2.3
    "LoCo": (2048, 4096, 8192),  # paper §5.2.4
}
