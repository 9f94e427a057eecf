"""Downloads against a local HTTP server that can break off, refuse ranges and send the wrong thing."""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from dataset_conversion.errors import UserError
from dataset_conversion.files import sha256_of
from pseudo_labeling.weights.downloads import fetch
from pseudo_labeling.weights.table import WeightFile

CONTENT = np.random.default_rng(0).integers(0, 256, 300_000, dtype=np.uint8).tobytes()


@dataclass
class Server:
    """A server of one file and the misbehaviour it is told to show."""

    url: str = ""
    content: bytes = CONTENT
    break_after: int | None = None  # bytes of the body before the connection is closed
    knows_ranges: bool = True
    shift: int = 0  # answers every range this many bytes further on
    announce_length: bool = True
    status: int = 200
    ranges: list[str | None] = field(default_factory=list)  # asked for, request by request
    sent: list[int] = field(default_factory=list)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    plan = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            plan.ranges.append(asked)
            start = 0
            if plan.status != 200:
                self.send_error(plan.status)
                return
            if asked and plan.knows_ranges:
                start = int(asked.removeprefix("bytes=").removesuffix("-")) + plan.shift
                if start >= len(plan.content):
                    self.send_error(416)
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(plan.content) - 1}/{len(plan.content)}")
            else:
                self.send_response(200)
            body = plan.content[start:]
            if plan.announce_length:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            body = body[: plan.break_after]
            plan.sent.append(len(body))
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    plan.url = f"http://127.0.0.1:{http.server_port}/toy.pth"
    yield plan
    http.shutdown()
    http.server_close()
    thread.join()


def toy(server: Server) -> WeightFile:
    digest = hashlib.sha256(CONTENT).hexdigest()
    return WeightFile("toy", "sam", "a toy", "toy.pth", server.url, len(CONTENT), digest)


def get(server: Server, folder: Path) -> Path:
    return fetch(toy(server), folder, progress=False)


def fail(server: Server, folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        get(server, folder)
    message = str(caught.value)
    assert "\n" not in message
    assert server.url in message
    assert not (folder / "toy.pth").exists()
    return message


def test_download_makes_folder_and_file(server: Server, tmp_path: Path) -> None:
    path = get(server, tmp_path / "new" / "cache")
    assert path == tmp_path / "new" / "cache" / "toy.pth"
    assert path.read_bytes() == CONTENT
    assert list(path.parent.iterdir()) == [path]


def test_file_already_there_is_not_asked_for(server: Server, tmp_path: Path) -> None:
    get(server, tmp_path)
    get(server, tmp_path)
    assert server.ranges == [None]


def test_damaged_file_is_replaced(server: Server, tmp_path: Path) -> None:
    (tmp_path / "toy.pth").write_bytes(CONTENT[:-1] + b"?")
    assert get(server, tmp_path).read_bytes() == CONTENT


def test_broken_download_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.break_after = 120_000
    message = fail(server, tmp_path)
    assert "120000" in message
    assert "run the same command to go on" in message
    assert str(tmp_path / "toy.pth") in message
    assert (tmp_path / "toy.pth.part").read_bytes() == CONTENT[:120_000]
    server.break_after = None
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=120000-"]
    assert server.sent == [120_000, 180_000]
    assert not (tmp_path / "toy.pth.part").exists()


def test_server_without_ranges_sends_all_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "toy.pth.part").write_bytes(CONTENT[:1000])
    server.knows_ranges = False
    assert get(server, tmp_path).read_bytes() == CONTENT


def test_server_that_answers_another_range_is_asked_for_all(server: Server, tmp_path: Path) -> None:
    (tmp_path / "toy.pth.part").write_bytes(CONTENT[:1000])
    server.shift = 7
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges == ["bytes=1000-", None]


def test_range_beyond_the_end_starts_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "toy.pth.part").write_bytes(CONTENT[:1000])
    server.shift = len(CONTENT)
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges == ["bytes=1000-", None]


def test_complete_part_needs_no_server(server: Server, tmp_path: Path) -> None:
    (tmp_path / "toy.pth.part").write_bytes(CONTENT)
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges == []


def test_part_larger_than_the_file_is_dropped(server: Server, tmp_path: Path) -> None:
    (tmp_path / "toy.pth.part").write_bytes(CONTENT + b"more")
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None]


def test_wrong_content_is_removed(server: Server, tmp_path: Path) -> None:
    server.content = CONTENT[:-1] + b"?" if CONTENT[-1:] != b"?" else CONTENT[:-1] + b"!"
    assert "SHA-256" in fail(server, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_wrong_part_is_removed_and_the_next_try_succeeds(server: Server, tmp_path: Path) -> None:
    (tmp_path / "toy.pth.part").write_bytes(b"x" * 1000)
    assert "SHA-256" in fail(server, tmp_path)
    assert get(server, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("announce", [True, False])
def test_file_of_another_size_is_not_taken(server: Server, tmp_path: Path, announce: bool) -> None:
    server.content = CONTENT + b"more"
    server.announce_length = announce
    assert str(len(CONTENT)) in fail(server, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_login_page_does_not_cost_the_part(server: Server, tmp_path: Path) -> None:
    (tmp_path / "toy.pth.part").write_bytes(CONTENT[:1000])
    server.content, server.knows_ranges = b"<html>please log in</html>", False
    assert "offers 26 bytes" in fail(server, tmp_path)
    assert (tmp_path / "toy.pth.part").read_bytes() == CONTENT[:1000]


def test_refusal_names_code_and_target(server: Server, tmp_path: Path) -> None:
    server.status = 404
    message = fail(server, tmp_path)
    assert "404" in message
    assert f"download it by hand to {tmp_path / 'toy.pth'}" in message


def test_no_network_names_url_and_target(server: Server, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server.url = f"http://127.0.0.1:{port}/toy.pth"
    message = fail(server, tmp_path)
    assert f"download it by hand to {tmp_path / 'toy.pth'}" in message


def test_folder_that_is_a_file_is_named(server: Server, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(UserError, match="CLISC_WEIGHTS"):
        get(server, tmp_path / "cache")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_says_what_helps(server: Server, tmp_path: Path) -> None:
    (tmp_path / "toy.pth.part").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"toy\.pth: No space left .*; make room \(.* free\).* CLISC_WEIGHTS"):
        get(server, tmp_path)
    assert not (tmp_path / "toy.pth").exists()


def test_sha256_of_known_content(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_of(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
