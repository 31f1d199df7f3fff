"""What is evaluated: tasks of mteb, LoCo, and own files, as tasks that `mteb.evaluate` takes."""
