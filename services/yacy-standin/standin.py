"""A stand-in for YaCy: its documented endpoints, a file under DATA, a slow stop.

STANDIN_STOP_S     seconds it takes to stop on SIGTERM (default 0)
STANDIN_START_S    seconds before the port answers (default 0)
"""

import os
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlparse

DATA = "/opt/yacy_search_server/DATA"
INDEX = os.path.join(DATA, "INDEX", "standin.txt")
crawling = threading.Event()
lock = threading.Lock()


def append(line):
    """One line more in the index, on disk before it returns."""
    os.makedirs(os.path.dirname(INDEX), exist_ok=True)
    with lock, open(INDEX, "a", encoding="utf-8") as index:
        index.write(line + "\n")
        index.flush()
        os.fsync(index.fileno())


def lines():
    """What the index holds."""
    try:
        with open(INDEX, encoding="utf-8") as index:
            return index.read().splitlines()
    except FileNotFoundError:
        return []


class Handler(BaseHTTPRequestHandler):
    def answer(self, code, kind, text):
        body = text.encode()
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        url = urlparse(self.path)
        query = parse_qs(url.query)
        if url.path == "/Status.html":
            self.answer(200, "text/html", "<html><title>YaCy stand-in</title></html>")
        elif url.path == "/api/version.xml":
            self.answer(200, "text/xml", "<version><number>stand-in</number></version>")
        elif url.path == "/api/status_p.xml":
            state = "running" if crawling.is_set() else "paused"
            self.answer(200, "text/xml", "<status><ppm>0</ppm><load>0</load><indexsize><segment><urldbsize>"
                        f"{len(lines())}</urldbsize></segment></indexsize><localcrawlerqueue><size>0</size>"
                        f"<state>{state}</state></localcrawlerqueue></status>")
        elif url.path == "/Crawler_p.html":
            if "pause" in query:
                crawling.clear()
            if "continue" in query:
                crawling.set()
            if "crawlingURL" in query:
                append(query["crawlingURL"][0])
            self.answer(200, "text/html", "<html></html>")
        elif url.path == "/yacysearch.json":
            wanted = query.get("query", [""])[0]
            found = [line for line in lines() if wanted in line]
            items = ",".join('{"link":"%s"}' % line.replace('"', "") for line in found)
            self.answer(200, "application/json", '{"channels":[{"items":[' + items + "]}]}")
        else:
            self.answer(404, "text/plain", "unknown to the stand-in")

    def log_message(self, form, *args):
        print("standin:", form % args, flush=True)


def stop(_number, _frame):
    seconds = float(os.environ.get("STANDIN_STOP_S", "0"))
    print(f"standin: stopping, {seconds} s", flush=True)
    time.sleep(seconds)
    append("# stopped in order")
    print("standin: stopped", flush=True)
    os._exit(0)


signal.signal(signal.SIGTERM, stop)
time.sleep(float(os.environ.get("STANDIN_START_S", "0")))
append("# started")
print("standin: a stand-in for YaCy listens on 8090", flush=True)
server = ThreadingHTTPServer(("0.0.0.0", 8090), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
while True:
    signal.pause()
