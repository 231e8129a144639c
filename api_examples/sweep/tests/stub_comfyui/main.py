"""A host that computes nothing: ComfyUI's HTTP API around a queue, by the standard library.

A node Stub draws one colour. Its inputs: seconds (of work), fail, crash, refuse, forget. Every prompt that it has
worked on to the end is a line of the file that STUB_LOG names. STUB_SHOWS_NONSENSE names paths that it answers as no
ComfyUI does.
"""

import argparse
import json
import os
import signal
import struct
import threading
import time
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlparse

NONSENSE = os.environ.get("STUB_SHOWS_NONSENSE", "").split()


def png(red, green, blue, side=8):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + bytes((red, green, blue)) * side) * side
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


class Stub:
    """A queue, one prompt at a time, a history."""

    def __init__(self):
        self.queue, self.running, self.history = [], None, {}
        self.changed = threading.Condition()
        self.interrupted = threading.Event()
        threading.Thread(target=self.work, daemon=True).start()

    def work(self):
        while True:
            with self.changed:
                while not self.queue:
                    self.changed.wait()
                self.running = self.queue.pop(0)
                self.interrupted.clear()
            prompt_id, prompt = self.running
            began = time.time()
            inputs = {key: value for node in prompt.values() for key, value in node["inputs"].items()}
            kind, content = self.execute(inputs)
            messages = [
                ["execution_start", {"timestamp": 1000 * began}],
                [kind, {"timestamp": 1000 * time.time()} | content],
            ]
            good = kind == "execution_success"
            if good and "STUB_LOG" in os.environ:
                with open(os.environ["STUB_LOG"], "a") as log:
                    log.write(prompt_id + "\n")
            file = {"filename": f"{prompt_id}_{inputs.get('seed', 0)}.png", "subfolder": "", "type": "output"}
            outputs = (
                {"9": {"images": [file]}, "8": {"text": [f"brightness: {inputs.get('seed', 0) / 8}"]}} if good else {}
            )
            status = {"status_str": "success" if good else "error", "completed": good, "messages": messages}
            with self.changed:
                self.running = None
                if not inputs.get("forget"):
                    self.history[prompt_id] = {"prompt": prompt, "outputs": outputs, "status": status}

    def execute(self, inputs):
        if self.interrupted.wait(inputs.get("seconds", 0)):
            return "execution_interrupted", {}
        if inputs.get("crash"):
            os.kill(os.getpid(), signal.SIGKILL)
        if inputs.get("fail"):
            return "execution_error", {"node_id": "1", "exception_message": "this\njob always fails"}
        return "execution_success", {}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def answer(self, content, status=200):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):  # noqa: N802
        url, stub = urlparse(self.path), self.server.stub
        part = url.path.strip("/").split("/")
        if part[0] in NONSENSE:
            return self.answer(b"<html>hello</html>")
        if part[0] == "system_stats":
            return self.answer({"system": {"comfyui_version": "stub"}, "devices": []})
        if part[0] == "history":
            return self.answer({part[1]: stub.history[part[1]]} if part[1] in stub.history else {})
        if part[0] == "queue":
            with stub.changed:
                running = [[0, *stub.running]] if stub.running else []
                return self.answer({"queue_running": running, "queue_pending": [[0, *entry] for entry in stub.queue]})
        if part[0] == "view":
            seed = int(parse_qs(url.query)["filename"][0].rsplit("_", 1)[1].split(".")[0])
            return self.answer(png(seed * 29 % 256, seed * 17 % 256, 128))
        self.answer({}, 404)

    def do_POST(self):  # noqa: N802
        content = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
        stub, path = self.server.stub, self.path.strip("/")
        if path in NONSENSE:
            return self.answer(b"<html>hello</html>", 502)
        if path == "prompt":
            if any(node["inputs"].get("refuse") for node in content["prompt"].values()):
                fault = {"message": "Value not in list", "details": "refuse", "extra_info": {"input_name": "refuse"}}
                return self.answer({"error": {"message": "no"}, "node_errors": {"1": {"errors": [fault]}}}, 400)
            with stub.changed:
                stub.queue.append((content["prompt_id"], content["prompt"]))
                stub.changed.notify()
            return self.answer({"prompt_id": content["prompt_id"], "number": 1, "node_errors": {}})
        with stub.changed:
            for prompt_id in content.get("delete", []):
                stub.history.pop(prompt_id, None) if path == "history" else None
                stub.queue = [entry for entry in stub.queue if path != "queue" or entry[0] != prompt_id]
            if path == "interrupt" and stub.running and stub.running[0] == content.get("prompt_id"):
                stub.interrupted.set()
        self.answer(b"")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    given, _ = parser.parse_known_args()
    server = ThreadingHTTPServer(("127.0.0.1", given.port), Handler)
    server.daemon_threads, server.stub = True, Stub()
    print(server.server_port, flush=True)
    server.serve_forever()
