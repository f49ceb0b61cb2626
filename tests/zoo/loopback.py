"""A loopback server that speaks the hub's file protocol."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Hub:
    """HEAD and GET /{owner}/{repo}/resolve/{revision}/{file} with the hub's headers."""

    COMMIT = "c0ffee" * 6 + "c0ff"

    def __init__(self):
        self.files: dict[tuple[str, str], bytes] = {}
        self.requests: list[str] = []
        self.cut = None  # send only so many bytes of a file
        self.status: dict[tuple[str, str], int] = {}  # answer this in place of a file
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format, *args):
                pass

            def refuse(self, code):
                self.send_response(404)
                self.send_header("X-Error-Code", code)
                if code == "EntryNotFound":  # of this revision: the client keeps that in its cache
                    self.send_header("X-Repo-Commit", hub.COMMIT)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def answer(self, body):
                if self.path.count("/") < 5:  # the client also asks for things that are no files
                    return self.refuse("EntryNotFound")
                hub.requests.append(f"{self.command} {self.path}")
                owner, repo, verb, revision, file = self.path.lstrip("/").split("/", 4)
                name = f"{owner}/{repo}"
                if code := hub.status.get((name, file)):
                    self.send_response(code)
                    self.send_header("Content-Length", "0")
                    return self.end_headers()
                if verb != "resolve" or name not in {key[0] for key in hub.files}:
                    return self.refuse("RepoNotFound")
                if revision not in ("main", "v1", hub.COMMIT):
                    return self.refuse("RevisionNotFound")
                if (name, file) not in hub.files:
                    return self.refuse("EntryNotFound")
                data = hub.files[name, file]
                etag = hashlib.sha256(data).hexdigest()
                self.send_response(200)
                self.send_header("X-Repo-Commit", hub.COMMIT)
                self.send_header("ETag", f'"{etag}"')
                self.send_header("X-Linked-Etag", f'"{etag}"')
                self.send_header("X-Linked-Size", str(len(data)))
                sent = data[: hub.cut] if body else data
                self.send_header("Content-Length", str(len(sent)))
                self.end_headers()
                if body:
                    self.wfile.write(sent)

            def do_HEAD(self):
                self.answer(body=False)

            def do_GET(self):
                self.answer(body=True)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
