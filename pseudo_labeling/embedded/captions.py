"""Captions for the training of the embedded CLIP, and its word tokenizer.

Two meanings are taught, *normal slice* and *slice with a tumour*, through many paraphrases; the paper's prompts are two
of them. Captions of random words teach that other text means neither.
"""

from __future__ import annotations

import re
import zlib

import numpy as np
import torch

from pseudo_labeling.settings import NORMAL_PROMPT, TUMOUR_PROMPT

CONTEXT_LENGTH = 40
VOCABULARY_SIZE = 4096  # words are hashed; id 0 pads, the two largest ids start and end a text
_START, _END = VOCABULARY_SIZE - 2, VOCABULARY_SIZE - 1

_OPENINGS = (
    "an image of {}",
    "a photo of {}",
    "{}",
    "a FLAIR slice of {}",
    "an MRI slice showing {}",
    "MRI of {}",
    "a scan of {}",
    "an axial slice of {}",
    "a magnetic resonance image of {}",
    "a medical image of {}",
    "a picture of {}",
    "this is {}",
)
_TISSUES = (
    "brain tissue",
    "a brain",
    "the brain",
    "a head",
    "brain parenchyma",
    "a cerebral slice",
    "human brain",
    "tissue",
)
_ABNORMAL = (
    "a tumor",
    "a tumour",
    "a lesion",
    "a glioma",
    "a mass",
    "a brain tumor",
    "a brain tumour",
    "a suspicious mass",
    "oedema",
    "edema",
    "a glioblastoma",
    "an abnormality",
    "cancer",
    "a neoplasm",
    "a tumor with edema",
    "a hyperintense lesion",
    "abnormal intensity",
    "a region of abnormal intensity",
    "a bright mass",
    "a pathological lesion",
    "tumor tissue",
)
_LOOKS = (
    "with uneven hyperintensity",
    "with irregular borders",
    "distinct from surroundings",
    "with abnormal signal",
    "with uneven hyperintensity and irregular borders",
    "with uneven hyperintensity and irregular borders distinct from surroundings",
    "with heterogeneous signal",
    "with bright signal",
    "with surrounding edema",
    "with high signal intensity",
)
_SHOWS = ("showing", "with", "containing", "that shows", "that has", "having")
_FINE = (
    "normal",
    "healthy",
    "typical",
    "unremarkable",
    "ordinary",
    "intact",
    "clean",
    "normal looking",
)
_TYPICAL = (
    "typical signal intensity",
    "normal signal intensity",
    "homogeneous signal",
    "normal anatomy",
    "typical appearance",
    "no abnormality",
    "normal intensity",
    "even signal",
    "regular structure",
    "healthy tissue",
    "uniform signal intensity",
)
_ABSENT = (
    "without",
    "without any",
    "with no",
    "no",
    "free of",
    "no sign of",
    "no evidence of",
    "absence of",
    "showing no",
)
_THINGS = (
    "tumor",
    "tumour",
    "lesion",
    "mass",
    "abnormality",
    "regions of abnormal intensity",
    "suspicious mass",
    "glioma",
    "edema",
    "oedema",
    "regions of abnormal intensity or suspicious mass",
    "pathology",
    "hyperintensity",
    "brain tumor",
    "abnormal signal",
    "uneven hyperintensity",
    "irregular borders",
    "cancer",
    "tumor or edema",
    "lesions",
    "hyperintense lesion",
)


def tumour_caption(rng: np.random.Generator) -> str:
    """A random caption of a slice with a tumour."""
    kind = rng.random()
    if kind < 0.08:
        return TUMOUR_PROMPT
    thing = str(rng.choice(_ABNORMAL))
    if rng.random() < 0.6:
        thing = f"{thing} {rng.choice(_LOOKS)}"
    if kind < 0.25:
        return thing
    if kind < 0.35:
        return f"{rng.choice(('abnormal', 'pathological', 'diseased', 'tumorous'))} {rng.choice(_TISSUES).split()[-1]}"
    return str(rng.choice(_OPENINGS)).format(f"{rng.choice(_TISSUES)} {rng.choice(_SHOWS)} {thing}")


def normal_caption(rng: np.random.Generator) -> str:
    """A random caption of a slice without a tumour."""
    kind = rng.random()
    if kind < 0.08:
        return NORMAL_PROMPT
    tissue, thing = str(rng.choice(_TISSUES)), f"{rng.choice(_ABSENT)} {rng.choice(_THINGS)}"
    if kind < 0.2:
        return thing
    if kind < 0.4:
        return str(rng.choice(_OPENINGS)).format(f"{rng.choice(_FINE)} {tissue.split()[-1]}")
    if kind < 0.6:
        return str(rng.choice(_OPENINGS)).format(f"{tissue} {rng.choice(_SHOWS)} {rng.choice(_TYPICAL)}")
    if kind < 0.8:
        return str(rng.choice(_OPENINGS)).format(f"{tissue} {thing}")
    return str(rng.choice(_OPENINGS)).format(f"{tissue} {rng.choice(_SHOWS)} {rng.choice(_TYPICAL)} {thing}")


def meaningless_ids(rng: np.random.Generator, count: int) -> torch.Tensor:
    """`(count, context)` token ids of texts of random words."""
    ids = torch.zeros(count, CONTEXT_LENGTH, dtype=torch.long)
    for row in ids:
        words = rng.integers(1, _START, rng.integers(1, 16))
        row[: len(words) + 2] = torch.tensor([_START, *words.tolist(), _END])
    return ids


def embedded_clip_tokenizer(texts: str | list[str], context_length: int = CONTEXT_LENGTH) -> torch.Tensor:
    """Words to ids, called like the tokenizers of open_clip.

    Args:
        texts: one text or a list of them; longer ones are cut.
        context_length: ids a text.

    Returns:
        `(n, context_length)` int64.
    """
    texts = [texts] if isinstance(texts, str) else texts
    ids = torch.zeros(len(texts), context_length, dtype=torch.long)
    for row, text in zip(ids, texts, strict=True):
        words = re.findall(r"[a-z0-9]+", text.lower())[: context_length - 2]
        hashed = [zlib.crc32(word.encode()) % (_START - 1) + 1 for word in words]
        row[: len(hashed) + 2] = torch.tensor([_START, *hashed, _END])
    return ids
