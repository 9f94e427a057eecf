"""Downloads of the published weights: continued where they broke off, verified before they get their name.

Not by pooch: it (1.9) begins a broken-off download anew, and the largest file has 2.6 GB.
"""

from __future__ import annotations

import logging
import os
import ssl
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError

from tqdm import tqdm

from dataset_conversion.errors import UserError, explain
from dataset_conversion.files import sha256_of, sync
from pseudo_labeling.weights.table import WeightFile

logger = logging.getLogger(__name__)

CHUNK = 1 << 20  # bytes
TIMEOUT = 60  # seconds without a byte from the server


def size_of(path: Path) -> int:
    """Bytes of a file, 0 when there is none."""
    return path.stat().st_size if path.is_file() else 0


def fetch(weight: WeightFile, folder: Path, *, progress: bool = True) -> Path:
    """Download one file into `folder`, continuing `<file>.part`, and verify it before it gets its name.

    Returns:
        Where the file is; a file that is there and whole is left alone.

    Raises:
        UserError: no network, wrong size or SHA-256, or a folder that cannot be written.
    """
    target = folder / weight.file_name
    part = folder / f"{weight.file_name}.part"
    by_hand = f"download it by hand to {target}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if size_of(target) == weight.size and sha256_of(target) == weight.sha256:
            return target
        if size_of(part) > weight.size:
            part.unlink()
        if size_of(part) < weight.size:
            _transfer(weight, part, by_hand, progress)
        found = sha256_of(part)
        if found != weight.sha256:
            part.unlink()
            raise UserError(
                f"{weight.url}: what came has SHA-256 {found[:12]}..., not {weight.sha256[:12]}..., and was removed; "
                f"try again, or {by_hand}"
            )
        sync(part)
        os.replace(part, target)
        sync(folder)
    except HTTPError as error:
        raise UserError(f"{weight.url}: the server answers {error.code} {error.reason}; {by_hand}") from error
    except (URLError, HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        kept = f"the {size_of(part)} bytes that came are kept, run the same command to go on"
        again = kept if size_of(part) else "try again"
        raise UserError(f"{weight.url}: no connection ({reason}); {again}, or {by_hand}") from error
    except OSError as error:
        raise UserError(f"{explain(error, target)}, or set CLISC_WEIGHTS to another folder") from error
    logger.info("%s: downloaded and verified", target)
    return target


def _transfer(weight: WeightFile, part: Path, by_hand: str, progress: bool) -> None:
    """Append to `part` what it lacks; a server that will not continue sends everything again."""
    start = size_of(part)
    headers = {"User-Agent": "nnunetv2-clisc"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        response = urllib.request.urlopen(urllib.request.Request(weight.url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        if error.code != 416 or not start:
            raise
        part.unlink()  # the server has no such range: our part is of another file
        return _transfer(weight, part, by_hand, progress)
    with response:
        range_sent = response.headers.get("Content-Range", "")
        if start and response.status == 206 and not range_sent.startswith(f"bytes {start}-"):
            part.unlink()  # a range, but not ours
            return _transfer(weight, part, by_hand, progress)
        if response.status != 206:
            start = 0
        announced = response.headers.get("Content-Length", "")
        if announced.isdigit() and start + int(announced) != weight.size:
            if start:
                part.unlink()
            raise UserError(
                f"{weight.url}: the server offers {start + int(announced)} bytes instead of {weight.size}; {by_hand}"
            )
        _receive(response, weight, part, start, by_hand, progress)


def _receive(response: Any, weight: WeightFile, part: Path, start: int, by_hand: str, progress: bool) -> None:
    size = start
    bar = tqdm(total=weight.size, initial=start, desc=weight.file_name, unit="B", unit_scale=True, disable=not progress)
    with part.open("ab" if start else "wb") as file, bar:
        while size <= weight.size and (block := response.read(CHUNK)):
            size += file.write(block)
            bar.update(len(block))
    if size > weight.size:
        part.unlink()
        raise UserError(f"{weight.url}: sends more than the {weight.size} bytes expected; {by_hand}")
    if size < weight.size:
        raise UserError(
            f"{weight.url}: the connection broke after {size} of {weight.size} bytes, which are kept; "
            f"run the same command to go on, or {by_hand}"
        )
