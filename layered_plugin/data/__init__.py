"""Pictures in: files to training batches, labels, masks; knows nothing of models or scores."""
