"""What happens beside the loop: files, samples, checkpoints."""
