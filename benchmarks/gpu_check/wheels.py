"""What a machine with PyTorch and without network needs for the GPU check, as a folder of wheels.

``python -m benchmarks.gpu_check.wheels DIR``, run where the project is installed: the versions are those of here.
The largest, SimpleITK, is packed again with LZMA, which pip reads as well: 29 instead of 53 MB.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib.metadata import version
from pathlib import Path

# What the parts import beside torch, torchvision, timm and what a Python for data analysis has (docs/speed.md).
PACKAGES = (
    *("nnunetv2", "batchgenerators", "batchgeneratorsv2", "acvl_utils", "dynamic_network_architectures"),
    *("connected-components-3d", "nibabel", "SimpleITK"),  # nnU-Net's components, its readers
    *("blosc2", "ndindex", "numexpr", "msgpack"),  # its preprocessed files
    *("segment-anything", "open_clip_torch", "ftfy", "wcwidth", "grad-cam", "ttach"),
    *("pydantic", "pydantic_core", "annotated-types", "typing-inspection"),
)
PYTHON = "3.12"
PLATFORMS = tuple(f"manylinux{each}_x86_64" for each in ("_2_34", "_2_28", "_2_27", "_2_24", "_2_17", "2014"))
LARGE = 10_000_000  # bytes from which packing again is worth its minutes: SimpleITK
LARGEST = 60  # MB in all


def fetch(name: str, folder: Path) -> None:
    """Put the wheel of one package into a folder; one that is published as source only is built, and must be pure."""
    wanted = f"{name}=={version(name)}"
    pip = [sys.executable, "-m", "pip"]
    target = [f"--python-version={PYTHON}", "--implementation=cp", *(f"--platform={each}" for each in PLATFORMS)]
    download = [*pip, "download", "-q", "--no-deps", "--only-binary=:all:", *target, "-d", str(folder), wanted]
    if subprocess.run(download, capture_output=True).returncode != 0:
        subprocess.run([*pip, "wheel", "-q", "--no-deps", "-w", str(folder), wanted], check=True)


def repack(wheel: Path, target: Path) -> None:
    """Write the same files with the compression that takes least."""
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_LZMA) as new:
        for item in old.infolist():
            new.writestr(item, old.read(item.filename), compress_type=zipfile.ZIP_LZMA)


def main() -> None:
    """Fetch all, pack the large ones again, say how large they are."""
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit("usage: python -m benchmarks.gpu_check.wheels DIR")
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        for name in PACKAGES:
            fetch(name, Path(temporary))
        for wheel in sorted(Path(temporary).glob("*.whl")):
            if wheel.stat().st_size > LARGE:
                repack(wheel, folder / wheel.name)
            else:
                shutil.copy(wheel, folder)
            print(f"{(folder / wheel.name).stat().st_size / 1e6:6.2f} MB  {wheel.name}", flush=True)
    total = sum(wheel.stat().st_size for wheel in folder.glob("*.whl")) / 1e6
    print(f"{total:6.2f} MB  in all")
    if any("x86_64" not in wheel.name and "-any" not in wheel.name for wheel in folder.glob("*.whl")):
        sys.exit("a wheel was built for this machine; it will not do elsewhere")
    if total > LARGEST:
        sys.exit(f"more than {LARGEST} MB")


if __name__ == "__main__":
    main()
