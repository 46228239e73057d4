"""Servers that receive alerts on this machine: a webhook, and a mail server."""

import json
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class _Hook(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.server.status == 200:
            self.server.received.append(json.loads(body))
        self.send_response(self.server.status)
        if 300 <= self.server.status < 400:
            self.send_header("location", "/login")
        if self.server.drips:
            self.flush_headers()
        while self.server.drips:  # a byte at a time, so that no operation of a socket is slow
            try:
                self.wfile.write(b"x")
            except OSError:
                break
            time.sleep(0.05)
        self.end_headers()

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        pass


class HookServer(ThreadingHTTPServer):
    """Keeps the bodies that it confirms; answers with ``status``, and never ends a reply while it ``drips``."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Hook)
        self.received, self.status, self.drips = [], 200, False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/alerts"

    @property
    def kinds(self) -> list[list[tuple[str, str]]]:
        """The kind and subject of the alerts of each message."""
        return [[(alert["kind"], alert["subject"]) for alert in body["alerts"]] for body in self.received]


class _Mail(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.reply("220 ready")
        recipients: list[str] = []
        while line := self.rfile.readline().decode().strip():
            verb = line.split(maxsplit=1)[0].upper()
            if verb == "DATA" and not self.server.refused:
                self.reply("354 send the message")
                self.server.received.append((recipients, self.read_message()))
                self.reply("250 accepted")
            elif verb == "RCPT":
                address = line.partition("<")[2].rstrip(">")
                refused = self.server.refused or address.startswith("gone@")
                recipients += [] if refused else [address]
                self.reply("550 no such mailbox" if refused else "250 fine")
            elif verb == "AUTH":
                self.server.logins.append(line)
                self.reply("235 welcome")
            else:
                self.reply("221 bye" if verb == "QUIT" else "250-here\r\n250 AUTH PLAIN" if verb == "EHLO" else "250 fine")

    def reply(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())

    def read_message(self) -> str:
        lines = iter(lambda: self.rfile.readline().decode().rstrip("\r\n"), ".")
        return "\n".join(lines)


class MailServer(socketserver.ThreadingTCPServer):
    """An SMTP server that keeps (recipients, message) pairs; refuses ``gone@…``, and every recipient when ``refused``."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Mail)
        self.received, self.logins, self.refused = [], [], False

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


@contextmanager
def serve(server: socketserver.BaseServer) -> Iterator[socketserver.BaseServer]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
