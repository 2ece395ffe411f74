"""Bytes that begin like images, and ways to send them."""

import httpx

GIF = b"GIF89a" + bytes(range(64))
JPEG = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00" + bytes(range(64))
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(64))
WEBP = b"RIFF\x40\x00\x00\x00WEBPVP8 " + bytes(range(64))
IMAGES = {"image/gif": GIF, "image/jpeg": JPEG, "image/png": PNG, "image/webp": WEBP}
HTML = b"<!DOCTYPE html><script>alert(document.domain)</script>"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(document.domain)"/>'
MAX_PICTURE = 256 << 10


def put_picture(
    client: httpx.Client, user: int, content: bytes = PNG, type_: str | None = None, **headers: str
) -> httpx.Response:
    headers |= {"content-type": type_} if type_ is not None else {}
    return client.put(f"/users/{user}/picture", content=content, headers=headers)


def attach(
    client: httpx.Client, post: int, content: bytes = b"notes", **headers: str | bytes
) -> httpx.Response:
    """Headers with `_` for `-`."""
    named = [(name.replace("_", "-"), value) for name, value in headers.items()]
    encoded = [(n, v.encode() if isinstance(v, str) else v) for n, v in named]
    return client.post(f"/posts/{post}/attachments", content=content, headers=encoded)
