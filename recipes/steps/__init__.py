"""What each script does, once its settings are read."""
