"""Embed a text in OpenVINO; print the processes that were started for it, and the modules of OpenVINO's reporter."""

import multiprocessing
import sys

from nomic_bert.embedder import load_embedder

started = []
multiprocessing.Process.start = lambda process: started.append(process)
load_embedder(sys.argv[1], backend="openvino", dtype="int8").encode("text")
print(started, [name for name in sys.modules if name.startswith("openvino_telemetry")])
