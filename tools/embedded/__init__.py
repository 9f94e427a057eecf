"""The trainings of the embedded networks: ``python -m tools.embedded.train_clip`` and ``train_sam``."""
