"""The ground floor: files, rows, settings and Markdown. It knows nothing of models and imports nothing of ours."""
