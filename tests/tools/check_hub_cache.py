"""The cache that `loradeck fetch` fills is read by huggingface_hub, and the other way round. A hub on this
machine serves a small repository.

    python tests/tools/check_hub_cache.py target/debug/loradeck
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}",
    "model.safetensors": bytes(range(256)) * 300,
}
LARGE = {"model.safetensors"}


def etag(name: str) -> str:
    content = FILES[name]
    if name in LARGE:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Hub(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def answer(self, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(200)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if "/resolve/" in path:
            name = path.split("/", 5)[5]
            headers = {"ETag": f'"{etag(name)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
            if name in LARGE:
                headers |= {"X-Linked-Etag": f'"{etag(name)}"', "X-Linked-Size": str(len(FILES[name]))}
            return self.answer(FILES[name], headers)
        if "/tree/" in path:
            listing = []
            for name, content in FILES.items():
                entry = {"type": "file", "path": name, "size": len(content), "oid": etag(name) if name not in LARGE else "0" * 40}
                if name in LARGE:
                    entry["lfs"] = {"oid": etag(name), "size": len(content), "pointerSize": 130}
                listing.append(entry)
            return self.answer(json.dumps(listing).encode(), {"Content-Type": "application/json"})
        info = {"id": "some-owner/some-name", "modelId": "some-owner/some-name", "sha": COMMIT, "private": False, "tags": [],
                "downloads": 0, "likes": 0, "siblings": [{"rfilename": name} for name in FILES]}
        self.answer(json.dumps(info).encode(), {"Content-Type": "application/json"})

    do_HEAD = do_GET


def loradeck(program: str, cache: str, **more: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "HF_HUB_CACHE": cache, "HF_HUB_OFFLINE": "0", **more}
    return subprocess.run([program, "fetch", "some-owner/some-name"], env=environment, capture_output=True, text=True)


def main() -> None:
    program = sys.argv[1]
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    os.environ |= {"HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    from huggingface_hub import scan_cache_dir, snapshot_download, try_to_load_from_cache

    with tempfile.TemporaryDirectory() as ours, tempfile.TemporaryDirectory() as theirs:
        fetched = loradeck(program, ours)
        assert fetched.returncode == 0, fetched.stderr
        found = snapshot_download("some-owner/some-name", cache_dir=ours, local_files_only=True)
        assert Path(found).resolve() == Path(fetched.stdout.strip()).resolve(), (found, fetched.stdout)
        for name, content in FILES.items():
            path = try_to_load_from_cache("some-owner/some-name", name, cache_dir=ours)
            assert Path(path).read_bytes() == content
        scanned = scan_cache_dir(ours)
        assert not scanned.warnings, scanned.warnings
        assert [repo.nb_files for repo in scanned.repos] == [len(FILES)]
        # Nothing is fetched again into a cache that loradeck filled.
        snapshot_download("some-owner/some-name", cache_dir=ours)

        theirs_at = snapshot_download("some-owner/some-name", cache_dir=theirs)
        server.shutdown()
        offline = loradeck(program, theirs, HF_HUB_OFFLINE="1")
        assert offline.returncode == 0, offline.stderr
        assert Path(offline.stdout.strip()) == Path(theirs_at), (offline.stdout, theirs_at)
    print("the cache is shared both ways")


if __name__ == "__main__":
    main()
