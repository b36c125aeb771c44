"""What lies on disk: datasets (fetched, verified, loaded), their augmentation, weights."""
