"""The command line in a process of its own that writes down each run it trains, and hangs where it is told to.

python -m tests.evaluation.glue.run_counted LOG STEP ARGUMENTS    # STEP 0: never
"""

import sys
import time

from evaluation.glue import sweep, training
from evaluation.glue.__main__ import main

train = sweep.fine_tune


class HangingCallback(training.EpochCallback):
    """Stops for ever after a step, when a checkpoint of an earlier one is on the disk."""

    step = 0

    def on_step_end(self, args, state, control, **others):
        super().on_step_end(args, state, control, **others)
        if state.global_step == self.step:
            print("hanging", flush=True)
            time.sleep(1000)


def counted(log):
    def fine_tune(run, checkpoint, tokenizer, splits, dev, protocol, directory, **settings):
        newest = training.last_checkpoint(directory)
        begins_with = newest.name if newest else "start"
        with open(log, "a") as file:
            file.write(f"{run.name} {begins_with}\n")
        return train(run, checkpoint, tokenizer, splits, dev, protocol, directory, **settings)

    return fine_tune


if __name__ == "__main__":
    sweep.fine_tune = counted(sys.argv[1])
    HangingCallback.step = int(sys.argv[2])
    training.EpochCallback = HangingCallback
    main(sys.argv[3:])
