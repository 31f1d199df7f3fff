"""OpenVINO, imported without its report of use.

Its import tells Google Analytics that it was imported, unless the user has opted out. That takes a process which runs
beside the first second of computing, and the reader of a private corpus expects no connection.
"""

import sys

_REPORTER = "openvino_telemetry"  # a package of its own; openvino goes on where it is missing
_reporter = sys.modules.get(_REPORTER)
sys.modules[_REPORTER] = None  # type: ignore[assignment]  # which makes its import fail
try:
    import openvino
    import openvino.opset13 as ops
finally:
    if _reporter is None:
        del sys.modules[_REPORTER]
    else:
        sys.modules[_REPORTER] = _reporter

__all__ = ["openvino", "ops"]
