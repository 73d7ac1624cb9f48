"""What computes a trained network's logits: PyTorch, or OpenVINO where it is installed."""
