"""Training of the neural head model: samples on the device, losses, optimisers, the loop and its states."""
