"""What a stranger's network takes and gives, learnt by looking at its file and running it, and its ``model.toml``."""
