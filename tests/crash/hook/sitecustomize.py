"""Counts the file-system events of a process, and of those that it starts, and kills them all before the Nth.

Python imports a module of this name at its start wherever this directory is on PYTHONPATH. `harness.py` calls `install`
itself in processes that it forks. The settings come from the environment:

    CRASH_WATCH    the directory whose events count
    CRASH_COUNTER  a file that grows by one byte an event, over all processes
    CRASH_AT       the event before which the process group is killed; 0: none
    CRASH_COPY_AT  events, joined by commas, before which the directory is copied: what a kill there would leave
    CRASH_COPIES   where these copies go, each named after its event

An event is an opening to write, a rename, a removal, or a new directory or link that Python asks for. What extensions
write by themselves (safetensors, Arrow, torch's archives) is no event: only kills at random times hit it.
"""

import os
import shutil
import signal
import sys

_EVENTS = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def install() -> None:
    """Begin to count, if the environment asks for it."""
    watched, counter = os.environ.get("CRASH_WATCH"), os.environ.get("CRASH_COUNTER")
    if not watched or not counter:
        return
    fatal, copies = int(os.environ.get("CRASH_AT", "0")), os.environ.get("CRASH_COPIES", "")
    copied = {int(event) for event in os.environ.get("CRASH_COPY_AT", "").split(",") if event}
    count = os.open(counter, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    inside = os.path.join(os.path.abspath(watched), "")

    def on_event(event: str, arguments: tuple) -> None:
        if event not in _EVENTS and not (event == "open" and _writes(*arguments[1:3])):
            return
        path = arguments[0]
        if not isinstance(path, str | bytes | os.PathLike):
            return  # a descriptor: it was counted when it was opened
        if not os.path.abspath(os.fsdecode(path)).startswith(inside):
            return
        os.write(count, b".")
        number = os.fstat(count).st_size
        if number == fatal:
            os.killpg(0, signal.SIGKILL)
        if number in copied:
            shutil.copytree(watched, os.path.join(copies, str(number)), symlinks=True)

    sys.addaudithook(on_event)


def _writes(mode: object, flags: object) -> bool:
    if isinstance(mode, str):
        return any(letter in mode for letter in "wax+")
    return isinstance(flags, int) and bool(flags & _WRITING)


install()
