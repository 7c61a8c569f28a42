"""Graph to what one kind of target runs. So far TFLite; each compiler works in a process of its own."""
