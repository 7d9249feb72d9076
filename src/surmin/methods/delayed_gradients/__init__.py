"""What methods with delayed gradients share: rounds on batches that are under way."""
