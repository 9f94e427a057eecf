"""The published weights we know: where they come from, how large they are, and their SHA-256."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal["clip", "sam", "resnet50", "unet", "dino"]


@dataclass(frozen=True)
class WeightFile:
    """A published file; `size` in bytes."""

    name: str
    role: Role
    title: str
    file_name: str
    url: str
    size: int
    sha256: str


WEIGHTS: tuple[WeightFile, ...] = (
    WeightFile(
        name="clip_vit_b32",
        role="clip",
        title="OpenAI CLIP ViT-B/32",
        file_name="ViT-B-32.pt",
        url="https://openaipublic.azureedge.net/clip/models/"
        "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af/ViT-B-32.pt",
        size=353976522,
        sha256="40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
    ),
    WeightFile(  # the same weights as safetensors, from the repository open_clip itself downloads from
        name="clip_vit_b32_safetensors",
        role="clip",
        title="OpenAI CLIP ViT-B/32 (safetensors)",
        file_name="clip_vit_b32_openai.safetensors",
        url="https://huggingface.co/timm/vit_base_patch32_clip_224.openai/resolve/"
        "a6f597a30f7b82c51704746581f9a4e41421e878/open_clip_model.safetensors",
        size=605143284,
        sha256="e6d1bd7789aa45192b3bf90570a789b478bae1b74ebcce7eddd908e83a2b7c31",
    ),
    # IMAGENET1K_V1: what "pre-trained ResNet50" meant before torchvision had a choice, and trained plainly; the V2
    # recipe (label smoothing, mixup, cutmix) raises ImageNet accuracy and flattens the features that CAMs live on.
    WeightFile(
        name="resnet50",
        role="resnet50",
        title="torchvision ResNet50, ImageNet (IMAGENET1K_V1)",
        file_name="resnet50-0676ba61.pth",
        url="https://download.pytorch.org/models/resnet50-0676ba61.pth",
        size=102530333,
        sha256="0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a",
    ),
    WeightFile(
        name="sam_vit_b",
        role="sam",
        title="SAM ViT-B",
        file_name="sam_vit_b_01ec64.pth",
        url="https://dl.fbaipublicfiles.com/segment_anything/sam_vit_b_01ec64.pth",
        size=375042383,
        sha256="ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
    ),
    WeightFile(
        name="sam_vit_l",
        role="sam",
        title="SAM ViT-L",
        file_name="sam_vit_l_0b3195.pth",
        url="https://dl.fbaipublicfiles.com/segment_anything/sam_vit_l_0b3195.pth",
        size=1249524607,
        sha256="3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
    ),
    WeightFile(
        name="sam_vit_h",
        role="sam",
        title="SAM ViT-H",
        file_name="sam_vit_h_4b8939.pth",
        url="https://dl.fbaipublicfiles.com/segment_anything/sam_vit_h_4b8939.pth",
        size=2564550879,
        sha256="a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
    ),
    WeightFile(
        name="mobile_sam",
        role="sam",
        title="MobileSAM (TinyViT)",
        file_name="mobile_sam.pt",
        url="https://raw.githubusercontent.com/ChaoningZhang/MobileSAM/f706ad9c4eb7f219c00d9050e46328518ffb65d2/"
        "weights/mobile_sam.pt",
        size=40728226,
        sha256="6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
    ),
    # Zenodo names an MD5 only; this SHA-256 is that of the authors' Google Drive file of the same name and size.
    WeightFile(
        name="medsam_vit_b",
        role="sam",
        title="MedSAM ViT-B",
        file_name="medsam_vit_b.pth",
        url="https://zenodo.org/records/10689643/files/medsam_vit_b.pth",
        size=375049145,
        sha256="34b34b78c1d18cb8c6bf84cf9c00e135d6d6c965699f3c0e31ef1bc9dcb5be74",
    ),
)
BY_NAME = {weight.name: weight for weight in WEIGHTS}

# What the paper uses (3.1: the ViT-Base versions of CLIP and SAM, a pre-trained ResNet50).
PAPER: dict[Role, str] = {"clip": "clip_vit_b32", "sam": "sam_vit_b", "resnet50": "resnet50"}
