"""The Segment Anything networks as plain PyTorch modules, and their checkpoints. Imports neither Ray nor the engine."""
