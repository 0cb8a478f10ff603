"""A small web application with logins, on wsgiref: `webapp.py PORT NAME`.

Sessions live in this process's memory alone, so a request that reaches another process has lost
its session. wsgiref answers in HTTP/1.0 and knows bodies with a Content-Length only. Pages:

| page | does |
|---|---|
| `POST /login` | form `user`: begins a session, redirects to `/me` |
| `GET /me` | says who is logged in, 403 for nobody |
| `POST /basket` | form `item`, redirects to `/basket` |
| `GET /basket` | the items, one a line |
| `POST /logout` | ends the session and its cookie |
| `POST /upload` | multipart form: name, size and SHA-256 of each part as JSON |
| `PUT /late` | waits for `/go` before it reads the body; size and SHA-256 as JSON |
| `GET /stream` | one line, then waits for `/go`, then another line |
"""

from __future__ import annotations

import email
import email.policy
import hashlib
import json
import secrets
import socket
import sys
import threading
from http.cookies import SimpleCookie
from socketserver import ThreadingMixIn
from urllib.parse import parse_qs
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

WAIT = 60  # seconds

name = ""
sessions: dict[str, dict] = {}
go = threading.Event()


def application(environ, start_response):
    method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
    page = PAGES.get((method, path))
    if page is None:
        return answer(start_response, "404 Not Found", b"no such page\n")
    return page(environ, start_response)


def answer(start_response, status, body, *headers):
    length = ("Content-Length", str(len(body)))
    kind = ("Content-Type", "text/plain; charset=utf-8")
    start_response(status, [("X-Backend", name), kind, length, *headers])
    return [body]


def see_other(start_response, place, *headers):
    return answer(start_response, "303 See Other", b"", ("Location", place), *headers)


def body_of(environ):
    return environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))


def form(environ):
    return {key: values[0] for key, values in parse_qs(body_of(environ).decode()).items()}


def session_of(environ):
    cookies = SimpleCookie(environ.get("HTTP_COOKIE", ""))
    return sessions.get(cookies["SID"].value) if "SID" in cookies else None


def login(environ, start_response):
    sid = secrets.token_hex(16)
    sessions[sid] = {"user": form(environ)["user"], "basket": []}
    return see_other(start_response, "/me", ("Set-Cookie", f"SID={sid}; Path=/; HttpOnly"))


def logout(environ, start_response):
    return see_other(start_response, "/me", ("Set-Cookie", "SID=; Path=/; Max-Age=0"))


def for_session(page):
    def checked(environ, start_response):
        session = session_of(environ)
        if session is None:
            return answer(start_response, "403 Forbidden", b"please log in\n")
        return page(session, environ, start_response)

    return checked


def me(session, environ, start_response):
    return answer(start_response, "200 OK", session["user"].encode())


def basket(session, environ, start_response):
    return answer(start_response, "200 OK", "\n".join(session["basket"]).encode())


def into_basket(session, environ, start_response):
    session["basket"].append(form(environ)["item"])
    return see_other(start_response, "/basket")


def upload(environ, start_response):
    head = f"Content-Type: {environ['CONTENT_TYPE']}\r\n\r\n".encode()
    message = email.message_from_bytes(head + body_of(environ), policy=email.policy.HTTP)
    parts = {}
    for part in message.iter_parts():
        data = part.get_payload(decode=True)
        key = part.get_param("name", header="content-disposition")
        parts[key] = [part.get_filename(), len(data), hashlib.sha256(data).hexdigest()]
    return answer(start_response, "200 OK", json.dumps(parts).encode())


def late(environ, start_response):
    go.wait(WAIT)
    go.clear()
    left = int(environ["CONTENT_LENGTH"])
    size, digest = 0, hashlib.sha256()
    while part := environ["wsgi.input"].read(min(left - size, 1 << 20)):
        digest.update(part)
        size += len(part)
    return answer(start_response, "200 OK", json.dumps([size, digest.hexdigest()]).encode())


def stream(environ, start_response):
    start_response("200 OK", [("X-Backend", name), ("Content-Type", "text/plain")])
    yield b"first\n"
    go.wait(WAIT)
    go.clear()
    yield b"second\n"


def set_go(environ, start_response):
    go.set()
    return answer(start_response, "200 OK", b"gone\n")


PAGES = {
    ("POST", "/login"): login,
    ("POST", "/logout"): logout,
    ("GET", "/me"): for_session(me),
    ("GET", "/basket"): for_session(basket),
    ("POST", "/basket"): for_session(into_basket),
    ("POST", "/upload"): upload,
    ("PUT", "/late"): late,
    ("GET", "/stream"): stream,
    ("POST", "/go"): set_go,
}


class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 128

    def server_bind(self):
        # The base class asks for the machine's name, which may take seconds.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = self.server_address
        self.setup_environ()


class Quiet(WSGIRequestHandler):
    def log_message(self, *args):
        pass


def main():
    global name
    port, name = int(sys.argv[1]), sys.argv[2]
    with make_server("127.0.0.1", port, application, Server, Quiet) as server:
        print("ready", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
