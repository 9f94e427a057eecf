"""Pseudo-labels for scans without masks: slice labels, CAMs, prompts, SAM masks; one module a stage."""
