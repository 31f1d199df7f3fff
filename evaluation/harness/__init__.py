"""Run mteb tasks for a model: its protocol, its results, and how processes share the tasks."""
