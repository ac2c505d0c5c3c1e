"""What models are fine-tuned for: heads, losses, predictions."""
