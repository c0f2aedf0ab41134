"""Google Cloud Storage in the memory of a thread, as much of its JSON API as Orbax, tensorstore and gcsfs use.

With the preconditions and generations that tensorstore relies on, and one writer at a time.
"""

import base64
import itertools
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import google_crc32c


class Stored(NamedTuple):
    """An object of a bucket."""

    data: bytes
    generation: int


class Bucket:
    """Objects by name."""

    def __init__(self):
        self.lock = threading.Lock()
        self.objects: dict[str, Stored] = {}
        self.generations = itertools.count(1)
        self.uploads: dict[str, str] = {}  # name of each resumable one

    def put(self, name: str, data: bytes) -> Stored:
        self.objects[name] = Stored(data, next(self.generations))
        return self.objects[name]


def metadata(bucket: str, name: str, stored: Stored) -> dict[str, str]:
    crc = base64.b64encode(google_crc32c.value(stored.data).to_bytes(4, "big")).decode()
    times = {"timeCreated": "2026-01-01T00:00:00.000Z", "updated": "2026-01-01T00:00:00.000Z"}
    numbers = {"size": str(len(stored.data)), "generation": str(stored.generation), "metageneration": "1"}
    return {"kind": "storage#object", "bucket": bucket, "name": name, "crc32c": crc, **numbers, **times}


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    buckets: dict[str, Bucket] = {}

    def log_message(self, *_) -> None:
        pass

    def do_GET(self) -> None:
        self.route("GET")

    def do_POST(self) -> None:
        self.route("POST")

    def do_PUT(self) -> None:
        self.route("PUT")

    def do_DELETE(self) -> None:
        self.route("DELETE")

    def route(self, verb: str) -> None:
        url = urlsplit(self.path)
        query = {key: values[-1] for key, values in parse_qs(url.query).items()}
        body = self.body()
        if url.path.startswith("/batch/"):
            self.batch(body)
            return
        found = re.fullmatch(r"(?:/upload|/download)?/storage/v1/b/([^/]+)(?:/o(?:/(.*))?)?", url.path)
        bucket = self.buckets.get(unquote(found[1])) if found else None
        if bucket is None:
            self.answer(404, {"error": {"code": 404, "message": "no such bucket"}})
            return
        with bucket.lock:
            if "/o" not in url.path:
                self.answer(
                    200, {"kind": "storage#bucket", "name": found[1], "location": "US", "storageClass": "STANDARD"}
                )
            elif url.path.startswith("/upload/"):
                self.upload(verb, bucket, found[1], query, body)
            elif found[2] is None:
                self.listing(bucket, found[1], query)
            else:
                self.item(verb, bucket, found[1], found[2], query)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            data = b""
            while size := int(self.rfile.readline(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def item(self, verb: str, bucket: Bucket, bucket_name: str, path: str, query: dict[str, str]) -> None:
        name, *rest = re.split(r"/(?:rewriteTo/b/[^/]+|moveTo)/o/", path)
        name = unquote(name)
        stored = bucket.objects.get(name)
        if rest and stored:
            copy = bucket.put(unquote(rest[0]), stored.data)
            if "/moveTo/" in path:
                del bucket.objects[name]
                self.answer(200, metadata(bucket_name, unquote(rest[0]), copy))
            else:
                self.answer(200, {"done": True, "resource": metadata(bucket_name, unquote(rest[0]), copy)})
            return
        if stored is None and verb != "DELETE":
            self.answer(404, {"error": {"code": 404, "message": "no such object"}})
            return
        if (code := self.unmet(stored, query)) or stored is None:
            self.answer(code or 404, {"error": {"code": code or 404, "message": "precondition"}})
        elif verb == "DELETE":
            del bucket.objects[name]
            self.answer(204)
        elif query.get("alt") == "media":
            self.media(stored)
        else:
            self.answer(200, metadata(bucket_name, name, stored))

    @staticmethod
    def unmet(stored: Stored | None, query: dict[str, str]) -> int:
        generation = str(stored.generation if stored else 0)
        if query.get("ifGenerationMatch", generation) != generation:
            return 412
        return 304 if query.get("ifGenerationNotMatch") == generation else 0

    def media(self, stored: Stored) -> None:
        found = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range") or "")
        size = len(stored.data)
        headers = {"X-Goog-Generation": str(stored.generation), "X-Goog-Stored-Content-Length": str(size)}
        if not found:
            self.answer(200, stored.data, headers)
            return
        start = int(found[1]) if found[1] else max(size - int(found[2]), 0)
        end = min(int(found[2]) + 1, size) if found[1] and found[2] else size
        if start >= size:
            self.answer(416)
            return
        self.answer(206, stored.data[start:end], headers | {"Content-Range": f"bytes {start}-{end - 1}/{size}"})

    def upload(self, verb: str, bucket: Bucket, bucket_name: str, query: dict[str, str], body: bytes) -> None:
        name = query.get("name")
        kind = query.get("uploadType")
        if kind == "resumable" and "upload_id" not in query:
            number = str(len(bucket.uploads) + 1)
            bucket.uploads[number] = name or json.loads(body)["name"]
            location = f"http://{self.headers['Host']}/upload/storage/v1/b/{bucket_name}/o?uploadType=resumable&upload_id={number}"
            self.answer(200, {}, {"Location": location})
            return
        if kind == "resumable":
            name = bucket.uploads[query["upload_id"]]
        elif kind == "multipart":
            boundary = re.search(r'boundary="?([^";]+)', self.headers["Content-Type"])[1].encode()
            first, second = body.split(b"--" + boundary)[1:3]
            name = json.loads(re.split(rb"\r?\n\r?\n", first, maxsplit=1)[1])["name"]
            body = re.sub(rb"\r?\n\Z", b"", re.split(rb"\r?\n\r?\n", second, maxsplit=1)[1])
        if code := self.unmet(bucket.objects.get(name), query):
            self.answer(code, {"error": {"code": code, "message": "precondition"}})
            return
        self.answer(200, metadata(bucket_name, name, bucket.put(name, body)))

    def listing(self, bucket: Bucket, bucket_name: str, query: dict[str, str]) -> None:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        items, prefixes = [], set()
        for name in sorted(bucket.objects):
            if not name.startswith(prefix) or name < query.get("startOffset", ""):
                continue
            if "endOffset" in query and name >= query["endOffset"]:
                continue
            head, found, _ = name[len(prefix) :].partition(delimiter) if delimiter else (name, "", "")
            if found:
                prefixes.add(prefix + head + delimiter)
            else:
                items.append(metadata(bucket_name, name, bucket.objects[name]))
        self.answer(200, {"kind": "storage#objects", "items": items, "prefixes": sorted(prefixes)})

    def batch(self, body: bytes) -> None:
        parts = []
        for number, (bucket_name, name) in enumerate(re.findall(rb"DELETE /storage/v1/b/([^/]+)/o/([^ ?]+)", body)):
            bucket = self.buckets[unquote(bucket_name.decode())]
            with bucket.lock:
                gone = bucket.objects.pop(unquote(name.decode()), None)
            status = "204 No Content" if gone else "404 Not Found"
            head = f"--==b==\r\nContent-Type: application/http\r\nContent-ID: <response-{number + 1}>\r\n\r\n"
            parts.append(f"{head}HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n\r\n")
        self.answer(200, ("".join(parts) + "--==b==--").encode(), {"Content-Type": "multipart/mixed; boundary===b=="})

    def answer(self, code: int, content: dict | bytes = b"", headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        known = {"Content-Type": "application/json" if isinstance(content, dict) else "application/octet-stream"}
        for key, value in (known | (headers or {})).items():
            self.send_header(key, value)
        if code not in (204, 304):
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if code not in (204, 304):
            self.wfile.write(data)


def serve(port: int = 0, *names: str) -> ThreadingHTTPServer:
    """A server of the buckets `names`, on its own thread."""
    for name in names:
        Handler.buckets[name] = Bucket()
    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


if __name__ == "__main__":
    import sys

    serve(int(sys.argv[1]), "bucket")
    threading.Event().wait()
