"""A web application that tells what reached it: sizes, hashes, how it was framed, on how many connections."""

import hashlib
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

go = threading.Event()


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    connections = 0

    def process_request(self, request, address):
        self.connections += 1
        super().process_request(request, address)


class App(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def chunk(self, data):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def body(self):
        """Yields the body, however it is framed."""
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            while size := int(self.rfile.readline().split(b";")[0], 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return
        left = int(self.headers.get("Content-Length", 0))
        while left:
            part = self.rfile.read(min(left, 65536))
            if not part:
                return
            left -= len(part)
            yield part

    def digest(self):
        digest, size = hashlib.sha256(), 0
        for part in self.body():
            digest.update(part)
            size += len(part)
        headers = {name.lower(): value for name, value in self.headers.items()}
        return {
            "method": self.command,
            "path": self.path,
            "size": size,
            "sha256": digest.hexdigest(),
            "headers": headers,
            "connections": self.server.connections,
        }

    def answer(self):
        if self.path == "/stream":
            return self.stream()
        if self.path == "/go":
            go.set()
        text = json.dumps(self.digest()).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def stream(self):
        """Says one thing, then nothing more until somebody asks for /go."""
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.chunk(b"first\n")
        go.wait(30)
        self.chunk(b"last\n")
        self.chunk(b"")

    def log_message(self, *_):
        pass

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = answer


Server(("127.0.0.1", int(sys.argv[1])), App).serve_forever()
