"""The readers that publishing starts, forked from one process that has their libraries and nothing of the project.

python -I tests/crash/reading.py SOCKET    # answers until it is ended
"""

import os
import runpy
import sys
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Client, Listener


def read(socket: str, words: Sequence[str], environment: Mapping[str, str], directory: str) -> int:
    """Let the server run a script; its exit status."""
    with Client(socket, "AF_UNIX") as connection:
        connection.send((words, environment, directory))
        return connection.recv()


def _serve(socket: str) -> None:
    import sentence_transformers  # noqa: F401  what takes seconds

    with Listener(socket, "AF_UNIX") as listener:
        while True:
            with listener.accept() as connection:
                words, environment, directory = connection.recv()
                child = os.fork()
                if not child:
                    _run(words, environment, directory)
                connection.send(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def _run(words: list[str], environment: dict[str, str], directory: str) -> None:
    status = 1
    try:
        os.environ.update(environment)
        os.chdir(directory)
        if words[0] == "-I":
            words = words[1:]
        else:
            sys.path.insert(0, environment["PYTHONPATH"])
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


if __name__ == "__main__":
    _serve(sys.argv[1])
