"""From a checkpoint to a hub repository: the directory, its proof in every reader, the model card, the upload."""
