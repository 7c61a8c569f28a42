"""Graph to what one kind of target runs: TFLite, TensorRT. Each compiler works in a process of its own."""
