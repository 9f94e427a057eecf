from benchmarks.reliability.trainer import ReliabilityTrainer  # noqa: F401  (a shim: nnU-Net finds it here)
