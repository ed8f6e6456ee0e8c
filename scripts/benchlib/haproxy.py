"""HAProxy."""

from pathlib import Path

from scripts.benchlib.peer import Certificate, Peer, Setup


class Haproxy(Peer):
    """Its log to a file is its standard output: one write a line."""

    name = program = "haproxy"
    settings = (
        "a master and one worker with one thread, `http-reuse always`, an access log that is written line by "
        "line; buffers of 64 KiB for bulk"
    )
    version_argv = ("haproxy", "-v")
    stdout = "access.log"
    log_format = (
        '{"timestamp":"%[date,utime(%Y-%m-%dT%H:%M:%S)].%ms","level":"info","message":"http_request","listener":"%f",'
        '"client":"%ci:%cp","method":"%HM","path":"%HP","protocol":"%HV","route":"%b","upstream":"%si:%sp",'
        '"status":%ST,"latency_ms":%Ta,"size_bytes":%B,"bytes_in":%U,"reason":"%ts"}'
    )

    def command(self, setup: Setup) -> list[str]:
        http = setup.http
        target = log = tls = ""
        if setup.mode == "https":
            both = "".join(Path(path).read_text() for path in Certificate.of(setup))
            tls = f"ssl crt {setup.write('both.pem', both)} ssl-min-ver TLSv1.2"
        if http and setup.access_log:
            target = "log stdout len 4096 format raw daemon info"
            log = "log global\nlog-format " + self.log_format.replace('"', r"\"")
        bulk = "tune.bufsize 65536" if setup.bulk else ""
        text = f"""
global\nnbthread 1\nmaxconn {setup.room}\nno strict-limits\n{bulk}\n{target}
defaults\nmode {"http" if http else "tcp"}\ntimeout connect 5s\ntimeout client 1h\ntimeout server 1h
frontend bench\nbind 127.0.0.1:{setup.listen} {tls}\n{"option forwardfor" if http else ""}\n{log}\ndefault_backend all
backend all\n{"http-reuse always" if http else ""}\nserver one 127.0.0.1:{setup.backend}
"""
        return ["haproxy", "-W", "-db", "-f", setup.write("haproxy.cfg", text)]
