"""Look at it: draw a picture for the network, read photos, plot a run, take the guided tour."""
