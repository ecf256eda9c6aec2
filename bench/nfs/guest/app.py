#!/usr/bin/env python3
"""app.py PORT LIST: an app that reads the files in LIST for its first request, and keeps them, as PHP's opcache does
where it checks no times. Answers with the number of bytes that it has read.
"""

import socket
import sys

port, names = int(sys.argv[1]), sys.argv[2]
with socket.create_server(("127.0.0.1", port)) as server:
    code: list[bytes] = []
    while True:
        connection, _ = server.accept()
        with connection:
            connection.recv(4096)
            if not code:
                for name in open(names):
                    with open(name.rstrip("\n"), "rb") as file:
                        code.append(file.read())
            body = f"{sum(map(len, code))}\n"
            try:
                connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode())
            except OSError:
                # Whoever asked did not wait.
                pass
