"""CLISC as an nnU-Net v2 extension: brain tumour segmentation without annotation."""

__version__ = "0.1.0"
