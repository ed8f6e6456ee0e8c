"""nginx as a peer, and as the backend of all peers."""

from pathlib import Path

from scripts.benchlib.peer import Certificate, Peer, Setup

_NGINX = """daemon off; worker_processes WORKERS; pid FOLDER/pid; error_log stderr error;
events { worker_connections ROOM; }
"""
_NGINX_HTTP = """http {
  client_body_temp_path FOLDER/1; proxy_temp_path FOLDER/2; fastcgi_temp_path FOLDER/3; uwsgi_temp_path FOLDER/4;
  scgi_temp_path FOLDER/5; keepalive_timeout 1h; keepalive_requests 1000000000; default_type text/plain;
"""
_NGINX_PROXY = """
  log_format json escape=json '{"timestamp":"$time_iso8601","level":"info","message":"http_request",'
    '"listener":"bench","client":"$remote_addr:$remote_port","method":"$request_method","path":"$uri",'
    '"protocol":"$server_protocol","route":"all","upstream":"$upstream_addr","status":$status,'
    '"latency_ms":$request_time,"size_bytes":$body_bytes_sent,"bytes_in":$request_length,"reason":"-"}';
  access_log LOG;
  upstream backend { server 127.0.0.1:BACKEND; keepalive 64; keepalive_requests 1000000000; keepalive_timeout 1h; }
  server {
    listen 127.0.0.1:LISTEN TLS; server_name bench.test;
    location / {
      proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_set_header Host $host; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      client_max_body_size 0; client_body_buffer_size 256k; proxy_request_buffering off;
      proxy_buffers 16 64k; proxy_busy_buffers_size 128k; proxy_max_temp_file_size 0;
    }
  }
}"""
_NGINX_STREAM = "stream { server { listen 127.0.0.1:LISTEN; proxy_pass 127.0.0.1:BACKEND; BUFFER } }"
_NGINX_ANSWER = 'access_log off; server { listen 127.0.0.1:LISTEN; return 200 "BODY"; } }'
_NGINX_FILES = "access_log off; sendfile on; server { listen 127.0.0.1:LISTEN; root FOLDER; } }"


def _nginx(folder: Path, text: str, **values: object) -> list[str]:
    for name, value in {"WORKERS": 1, "FOLDER": folder, **values}.items():
        text = text.replace(name, str(value))
    (folder / "nginx.conf").write_text(text)
    return ["nginx", "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf")]


def answering(folder: Path, port: int, body: str, room: int) -> list[str]:
    """The command of a backend: one nginx worker that answers every request with ``body`` and logs nothing."""
    return _nginx(folder, _NGINX + _NGINX_HTTP + _NGINX_ANSWER, LISTEN=port, BODY=body, ROOM=room)


def serving(folder: Path, port: int, room: int) -> list[str]:
    """The command of a backend: one nginx worker that sends the files of ``folder`` by sendfile and logs nothing."""
    return _nginx(folder, _NGINX + _NGINX_HTTP + _NGINX_FILES, LISTEN=port, ROOM=room)


class Nginx(Peer):
    """A buffered log, as Envoy and Charon have; TCP by the stream module."""

    name = program = "nginx"
    settings = (
        "one worker, upstream keep-alive, buffered access log; bodies stream both ways (`proxy_request_buffering off`, "
        "256 KiB of the request and 16 times 64 KiB of the answer in memory); TCP by the stream module, with "
        "buffers of 256 KiB for bulk"
    )
    version_argv = ("nginx", "-v")

    def command(self, setup: Setup) -> list[str]:
        tls = ""
        if setup.mode == "https":
            tls = "ssl; ssl_certificate {}; ssl_certificate_key {}; ssl_protocols TLSv1.2 TLSv1.3".format(
                *Certificate.of(setup)
            )
        text = _NGINX + _NGINX_HTTP + _NGINX_PROXY.replace("TLS", tls)
        if setup.mode == "tcp":
            stream = _NGINX_STREAM.replace("BUFFER", "proxy_buffer_size 256k;" if setup.bulk else "")
            text = f"load_module /usr/lib/nginx/modules/ngx_stream_module.so; {_NGINX} {stream}"
        log = f"{setup.log} json buffer=64k flush=1s" if setup.access_log else "off"
        ports = {"LISTEN": setup.listen, "BACKEND": setup.backend}
        return _nginx(setup.folder, text, WORKERS=self.workers, LOG=log, ROOM=setup.room, **ports)


class NginxTwo(Nginx):
    """With two workers on two cores."""

    name = "nginx-2"
    base = "nginx"
    settings = "as nginx, with two workers"
    workers = 2
