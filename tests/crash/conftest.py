"""What each case survived, printed at the end."""

import pytest

from tests.crash.harness import tallies


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for case, result in tallies.items():
        terminalreporter.write_line(f"crash: {case}: {result}")
