"""What each case survived, printed at the end."""

import pytest

from tests.crash.harness import tallies


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for case, result in tallies.items():
        terminalreporter.write_line(f"crash: {case}: {result}")


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk() -> None:
    """Here the disk is waited for: what is synced is what these tests are about."""
