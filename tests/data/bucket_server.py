"""A folder as a bucket on loopback: what GDAL asks for, no more."""

from collections.abc import Iterator
import contextlib
import http.server
import pathlib
import re
import threading

# GDAL's own switches: an endpoint without TLS, keys or virtual hosts.
ENVIRONMENT = {
  'AWS_S3_ENDPOINT': '127.0.0.1:{port}',
  'AWS_HTTPS': 'NO',
  'AWS_VIRTUAL_HOSTING': 'FALSE',
  'AWS_NO_SIGN_REQUEST': 'YES',
  'CPL_GS_ENDPOINT': 'http://127.0.0.1:{port}/',
  'GS_NO_SIGN_REQUEST': 'YES',
}


@contextlib.contextmanager
def serve(root: pathlib.Path) -> Iterator[tuple[dict[str, str], list[str]]]:
  """Serves `root/<bucket>/<key>`.

  Yields:
    The environment that leads GDAL here, and the keys asked for, in order.
  """
  asked: list[str] = []

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
      self.send()

    def do_GET(self):
      self.send()

    def send(self):
      asked.append(self.path)
      path = root / self.path.lstrip('/')
      if not path.is_file():
        self.send_error(404)
        return
      data = path.read_bytes()
      span = re.match(r'bytes=(\d+)-(\d+)', self.headers.get('Range', ''))
      start, end = 0, len(data)
      if span:
        start, end = int(span[1]), min(int(span[2]) + 1, len(data))
        self.send_response(206)
        self.send_header(
          'Content-Range', f'bytes {start}-{end - 1}/{len(data)}'
        )
      else:
        self.send_response(200)
      self.send_header('Content-Length', str(end - start))
      self.end_headers()
      if self.command == 'GET':
        self.wfile.write(data[start:end])

    def log_message(self, *args):
      pass

  with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port = server.server_address[1]
    yield {k: v.format(port=port) for k, v in ENVIRONMENT.items()}, asked
    server.shutdown()
