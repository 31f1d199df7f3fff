"""Tasks of mteb, LoCo and own files, in the form that `mteb.evaluate` takes."""
