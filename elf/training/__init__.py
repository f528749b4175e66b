"""What a training is made of: the network and its loss, the optimizer, the order of an epoch."""
