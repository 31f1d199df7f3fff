"""Run mteb tasks for a model: how it is asked, what is kept, what several processes share."""
