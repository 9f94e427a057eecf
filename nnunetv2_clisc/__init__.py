"""CLISC as an nnU-Net v2 extension: brain tumour segmentation without annotation; from Python: `nnunetv2_clisc.api`."""

__version__ = "0.1.0"
