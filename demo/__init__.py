"""Look at it: draw an image for the network, read photos, plot a run, take the guided tour."""
