"""Weights of CLIP, SAM and ResNet50: which files are known, where they lie, how they come and become models."""
